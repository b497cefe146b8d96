/**
 * @file test_decode.c
 * @brief Steps of generation over pages: the reference against the contiguous one, 8-bit index keys, new
 * tokens, what is refused; and on the CPU engine, what a plan makes of lengths and pages that change under
 * it.
 *
 * Whether kernels agree with the reference, test_kernels says, pages and 8-bit keys included.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../cuda/host/msa_cuda.h"
#include "../cuda/simt/counts.h"
#include "../ref/judge/judge.h"
#include "../ref/judge/paging.h"
#include "../ref/table/table.h"
#include "../ref/model/model.h"
#include "support/check.h"

static int64_t o_count(const msa_shape *s)
{
    return s->n_q * s->n_heads * s->d_head;
}
static int64_t ids_count(const msa_shape *s)
{
    return s->n_kv_heads * s->n_q * s->topk;
}
static void *work_for(const msa_shape *s)
{
    return check_alloc((int64_t)msa_workspace(&msa_ref_ops, s), 1);
}

/* ---- 8-bit floats ---------------------------------------------------------------------------------- */

static uint8_t nearest(float x)
{
    uint8_t best = 0;
    for (int b = 1; b < 127; b++) {
        const float d = fabsf(msa_e4m3((uint8_t)b) - fabsf(x)), least = fabsf(msa_e4m3(best) - fabsf(x));
        if (d < least || (d == least && b % 2 == 0)) // ties to the even fraction
            best = (uint8_t)b;
    }
    return (uint8_t)(best | (signbit(x) ? 0x80 : 0));
}

static void e4m3(void)
{
    check_case c = check_begin("E4M3: every number comes back, others go to the nearest, scales are tight");
    inputs_rng rng = {check_seed(1)};
    for (int b = 0; b < 256; b++)
        check_true(
            &c, (b & 0x7f) == 0x7f ? isnan(msa_e4m3((uint8_t)b)) : msa_e4m3_bits(msa_e4m3((uint8_t)b)) == b,
            "byte %d", b);
    check_true(&c, msa_e4m3(0x7e) == 448 && msa_e4m3(1) == 0x1p-9f && msa_e4m3(0x38) == 1, "landmarks");
    check_true(&c, msa_e4m3_bits(1e30f) == 0x7e && msa_e4m3_bits(-INFINITY) == 0xfe, "saturation");
    for (int i = 0; i < 20000; i++) {
        const float x = ldexpf(inputs_normal(&rng), (int)inputs_below(&rng, 22) - 14);
        check_true(&c, msa_e4m3_bits(x) == nearest(x), "%.9g", (double)x);
        check_true(&c, msa_bf16(msa_e4m3(msa_e4m3_bits(x))) == msa_e4m3(msa_e4m3_bits(x)), "in bf16");
    }
    const float rows[][2] = {{448, 1}, {-449, 1}, {224, -3}, {0x1.cp-8f, 0}, {3e38f, 1}, {0, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t bits[2];
        float scale;
        int power;
        msa_e4m3_block(rows[i], 2, bits, &scale);
        const float most = fabsf(rows[i][0]);
        check_true(&c, frexpf(scale, &power) == 0.5f && most <= 448 * scale, "%g", (double)most);
        check_true(&c, most == 0 || most > 224 * scale, "%g: a smaller scale would do", (double)most);
    }
    const float odd[][2] = {{NAN, 1}, {1, -NAN}, {INFINITY, 1}, {-1, -INFINITY}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        uint8_t bits[2];
        float scale;
        msa_e4m3_block(odd[i], 2, bits, &scale);
        check_true(&c, isnan(scale), "%g, %g: a piece that is not finite has no scale", (double)odd[i][0],
                   (double)odd[i][1]);
    }
    check_end(&c);
}

/* ---- The reference ---------------------------------------------------------------------------------- */

#define MOST_REQUESTS 128

// A batch of `n` requests of `n_q` queries each, of these lengths.
typedef struct batch {
    msa_shape s;
    int32_t cu[2][MOST_REQUESTS + 1];
} batch;

static void make_batch(batch *b, int n, int n_q, const int *length, const msa_shape *sizes)
{
    b->s = *sizes;
    for (int r = 0; r <= n; r++) {
        b->cu[0][r] = r * n_q;
        b->cu[1][r] = r ? b->cu[1][r - 1] + length[r - 1] : 0;
    }
    b->s.n_q = b->cu[0][n];
    b->s.n_kv = b->cu[1][n];
    b->s.n_seqs = n;
    b->s.cu_q = b->cu[0];
    b->s.cu_kv = b->cu[1];
}

static void step_equals_contiguous(check_case *c, const msa_shape *s, inputs_pattern p, int page,
                                   uint64_t seed, bool small)
{
    const void *mark = check_mark();
    inputs in;
    paging g;
    if (!inputs_new(&in, s, p, seed) || !paging_new(&g, s, &in, page, seed, small))
        return;
    const int64_t n_o = o_count(s), n_lse = s->n_q * s->n_heads;
    int32_t *ids[2] = {check_ints(ids_count(s)), check_ints(ids_count(s))};
    float *o[2] = {check_floats(n_o), check_floats(n_o)},
          *lse[2] = {check_floats(n_lse), check_floats(n_lse)};
    void *work = work_for(&g.s), *plain = work_for(s);
    const float *ki = small ? g.decoded : in.ki;
    check_true(c,
               msa_decode(&g.s, &g.p, in.q, g.k, g.v, in.qi, small ? NULL : g.ki, ids[0], o[0], lse[0],
                          work) == MSA_OK,
               "decode");
    msa_index(s, in.qi, ki, NULL, ids[1], NULL, plain);
    check_same(c, "ids", ids[1], ids[0], (size_t)ids_count(s) * 4);
    msa_sparse(s, in.q, in.k, in.v, ids[0], o[1], lse[1], plain);
    check_same(c, "o", o[1], o[0], (size_t)n_o * 4);
    check_same(c, "lse", lse[1], lse[0], (size_t)n_lse * 4);
    check_true(c, msa_dense_decode(&g.s, &g.p, in.q, g.k, g.v, o[0], lse[0], work) == MSA_OK, "dense");
    msa_dense(s, in.q, in.k, in.v, o[1], lse[1], plain);
    check_same(c, "dense o", o[1], o[0], (size_t)n_o * 4);
    check_same(c, "dense lse", lse[1], lse[0], (size_t)n_lse * 4);
    paging_free(&g);
    inputs_free(&in);
    check_release(mark);
}

static const int lengths[][4] = {{127, 128, 129, 16}, {16, 129, 700, 128}, {128, 127, 256, 513}};
static const msa_shape sizes = {1, 1, 4, 2, 16, 12, 128, 3, 1, NULL, NULL, NULL, NULL},
                       narrow = {1, 1, 2, 2, 8, 8, 16, 4, 1, NULL, NULL, NULL, NULL};

static void reference(void)
{
    check_case c =
        check_begin("the reference over random pages of any size gives the bits of the contiguous one");
    int number = 0;
    for (int n_q = 1; n_q <= 16; n_q++)
        for (int a = 0; a < 3; a++, number++) {
            batch b;
            make_batch(&b, 1 + number % 4, n_q, lengths[a], number % 5 ? &sizes : &narrow);
            const int block = b.s.block, pages[] = {0, 4, block / 2, 2 * block, block};
            step_equals_contiguous(&c, &b.s, (inputs_pattern)(number % INPUTS_N_PATTERNS), pages[number % 5],
                                   check_seed((uint64_t)number), number / 5 % 2);
        }
    const int one[] = {1};
    batch b;
    make_batch(&b, 1, 1, one, &sizes);
    step_equals_contiguous(&c, &b.s, INPUTS_NORMAL, 0, check_seed(99), false);
    check_end(&c);
}

/* ---- New tokens --------------------------------------------------------------------------------------- */

// The last n_q tokens of every sequence, of a tensor of `width` floats a token.
static float *newest(const msa_shape *s, const float *x, int64_t width)
{
    float *y = check_floats(s->n_q * width);
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        memcpy(y + seq.q0 * width, x + (seq.kv0 + seq.n_kv - seq.n_q) * width,
               (size_t)(seq.n_q * width) * sizeof *y);
    }
    return y;
}

// Token after token into empty pages, as generation does it: what comes of it is what a cache holds that was
// laid out at once, 8-bit codes included.
static void append_all(check_case *c, int page, bool small)
{
    enum { length = 300 };
    const int lens[2] = {length, length};
    batch b;
    inputs in;
    paging g;
    make_batch(&b, 2, 1, lens, &sizes);
    if (!inputs_new(&in, &b.s, INPUTS_NORMAL, check_seed(7)) ||
        !paging_new(&g, &b.s, &in, page, check_seed(7), small))
        return;
    const int64_t wide = b.s.n_kv_heads * b.s.d_head, di = b.s.d_index, n = g.p.n_pages * g.p.page;
    float *k = check_floats(n * wide), *v = check_floats(n * wide), *ki = check_floats(n * di);
    const size_t wanted = (size_t)(n * wide) * 4,
                 scales = (size_t)(n / (page < b.s.block ? page : b.s.block)) * 4;
    msa_pages p = g.p;
    memset(k, 0xff, wanted), memset(v, 0xff, wanted), memset(ki, 0xff, (size_t)(n * di) * 4);
    if (small) {
        p.ki8 = check_alloc(n * di, 1), p.scale = check_floats(n);
        memset(p.ki8, 0x7f, (size_t)(n * di)), memset(p.scale, 0xff, scales);
    }
    for (int t = 1; t <= length; t++) {
        const int64_t from = t - 1;
        g.lens[0] = g.lens[1] = t;
        float *nk = check_floats(2 * wide), *nv = check_floats(2 * wide), *ni = check_floats(2 * di);
        for (int r = 0; r < 2; r++) {
            memcpy(nk + r * wide, in.k + (r * length + from) * wide, (size_t)wide * 4);
            memcpy(nv + r * wide, in.v + (r * length + from) * wide, (size_t)wide * 4);
            memcpy(ni + r * di, in.ki + (r * length + from) * di, (size_t)di * 4);
        }
        check_true(c, msa_append(&g.s, &p, nk, nv, ni, k, v, ki) == MSA_OK, "append %d", t);
    }
    check_same(c, "k", g.k, k, wanted);
    check_same(c, "v", g.v, v, wanted);
    check_same(c, "ki", g.ki, ki, (size_t)(n * di) * 4);
    if (small) {
        check_same(c, "codes", g.p.ki8, p.ki8, (size_t)(n * di));
        check_same(c, "scales", g.p.scale, p.scale, scales);
    }
    paging_free(&g);
    inputs_free(&in);
}

static void append(void)
{
    check_case c = check_begin("tokens appended one by one fill the pages");
    append_all(&c, sizes.block, false);
    append_all(&c, sizes.block, true);
    append_all(&c, 32, true);
    append_all(&c, 256, true);
    check_end(&c);
    check_release(NULL);
}

/* ---- Refusals ------------------------------------------------------------------------------------------ */

static void expect_refusal(check_case *c, const char *what, msa_status wanted, const msa_shape *s,
                           const msa_pages *p)
{
    float in[64] = {0}, o[64] = {1};
    int32_t ids[64] = {7};
    check_true(c, msa_check_pages(s, p) == wanted, "%s: check", what);
    check_true(c, msa_decode(s, p, in, in, in, in, in, ids, o, NULL, o) == wanted, "%s: decode", what);
    check_true(c, msa_dense_decode(s, p, in, in, in, o, NULL, o) == wanted, "%s: dense_decode", what);
    check_true(c, msa_append(s, p, in, in, in, o, o, o) == wanted, "%s: append", what);
    const msa_kernel *k = table_find("decode/swapped", "simt");
    if (k && k->backend[0] == 's')
        check_true(
            c,
            k->run(
                s,
                &(msa_arrays){
                    .pages = pages_of(p), .q = in, .k = in, .v = in, .qi = in, .ki = in, .ids = ids, .o = o},
                o) == wanted,
            "%s: a kernel", what);
    check_true(c, o[0] == 1 && ids[0] == 7, "%s: wrote", what);
}

static void refusals(void)
{
    check_case c = check_begin("page ids and lengths out of range are refused before anything runs");
    const int32_t cu_q[] = {0, 2, 4}, cu_kv[] = {0, 96, 192}, odd_kv[] = {0, 64, 192};
    int32_t table[6] = {4, 0, -1, 3, 1, 2}, lens[2] = {64, 96};
    const msa_shape good = {4, 192, 2, 1, 64, 64, 32, 2, 2, cu_q, cu_kv, NULL, NULL};
    const msa_pages p = {.n_pages = 5, .table = table, .lens = lens};
    check_true(&c, msa_check_pages(&good, &p) == MSA_OK, "a good call");
    const struct {
        const char *what;
        int32_t *at, value;
    } bad[] = {{"a page past the last", &table[1], 5},   {"no page", &table[0], -1},
               {"a page far off", &table[5], INT32_MAX}, {"shorter than its queries", &lens[0], 1},
               {"longer than the table", &lens[1], 97},  {"a length of a page that is missing", &lens[0], 65},
               {"a negative length", &lens[1], -3}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const int32_t old = *bad[i].at;
        *bad[i].at = bad[i].value;
        expect_refusal(&c, bad[i].what, MSA_ERR_PAGES, &good, &p);
        *bad[i].at = old;
    }
    msa_shape uneven = good;
    uneven.cu_kv = odd_kv;
    expect_refusal(&c, "unequal room", MSA_ERR_SEQLENS, &uneven, &p);
    msa_pages none = p;
    none.table = NULL;
    expect_refusal(&c, "no table", MSA_ERR_NULL, &good, &none);
    check_end(&c);
}

/* ---- Steps on the engine ------------------------------------------------------------------------------- */

static const msa_device *device;

#ifdef HAVE_SIMT
// A batch of n requests of n_q queries each whose sizes and lengths are drawn, with keys one after the other,
// in pages, and of 8 bits.
static void judge_drawn(check_case *c, const char *kernel, int n, int n_q, int most, inputs_rng *rng)
{
    static const int edges[] = {1, 127, 128, 129}, blocks[] = {32, 64, 128};
    const int heads = 1 + (int)inputs_below(rng, 2), room = (int)inputs_below(rng, 8), wide = n * n_q == 1;
    const msa_shape drawn = {.n_heads = heads * (1 + (int)inputs_below(rng, wide ? 16 : 3)),
                             .n_kv_heads = heads,
                             .d_head = wide ? 128 : 64,
                             .d_index = room % 2 ? 64 : 128,
                             .block = blocks[inputs_below(rng, 3)],
                             .topk = 1 + (int)inputs_below(rng, 6)};
    int length[MOST_REQUESTS];
    for (int r = 0; r < n; r++) {
        length[r] = r < 4 && room < 4 ? edges[inputs_below(rng, 4)] : 1 + (int)inputs_below(rng, most);
        length[r] = length[r] < n_q ? n_q : length[r];
    }
    batch b;
    inputs in;
    char name[INPUTS_NAME];
    make_batch(&b, n, n_q, length, &drawn);
    inputs_shape_name(&b.s, name);
    const inputs_pattern pattern = (inputs_pattern)inputs_below(rng, INPUTS_N_PATTERNS);
    if (!inputs_new(&in, &b.s, pattern, inputs_u64(rng)))
        return;
    msa_engine_mode((int)inputs_below(rng, 4), (int)inputs_below(rng, 3), inputs_u64(rng));
    msa_engine_sms(room % 3 ? 132 : 1 + (int)inputs_below(rng, 9));
    const judge_report report = judge_kernel(table_find(kernel, "simt"), &b.s, &in, inputs_u64(rng));
    check_true(c, report.outcome == JUDGE_PASS, "%s, %s, %s: %s", kernel, name, inputs_pattern_name(pattern),
               report.text);
    c->used = report.used > c->used ? report.used : c->used;
    msa_engine_sms(132);
    inputs_free(&in);
}

static void judge_one(const char *name, const msa_shape *s)
{
    inputs in;
    check_case c = check_begin("%s", name);
    if (inputs_new(&in, s, INPUTS_NORMAL, check_seed(60))) {
        const judge_report report =
            judge_kernel(table_find("decode/swapped", "simt"), s, &in, check_seed(61));
        check_true(&c, report.outcome == JUDGE_PASS, "%s", report.text);
        c.used = report.used;
        inputs_free(&in);
    }
    check_end(&c);
}

static void turns(void)
{
    // 132 segments of 31 candidates each are more than a CTA chooses from in one turn: cuda/decode/choose_blocks.cuh.
    const msa_shape segments = {1, 17400, 2, 1, 64, 64, 32, 32, 1, NULL, NULL, NULL, NULL};
    judge_one("more candidates than one turn takes", &segments);
    // 64 columns leave room for the maxima of two stages: one CTA has four rounds, all of them in a chunk of 32 blocks.
    const msa_shape rounds = {16, 1000, 4, 4, 64, 64, 128, 4, 1, NULL, NULL, NULL, NULL};
    msa_engine_sms(1);
    judge_one("rounds of fewer stages than a chunk has", &rounds);
    msa_engine_sms(132);
}

static void counts(void)
{
    inputs_rng rng = {check_seed(50)};
    const int apart = tap_full() ? 1 : 2; // by default the odd ones or the even ones, as the seed says
    check_case c = check_begin(tap_full() ? "every number of queries" : "every second number of queries");
    for (int n_q = 1 + (int)inputs_below(&rng, apart); n_q <= 16; n_q += apart) {
        judge_drawn(&c, "decode/swapped", 1 + n_q / 2 % 2, n_q, 270, &rng);
        judge_drawn(&c, "dense_decode/split", 1, n_q, 150, &rng);
    }
    check_end(&c);
    c = check_begin("many requests, up to 128");
    if (tap_full())
        judge_drawn(&c, "decode/swapped", 17 + (int)inputs_below(&rng, MOST_REQUESTS - 17), 1, 150, &rng);
    judge_drawn(&c, "decode/swapped", MOST_REQUESTS, 1, 100, &rng);
    judge_drawn(&c, "dense_decode/split", MOST_REQUESTS / 2 + 1 + (int)inputs_below(&rng, MOST_REQUESTS / 2),
                1, 100, &rng);
    check_end(&c);
}
#endif

// Declared, so that a kernel that goes astray is found out.
static void *take(int64_t bytes, const char *name)
{
    void *p = device->alloc((size_t)bytes);
    device->declare(p, (size_t)bytes, name);
    return p;
}
static void *up(const void *x, int64_t bytes)
{
    void *y = take(bytes, "an input");
    device->upload(y, x, (size_t)bytes);
    return y;
}
static uint16_t *up_bf16(const float *x, int64_t n)
{
    uint16_t *half = check_alloc(n, sizeof *half);
    for (int64_t i = 0; i < n; i++)
        half[i] = msa_bf16_bits(x[i]);
    return up(half, 2 * n);
}

// A paged call on the device, with room for its outputs.
typedef struct step {
    msa_plan plan;
    msa_arrays a;
    void *work;
} step;

static bool step_open(step *t, const char *kernel, const paging *g, const inputs *in)
{
    const msa_shape *s = &g->s;
    const int64_t rows = g->p.n_pages * s->block, wide = s->n_kv_heads * s->d_head;
    *t = (step){.a = {.q = up_bf16(in->q, o_count(s)),
                      .k = up_bf16(g->k, rows * wide),
                      .v = up_bf16(g->v, rows * wide),
                      .qi = up_bf16(in->qi, s->n_q * s->n_kv_heads * s->d_index),
                      .ki = up_bf16(g->ki, rows * s->d_index),
                      .ids = take(ids_count(s) * 4, "ids"),
                      .o = take(o_count(s) * 4, "o"),
                      .lse = take(s->n_q * s->n_heads * 4, "lse"),
                      .pages = {.n_pages = g->p.n_pages,
                                .table = up(g->table, msa_n_seqs(s) * msa_n_blocks(s) * 4),
                                .lens = up(g->lens, msa_n_seqs(s) * 4),
                                .ki8 = g->p.ki8 ? up(g->p.ki8, rows * s->d_index) : NULL,
                                .scale = g->p.ki8 ? up(g->p.scale, g->p.n_pages * 4) : NULL}}};
    if (msa_plan_make(&t->plan, device, kernel, s, MSA_F32) != MSA_OK)
        return false;
    t->work = take((int64_t)t->plan.workspace, "workspace");
    device->fill(t->work, 0xff, t->plan.workspace);
    return t->work != NULL;
}

static void expect_run(check_case *c, const step *t, const char *kernel)
{
    const bool ok = msa_plan_run(&t->plan, &t->a, t->work, NULL) == MSA_OK;
    check_true(c, ok, "%s: %s", kernel, ok ? "" : device->trouble());
}

static void step_close(step *t)
{
    void *const all[] = {(void *)(uintptr_t)t->a.q,
                         (void *)(uintptr_t)t->a.k,
                         (void *)(uintptr_t)t->a.v,
                         (void *)(uintptr_t)t->a.qi,
                         (void *)(uintptr_t)t->a.ki,
                         (void *)(uintptr_t)t->a.new_k,
                         (void *)(uintptr_t)t->a.new_v,
                         (void *)(uintptr_t)t->a.new_ki,
                         array_get(&t->a, ARRAY_IDS),
                         array_get(&t->a, ARRAY_O),
                         array_get(&t->a, ARRAY_LSE),
                         (void *)(uintptr_t)t->a.pages.table,
                         (void *)(uintptr_t)t->a.pages.lens,
                         t->a.pages.ki8,
                         t->a.pages.scale,
                         t->work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device->free(all[i]);
    device->declare(NULL, 0, NULL);
}

static void expect_same(check_case *c, const char *what, const void *expected, const void *on_device,
                        int64_t bytes)
{
    void *host = check_alloc(bytes, 1);
    device->download(host, on_device, (size_t)bytes);
    check_same(c, what, expected, host, (size_t)bytes);
}

// A step that appends its tokens leaves the pages that msa_append makes, and gives what a step over those
// does. Index keys are multiplied by `size`, a power of two.
static void appending_step(check_case *c, const msa_shape *s, const char *kernel, bool small, float size,
                           uint64_t seed)
{
    const void *mark = check_mark();
    inputs drawn, in;
    paging before, after;
    step expected, found;
    if (!inputs_new(&drawn, s, INPUTS_NORMAL, seed) || !inputs_rounded(&in, &drawn, s))
        return;
    for (int64_t i = 0; i < s->n_kv * s->d_index; i++)
        in.ki[i] *= size;
    if (!paging_new(&before, s, &in, 0, seed, small) || !paging_new(&after, s, &in, 0, seed, small))
        return;
    const int64_t wide = s->n_kv_heads * s->d_head, n = s->n_q * wide, n_ki = s->n_q * s->d_index;
    const int64_t rows = after.p.n_pages * s->block;
    float *k = newest(s, in.v, wide), *v = newest(s, in.k, wide), *ki = newest(s, in.ki, s->d_index);
    for (int64_t i = 0; i < n_ki; i++)
        ki[i] *= 8; // too large for the scale of the keys before them
    check_true(c, msa_append(&after.s, &after.p, k, v, ki, after.k, after.v, after.ki) == MSA_OK, "append");
    if (!step_open(&expected, kernel, &after, &in) || !step_open(&found, kernel, &before, &in))
        return;
    found.a.new_k = up_bf16(k, n);
    found.a.new_v = up_bf16(v, n);
    found.a.new_ki = up_bf16(ki, n_ki);
    expect_run(c, &expected, kernel);
    expect_run(c, &found, kernel);
    expect_same(c, "k", expected.a.k, found.a.k, 2 * rows * wide);
    expect_same(c, "v", expected.a.v, found.a.v, 2 * rows * wide);
    if (small) {
        expect_same(c, "8-bit ki", after.p.ki8, found.a.pages.ki8, rows * s->d_index);
        expect_same(c, "scale", after.p.scale, found.a.pages.scale, 4 * after.p.n_pages);
    } else
        expect_same(c, "ki", expected.a.ki, found.a.ki, 2 * rows * s->d_index);
    if (strncmp(kernel, "decode/", 7) == 0)
        expect_same(c, "ids", expected.a.ids, found.a.ids, 4 * ids_count(&after.s));
    expect_same(c, "o", expected.a.o, found.a.o, 4 * o_count(s));
    expect_same(c, "lse", expected.a.lse, found.a.lse, 4 * s->n_q * s->n_heads);
    step_close(&found);
    step_close(&expected);
    paging_free(&before);
    paging_free(&after);
    inputs_free(&drawn);
    inputs_free(&in);
    check_release(mark);
}

static const msa_shape fast = {1, 1, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL},
                       wide = {1, 1, 16, 1, 128, 128, 128, 2, 1, NULL, NULL, NULL, NULL};

static void appending(void)
{
    check_case c = check_begin("a step stores its tokens first: pages and results are those of msa_append");
    const int some[] = {33, 129, 3, 96, 300}, more[] = {130, 257}, longer[] = {1300, 300, 1200};
    batch b;
    make_batch(&b, 5, 3, some, &fast); // over the end of a page, in the middle of one, from its start
    for (int small = 0; small < 2; small++)
        appending_step(&c, &b.s, "decode/swapped", small, 1, check_seed(20));
    appending_step(&c, &b.s, "dense_decode/split", false, 1, check_seed(21));
    make_batch(&b, 2, 2, more, &wide);
    appending_step(&c, &b.s, "decode/swapped", true, 0x1p-6f, check_seed(22)); // blocks of keys below 1
    appending_step(&c, &b.s, "decode/swapped", true, NAN, check_seed(22));     // none is finite
#ifdef HAVE_SIMT
    if (device == msa_engine())
        msa_engine_sms(1); // one piece of work with all stages of all requests, more than the ring has places
    make_batch(&b, 3, 1, longer, &fast);
    for (int small = 0; small < 2; small++)
        appending_step(&c, &b.s, "decode/swapped", small, 1, check_seed(23));
    msa_engine_sms(132);
#endif
    check_end(&c);
}

// What a graph keeps must not depend on lengths: launches, at most so many, and their CTAs.
static void expect_same_grids(check_case *c, const char *kernel, bool first, uint64_t most)
{
#ifdef HAVE_SIMT
    static simt_counters before;
    const simt_counters *n = simt_counts();
    before = first ? *n : before;
    check_true(c,
               device != msa_engine() ||
                   (n->launches == before.launches && n->blocks == before.blocks && n->launches <= most),
               "%s: %d launches of %d CTAs", kernel, (int)n->launches, (int)n->blocks);
#else
    (void)c, (void)kernel, (void)first, (void)most;
#endif
}

// The same plan and buffers, the lengths on the device changed between runs: on a GPU a graph is replayed.
static void growing(void)
{
    check_case c = check_begin("a recorded step follows lengths that change on the device");
    const int lens[] = {300, 170};
    static const char *const kernels[] = {"decode/naive", "decode/split", "decode/swapped", "decode/swapped"};
    batch b;
    inputs in;
    make_batch(&b, 2, 1, lens, &fast);
    if (!inputs_new(&in, &b.s, INPUTS_DYADIC, check_seed(30)))
        return;
    for (int64_t i = 0; i < b.s.n_kv * b.s.d_index; i++)
        in.ki[i] *=
            (float)(1 << i / b.s.d_index / b.s.block % 9 * 2); // no block has the scale of its neighbour
    for (int k = 0; k < 4; k++) {                              // the last one with 8-bit keys
        step t;
        paging g;
        if (!paging_new(&g, &b.s, &in, 0, 30, k == 3) || !step_open(&t, kernels[k], &g, &in))
            return;
        int32_t *ids = check_ints(ids_count(&g.s));
        const int64_t n = o_count(&g.s);
        float *o = check_floats(n), *found = check_floats(n);
        check_true(&c, device->record(k, &t.plan, &t.a, t.work) == MSA_OK, "%s: %s", kernels[k],
                   device->trouble());
        for (int length = 170; length >= 1; length -= 43) {
            g.lens[0] = length, g.lens[1] = 171 - length;
            device->upload((int32_t *)(uintptr_t)t.a.pages.lens, g.lens, sizeof lens);
            const msa_status replayed = device->replay(k);
            check_true(&c, replayed == MSA_OK, "%s: %s", kernels[k], device->trouble());
            expect_same_grids(&c, kernels[k], length == 170, k < 2 ? 4 : 3);
            msa_decode(&g.s, &g.p, in.q, g.k, g.v, in.qi, g.ki, ids, o, NULL, work_for(&g.s));
            expect_same(&c, "ids", ids, t.a.ids, 4 * ids_count(&g.s));
            device->download(found, t.a.o, (size_t)n * sizeof *found);
            check_tensor(&c, "o", (verdict_dims){1, 1, n}, check_widen(o, n), found,
                         (verdict_budget){0x1p-7, 0, NULL});
            device->fill(array_get(&t.a, ARRAY_O), 0xff, (size_t)n * sizeof *found);
        }
        check_true(&c, device->replay(k + 1) == MSA_ERR_NULL, "%s: a call that nobody recorded", kernels[k]);
        step_close(&t);
        paging_free(&g);
    }
    inputs_free(&in);
    check_end(&c);
    check_release(NULL);
}

#ifdef HAVE_SIMT
// What the host cannot see, since it is on the device already.
static void corrupted(void)
{
    check_case c = check_begin("the engine reports page ids and lengths that went bad on the device");
    const int lens[] = {300, 170};
    static const char *const kernels[] = {"decode/naive", "decode/split", "decode/swapped",
                                          "dense_decode/split"};
    batch b;
    inputs in;
    paging g;
    make_batch(&b, 2, 2, lens, &fast);
    if (!inputs_new(&in, &b.s, INPUTS_NORMAL, check_seed(40)) || !paging_new(&g, &b.s, &in, 0, 40, false))
        return;
    const int32_t bad[][2] = {
        {1, (int32_t)g.p.n_pages}, {11, -1}, {-1, 1}, {-1, 385}}; // table entry; or length
    for (int k = 0; k < 4; k++)
        for (int a = 0; a < 4; a++) {
            step t;
            if (!step_open(&t, kernels[k], &g, &in))
                return;
            int32_t *at = bad[a][0] < 0 ? (int32_t *)(uintptr_t)t.a.pages.lens
                                        : (int32_t *)(uintptr_t)t.a.pages.table + bad[a][0];
            device->upload(at, &bad[a][1], sizeof *at);
            const msa_status status = msa_plan_run(&t.plan, &t.a, t.work, NULL);
            check_true(&c,
                       status == MSA_ERR_DEVICE && strstr(device->trouble(), a < 2 ? "page id" : "length"),
                       "%s, case %d: %s", kernels[k], a, status == MSA_OK ? "ran" : device->trouble());
            step_close(&t);
        }
    paging_free(&g);
    inputs_free(&in);
    check_end(&c);
    check_release(NULL);
}
#endif

/* ---- Generation ---------------------------------------------------------------------------------------- */

// What a model makes of a text, 16 tokens at a time and then one by one, with its attention on the engine.
// Both decoders are fed the same bytes. The kernels round K, V and P to bf16, 8 bits, in each of the layers.
static void generates(const char *path, const char *kernel, const char *backend)
{
    static const char text[] =
        "In the beginning God created the heaven and the earth. And the earth was without "
        "form, and void; and darkness was upon the face of the deep.";
    check_case c = check_begin("%s generates with %s as with the reference", path, kernel);
    const uint8_t *token = (const uint8_t *)text;
    msa_ops ops = msa_ref_ops;
    const msa_kernel *k = table_find(kernel, backend);
    ops.stage[k->stage] = k;
    io_error err;
    model m;
    if (!model_load(&m, path, err)) {
        tap_skip(c.name, err);
        return;
    }
    model_decoder *on_engine = model_decoder_new(&m, &ops, 160),
                  *plain = model_decoder_new(&m, &msa_ref_ops, 160);
    for (int done = 0, n = 16; done < 131; done += n) {
        n = done < 128 ? 16 : 1;
        const float *found = model_decode(on_engine, token + done, n);
        const float *expected = model_decode(plain, token + done, n);
        check_true(&c, found && expected, "logits after %d tokens", done + n);
        if (found && expected)
            check_tensor(&c, "logits", (verdict_dims){1, 1, MODEL_VOCAB}, check_widen(expected, MODEL_VOCAB),
                         found, (verdict_budget){0x1p-5, 0, NULL});
    }
    model_decoder_free(on_engine);
    model_decoder_free(plain);
    model_free(&m);
    check_end(&c);
    check_release(NULL);
}

// The engine, or with TEST_BACKEND=cuda a GPU, which takes its own order of threads and reports nothing.
static void on_devices(void)
{
    const char *wanted = getenv("TEST_BACKEND"), *backend = wanted && *wanted ? wanted : "simt";
    const char *why = table_missing(backend);
    device = table_device(backend);
    if (!device || why) {
        tap_skip("steps on a device", why ? why : "this build has none");
        return;
    }
    appending();
    growing();
#ifdef HAVE_SIMT
    if (device == msa_engine()) {
        counts();
        turns();
        corrupted();
    }
#endif
    generates("data/kjv-msa.safetensors", "decode/swapped", backend);
    generates("data/kjv-gqa.safetensors", "dense_decode/split", backend);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    e4m3();
    reference();
    append();
    refusals();
    on_devices();
    return check_done();
}
