/* What a layer's attention and selection look like: entropy, first block, agreement of the groups. */
#include <math.h>
#include <stdlib.h>

#include "../internal.h"
#include "evaluate.h"

/* Entropy of one head's full softmax at query i of one sequence, and its mass on the first block. */
static double row_entropy(const msa_shape *s, const msa_layer_state *st, int64_t i, int h, double *p,
                          double *first)
{
    const int d = s->d_head, r = h / (s->n_heads / s->n_kv_heads);
    const float *q = st->q + (i * s->n_heads + h) * d;
    double max = -INFINITY, sum = 0, weighted = 0, begin = 0;
    for (int64_t j = 0; j <= i; j++) {
        p[j] = dot(q, st->k + (j * s->n_kv_heads + r) * d, d) / sqrt(d);
        max = fmax(max, p[j]);
    }
    for (int64_t j = 0; j <= i; j++) {
        double e = exp(p[j] - max);
        sum += e;
        weighted += e * (p[j] - max);
        begin += j < s->block ? e : 0;
    }
    *first = begin / sum;
    return log(sum) - weighted / sum;
}

/* Of two rows of k blocks each, the local one last in both: how alike the others are. */
static double row_agreement(const int32_t *a, const int32_t *b, int k)
{
    int common = 0;
    for (int x = 0, y = 0; x < k - 1 && y < k - 1;) {
        common += a[x] == b[y];
        const int32_t low = a[x] < b[y] ? a[x] : b[y];
        x += a[x] == low;
        y += b[y] == low;
    }
    return k > 1 ? (double)common / (2 * (k - 1) - common) : 1;
}

/* Adds one layer's sums to `sum`; returns how many queries they are of. */
static int64_t look_at(const msa_shape *s, const msa_layer_state *st, double *p, eval_look *sum)
{
    const int G = s->n_kv_heads;
    int64_t queries = 0;
    for (int64_t i = (int64_t)s->topk * s->block; i < s->n_q; i++, queries++) {
        for (int h = 0; h < s->n_heads; h++) {
            double first;
            sum->entropy += row_entropy(s, st, i, h, p, &first) / s->n_heads;
            sum->first_mass += first / s->n_heads;
        }
        for (int r = 0; r < G; r++) {
            const int32_t *ids = st->ids + ((int64_t)r * s->n_q + i) * s->topk;
            sum->first_taken += (double)(ids[0] == 0) / G;
            for (int other = 0; other < r; other++)
                sum->agreement +=
                    row_agreement(ids, st->ids + ((int64_t)other * s->n_q + i) * s->topk, s->topk) * 2 /
                    (G * (G - 1));
        }
    }
    return queries;
}

bool eval_looks(const model *m, const msa_ops *ops, const eval_windows *t, eval_look *out)
{
    const int layers = m->config.n_layers;
    model_run *run = model_run_new(m, ops, 1, t->length, false);
    double *p = malloc((size_t)t->length * sizeof *p);
    const bool ok = run && p;
    for (int l = 0; ok && l < layers; l++)
        out[l] = (eval_look){.agreement = m->config.n_kv_heads > 1 ? 0 : NAN};
    int64_t queries = 0;
    for (int w = 0; ok && w < t->count; w++) {
        model_forward(m, run, MSA_ATTN_SPARSE, eval_window(t, w));
        const msa_shape s = model_run_shape(run);
        int64_t here = 0;
        for (int l = 0; l < layers; l++)
            here = look_at(&s, model_run_layer(run, l), p, &out[l]);
        queries += here;
    }
    for (int l = 0; ok && l < layers; l++) {
        const double n = (double)queries;
        out[l] = (eval_look){out[l].entropy / n, out[l].first_mass / n, out[l].first_taken / n,
                             out[l].agreement / n};
    }
    model_run_free(run);
    free(p);
    return ok;
}
