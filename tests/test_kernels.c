/**
 * @file test_kernels.c
 * @brief Every kernel of cuda/ on the CPU engine or a GPU against the reference: all shapes that they take,
 *        patterns of inputs, selections of the shipped model; on the engine orders of threads and timings of
 *        copies; both output types.
 *
 * `msa check` runs every shape with every pattern. Here a kernel meets some shapes, and the others of its stage
 * the rest; of three judgements in a row each has another order and another timing. FULL=1 leaves nothing out;
 * `test_kernels SEED STAGE/NAME` does the same for one kernel alone, and `-` is what several share.
 * TEST_BACKEND=cuda in the environment takes the GPU instead of the engine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cuda/host/host.h"
#include "../ref/judge/judge.h"
#include "../ref/table/table.h"
#include "../ref/io/io.h"
#include "../ref/model/model.h"
#include "support/check.h"

static bool is_gradient(const msa_kernel *k)
{
    return k->stage == MSA_STAGE_BACKWARD || k->stage == MSA_STAGE_DENSE_BACKWARD || k->stage == MSA_STAGE_KL;
}

static const char *backend;
static const msa_device *device;

// With four orders, all pairs in twelve judgements.
static int timing_of(int number)
{
    return number % 3;
}

// Threads and copies of a GPU take their own order.
static void set_mode(uint64_t seed, int number)
{
#ifdef HAVE_SIMT
    if (device == msa_engine())
        msa_engine_mode(number % 4, timing_of(number), seed + (uint64_t)number);
    if (device == msa_engine())
        msa_engine_sms(number % 2 ? 132 : 1 + number % 5);
    if (device == msa_engine()) // gradients: now and then in chunks of queries, another time for each shape
        msa_tune(device, MSA_TUNE_sweep_chunk, (number + number / 14) % 4 == 1 ? 29 : 32768);
#else
    (void)seed, (void)number;
#endif
}

static void judge(check_case *c, const msa_kernel *k, const msa_shape *s, const inputs *in, uint64_t seed,
                  int number)
{
    char shape[INPUTS_NAME];
    inputs_shape_name(s, shape);
    set_mode(seed, number);
    const judge_report report = judge_kernel(k, s, in, seed);
    if (report.outcome == JUDGE_UNSUPPORTED)
        return;
    check_true(c, report.outcome == JUDGE_PASS, "%s, %s, order %d, timing %d: %s", shape,
               inputs_pattern_name(in->pattern), number % 4, timing_of(number), report.text);
    if (report.used >= c->used) {
        c->used = report.used;
        snprintf(c->worst, sizeof c->worst, "%s of %s", inputs_pattern_name(in->pattern), shape);
    }
}

/* ---- Synthetic inputs ---------------------------------------------------------------------------- */

// Few queries of many keys: kernels of these stages share the keys out, and each merges the parts in its own
// way.
static bool shares_keys(const msa_kernel *k, const msa_shape *s)
{
    return s->n_q < 10 && msa_n_blocks(s) > 16 &&
           (k->stage == MSA_STAGE_INDEX || k->stage == MSA_STAGE_PREFILL || k->stage == MSA_STAGE_DECODE ||
            k->stage == MSA_STAGE_DENSE_DECODE);
}

// What a kernel looks at that attends to everything.
static int64_t work_of(const msa_shape *s)
{
    int64_t pairs = 0;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        pairs += seq.n_q * seq.n_kv;
    }
    return pairs * s->n_heads * s->d_head;
}

// All shapes with all kernels take many minutes. Together with the others a kernel meets every fourth shape, or
// every fifth one for gradients, which are judged on five supports each time, and of the large shapes, which take
// seconds each, a third as many; others with another seed. Where one thread does all of a row, a large shape shows
// nothing that a small one does not.
static bool is_left_out(const msa_kernel *k, const msa_shape *s, int number)
{
    const int every = (is_gradient(k) ? 5 : 4) * (work_of(s) > 2000000 ? 3 : 1);
    const bool too_large = strcmp(k->name, "naive") == 0 && work_of(s) > 4000000;
    return !shares_keys(k, s) && (too_large || (number + (int)(check_seed(0) % 60)) % every != 0);
}

// Patterns of inputs: fewer for gradients, and beside other kernels for shapes of many scores.
static int patterns_of(const msa_kernel *k, const msa_shape *s, bool alone)
{
    const bool many = s->n_q * s->n_kv * s->n_heads > 40000;
    return is_gradient(k) ? 1 + alone : alone ? 3 : many ? 1 : 2;
}

static void agrees(const msa_kernel *k, int salt, bool alone)
{
    check_case c = check_begin("%s/%s agrees with the reference", msa_stage_name(k->stage), k->name);
    const uint64_t seed = check_seed((uint64_t)salt);
    int number = (int)(seed % 9);
    for (int a = inputs_n_shapes; a < inputs_first_padded; a++) { // test_padding.c has the others
        const msa_shape *s = &inputs_shapes[a];
        const int patterns = patterns_of(k, s, alone);
        for (int p = 0; p < patterns && (alone || !is_left_out(k, s, a + salt)); p++) {
            inputs in;
            if (!inputs_new(&in, s, (inputs_pattern)((patterns * a + p + salt) % INPUTS_N_PATTERNS), seed))
                return;
            judge(&c, k, s, &in, seed, number++);
            inputs_free(&in);
        }
    }
    check_end(&c);
}

/* ---- Tensors of the shipped model ------------------------------------------------------------------ */

#define LENGTH 333 // tokens, in blocks of which the model chooses 8 of up to 11; the last QUERIES of them attend
#define QUERIES 21
#define STEP 8 // of these the last ones in a decoding step

static float *last_rows(const float *x, int64_t rows, int64_t width, int64_t keep)
{
    float *y = malloc((size_t)(keep * width) * sizeof *y);
    if (y)
        memcpy(y, x + (rows - keep) * width, (size_t)(keep * width) * sizeof *y);
    return y;
}

// What one layer makes of a text, as the inputs of a call with n_q queries.
static inputs layer_inputs(const msa_shape *s, const msa_layer_state *st, int64_t n_q)
{
    const int64_t nq = s->n_heads * s->d_head, nk = s->n_kv_heads * s->d_head;
    return (inputs){.q = last_rows(st->q, s->n_q, nq, n_q),
                    .k = last_rows(st->k, s->n_kv, nk, s->n_kv),
                    .v = last_rows(st->v, s->n_kv, nk, s->n_kv),
                    .qi = last_rows(st->qi, s->n_q, s->n_kv_heads * s->d_index, n_q),
                    .ki = last_rows(st->ki, s->n_kv, s->d_index, s->n_kv),
                    .dout = last_rows(st->q, s->n_q, nq, n_q),
                    .pattern = INPUTS_NORMAL};
}

static void learned(const model *m, const model_run *run)
{
    check_case c = check_begin("learned selections of the shipped model, all kernels");
    int number = 0;
    const msa_kernel *k;
    for (int i = 0; (k = table_at(i)) != NULL; i++) {
        if (strcmp(k->backend, backend) != 0)
            continue;
        msa_shape s = model_run_shape(run);
        const int64_t n_q = k->stage == MSA_STAGE_DECODE ? STEP : QUERIES;
        inputs in = layer_inputs(&s, model_run_layer(run, number % m->config.n_layers), n_q);
        s.n_q = n_q;
        s.cu_q = s.cu_kv = NULL; // one sequence, and of it the last queries
        judge(&c, k, &s, &in, check_seed(77), number++);
        inputs_free(&in);
    }
    check_end(&c);
}

static void with_model(void)
{
    io_error err;
    model m;
    uint8_t text[LENGTH];
    FILE *f = fopen("README.md", "rb");
    const bool read = f && fread(text, 1, LENGTH, f) == LENGTH;
    if (f)
        fclose(f);
    if (!read || !model_load(&m, "data/kjv-msa.safetensors", err)) {
        tap_skip("learned selections", read ? err : "README.md is not here");
        return;
    }
    model_run *run = model_run_new(&m, &msa_fast_ops, 1, LENGTH, false);
    if (run) {
        model_forward(&m, run, MSA_ATTN_SPARSE, text);
        learned(&m, run);
    }
    model_run_free(run);
    model_free(&m);
}

/* ---- Output types ------------------------------------------------------------------------------------ */

static uint16_t *bf16_copy(const float *x, int64_t n)
{
    uint16_t *y = check_alloc(n, sizeof *y);
    for (int64_t i = 0; i < n; i++)
        y[i] = msa_bf16_bits(x[i]);
    return y;
}

static void *on_device(const void *x, int64_t bytes)
{
    void *y = device->alloc((size_t)bytes);
    device->upload(y, x, (size_t)bytes);
    return y;
}

static uint16_t *bf16_on_device(const float *x, int64_t n)
{
    return on_device(bf16_copy(x, n), n * 2);
}

static bool run_into(const char *name, const msa_shape *s, msa_dtype type, msa_arrays a, void *o,
                     int64_t bytes)
{
    msa_plan plan;
    if (msa_plan_make(&plan, device, name, s, type) != MSA_OK)
        return false;
    void *work = device->alloc(plan.workspace);
    void *there = device->alloc((size_t)bytes);
    a.o = there;
    msa_status status = msa_plan_run(&plan, &a, work, NULL);
    if (status == MSA_OK)
        status = device->download(o, there, (size_t)bytes);
    device->free(there);
    device->free(work);
    return status == MSA_OK;
}

// O in bf16 is O in float32, rounded: the arithmetic before is the same.
static void output_types(const msa_kernel *k, const msa_shape *s, uint64_t seed)
{
    inputs in;
    char name[64];
    const void *mark = check_mark();
    const int64_t n = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head;
    const int64_t n_ids = s->n_kv_heads * s->n_q * s->topk;
    if (!inputs_new(&in, s, INPUTS_NORMAL, seed))
        return;
    snprintf(name, sizeof name, "%s/%s", msa_stage_name(k->stage), k->name);
    check_case c = check_begin("%s: O in bf16 is O in float32, rounded", name);
    int32_t *ids = check_ints(n_ids);
    selection_draw(s, SELECTION_ANY, seed, ids);
    msa_arrays a = {.q = bf16_on_device(in.q, n),
                    .k = bf16_on_device(in.k, nk),
                    .v = bf16_on_device(in.v, nk),
                    .qi = bf16_on_device(in.qi, s->n_q * s->n_kv_heads * s->d_index),
                    .ki = bf16_on_device(in.ki, s->n_kv * s->d_index),
                    .ids = on_device(ids, n_ids * 4)};
    float *wide = check_floats(n);
    uint16_t *narrow = check_alloc(n, sizeof *narrow);
    set_mode(seed, 8);
    check_true(&c, run_into(name, s, MSA_F32, a, wide, n * 4), "float32: %s", device->trouble());
    check_true(&c, run_into(name, s, MSA_BF16, a, narrow, n * 2), "bf16: %s", device->trouble());
    check_same(&c, "o", bf16_copy(wide, n), narrow, (size_t)n * sizeof *narrow);
    check_end(&c);
    for (array_id i = 0; i < ARRAY_N; i++)
        device->free(array_get(&a, i));
    inputs_free(&in);
    check_release(mark);
}

/* ---- Refusals ------------------------------------------------------------------------------------------ */

/* A device whose instructions are Ampere's. */
static int sm_80(void)
{
    return 80;
}

static void instructions(void)
{
    check_case c = check_begin("a GPU before or after Hopper gets no kernel of its instructions");
    const msa_shape s = {100, 300, 32, 2, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
    msa_device older = *device;
    msa_plan plan;
    older.sm = sm_80;
    check_true(&c, msa_plan_make(&plan, &older, "dense/tensor_core", &s, MSA_F32) == MSA_OK, "mma.sync");
    check_true(&c, msa_plan_make(&plan, &older, "dense/hopper", &s, MSA_F32) == MSA_ERR_UNSUPPORTED, "wgmma");
    check_end(&c);
}

static void refusals(void)
{
    check_case c = check_begin("plans refuse what no kernel takes");
    msa_plan plan;
    const msa_shape good = {100, 300, 32, 2, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
    const struct {
        const char *kernel, *why;
        msa_shape s;
    } bad[] = {{"dense/naive", "dh 96", {100, 300, 32, 2, 96, 128, 128, 16, 1, NULL, NULL, NULL, NULL}},
               {"dense/naive", "a group of 17", {100, 300, 17, 1, 64, 64, 32, 16, 1, NULL, NULL, NULL, NULL}},
               {"sparse/naive", "block 16", {100, 300, 32, 2, 128, 128, 16, 16, 1, NULL, NULL, NULL, NULL}},
               {"topk/warp", "k 33", {100, 300, 32, 2, 128, 128, 128, 33, 1, NULL, NULL, NULL, NULL}},
               {"decode/naive", "17 queries", {17, 300, 32, 2, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL}},
               {"index/naive", "di 32", {100, 300, 32, 2, 128, 32, 128, 16, 1, NULL, NULL, NULL, NULL}}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        check_true(&c, msa_plan_make(&plan, device, bad[i].kernel, &bad[i].s, MSA_F32) == MSA_ERR_UNSUPPORTED,
                   "%s takes %s", bad[i].kernel, bad[i].why);
    check_true(&c, msa_plan_make(&plan, device, "dense/none", &good, MSA_F32) == MSA_ERR_UNSUPPORTED,
               "no name");
    check_true(&c, msa_plan_make(&plan, NULL, "dense/naive", &good, MSA_F32) == MSA_ERR_DEVICE, "no device");
    check_true(&c, msa_plan_make(&plan, device, "dense/naive", &good, MSA_F32) == MSA_OK, "a good plan");
    check_true(&c, msa_plan_run(&plan, NULL, NULL, NULL) == MSA_ERR_NULL, "no arrays");
    check_end(&c);
}

static bool is_wanted(const msa_kernel *k, const char *only)
{
    return strcmp(k->backend, backend) == 0 && (!only || table_find(only, backend) == k);
}

/// Settles back end and device; false, with a line that says why, where there is none.
static bool choose_device(void)
{
    const char *wanted = getenv("TEST_BACKEND");
    backend = wanted && *wanted ? wanted : "simt";
    device = table_device(backend);
    const char *why = table_missing(backend);
    if (!device)
        why = strcmp(backend, "simt") == 0 ? "no C++ compiler here" : "not in this build: make cuda";
    if (why)
        tap_skip(strcmp(backend, "simt") == 0 ? "kernels on the engine" : "kernels on a GPU", why);
    return !why;
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    if (!choose_device())
        return check_done();
    const char *only = argc > 2 ? argv[2] : NULL;
    const msa_shape small = {20, 150, 6, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL};
    msa_shape step = small;
    step.n_q = 3;
    const msa_kernel *k;
    for (int i = 0; (k = table_at(i)) != NULL; i++)
        if (is_wanted(k, only)) {
            agrees(k, i, only || tap_full());
            if (k->stage == MSA_STAGE_DENSE || k->stage == MSA_STAGE_SPARSE ||
                k->stage == MSA_STAGE_PREFILL || k->stage == MSA_STAGE_DECODE)
                output_types(k, k->stage == MSA_STAGE_DECODE ? &step : &small, check_seed(5));
        }
    if (!only || strcmp(only, "-") == 0) {
        refusals();
        instructions();
        with_model();
    }
    return check_done();
}
