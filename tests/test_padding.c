/**
 * @file test_padding.c
 * @brief Padded batches on the kernels of cuda/: against the reference with NaN in all padding, and lengths
 * that only the device knows, which may change between two runs of one plan and may be wrong.
 *
 * `test_padding SEED STAGE/NAME` is one kernel alone; TEST_BACKEND=cuda in the environment takes the GPU.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cuda/host/host.h"
#include "../ref/judge/judge.h"
#include "../ref/table/table.h"
#include "support/check.h"

static const char *backend;
static const msa_device *device;

static void set_mode(int number)
{
#ifdef HAVE_SIMT
    if (device == msa_engine()) {
        msa_engine_mode(number % 4, number / 4 % 3, check_seed((uint64_t)number));
        msa_tune(device, MSA_TUNE_sweep_chunk, number % 2 ? 13 : 32768);
    }
#else
    (void)number;
#endif
}

/* ---- Against the reference ----------------------------------------------------------------------- */

// Beside others a kernel meets one shape, another with another seed.
static void agrees(const msa_kernel *k, int number, bool only)
{
    static const inputs_pattern patterns[] = {INPUTS_NORMAL, INPUTS_TIES, INPUTS_PEAKED};
    check_case c = check_begin("%s/%s agrees on padded batches", msa_stage_name(k->stage), k->name);
    const int shapes = inputs_n_all_shapes - inputs_first_padded, first = only ? 0 : number % shapes;
    for (int a = inputs_first_padded + first; a < inputs_n_all_shapes; a += only ? 1 : shapes, number++) {
        inputs in;
        const msa_shape *s = &inputs_shapes[a];
        char name[INPUTS_NAME];
        inputs_shape_name(s, name);
        if (!inputs_new(&in, s, patterns[number % 3], check_seed((uint64_t)number)))
            return;
        set_mode(number);
        const judge_report report = judge_kernel(k, s, &in, check_seed((uint64_t)number));
        check_true(&c, report.outcome == JUDGE_PASS, "%s, %s: %s", name, inputs_pattern_name(in.pattern),
                   report.text);
        c.used = fmax(c.used, report.used);
        inputs_free(&in);
    }
    check_end(&c);
}

/* ---- Lengths on the device ------------------------------------------------------------------------- */

enum { R = 2, T = 40, S = 150, HEADS = 4, GROUPS = 2, D = 64 };

/** One plan of prefill/auto and its arrays on the device. */
typedef struct bench {
    msa_shape s;
    msa_plan plan;
    msa_arrays a;
    void *work;
} bench;

static const int32_t cu_q[R + 1] = {0, 25, T}, cu_kv[R + 1] = {0, 90, S};

static void *on_device(const void *x, int64_t bytes)
{
    void *y = device->alloc((size_t)bytes);
    if (x)
        device->upload(y, x, (size_t)bytes);
    return y;
}

static uint16_t *bf16_on_device(const float *x, int64_t n)
{
    uint16_t *y = check_alloc(n, sizeof *y);
    for (int64_t i = 0; i < n; i++)
        y[i] = msa_bf16_bits(x[i]);
    return on_device(y, 2 * n);
}

static bench new_bench(const inputs *in)
{
    bench b = {.s = {T, S, HEADS, GROUPS, D, D, 32, 2, R, cu_q, cu_kv, NULL, NULL}};
    msa_plan_make(&b.plan, device, "prefill/auto", &b.s, MSA_F32);
    b.work = on_device(NULL, (int64_t)b.plan.workspace);
    b.a = (msa_arrays){.q = bf16_on_device(in->q, T * HEADS * D),
                       .k = bf16_on_device(in->k, S * GROUPS * D),
                       .v = bf16_on_device(in->v, S * GROUPS * D),
                       .qi = bf16_on_device(in->qi, T * GROUPS * D),
                       .ki = bf16_on_device(in->ki, S * D),
                       .ids = on_device(NULL, 4 * GROUPS * T * 2),
                       .o = on_device(NULL, 4 * T * HEADS * D),
                       .lse = on_device(NULL, 4 * T * HEADS),
                       .len_q = on_device(NULL, 4 * R),
                       .len_kv = on_device(NULL, 4 * R),
                       .status = on_device(NULL, 4)};
    return b;
}

static void free_bench(bench *b)
{
    const void *const all[] = {b->a.q, b->a.k,   b->a.v,     b->a.qi,     b->a.ki,     b->a.ids,
                               b->a.o, b->a.lse, b->a.len_q, b->a.len_kv, b->a.status, b->work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->free((void *)all[i]);
}

// The same plan with other lengths: O, and the status that the run left.
static int32_t run_with(check_case *c, const bench *b, const int32_t len_q[R], const int32_t len_kv[R],
                        float *o)
{
    int32_t status = MSA_OK;
    device->upload(b->a.status, &status, sizeof status);
    device->upload((void *)b->a.len_q, len_q, 4 * R);
    device->upload((void *)b->a.len_kv, len_kv, 4 * R);
    device->fill(array_get(&b->a, ARRAY_O), 0xff, 4 * T * HEADS * D);
    const msa_status ran = msa_plan_run(&b->plan, &b->a, b->work, NULL);
    check_true(c, ran == MSA_OK, "a run: %s", device->trouble());
    device->download(o, b->a.o, 4 * T * HEADS * D);
    device->download(&status, b->a.status, sizeof status);
    return status;
}

// Lengths change between runs and nothing else does, as in a CUDA graph; a sequence with a wrong one is
// empty.
static void lengths_are_read_on_the_device(void)
{
    static const struct {
        int32_t len_q[R], len_kv[R], as_q[R], as_kv[R];
        msa_status status;
    } call[] = {{{25, 15}, {90, 60}, {25, 15}, {90, 60}, MSA_OK},
                {{7, 0}, {70, 33}, {7, 0}, {70, 33}, MSA_OK},
                {{0, 0}, {0, 0}, {0, 0}, {0, 0}, MSA_OK},
                {{-3, 15}, {90, 60}, {0, 15}, {0, 60}, MSA_ERR_SEQLENS},
                {{25, 99}, {90, 60}, {25, 0}, {90, 0}, MSA_ERR_SEQLENS},
                {{25, 15}, {INT32_MAX, INT32_MIN}, {0, 0}, {0, 0}, MSA_ERR_SEQLENS},
                {{25, 15}, {11, 60}, {0, 15}, {0, 60}, MSA_ERR_SEQLENS},
                {{3, 2}, {20, 9}, {3, 2}, {20, 9}, MSA_OK}};
    check_case c = check_begin("lengths are read and checked on the device, run by run");
    inputs in, narrow;
    const msa_shape room = {T, S, HEADS, GROUPS, D, D, 32, 2, R, cu_q, cu_kv, NULL, NULL};
    if (!inputs_new(&in, &room, INPUTS_NORMAL, check_seed(1)) || !inputs_rounded(&narrow, &in, &room))
        return;
    bench b = new_bench(&in);
    float *o = check_floats(T * HEADS * D), *expected = check_floats(T * HEADS * D);
    int32_t *ids = check_ints(GROUPS * T * 2);
    void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, &room), 1);
    for (size_t n = 0; n < sizeof call / sizeof *call; n++) {
        msa_shape s = room;
        s.len_q = call[n].as_q;
        s.len_kv = call[n].as_kv;
        set_mode((int)n);
        const int32_t status = run_with(&c, &b, call[n].len_q, call[n].len_kv, o);
        check_true(&c, status == (int32_t)call[n].status, "call %zu: status %d", n, status);
        msa_prefill(&s, narrow.q, narrow.k, narrow.v, narrow.qi, narrow.ki, ids, expected, NULL, work);
        for (int64_t i = 0; i < T * HEADS * D; i++)
            check_true(&c, fabsf(o[i] - expected[i]) <= 0.03f, "call %zu, O[%d]: expected %g, found %g", n,
                       (int)i, (double)expected[i], (double)o[i]);
    }
    check_end(&c);
    free_bench(&b);
    inputs_free(&in);
    inputs_free(&narrow);
}

static void plans_want_lengths(void)
{
    check_case c = check_begin("a plan of a padded shape needs lengths on the device");
    static const int32_t len_q[R] = {3, 15}, len_kv[R] = {90, 60}, wrong[R] = {26, 15};
    msa_shape s = {T, S, HEADS, GROUPS, D, D, 32, 2, R, cu_q, cu_kv, len_q, len_kv};
    msa_plan plan;
    char memory[64];
    check_true(&c, msa_plan_make(&plan, device, "topk/warp", &s, MSA_F32) == MSA_OK, "a plan");
    const msa_arrays none = {.len_kv = len_kv};
    check_true(&c, msa_plan_run(&plan, &none, memory, NULL) == MSA_ERR_NULL, "without len_q");
    s.len_q = wrong;
    check_true(&c, msa_plan_make(&plan, device, "topk/warp", &s, MSA_F32) == MSA_ERR_SEQLENS,
               "a length past its room");
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    const char *wanted = getenv("TEST_BACKEND"), *only = argc > 2 ? argv[2] : NULL;
    backend = wanted && *wanted ? wanted : "simt";
    device = table_device(backend);
    if (!device || table_missing(backend)) {
        tap_skip("padded batches on kernels", device ? table_missing(backend) : "not in this build");
        return check_done();
    }
    const msa_kernel *k;
    for (int i = 0; (k = table_at(i)) != NULL; i++)
        if (strcmp(k->backend, backend) == 0 && (!only || table_find(only, backend) == k) &&
            k->stage != MSA_STAGE_DECODE && k->stage != MSA_STAGE_DENSE_DECODE) // test_decode.c has those
            agrees(k, i + (int)(check_seed(0) % 6), only != NULL);
    if (!only) {
        lengths_are_read_on_the_device();
        plans_want_lengths();
    }
    return check_done();
}
