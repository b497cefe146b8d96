/**
 * @file test_train.c
 * @brief Training: AdamW against the paper's formula in double, the schedule, the stages, resuming.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ref/model/train.h"
#include "support/check.h"
#include "support/scratch.h"

#define CONTEXT 24

static const model_config tiny = {.n_layers = 2,
                                  .d_model = 8,
                                  .n_heads = 2,
                                  .n_kv_heads = 1,
                                  .d_head = 8,
                                  .d_index = 4,
                                  .d_ff = 12,
                                  .block = 4,
                                  .topk = 2,
                                  .context = CONTEXT,
                                  .sparse = 1,
                                  .theta = 100,
                                  .eps = 1e-5};

static const train_config eight_steps = {.steps = 8,
                                         .batch = 1,
                                         .dense_steps = 1,
                                         .index_warmup = 3,
                                         .lr_warmup = 2,
                                         .lr = 1e-2,
                                         .lr_end = 1e-3,
                                         .decay = 0.5,
                                         .clip = 0.3,
                                         .lambda = 2,
                                         .seed = 5};

// The shortest text there can be: every batch is its only window, so a test knows what a step sees.
static train_text one_window(uint64_t seed)
{
    static uint8_t bytes[CONTEXT + 1];
    inputs_rng rng = {seed};
    for (int i = 0; i <= CONTEXT; i++)
        bytes[i] = (uint8_t)inputs_below(&rng, 7); // few symbols, so that it can be learnt
    return (train_text){bytes, CONTEXT + 1, CONTEXT + 1};
}

static trainer *start(const train_config *config, const train_text *text)
{
    io_error err;
    trainer *t = trainer_new(&tiny, config, text, &msa_ref_ops, err);
    if (!t) {
        printf("Bail out! %s\n", err);
        exit(1);
    }
    return t;
}

/* ---- One step after another ---------------------------------------------------------------------- */

/** AdamW in double: what Loshchilov and Hutter's algorithm 2 keeps. */
typedef struct adamw {
    double *m1, *m2;
} adamw;

/** Gradient, loss and mean L_KL of the model as it stands, on the only window. */
typedef struct expectation {
    double *grads, norm, bits, kl;
} expectation;

static expectation expect(const model *m, msa_attention mode, double lambda, const train_text *text)
{
    double kl[2];
    expectation e = {.norm = 0};
    model_run *run = model_run_new(m, &msa_ref_ops, 1, CONTEXT, true);
    model_forward(m, run, mode, text->bytes);
    e.bits = model_loss(run, text->bytes + 1, NULL) / log(2);
    model_backward(m, run, mode, text->bytes, text->bytes + 1, lambda, kl);
    e.kl = (kl[0] + kl[1]) / 2;
    e.grads = check_widen(model_run_grads(run), (int64_t)m->n_params);
    for (size_t i = 0; i < m->n_params; i++)
        e.norm += e.grads[i] * e.grads[i];
    e.norm = sqrt(e.norm);
    model_run_free(run);
    return e;
}

static double next_value(double p, double g, double *m1, double *m2, int64_t step, double lr, double decay)
{
    const double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
    *m1 = beta1 * *m1 + (1 - beta1) * g;
    *m2 = beta2 * *m2 + (1 - beta2) * g * g;
    double mean = *m1 / (1 - pow(beta1, (double)step)), square = *m2 / (1 - pow(beta2, (double)step));
    return p - lr * (mean / (sqrt(square) + eps) + decay * p);
}

static void compare_step(check_case *c, const model *m, const double *before, const expectation *e, adamw *a,
                         const train_step *done, const train_config *config)
{
    double shrink = e->norm > config->clip ? config->clip / e->norm : 1, worst = 0;
    for (int t = 0; t < m->n_tensors; t++) {
        const model_tensor *x = &m->tensor[t];
        for (size_t i = x->offset; i < x->offset + x->count; i++) {
            double expected = next_value(before[i], shrink * e->grads[i], &a->m1[i], &a->m2[i], done->step,
                                         done->lr, x->ndim == 2 ? config->decay : 0);
            double error = fabs((double)m->params[i] - expected);
            worst = fmax(worst, error / (1e-5 * done->lr + 0x1p-22 * fabs(before[i])));
        }
    }
    check_true(c, worst <= 1, "step %lld moves every parameter as AdamW does: %.3g of the tolerance",
               (long long)done->step, worst);
    c->used = fmax(c->used, worst);
}

static void steps_follow_adamw(void)
{
    check_case c = check_begin("AdamW with decay and clipping, dense, warmup, sparse");
    snprintf(c.worst, sizeof c.worst, "a parameter");
    train_text text = one_window(check_seed(1));
    trainer *t = start(&eight_steps, &text);
    const model *m = trainer_model(t);
    adamw a = {check_doubles((int64_t)m->n_params), check_doubles((int64_t)m->n_params)};
    for (int64_t step = 0; step < eight_steps.steps; step++) {
        msa_attention mode = step == 0 ? MSA_ATTN_DENSE : step < 4 ? MSA_ATTN_WARMUP : MSA_ATTN_SPARSE;
        double *before = check_widen(m->params, (int64_t)m->n_params);
        expectation e = expect(m, mode, eight_steps.lambda, &text);
        train_step done = trainer_step(t);
        check_true(&c, done.step == step + 1 && trainer_steps(t) == step + 1, "steps are counted from 1");
        check_true(&c, fabs(done.loss - e.bits) <= 1e-9 * e.bits, "loss in bits: %.9g, expected %.9g",
                   done.loss, e.bits);
        check_true(&c, fabs(done.kl - e.kl) <= 1e-9 * e.kl, "mean L_KL: %.9g, expected %.9g", done.kl, e.kl);
        check_true(&c, fabs(done.norm - e.norm) <= 1e-9 * e.norm, "norm: %.9g, expected %.9g", done.norm,
                   e.norm);
        check_true(&c, e.norm > eight_steps.clip, "the clipping is at work");
        compare_step(&c, m, before, &e, &a, &done, &eight_steps);
    }
    trainer_free(t);
    check_end(&c);
    check_release(NULL);
}

/* Gains begin at 1, a parameter of 0, and leave it at once where nothing holds them. */
static void holds_index_gains(void)
{
    check_case c = check_begin("gains of the index norms stay within what was asked for");
    train_text text = one_window(check_seed(1));
    static const double most[] = {0, 1, 1.001};
    double farthest[3] = {0};
    for (int n = 0; n < 3; n++) {
        train_config config = eight_steps;
        config.index_gain = most[n];
        trainer *t = start(&config, &text);
        for (int64_t step = 0; step < config.steps; step++)
            trainer_step(t);
        const model *m = trainer_model(t);
        for (int i = 0; i < m->n_tensors; i++) {
            const model_tensor *x = &m->tensor[i];
            const bool held = strstr(x->name, ".iq_norm") || strstr(x->name, ".ik_norm");
            for (size_t p = x->offset; held && p < x->offset + x->count; p++)
                farthest[n] = fmax(farthest[n], fabs(log1p((double)m->params[p])));
        }
        trainer_free(t);
    }
    check_true(&c, farthest[0] > 2 * log(1.001), "free ones move: %.3g", farthest[0]);
    check_true(&c, farthest[1] == 0, "held at 1 they do not: %.3g", farthest[1]);
    check_true(&c, farthest[2] > 0.9 * log(1.001) && farthest[2] < log(1.001) + 1e-6,
               "held to a factor of 1.001 they end there: %.3g", farthest[2]);
    check_end(&c);
    check_release(NULL);
}

static void schedule(void)
{
    check_case c = check_begin("the learning rate rises linearly and falls to its end");
    train_config config = eight_steps;
    config.steps = 40;
    config.lr_warmup = 10;
    train_text text = one_window(check_seed(1));
    trainer *t = start(&config, &text);
    double lr[40];
    for (int step = 0; step < 40; step++)
        lr[step] = trainer_step(t).lr;
    for (int step = 0; step < 10; step++)
        check_true(&c, fabs(lr[step] - 1e-2 * (step + 1) / 10) < 1e-12, "lr %g at step %d", lr[step], step);
    for (int step = 10; step < 40; step++) { // half a cosine
        const double expected = 1e-3 + 9e-3 * 0.5 * (1 + cos(acos(-1) * (step - 10) / 30));
        check_true(&c, fabs(lr[step] - expected) < 1e-9, "lr %g at step %d, expected %g", lr[step], step,
                   expected);
    }
    trainer_free(t);
    check_end(&c);
}

// On a fixed text, since how fast a text is learnt depends on it.
static void learns(void)
{
    check_case c = check_begin("a hundred steps on one window halve its loss, and the selector's");
    train_config config = eight_steps;
    config.steps = 100;
    config.decay = 0;
    config.dense_steps = 0;
    config.index_warmup = 100;
    train_text text = one_window(1);
    trainer *t = start(&config, &text);
    train_step first = trainer_step(t), last = first;
    for (int step = 1; step < 100; step++)
        last = trainer_step(t);
    check_true(&c, last.loss < first.loss / 2, "loss from %g to %g", first.loss, last.loss);
    check_true(&c, last.kl < first.kl / 2, "L_KL from %g to %g", first.kl, last.kl);
    trainer_free(t);
    check_end(&c);
}

/* ---- Resuming ------------------------------------------------------------------------------------ */

/* The state with a tensor more. */
static void write_more(check_case *c, const char *path, const char *name)
{
    io_error err = "";
    st_file f;
    float zeros[8] = {0};
    st_tensor list[256];
    bool ok = st_read(path, &f, err) && f.n_tensors < 256;
    for (int a = 0; ok && a < f.n_tensors; a++)
        list[a] = f.tensor[a];
    list[ok ? f.n_tensors : 0] = (st_tensor){name, 1, {8}, zeros};
    const st_file more = {ok ? f.n_tensors + 1 : 0, list, f.n_meta, f.meta, NULL};
    check_true(c, ok && st_write(path, &more, err), "a tensor more: %s", err);
    st_free(&f);
}

static void resumes(void)
{
    if (!st_available()) {
        tap_skip("a resumed run ends in the same bits", "built without jansson");
        return;
    }
    check_case c = check_begin("a resumed run ends in the same bits");
    io_error err;
    uint8_t bytes[500];
    inputs_rng rng = {check_seed(2)};
    for (int i = 0; i < 500; i++)
        bytes[i] = (uint8_t)inputs_below(&rng, 256);
    train_text text = train_split(bytes, 500);
    check_true(&c, text.n_train == 475, "the last twentieth is held out");
    const char *path = scratch("run.safetensors");
    trainer *whole = start(&eight_steps, &text);
    for (int step = 0; step < 8; step++) {
        trainer_step(whole);
        *trainer_curve(whole) = (train_curve){100 + step, 0xfedcba9876543210u + (uint64_t)step};
        if (step == 3)
            check_true(&c, trainer_save(whole, path, err), "saved");
    }
    trainer *t = trainer_resume(path, &tiny, &eight_steps, &text, &msa_ref_ops, err);
    check_true(&c, t && trainer_steps(t) == 4, "resumed at step 4");
    check_true(&c, t && trainer_curve(t)->bytes == 103 && trainer_curve(t)->hash == 0xfedcba9876543213u,
               "with what was known of the curve");
    for (int step = 4; t && step < 8; step++)
        trainer_step(t);
    if (t)
        check_same(&c, "parameters", trainer_model(whole)->params, trainer_model(t)->params,
                   trainer_model(t)->n_params * sizeof(float));
    enum { CONFIGS = 13, MODELS = 18 };
    train_config other[CONFIGS];
    model_config changed[MODELS];
    for (int a = 0; a < CONFIGS; a++)
        other[a] = eight_steps;
    for (int a = 0; a < MODELS; a++)
        changed[a] = tiny;
    other[0].steps = 9, other[1].batch = 2, other[2].dense_steps = 2, other[3].index_warmup = 2;
    other[4].lr_warmup = 1, other[5].seed = 6, other[6].lr = 2e-2, other[7].lr_end = 2e-3,
    other[8].decay = 0.25;
    other[9].clip = 0.4, other[10].lambda = 3, other[11].backend = "fast", other[12].recall_every = 2;
    changed[0].n_layers = 1, changed[1].d_model = 12, changed[2].n_heads = 4, changed[3].n_kv_heads = 2;
    changed[4].d_head = 12, changed[5].d_index = 8, changed[6].d_ff = 16, changed[7].block = 8,
    changed[8].topk = 3;
    changed[9].context = CONTEXT - 1, changed[10].sparse = 0, changed[11].theta = 101, changed[12].eps = 2e-5;
    changed[13].selector = SELECTOR_MEAN, changed[14].reverse_kl = 1, changed[15].attached = 1,
    changed[16].sink = 1;
    changed[17].value_head = 1;
    for (int a = 0; a < CONFIGS; a++)
        check_true(&c,
                   !trainer_resume(path, &tiny, &other[a], &text, &msa_ref_ops, err) &&
                       strstr(err, "another run"),
                   "setting %d: %s", a, err);
    for (int a = 0; a < MODELS; a++)
        check_true(&c,
                   !trainer_resume(path, &changed[a], &eight_steps, &text, &msa_ref_ops, err) &&
                       strstr(err, "another run"),
                   "size %d: %s", a, err);
    model_config departure = tiny;
    departure.selector = SELECTOR_MEAN;
    trainer_free(t);
    t = trainer_new(&departure, &eight_steps, &text, &msa_ref_ops, err);
    check_true(&c, t && trainer_save(t, path, err), "saved");
    check_true(&c, !trainer_resume(path, &tiny, &eight_steps, &text, &msa_ref_ops, err),
               "and so is MSA's after that");
    check_true(&c, trainer_save(whole, path, err), "saved");
    static const int place[] = {0, 77, 499};
    for (size_t i = 0; i < sizeof place / sizeof *place; i++) {
        bytes[place[i]] ^= 1;
        check_true(&c, !trainer_resume(path, &tiny, &eight_steps, &text, &msa_ref_ops, err),
                   "another byte %d is another run", place[i]);
        bytes[place[i]] ^= 1;
    }
    write_more(&c, path, "theirs.embed"); // whose end is the name of one of ours
    check_true(&c,
               !trainer_resume(path, &tiny, &eight_steps, &text, &msa_ref_ops, err) &&
                   strstr(err, "found also 'theirs.embed'"),
               "%s", err);
    trainer_free(whole);
    trainer_free(t);
    check_end(&c);
}

/* Two windows; the last byte is a target in the second only, and nowhere an input. */
static void reads_the_last_byte(void)
{
    uint8_t bytes[2][CONTEXT + 2];
    inputs_rng rng = {check_seed(3)};
    for (int i = 0; i < CONTEXT + 2; i++)
        bytes[0][i] = bytes[1][i] = (uint8_t)inputs_below(&rng, 7);
    bytes[1][CONTEXT + 1] ^= 1;
    trainer *t[2];
    for (int a = 0; a < 2; a++)
        t[a] = start(&eight_steps, &(train_text){bytes[a], CONTEXT + 2, CONTEXT + 2});
    int differ = 0;
    for (int step = 0; step < 8; step++)
        differ += trainer_step(t[0]).loss != trainer_step(t[1]).loss;
    tap(differ > 0, "the last byte of the text is learnt from: of 8 steps %d saw it", differ);
    trainer_free(t[0]);
    trainer_free(t[1]);
}

static void refuses_short_text(void)
{
    io_error err = "";
    train_text text = one_window(check_seed(1));
    text.n_train = text.n = CONTEXT;
    tap(!trainer_new(&tiny, &eight_steps, &text, &msa_ref_ops, err) && err[0],
        "a text without a window is refused: %s", err);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    steps_follow_adamw();
    holds_index_gains();
    schedule();
    learns();
    resumes();
    reads_the_last_byte();
    refuses_short_text();
    return check_done();
}
