/* The table of implementations, gathered from the sets of the back ends. */
#include <string.h>

#include "table.h"

static const struct {
    const char *name;
    const msa_ops *ops;
} backends[] = {{"ref", &msa_ref_ops}, {"fast", &msa_fast_ops}};
#define N_BACKENDS ((int)(sizeof backends / sizeof *backends))

/* A back end without a kernel of its own for a stage lists the reference's: not a second entry. */
static bool owns(int backend, int stage)
{
    return backend == 0 || backends[backend].ops->stage[stage] != msa_ref_ops.stage[stage];
}

const msa_kernel *msa_kernel_at(int i)
{
    for (int stage = 0; stage < MSA_N_STAGES; stage++)
        for (int b = 0; b < N_BACKENDS; b++)
            if (owns(b, stage) && i-- == 0)
                return backends[b].ops->stage[stage];
    return NULL;
}

const msa_kernel *msa_find_kernel(const char *name)
{
    const msa_kernel *kernel;
    for (int i = 0; (kernel = msa_kernel_at(i)) != NULL; i++) {
        const char *stage = msa_stage_name(kernel->stage);
        size_t n = strlen(stage);
        if (strncmp(name, stage, n) == 0 && name[n] == '/' && strcmp(name + n + 1, kernel->name) == 0)
            return kernel;
    }
    return NULL;
}

const msa_ops *msa_backend(const char *name)
{
    for (int b = 0; b < N_BACKENDS; b++)
        if (strcmp(backends[b].name, name) == 0)
            return backends[b].ops;
    return NULL;
}
