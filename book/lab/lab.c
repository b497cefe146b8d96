/* The reference in a page: the few calls that JavaScript cannot make by itself, because they know a struct or take 64
 * bits. The rest are the functions of msa.h, exported as they are (LAB_CALLS in book/book.mk). */
#include <string.h>

#include "../../ref/internal.h"
#include "../examples/orders.h"

#define LAB(name) __attribute__((export_name(#name))) name

/* One sequence; the caller frees it, as everything here. NULL if memory ran out. */
msa_shape *LAB(lab_shape)(int n_q, int n_kv, int n_heads, int n_kv_heads, int d_head, int d_index, int block, int topk)
{
    msa_shape *s = calloc(1, sizeof *s);
    if (s)
        *s = (msa_shape){.n_q = n_q,
                         .n_kv = n_kv,
                         .n_heads = n_heads,
                         .n_kv_heads = n_kv_heads,
                         .d_head = d_head,
                         .d_index = d_index,
                         .block = block,
                         .topk = topk};
    return s;
}

/* The noise of the book's programs and figures. */
float *LAB(lab_noise)(int n, unsigned seed)
{
    float *x = malloc((size_t)n * sizeof *x);
    if (x)
        noise(x, n, seed);
    return x;
}

/* The cost model at n tokens, which JavaScript holds as a double. */
msa_status LAB(lab_cost)(const msa_shape *s, double n, msa_cost_row *row)
{
    return msa_cost(s, (int64_t)n, row);
}

/* A seeded selection to hold one against: its ids [Hkv,T,k], by the numbers of selection_kind. */
void LAB(lab_select)(const msa_shape *s, int kind, unsigned seed, int32_t *ids)
{
    selection_draw(s, (selection_kind)kind, seed, ids);
}

/* What three loop orders take for a selection, as chapter 14 counts it: of each bytes and multiply-adds, then the useful
 * multiply-adds and the sum of the unions of 8 neighbours. */
void LAB(lab_orders)(const msa_shape *s, const int32_t *ids, double counts[2 * ORDERS + 2])
{
    work of[ORDERS];
    count_orders(s, ids, of);
    memcpy(counts, of, sizeof of);
    counts[2 * ORDERS] = useful_fma(s, ids);
    counts[2 * ORDERS + 1] = unions(s, ids, 8);
}

/* Block and score recall of one group's queries, [2,T], from the weights [T,B] that msa_block_mass() found: what
 * msa_recall() does where queries and keys are at hand. False if memory ran out. */
bool LAB(lab_recall)(const msa_shape *s, const float *mass, const int32_t *ids, double *per_query)
{
    const int64_t blocks = msa_n_blocks(s);
    double *p = malloc((size_t)(2 * blocks) * sizeof *p);
    int32_t *best = malloc((size_t)blocks * sizeof *best);
    for (int64_t i = 0; p && best && i < s->n_q; i++) {
        const int64_t seen = i / s->block + 1, kept = min_i64(s->topk, seen);
        for (int64_t b = 0; b < seen; b++)
            p[b] = (double)mass[i * blocks + b];
        top_blocks(p, seen, kept, p + blocks, best);
        recall_row(p, best, kept, ids + i * s->topk, s->topk, &per_query[i], &per_query[s->n_q + i]);
    }
    const bool done = p && best;
    free(p), free(best);
    return done;
}
