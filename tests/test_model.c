/**
 * @file test_model.c
 * @brief The whole network: gradients of every tensor against differences, the two zeros, decoding against
 * prefill, MSA against its dense twin, checkpoints, repeatability.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "../ref/call.h"
#include "../ref/model/model.h"
#include "support/check.h"
#include "support/numeric.h"
#include "support/scratch.h"

static const model_config tiny = {.n_layers = 2,
                                  .d_model = 12,
                                  .n_heads = 4,
                                  .n_kv_heads = 2,
                                  .d_head = 8,
                                  .d_index = 4,
                                  .d_ff = 20,
                                  .block = 4,
                                  .topk = 2,
                                  .context = 32,
                                  .sparse = 1,
                                  .theta = 100,
                                  .eps = 1e-3};

// Weights large enough that logits, selections and gains matter; norms start away from the identity.
static model new_model(const model_config *c, uint64_t seed)
{
    model m;
    io_error err;
    if (!model_new(&m, c, seed, err)) {
        tap(false, "model_new: %s", err);
        return m;
    }
    inputs_rng rng = {seed};
    for (int t = 0; t < m.n_tensors; t++)
        for (size_t i = 0; m.tensor[t].ndim == 1 && i < m.tensor[t].count; i++)
            m.params[m.tensor[t].offset + i] = 0.3f * inputs_normal(&rng);
    return m;
}

static uint8_t *draw_tokens(int64_t n, uint64_t salt)
{
    inputs_rng rng = {check_seed(salt)};
    uint8_t *tokens = check_alloc(n, 1);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (uint8_t)inputs_below(&rng, MODEL_VOCAB);
    return tokens;
}

/* ---- Gradients of the whole network -------------------------------------------------------------- */

// A selection is piecewise constant, so a difference is taken at a fixed one: this index entry replays what
// the first forward pass chose, layer by layer.
#define MAX_LAYERS 4
static const int32_t *replayed_ids[MAX_LAYERS];
static int replay_layers, replay_next;

static msa_status replay_index(const msa_shape *s, const float *qi, const float *ki, float *scores,
                               int32_t *ids, float *index_lse, void *work)
{
    (void)qi, (void)ki, (void)scores, (void)work;
    if (index_lse)
        return MSA_ERR_UNSUPPORTED;
    memcpy(ids, replayed_ids[replay_next++ % replay_layers],
           (size_t)(s->n_kv_heads * s->n_q * s->topk) * sizeof *ids);
    return MSA_OK;
}
RUN(index, replay_index)

/** A network, a batch, and the two losses as functions of the parameters. */
typedef struct problem {
    model m;
    model_run *run;
    msa_attention mode;
    const uint8_t *tokens, *targets;
    double lambda, kl[MAX_LAYERS];
} problem;

static double language_loss(void *of)
{
    problem *p = of;
    model_forward(&p->m, p->run, p->mode, p->tokens);
    return model_loss(p->run, p->targets, NULL);
}

static double selector_loss(void *of)
{
    problem *p = of;
    model_forward(&p->m, p->run, p->mode, p->tokens);
    model_backward(&p->m, p->run, p->mode, p->tokens, p->targets, 0, p->kl);
    double sum = 0;
    for (int l = 0; l < p->m.config.n_layers; l++)
        sum += p->kl[l];
    return sum;
}

static double total_loss(void *of)
{
    problem *p = of;
    return p->lambda * selector_loss(p) + language_loss(p);
}

// Which loss a tensor's gradient is of, and its weight. Where the Index Branch has values, both losses train
// it; where it is attached, both reach what it reads.
static numeric_loss *loss_of(const problem *p, const model_tensor *t, double *weight)
{
    const model_config *c = &p->m.config;
    const bool read = strcmp(t->name, "embed") == 0 || strstr(t->name, "attn_norm");
    *weight = 1;
    if ((t->index && c->value_head) || (read && c->attached))
        return total_loss;
    *weight = t->index ? p->lambda : 1;
    return t->index ? selector_loss : language_loss;
}

static const char *mode_name(msa_attention mode)
{
    return mode == MSA_ATTN_DENSE ? "dense" : mode == MSA_ATTN_WARMUP ? "warmup" : "sparse";
}

// Half along the gradient, where the slope is large, half random, where a wrong component shows.
static double *mixed_direction(const float *grad, int64_t n, double norm, inputs_rng *rng)
{
    double *u = check_doubles(n), length = 0;
    for (int64_t i = 0; i < n; i++) {
        u[i] = (double)grad[i] / norm + (double)inputs_normal(rng) / sqrt((double)n);
        length += u[i] * u[i];
    }
    for (int64_t i = 0; i < n; i++)
        u[i] /= sqrt(length);
    return u;
}

// The float32 logits put about 5e-8 of noise on a loss, which a step of 0.003 turns into 2e-5 of a slope.
// What the fifth derivative adds is measured: the slope at half the step is closer by a factor of 16, so the
// difference of the two bounds what is left.
static void compare_tensor(check_case *c, problem *p, const model_tensor *t, const float *grads)
{
    const double step = 0.006;
    double weight;
    numeric_loss *loss = loss_of(p, t, &weight);
    const float *grad = grads + t->offset;
    int64_t n = (int64_t)t->count;
    double norm = 0, expected = 0;
    for (int64_t i = 0; i < n; i++)
        norm += (double)grad[i] * (double)grad[i];
    norm = sqrt(norm);
    check_true(c, norm > 0, "%s has a gradient", t->name);
    inputs_rng rng = {check_seed(t->offset)};
    double *u = mixed_direction(grad, n, norm, &rng);
    for (int64_t i = 0; i < n; i++)
        expected += u[i] * (double)grad[i];
    double coarse = weight * numeric_slope(loss, p, p->m.params + t->offset, n, u, step);
    double found = weight * numeric_slope(loss, p, p->m.params + t->offset, n, u, step / 2);
    double allowed = 2e-4 * norm + 4e-5 + fabs(coarse - found);
    check_true(c, fabs(found - expected) <= allowed, "slope along %s: gradient says %.7g, differences %.7g",
               t->name, expected, found);
    if (fabs(found - expected) / allowed > c->used) {
        c->used = fabs(found - expected) / allowed;
        snprintf(c->worst, sizeof c->worst, "%s", t->name);
    }
}

static bool is_among(const char *name, const char *list)
{
    const char *leaf = strrchr(name, '.');
    char word[64];
    snprintf(word, sizeof word, " %s ", leaf ? leaf + 1 : name);
    return list && strstr(list, word);
}

// Leaves out the tensors of the list `without`; those of the list `zero` are 0.
static void gradients(const model_config *config, const char *what, msa_attention mode, const char *zero,
                      const char *without)
{
    enum { SEQS = 2, LENGTH = 19 };
    check_case c = check_begin("gradients of the whole network, %s%s", mode_name(mode), what);
    msa_ops ops = msa_ref_ops;
    msa_kernel replay =
        *ops.stage[MSA_STAGE_INDEX]; // in the run's table from the start: it may copy the table
    ops.stage[MSA_STAGE_INDEX] = &replay;
    problem p = {.m = new_model(config, check_seed(1)),
                 .mode = mode,
                 .tokens = draw_tokens(SEQS * LENGTH, 2),
                 .targets = draw_tokens(SEQS * LENGTH, 3),
                 .lambda = 0.7};
    for (int t = 0; t < p.m.n_tensors; t++)
        if (is_among(p.m.tensor[t].name, zero))
            memset(p.m.params + p.m.tensor[t].offset, 0, p.m.tensor[t].count * sizeof *p.m.params);
    p.run = model_run_new(&p.m, &ops, SEQS, LENGTH, true);
    model_forward(&p.m, p.run, mode, p.tokens);
    replay.run = replay_index_run;
    replay_layers = config->n_layers;
    for (int l = 0; l < config->n_layers; l++) {
        int64_t n_ids = config->n_kv_heads * SEQS * LENGTH * config->topk;
        int32_t *ids = check_ints(n_ids);
        memcpy(ids, model_run_layer(p.run, l)->ids, (size_t)n_ids * sizeof *ids);
        replayed_ids[l] = ids;
    }
    model_backward(&p.m, p.run, mode, p.tokens, p.targets, p.lambda, p.kl);
    float *grads = check_floats((int64_t)p.m.n_params);
    memcpy(grads, model_run_grads(p.run), p.m.n_params * sizeof *grads);
    for (int t = 0; t < p.m.n_tensors; t++)
        if ((mode != MSA_ATTN_DENSE || !p.m.tensor[t].index) && !is_among(p.m.tensor[t].name, without))
            compare_tensor(&c, &p, &p.m.tensor[t], grads);
    model_run_free(p.run);
    model_free(&p.m);
    check_end(&c);
    check_release(NULL);
}

// With lambda 0 no index parameter moves; with any lambda all others get the same bits.
// Departures from MSA. The index reads sg(X), so what lies below it is compared only where it is attached;
// there the queries are zero, so that the teacher, which is detached, does not depend on X.
static void gradients_of_departures(void)
{
    for (msa_attention mode = MSA_ATTN_WARMUP; mode <= MSA_ATTN_SPARSE; mode++) {
        model_config c = tiny;
        c.sink = 1;
        gradients(&c, ", sink", mode, NULL, NULL);
        c.n_layers = 1;
        c.value_head = 1;
        gradients(&c, ", sink and value head", mode, NULL, " embed attn_norm ");
        c.sink = c.value_head = 0;
        c.attached = 1;
        gradients(&c, ", attached", mode, " wq ", " wq wk q_norm k_norm ");
        c.attached = 0;
        c.reverse_kl = 1;
        gradients(&c, ", reverse KL", mode, NULL, NULL);
    }
}

static void two_zeros(const msa_ops *ops, const char *name, msa_attention mode)
{
    enum { SEQS = 2, LENGTH = 21 };
    check_case c = check_begin("L_LM gives the index nothing, L_KL gives the rest nothing: %s, %s",
                               mode_name(mode), name);
    model m = new_model(&tiny, check_seed(4));
    uint8_t *tokens = draw_tokens(SEQS * LENGTH, 5), *targets = draw_tokens(SEQS * LENGTH, 6);
    model_run *run = model_run_new(&m, ops, SEQS, LENGTH, true);
    double kl[MAX_LAYERS];
    model_forward(&m, run, mode, tokens);
    model_backward(&m, run, mode, tokens, targets, 0, kl);
    float *language = check_floats((int64_t)m.n_params);
    memcpy(language, model_run_grads(run), m.n_params * sizeof *language);
    model_backward(&m, run, mode, tokens, targets, 3, kl);
    const float *both = model_run_grads(run);
    for (int t = 0; t < m.n_tensors; t++) {
        const model_tensor *x = &m.tensor[t];
        bool zero = true, moved = false;
        for (size_t i = x->offset; i < x->offset + x->count; i++) {
            zero = zero && language[i] == 0;
            moved = moved || both[i] != 0;
        }
        check_true(&c, zero == x->index, "L_LM and %s", x->name);
        if (x->index)
            check_true(&c, moved == (mode != MSA_ATTN_DENSE), "L_KL and %s", x->name);
        else
            check_same(&c, x->name, language + x->offset, both + x->offset, x->count * sizeof *both);
    }
    model_run_free(run);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

/* ---- Loss ---------------------------------------------------------------------------------------- */

static void loss_from_logits(void)
{
    enum { N = 15 };
    check_case c = check_begin("the loss is the mean cross entropy of the logits");
    model m = new_model(&tiny, check_seed(7));
    uint8_t *tokens = draw_tokens(N, 8), *targets = draw_tokens(N, 9);
    model_run *run = model_run_new(&m, &msa_ref_ops, 1, N, false);
    model_forward(&m, run, MSA_ATTN_SPARSE, tokens);
    float nats[N];
    double loss = model_loss(run, targets, nats), mean = 0, expected[N];
    for (int i = 0; i < N; i++) {
        const float *row = model_run_logits(run) + i * MODEL_VOCAB;
        double sum = 0;
        for (int v = 0; v < MODEL_VOCAB; v++)
            sum += exp((double)row[v]);
        expected[i] = log(sum) - (double)row[targets[i]];
        mean += expected[i] / N;
    }
    check_tensor(&c, "nats", (verdict_dims){1, 1, N}, expected, nats, (verdict_budget){2e-6, 0, NULL});
    check_true(&c, fabs(loss - mean) <= 2e-6 * mean, "mean %.9g, expected %.9g", loss, mean);
    model_run_free(run);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

/* ---- Decoding ------------------------------------------------------------------------------------ */

static float *forward_logits(const model *m, const msa_ops *ops, msa_attention mode, int seqs, int length,
                             const uint8_t *tokens)
{
    int64_t n = (int64_t)seqs * length * MODEL_VOCAB;
    model_run *run = model_run_new(m, ops, seqs, length, false);
    float *logits = check_floats(n);
    model_forward(m, run, mode, tokens);
    memcpy(logits, model_run_logits(run), (size_t)n * sizeof *logits);
    model_run_free(run);
    return logits;
}

static const int chunkings[][12] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {3, 1, 4, 1, 5, 9, 2, 6, 5, 3},
    {4, 4, 4, 4, 1, 1, 1, 1},
    {31, 1, 1, 1, 1, 1},
    {17, 16, 15},
    {300, 1, 1},
};

static void compare_logits(check_case *c, double allowed, const float *expected, const float *found, int at)
{
    char what[64];
    snprintf(what, sizeof what, "logits after %d tokens", at);
    check_tensor(c, what, (verdict_dims){1, 1, MODEL_VOCAB}, check_widen(expected, MODEL_VOCAB), found,
                 (verdict_budget){allowed, 0, NULL});
}

// How far bf16 is from float32 where nothing is chosen: what rounding Q, K, V and P does to a logit.
static double rounding_of_logits(const model *m, int n, const uint8_t *tokens)
{
    const float *wide = forward_logits(m, &msa_fast_ops, MSA_ATTN_DENSE, 1, n, tokens),
                *half = forward_logits(m, &msa_fast_bf16_ops, MSA_ATTN_DENSE, 1, n, tokens);
    double most = 0;
    for (int64_t i = 0; i < (int64_t)n * MODEL_VOCAB; i++)
        most = fmax(most, fabs((double)wide[i] - (double)half[i]));
    return most;
}

// The fast path may break a near-tie of the selection otherwise than in prefill, where its products have
// other shapes; so it gets a fixed model that has none. Logits of float32 kernels differ by what a few dozen
// roundings make of values of this size; those of bf16, which prefill and step round the same way but for P, by
// no more than they differ from float32.
static void decode_equals_prefill(const msa_ops *ops, int sparse)
{
    enum { N = 302 };
    const bool exact = ops == &msa_ref_ops, half = ops == &msa_fast_bf16_ops;
    check_case c = check_begin("decoding equals prefill, %s, %s", sparse ? "MSA" : "dense",
                               exact  ? "reference, the same bits"
                               : half ? "fast in bf16"
                                      : "fast");
    model_config config = tiny;
    config.sparse = sparse;
    model m = new_model(&config, exact ? check_seed(10) : 10);
    uint8_t *tokens = draw_tokens(N, 11);
    for (int i = 0; !exact && i < N; i++)
        tokens[i] = (uint8_t)(i * i % 251);
    const float *prefill = forward_logits(&m, ops, MSA_ATTN_SPARSE, 1, N, tokens);
    const double allowed = exact ? 0 : half ? rounding_of_logits(&m, N, tokens) : 2e-5;
    check_true(&c, !half || allowed > 2e-5, "bf16 is not float32: %.3g apart", allowed);
    for (size_t n = 0; n < sizeof chunkings / sizeof *chunkings; n++) {
        model_decoder *d = model_decoder_new(&m, ops, N);
        int done = 0;
        for (int part = 0; part < 12 && chunkings[n][part]; part++) {
            const float *logits = model_decode(d, tokens + done, chunkings[n][part]);
            done += chunkings[n][part];
            check_true(&c, logits != NULL, "decoded up to %d", done);
            if (logits)
                compare_logits(&c, allowed, prefill + (done - 1) * MODEL_VOCAB, logits, done);
        }
        check_true(&c, !model_decode(d, tokens, N + 1 - done) && !model_decode(d, tokens, 0),
                   "no more than the cache holds, and not nothing");
        model_decoder_free(d);
    }
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

/* ---- Twins and repeats --------------------------------------------------------------------------- */

static void everything_selected_is_dense(void)
{
    enum { N = 30 };
    check_case c = check_begin("MSA with k >= B equals the dense twin with the same weights");
    model_config wide = tiny, dense = tiny;
    wide.topk = 8;
    dense.sparse = 0;
    model a = new_model(&wide, check_seed(12)), b = new_model(&dense, check_seed(12)),
          narrow = new_model(&tiny, check_seed(12));
    uint8_t *tokens = draw_tokens(N, 13);
    float *msa = forward_logits(&a, &msa_ref_ops, MSA_ATTN_SPARSE, 1, N, tokens);
    float *gqa = forward_logits(&b, &msa_ref_ops, MSA_ATTN_SPARSE, 1, N, tokens);
    float *few = forward_logits(&narrow, &msa_ref_ops, MSA_ATTN_SPARSE, 1, N, tokens);
    check_same(&c, "weights", a.params, b.params, a.n_params * sizeof *a.params);
    check_same(&c, "logits", gqa, msa, N * MODEL_VOCAB * sizeof *msa);
    check_true(&c, memcmp(gqa, few, N * MODEL_VOCAB * sizeof *few) != 0, "k < B gives other logits");
    model_free(&a);
    model_free(&b);
    model_free(&narrow);
    check_end(&c);
    check_release(NULL);
}

static void sequences_are_independent(void)
{
    enum { SEQS = 3, LENGTH = 13 };
    check_case c = check_begin("the sequences of a batch do not see each other");
    model m = new_model(&tiny, check_seed(14));
    uint8_t *tokens = draw_tokens(SEQS * LENGTH, 15);
    float *batch = forward_logits(&m, &msa_ref_ops, MSA_ATTN_SPARSE, SEQS, LENGTH, tokens);
    for (int n = 0; n < SEQS; n++) {
        float *one = forward_logits(&m, &msa_ref_ops, MSA_ATTN_SPARSE, 1, LENGTH, tokens + n * LENGTH);
        check_same(&c, "logits", one, batch + n * LENGTH * MODEL_VOCAB, LENGTH * MODEL_VOCAB * sizeof *one);
    }
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

static void set_threads(int n)
{
#ifdef _OPENMP
    omp_set_num_threads(n);
#else
    (void)n;
#endif
}

static void repeats_itself(void)
{
    enum { SEQS = 2, LENGTH = 70 };
    check_case c =
        check_begin("the same seed gives the same weights, logits and gradients on 1, 2, 3 threads");
    uint8_t *tokens = draw_tokens(SEQS * LENGTH, 16), *targets = draw_tokens(SEQS * LENGTH, 17);
    float *logits = NULL, *grads = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        model m = new_model(&tiny, check_seed(18));
        model_run *run = model_run_new(&m, &msa_fast_ops, SEQS, LENGTH, true);
        double kl[MAX_LAYERS];
        set_threads(threads);
        model_forward(&m, run, MSA_ATTN_SPARSE, tokens);
        model_backward(&m, run, MSA_ATTN_SPARSE, tokens, targets, 1, kl);
        size_t n_logits = (size_t)SEQS * LENGTH * MODEL_VOCAB * sizeof *logits;
        if (threads == 1) {
            logits = check_alloc(1, n_logits);
            grads = check_floats((int64_t)m.n_params);
            memcpy(logits, model_run_logits(run), n_logits);
            memcpy(grads, model_run_grads(run), m.n_params * sizeof *grads);
        }
        check_same(&c, "logits", logits, model_run_logits(run), n_logits);
        check_same(&c, "gradients", grads, model_run_grads(run), m.n_params * sizeof *grads);
        model_run_free(run);
        model_free(&m);
    }
    check_end(&c);
    check_release(NULL);
}

/* ---- Checkpoints --------------------------------------------------------------------------------- */

static void round_trip(void)
{
    if (!st_available()) {
        tap_skip("a saved model loads to the same bits", "built without jansson");
        return;
    }
    check_case c = check_begin("a saved model loads to the same bits");
    io_error err;
    model m = new_model(&tiny, check_seed(19)), again = {.params = NULL};
    const char *path = scratch("model.safetensors");
    bool saved = model_save(&m, path, err);
    check_true(&c, saved, "saved: %s", saved ? "" : err);
    bool loaded = saved && model_load(&again, path, err);
    check_true(&c, loaded, "loaded: %s", loaded ? "" : err);
    if (loaded) {
        check_true(&c, again.n_params == m.n_params && again.n_tensors == m.n_tensors, "as many tensors");
        check_same(&c, "parameters", m.params, again.params, m.n_params * sizeof *m.params);
        const model_config *a = &m.config, *b = &again.config;
        check_true(&c,
                   a->n_layers == b->n_layers && a->d_model == b->d_model && a->n_heads == b->n_heads &&
                       a->n_kv_heads == b->n_kv_heads && a->d_head == b->d_head && a->d_index == b->d_index &&
                       a->d_ff == b->d_ff && a->block == b->block && a->topk == b->topk &&
                       a->context == b->context && a->sparse == b->sparse && a->theta == b->theta &&
                       a->eps == b->eps,
                   "the same configuration");
    }
    model_free(&again);
    model_free(&m);
    check_end(&c);
}

/* Saves the model with one setting of its metadata changed, or a tensor more, and loads that. */
static void load_changed(check_case *c, const char *key, const char *value, const char *more,
                         const char *word)
{
    io_error err = "";
    st_file f;
    model m = new_model(&tiny, 1), again = {.params = NULL};
    const char *path = scratch("changed.safetensors");
    bool ok = model_save(&m, path, err) && st_read(path, &f, err);
    check_true(c, ok, "saved: %s", err);
    float zeros[64] = {0};
    st_tensor list[64];
    for (int a = 0; ok && a < f.n_meta; a++)
        if (key && strcmp(f.meta[a].key, key) == 0)
            f.meta[a].value = value;
    for (int a = 0; ok && a < f.n_tensors; a++)
        list[a] = f.tensor[a];
    list[f.n_tensors] = (st_tensor){more, 1, {m.config.n_heads}, zeros};
    const st_file changed = {f.n_tensors + (more != NULL), list, f.n_meta, f.meta, NULL};
    ok = ok && st_write(path, &changed, err);
    check_true(c, ok && !model_load(&again, path, err) && strstr(err, word), "%s: found '%s'", word, err);
    st_free(&f);
    model_free(&again);
    model_free(&m);
}

static void whole_files_only(void)
{
    if (!st_available()) {
        tap_skip("a file holds one model and no more", "built without jansson");
        return;
    }
    check_case c = check_begin("a file holds one model and no more");
    char fewer[12], more[12];
    snprintf(fewer, sizeof fewer, "%d", tiny.n_layers - 1);
    snprintf(more, sizeof more, "%d", tiny.n_layers + 1);
    load_changed(&c, "n_layers", fewer, NULL, "found also 'layers.");
    load_changed(&c, "n_layers", more, NULL, "expected a tensor layers.");
    load_changed(&c, NULL, NULL, "layers.0.sink", "found also 'layers.0.sink'");
    load_changed(&c, NULL, NULL, "theirs", "found also 'theirs'");
    check_end(&c);
}

static void bad_configurations(void)
{
    check_case c = check_begin("model_new refuses impossible sizes");
    model m;
    io_error err;
    // Each on its own: a check that needs two of them at once would let the others through.
    model_config bad[24];
    for (size_t n = 0; n < sizeof bad / sizeof *bad; n++)
        bad[n] = tiny;
    int *const sizes[] = {&bad[0].n_layers, &bad[1].d_model, &bad[2].n_heads, &bad[3].n_kv_heads,
                          &bad[4].d_head,   &bad[5].d_index, &bad[6].d_ff,    &bad[7].block,
                          &bad[8].topk,     &bad[9].context};
    for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
        *sizes[n] = n % 2 ? -1 : 0;
    bad[10].n_heads = 5;
    bad[11].d_head = 6;
    bad[12].d_index = 10;
    bad[13].theta = NAN, bad[14].theta = 1, bad[15].theta = 1e12;
    bad[16].eps = NAN, bad[17].eps = 0, bad[18].eps = 1;
    bad[19].selector = -1, bad[20].selector = N_SELECTORS;
    bad[21].n_layers = MODEL_MAX_LAYERS + 1, bad[22].d_head = 1028, bad[23].context = (1 << 24) + 1;
    for (size_t n = 0; n < sizeof bad / sizeof *bad; n++) {
        err[0] = 0;
        bool made = model_new(&m, &bad[n], 1, err);
        check_true(&c, !made && err[0], "configuration %zu", n);
        if (made)
            model_free(&m);
    }
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    for (msa_attention mode = MSA_ATTN_DENSE; mode <= MSA_ATTN_SPARSE; mode++) {
        gradients(&tiny, "", mode, NULL, NULL);
        two_zeros(&msa_ref_ops, "reference", mode);
        two_zeros(&msa_fast_ops, "fast", mode);
    }
    gradients_of_departures();
    loss_from_logits();
    for (int sparse = 0; sparse < 2; sparse++) {
        decode_equals_prefill(&msa_ref_ops, sparse);
        decode_equals_prefill(&msa_fast_ops, sparse);
        decode_equals_prefill(&msa_fast_bf16_ops, sparse);
    }
    everything_selected_is_dense();
    sequences_are_independent();
    repeats_itself();
    round_trip();
    whole_files_only();
    bad_configurations();
    return check_done();
}
