/* Step 9 of a reader's own MSA: the shipped model, whose attention is the reader's, reads a text and goes on. */
#include "check.h"

#include <stdio.h>

#include "../../../ref/model/model.h"
#include "../../../ref/random.h"
#include "../../examples/passage.h"

#define MODEL "data/kjv-msa.safetensors"
enum { FRONT = 300, MORE = 100 }; /* bytes that are judged: more than 8 blocks of 32; bytes that follow */

/* ---- The model, as the answer sees it ------------------------------------------------------------------ */

static const float *part(const model *m, const float *params, const char *name)
{
    for (int i = 0; i < m->n_tensors; i++)
        if (strcmp(m->tensor[i].name, name) == 0)
            return params + m->tensor[i].offset;
    fprintf(stderr, "exercise: %s: expected a tensor %s, found none\n", MODEL, name);
    exit(2);
}

static const float *layer_part(const model *m, const float *params, int l, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "layers.%d.%s", l, name);
    return part(m, params, full);
}

static network network_of(const model *m, int length)
{
    const model_config *c = &m->config;
    float *p = exercise_given((int64_t)m->n_params, "the model");
    exercise_give(p, m->params, (int64_t)m->n_params);
    network w = {{c->n_heads, c->n_kv_heads, c->d_head, c->d_index, c->block, c->topk},
                 c->n_layers,
                 c->d_model,
                 c->d_ff,
                 c->theta,
                 c->eps,
                 part(m, p, "embed"),
                 part(m, p, "norm"),
                 part(m, p, "head"),
                 {{0}}};
    const int kv = c->n_kv_heads * c->d_head;
    for (int l = 0; l < w.layers; l++)
        w.layer[l] = (layer){layer_part(m, p, l, "attn_norm"),
                             layer_part(m, p, l, "wq"),
                             layer_part(m, p, l, "wk"),
                             layer_part(m, p, l, "wv"),
                             layer_part(m, p, l, "wo"),
                             layer_part(m, p, l, "q_norm"),
                             layer_part(m, p, l, "k_norm"),
                             layer_part(m, p, l, "wiq"),
                             layer_part(m, p, l, "wik"),
                             layer_part(m, p, l, "iq_norm"),
                             layer_part(m, p, l, "ik_norm"),
                             layer_part(m, p, l, "mlp_norm"),
                             layer_part(m, p, l, "w_gate"),
                             layer_part(m, p, l, "w_up"),
                             layer_part(m, p, l, "w_down"),
                             exercise_wanted(length * kv, "the cache of K"),
                             exercise_wanted(length * kv, "the cache of V"),
                             exercise_wanted(length * c->d_index, "the cache of the index keys")};
    return w;
}

/* ---- The text ------------------------------------------------------------------------------------------- */

static float *expected_logits(const model *m, const uint8_t *text, int n)
{
    float *logits = exercise_floats(n * MODEL_VOCAB);
    model_run *run = model_run_new(m, &msa_ref_ops, 1, n, false);
    if (!run) {
        fprintf(stderr, "exercise: out of memory\n");
        exit(2);
    }
    model_forward(m, run, MSA_ATTN_SPARSE, text);
    memcpy(logits, model_run_logits(run), (size_t)(n * MODEL_VOCAB) * sizeof *logits);
    model_run_free(run);
    return logits;
}

/* A byte drawn from softmax(logits / 0.8), by a number from 0 to 1. */
static uint8_t drawn(const float *logits, double u)
{
    double most = -INFINITY, sum = 0, left;
    for (int b = 0; b < MODEL_VOCAB; b++)
        most = fmax(most, (double)logits[b]);
    for (int b = 0; b < MODEL_VOCAB; b++)
        sum += exp(((double)logits[b] - most) / 0.8);
    left = u * sum;
    for (int b = 0; b < MODEL_VOCAB; b++)
        if ((left -= exp(((double)logits[b] - most) / 0.8)) < 0)
            return (uint8_t)b;
    return ' '; /* rounding, or NaN, ate the last weight */
}

/* In the answer's process: n bytes of text, then MORE that follow. Counts them. */
static void read_on(const network *w, uint8_t *text, int n, float *logits, uint64_t *count)
{
    for (int i = 0; i < n + MORE; i++, ++*count) {
        float *row = logits + (i < n ? i : n - 1) * MODEL_VOCAB;
        next_byte(w, i, text[i], row);
        if (i >= n - 1)
            text[i + 1] = drawn(row, random_uniform(exercise_seed(), (uint64_t)i));
    }
}

static void show(const uint8_t *text, int n)
{
    printf("  your model goes on:\n  > %.*s[", n < 60 ? n : 60, (const char *)text + (n < 60 ? 0 : n - 60));
    for (int i = n; i < n + MORE; i++)
        printf("%c", text[i] == '\n' || (text[i] >= ' ' && text[i] < 127) ? text[i] : '?');
    printf("]\n");
}

/* Reads and goes on; the logits of the n bytes, and the text, are left in what is given. */
static void go_on(const model *m, uint8_t *text, int n, float *logits)
{
    uint64_t *count = answer_shared(sizeof *count);
    const network w = network_of(m, n + MORE);
    *count = 0;
    answer_progress(count);
    ANSWER(read_on(&w, text, n, logits, count));
}

void judge_text(const char *prompt)
{
    io_error err;
    model m;
    if (!model_load(&m, MODEL, err)) {
        exercise_true(false, "the model cannot be read here: %s", err);
        return;
    }
    uint8_t *text = answer_wanted(FRONT + MORE + 1, "the text");
    float *logits = exercise_wanted(FRONT * MODEL_VOCAB, "logits");
    memcpy(text, passage, FRONT);
    const float *expected = expected_logits(&m, text, FRONT);
    go_on(&m, text, FRONT, logits);
    /* in every layer two float32 sums in a row, of at most `d_ff` terms */
    const double allowed = 2 * m.config.n_layers * m.config.d_ff * 0x1p-24;
    exercise_tensor("logits of the passage", (verdict_dims){FRONT - 1, 1, MODEL_VOCAB}, expected, logits,
                    (verdict_budget){allowed, 0, NULL});
    const int n = prompt ? (int)strlen(prompt) : FRONT;
    if (prompt && n > 0 && !exercise_failures()) {
        text = answer_wanted(n + MORE + 1, "the text");
        memcpy(text, prompt, (size_t)n);
        go_on(&m, text, n, exercise_wanted(n * MODEL_VOCAB, "logits"));
    }
    if (!exercise_failures())
        show(text, n);
    model_free(&m);
}
