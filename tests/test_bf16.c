/**
 * @file test_bf16.c
 * @brief bf16: the rounding itself, and the reference variants whose errors are the budget of kernels.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../ref/judge/noise.h"
#include "support/check.h"
#include "support/twin.h"

/* ---- The rounding -------------------------------------------------------------------------------- */

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// The magnitude of the bf16 number with these upper 16 bits; where infinity would be, the next power of
// two, since IEEE rounding overflows as if there were one more binade.
static double magnitude(uint32_t upper)
{
    return upper == 0x7f80 ? 0x1p128 : (double)float_of(upper << 16);
}

// Nearest by distance, in double: no bit trick.
static uint32_t nearest(uint32_t upper, uint32_t lower)
{
    double below = magnitude(upper), above = magnitude(upper + 1);
    double x = (double)float_of(upper << 16 | lower);
    if (x - below != above - x)
        return x - below < above - x ? upper : upper + 1;
    return upper % 2 == 0 ? upper : upper + 1;
}

static void every_upper_half(void)
{
    static const uint32_t lower[] = {0, 1, 0x1234, 0x7fff, 0x8000, 0x8001, 0xcdef, 0xffff};
    int64_t wrong = 0, not_odd = 0;
    for (uint32_t upper = 0; upper < 0x7f80; upper++) // every finite one, denormals included
        for (size_t n = 0; n < sizeof lower / sizeof *lower; n++) {
            float x = float_of(upper << 16 | lower[n]), y = msa_bf16(x);
            wrong += bits_of(y) != nearest(upper, lower[n]) << 16;
            not_odd += bits_of(msa_bf16(-x)) != (bits_of(y) | 0x80000000u);
        }
    tap(wrong == 0, "every finite upper half with 8 lower halves rounds to the nearest, ties to even");
    tap(not_odd == 0, "and so do their negatives");
}

static void special_values(void)
{
    tap(msa_bf16(INFINITY) == INFINITY && msa_bf16(-INFINITY) == -INFINITY, "infinities stay");
    tap(msa_bf16(FLT_MAX) == INFINITY, "the largest float rounds to infinity");
    tap(bits_of(msa_bf16(-0.0f)) == 0x80000000u, "-0 stays -0");
    bool stays = true;
    for (uint32_t payload = 1; payload < 0x800000; payload += 37)
        stays = stays && isnan(msa_bf16(float_of(0x7f800000u | payload))) &&
                isnan(msa_bf16(float_of(0xff800000u | payload))) &&
                (bits_of(msa_bf16(float_of(0x7f800000u | payload))) & 0xffffu) == 0;
    tap(stays, "NaN stays NaN, whatever its payload");
}

/* ---- The low-precision variants ------------------------------------------------------------------
 * Rounding a weight to bf16 changes it by at most 2^-8 of itself; what is left (a float32 denominator and
 * the output's own rounding) is below S 2^-24. So o may move by 2^-8 sum P|v|, dv by 2^-8 sum P|dO|, and
 * since |dS| <= 2 P |dO||V|, dq by 2^-8 2 |dO||V| sum P|K| / sqrt(d), and dk likewise with |Q|. Weights
 * below 2^-126 are denormal, and round by up to 2^-134 however small they are.
 */
#define DENORMAL 0x1p-120 // 2^-134 times what a few dozen rows can make of it

/** Inputs in double, and the twin's results on their magnitudes. */
typedef struct problem {
    const msa_shape *s;
    inputs in;
    bool peaked;        // its pattern
    const int32_t *ids; // NULL: dense
    double *q, *k;
    bool *mask;
    void *work;
} problem;

static double *magnitudes(const float *x, int64_t n)
{
    double *y = check_widen(x, n);
    for (int64_t i = 0; i < n; i++)
        y[i] = fabs(y[i]);
    return y;
}

// Within the bound everywhere, and off by what only bf16 explains: 2^-14 of the largest value is 32 times
// less than one weight's rounding, and 1000 times more than float32's. A peaked row may be all one weight, 1, which is exact.
static void within(check_case *c, const char *what, int64_t n, const float *exact, const float *found,
                   const double *bound, double factor, const problem *p)
{
    double used = 0, error = 0, value = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)found[i] - (double)exact[i]);
        double allowed = factor * bound[i] * (0x1p-8 + (double)p->s->n_kv * 0x1p-24) + DENORMAL;
        used = e <= used * allowed ? used : e / allowed; // NaN wins
        error = fmax(error, e);
        value = fmax(value, fabs((double)exact[i]));
    }
    check_true(c, used <= 1, "%s is within its bound: %.3g of it", what, used);
    check_true(c, p->peaked || error >= 0x1p-14 * value, "%s is rounded to bf16: off by %.3g of %.3g", what,
               error, value);
    if (used > c->used) {
        c->used = used;
        snprintf(c->worst, sizeof c->worst, "%s", what);
    }
}

static void forward(check_case *c, const problem *p)
{
    const msa_shape *s = p->s;
    int64_t n = s->n_q * s->n_heads * s->d_head, rows = s->n_q * s->n_heads;
    float *o = check_floats(n), *o16 = check_floats(n), *lse = check_floats(rows),
          *lse16 = check_floats(rows);
    double *bound = check_doubles(n);
    const inputs *in = &p->in;
    if (p->ids) {
        msa_sparse(s, in->q, in->k, in->v, p->ids, o, lse, p->work);
        msa_sparse_bf16(s, in->q, in->k, in->v, p->ids, o16, lse16, p->work);
    } else {
        msa_dense(s, in->q, in->k, in->v, o, lse, p->work);
        msa_dense_bf16(s, in->q, in->k, in->v, o16, lse16, p->work);
    }
    twin_attention(s, p->mask, p->q, p->k, magnitudes(in->v, s->n_kv * s->n_kv_heads * s->d_head), bound,
                   check_doubles(rows));
    within(c, "o", n, o, o16, bound, 1, p);
    check_tensor(c, "lse, which bf16 does not touch", (verdict_dims){1, 1, rows}, check_widen(lse, rows),
                 lse16, (verdict_budget){0x1p-22, (double)s->n_kv * 0x1p-24, NULL});
}

static double largest_norm(const float *x, int64_t rows, int d)
{
    double most = 0;
    for (int64_t i = 0; i < rows; i++) {
        double norm2 = 0;
        for (int c = 0; c < d; c++)
            norm2 += pow((double)x[i * d + c], 2);
        most = fmax(most, sqrt(norm2));
    }
    return most;
}

/** Gradients of the Main Branch. */
typedef struct gradients {
    float *dq, *dk, *dv;
} gradients;

static gradients run_backward(const problem *p, msa_backward_fn *backward)
{
    const msa_shape *s = p->s;
    const inputs *in = &p->in;
    int64_t nq = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head;
    gradients g = {check_floats(nq), check_floats(nk), check_floats(nk)};
    backward(s, in->q, in->k, in->v, p->ids, NULL, NULL, in->dout, g.dq, g.dk, g.dv, p->work);
    return g;
}

static void backward(check_case *c, const problem *p)
{
    const msa_shape *s = p->s;
    const inputs *in = &p->in;
    int64_t nq = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head;
    gradients exact = run_backward(p, msa_backward), found = run_backward(p, msa_backward_bf16);
    double dp = 2 * largest_norm(in->dout, s->n_q * s->n_heads, s->d_head) *
                largest_norm(in->v, s->n_kv * s->n_kv_heads, s->d_head) / sqrt(s->d_head);
    double *bound_q = check_doubles(nq), *bound_k = check_doubles(nk), *unused = check_doubles(nq + nk);

    twin_attention(s, p->mask, p->q, p->k, magnitudes(in->k, nk), bound_q, unused);
    within(c, "dq", nq, exact.dq, found.dq, bound_q, dp, p);
    twin_backward(s, p->mask, p->q, p->k, p->k, magnitudes(in->q, nq), unused, unused + nq, bound_k);
    within(c, "dk", nk, exact.dk, found.dk, bound_k, dp, p);
    twin_backward(s, p->mask, p->q, p->k, p->k, magnitudes(in->dout, nq), unused, unused + nq, bound_k);
    within(c, "dv", nk, exact.dv, found.dv, bound_k, 1, p);
}

static void variants(const msa_shape *s, bool dense, uint64_t salt)
{
    char name[INPUTS_NAME];
    inputs_shape_name(s, name);
    check_case c = check_begin("bf16 %s within derived bounds: %s", dense ? "dense" : "sparse", name);
    static const inputs_pattern patterns[] = {INPUTS_NORMAL, INPUTS_PEAKED, INPUTS_DISTINCT};
    for (int n = 0; n < 3; n++) {
        problem p = {.s = s, .peaked = patterns[n] == INPUTS_PEAKED};
        if (!inputs_new(&p.in, s, patterns[n], check_seed(salt)))
            return;
        p.q = check_widen(p.in.q, s->n_q * s->n_heads * s->d_head);
        p.k = check_widen(p.in.k, s->n_kv * s->n_kv_heads * s->d_head);
        p.mask = check_alloc(s->n_kv_heads * s->n_q * s->n_kv, sizeof *p.mask);
        p.work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, s), 1);
        int32_t *ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
        msa_index(s, p.in.qi, p.in.ki, NULL, ids, NULL, p.work);
        p.ids = dense ? NULL : ids;
        twin_mask(s, p.ids, p.mask);
        forward(&c, &p);
        backward(&c, &p);
        inputs_free(&p.in);
        check_release(NULL);
    }
    check_end(&c);
}

// noise.h says that the roundings' standard deviation is 0.85 of the noise. Over 4096 keys with normal
// logits, so that no single weight matters: the largest is 1 before it is normalised and not rounded at all.
static void as_noisy_as_told(void)
{
    check_case c = check_begin("roundings of P move o by about 0.85 of the noise");
    const msa_shape s = {.n_q = 8,
                         .n_kv = 4096,
                         .n_heads = 8,
                         .n_kv_heads = 2,
                         .d_head = 64,
                         .d_index = 8,
                         .block = 64,
                         .topk = 16};
    const int64_t n = s.n_q * s.n_heads * s.d_head, rows = s.n_q * s.n_heads;
    float *o = check_floats(n), *o16 = check_floats(n), *lse = check_floats(rows);
    double *noise = check_doubles(n), error2 = 0, noise2 = 0;
    void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, &s), 1);
    inputs in;
    if (!inputs_new(&in, &s, INPUTS_NORMAL, check_seed(77)))
        return;
    msa_dense(&s, in.q, in.k, in.v, o, lse, work);
    msa_dense_bf16(&s, in.q, in.k, in.v, o16, lse, work);
    check_true(&c, noise_of_rounding(&s, in.q, in.k, in.v, NULL, false, noise), "out of memory");
    for (int64_t i = 0; i < n; i++) {
        error2 += pow((double)o16[i] - (double)o[i], 2);
        noise2 += pow(noise[i], 2);
    }
    const double ratio = sqrt(error2 / noise2);
    check_true(&c, ratio > 0.7 && ratio < 0.95, "expected about 0.85, found %.3f", ratio);
    inputs_free(&in);
    check_release(NULL);
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    as_noisy_as_told();
    every_upper_half();
    special_values();
    for (int n = 3; n < inputs_n_shapes; n++) // below, every softmax has few keys or one
        for (int dense = 0; dense < 2; dense++)
            variants(&inputs_shapes[n], dense, (uint64_t)n);
    return check_done();
}
