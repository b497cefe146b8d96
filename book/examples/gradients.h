/* Runs of the gradient kernels on the engine, in a given order, and who writes what in them. Used by the
 * program of chapter 16 and by its figure. */
#ifndef EXAMPLE_GRADIENTS_H
#define EXAMPLE_GRADIENTS_H

#include "engine.h"

#pragma weak                                                                                                 \
    msa_engine_mode /* a build without the engine has none of these, and its program ends before it asks */
#pragma weak msa_engine_resident
#pragma weak simt_watch

enum { AT_ONCE = 16 }; /* CTAs that the engine runs in turns */

/* The proportions of M3: blocks of 8 G keys. One group, so that a picture of it is simple. */
static inline msa_shape small_shape(void)
{
    return (msa_shape){.n_q = 16,
                       .n_kv = 512,
                       .n_heads = 4,
                       .n_kv_heads = 1,
                       .d_head = 64,
                       .d_index = 64,
                       .block = 32,
                       .topk = 4};
}

/* Where a kernel's writes went: for each array, launch and row which CTAs wrote to it. */
enum { TO_DQ, TO_DK, TO_DV, ARRAYS, LAUNCHES = 16, ROWS = 512, CTAS = 256 };
typedef struct written {
    uint64_t begin[ARRAYS], end[ARRAYS], row_bytes[ARRAYS]; /* a row: a query's heads, or a key's */
    double bytes[ARRAYS], elsewhere;
    bool by[ARRAYS][LAUNCHES][ROWS][CTAS];
} written;

static inline void note(void *context, const simt_access *a)
{
    written *w = context;
    if (a->shared || !a->write)
        return;
    for (int x = 0; x < ARRAYS; x++)
        if (a->address >= w->begin[x] && a->address < w->end[x]) {
            uint64_t row = (a->address - w->begin[x]) / w->row_bytes[x], launch = simt_counts()->launches;
            w->bytes[x] += a->bytes;
            if (row < ROWS && launch < LAUNCHES && a->block < CTAS)
                w->by[x][launch][row][a->block] = true;
            return;
        }
    w->elsewhere += a->bytes;
}

/* What a kernel is asked for. */
enum { MAIN = 1, KL = 2, BOTH = MAIN + KL };

static inline msa_arrays arrays_for(const trial *t, int task)
{
    msa_arrays a = {.q = t->in.q, .k = t->in.k, .ids = t->in.ids, .lse = t->in.lse};
    if (task & MAIN) {
        a.v = t->in.v, a.o = t->in.o, a.dout = t->in.dout;
        a.dq = t->outputs.dq, a.dk = t->outputs.dk, a.dv = t->outputs.dv;
    }
    if (task & KL) {
        a.qi = t->in.qi, a.ki = t->in.ki, a.index_lse = t->in.index_lse;
        a.dqi = t->outputs.dqi, a.dki = t->outputs.dki, a.loss = t->outputs.loss, a.weight = 1;
    }
    return a;
}

/* Runs a kernel with AT_ONCE CTAs at a time. Order 0: threads forward, 1: in reverse, from 2 on: at random.
 */
static inline simt_counters run_gradient(const trial *t, const char *kernel, int task, int order, written *w)
{
    msa_plan plan;
    msa_arrays a = arrays_for(t, task);
    must(msa_plan_make(&plan, t->engine, kernel, &t->shape, t->out));
    void *work = t->engine->alloc(plan.workspace);
    msa_engine_mode(order < 2 ? order : 2, 0, (uint64_t)order);
    msa_engine_resident(AT_ONCE);
    simt_watch(w ? note : NULL, w);
    must(msa_plan_run(&plan, &a, work, NULL));
    simt_watch(NULL, NULL);
    t->engine->free(work);
    return *simt_counts();
}

/* The same, and who wrote what. */
static inline written *watch_gradient(const trial *t, const char *kernel)
{
    const msa_shape *s = &t->shape;
    written *w = room(1, sizeof *w);
    const float *array[ARRAYS] = {t->outputs.dq, t->outputs.dk, t->outputs.dv};
    for (int x = 0; x < ARRAYS; x++) {
        long row = (x == TO_DQ ? s->n_heads : s->n_kv_heads) * s->d_head * (long)sizeof(float);
        w->begin[x] = (uint64_t)(uintptr_t)array[x];
        w->row_bytes[x] = (uint64_t)row;
        w->end[x] = w->begin[x] + (uint64_t)((x == TO_DQ ? s->n_q : s->n_kv) * row);
    }
    run_gradient(t, kernel, MAIN, 0, w);
    return w;
}

/* The most CTAs of one launch that wrote to the same row. */
static inline int most_writers(const written *w, int array)
{
    int most = 0;
    for (int launch = 0; launch < LAUNCHES; launch++)
        for (int row = 0; row < ROWS; row++) {
            int n = 0;
            for (int cta = 0; cta < CTAS; cta++)
                n += w->by[array][launch][row][cta];
            most = n > most ? n : most;
        }
    return most;
}

#endif
