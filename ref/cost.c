/* The cost model: how many operations a causal prefill takes, how many bytes a decoded token reads. */
#include "internal.h"

/* Blocks that 8-bit keys leave open for each one wanted, of 8192 blocks of random keys: book/examples/13b_eight.c counts
 * 86 for 15. In decode bytes count, so that the query has two codes: 43. */
#define OPEN_PREFILL (86 / 15.0)
#define OPEN_DECODE (43 / 15.0)

msa_status msa_cost(const msa_shape *s, int64_t n, msa_cost_row *row)
{
    if (!s || !row)
        return MSA_ERR_NULL;
    if (n < 1 || s->n_heads < 1 || s->n_kv_heads < 1 || s->d_head < 1 || s->d_index < 1 || s->block < 1 ||
        s->topk < 1)
        return MSA_ERR_SIZE;
    /* [cost] */
    const double N = (double)n, kept = (double)s->topk * s->block;
    const double heads = (double)s->n_heads * s->d_head, kv_heads = (double)s->n_kv_heads * s->d_head;
    const double index = (double)s->n_kv_heads * s->d_index * N * N;

    row->flop_gqa = 2 * heads * N * N;
    row->flop_msa = index + 4 * heads * N * kept;
    row->flop_ratio = row->flop_gqa / row->flop_msa;
    row->index_share = index / row->flop_msa;

    const double chosen = 2 * kv_heads * 2 * kept; /* K and V of the chosen blocks, 2 bytes an element */
    row->bytes_gqa = 2 * kv_heads * 2 * N;
    row->bytes_msa = 2 * s->d_index * N + chosen;
    row->bytes_ratio = row->bytes_gqa / row->bytes_msa;
    row->bytes_ratio_8 = row->bytes_gqa / (s->d_index * N + chosen);
    /* [cost] */

    /* [cost8] */
    const double blocks = N / s->block, wanted = s->topk - 1, keys = (double)s->d_index * s->block;
    const double settle = fmin(OPEN_PREFILL * wanted, blocks),
                 settle_one = fmin(OPEN_DECODE * wanted, blocks);
    const double halved = row->flop_msa - index / 2; /* products of 8 bits at twice the rate */

    row->flop_settle = 2 * keys * s->n_kv_heads * settle * N;
    row->flop_ratio_8 = row->flop_gqa / halved;
    row->flop_ratio_exact8 = row->flop_gqa / (halved + row->flop_settle);
    row->bytes_settle = 2 * keys * s->n_kv_heads * settle_one;
    row->bytes_ratio_exact8 = row->bytes_gqa / (s->d_index * N + row->bytes_settle + chosen);
    /* [cost8] */
    return MSA_OK;
}
