/* The cost model: how many operations a causal prefill takes, how many bytes a decoded token reads. */
#include "internal.h"

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
    return MSA_OK;
}
