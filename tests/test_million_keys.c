/**
 * @file test_million_keys.c
 * @brief The share of blocks that 8-bit index keys leave open in long rows, and of rows that fall back: Gaussian keys, and
 *        the same with four channels 6 times as large (book, chapter 13b). A step of generation, whose queries have two
 *        codes, leaves about half as many open. FULL: a million keys; else an eighth of them.
 *
 * Ceilings of counts: the keys are the same in every run, so that a row too many is a change of the code and no accident.
 */
#include <stdio.h>
#include <string.h>

#include "../ref/fast/amx_kernels.h"
#include "../ref/table/table.h"
#include "support/check.h"
#include "support/index_keys.h"

enum { D = 128, BLOCK = 128, TOPK = 16 };

// Numbers of bf16; of `stretched` ones every 32nd channel is 6 times as large. Each piece of rows has a seed of its own.
static uint16_t *draw(int64_t rows, bool stretched, uint64_t seed)
{
    uint16_t *x = check_alloc(rows * D, sizeof *x);
#pragma omp parallel for
    for (int64_t piece = 0; piece < rows; piece += 64) {
        inputs_rng rng = {seed ^ (uint64_t)piece};
        rng.state = inputs_u64(&rng);
        for (int64_t i = piece * D; i < (piece + 64) * D; i++)
            x[i] = msa_bf16_bits(inputs_normal(&rng) * (stretched && i % 32 == 5 ? 6.0f : 1.0f));
    }
    return x;
}

static bool choose(const char *kernel, const msa_shape *s, const msa_arrays *a)
{
    const msa_kernel *k = table_find(kernel, "fast");
    const void *before = check_mark();
    const bool ok = k->run_half(s, a, check_alloc((int64_t)k->workspace(s), 1)) == MSA_OK;
    check_release(before);
    return ok;
}

static void open_blocks(bool stretched, const msa_shape *s, double most)
{
    const size_t bytes = (size_t)(s->n_q * s->topk) * sizeof(int32_t);
    msa_screening done = {0};
    check_case c =
        check_begin("%lld keys%s: at most %g %% of the blocks are settled, one row of a thousand falls back",
                    (long long)s->n_kv, stretched ? ", four channels 6 times as large" : "", 100 * most);
    int32_t *const right = check_ints(s->n_q * s->topk), *const found = check_ints(s->n_q * s->topk);
    msa_arrays a = {.qi = draw(s->n_q, false, 1), .ki = draw(s->n_kv, stretched, 2), .ids = right};
    check_true(&c, choose("index/amx_full", s, &a), "index/amx_full runs");
    a.ids = found;
    a.screening = &done;
    check_true(&c, choose("index/amx_screened", s, &a), "index/amx_screened runs");
    check_same(&c, "ids", right, found, bytes);
    const double rows = (double)done.rows, settled = (double)done.settled / (double)done.blocks,
                 fell = (double)done.fell_back / rows;
    check_true(&c, done.rows == s->n_q && settled <= most, "settled %.4f of the blocks of %g rows", settled,
               rows);
    check_true(&c, fell <= 0.001, "%.4f of the rows fell back", fell);
    check_end(&c);
    tap_note("%.1f of %.1f blocks, %.2f %%; %lld of %lld rows fell back", (double)done.settled / rows,
             (double)done.blocks / rows, 100 * settled, (long long)done.fell_back, (long long)done.rows);
    check_release(NULL);
}

// The copy of keys in bf16, block by block.
static msa_index8 copy_of(const uint16_t *ki, int64_t n_kv)
{
    const int64_t blocks = n_kv / BLOCK;
    const msa_index8 copy = {check_alloc(n_kv * D, 1), check_floats(blocks), check_floats(blocks),
                             check_floats(blocks), check_floats(blocks)};
#pragma omp parallel for
    for (int64_t b = 0; b < blocks; b++) {
        float keys[BLOCK * D];
        double room[D];
        for (int64_t i = 0; i < BLOCK * D; i++) {
            const uint32_t bits = (uint32_t)ki[b * BLOCK * D + i] << 16;
            memcpy(&keys[i], &bits, sizeof bits);
        }
        msa_index8_block(keys, BLOCK, D,
                         (msa_index8){copy.codes + b * BLOCK * D, copy.scale + b, copy.reach + b,
                                      copy.error + b, copy.least + b},
                         room);
    }
    return copy;
}

static void open_steps(bool stretched, int64_t n_kv, double most)
{
    const msa_shape s = {2, n_kv, 4, 4, 4, D, BLOCK, TOPK, 1, NULL, NULL, NULL, NULL};
    const int64_t rows = s.n_q * s.n_kv_heads, values = n_kv * s.n_kv_heads * s.d_head;
    msa_screening done = {0};
    check_case c =
        check_begin("a step over %lld keys%s: at most %g %% of the blocks are settled", (long long)n_kv,
                    stretched ? ", four channels 6 times as large" : "", 100 * most);
    int32_t *const right = check_ints(rows * TOPK), *const found = check_ints(rows * TOPK);
    msa_arrays a = {.q = check_alloc(s.n_q * s.n_heads * s.d_head, sizeof(uint16_t)),
                    .k = check_alloc(values, sizeof(uint16_t)),
                    .v = check_alloc(values, sizeof(uint16_t)),
                    .qi = draw(64, false, 1),
                    .ki = draw(n_kv, stretched, 2),
                    .ids = right,
                    .o = check_floats(s.n_q * s.n_heads * s.d_head)};
    const msa_index8 copy = copy_of(a.ki, n_kv);
    check_true(&c, choose("decode/amx", &s, &a), "decode/amx runs");
    a.ids = found, a.index8 = &copy, a.screening = &done;
    check_true(&c, choose("decode/amx", &s, &a), "decode/amx runs with a copy");
    check_same(&c, "ids", right, found, (size_t)(rows * TOPK) * sizeof *right);
    check_counts(&c, &s, &done);
    const double settled = (double)done.settled / (double)done.blocks;
    check_true(&c, settled <= most && done.fell_back == 0, "settled %.4f of the blocks", settled);
    check_end(&c);
    tap_note("%.1f of %.1f blocks, %.2f %%", (double)done.settled / (double)rows,
             (double)done.blocks / (double)rows, 100 * settled);
    check_release(NULL);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    amx_choose(amx_at_hand()); // one body for all: else steps without a copy stream where nothing multiplies bf16
    const int64_t keys = tap_full() ? 1 << 20 : 1 << 17, queries = tap_full() ? 4096 : 128;
    const msa_shape s = {queries, keys, 1, 1, D, D, BLOCK, TOPK, 1, NULL, NULL, NULL, NULL};
    open_blocks(false, &s, tap_full() ? 0.012 : 0.08);
    open_blocks(true, &s, tap_full() ? 0.02 : 0.1);
    open_steps(false, keys, tap_full() ? 0.006 : 0.04);
    open_steps(true, keys, tap_full() ? 0.006 : 0.04);
    return check_done();
}
