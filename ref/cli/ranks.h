/**
 * @file ranks.h
 * @brief Commands whose keys are dealt to ranks: threads of this process, by --ranks, or in build/msa-mpi the processes
 *        that mpirun started.
 */
#ifndef MSA_RANKS_H
#define MSA_RANKS_H

#include "../parallel/parallel.h"
#include "cli.h"

typedef struct cli_ranks {
    int64_t n;        /**< --ranks; 0: not given */
    const char *move; /**< --move; NULL: what the model says is cheaper */
} cli_ranks;

#define CLI_MOST_RANKS 256
/* clang-format off */
#define CLI_OPT_ONLY_RANKS(r) \
    {"--ranks", CLI_INT, &(r).n, 1, CLI_MOST_RANKS, "N ranks, threads that share the work as machines would (not under mpirun, whose processes are the ranks)"}
#define CLI_OPT_RANKS(r) \
    CLI_OPT_ONLY_RANKS(r), \
    {"--move", CLI_TEXT, &(r).move, 0, 0, "WHAT goes to other ranks, queries or keys (default: the cheaper, by the model)"}
/* clang-format on */

/** Joins those that mpirun has started; of all but the first nothing more is seen until all agree. */
void cli_start_ranks(void);
/** What is said if this rank dies, by another on its machine: that it has, and `rest`. */
void cli_keep_will(const char *command, const char *rest);
/** In a handler of SIGTERM, by which mpirun ends the others: whether a rank has died, which then has been said. */
bool cli_says_who_died(void);
/** A handler that ends this process: with such a line, or as the signal does. */
void cli_end_by(int number);
/** Whether all ranks have been given one command: else they would wait for each other in different places. The first rank says
 *  so. */
bool cli_same_command(const char *name);
/** Whether the command can be several processes; the others would write the same files. */
bool cli_takes_ranks(const char *name);
/** Whether this is the rank that writes and prints. */
bool cli_is_first(void);
/** Every rank comes here once, with its status, before ranks work together or after a command that does not: 0 where all
 *  have 0. Else the first that failed has said why. */
int cli_agree(int status);

/** Whether the command is to run on ranks. */
bool cli_wants_ranks(const cli_ranks *r);
/** Checks the options, together with the back end: ranks that are threads take turns on the engine, and cannot on a GPU. */
int cli_check_ranks(const char *command, const cli_ranks *r, const char *backend);

/** What a backward pass adds to a call. */
typedef struct cli_dealt_gradients {
    double weight; /**< of the KL loss */
    bool full;     /**< full support; the forward pass is then dense */
    float *dq, *dk, *dv, *dqi, *dki;
    double *loss;
} cli_dealt_gradients;

/** The whole call, as one process has it. Outputs are those of the first rank. */
typedef struct cli_dealt {
    const cli_tensors *t;   /**< with `dealt`: each rank reads its own rows */
    const msa_shape *s;     /**< with lengths */
    const msa_pages *pages; /**< NULL: keys are contiguous */
    bool dense;
    bool screens; /**< owners screen by 8-bit index keys; the ids are the same */
    int32_t *ids; /**< [Hkv,T,k] */
    float *o, *lse;
    const cli_dealt_gradients *gradients; /**< NULL: none are wanted */
} cli_dealt;

/** Runs it, with all outputs on the first rank. */
int cli_run_ranks(const char *command, cli_plan *plan, const cli_ranks *r, const cli_dealt *call);
/** What the ranks did, if they did: as the lines of cli_print_plan(), once the output is written. */
void cli_print_ranks(void);

#endif
