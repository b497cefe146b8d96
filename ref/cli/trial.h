/**
 * @file trial.h
 * @brief Kernels on the CPU engine, one after the other on the same inputs, for what the engine counts and
 *        records on the way.
 */
#ifndef MSA_TRIAL_H
#define MSA_TRIAL_H

#include "../../cuda/host/msa_cuda.h"
#include "../../cuda/simt/counts.h"
#include "cli.h"
#include "../judge/selections.h"

/** What the user says of the inputs: targets of options; texts may be NULL. */
typedef struct trial_options {
    const char *shape, *distribution, *output;
    int64_t seed;
} trial_options;

/* clang-format off */
#define TRIAL_DEFAULTS {NULL, "random", "bf16", 1}
#define TRIAL_OPTIONS(o) \
    {"--shape", CLI_TEXT, &(o).shape, 0, 0, "WORDS of 'T=16 S=1024 heads=16:1 width=128:128 block=128 topk=4' to change"}, \
    CLI_OPT_SEED((o).seed), \
    {"--distribution", CLI_TEXT, &(o).distribution, 0, 0, "NAME of the selection: random, hot, local or structured"}, \
    {"--output", CLI_TEXT, &(o).output, 0, 0, "TYPE of O: bf16 or f32"}
/* clang-format on */

/** A shape, and the inputs of every stage. */
typedef struct trial {
    msa_shape shape;
    selection_kind kind;
    int64_t seed;
    msa_dtype out;
    const msa_device *engine;
    msa_arrays in, outputs; /**< where they lie on the engine */
    float *by_block;     /**< in.scores as msa_takes_scores_by_block() has them */
} trial;

/** Reads the options over the default shape and makes the inputs. */
int trial_begin(const char *command, const trial_options *options, const msa_shape *standard, trial *t);
void trial_end(trial *t);

/** The kernels of the engine that the words name, STAGE/NAME or STAGE, a stage's from naive to best. Refuses
 * in builds without the engine. */
int trial_find(const char *command, const cli_list *names, const msa_kernel **found, int most, int *n);

/** Runs a kernel of the engine; simt_counts() and simt_events() then tell of it. An index kernel that cannot
 * choose writes its scores. @param ran the arrays that it read and wrote. ::MSA_ERR_UNSUPPORTED where it does
 * not take the shape. */
msa_status trial_run(const trial *t, const msa_kernel *kernel, msa_arrays *ran);
/** The exit status and message for a run that failed. */
int trial_failed(const char *command, const msa_kernel *kernel, msa_status status);

#endif
