/**
 * @file test_amx.c
 * @brief The kernels on tiles in both bodies: instruction by instruction, then judged against the reference. Where the
 *        processor has no tiles its instructions are emulated, so that their machine code is tried all the same.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

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
        char name[INPUTS_NAME];
        const inputs_pattern p = (inputs_pattern)(n % INPUTS_N_PATTERNS);
        inputs_shape_name(s, name);
        if (!inputs_new(&in, s, p, check_seed(10 + (uint64_t)n)))
            return;
        const judge_report report = judge_kernel(k, s, &in, check_seed(11 + (uint64_t)n));
        check_true(&c, report.outcome == JUDGE_PASS, "%s, %s: %s", name, inputs_pattern_name(p), report.text);
        if (report.used >= c.used) {
            c.used = report.used;
            snprintf(c.worst, sizeof c.worst, "%s of %s", inputs_pattern_name(p), name);
        }
        inputs_free(&in);
    }
    check_end(&c);
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
    if (tiled)
        tap_note(real ? "on this processor's own tiles" : "%ld tile instructions emulated", tile_emulator_count());
    return check_done();
}
