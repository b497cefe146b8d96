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
#else
#define omp_set_num_threads(n) (void)(n)
#endif

#include "../ref/fast/amx_kernels.h"
#include "../ref/judge/copy8.h"
#include "../ref/judge/judge.h"
#include "../ref/judge/paging.h"
#include "../ref/stages.h"
#include "../ref/table/table.h"
#include "support/check.h"
#include "support/steps_amx.h"
#include "support/tile_emulator.h"

#ifdef HAVE_TILES
static const bool built = true;
#else
static const bool built = false;
#define amx_steps_tiles amx_steps_plain
#define amx_adds_pairs_tiles amx_adds_pairs_plain
#endif

static const char *body_name(bool tiled)
{
    return tiled ? "on tiles" : "without tiles";
}

/* ---- Instructions ------------------------------------------------------------------------------------------------ */

#define SPREAD 192 /* bytes from row to row */

static void fill_halves(step_tile *x, inputs_rng *rng)
{
    uint16_t *half = (uint16_t *)x;
    for (size_t n = 0; n < sizeof *x / sizeof *half; n++)
        half[n] = msa_bf16_bits(inputs_normal(rng));
}

static float whole(const step_tile *x, int row, int half)
{
    const uint32_t bits = (uint32_t)((const uint16_t *)x->word[row])[half] << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* c + a b with what the order of its 33 terms may change: 32 roundings, each of at most the sum of sizes. */
typedef struct exact_sum {
    double sum, error;
    int32_t bytes;
} exact_sum;

static exact_sum product_at(const step_tile *a, const step_tile *b, const step_tile *c, int m, int n)
{
    exact_sum x = {.bytes = (int32_t)c->word[m][n]};
    float first;
    memcpy(&first, &c->word[m][n], sizeof first);
    double size = fabs((double)first);
    x.sum = (double)first;
    for (int k = 0; k < 32; k++) {
        const double term = (double)whole(a, m, k) * (double)whole(b, k / 2, 2 * n + k % 2);
        x.sum += term;
        size += fabs(term);
    }
    for (int k = 0; k < 64; k++)
        x.bytes += ((const int8_t *)a->word[m])[k] * ((const int8_t *)b->word[k / 4])[4 * n + k % 4];
    x.error = 32 * 0x1p-24 * size;
    return x;
}

static void check_near(check_case *c, const char *which, const step_tile *a, const step_tile *b,
                       const step_tile *before, const step_tile *after)
{
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            const exact_sum x = product_at(a, b, before, m, n);
            float found;
            memcpy(&found, &after->word[m][n], sizeof found);
            check_true(c, fabs((double)found - x.sum) <= x.error,
                       "%s: row %d, column %d: expected %g, found %g", which, m, n, x.sum, (double)found);
        }
}

static void every_instruction(void)
{
    check_case c = check_begin("tile instructions leave the same bits as loops over vectors");
    static step_tile a, b, before, plain[4], tiled[4];
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
        before = plain[0];
        amx_steps_plain(&a, &b, spread, SPREAD, plain);
        amx_steps_tiles(&a, &b, spread, SPREAD, tiled);
        if (amx_adds_pairs_plain == amx_adds_pairs_tiles)
            check_same(&c, "a product of bf16", &plain[0], &tiled[0], sizeof a);
        check_near(&c, "loops", &a, &b, &before, &plain[0]);
        check_near(&c, "tiles", &a, &b, &before, &tiled[0]);
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
    static step_tile a, b, zeros, out[4];
    inputs_rng rng = {check_seed(2)};
    fill_halves(&a, &rng);
    fill_halves(&b, &rng);
    memset(out, 0, sizeof out);
    amx_steps_plain(&a, &b, &a, 64, out);
    check_near(&c, "bf16", &a, &b, &zeros, &out[0]);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            const int32_t right = product_at(&a, &b, &zeros, m, n).bytes;
            check_true(&c, (int32_t)out[1].word[m][n] == right, "row %d, column %d: expected %d, found %d", m,
                       n, right, (int32_t)out[1].word[m][n]);
        }
    check_end(&c);
}

/* ---- What kernels are measured by: of whole numbers, so that sums are exact ------------------------------------------ */

static void fill_whole(step_tile *x, int n, inputs_rng *rng)
{
    for (size_t a = 0; a < (size_t)n * sizeof *x / 2; a++)
        ((uint16_t *)x)[a] = msa_bf16_bits(floorf(4 * inputs_normal(rng)));
}

// Row m of a left factor times column n of a right one.
static float dot_of_tiles(const step_tile *a, const step_tile *b, int m, int n)
{
    float sum = 0;
    for (int k = 0; k < 32; k++)
        sum += whole(a, m, k) * whole(b, k / 2, 2 * n + k % 2);
    return sum;
}

static void in_registers(bool tiled)
{
    check_case c = check_begin("products in registers, %s", body_name(tiled));
    enum { TIMES = 70 }; // more than a body may put off
    static step_tile factor[4], sum[4];
    inputs_rng rng = {check_seed(4)};
    amx_choose(tiled);
    fill_whole(factor, 4, &rng);
    amx_products(TIMES, (void *)factor, (void *)sum);
    for (int t = 0; t < 4; t++)
        for (int m = 0; m < 16; m++)
            for (int n = 0; n < 16; n++) {
                const float right = TIMES * dot_of_tiles(&factor[t / 2], &factor[2 + t % 2], m, n);
                float found;
                memcpy(&found, &sum[t].word[m][n], sizeof found);
                check_true(&c, found == right, "product %d: expected %g, found %g", t, (double)right,
                           (double)found);
            }
    check_end(&c);
}

static void over_memory(bool tiled)
{
    check_case c = check_begin("a product of matrices, %s", body_name(tiled));
    enum {
        SIDE = 544,
        STEPS = SIDE / 32,
        TILES_IN_ALL = SIDE / 16 * STEPS
    }; // no multiple of what a cache is given
    static step_tile a[TILES_IN_ALL], b[TILES_IN_ALL];
    static float product[SIDE][SIDE];
    inputs_rng rng = {check_seed(5)};
    amx_choose(tiled);
    fill_whole(a, TILES_IN_ALL, &rng);
    fill_whole(b, TILES_IN_ALL, &rng);
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++)
            product[i][j] = (float)(i - j);
    amx_matrices(SIDE, (void *)a, (void *)b, product[0]);
    for (int i = 0; i < SIDE; i += 5)
        for (int j = 0; j < SIDE; j += 7) {
            float right = (float)(i - j);
            for (int k = 0; k < STEPS; k++)
                right += dot_of_tiles(&a[i / 16 * STEPS + k], &b[j / 16 * STEPS + k], i % 16, j % 16);
            check_true(&c, product[i][j] == right, "row %d, column %d: expected %g, found %g", i, j,
                       (double)right, (double)product[i][j]);
        }
    check_end(&c);
}

/* ---- Kernels ------------------------------------------------------------------------------------------------------- */

// Instructions that are emulated take ten microseconds: a third of the shapes is enough, for each seed another.
#define MOST_WORK 3e5 /* multiplications of one shape */

static bool in_short(bool tiled)
{
    return tiled && !amx_at_hand() && !tap_full();
}

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
                               body_name(tiled));
    amx_choose(tiled);
    for (int n = 0; n < inputs_n_all_shapes; n++) {
        const msa_shape *s = &inputs_shapes[n];
        const double work = (double)s->n_q * (double)s->n_kv * s->n_heads * s->d_head;
        if (!tap_full() && work > (in_short(tiled) ? MOST_WORK : 10 * MOST_WORK))
            continue;
        if (in_short(tiled) && ((uint64_t)n + check_seed(3)) % 3 > 0)
            continue;
        inputs in;
        if (!inputs_new(&in, s, (inputs_pattern)(n % INPUTS_N_PATTERNS), check_seed(10 + (uint64_t)n)))
            return;
        judge_one(&c, k, s, &in, check_seed(11 + (uint64_t)n));
        inputs_free(&in);
    }
    check_end(&c);
}

/* ---- Steps of generation over pages -------------------------------------------------------------------------------- */

#define MOST_REQUESTS 4

// Requests of n_q queries each, of these lengths, of which the first has len_q queries if that is not 0.
typedef struct steps {
    msa_shape s;
    int page, n_q, n, len_q, length[MOST_REQUESTS];
} steps;

static const steps steps_of_all_kinds[] = {
    // pages that are no multiple of 32; more heads of a group than a tile has rows; widths that fill no tile
    {{.n_heads = 17, .n_kv_heads = 1, .d_head = 20, .d_index = 12, .block = 24, .topk = 3},
     48,
     3,
     2,
     0,
     {130, 299}},
    {{.n_heads = 34, .n_kv_heads = 2, .d_head = 12, .d_index = 20, .block = 40, .topk = 2},
     20,
     1,
     3,
     0,
     {1, 161, 80}},
    // items that cross pages; index keys that lie as tiles want them, and those of a page that is shorter
    {{.n_heads = 16, .n_kv_heads = 1, .d_head = 32, .d_index = 32, .block = 128, .topk = 2},
     16,
     1,
     2,
     0,
     {300, 129}},
    {{.n_heads = 4, .n_kv_heads = 2, .d_head = 40, .d_index = 64, .block = 32, .topk = 6},
     8,
     5,
     2,
     0,
     {205, 64}},
    // as many queries as there may be, more rows of the index than four columns hold
    {{.n_heads = 5, .n_kv_heads = 5, .d_head = 8, .d_index = 8, .block = 16, .topk = 5}, 16, 16, 1, 0, {117}},
    // parts: keys that every query sees end with one, or in one; and those of a row of ids
    {{.n_heads = 2, .n_kv_heads = 1, .d_head = 8, .d_index = 8, .block = 64, .topk = 11},
     64,
     5,
     2,
     0,
     {1028, 2100}},
    {{.n_heads = 1, .n_kv_heads = 1, .d_head = 1, .d_index = 1, .block = 8, .topk = 6}, 16, 16, 1, 0, {1030}},
    // more blocks of all queries together than parts of four
    {{.n_heads = 2, .n_kv_heads = 1, .d_head = 4, .d_index = 4, .block = 4, .topk = 24}, 8, 16, 1, 0, {1603}},
    // a padded batch with a place that is not used
    {{.n_heads = 6, .n_kv_heads = 2, .d_head = 16, .d_index = 16, .block = 16, .topk = 3},
     32,
     4,
     3,
     2,
     {77, 0, 33}},
};

typedef struct batch {
    msa_shape s;
    int32_t cu[2][MOST_REQUESTS + 1], len[2][MOST_REQUESTS];
} batch;

// A place that is not used has room for as many keys as queries.
static void make_batch(batch *b, const steps *of)
{
    b->s = of->s;
    b->cu[0][0] = b->cu[1][0] = 0;
    for (int r = 0; r < of->n; r++) {
        const int length = of->length[r];
        b->cu[0][r + 1] = b->cu[0][r] + of->n_q;
        b->cu[1][r + 1] = b->cu[1][r] + (length > of->n_q ? length : of->n_q);
        b->len[0][r] = length == 0 ? 0 : r == 0 ? of->len_q : of->n_q;
        b->len[1][r] = length;
    }
    b->s.n_q = b->cu[0][of->n];
    b->s.n_kv = b->cu[1][of->n];
    b->s.n_seqs = of->n;
    b->s.cu_q = b->cu[0];
    b->s.cu_kv = b->cu[1];
    b->s.len_q = of->len_q ? b->len[0] : NULL;
    b->s.len_kv = of->len_q ? b->len[1] : NULL;
}

static uint16_t *rounded(const float *x, int64_t n)
{
    uint16_t *half = check_alloc(n, sizeof *half);
    for (int64_t i = 0; i < n; i++)
        half[i] = msa_bf16_bits(x[i]);
    return half;
}

// Outputs that every element of has to be written.
static msa_arrays with_outputs(const msa_shape *s, msa_arrays a)
{
    const int64_t n_ids = s->n_kv_heads * s->n_q * s->topk, n_lse = s->n_q * s->n_heads,
                  n_o = n_lse * s->d_head;
    a.ids = memset(check_ints(n_ids), 0x7f, (size_t)n_ids * 4);
    a.o = memset(check_floats(n_o), 0xff, (size_t)n_o * 4);
    a.lse = memset(check_floats(n_lse), 0xff, (size_t)n_lse * 4);
    return a;
}

static void same_outputs(check_case *c, const msa_kernel *k, const msa_shape *s, const msa_arrays *right,
                         const msa_arrays *found)
{
    const int64_t lse = s->n_q * s->n_heads;
    if (k->stage == MSA_STAGE_DECODE)
        check_same(c, "ids", right->ids, found->ids, (size_t)(s->n_kv_heads * s->n_q * s->topk) * 4);
    check_same(c, "o", right->o, found->o, (size_t)(lse * s->d_head) * 4);
    check_same(c, "lse", right->lse, found->lse, (size_t)lse * 4);
}

// The same step, screened by an 8-bit copy of its keys.
static void screened_is_full(check_case *c, const msa_kernel *k, const paging *g, const msa_arrays *full,
                             void *work)
{
    const int64_t n = g->p.n_pages * g->p.page * g->s.d_index;
    float *ki = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        ki[i] = msa_bf16(g->ki[i]);
    msa_index8 copy = copy8_new(&g->s, &g->p, ki);
    msa_arrays screened = with_outputs(&g->s, *full);
    screened.index8 = &copy;
    check_true(c, copy.codes && k->run_half(&g->s, &screened, work) == MSA_OK, "with an 8-bit copy");
    same_outputs(c, k, &g->s, full, &screened);
    copy8_free(&copy);
}

// A step over pages of bf16 leaves the bits of the contiguous one, whatever the number of threads; `small`: with 8-bit
// index keys, which are exact in bf16.
static void paged_is_contiguous(check_case *c, const msa_kernel *k, const batch *b, const inputs *in,
                                int page, bool small)
{
    const msa_shape *s = &b->s;
    const int64_t kv = s->n_kv_heads * s->d_head, di = s->d_index;
    paging g;
    if (!paging_new(&g, s, in, page, check_seed(30), small))
        return;
    const int64_t rows = g.p.n_pages * g.p.page, lse = s->n_q * s->n_heads;
    msa_arrays flat = {.q = rounded(in->q, lse * s->d_head),
                       .qi = rounded(in->qi, s->n_q * s->n_kv_heads * di)};
    msa_arrays paged = flat;
    flat.k = rounded(in->k, s->n_kv * kv), flat.v = rounded(in->v, s->n_kv * kv);
    flat.ki = rounded(small ? g.decoded : in->ki, s->n_kv * di);
    paged.k = rounded(g.k, rows * kv), paged.v = rounded(g.v, rows * kv), paged.pages = g.p;
    paged.ki = small ? NULL : rounded(g.ki, rows * di);
    flat = with_outputs(s, flat);
    void *work = check_alloc((int64_t)k->workspace(s), 1),
         *paged_work = check_alloc((int64_t)k->workspace(&g.s), 1);
    check_true(c, k->run_half(s, &flat, work) == MSA_OK, "contiguous");
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        paged = with_outputs(s, paged);
        check_true(c, k->run_half(&g.s, &paged, paged_work) == MSA_OK, "pages, %d threads", threads);
        same_outputs(c, k, s, &flat, &paged);
    }
    if (k->stage == MSA_STAGE_DECODE && !small)
        screened_is_full(c, k, &g, &paged, paged_work);
    omp_set_num_threads(1);
    paging_free(&g);
}

// run() rounds what its stage has, into its work: a caller's index keys are nobody's business in a dense step, 8-bit ones
// neither.
static void leaves_index_keys(void)
{
    const msa_kernel *k = table_find("dense_decode/amx", "fast");
    const msa_shape s = {2, 50, 2, 1, 16, 16, 16, 2, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("dense_decode/amx over pages of float32 leaves index keys alone");
    for (int small = 0; small < 2; small++) {
        inputs in;
        paging g;
        if (!inputs_new(&in, &s, INPUTS_NORMAL, check_seed(31)) ||
            !paging_new(&g, &s, &in, 16, check_seed(32), small))
            return;
        const int64_t n = g.p.n_pages * g.p.page * s.d_index;
        float *ki = check_floats(n);
        memcpy(ki, g.ki, (size_t)n * sizeof *ki);
        msa_arrays a = inputs_arrays(&in);
        a.k = g.k, a.v = g.v, a.ki = ki, a.pages = g.p;
        a.o = check_floats(s.n_q * s.n_heads * s.d_head), a.lse = NULL;
        check_true(&c, k->run(&g.s, &a, check_alloc((int64_t)k->workspace(&g.s), 1)) == MSA_OK, "run");
        check_same(&c, small ? "ki, 8-bit keys beside" : "ki", g.ki, ki, (size_t)n * sizeof *ki);
        paging_free(&g);
        inputs_free(&in);
    }
    check_end(&c);
    check_release(NULL);
}

// Logits so large that float32 rounds a difference from their LSE to more than a weight can be: done again in double.
static void huge_logits(const char *kernel)
{
    const msa_shape s = {20, 90, 6, 2, 32, 16, 32, 3, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("%s: logits of 1e10 and more", kernel);
    for (int n = 0; n < 8; n++) {
        inputs in;
        if (!inputs_new(&in, &s, INPUTS_NORMAL, check_seed(40 + (uint64_t)n)))
            return;
        for (int64_t i = 0; i < s.n_q * s.n_heads * s.d_head; i++)
            in.q[i] *= n % 2 ? 1e10f : 1e28f;
        const judge_report report =
            judge_kernel(table_find(kernel, "fast"), &s, &in, check_seed(50 + (uint64_t)n));
        check_true(&c, report.outcome == JUDGE_PASS, "%s", report.text);
        inputs_free(&in);
    }
    check_end(&c);
}

static void over_pages(const msa_kernel *k, bool tiled)
{
    check_case c = check_begin("%s/%s over pages of bf16, on 1, 2 and 3 threads, %s",
                               msa_stage_name(k->stage), k->name, body_name(tiled));
    amx_choose(tiled);
    const size_t all = sizeof steps_of_all_kinds / sizeof *steps_of_all_kinds;
    for (size_t n = 0; n < (in_short(tiled) ? 4 : all); n++) {
        const steps *of = &steps_of_all_kinds[n];
        const void *mark = check_mark();
        const inputs_pattern p = (inputs_pattern)((n + check_seed(20)) % INPUTS_N_PATTERNS);
        batch b;
        inputs in;
        char name[INPUTS_NAME];
        make_batch(&b, of);
        inputs_shape_name(&b.s, name);
        if (!inputs_new(&in, &b.s, p, check_seed(21 + (uint64_t)n)))
            return;
        const judge_report report = judge_kernel(k, &b.s, &in, check_seed(22 + (uint64_t)n));
        check_true(&c, report.outcome == JUDGE_PASS, "%s, %s: %s", name, inputs_pattern_name(p), report.text);
        paged_is_contiguous(&c, k, &b, &in, of->page, false);
        if (k->stage == MSA_STAGE_DECODE)
            paged_is_contiguous(&c, k, &b, &in, of->page, true);
        inputs_free(&in);
        check_release(mark);
    }
    check_end(&c);
}

// A call's tensors as bf16, or as floats of the same numbers.
static const void *stored(const float *x, int64_t n, bool half)
{
    float *y = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        y[i] = msa_bf16(x[i]);
    return half ? (const void *)rounded(x, n) : y;
}

static msa_arrays step_call(const msa_shape *s, const inputs *in, const paging *g, bool half)
{
    const int64_t rows = g ? g->p.n_pages * g->p.page : s->n_kv, kv = rows * s->n_kv_heads * s->d_head;
    msa_arrays a = {.q = stored(in->q, s->n_q * s->n_heads * s->d_head, half),
                    .k = stored(g ? g->k : in->k, kv, half),
                    .v = stored(g ? g->v : in->v, kv, half),
                    .qi = stored(in->qi, s->n_q * s->n_kv_heads * s->d_index, half),
                    .ki = stored(g ? g->ki : in->ki, rows * s->d_index, half)};
    if (g)
        a.pages = g->p;
    return with_outputs(s, a);
}

// Steps for processors that do not multiply bf16: the bits of float32 tensors of the same numbers.
static void streams(msa_stage stage)
{
    const bool chooses = stage == MSA_STAGE_DECODE;
    const msa_kernel *k = msa_fast_ops.stage[stage];
    size_t (*const bytes)(const msa_shape *) =
        chooses ? decode_halves_workspace : dense_decode_halves_workspace;
    check_case c = check_begin("%s of bf16 tensors that become floats on the way", msa_stage_name(stage));
    for (size_t n = 0; n < sizeof steps_of_all_kinds / sizeof *steps_of_all_kinds; n++) {
        const steps *of = &steps_of_all_kinds[n];
        const void *mark = check_mark();
        batch b;
        inputs in;
        paging g;
        make_batch(&b, of);
        if (of->n_q > 16 || !inputs_new(&in, &b.s, INPUTS_NORMAL, check_seed(200 + (uint64_t)n)) ||
            !paging_new(&g, &b.s, &in, of->page, check_seed(30), false))
            continue;
        for (int paged = 0; paged < 2; paged++) {
            const msa_shape *s = paged ? &g.s : &b.s;
            const msa_arrays half = step_call(s, &in, paged ? &g : NULL, true),
                             wide = step_call(s, &in, paged ? &g : NULL, false);
            void *work = check_alloc((int64_t)k->workspace(s), 1),
                 *own = check_alloc((int64_t)bytes(s) + ARENA_ALIGN, 1);
            check_true(&c, k->run(s, &wide, work) == MSA_OK, "float32");
            check_true(&c, (chooses ? decode_halves : dense_decode_halves)(s, &half, own) == MSA_OK, "bf16");
            same_outputs(&c, k, s, &wide, &half);
        }
        paging_free(&g);
        inputs_free(&in);
        check_release(mark);
    }
    check_end(&c);
}

// One column of 16 heads meets 128 keys of 32 channels: what the body without tiles counts, and the other does not.
static void counts(bool tiled)
{
    check_case c =
        check_begin("what is counted of a kernel, %s", tiled ? "on tiles: nothing" : "without tiles");
    const msa_shape s = {1, 128, 16, 1, 32, 32, 128, 1, 1, NULL, NULL, NULL, NULL};
    inputs in;
    if (!inputs_new(&in, &s, INPUTS_NORMAL, check_seed(4)))
        return;
    msa_arrays a = {.q = rounded(in.q, 16 * 32), .k = rounded(in.k, 128 * 32), .v = rounded(in.v, 128 * 32)};
    a.o = check_floats(16 * 32);
    amx_choose(tiled);
    amx_take_counts();
    check_true(&c, fast_dense_amx(&s, &a, check_alloc((int64_t)fast_dense_amx_workspace(&s), 1)) == MSA_OK,
               "dense");
    const tile_counts n = amx_take_counts();
    // 8 parts of keys: K, Q, a product, logits; 2 parts of channels: O, 4 pieces of V and P, a product each, O
    const int64_t expected[] = {8 + 2 * 4, 8 * 2 + 2 * (1 + 4 * 2), 8 + 2, 128, 1},
                  found[] = {n.products, n.loads, n.stores, n.exponentials, n.shrinks};
    for (int i = 0; i < 5; i++)
        check_true(&c, found[i] == (tiled ? 0 : expected[i]), "%d: expected %lld, found %lld", i,
                   tiled ? 0LL : (long long)expected[i], (long long)found[i]);
    check_true(&c, amx_take_counts().products == 0, "counts are taken once");
    inputs_free(&in);
    check_end(&c);
}

/* ---- Gradients ----------------------------------------------------------------------------------------------------- */

static bool is_gradient(const msa_kernel *k)
{
    return k->run_half && HAS(arrays_of(k->stage).out, k->stage == MSA_STAGE_KL ? ARRAY_DQI : ARRAY_DQ);
}

// Queries and keys past what the gradients take at once.
static void gradients_of_many(const msa_kernel *k, bool tiled)
{
    static const msa_shape many[] = {{1100, 1100, 2, 1, 4, 4, 16, 3, 1, NULL, NULL, NULL, NULL},
                                     {4170, 4200, 1, 1, 4, 4, 16, 2, 1, NULL, NULL, NULL, NULL},
                                     {20, 1300, 2, 1, 8, 8, 600, 2, 1, NULL, NULL, NULL, NULL}};
    check_case c = check_begin("%s/%s of more queries, and blocks of more keys, than it takes at once, %s",
                               msa_stage_name(k->stage), k->name, body_name(tiled));
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
static void gradients_of_extremes(const msa_kernel *k, bool tiled)
{
    static const struct {
        float q, v;
    } factor[] = {{0x1p-20f, 0x1p66f}, {1, 0x1p-70f}};
    const msa_shape *s = &inputs_shapes[3];
    check_case c = check_begin("%s/%s of tensors that overflow and that vanish, %s", msa_stage_name(k->stage),
                               k->name, body_name(tiled));
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
    omp_set_num_threads(threads);
    k->run(s, &a, check_alloc((int64_t)k->workspace(s), 1));
    return a;
}

// Without what the forward pass leaves, so that is on any number of threads too.
static void gradients_on_any_threads(const msa_kernel *k, bool tiled)
{
    check_case c = check_begin("%s/%s: 1, 2 and 3 threads give the same bits, %s", msa_stage_name(k->stage),
                               k->name, body_name(tiled));
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

// Of what is emulated the extremes only.
static void gradients(bool tiled)
{
    amx_choose(tiled);
    for (const msa_kernel *k = msa_fast_kernels; k->name; k++)
        if (is_gradient(k)) {
            if (!in_short(tiled)) {
                gradients_of_many(k, tiled);
                gradients_on_any_threads(k, tiled);
            }
            gradients_of_extremes(k, tiled);
        }
    omp_set_num_threads(1);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    products();
    const bool real = amx_at_hand();
    const bool tiled = built && amx_vectors() && (real || tile_emulator_begin());
    in_registers(false);
    over_memory(false);
    if (tiled) {
        every_instruction();
        in_registers(true);
        over_memory(true);
    } else
        tap_skip("tile instructions", built ? "no AVX-512 here, which their kernels use too" : "an assembler without them");
    for (const msa_kernel *k = msa_fast_kernels; k->name; k++) {
        if (!k->run_half)
            continue;
        judged(k, false);
        if (tiled)
            judged(k, true);
        if (!stage_is_step(k->stage))
            continue;
        over_pages(k, false);
        if (tiled)
            over_pages(k, true);
    }
    leaves_index_keys();
    huge_logits("backward/amx");
    huge_logits("backward/blocks");
    huge_logits("backward/tiles");
    huge_logits("kl/amx");
    huge_logits("kl/blocks");
    huge_logits("kl/tiles");
    streams(MSA_STAGE_DECODE);
    streams(MSA_STAGE_DENSE_DECODE);
    counts(false);
    if (tiled)
        counts(true);
    gradients(false);
    if (tiled)
        gradients(true);
    if (tiled)
        tap_note(real ? "on this processor's own tiles" : "%ld tile instructions emulated", tile_emulator_count());
    return check_done();
}
