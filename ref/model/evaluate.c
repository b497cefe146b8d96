/* Loss and recall of a model on a text. */
#include "evaluate.h"

#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "internal.h"

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

bool eval_bits_per_byte(const model *m, const msa_ops *ops, const eval_windows *t, msa_attention mode,
                        double *bits)
{
    *bits = NAN;
    if (t->count == 0)
        return true;
    model_run *run = model_run_new(m, ops, 1, t->length, false);
    if (!run)
        return false;
    double total = 0;
    for (int w = 0; w < t->count; w++) {
        model_forward(m, run, mode, eval_window(t, w));
        total += model_loss(run, eval_window(t, w) + 1, NULL);
    }
    model_run_free(run);
    *bits = total / t->count / log(2);
    return true;
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

bool eval_small_new(eval_small *a, const msa_shape *s, const float *ki)
{
    const int64_t n = s->n_kv * s->d_index, block = (int64_t)s->block * s->d_index;
    uint8_t *bits = malloc((size_t)n);
    *a = (eval_small){.ki = {malloc((size_t)n * sizeof(float)), malloc((size_t)n * sizeof(float))}};
    const bool ok = bits && a->ki[0] && a->ki[1];
    for (int64_t i = 0; ok && i < n; i++)
        a->ki[0][i] = msa_bf16(ki[i]);
    for (int64_t i = 0; ok && i < n; i += block) {
        const int64_t here = n - i < block ? n - i : block;
        float scale;
        msa_e4m3_block(a->ki[0] + i, here, bits, &scale);
        for (int64_t c = 0; c < here; c++)
            a->ki[1][i + c] = scale * msa_e4m3(bits[c]);
    }
    free(bits);
    return ok;
}

void eval_small_free(eval_small *a)
{
    free(a->ki[0]);
    free(a->ki[1]);
}

static int in_both(const int32_t *a, const int32_t *b, int k)
{
    int n = 0;
    for (int x = 0; x < k; x++)
        for (int y = 0; y < k; y++)
            n += a[x] == b[y];
    return n;
}

void eval_small_add(eval_small *a, const msa_shape *s, const float *q, const float *k, const float *qi,
                    int32_t *ids, void *work)
{
    const int64_t rows = s->n_kv_heads * s->n_q;
    for (int which = 0; which < 2; which++) {
        msa_recall_result one;
        must(msa_index(s, qi, a->ki[which], NULL, ids + which * rows * s->topk, NULL, work));
        must(msa_recall(s, q, k, ids + which * rows * s->topk, NULL, &one, work));
        eval_add_recall(&a->bits[which], &one);
    }
    for (int64_t row = 0; row < rows; row++) {
        const int32_t *mine = ids + row * s->topk;
        const int64_t local = (s->n_kv - s->n_q + row % s->n_q) / s->block;
        if (local < s->topk)
            continue;
        const int both = in_both(mine, mine + rows * s->topk, s->topk);
        a->rows++;
        a->equal += both == s->topk;
        a->ids += s->topk;
        a->in_both += both;
    }
}

void eval_small_sum(eval_small *sum, const eval_small *one)
{
    for (int which = 0; which < 2; which++) {
        sum->bits[which].rows += one->bits[which].rows;
        sum->bits[which].block_recall += one->bits[which].block_recall;
        sum->bits[which].score_recall += one->bits[which].score_recall;
    }
    sum->rows += one->rows;
    sum->equal += one->equal;
    sum->ids += one->ids;
    sum->in_both += one->in_both;
    sum->exact.rows += one->exact.rows;
    sum->exact.blocks += one->exact.blocks;
    sum->exact.settled += one->exact.settled;
    sum->exact.fell_back += one->exact.fell_back;
    sum->wrong += one->wrong;
}

/* The keys of 16 bits once more, screened by a copy of 8. @param ids [2,Hkv,T,k]: theirs; room for others */
static bool small_screened(eval_small *a, const msa_shape *s, const float *qi, int32_t *ids)
{
    const size_t blocks = (size_t)msa_n_seqs(s) * (size_t)msa_n_blocks(s),
                 n = (size_t)s->n_q * (size_t)s->n_kv_heads;
    float *numbers = malloc(4 * blocks * sizeof *numbers);
    int8_t *codes = malloc((size_t)s->n_kv * (size_t)s->d_index);
    double *room = malloc((size_t)s->d_index * sizeof *room);
    void *work = malloc(msa_index8_workspace(s));
    const bool ok = numbers && codes && room && work;
    if (ok) {
        const msa_index8 copy = {codes, numbers, numbers + blocks, numbers + 2 * blocks,
                                 numbers + 3 * blocks};
        must(msa_index8_keys(s, NULL, a->ki[0], NULL, &copy, room));
        int32_t *found = ids + n * (size_t)s->topk;
        must(msa_index8_select(s, qi, 1, a->ki[0], &copy, found, &a->exact, work));
        for (size_t i = 0; i < n * (size_t)s->topk; i++)
            a->wrong += found[i] != ids[i];
    }
    free(numbers);
    free(codes);
    free(room);
    free(work);
    return ok;
}

static bool layer_small(const model_run *run, int layer, eval_small *sum)
{
    const msa_shape s = model_run_shape(run);
    const msa_layer_state *st = model_run_layer(run, layer);
    const size_t recall = msa_recall_workspace(&s), index = msa_ref_ops.stage[MSA_STAGE_INDEX]->workspace(&s);
    int32_t *ids = malloc(2 * (size_t)s.n_kv_heads * (size_t)s.n_q * (size_t)s.topk * sizeof *ids);
    void *work = malloc(recall > index ? recall : index);
    eval_small one;
    bool ok = eval_small_new(&one, &s, st->ki) && ids && work;
    if (ok) {
        eval_small_add(&one, &s, st->q, st->k, st->qi, ids, work);
        ok = small_screened(&one, &s, st->qi, ids);
        eval_small_sum(sum, &one);
    }
    eval_small_free(&one);
    free(ids);
    free(work);
    return ok;
}

bool eval_small_layers(const model *m, const msa_ops *ops, const eval_windows *t, eval_small *out)
{
    const int layers = m->config.n_layers;
    model_run *run = model_run_new(m, ops, 1, t->length, false);
    bool ok = run != NULL;
    memset(out, 0, (size_t)layers * sizeof *out);
    for (int w = 0; ok && w < t->count; w++) {
        model_forward(m, run, MSA_ATTN_SPARSE, eval_window(t, w));
#pragma omp parallel for schedule(dynamic) reduction(&& : ok)
        for (int l = 0; l < layers; l++)
            ok = layer_small(run, l, &out[l]) && ok;
    }
    model_run_free(run);
    return ok;
}

bool eval_dense_agreement(const model *m, const eval_windows *t, double *worst)
{
    model all = *m; /* shares the weights; selects every block */
    all.config.topk = (t->length + m->config.block - 1) / m->config.block;
    msa_ops exact = msa_fast_ops;
    exact.stage[MSA_STAGE_DENSE] = msa_ref_ops.stage[MSA_STAGE_DENSE];
    model_run *sparse = model_run_new(&all, &msa_fast_ops, 1, t->length, false);
    model_run *dense = model_run_new(&all, &exact, 1, t->length, false);
    const bool ok = sparse && dense;
    *worst = 0;
    if (ok) {
        model_forward(&all, sparse, MSA_ATTN_SPARSE, eval_window(t, 0));
        model_forward(&all, dense, MSA_ATTN_DENSE, eval_window(t, 0));
        for (int64_t i = 0; i < (int64_t)t->length * MODEL_VOCAB; i++) {
            double gap = fabs((double)model_run_logits(sparse)[i] - (double)model_run_logits(dense)[i]);
            if (!(gap <= *worst))
                *worst = gap;
        }
    }
    model_run_free(sparse);
    model_run_free(dense);
    return ok;
}
