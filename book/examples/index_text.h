/* What chapter 11's program and figure share: a query and its keys on the engine, and runs of a kernel. */
#ifndef INDEX_TEXT_H
#define INDEX_TEXT_H

#include "11_engine.h"
#include "engine.h"

#pragma weak msa_engine_mode /* as in 11_engine.h */
#pragma weak simt_watch

/* One index query of small integers, for which float32 is exact, at the end of whole blocks of keys. */
typedef struct index_text {
    msa_shape s;
    msa_arrays on_engine;
    float *expected, *found; /* block scores: the reference's and the kernel's */
} index_text;

static inline uint16_t *integers(const msa_device *engine, float *x, long n, unsigned seed)
{
    uint16_t *y = engine->alloc((size_t)n * sizeof *y);
    noise(x, n, seed);
    for (long i = 0; i < n; i++)
        y[i] = msa_bf16_bits(x[i] = rintf(x[i]));
    return y;
}

static inline index_text begin_text(const msa_device *engine, int n_blocks)
{
    const long n = (long)n_blocks * KEYS;
    index_text x = {.s = {1, n, 1, 1, WIDTH, WIDTH, KEYS, 1, 1, NULL, NULL, NULL, NULL}};
    float *qi = room(WIDTH, sizeof *qi), *ki = room(n * WIDTH, sizeof *ki);
    void *work = room(1, msa_workspace(NULL, &x.s));
    x.found = engine->alloc((size_t)n_blocks * sizeof(float));
    x.on_engine.qi = integers(engine, qi, WIDTH, 1);
    x.on_engine.ki = integers(engine, ki, n * WIDTH, 2);
    x.on_engine.scores = x.found;
    x.expected = room(n_blocks, sizeof(float));
    must(msa_index(&x.s, qi, ki, x.expected, NULL, NULL, work));
    engine->declare(x.on_engine.qi, WIDTH * sizeof(uint16_t), "qi");
    engine->declare(x.on_engine.ki, (size_t)(n * WIDTH) * sizeof(uint16_t), "ki");
    engine->declare(x.found, (size_t)n_blocks * sizeof *x.found, "scores");
    free(work);
    free(qi);
    free(ki);
    return x;
}

static inline void end_text(const msa_device *engine, index_text *x)
{
    engine->declare(NULL, 0, NULL);
    engine->free((void *)x->on_engine.qi);
    engine->free((void *)x->on_engine.ki);
    engine->free(x->found);
    free(x->expected);
}

/* Threads forward, in reverse or at random, copies late, at once or at random: 0, 1, 2. Returns NULL, or what
 * the engine says. */
static inline const char *attempt(const msa_device *engine, const index_text *x, enum version v, int order, int timing,
                                  unsigned seed)
{
    msa_engine_mode(order, timing, seed);
    engine->fill(x->found, 0xff, (size_t)msa_n_blocks(&x->s) * sizeof *x->found);
    const msa_status status = engine->run(engine_entry(v), &x->s, MSA_F32, &x->on_engine, NULL, NULL);
    return status == MSA_OK ? NULL : engine->trouble();
}

#endif
