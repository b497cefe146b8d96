/* A padded batch: what is written where there is room for queries and there are none.
 *
 * Every loop of the library goes over the sequences as msa_get_seq() tells them, so padding is never read.
 * What remains is to write its rows, as those of a query that sees nothing. */
#include "internal.h"

void pad_queries(const msa_shape *s, int64_t outer, int64_t width, float value, float *x)
{
    for (int64_t n = 0; n < outer && s->len_q && x; n++)
        for (int r = 0; r < msa_n_seqs(s); r++) {
            const msa_seq padded = padded_seq(s, r);
            float *rows = x + (n * s->n_q + padded.q0) * width;
            for (int64_t c = msa_get_seq(s, r).n_q * width; c < padded.n_q * width; c++)
                rows[c] = value;
        }
}

void write_padding(const msa_shape *s, int64_t first, int64_t end, int32_t *ids, float *o, float *lse)
{
    for (int64_t i = first; i < end; i++) {
        for (int64_t slot = 0; ids && slot < (int64_t)s->n_kv_heads * s->topk; slot++)
            ids[(slot / s->topk * s->n_q + i) * s->topk + slot % s->topk] = -1;
        for (int64_t h = i * s->n_heads; lse && h < (i + 1) * s->n_heads; h++)
            lse[h] = -INFINITY;
        if (o)
            memset(o + i * s->n_heads * s->d_head, 0, (size_t)s->n_heads * (size_t)s->d_head * sizeof *o);
    }
}

void pad_outputs(const msa_shape *s, int32_t *ids, float *o, float *lse)
{
    for (int r = 0; r < msa_n_seqs(s) && s->len_q; r++) {
        const msa_seq padded = padded_seq(s, r);
        write_padding(s, padded.q0 + msa_get_seq(s, r).n_q, padded.q0 + padded.n_q, ids, o, lse);
    }
}

double kl_rows(const msa_shape *s)
{
    int64_t n = s->len_q ? 0 : s->n_q;
    for (int r = 0; r < msa_n_seqs(s) && s->len_q; r++)
        n += s->len_q[r];
    return (double)max_i64(1, n * s->n_kv_heads);
}
