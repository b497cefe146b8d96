/**
 * @file cli.h
 * @brief What the subcommands of `msa` share: options, errors, tensors from files, kernels, progress.
 *
 * A subcommand is `int cmd_NAME(int argc, char **argv)` in a file of its own, argv[0] being its name;
 * it returns the exit status: 0 success, 1 a failed verdict, 2 bad input (one line on stderr, nothing
 * written). A function below that returns int gives 0 to go on; anything else is for the subcommand to
 * return.
 */
#ifndef MSA_CLI_H
#define MSA_CLI_H

#include <stdbool.h>
#include <stdint.h>

#include "../io/io.h"
#include "../msa_index8.h"

/* ---- Subcommands (commands.def lists them) ------------------------------------------------------ */

typedef int cli_command(int argc, char **argv);
#define COMMAND(name, summary) cli_command cmd_##name;
#include "commands.def"

/* ---- Options (options.c) ------------------------------------------------------------------------ */

typedef enum cli_kind {
    CLI_FLAG,
    CLI_INT,
    CLI_REAL,
    CLI_TEXT,
    CLI_NEEDED, /**< a text that must be given */
    CLI_LIST    /**< a text that may be given again and again */
} cli_kind;

#define CLI_MAX_LIST 1024
typedef struct cli_list {
    int n;
    const char *item[CLI_MAX_LIST];
} cli_list;

/** One option of a subcommand; a table of at most 64 ends with a NULL name. */
typedef struct cli_option {
    const char *name; /**< "--topk" */
    cli_kind kind;
    void *target;     /**< bool, int64_t, double, const char * or cli_list, holding the default */
    double min, max;  /**< range of CLI_INT and CLI_REAL; a default outside is not shown in the help */
    const char *help; /**< one line; starts with the metavariable if the option takes a value */
} cli_option;

/** Parses argv[1..]; words that are no option go to `words` (NULL: they are refused).
 *  Returns 0 to go on, 2 after an error line, and -1 after --help has printed the table, below the
 *  summary that commands.def has (main exits with 0). */
int cli_parse(int argc, char **argv, const cli_option *options, cli_list *words);

/** For a flag with which all other options but `also` (NULL: no exception) would do nothing: refuses the first of
 *  them that argv, which cli_parse() has taken, holds. */
int cli_check_alone(int argc, char **argv, const cli_option *options, const char *flag, const char *also);

/** Prints "msa COMMAND: message" (NULL: "msa: message") as one line on stderr and returns 2. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int cli_fail(const char *command, const char *format, ...);

/** Appends to a text of `size` bytes as far as there is room. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void cli_append(char *to, size_t size, const char *format, ...);

#define CLI_STDOUT_LOST "standard output: expected to write there, found it closed or full"

/* ---- Tensors from and to files (tensors.c, outputs.c) ------------------------------------------- */

/** The tensors of one attention call that a subcommand may read. */
typedef enum cli_tensor {
    CLI_Q,
    CLI_K,
    CLI_V,
    CLI_QI,
    CLI_KI,
    CLI_IDS,
    CLI_O,
    CLI_DOUT,
    CLI_CU_Q, /**< of a packed call, and so are the next three */
    CLI_CU_KV,
    CLI_LEN_Q,
    CLI_LEN_KV,
    CLI_STEP_Q, /**< of a step of generation over pages, and so are the rest */
    CLI_STEP_QI,
    CLI_K_PAGES,
    CLI_V_PAGES,
    CLI_KI_PAGES,
    CLI_TABLE,
    CLI_LENS,
    CLI_N_TENSORS
} cli_tensor;

#define CLI_MAX_BLOCK (1 << 30)
#define CLI_MAX_TOPK (1 << 20)

typedef struct cli_tensors {
    const char *path[CLI_N_TENSORS]; /**< targets of options; NULL where not given */
    int64_t block, topk;             /**< likewise; topk 0: the width of --ids, or 16 */
    npy_array array[CLI_N_TENSORS];
    bool dealt; /**< floats stay in their files, of which ranks read parts: */
    io_source source[CLI_N_TENSORS];
    io_error note[CLI_N_TENSORS]; /**< what was converted to read it; empty: nothing */
    msa_shape shape;              /**< what the files say; other sizes are 1, Hq without --q is Hkv */
} cli_tensors;

/* The rows of an option table that name them, and options that mean the same everywhere. */
/* clang-format off */
#define CLI_OPT_Q(t, kind)  {"--q", kind, &(t).path[CLI_Q], 0, 0, "F queries [T,Hq,dh]"}
#define CLI_OPT_K(t, kind)  {"--k", kind, &(t).path[CLI_K], 0, 0, "F keys [S,Hkv,dh]"}
#define CLI_OPT_V(t, kind)  {"--v", kind, &(t).path[CLI_V], 0, 0, "F values [S,Hkv,dh]"}
#define CLI_OPT_QI(t, kind) {"--qi", kind, &(t).path[CLI_QI], 0, 0, "F index queries [T,Hkv,di]"}
#define CLI_OPT_KI(t, kind) {"--ki", kind, &(t).path[CLI_KI], 0, 0, "F index keys [S,di]"}
#define CLI_OPT_IDS(t) \
    {"--ids", CLI_TEXT, &(t).path[CLI_IDS], 0, 0, "F these blocks [Hkv,T,k], in any order, instead of choosing"}
#define CLI_OPT_BLOCK(t) {"--block", CLI_INT, &(t).block, 1, CLI_MAX_BLOCK, "N tokens in a key block"}
#define CLI_OPT_TOPK(t) \
    {"--topk", CLI_INT, &(t).topk, 1, CLI_MAX_TOPK, "N blocks kept (default: width of the ids, or 16)"}
#define CLI_OPT_PACKED(t) \
    {"--cu-q", CLI_TEXT, &(t).path[CLI_CU_Q], 0, 0, "F [R+1]: R packed sequences; where the queries of each begin, then T"}, \
    {"--cu-kv", CLI_TEXT, &(t).path[CLI_CU_KV], 0, 0, "F [R+1]: where its keys begin, then S"}
#define CLI_OPT_SEQUENCES(t) \
    CLI_OPT_PACKED(t), \
    {"--len-q", CLI_TEXT, &(t).path[CLI_LEN_Q], 0, 0, "F [R]: how many queries it has there, padding behind them (default: no padding)"}, \
    {"--len-kv", CLI_TEXT, &(t).path[CLI_LEN_KV], 0, 0, "F [R]: how many keys"}
#define CLI_OPT_SEED(seed) {"--seed", CLI_INT, &(seed), 0, 0x1p53, "N of the random numbers"}
#define CLI_OPT_KERNEL(k) \
    {"--kernel", CLI_LIST, &(k), 0, 0, "STAGE/NAME runs that stage; 'msa kernels' lists them"}
#define CLI_OPT_BACKEND(b) \
    {"--backend", CLI_TEXT, &(b), 0, 0, "NAME runs the stages that --kernel does not: ref, fast, simt or cuda"}
#define CLI_OPT_PRECISION(p) \
    {"--precision", CLI_TEXT, &(p), 0, 0, "TYPE that attention multiplies: float32 (default of ref and fast) or bf16"}
/* clang-format on */

/** Reads every file that has a path, and builds the shape from those that agree with each other, sequences included.
 *  Rows of ids may stand in any order and are sorted. What was converted is said on stderr, one line a file. */
int cli_read_tensors(const char *command, cli_tensors *t);
/** The same for a command that has more to check: it calls cli_say_notes() once nothing is wrong, since a
 *  refusal is to be one line. */
int cli_read_quietly(const char *command, cli_tensors *t);
void cli_say_notes(const char *command, const cli_tensors *t);

/** What a letter of a tensor's sizes stands for, and which tensor said so first (-1: none). */
#define CLI_N_SIZES 13
typedef struct cli_size_table {
    int64_t value[CLI_N_SIZES];
    int from[CLI_N_SIZES];
} cli_size_table;
/** The first half of the above, for a command with a shape of its own: R requests of t queries each, P pages
 *  of b tokens, M of them at most for a request, C = R+1 places; the other letters as in cli_output. */
int cli_read_files(const char *command, cli_tensors *t, cli_size_table *table);
int64_t cli_size_or(const cli_size_table *table, char letter, int64_t otherwise);
void cli_free_tensors(cli_tensors *t);
/** Sorts the ids of t, which fit its shape, and refuses by its row what is no selection. */
int cli_check_ids(const char *command, cli_tensors *t);
/** Brings a row of k ids into our convention, ascending and then -1; returns whether it was not in it. An id
 *  behind a -1 stays there, which no check of a row accepts. */
bool cli_sort_ids(int32_t *row, int k);
/** The floats of a tensor, NULL where it was not given, or stays in its file. */
const float *cli_floats(const cli_tensors *t, cli_tensor which);

/** One file that a subcommand writes. Sizes are one letter each: T queries, S keys, H query heads,
 *  G groups, d head width, i index width, k ids a row, B blocks, R sequences, t queries of the first one. */
typedef struct cli_output {
    const char *name; /**< "o.npy"; NULL: memory that no file receives */
    npy_type type;
    const char *sizes; /**< "THd" */
    void *data;        /**< owned */
    int64_t last;      /**< a size behind those, which no letter stands for; 0: none */
} cli_output;

/** The sizes of a word of stages.def's letters. Returns the number of elements. */
int64_t cli_sizes(const msa_shape *s, const char *letters, int64_t *dim);

/** Takes memory, or says on stderr that this machine does not have that much. */
void *cli_alloc(const char *command, size_t bytes);
/** Makes sure that `dir` could receive every output and takes memory for them, on the first rank; creates nothing. */
int cli_open_outputs(const char *command, const char *dir, const msa_shape *s, cli_output *out, int n);
/** Writes them all; what the command prints comes next, and then cli_commit_outputs() puts the files in place. */
int cli_write_outputs(const char *command, const char *dir, const msa_shape *s, const cli_output *out, int n);
/** The same for one file: begins it, whose writer comes next. */
int cli_begin_output(const char *command, const char *option, const char *path);
/** Sends off what was printed. Fails where that is lost: what comes next would be, too. */
int cli_flush(const char *command);
/** The same, and leaves the old files where it fails. */
int cli_commit_outputs(const char *command);
void cli_free_outputs(cli_output *out, int n);
/** Makes sure that a file could be written there, before the work whose result it is to hold. */
int cli_check_writable(const char *command, const char *option, const char *path);

/* ---- Kernels and the stages that subcommands share (choose.c) ----------------------------------- */

/** Which implementation runs each stage. */
typedef struct cli_plan {
    msa_ops ops;
    bool named[MSA_N_STAGES]; /**< asked for with --kernel */
    bool ran[MSA_N_STAGES];
    const char *ids_from;    /**< the file of --ids, or NULL */
    msa_screening screening; /**< by the index that ran; no rows: it did not screen, or they had no choice */
} cli_plan;

/** Fills the plan from --backend and --kernel; `stages` is the set (1 << stage) that the subcommand can
 *  run. */
int cli_choose_kernels(const char *command, const char *backend, const cli_list *kernels, unsigned stages,
                       cli_plan *plan);
/** The same for a command of one stage, whose name may be left out of `kernel` (NULL: the back end's). */
int cli_choose_kernel(const char *command, const char *backend, const char *kernel, msa_stage stage,
                      cli_plan *plan);
/** Makes a back end's table one of --precision; NULL: it was not given, and the table stays. */
int cli_choose_precision(const char *command, const char *backend, const char *precision, msa_ops *ops);
/** The set of stages that choosing blocks can run: none of them where --ids tells. */
unsigned cli_selection_stages(const cli_tensors *t, bool scores);
/** Those sizes of a shape that the constraints of a kernel name, as they name them: "di 8, block 16". */
#define CLI_SIZES 128
char *cli_found_sizes(const msa_kernel *kernel, const msa_shape *s, char text[CLI_SIZES]);
/** Notes that a stage ran with this status on that shape; reports a failure by the kernel's name. */
int cli_ran(const char *command, cli_plan *plan, const msa_shape *s, msa_stage stage, msa_status status);
/** The selection: copied from --ids where that was given, else by the Index Branch; and its index LSE.
 *  `scores` may be NULL. */
int cli_selection(const char *command, cli_plan *plan, const cli_tensors *t, float *scores, int32_t *ids,
                  float *index_lse, void *work);
/** What sparse attention leaves; `scores` may be NULL. */
typedef struct cli_attended {
    int32_t *ids;
    float *scores, *index_lse, *o, *lse;
} cli_attended;
/** The sparse attention of t's tensors: cli_selection(), and the stage that attends. */
int cli_attend(const char *command, cli_plan *plan, const cli_tensors *t, const cli_attended *out,
               void *work);
/** Prints a line for each stage that ran, `ran STAGE/NAME (back end)`, what an index screened, and where given ids came
 *  from. */
void cli_print_plan(const cli_plan *plan);
/** A line: how many blocks and rows 8-bit keys left to be scored in full. */
void cli_print_screening(const msa_screening *done);

/* ---- Threads (threads.c) ------------------------------------------------------------------------ */

/** Starts those of OpenMP, or as many of them as this machine has room for. */
void cli_start_threads(void);
/** How many there are; and how many there are to be for the calling thread, where several have some each. */
int cli_threads(void);
void cli_set_threads(int n);

/* ---- Progress (progress.c) ---------------------------------------------------------------------- */

/** Redraws a one-line bar on stderr if that is a terminal: done of total, elapsed and remaining time, and
 *  a note. Call cli_progress_end once to clear it. */
void cli_progress(const char *what, int64_t done, int64_t total, const char *note);
void cli_progress_end(void);

#endif
