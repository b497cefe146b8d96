/* Hugging Face's eager attention in bf16: five lines of PyTorch, each of which stores its result in bf16. */
#include "eager.h"

#include <stdlib.h>

#include "../internal.h"

static double rounded(double x)
{
    return (double)msa_bf16((float)x);
}

static void eager_row(int d, int64_t stride, const float *q, const float *k, const float *v,
                      const int64_t *tokens, int64_t n, double *p, double *sum, float *o)
{
    double denom;
    for (int64_t i = 0; i < n; i++)
        p[i] = rounded(rounded(dot(q, k + tokens[i] * stride, d)) / sqrt(d));
    softmax_row(p, n, false, &denom);
    memset(sum, 0, (size_t)d * sizeof *sum);
    for (int64_t i = 0; i < n; i++)
        axpy(rounded(p[i] / denom), v + tokens[i] * stride, d, sum);
    for (int c = 0; c < d; c++)
        o[c] = (float)rounded(sum[c]);
}

bool eager_attention(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                     float *o)
{
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const size_t most = (size_t)max_support(s, false);
    int64_t *tokens = malloc(most * sizeof *tokens);
    double *p = malloc((most + (size_t)d) * sizeof *p);
    const bool ok = tokens && p;
    for (int b = 0; ok && b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int64_t i = 0; i < seq.n_q; i++)
            for (int h = 0; h < s->n_heads; h++) {
                const int r = h / group;
                const int64_t kv = (seq.kv0 * s->n_kv_heads + r) * d,
                              row = ((seq.q0 + i) * s->n_heads + h) * d;
                const int64_t n = list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), tokens);
                eager_row(d, (int64_t)s->n_kv_heads * d, q + row, k + kv, v + kv, tokens, n, p, p + most,
                          o + row);
            }
    }
    free(tokens);
    free(p);
    return ok;
}
