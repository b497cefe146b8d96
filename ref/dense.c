/* Dense causal grouped-query attention: the thing that MSA replaces, and its first test.
 *
 *   O[i,h] = sum_j softmax_j(Q[i,h] . K[j,r] / sqrt(dh)) V[j,r],   j <= p(i),   r = h / G
 *   LSE[i,h] = log sum_j exp(Q[i,h] . K[j,r] / sqrt(dh)) */
#include "internal.h"

typedef struct scratch {
    double *p, *acc;
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    w->p = arena_take(&a, longest_kv(s), sizeof *w->p);
    w->acc = arena_take(&a, s->d_head, sizeof *w->acc);
    return arena_bytes(&a);
}

size_t dense_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, NULL);
}

static msa_status dense(const msa_shape *s, const float *q, const float *k, const float *v, float *o,
                        float *lse, void *work, bool bf16)
{
    MSA_TRY(msa_check_shape(s));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const double scale = 1 / sqrt(d);
    scratch w;
    place(&w, s, work);
    double *p = w.p, *acc = w.acc;

    pad_outputs(s, NULL, o, lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        for (int64_t i = 0; i < seq.n_q; i++) {
            int64_t visible = position(&seq, i) + 1;
            for (int h = 0; h < s->n_heads; h++) {
                int64_t row = (seq.q0 + i) * s->n_heads + h;
                int64_t kv = seq.kv0 * s->n_kv_heads + h / group; /* row of key 0 for this head */
                /* [dense_row] */
                for (int64_t j = 0; j < visible; j++)
                    p[j] = scale * dot(q + row * d, k + (kv + j * s->n_kv_heads) * d, d);
                double denom, row_lse = softmax_row(p, visible, bf16, &denom);

                memset(acc, 0, (size_t)d * sizeof *acc);
                for (int64_t j = 0; j < visible; j++)
                    axpy(p[j], v + (kv + j * s->n_kv_heads) * d, d, acc);
                for (int c = 0; c < d; c++)
                    o[row * d + c] = (float)(acc[c] / denom);
                /* [dense_row] */
                if (lse)
                    lse[row] = (float)row_lse;
            }
        }
    }
    return MSA_OK;
}

msa_status msa_dense(const msa_shape *s, const float *q, const float *k, const float *v, float *o, float *lse,
                     void *work)
{
    return dense(s, q, k, v, o, lse, work, false);
}

msa_status msa_dense_bf16(const msa_shape *s, const float *q, const float *k, const float *v, float *o,
                          float *lse, void *work)
{
    return dense(s, q, k, v, o, lse, work, true);
}
