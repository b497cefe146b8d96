/**
 * @file test_evaluate.c
 * @brief What is measured of a model, against the same by plain loops over its activations and logits: bits
 * per byte, recall, looks, 8-bit index keys, agreement with dense attention, the task.
 */
#include <math.h>
#include <string.h>

#include "../ref/judge/inputs.h"
#include "../ref/model/evaluate.h"
#include "../ref/model/task.h"
#include "support/check.h"

enum { LAYERS = 2, GROUPS = 3, TOPK = 3, BLOCK = 4, CONTEXT = 40 };
static const model_config tiny = {.n_layers = LAYERS,
                                  .d_model = 12,
                                  .n_heads = 2 * GROUPS,
                                  .n_kv_heads = GROUPS,
                                  .d_head = 8,
                                  .d_index = 4,
                                  .d_ff = 20,
                                  .block = BLOCK,
                                  .topk = TOPK,
                                  .context = CONTEXT,
                                  .sparse = 1,
                                  .theta = 100,
                                  .eps = 1e-3};
static const verdict_budget close = {1e-9, 1e-9, NULL};

static model new_model(uint64_t salt)
{
    model m;
    io_error err;
    if (!model_new(&m, &tiny, check_seed(salt), err))
        tap(false, "model_new: %s", err);
    inputs_rng rng = {check_seed(salt + 1)};
    for (size_t i = 0; i < m.n_params; i++) // far from uniform attention
        m.params[i] = 0.5f * inputs_normal(&rng);
    return m;
}

static uint8_t *draw_text(int64_t n, uint64_t salt)
{
    inputs_rng rng = {check_seed(salt)};
    uint8_t *text = check_alloc(n, 1);
    for (int64_t i = 0; i < n; i++)
        text[i] = (uint8_t)inputs_below(&rng, MODEL_VOCAB);
    return text;
}

/* ---- Windows ------------------------------------------------------------------------------------------ */

static void windows_fit(void)
{
    check_case c = check_begin("windows: evenly spaced, no two overlap, none reads beyond the text");
    const model m = {.config = tiny};
    static const struct {
        int64_t n;
        int most, length, count;
    } expected[] = {{0, 5, CONTEXT, 0},
                    {1, 5, CONTEXT, 0},
                    {2, 5, 1, 1},
                    {CONTEXT, 5, CONTEXT - 1, 1},
                    {CONTEXT + 1, 5, CONTEXT, 1},
                    {2 * CONTEXT, 5, CONTEXT, 1},
                    {2 * CONTEXT + 1, 5, CONTEXT, 2},
                    {9 * CONTEXT + 7, 5, CONTEXT, 5}};
    for (size_t a = 0; a < sizeof expected / sizeof *expected; a++) {
        const uint8_t *text = draw_text(expected[a].n, 1);
        const eval_windows t = eval_windows_of(&m, text, expected[a].n, expected[a].most);
        check_true(&c, t.count == expected[a].count && (!t.count || t.length == expected[a].length),
                   "%lld bytes: %d windows of %d", (long long)expected[a].n, t.count, t.length);
        for (int w = 0; w < t.count; w++) {
            const int64_t at = eval_window(&t, w) - text,
                          next = (int64_t)(w + 1) * (expected[a].n - 1) / t.count;
            check_true(&c, at >= 0 && at + t.length <= next && at + t.length + 1 <= expected[a].n,
                       "window %d", w);
        }
    }
    check_end(&c);
    check_release(NULL);
}

// What is measured of a selection over two windows is the mean of what is measured in either: bits per byte,
// recall (but for the seeds of random blocks) and looks.
static void windows_are_averaged(void)
{
    check_case c = check_begin("evaluating two windows is the mean of evaluating each");
    model m = new_model(601);
    const uint8_t *text = draw_text(2 * tiny.context + 1, 602);
    const eval_windows both = {text, 2 * tiny.context + 1, tiny.context, 2};
    double bits = 0, both_bits = NAN;
    eval_look mean[LAYERS], sum[LAYERS] = {{0}};
    eval_recall found[LAYERS], recall[LAYERS] = {{{0}, {0}}};
    bool ok = eval_looks(&m, &msa_fast_ops, &both, mean) &&
              eval_recalls(&m, &msa_fast_ops, &both, 1, found) &&
              eval_bits_per_byte(&m, &msa_fast_ops, &both, MSA_ATTN_SPARSE, &both_bits);
    for (int w = 0; ok && w < 2; w++) {
        const eval_windows one = {eval_window(&both, w), tiny.context + 1, tiny.context, 1};
        eval_look look[LAYERS];
        eval_recall here[LAYERS];
        ok = eval_looks(&m, &msa_fast_ops, &one, look) && eval_recalls(&m, &msa_fast_ops, &one, 1, here);
        double bits_here = NAN;
        ok = eval_bits_per_byte(&m, &msa_fast_ops, &one, MSA_ATTN_SPARSE, &bits_here) && ok;
        bits += bits_here / 2;
        for (int l = 0; l < 2; l++) {
            sum[l].entropy += look[l].entropy / 2;
            sum[l].first_mass += look[l].first_mass / 2;
            sum[l].first_taken += look[l].first_taken / 2;
            sum[l].agreement += look[l].agreement / 2;
            recall[l].index.block_recall += here[l].index.block_recall / 2;
            recall[l].index.score_recall += here[l].index.score_recall / 2;
        }
    }
    check_true(&c, ok, "out of memory");
    const double oracle[] = {bits,
                             sum[0].entropy,
                             sum[0].first_mass,
                             sum[0].first_taken,
                             sum[0].agreement,
                             sum[1].entropy,
                             sum[1].first_mass,
                             sum[1].first_taken,
                             sum[1].agreement,
                             recall[0].index.block_recall,
                             recall[0].index.score_recall,
                             recall[1].index.block_recall,
                             recall[1].index.score_recall};
    const double two[] = {both_bits,
                          mean[0].entropy,
                          mean[0].first_mass,
                          mean[0].first_taken,
                          mean[0].agreement,
                          mean[1].entropy,
                          mean[1].first_mass,
                          mean[1].first_taken,
                          mean[1].agreement,
                          found[0].index.block_recall,
                          found[0].index.score_recall,
                          found[1].index.block_recall,
                          found[1].index.score_recall};
    check_doubles_near(&c, "means", sizeof two / sizeof *two, oracle, two,
                       (verdict_budget){1e-12, 1e-12, NULL});
    model_free(&m);
    check_release(NULL);
    check_end(&c);
}

/* ---- Recall ------------------------------------------------------------------------------------------- */

static void random_rows_are_even(void)
{
    check_case c = check_begin("random blocks: the local one, and each of the others as often");
    enum { Q = 300, ROWS = GROUPS * Q, REPEATS = 20 };
    const msa_shape s = {.n_q = Q,
                         .n_kv = Q + 2 * BLOCK,
                         .n_heads = GROUPS,
                         .n_kv_heads = GROUPS,
                         .d_head = 4,
                         .d_index = 4,
                         .block = BLOCK,
                         .topk = TOPK,
                         .n_seqs = 1};
    int32_t *ids = check_ints(ROWS * TOPK);
    int taken[8] = {0};
    for (int n = 0; n < REPEATS; n++) {
        eval_random_ids(&s, check_seed(3) + (uint64_t)n, ids);
        for (int row = 0; row < ROWS; row++) {
            const int32_t *id = ids + row * TOPK, local = (2 * BLOCK + row % Q) / BLOCK;
            const int expected = local + 1 < TOPK ? local + 1 : TOPK;
            bool right = id[expected - 1] == local;
            for (int a = 1; a < TOPK; a++)
                right = right && (a < expected ? id[a] > id[a - 1] : id[a] == -1);
            check_true(&c, right && id[0] >= 0, "row %d: %d %d %d", row, id[0], id[1], id[2]);
            for (int a = 0; local == 8 && a < TOPK - 1; a++)
                taken[id[a] % 8]++;
        }
    }
    const double rows = REPEATS * GROUPS * BLOCK, part = (TOPK - 1) / 8.0;
    for (int b = 0; b < 8; b++)
        check_true(&c, fabs(taken[b] - rows * part) < 6 * sqrt(rows * part * (1 - part)),
                   "block %d of 8: taken %d times, about %g expected", b, taken[b], rows * part);
    check_end(&c);
    check_release(NULL);
}

static void means_of_recall(void)
{
    check_case c = check_begin("recall: averages weighted by rows, then a mean over layers");
    msa_recall_result sum = {0};
    const msa_recall_result none = {0, NAN, NAN}, one = {3, 0.5, 0.25}, two = {1, 1, 0.75};
    eval_add_recall(&sum, &none);
    eval_add_recall(&sum, &one);
    eval_add_recall(&sum, &two);
    check_true(&c, sum.rows == 4 && sum.block_recall == 2.5 && sum.score_recall == 1.5, "sums");
    const eval_recall layers[2] = {{{1, 0.5, 0.25}, {1, 0.125, 0.75}}, {{9, 1, 0.75}, {9, 0.375, 0.25}}};
    const eval_recall mean = eval_mean_recall(layers, 2);
    check_true(&c, mean.index.block_recall == 0.75 && mean.index.score_recall == 0.5, "index");
    check_true(&c, mean.random.block_recall == 0.25 && mean.random.score_recall == 0.5, "random");
    check_end(&c);
}

static void recall_of_layers(void)
{
    check_case c = check_begin("recall of every layer, and of random blocks in its place");
    model m = new_model(20);
    const uint8_t *text = draw_text(CONTEXT + 1, 22);
    const eval_windows t = {text, CONTEXT + 1, CONTEXT, 1};
    eval_recall found[LAYERS];
    model_run *run = model_run_new(&m, &msa_fast_ops, 1, CONTEXT, false);
    check_true(&c, run && eval_recalls(&m, &msa_fast_ops, &t, 7, found), "memory");
    model_forward(&m, run, MSA_ATTN_SPARSE, text);
    const msa_shape s = model_run_shape(run);
    int32_t *random = check_ints(GROUPS * CONTEXT * TOPK);
    void *work = check_alloc((int64_t)msa_recall_workspace(&s), 1);
    for (int l = 0; l < LAYERS; l++) {
        const msa_layer_state *st = model_run_layer(run, l);
        msa_recall_result index, other;
        eval_random_ids(&s, 7 + (uint64_t)l, random);
        msa_recall(&s, st->q, st->k, st->ids, NULL, &index, work);
        msa_recall(&s, st->q, st->k, random, NULL, &other, work);
        const double oracle[] = {index.block_recall, index.score_recall, other.block_recall,
                                 other.score_recall},
                     is[] = {found[l].index.block_recall, found[l].index.score_recall,
                             found[l].random.block_recall, found[l].random.score_recall};
        check_doubles_near(&c, "recall", 4, oracle, is, close);
        check_true(&c, found[l].index.rows == index.rows && index.rows > 0, "rows");
    }
    model_run_free(run);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

/* ---- Looks -------------------------------------------------------------------------------------------- */

static bool holds(const int32_t *row, int n, int32_t id)
{
    bool found = false;
    for (int a = 0; a < n; a++)
        found = found || row[a] == id;
    return found;
}

/* Of two rows, but for the local blocks at their ends. */
static double jaccard(const int32_t *a, const int32_t *b)
{
    int both = 0;
    for (int x = 0; x < TOPK - 1; x++)
        both += holds(b, TOPK - 1, a[x]);
    return both / (2.0 * (TOPK - 1) - both);
}

static eval_look look_by_hand(const msa_layer_state *st)
{
    eval_look sum = {0};
    const int heads = tiny.n_heads, d = tiny.d_head;
    double p[CONTEXT];
    for (int i = TOPK * BLOCK; i < CONTEXT; i++) {
        for (int h = 0; h < heads; h++) {
            double denom = 0;
            for (int j = 0; j <= i; j++) {
                double logit = 0;
                for (int c = 0; c < d; c++)
                    logit +=
                        (double)st->q[(i * heads + h) * d + c] * (double)st->k[(j * GROUPS + h / 2) * d + c];
                denom += p[j] = exp(logit / sqrt(d));
            }
            for (int j = 0; j <= i; j++) {
                sum.entropy -= p[j] / denom * log(p[j] / denom) / heads;
                sum.first_mass += j < BLOCK ? p[j] / denom / heads : 0;
            }
        }
        const int32_t *row[GROUPS];
        for (int r = 0; r < GROUPS; r++) {
            row[r] = st->ids + (r * CONTEXT + i) * TOPK;
            sum.first_taken += holds(row[r], TOPK, 0) / (double)GROUPS;
        }
        sum.agreement += (jaccard(row[0], row[1]) + jaccard(row[0], row[2]) + jaccard(row[1], row[2])) / 3;
    }
    const double n = CONTEXT - TOPK * BLOCK;
    return (eval_look){sum.entropy / n, sum.first_mass / n, sum.first_taken / n, sum.agreement / n};
}

static void looks(void)
{
    check_case c = check_begin("looks: entropy, the first block, agreement of groups");
    model m = new_model(30);
    const uint8_t *text = draw_text(CONTEXT + 1, 32);
    const eval_windows t = {text, CONTEXT + 1, CONTEXT, 1};
    eval_look found[LAYERS];
    model_run *run = model_run_new(&m, &msa_fast_ops, 1, CONTEXT, false);
    check_true(&c, run && eval_looks(&m, &msa_fast_ops, &t, found), "memory");
    model_forward(&m, run, MSA_ATTN_SPARSE, text);
    for (int l = 0; l < LAYERS; l++) {
        const eval_look right = look_by_hand(model_run_layer(run, l));
        check_doubles_near(&c, "look", 4, &right.entropy, &found[l].entropy, close);
    }
    model_run_free(run);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

/* ---- 8-bit index keys --------------------------------------------------------------------------------- */

static void small_keys(void)
{
    check_case c = check_begin("8-bit index keys: what they choose otherwise than 16-bit ones");
    model m = new_model(40);
    const uint8_t *text = draw_text(2 * CONTEXT + 1, 42);
    const eval_windows t = {text, 2 * CONTEXT + 1, CONTEXT, 2};
    eval_small found[LAYERS];
    model_run *run = model_run_new(&m, &msa_fast_ops, 1, CONTEXT, false);
    check_true(&c, run && eval_small_layers(&m, &msa_fast_ops, &t, found), "memory");
    const msa_shape s = model_run_shape(run);
    enum { KEYS = CONTEXT * 4, ROWS = GROUPS * CONTEXT };
    int32_t *ids[2] = {check_ints(ROWS * TOPK), check_ints(ROWS * TOPK)};
    void *work = check_alloc((int64_t)(msa_recall_workspace(&s) + msa_workspace(NULL, &s)), 1);
    for (int l = 0; l < LAYERS; l++) {
        int64_t rows = 0, equal = 0, both = 0;
        msa_recall_result sum[2] = {{0}, {0}};
        for (int w = 0; w < 2; w++) {
            model_forward(&m, run, MSA_ATTN_SPARSE, eval_window(&t, w));
            const msa_layer_state *st = model_run_layer(run, l);
            for (int bits = 0; bits < 2; bits++) {
                float keys[KEYS];
                for (int i = 0; i < KEYS; i++)
                    keys[i] = msa_bf16(st->ki[i]);
                for (int b = 0; bits == 1 && b < KEYS; b += 4 * BLOCK) {
                    uint8_t code[4 * BLOCK];
                    float scale;
                    msa_e4m3_block(keys + b, 4 * BLOCK, code, &scale);
                    for (int i = 0; i < 4 * BLOCK; i++)
                        keys[b + i] = scale * msa_e4m3(code[i]);
                }
                msa_recall_result one;
                msa_index(&s, st->qi, keys, NULL, ids[bits], NULL, work);
                msa_recall(&s, st->q, st->k, ids[bits], NULL, &one, work);
                eval_add_recall(&sum[bits], &one);
            }
            for (int row = 0; row < ROWS; row++) {
                if (row % CONTEXT / BLOCK < TOPK) // no choice
                    continue;
                int same = 0;
                for (int a = 0; a < TOPK; a++)
                    same += holds(ids[1] + row * TOPK, TOPK, ids[0][row * TOPK + a]);
                rows++, both += same, equal += same == TOPK;
            }
        }
        check_true(&c,
                   found[l].rows == rows && found[l].equal == equal && found[l].ids == rows * TOPK &&
                       found[l].in_both == both,
                   "layer %d: %lld of %lld rows, expected %lld of %lld", l, (long long)found[l].equal,
                   (long long)found[l].rows, (long long)equal, (long long)rows);
        for (int bits = 0; bits < 2; bits++) {
            const double oracle[] = {(double)sum[bits].rows, sum[bits].block_recall, sum[bits].score_recall},
                         is[] = {(double)found[l].bits[bits].rows, found[l].bits[bits].block_recall,
                                 found[l].bits[bits].score_recall};
            check_doubles_near(&c, "recall", 3, oracle, is, close);
        }
    }
    model_run_free(run);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

// What a bound leaves open, counted without it: the same keys screened by the library's own bounds.
static void screened_keys(void)
{
    check_case c =
        check_begin("8-bit index keys with a bound: no id is another, and the blocks that are settled");
    model m = new_model(43);
    const uint8_t *text = draw_text(CONTEXT + 1, 44);
    const eval_windows t = {text, CONTEXT + 1, CONTEXT, 1};
    eval_small found[LAYERS];
    model_run *run = model_run_new(&m, &msa_fast_ops, 1, CONTEXT, false);
    check_true(&c, run && eval_small_layers(&m, &msa_fast_ops, &t, found), "memory");
    model_forward(&m, run, MSA_ATTN_SPARSE, text);
    const msa_shape s = model_run_shape(run);
    enum { B = CONTEXT / BLOCK, D = 4 };
    for (int l = 0; l < LAYERS; l++) {
        const msa_layer_state *st = model_run_layer(run, l);
        int8_t codes[CONTEXT * D], code[D];
        float scale[B], reach[B], error[B], least[B], keys[CONTEXT * D];
        double room[D], lower[B], upper[B];
        const msa_index8 copy = {codes, scale, reach, error, least};
        for (int i = 0; i < CONTEXT * D; i++)
            keys[i] = msa_bf16(st->ki[i]);
        msa_index8_keys(&s, NULL, keys, NULL, &copy, room);
        int64_t rows = 0, blocks = 0, settled = 0, whole = 0;
        for (int row = 0; row < CONTEXT * GROUPS; row++) {
            const int local = row / GROUPS / BLOCK;
            if (local < TOPK)
                continue;
            const msa_index8_query q = msa_index8_round(st->qi + row * D, D, 1, code, room);
            msa_index8_bounds(&s, &copy, 0, local, code, &q, lower, upper);
            int open = 0;
            for (int b = 0; b < local; b++) { // fewer than k - 1 are above it for certain
                int above = 0;
                for (int a = 0; a < local; a++)
                    above += lower[a] > upper[b];
                open += above < TOPK - 1;
            }
            rows++, blocks += local, settled += open, whole += open == local;
        }
        const msa_screening *e = &found[l].exact;
        check_true(&c, found[l].wrong == 0, "layer %d: %lld ids are others", l, (long long)found[l].wrong);
        check_true(
            &c, e->rows == rows && e->blocks == blocks && e->settled == settled && e->fell_back == whole,
            "layer %d: %lld of %lld settled in %lld rows, %lld wholly, expected %lld of %lld in %lld, %lld",
            l, (long long)e->settled, (long long)e->blocks, (long long)e->rows, (long long)e->fell_back,
            (long long)settled, (long long)blocks, (long long)rows, (long long)whole);
        check_true(&c, settled >= rows * (TOPK - 1) && settled < blocks, "a bound that rules something out");
    }
    model_run_free(run);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

/* ---- One selection for several layers ------------------------------------------------------------------ */

enum { IDS = GROUPS * CONTEXT * TOPK };
static int32_t layer0[IDS];
static int attended, of_layer0;

static msa_status watch_sparse(const msa_shape *s, const msa_arrays *a, void *work)
{
    if (attended++ % LAYERS == 0)
        memcpy(layer0, a->ids, sizeof layer0);
    else
        of_layer0 += memcmp(layer0, a->ids, sizeof layer0) == 0;
    return msa_fast_ops.stage[MSA_STAGE_SPARSE]->run(s, a, work);
}

static void reuse(void)
{
    check_case c = check_begin(
        "ids of an earlier layer: recall by them, and bits where only every second layer chooses");
    model m = new_model(45);
    const uint8_t *text = draw_text(2 * CONTEXT + 1, 46);
    const eval_windows t = {text, 2 * CONTEXT + 1, CONTEXT, 2};
    msa_recall_result found[LAYERS][EVAL_FARTHEST + 1];
    double every = NAN, own = NAN, second = NAN;
    msa_kernel sparse = *msa_fast_ops.stage[MSA_STAGE_SPARSE];
    msa_ops watched = msa_fast_ops;
    sparse.run = watch_sparse;
    watched.stage[MSA_STAGE_SPARSE] = &sparse;
    check_true(&c,
               eval_reuse_recalls(&m, &msa_fast_ops, &t, found) &&
                   eval_bits_per_byte(&m, &msa_fast_ops, &t, MSA_ATTN_SPARSE, &own) &&
                   eval_reuse_bits(&m, &watched, &t, 1, &every),
               "memory");
    check_true(&c, attended == 2 * LAYERS && of_layer0 == 0,
               "every layer chooses: %d attend, %d by ids of the first", attended, of_layer0);
    check_true(&c, own >= every && own <= every, "%.17g, without sharing %.17g", every, own);
    check_true(&c, eval_reuse_bits(&m, &watched, &t, 2, &second), "memory");
    check_true(&c, attended == 4 * LAYERS && of_layer0 == 2, "shared: %d attend, %d by ids of the first",
               attended, of_layer0);
    check_true(&c, fabs(second - own) > 1e-6, "shared: %.17g, not %.17g", second, own);
    model_run *run = model_run_new(&m, &msa_fast_ops, 1, CONTEXT, false);
    const msa_shape s = model_run_shape(run);
    void *work = check_alloc((int64_t)msa_recall_workspace(&s), 1);
    msa_recall_result sum[LAYERS][LAYERS] = {{{0}}};
    double loss = 0;
    for (int w = 0; w < 2; w++) {
        model_forward(&m, run, MSA_ATTN_SPARSE, eval_window(&t, w));
        for (int l = 0; l < LAYERS; l++)
            for (int from = 0; from <= l; from++) {
                msa_recall_result one;
                const msa_layer_state *st = model_run_layer(run, l);
                msa_recall(&s, st->q, st->k, model_run_layer(run, from)->ids, NULL, &one, work);
                eval_add_recall(&sum[l][from], &one);
            }
        loss += model_loss(run, eval_window(&t, w) + 1, NULL) / 2 / log(2);
    }
    check_true(&c, fabs(loss - own) < 1e-9, "bits %.9g, %.9g", loss, own);
    for (int l = 0; l < LAYERS; l++)
        for (int before = 0; before <= EVAL_FARTHEST; before++) {
            if (before > l) {
                check_true(&c, isnan(found[l][before].score_recall), "no layer %d before layer %d", before,
                           l);
                continue;
            }
            const msa_recall_result *e = &sum[l][l - before];
            const double oracle[] = {e->block_recall / (double)e->rows, e->score_recall / (double)e->rows},
                         is[] = {found[l][before].block_recall, found[l][before].score_recall};
            check_doubles_near(&c, "recall", 2, oracle, is, close);
        }
    model_run_free(run);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

/* ---- Agreement with dense attention ------------------------------------------------------------------- */

static void agreement_with_dense(void)
{
    check_case c = check_begin("agreement with dense attention: all blocks are, and NaN is seen");
    model m = new_model(50);
    const uint8_t *text = draw_text(CONTEXT + 1, 52);
    const eval_windows t = {text, CONTEXT + 1, CONTEXT, 1};
    double worst = NAN;
    check_true(&c, eval_dense_agreement(&m, &t, &worst) && worst > 0 && worst < 1e-3, "%g", worst);
    m.params[m.n_params - 1] = NAN;
    check_true(&c, eval_dense_agreement(&m, &t, &worst) && isnan(worst), "%g where a weight is NaN", worst);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

/* ---- The task ----------------------------------------------------------------------------------------- */

static void task_by_hand(void)
{
    check_case c = check_begin("the task: bits and right answers by distance, from what the model says");
    enum { COUNT = 40 };
    model m = new_model(60);
    for (int t = 0; t < m.n_tensors; t++) // a model that guesses among the answers
        for (int64_t i = 0; strcmp(m.tensor[t].name, "head") == 0 && i < (int64_t)m.tensor[t].count; i++)
            if (i % MODEL_VOCAB >= TASK_ANSWER && i % MODEL_VOCAB < TASK_NOISE)
                m.params[m.tensor[t].offset + (size_t)i] *= 20;
    task_result found;
    uint8_t *text = check_alloc(COUNT * CONTEXT + 1, 1);
    model_run *run = model_run_new(&m, &msa_fast_ops, 1, CONTEXT, false);
    check_true(&c, run && task_judge(&m, &msa_fast_ops, 5, COUNT, &found) && task_text(&m, 5, COUNT, text),
               "memory");
    check_true(&c, text[COUNT * CONTEXT] >= TASK_NOISE, "what follows the text is noise");
    double asked[TASK_BINS] = {0}, right[TASK_BINS] = {0}, bits = 0, all = 0, all_right = 0;
    for (int a = 0; a < COUNT; a++) {
        const uint8_t *sequence = text + a * CONTEXT;
        model_forward(&m, run, MSA_ATTN_SPARSE, sequence);
        for (int i = 0; i < CONTEXT; i++) {
            if (sequence[i] < TASK_ASK || sequence[i] >= TASK_ANSWER)
                continue;
            int at = 0;
            while (sequence[at] / TASK_VALUES != sequence[i] - TASK_ASK)
                at++;
            const float *logits = model_run_logits(run) + i * MODEL_VOCAB;
            const int target = TASK_ANSWER + sequence[at] % TASK_VALUES;
            double denom = 0;
            bool best = true;
            for (int v = 0; v < MODEL_VOCAB; v++) {
                denom += exp((double)logits[v]);
                best = best && (v == target || logits[v] < logits[target]);
            }
            const int bin = (int)ceil(TASK_BINS * (i - at) / (double)CONTEXT) - 1;
            asked[bin]++, all++;
            right[bin] += best, all_right += best;
            bits += (log(denom) - (double)logits[target]) / log(2);
        }
    }
    check_true(&c, all_right > 0, "some answers are right");
    const double oracle[] = {bits / all, all_right / all, right[0] / asked[0], right[1] / asked[1],
                             right[2] / asked[2]};
    const double is[] = {found.bits, found.accuracy, found.bin[0], found.bin[1], found.bin[2]};
    check_doubles_near(&c, "result", 5, oracle, is, (verdict_budget){1e-5, 1e-5, NULL});
    check_true(&c, asked[3] == 0 ? isnan(found.bin[3]) : found.bin[3] == right[3] / asked[3],
               "the longest distances");
    model_run_free(run);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    windows_fit();
    windows_are_averaged();
    random_rows_are_even();
    means_of_recall();
    recall_of_layers();
    looks();
    small_keys();
    screened_keys();
    reuse();
    agreement_with_dense();
    task_by_hand();
    return check_done();
}
