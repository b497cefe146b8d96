/* How the selector is trained: its distribution u is pulled towards the Main Branch's, t.
 *
 *   u = softmax_A(Qi[i,r] . Ki[j] / sqrt(di))
 *   t = 1/G sum over the group's heads of softmax_A(Q[i,h] . K[j,r] / sqrt(dh))   a mean of PROBABILITIES
 *   L_KL = 1/(T Hkv) sum_ir sum_j t (log t - log u)       dL/dlogit = (u - t) / (T Hkv)
 *
 * t is detached: only the index tensors receive a gradient. The paper's direction is KL(t || u); the other
 * one is here to compare with:
 *
 *   KL_ir(u || t) = sum_j u (log u - log t)           dL/dlogit = u (log u - log t - KL_ir) / (T Hkv) */
#include <float.h>

#include "internal.h"

typedef struct scratch {
    int64_t *tokens;
    double *t, *u, *p, *acc, *sum_dki;
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    const int64_t n = max_support(s, true);
    arena a = arena_over(work);
    w->tokens = arena_take(&a, n, sizeof *w->tokens);
    w->t = arena_take(&a, n, sizeof *w->t);
    w->u = arena_take(&a, n, sizeof *w->u);
    w->p = arena_take(&a, n, sizeof *w->p);
    w->acc = arena_take(&a, s->d_index, sizeof *w->acc);
    w->sum_dki = arena_take(&a, s->n_kv * s->d_index, sizeof *w->sum_dki);
    return arena_bytes(&a);
}

size_t kl_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, NULL);
}

/* t[n]: mean over the heads of group r of each head's softmax over the listed tokens; p is scratch. */
static void teacher(const msa_shape *s, int r, const float *q, const float *k, const int64_t *tokens,
                    int64_t n, double *p, double *t)
{
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const double scale = 1 / sqrt(d);
    memset(t, 0, (size_t)n * sizeof *t);
    for (int h = r * group; h < (r + 1) * group; h++) {
        for (int64_t i = 0; i < n; i++)
            p[i] = scale * dot(q + (int64_t)h * d, k + (tokens[i] * s->n_kv_heads + r) * d, d);
        double denom;
        softmax_row(p, n, false, &denom);
        for (int64_t i = 0; i < n; i++)
            t[i] += p[i] / denom / group;
    }
}

/* KL(u || t) of one row of index logits. Puts in place of t the teacher whose u - t is this loss's gradient.
 */
static double reverse_row(int64_t n, const double *logits, double lse, double *t)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        t[i] = logits[i] - lse - log(t[i] < DBL_MIN ? DBL_MIN : t[i]);
        sum += exp(logits[i] - lse) * t[i];
    }
    for (int64_t i = 0; i < n; i++)
        t[i] = exp(logits[i] - lse) * (1 - (t[i] - sum));
    return sum;
}

static msa_status kl(const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,
                     const int32_t *ids, double weight, double *loss, float *dqi, float *dki, void *work,
                     bool reverse)
{
    MSA_TRY(ids ? msa_check_ids(s, ids) : msa_check_shape(s));
    if (!q || !k || !qi || !ki || !loss || !work || !dqi != !dki)
        return MSA_ERR_NULL;
    const int di = s->d_index, groups = s->n_kv_heads;
    const int64_t ki_size = s->n_kv * di;
    const double scale = 1 / sqrt(di), share = 1 / kl_rows(s);
    scratch w;
    place(&w, s, work);
    int64_t *tokens = w.tokens;
    double *t = w.t, *u = w.u, *p = w.p, *acc = w.acc, *sum_dki = w.sum_dki;
    memset(sum_dki, 0, (size_t)ki_size * sizeof *sum_dki);

    double total = 0, total_reverse = 0;
    pad_queries(s, 1, (int64_t)groups * di, 0, dqi);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        const float *keys = k + seq.kv0 * groups * s->d_head, *index_keys = ki + seq.kv0 * di;
        for (int64_t i = 0; i < seq.n_q; i++) {
            for (int r = 0; r < groups; r++) {
                int64_t n = list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), tokens);
                int64_t row = (seq.q0 + i) * groups + r;
                teacher(s, r, q + (seq.q0 + i) * s->n_heads * s->d_head, keys, tokens, n, p, t);
                for (int64_t j = 0; j < n; j++)
                    p[j] = u[j] = scale * dot(qi + row * di, index_keys + tokens[j] * di, di);
                double denom, row_lse = softmax_row(u, n, false, &denom);
                /* [loss] */
                for (int64_t j = 0; j < n; j++)
                    if (t[j] != 0) /* 0 log 0 = 0; NaN stays */
                        total += share * t[j] * (log(t[j]) - (p[j] - row_lse));
                /* [loss] */
                if (reverse)
                    total_reverse += share * reverse_row(n, p, row_lse, t);
                if (!dqi)
                    continue;
                memset(acc, 0, (size_t)di * sizeof *acc);
                /* [gradient] */
                for (int64_t j = 0; j < n; j++) {
                    double g = weight * share * scale * (u[j] / denom - t[j]);
                    axpy(g, index_keys + tokens[j] * di, di, acc);
                    axpy(g, qi + row * di, di, sum_dki + (seq.kv0 + tokens[j]) * di);
                }
                /* [gradient] */
                for (int c = 0; c < di; c++)
                    dqi[row * di + c] = (float)acc[c];
            }
        }
    }
    *loss = reverse ? total_reverse : total;
    for (int64_t i = 0; dki && i < ki_size; i++)
        dki[i] = (float)sum_dki[i];
    return MSA_OK;
}

msa_status msa_kl(const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,
                  const int32_t *ids, const float *lse, const float *index_lse, double weight, double *loss,
                  float *dqi, float *dki, void *work)
{
    (void)lse, (void)index_lse; /* recomputed in double */
    return kl(s, q, k, qi, ki, ids, weight, loss, dqi, dki, work, false);
}

msa_status msa_kl_reverse(const msa_shape *s, const float *q, const float *k, const float *qi,
                          const float *ki, const int32_t *ids, const float *lse, const float *index_lse,
                          double weight, double *loss, float *dqi, float *dki, void *work)
{
    (void)lse, (void)index_lse;
    return kl(s, q, k, qi, ki, ids, weight, loss, dqi, dki, work, true);
}
