/* Loss and recall of a model on a text. */
#include "evaluate.h"

#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "random.h"

eval_windows eval_windows_of(const model *m, const uint8_t *bytes, int64_t n, int most)
{
    eval_windows t = {bytes, n, m->config.context, 0};
    if (n < 2)
        return t;
    if (n - 1 < t.length)
        t.length = (int)(n - 1);
    int64_t fit = (n - 1) / t.length;
    t.count = fit < most ? (int)fit : most;
    return t;
}

const uint8_t *eval_window(const eval_windows *t, int w)
{
    return t->bytes + w * ((t->n - 1) / t->count);
}

double eval_bits_per_byte(const model *m, const msa_ops *ops, const eval_windows *t, msa_attention mode)
{
    model_run *run = t->count > 0 ? model_run_new(m, ops, 1, t->length, false) : NULL;
    double total = run ? 0 : NAN;
    for (int w = 0; run && w < t->count; w++) {
        model_forward(m, run, mode, eval_window(t, w));
        total += model_loss(run, eval_window(t, w) + 1, NULL);
    }
    model_run_free(run);
    return total / t->count / log(2);
}

/* Selection sampling (Knuth's algorithm S): ascending, every subset equally likely. */
void eval_random_ids(const msa_shape *s, uint64_t seed, int32_t *ids)
{
    uint64_t number = 0;
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t i = 0; i < s->n_q; i++, ids += s->topk) {
            const int64_t local = (s->n_kv - s->n_q + i) / s->block;
            int64_t left = s->topk - 1 < local ? s->topk - 1 : local, n = 0;
            for (int64_t b = 0; b < local; b++)
                if (random_uniform(seed, number++) * (double)(local - b) < (double)left) {
                    ids[n++] = (int32_t)b;
                    left--;
                }
            ids[n++] = (int32_t)local;
            while (n < s->topk)
                ids[n++] = -1;
        }
}

void eval_add_recall(msa_recall_result *sum, const msa_recall_result *one)
{
    if (one->rows == 0)
        return;
    sum->rows += one->rows;
    sum->block_recall += one->block_recall * (double)one->rows;
    sum->score_recall += one->score_recall * (double)one->rows;
}

static msa_recall_result average(const msa_recall_result *sum)
{
    double n = (double)sum->rows;
    return (msa_recall_result){sum->rows, sum->block_recall / n, sum->score_recall / n};
}

static bool layer_recall(const model_run *run, int layer, uint64_t seed, eval_recall *sum)
{
    const msa_shape s = model_run_shape(run);
    const msa_layer_state *st = model_run_layer(run, layer);
    int32_t *ids = malloc((size_t)s.n_kv_heads * (size_t)s.n_q * (size_t)s.topk * sizeof *ids);
    void *work = malloc(msa_recall_workspace(&s));
    bool ok = ids && work;
    if (ok) {
        msa_recall_result one;
        must(msa_recall(&s, st->q, st->k, st->ids, NULL, &one, work));
        eval_add_recall(&sum->index, &one);
        eval_random_ids(&s, seed, ids);
        must(msa_recall(&s, st->q, st->k, ids, NULL, &one, work));
        eval_add_recall(&sum->random, &one);
    }
    free(ids);
    free(work);
    return ok;
}

bool eval_recalls(const model *m, const msa_ops *ops, const eval_windows *t, uint64_t seed, eval_recall *out)
{
    const int layers = m->config.n_layers;
    model_run *run = model_run_new(m, ops, 1, t->length, false);
    bool ok = run != NULL;
    memset(out, 0, (size_t)layers * sizeof *out);
    for (int w = 0; ok && w < t->count; w++) {
        model_forward(m, run, MSA_ATTN_SPARSE, eval_window(t, w));
#pragma omp parallel for schedule(dynamic) reduction(&& : ok)
        for (int l = 0; l < layers; l++)
            ok = layer_recall(run, l, seed + (uint64_t)(w * layers + l), &out[l]) && ok;
    }
    for (int l = 0; l < layers; l++) {
        out[l].index = average(&out[l].index);
        out[l].random = average(&out[l].random);
    }
    model_run_free(run);
    return ok;
}

eval_recall eval_mean_recall(const eval_recall *layer, int layers)
{
    eval_recall mean = {{0, 0, 0}, {0, 0, 0}};
    for (int l = 0; l < layers; l++) {
        mean.index.block_recall += layer[l].index.block_recall / layers;
        mean.index.score_recall += layer[l].index.score_recall / layers;
        mean.random.block_recall += layer[l].random.block_recall / layers;
        mean.random.score_recall += layer[l].random.score_recall / layers;
    }
    return mean;
}

/* ---- What a layer looks like ----------------------------------------------------------------------------
 */

static double dot_product(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int c = 0; c < n; c++)
        sum += (double)a[c] * (double)b[c];
    return sum;
}

/* Entropy of one head's full softmax at query i of one sequence, and its mass on the first block. */
static double row_entropy(const msa_shape *s, const msa_layer_state *st, int64_t i, int h, double *p,
                          double *first)
{
    const int d = s->d_head, r = h / (s->n_heads / s->n_kv_heads);
    const float *q = st->q + (i * s->n_heads + h) * d;
    double max = -INFINITY, sum = 0, weighted = 0, begin = 0;
    for (int64_t j = 0; j <= i; j++) {
        p[j] = dot_product(q, st->k + (j * s->n_kv_heads + r) * d, d) / sqrt(d);
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

double eval_dense_agreement(const model *m, const eval_windows *t)
{
    model all = *m; /* shares the weights; selects every block */
    all.config.topk = (t->length + m->config.block - 1) / m->config.block;
    msa_ops exact = msa_fast_ops;
    exact.stage[MSA_STAGE_DENSE] = msa_ref_ops.stage[MSA_STAGE_DENSE];
    model_run *sparse = model_run_new(&all, &msa_fast_ops, 1, t->length, false);
    model_run *dense = model_run_new(&all, &exact, 1, t->length, false);
    double worst = sparse && dense ? 0 : NAN;
    if (sparse && dense) {
        model_forward(&all, sparse, MSA_ATTN_SPARSE, eval_window(t, 0));
        model_forward(&all, dense, MSA_ATTN_DENSE, eval_window(t, 0));
        for (int64_t i = 0; i < (int64_t)t->length * MODEL_VOCAB; i++) {
            double gap = fabs((double)model_run_logits(sparse)[i] - (double)model_run_logits(dense)[i]);
            if (!(gap <= worst))
                worst = gap;
        }
    }
    model_run_free(sparse);
    model_run_free(dense);
    return worst;
}
