/* What the programs about kernels share: kernels of cuda/ on the CPU engine. */
#ifndef EXAMPLE_ENGINE_H
#define EXAMPLE_ENGINE_H

#include "../../ref/bench/trial.h"
#include "../../ref/table/table.h"
#include "example.h"

/* Ends the program with status 77 in a build without the engine, which needs a C++ compiler. */
static inline void engine_needed(void)
{
    if (table_device("simt"))
        return;
    fprintf(stderr, "this chapter's program needs a C++ compiler\n");
    exit(77);
}

/* The inputs of every stage for a shape, on the engine, with O in bf16. */
static inline trial engine_inputs(const msa_shape *shape, const char *distribution)
{
    selection_kind kind;
    trial t;
    engine_needed();
    if (!selection_named(distribution, &kind) || !trial_begin(&t, shape, kind, 1, MSA_BF16)) {
        fprintf(stderr, "expected one of the selections, and memory for the inputs\n");
        exit(1);
    }
    return t;
}

/* Runs a kernel, "dense/naive", and returns what the engine counted. */
static inline simt_counters engine_count(const trial *t, const char *kernel)
{
    msa_arrays ran;
    const msa_kernel *k = table_find(kernel, "simt");
    must(k ? trial_run(t, k, &ran) : MSA_ERR_UNSUPPORTED);
    return *simt_counts();
}

#endif
