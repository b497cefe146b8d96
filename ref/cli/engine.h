/**
 * @file cli/engine.h
 * @brief What `msa count` and `msa timeline` share: options for a trial on the CPU engine, and its kernels.
 */
#ifndef MSA_CLI_ENGINE_H
#define MSA_CLI_ENGINE_H

#include "../bench/trial.h"
#include "cli.h"

/** What the user says of the inputs: targets of options; texts may be NULL. */
typedef struct engine_options {
    const char *shape, *distribution, *output;
    int64_t seed;
} engine_options;

/* clang-format off */
#define ENGINE_DEFAULTS {NULL, "random", "bf16", 1}
#define ENGINE_OPTIONS(o) \
    {"--shape", CLI_TEXT, &(o).shape, 0, 0, "WORDS of 'T=16 S=1024 heads=16:1 width=128:128 block=128 topk=4' to change"}, \
    CLI_OPT_SEED((o).seed), \
    {"--distribution", CLI_TEXT, &(o).distribution, 0, 0, "NAME of the selection: random, hot, local or structured"}, \
    {"--output", CLI_TEXT, &(o).output, 0, 0, "TYPE of O: bf16 or f32"}
/* clang-format on */

/** Reads the options over the default shape and makes the inputs. */
int engine_begin(const char *command, const engine_options *options, const msa_shape *standard, trial *t);

/** The kernels of the engine that the words name, STAGE/NAME or STAGE, a stage's from naive to best. Refuses
 *  in builds without the engine. */
int engine_find(const char *command, const cli_list *names, const msa_kernel **found, int most, int *n);

/** The exit status and message for a run that failed. */
int engine_failed(const char *command, const msa_kernel *kernel, msa_status status);

#endif
