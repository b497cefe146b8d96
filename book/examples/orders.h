/* What three loop orders of sparse attention read, write and multiply for a selection, by counting blocks.
 * Used by the program of chapter 14 and by its figure. Lists, LSE and ids are left out: they are small. */
#ifndef EXAMPLE_ORDERS_H
#define EXAMPLE_ORDERS_H

#include "../../ref/judge/selections.h"
#include "example.h"

enum { Q_OUTER, UNION, KV_OUTER, ORDERS };

typedef struct work {
    double bytes, fma; /* asked of global memory; multiply-adds of the tensor cores */
} work;

/* For every group and every `run` neighbouring queries: how many different blocks they chose; the sum. */
static double unions(const msa_shape *s, const int32_t *ids, int run)
{
    long *seen = room(msa_n_blocks(s), sizeof *seen), number = 0,
         sum = 0; /* number of the last run that chose a block */
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t i = 0; i < s->n_q; i++) {
            number += i % run == 0;
            const int32_t *row = ids + (r * s->n_q + i) * s->topk;
            for (int a = 0; a < s->topk && row[a] >= 0; a++) {
                sum += seen[row[a]] != number;
                seen[row[a]] = number;
            }
        }
    free(seen);
    return (double)sum;
}

/* For every group and block: its queries, `each` at a time; the sum. With each = 1 these are the pairs. */
static double batches(const msa_shape *s, const int32_t *ids, int64_t each)
{
    int64_t n_blocks = msa_n_blocks(s), *chosen = room(s->n_kv_heads * n_blocks, sizeof *chosen), sum = 0;
    for (int64_t a = 0; a < s->n_kv_heads * s->n_q * s->topk; a++)
        if (ids[a] >= 0)
            chosen[a / (s->n_q * s->topk) * n_blocks + ids[a]]++;
    for (int64_t b = 0; b < s->n_kv_heads * n_blocks; b++)
        sum += (chosen[b] + each - 1) / each;
    free(chosen);
    return (double)sum;
}

/* Of a group of 16 heads: 4 queries fill a tile of 64 rows, and a CTA of the union has two tiles. */
static inline void count_orders(const msa_shape *s, const int32_t *ids, work of[ORDERS])
{
    /* [formula] */
    double d = s->d_head, G = s->n_heads / s->n_kv_heads;
    double block = 4 * s->block * d;                 /* bytes of K and V */
    double qo = 4 * (double)s->n_q * s->n_heads * d; /* Q in, O out, 2 bytes each */
    double pairs = batches(s, ids, 1), items = batches(s, ids, msa_item_limit(s));
    of[Q_OUTER].bytes = qo + pairs * block;
    of[UNION].bytes = qo + unions(s, ids, 8) * block;
    of[KV_OUTER].bytes = qo / 2 + items * block + pairs * G * d * (2 + 2 + 2); /* Q, partial out, in */
    double row = 2 * s->block * d; /* multiply-adds of one row of a tile with one block */
    of[Q_OUTER].fma = pairs * 16 * row;
    of[UNION].fma = unions(s, ids, 4) * 64 * row;
    of[KV_OUTER].fma = batches(s, ids, 4) * 64 * row;
    /* [formula] */
}

/* Multiply-adds that no order can do without. */
static inline double useful_fma(const msa_shape *s, const int32_t *ids)
{
    return selection_pairs(s, ids) * (s->n_heads / s->n_kv_heads) * 2 * s->d_head;
}

/* A chunk of queries at the end of a text, with the sizes of M3. */
static inline msa_shape m3_chunk(void)
{
    return (msa_shape){.n_q = 16384,
                       .n_kv = 1 << 20,
                       .n_heads = 64,
                       .n_kv_heads = 4,
                       .d_head = 128,
                       .d_index = 128,
                       .block = 128,
                       .topk = 16};
}

#endif
