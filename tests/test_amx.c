/**
 * @file test_amx.c
 * @brief The kernels on tiles in both bodies: instruction by instruction, then judged against the reference. Where the
 *        processor has no tiles its instructions are emulated, so that their machine code is tried all the same.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "../ref/fast/amx_kernels.h"
#include "../ref/judge/judge.h"
#include "support/check.h"
#include "support/steps_amx.h"
#include "support/tile_emulator.h"

#ifdef HAVE_TILES
static const bool built = true;
#else
static const bool built = false;
#define amx_steps_tiles amx_steps_plain
#endif

/* ---- Instructions ------------------------------------------------------------------------------------------------ */

#define SPREAD 192 /* bytes from row to row */

static void fill_halves(step_tile *x, inputs_rng *rng)
{
    uint16_t *half = (uint16_t *)x;
    for (size_t n = 0; n < sizeof *x / sizeof *half; n++)
        half[n] = msa_bf16_bits(inputs_normal(rng));
}

static void every_instruction(void)
{
    check_case c = check_begin("tile instructions leave the same bits as loops over vectors");
    static step_tile a, b, plain[4], tiled[4];
    static char spread[16 * SPREAD];
    inputs_rng rng = {check_seed(1)};
    for (int round = 0; round < 20; round++) {
        fill_halves(&a, &rng);
        fill_halves(&b, &rng);
        for (int n = 0; n < 256; n++) {
            const float x = inputs_normal(&rng);
            memcpy((float *)&plain[0] + n, &x, sizeof x);
            ((uint32_t *)&plain[1])[n] = (uint32_t)n * 0x9e3779b9u;
        }
        for (size_t n = 0; n < sizeof spread; n++)
            spread[n] = (char)(n * 7 + (size_t)round);
        memcpy(tiled, plain, sizeof tiled);
        amx_steps_plain(&a, &b, spread, SPREAD, plain);
        amx_steps_tiles(&a, &b, spread, SPREAD, tiled);
        check_same(&c, "a product of bf16", &plain[0], &tiled[0], sizeof a);
        check_same(&c, "a product of bytes", &plain[1], &tiled[1], sizeof a);
        check_same(&c, "a tile of zeros", &plain[2], &tiled[2], sizeof a);
        check_same(&c, "rows that lie apart", &plain[3], &tiled[3], sizeof a);
    }
    check_end(&c);
}

/* The portable body, element by element. */
static void products(void)
{
    check_case c = check_begin("products of tiles are what they should be");
    static step_tile a, b, out[4];
    inputs_rng rng = {check_seed(2)};
    fill_halves(&a, &rng);
    fill_halves(&b, &rng);
    memset(out, 0, sizeof out);
    amx_steps_plain(&a, &b, &a, 64, out);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            double sum = 0, size = 0;
            int32_t bytes = 0;
            float found;
            for (int k = 0; k < 32; k++) {
                const uint32_t bits[2] = {(uint32_t)((const uint16_t *)a.word[m])[k] << 16,
                                          (uint32_t)((const uint16_t *)b.word[k / 2])[2 * n + k % 2] << 16};
                float x[2];
                memcpy(x, bits, sizeof x);
                sum += (double)x[0] * (double)x[1];
                size += fabs((double)x[0] * (double)x[1]);
            }
            for (int k = 0; k < 64; k++)
                bytes += ((const int8_t *)a.word[m])[k] * ((const int8_t *)b.word[k / 4])[4 * n + k % 4];
            memcpy(&found, &out[0].word[m][n], sizeof found);
            check_true(&c, fabs((double)found - sum) <= 32 * 0x1p-24 * size, "row %d, column %d: expected %g, found %g",
                       m, n, sum, (double)found);
            check_true(&c, (int32_t)out[1].word[m][n] == bytes, "row %d, column %d: expected %d, found %d", m, n, bytes,
                       (int32_t)out[1].word[m][n]);
        }
    check_end(&c);
}

/* ---- Kernels ------------------------------------------------------------------------------------------------------- */

// Instructions that are emulated take a microsecond: products of so many tiles are enough for each kernel.
#define MOST_WORK 1e6 /* multiplications of one shape */

static void judge_one(check_case *c, const msa_kernel *k, const msa_shape *s, const inputs *in, uint64_t seed)
{
    char name[INPUTS_NAME];
    inputs_shape_name(s, name);
    const judge_report report = judge_kernel(k, s, in, seed);
    check_true(c, report.outcome == JUDGE_PASS, "%s, %s: %s", name, inputs_pattern_name(in->pattern),
               report.text);
    if (report.used >= c->used) {
        c->used = report.used;
        snprintf(c->worst, sizeof c->worst, "%s of %s", inputs_pattern_name(in->pattern), name);
    }
}

static void judged(const msa_kernel *k, bool tiled)
{
    check_case c = check_begin("%s/%s agrees with the reference, %s", msa_stage_name(k->stage), k->name,
                               tiled ? "on tiles" : "without tiles");
    amx_choose(tiled);
    for (int n = 0; n < inputs_n_all_shapes; n++) {
        const msa_shape *s = &inputs_shapes[n];
        const double work = (double)s->n_q * (double)s->n_kv * s->n_heads * s->d_head;
        if (work > (tiled ? MOST_WORK : 4 * MOST_WORK) && !tap_full())
            continue;
        inputs in;
        if (!inputs_new(&in, s, (inputs_pattern)(n % INPUTS_N_PATTERNS), check_seed(10 + (uint64_t)n)))
            return;
        judge_one(&c, k, s, &in, check_seed(11 + (uint64_t)n));
        inputs_free(&in);
    }
    check_end(&c);
}

/* ---- Gradients ----------------------------------------------------------------------------------------------------- */

static bool is_gradient(const msa_kernel *k)
{
    return k->run_half && HAS(arrays_of(k->stage).out, k->stage == MSA_STAGE_KL ? ARRAY_DQI : ARRAY_DQ);
}

// Queries and keys past what the gradients take at once.
static void gradients_of_many(const msa_kernel *k)
{
    static const msa_shape many[] = {{1100, 1100, 2, 1, 4, 4, 16, 3, 1, NULL, NULL, NULL, NULL},
                                     {4170, 4200, 1, 1, 4, 4, 16, 2, 1, NULL, NULL, NULL, NULL},
                                     {20, 1300, 2, 1, 8, 8, 600, 2, 1, NULL, NULL, NULL, NULL}};
    check_case c = check_begin("%s/%s of more queries, and blocks of more keys, than it takes at once",
                               msa_stage_name(k->stage), k->name);
    for (size_t n = 0; n < sizeof many / sizeof *many; n++) {
        inputs in;
        if (!inputs_new(&in, &many[n], INPUTS_NORMAL, check_seed(100 + (uint64_t)n)))
            return;
        judge_one(&c, k, &many[n], &in, check_seed(110 + (uint64_t)n));
        inputs_free(&in);
    }
    check_end(&c);
}

static void multiply(float *x, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= factor;
}

// What float32 cannot hold on the way though it could hold the gradients, and what tiles would take for 0.
static void gradients_of_extremes(const msa_kernel *k)
{
    static const struct {
        float q, v;
    } factor[] = {{0x1p-20f, 0x1p66f}, {1, 0x1p-70f}};
    const msa_shape *s = &inputs_shapes[3];
    check_case c =
        check_begin("%s/%s of tensors that overflow and that vanish", msa_stage_name(k->stage), k->name);
    for (size_t n = 0; n < sizeof factor / sizeof *factor; n++) {
        inputs in;
        if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(120 + (uint64_t)n)))
            return;
        multiply(in.q, array_count(s, NULL, ARRAY_Q), factor[n].q);
        multiply(in.k, array_count(s, NULL, ARRAY_K), factor[n].q);
        multiply(in.v, array_count(s, NULL, ARRAY_V), factor[n].v);
        multiply(in.dout, array_count(s, NULL, ARRAY_DOUT), factor[n].v);
        multiply(in.qi, array_count(s, NULL, ARRAY_QI), factor[n].v);
        multiply(in.ki, array_count(s, NULL, ARRAY_KI), 1 / factor[n].v);
        judge_one(&c, k, s, &in, check_seed(130 + (uint64_t)n));
        inputs_free(&in);
    }
    check_end(&c);
}

/** A call of its own outputs, of `threads` threads. */
static msa_arrays run_on(const msa_kernel *k, const msa_shape *s, const inputs *in, const int32_t *ids,
                         int threads)
{
    msa_arrays a = inputs_arrays(in);
    double *loss = check_alloc(1, sizeof *loss);
    a.ids = ids;
    a.weight = 1;
    a.loss = loss;
    for (array_id x = 0; x < ARRAY_N; x++)
        if (HAS(arrays_of(k->stage).out, x))
            array_set(&a, x, check_floats(array_count(s, NULL, x)));
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
    k->run(s, &a, check_alloc((int64_t)k->workspace(s), 1));
    return a;
}

// Without what the forward pass leaves, so that is on any number of threads too.
static void gradients_on_any_threads(const msa_kernel *k)
{
    check_case c =
        check_begin("%s/%s: 1, 2 and 3 threads give the same bits", msa_stage_name(k->stage), k->name);
    for (int n = 10; n < 14; n++) {
        const msa_shape *s = &inputs_shapes[n];
        inputs in;
        if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(140 + (uint64_t)n)))
            return;
        int32_t *ids = check_ints(array_count(s, NULL, ARRAY_IDS));
        msa_index(s, in.qi, in.ki, NULL, ids, NULL, check_alloc((int64_t)msa_workspace(NULL, s), 1));
        const msa_arrays one = run_on(k, s, &in, ids, 1);
        for (int threads = 2; threads <= 3; threads++) {
            const msa_arrays more = run_on(k, s, &in, ids, threads);
            for (array_id x = 0; x < ARRAY_N; x++)
                if (HAS(arrays_of(k->stage).out, x))
                    check_same(&c, array_name(x), array_get(&one, x), array_get(&more, x),
                               (size_t)array_count(s, NULL, x) * sizeof(float));
            check_same(&c, "loss", one.loss, more.loss, sizeof *one.loss);
        }
        inputs_free(&in);
        check_release(NULL);
    }
    check_end(&c);
}

static void gradients(void)
{
#ifdef _OPENMP
    const int before = omp_get_max_threads();
#endif
    amx_choose(false);
    for (const msa_kernel *k = msa_fast_kernels; k->name; k++)
        if (is_gradient(k)) {
            gradients_of_many(k);
            gradients_of_extremes(k);
            gradients_on_any_threads(k);
        }
#ifdef _OPENMP
    omp_set_num_threads(before);
#endif
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    products();
    const bool real = amx_at_hand();
    const bool tiled = built && amx_vectors() && (real || tile_emulator_begin());
    if (tiled)
        every_instruction();
    else
        tap_skip("tile instructions", built ? "no AVX-512 here, which their kernels use too" : "an assembler without them");
    for (const msa_kernel *k = msa_fast_kernels; k->name; k++) {
        if (!k->run_half)
            continue;
        judged(k, false);
        if (tiled)
            judged(k, true);
    }
    gradients();
    if (tiled)
        tap_note(real ? "on this processor's own tiles" : "%ld tile instructions emulated", tile_emulator_count());
    return check_done();
}
