/* The Main Branch: exact softmax attention over the visible tokens of the selected blocks.
 *
 *   O[i,h] = sum_{j in A(i,r)} softmax_j(Q[i,h] . K[j,r] / sqrt(dh)) V[j,r]
 *
 * Nothing is approximated once the blocks are chosen. All heads of a group share one support A. */
#include "internal.h"

typedef struct scratch {
    int64_t *tokens;
    double *p, *acc;
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    const int64_t n = max_support(s, false);
    arena a = arena_over(work);
    w->tokens = arena_take(&a, n, sizeof *w->tokens);
    w->p = arena_take(&a, n, sizeof *w->p);
    w->acc = arena_take(&a, s->d_head, sizeof *w->acc);
    return arena_bytes(&a);
}

size_t sparse_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, NULL);
}

static msa_status sparse(const msa_shape *s, const float *q, const float *k, const float *v,
                         const int32_t *ids, float *o, float *lse, void *work, bool bf16)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const double scale = 1 / sqrt(d);
    scratch w;
    place(&w, s, work);
    int64_t *tokens = w.tokens;
    double *p = w.p, *acc = w.acc;

    pad_outputs(s, NULL, o, lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        for (int64_t i = 0; i < seq.n_q; i++) {
            for (int r = 0; r < s->n_kv_heads; r++) {
                /* [sparse_row] */
                int64_t n = list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), tokens);
                int64_t kv = seq.kv0 * s->n_kv_heads + r; /* row of key 0 for this group */
                for (int h = r * group; h < (r + 1) * group; h++) {
                    int64_t row = (seq.q0 + i) * s->n_heads + h;
                    for (int64_t j = 0; j < n; j++)
                        p[j] = scale * dot(q + row * d, k + (kv + tokens[j] * s->n_kv_heads) * d, d);
                    double denom, row_lse = softmax_row(p, n, bf16, &denom);

                    memset(acc, 0, (size_t)d * sizeof *acc);
                    for (int64_t j = 0; j < n; j++)
                        axpy(p[j], v + (kv + tokens[j] * s->n_kv_heads) * d, d, acc);
                    for (int c = 0; c < d; c++)
                        o[row * d + c] = (float)(acc[c] / denom);
                /* [sparse_row] */
                    if (lse)
                        lse[row] = (float)row_lse;
                }
            }
        }
    }
    return MSA_OK;
}

msa_status msa_sparse(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                      float *o, float *lse, void *work)
{
    return sparse(s, q, k, v, ids, o, lse, work, false);
}

msa_status msa_sparse_bf16(const msa_shape *s, const float *q, const float *k, const float *v,
                           const int32_t *ids, float *o, float *lse, void *work)
{
    return sparse(s, q, k, v, ids, o, lse, work, true);
}

/* ---- The whole attention of a layer ------------------------------------------------------------------ */

size_t prefill_workspace(const msa_shape *s)
{
    return (size_t)max_i64((int64_t)index_workspace(s), (int64_t)sparse_workspace(s));
}

msa_status msa_prefill(const msa_shape *s, const float *q, const float *k, const float *v, const float *qi,
                      const float *ki, int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!q || !k || !v || !qi || !ki || !ids || !o || !work)
        return MSA_ERR_NULL;
    MSA_TRY(msa_index(s, qi, ki, NULL, ids, NULL, work));
    return msa_sparse(s, q, k, v, ids, o, lse, work);
}
