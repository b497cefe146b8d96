/* Gradient of the Main Branch, dense or sparse alike: only the support differs.
 *
 *   dP = dO V^T      dS = P * (dP - rowsum(dP * P))
 *   dQ = dS K / sqrt(dh)      dK = dS^T Q / sqrt(dh)      dV = P^T dO
 *
 * dK and dV sum over the queries that selected a key and over the heads of the group; they are summed in
 * double and rounded once. No gradient passes to the ids: a choice has none. */
#include "internal.h"

typedef struct scratch {
    int64_t *tokens;
    double *p, *dp, *acc, *sum_dk, *sum_dv;
    float *centre;
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    const int64_t n = max_support(s, true), kv_size = s->n_kv * s->n_kv_heads * s->d_head;
    arena a = arena_over(work);
    w->tokens = arena_take(&a, n, sizeof *w->tokens);
    w->p = arena_take(&a, n, sizeof *w->p);
    w->dp = arena_take(&a, n, sizeof *w->dp);
    w->acc = arena_take(&a, s->d_head, sizeof *w->acc);
    w->centre = arena_take(&a, s->d_head, sizeof *w->centre);
    w->sum_dk = arena_take(&a, kv_size, sizeof *w->sum_dk);
    w->sum_dv = arena_take(&a, kv_size, sizeof *w->sum_dv);
    return arena_bytes(&a);
}

size_t backward_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, NULL);
}

static msa_status backward(const msa_shape *s, const float *q, const float *k, const float *v,
                           const int32_t *ids, const float *dout, float *dq, float *dk, float *dv, void *work,
                           bool bf16)
{
    MSA_TRY(ids ? msa_check_ids(s, ids) : msa_check_shape(s));
    if (!q || !k || !v || !dout || !dq || !dk || !dv || !work)
        return MSA_ERR_NULL;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const int64_t kv_size = s->n_kv * s->n_kv_heads * d;
    const double scale = 1 / sqrt(d);
    scratch w;
    place(&w, s, work);
    int64_t *tokens = w.tokens;
    double *p = w.p, *dp = w.dp, *acc = w.acc, *sum_dk = w.sum_dk, *sum_dv = w.sum_dv;
    memset(sum_dk, 0, (size_t)kv_size * sizeof *sum_dk);
    memset(sum_dv, 0, (size_t)kv_size * sizeof *sum_dv);

    pad_queries(s, 1, (int64_t)s->n_heads * d, 0, dq);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        for (int64_t i = 0; i < seq.n_q; i++) {
            for (int h = 0; h < s->n_heads; h++) {
                int r = h / group;
                int64_t n = list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), tokens);
                int64_t row = (seq.q0 + i) * s->n_heads + h;
                int64_t kv = seq.kv0 * s->n_kv_heads + r;
                for (int64_t j = 0; j < n; j++)
                    p[j] = scale * dot(q + row * d, k + (kv + tokens[j] * s->n_kv_heads) * d, d);
                double denom;
                softmax_row(p, n, false, &denom);

                int64_t peak = 0;
                for (int64_t j = 0; j < n; j++) {
                    p[j] /= denom;
                    dp[j] = dot(dout + row * d, v + (kv + tokens[j] * s->n_kv_heads) * d, d);
                    peak = p[j] > p[peak] ? j : peak;
                }
                /* dS does not change if a constant is taken from dP. Taking the value at the peak leaves
                 * something of dP - delta where P is nearly one-hot and the two would cancel. */
                double origin = dp[peak], delta = 0; /* delta = rowsum(dP * P) */
                for (int64_t j = 0; j < n; j++) {
                    dp[j] -= origin;
                    delta += dp[j] * p[j];
                }
                memset(acc, 0, (size_t)d * sizeof *acc);
                double excess = 0;
                for (int64_t j = 0; j < n; j++) {
                    int64_t at = (kv + tokens[j] * s->n_kv_heads) * d;
                    double ds = p[j] * (dp[j] - delta);
                    double pv = bf16 ? (double)msa_bf16((float)p[j]) : p[j];
                    double dsv = scale * (bf16 ? (double)msa_bf16((float)ds) : ds);
                    excess += dsv;
                    axpy(dsv, k + at, d, acc);
                    axpy(dsv, q + row * d, d, sum_dk + at);
                    axpy(pv, dout + row * d, d, sum_dv + at);
                }
                if (bf16) { /* as such a kernel has to: centre.c */
                    key_centre(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), k + kv * d,
                               (int64_t)s->n_kv_heads * d, d, w.centre);
                    axpy(-excess, w.centre, d, acc);
                }
                for (int c = 0; c < d; c++)
                    dq[row * d + c] = (float)acc[c];
            }
        }
    }
    for (int64_t i = 0; i < kv_size; i++) {
        dk[i] = (float)sum_dk[i];
        dv[i] = (float)sum_dv[i];
    }
    return MSA_OK;
}

msa_status msa_backward(const msa_shape *s, const float *q, const float *k, const float *v,
                        const int32_t *ids, const float *o, const float *lse, const float *dout, float *dq,
                        float *dk, float *dv, void *work)
{
    (void)o, (void)lse; /* recomputed in double */
    return backward(s, q, k, v, ids, dout, dq, dk, dv, work, false);
}

msa_status msa_dense_backward(const msa_shape *s, const float *q, const float *k, const float *v,
                              const float *o, const float *lse, const float *dout, float *dq, float *dk,
                              float *dv, void *work)
{
    return msa_backward(s, q, k, v, NULL, o, lse, dout, dq, dk, dv, work);
}

msa_status msa_backward_bf16(const msa_shape *s, const float *q, const float *k, const float *v,
                             const int32_t *ids, const float *o, const float *lse, const float *dout,
                             float *dq, float *dk, float *dv, void *work)
{
    (void)o, (void)lse;
    return backward(s, q, k, v, ids, dout, dq, dk, dv, work, true);
}
