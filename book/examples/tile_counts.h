/* The kernels on tiles, run in the body that counts: chapter 10b's tables and its figure. */
#ifndef EXAMPLE_TILE_COUNTS_H
#define EXAMPLE_TILE_COUNTS_H

#include "../../ref/bench/roofline.h"
#include "../../ref/fast/amx_counts.h"
#include "../../ref/judge/selections.h"
#include "../../ref/table/table.h"
#include "example.h"

#define FMA_A_PRODUCT (16 * 16 * 32)

/* What Intel's manual says of a core, and what gcc 12 makes of a vector of 16 logits: 4 instructions for its part in the
 * largest and the least, 16 for 16 powers of 2, 7 to add them and to make them a right factor. */
/* [rates] */
static const double clocks_a_product = 16, clocks_a_load = 8, clocks_a_store = 16, vectors_a_clock = 2;
static const double for_maxima = 4, for_powers = 16, for_factors = 7, for_block_maxima = 2;
/* [rates] */

/* A call's tensors. */
typedef struct tensors {
    msa_shape s;
    float *q, *k, *v, *qi, *ki, *o, *lse;
    int32_t *ids;
} tensors;

static inline tensors tensors_new(const msa_shape *s, selection_kind chosen)
{
    const long nq = (long)s->n_q * s->n_heads * s->d_head, nk = (long)s->n_kv * s->n_kv_heads * s->d_head,
               nqi = (long)s->n_q * s->n_kv_heads * s->d_index, nki = (long)s->n_kv * s->d_index;
    tensors t = {*s,          room(nq, 4),  room(nk, 4),
                 room(nk, 4), room(nqi, 4), room(nki, 4),
                 room(nq, 4), room(nq, 4),  room((long)s->n_q * s->n_kv_heads * s->topk, 4)};
    noise(t.q, nq, 1);
    noise(t.k, nk, 2);
    noise(t.v, nk, 3);
    noise(t.qi, nqi, 4);
    noise(t.ki, nki, 5);
    selection_draw(s, chosen, 1, t.ids);
    return t;
}

static inline void tensors_free(tensors *t)
{
    float *const all[] = {t->q, t->k, t->v, t->qi, t->ki, t->o, t->lse};
    for (int n = 0; n < 7; n++)
        free(all[n]);
    free(t->ids);
}

/* What a kernel, "dense/amx", did, and the multiply-adds that its stage needs. */
typedef struct tally {
    tile_counts n;
    double needed;
} tally;

static inline tally tally_of(const char *kernel, const tensors *t)
{
    const msa_kernel *k = table_find(kernel, "fast");
    if (!k)
        must(MSA_ERR_UNSUPPORTED);
    int32_t *chosen =
        room((long)t->s.n_q * t->s.n_kv_heads * t->s.topk, 4); /* the index writes ids of its own */
    const msa_arrays a = {.q = t->q,
                          .k = t->k,
                          .v = t->v,
                          .qi = t->qi,
                          .ki = t->ki,
                          .o = t->o,
                          .lse = t->lse,
                          .ids = k->stage == MSA_STAGE_INDEX ? chosen : t->ids};
    void *work = room((long)k->workspace(&t->s), 1);
    amx_choose(false); /* also where there are tiles: those do not count */
    amx_take_counts();
    must(k->run(&t->s, &a, work));
    free(work);
    free(chosen);
    return (tally){amx_take_counts(),
                   roofline_fma(k->stage, &t->s, k->stage == MSA_STAGE_SPARSE ? t->ids : NULL)};
}

/* The clocks that each part of a core is at work, at least. */
typedef struct clocks {
    double products, memory, maxima, powers, factors;
} clocks;

static inline clocks clocks_of(const tally *t, int steps, bool index)
{
    const tile_counts *n = &t->n;
    /* [clocks] */
    const double logits =
        index ? 16.0 * (double)n->products / steps : (double)n->exponentials; /* vectors of 16 */
    const double loads = (double)n->loads * clocks_a_load, stores = (double)n->stores * clocks_a_store;
    return (clocks){.products = (double)n->products * clocks_a_product,
                    .memory = loads > stores ? loads : stores, /* they have ways of their own */
                    .maxima = logits * (index ? for_block_maxima : for_maxima) / vectors_a_clock,
                    .powers = (double)n->exponentials * for_powers / vectors_a_clock,
                    .factors = (double)n->exponentials * for_factors / vectors_a_clock};
    /* [clocks] */
}

/* One group of M3: queries at the end of a text. */
static inline msa_shape one_group(int64_t n_q, int64_t n_kv, int heads)
{
    return (msa_shape){n_q, n_kv, heads, 1, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
}

#endif
