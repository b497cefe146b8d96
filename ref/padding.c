/* A padded batch: what is written where there is room for queries and there are none.
 *
 * Every loop of the library goes over the sequences as msa_get_seq() tells them, so padding is never read.
 * What remains is to write its rows, as those of a query that sees nothing. */
#include "internal.h"

void pad_queries(const msa_shape *s, int64_t outer, int64_t width, float value, float *x)
{
    for (int64_t a = 0; a < outer && s->len_q && x; a++)
        for (int r = 0; r < msa_n_seqs(s); r++) {
            const msa_seq room = room_of(s, r);
            float *rows = x + (a * s->n_q + room.q0) * width;
            for (int64_t c = msa_get_seq(s, r).n_q * width; c < room.n_q * width; c++)
                rows[c] = value;
        }
}

void pad_attention(const msa_shape *s, float *o, float *lse)
{
    pad_queries(s, 1, (int64_t)s->n_heads * s->d_head, 0, o);
    pad_queries(s, 1, s->n_heads, -INFINITY, lse);
}

void pad_selection(const msa_shape *s, int32_t *ids)
{
    for (int r = 0; r < s->n_kv_heads && s->len_q && ids; r++)
        for (int a = 0; a < msa_n_seqs(s); a++) {
            const msa_seq room = room_of(s, a);
            int32_t *rows = ids + (r * s->n_q + room.q0) * s->topk;
            for (int64_t c = msa_get_seq(s, a).n_q * s->topk; c < room.n_q * s->topk; c++)
                rows[c] = -1;
        }
}

double kl_rows(const msa_shape *s)
{
    int64_t n = s->len_q ? 0 : s->n_q;
    for (int r = 0; r < msa_n_seqs(s) && s->len_q; r++)
        n += s->len_q[r];
    return (double)max_i64(1, n * s->n_kv_heads);
}
