/**
 * @file test_train_kernels.c
 * @brief The model trains with kernels of bf16 tensors, those of cuda/ on the CPU engine and those of the fast
 * path (TEST_BACKEND=cuda: on a GPU alone): the losses of 20 steps follow those of the reference.
 *
 * How far apart they may be is derived from more runs: the reference with the kernels' roundings, which are
 * those of bf16 inputs, of P and of dS. They leave the exact run as the kernels do, by rounding errors that
 * training carries on and that now and then swap a block for its neighbour in rank. Each of these runs rounds
 * otherwise, since its inputs are moved by less than a rounding first. A swap moves L_KL of one step by several
 * times what rounding does, in one run of ten or so, which samples may miss: so the distance of two runs is that
 * at all steps but the two where they are farthest apart. The budget is twice the largest of the samples'.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ref/call.h"
#include "../ref/table/table.h"
#include "../ref/model/train.h"
#include "support/check.h"

#define STEPS 20
#define CONTEXT 80
#define SAMPLES 12

static const model_config small = {.n_layers = 2,
                                   .d_model = 16,
                                   .n_heads = 2,
                                   .n_kv_heads = 1,
                                   .d_head = 64,
                                   .d_index = 64,
                                   .d_ff = 24,
                                   .block = 32,
                                   .topk = 2,
                                   .context = CONTEXT,
                                   .sparse = 1,
                                   .theta = 100,
                                   .eps = 1e-5};

static const train_config run = {.steps = STEPS,
                                 .batch = 1,
                                 .index_warmup = STEPS / 2,
                                 .lr_warmup = 2,
                                 .lr = 3e-3,
                                 .lr_end = 1e-3,
                                 .decay = 0.1,
                                 .clip = 1,
                                 .lambda = 1,
                                 .seed = 5};

/* ---- The reference with a kernel's roundings --------------------------------------------------------- */

static inputs_rng jitter; // of the sample that runs

static float *rounded(const float *x, int64_t n)
{
    float *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; y && i < n; i++) {
        const double moved =
            ((double)inputs_below(&jitter, 1 << 20) * 0x1p-19 - 1) * 0x1p-9; // up to half a spacing
        y[i] = msa_bf16((float)((1 + moved) * (double)x[i]));
    }
    return y;
}

static inputs main_inputs(const msa_shape *s, const float *q, const float *k, const float *v,
                          const float *dout)
{
    const int64_t nq = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head;
    return (inputs){.q = rounded(q, nq),
                    .k = rounded(k, nk),
                    .v = v ? rounded(v, nk) : NULL,
                    .dout = dout ? rounded(dout, nq) : NULL};
}

static msa_status dense(const msa_shape *s, const float *q, const float *k, const float *v, float *o,
                        float *lse, void *work)
{
    inputs in = main_inputs(s, q, k, v, NULL);
    const msa_status status = msa_dense_bf16(s, in.q, in.k, in.v, o, lse, work);
    inputs_free(&in);
    return status;
}
RUN(dense, dense)

static msa_status sparse(const msa_shape *s, const float *q, const float *k, const float *v,
                         const int32_t *ids, float *o, float *lse, void *work)
{
    inputs in = main_inputs(s, q, k, v, NULL);
    const msa_status status = msa_sparse_bf16(s, in.q, in.k, in.v, ids, o, lse, work);
    inputs_free(&in);
    return status;
}
RUN(sparse, sparse)

static msa_status choose(const msa_shape *s, const float *qi, const float *ki, float *scores, int32_t *ids,
                         float *index_lse, void *work)
{
    inputs in = {.qi = rounded(qi, s->n_q * s->n_kv_heads * s->d_index),
                 .ki = rounded(ki, s->n_kv * s->d_index)};
    const msa_status status = msa_index(s, in.qi, in.ki, scores, ids, index_lse, work);
    inputs_free(&in);
    return status;
}
RUN(index, choose)

static msa_status backward(const msa_shape *s, const float *q, const float *k, const float *v,
                           const int32_t *ids, const float *o, const float *lse, const float *dout, float *dq,
                           float *dk, float *dv, void *work)
{
    inputs in = main_inputs(s, q, k, v, dout);
    const msa_status status = msa_backward_bf16(s, in.q, in.k, in.v, ids, o, lse, in.dout, dq, dk, dv, work);
    inputs_free(&in);
    return status;
}
RUN(backward, backward)

static msa_status kl(const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,
                     const int32_t *ids, const float *lse, const float *index_lse, double weight,
                     double *loss, float *dqi, float *dki, void *work)
{
    inputs in = main_inputs(s, q, k, NULL, NULL);
    in.qi = rounded(qi, s->n_q * s->n_kv_heads * s->d_index);
    in.ki = rounded(ki, s->n_kv * s->d_index);
    const msa_status status =
        msa_kl(s, in.q, in.k, in.qi, in.ki, ids, lse, index_lse, weight, loss, dqi, dki, work);
    inputs_free(&in);
    return status;
}
RUN(kl, kl)

/* ---- Runs ------------------------------------------------------------------------------------------- */

typedef struct curve {
    double loss[STEPS], kl[STEPS];
} curve;

static bool train(const msa_ops *ops, const train_text *text, curve *c)
{
    io_error err;
    trainer *t = trainer_new(&small, &run, text, ops, err);
    for (int step = 0; t && step < STEPS; step++) {
        const train_step done = trainer_step(t);
        c->loss[step] = done.loss;
        c->kl[step] = done.kl;
    }
    trainer_free(t);
    return t != NULL;
}

#define SWAPS 2 /* steps that a block in another's place may move */

static double distance_of(const double *a, const double *b)
{
    double most[SWAPS + 1] = {0}; /* descending */
    for (int step = 0; step < STEPS; step++) {
        double x = fabs(a[step] - b[step]);
        if (!isfinite(x))
            return HUGE_VAL;
        for (int n = 0; n <= SWAPS; n++) {
            const double larger = fmax(x, most[n]);
            x = fmin(x, most[n]);
            most[n] = larger;
        }
    }
    return most[SWAPS];
}

static void follow(check_case *c, const char *what, double distance, double sampled)
{
    const double used = distance / (2 * sampled);
    check_true(c, used <= 1, "%s: %.3g of its budget", what, used);
    if (used > c->used)
        snprintf(c->worst, sizeof c->worst, "%s", what);
    c->used = fmax(c->used, used);
}

static curve exact;
static double loss, index_loss; // the samples' largest

// The losses of the reference, and how far its runs with a kernel's roundings get from them.
static void sample_runs(const train_text *text)
{
    check_case c =
        check_begin("the reference learns, and so do %d samples with a kernel's roundings", SAMPLES);
    static curve low;
    msa_kernel variant[MSA_N_STAGES];
    msa_ops bf16 = msa_ref_ops;
    for (int i = 0; i < MSA_N_STAGES; i++) {
        variant[i] = *msa_ref_ops.stage[i];
        bf16.stage[i] = &variant[i];
    }
    variant[MSA_STAGE_DENSE].run = dense_run;
    variant[MSA_STAGE_INDEX].run = choose_run;
    variant[MSA_STAGE_SPARSE].run = sparse_run;
    variant[MSA_STAGE_BACKWARD].run = backward_run;
    variant[MSA_STAGE_KL].run = kl_run;
    check_true(&c, train(&msa_ref_ops, text, &exact), "the reference runs");
    for (uint64_t n = 0; n < SAMPLES; n++) {
        jitter.state = n;
        check_true(&c, train(&bf16, text, &low), "sample %d runs", (int)n);
        loss = fmax(loss, distance_of(exact.loss, low.loss));
        index_loss = fmax(index_loss, distance_of(exact.kl, low.kl));
    }
    check_true(&c, exact.loss[STEPS - 1] < exact.loss[0] - 0.5, "the model learns: %.3f to %.3f bits",
               exact.loss[0], exact.loss[STEPS - 1]);
    check_end(&c);
}

static void follows(const msa_ops *kernels, const char *backend, const train_text *text)
{
    check_case c =
        check_begin("losses of %d steps with the kernels of %s follow the reference", STEPS, backend);
    static curve found;
    check_true(&c, train(kernels, text, &found), "it runs");
    const double distance = distance_of(exact.loss, found.loss);
    check_true(&c, distance > 0, "it is not the reference, nor in float32 by mistake");
    follow(&c, "loss", distance, loss);
    follow(&c, "L_KL", distance_of(exact.kl, found.kl), index_loss);
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    const char *wanted = getenv("TEST_BACKEND"), *backend = wanted && *wanted ? wanted : "simt";
    static uint8_t bytes[400];
    inputs_rng rng = {check_seed(3)};
    for (int i = 0; i < 400; i++)
        bytes[i] = (uint8_t)(i % 7 * 3 + inputs_below(&rng, 5));
    const train_text text = train_split(bytes, 400);
    sample_runs(&text);
    msa_ops kernels;
    if (table_ops(backend, &kernels) && !table_missing(backend))
        follows(&kernels, backend, &text);
    else
        tap_skip("training with kernels of cuda/", "this build or machine does not have them");
    if (strcmp(backend, "cuda") != 0)
        follows(&msa_fast_bf16_ops, "fast in bf16", &text);
    return check_done();
}
