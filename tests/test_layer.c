/**
 * @file test_layer.c
 * @brief Norm, rotary and the whole attention layer: forward against the twin, prefixes and packed batches
 * against whole sequences, gradients against finite differences, and the two gradients that must be zero.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../ref/judge/guard.h"
#include "support/check.h"
#include "support/numeric.h"
#include "support/twin.h"

/* ---- Norm and rotary ----------------------------------------------------------------------------- */

static void norm_equals_twin(int64_t rows, int d, double eps, float scale)
{
    check_case c =
        check_begin("msa_rmsnorm: %d rows of %d, eps %g, values about %g", (int)rows, d, eps, (double)scale);
    inputs_rng rng = {check_seed((uint64_t)d)};
    float *x = check_floats(rows * d), *w = check_floats(d), *y = check_floats(rows * d);
    for (int64_t i = 0; i < rows * d; i++)
        x[i] = scale * inputs_normal(&rng);
    for (int i = 0; i < d; i++)
        w[i] = inputs_normal(&rng);
    double *expected = check_doubles(rows * d);
    twin_rmsnorm(rows, d, eps, check_widen(x, rows * d), check_widen(w, d), expected);
    check_true(&c, msa_rmsnorm(rows, d, eps, x, w, y) == MSA_OK, "status");
    check_tensor(&c, "y", (verdict_dims){1, rows, d}, expected, y, (verdict_budget){1.2e-7, 0, NULL});
    check_true(&c, msa_rmsnorm(rows, d, eps, x, w, x) == MSA_OK, "status in place");
    check_same(&c, "in place", y, x, (size_t)(rows * d) * sizeof *x);
    check_end(&c);
    check_release(NULL);
}

static void rope_equals_twin(int d, int rot, double theta)
{
    enum { N = 6, HEADS = 3 };
    static const int32_t pos[N] = {0, 1, 2, 77, 4096, 1048575};
    check_case c = check_begin("msa_rope: width %d, %d rotated, theta %g", d, rot, theta);
    inputs_rng rng = {check_seed(3)};
    const int64_t n = N * HEADS * d;
    float *x = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = inputs_normal(&rng);
    double *before = check_widen(x, n), *expected = check_widen(x, n);
    twin_rope(N, HEADS, d, rot, theta, pos, expected);
    check_true(&c, msa_rope(N, HEADS, d, rot, theta, pos, false, x) == MSA_OK, "status");
    check_tensor(&c, "x", (verdict_dims){N, HEADS, d}, expected, x, (verdict_budget){2e-7, 0, NULL});
    for (int64_t i = 0; i < n; i++)
        check_true(&c, i % d < rot || (double)x[i] == before[i], "channels past the rotated ones stay");
    check_true(&c, msa_rope(N, HEADS, d, rot, theta, pos, true, x) == MSA_OK, "status of the inverse");
    check_tensor(&c, "turned back", (verdict_dims){N, HEADS, d}, before, x, (verdict_budget){4e-7, 0, NULL});
    check_end(&c);
    check_release(NULL);
}

// Position 1 turns pair (0,2) of four rotated channels by 1 and pair (1,3) by theta^(-1/2).
static void rope_by_hand(void)
{
    float x[6] = {1, 2, 0, 0, 5, 6};
    const int32_t pos[1] = {1};
    msa_rope(1, 1, 6, 4, 100, pos, false, x);
    const double expected[6] = {cos(1), 2 * cos(0.1), sin(1), 2 * sin(0.1), 5, 6};
    check_case c = check_begin("msa_rope by hand: half-split pairs, falling frequencies");
    check_tensor(&c, "x", (verdict_dims){1, 1, 6}, expected, x, (verdict_budget){1e-7, 0, NULL});
    check_end(&c);
}

static void refusals(void)
{
    float x[8] = {0};
    double work[8];
    const int32_t pos[1] = {0};
    tap(msa_rope(1, 1, 8, 3, 1e4, pos, false, x) == MSA_ERR_ROTARY &&
            msa_rope(1, 1, 8, -2, 1e4, pos, false, x) == MSA_ERR_ROTARY &&
            msa_rope(1, 1, 8, 10, 1e4, pos, false, x) == MSA_ERR_ROTARY,
        "msa_rope refuses an odd, negative or too large rotated width");
    tap(msa_rope(1, 1, 8, 4, 1e4, NULL, false, x) == MSA_ERR_NULL &&
            msa_rope(1, 1, 8, 4, 1e4, pos, false, NULL) == MSA_ERR_NULL &&
            msa_rope(1, 1, 0, 0, 1e4, pos, false, x) == MSA_ERR_SIZE,
        "msa_rope refuses NULL and empty heads");
    tap(msa_rmsnorm(1, 0, 1e-6, x, x, x) == MSA_ERR_SIZE &&
            msa_rmsnorm(1, 8, 1e-6, NULL, x, x) == MSA_ERR_NULL,
        "msa_rmsnorm refuses NULL and empty rows");
    tap(msa_rmsnorm_backward(1, 8, 1e-6, x, x, x, x, NULL, work) == MSA_ERR_NULL,
        "msa_rmsnorm_backward refuses NULL");
}

/* ---- A layer ------------------------------------------------------------------------------------- */

#define N_WEIGHTS 10
#define FIRST_INDEX_GAIN 8

static const char *const weight_name[N_WEIGHTS] = {"wq",  "wk", "wv", "wo",  "wiq",
                                                   "wik", "gq", "gk", "giq", "gik"};

static bool is_index(int w)
{
    return w == 4 || w == 5 || w >= FIRST_INDEX_GAIN;
}

/** A layer with its weights in both precisions, inputs, and room for everything. */
typedef struct layer {
    msa_shape s;
    msa_layer_config c;
    const msa_ops *ops;
    msa_attention mode;
    int64_t n[N_WEIGHTS];
    float *w[N_WEIGHTS], *dw[N_WEIGHTS];
    double *wide_w[N_WEIGHTS];
    msa_layer_state st;
    float *x, *y, *dy, *dx;
    double *wide_x, *wide_dy;
    void *work;
} layer;

static msa_layer_weights weights_of(float *const w[N_WEIGHTS])
{
    return (msa_layer_weights){w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], NULL, NULL, NULL};
}

static twin_weights wide_weights_of(const layer *l)
{
    double *const *w = l->wide_w;
    return (twin_weights){w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9]};
}

static msa_layer_state new_state(const msa_shape *s)
{
    int64_t q = s->n_q * s->n_heads * s->d_head, k = s->n_q * s->n_kv_heads * s->d_head;
    int64_t iq = s->n_q * s->n_kv_heads * s->d_index, cache = s->n_kv * s->n_kv_heads * s->d_head;
    return (msa_layer_state){.q_raw = check_floats(q),
                             .k_raw = check_floats(k),
                             .qi_raw = check_floats(iq),
                             .ki_raw = check_floats(s->n_q * s->d_index),
                             .q = check_floats(q),
                             .qi = check_floats(iq),
                             .k = check_floats(cache),
                             .v = check_floats(cache),
                             .ki = check_floats(s->n_kv * s->d_index),
                             .o = check_floats(q),
                             .lse = check_floats(s->n_q * s->n_heads),
                             .index_lse = check_floats(s->n_kv_heads * s->n_q),
                             .ids = check_ints(s->n_kv_heads * s->n_q * s->topk),
                             .pos = check_ints(s->n_q)};
}

static float *draw(int64_t n, double scale, inputs_rng *rng)
{
    float *x = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)scale * inputs_normal(rng);
    return x;
}

static layer new_layer(const msa_shape *s, const msa_ops *ops, msa_attention mode, uint64_t salt)
{
    // An eps this large bounds what the norm of a short vector makes of rounding errors. Index heads that are
    // narrower than the main heads' rotated channels turn a width of their own.
    layer l = {.s = *s,
               .c = {.d_model = 6, .rot = 4, .index_rot = s->d_index < 4 ? 2 : 0, .theta = 50, .eps = 0.5},
               .ops = ops,
               .mode = mode};
    const int m = l.c.d_model, dh = s->d_head, di = s->d_index, q = s->n_heads * dh, kv = s->n_kv_heads * dh;
    const int64_t sizes[N_WEIGHTS] = {m * q,  m * kv, m * kv, q * m, m * s->n_kv_heads * di,
                                      m * di, dh,     dh,     di,    di};
    inputs_rng rng = {check_seed(salt)};
    for (int w = 0; w < N_WEIGHTS; w++) {
        l.n[w] = sizes[w];
        l.w[w] = draw(l.n[w], 0.4, &rng);
        l.wide_w[w] = check_widen(l.w[w], l.n[w]);
        l.dw[w] = check_floats(l.n[w]);
    }
    l.x = draw(s->n_q * m, 1, &rng);
    l.dy = draw(s->n_q * m, 1, &rng);
    l.wide_x = check_widen(l.x, s->n_q * m);
    l.wide_dy = check_widen(l.dy, s->n_q * m);
    l.y = check_floats(s->n_q * m);
    l.dx = check_floats(s->n_q * m);
    l.st = new_state(s);
    l.work = check_alloc((int64_t)msa_layer_workspace(ops, s, &l.c), 1);
    return l;
}

static void forward(check_case *c, layer *l)
{
    msa_layer_weights w = weights_of(l->w);
    msa_status status = msa_layer_forward(l->ops, &l->s, &l->c, l->mode, &w, l->x, &l->st, l->y, l->work);
    check_true(c, status == MSA_OK, "forward: %s", msa_strerror(status));
}

static double backward(check_case *c, layer *l, double kl_weight)
{
    msa_layer_weights w = weights_of(l->w), dw = weights_of(l->dw);
    double kl;
    msa_status status = msa_layer_backward(l->ops, &l->s, &l->c, l->mode, &w, l->x, &l->st, l->dy, kl_weight,
                                           l->dx, &dw, &kl, l->work);
    check_true(c, status == MSA_OK, "backward: %s", msa_strerror(status));
    return kl;
}

static const char *mode_name(msa_attention mode)
{
    return mode == MSA_ATTN_DENSE ? "dense" : mode == MSA_ATTN_WARMUP ? "warmup" : "sparse";
}

/* ---- Against the twin ----------------------------------------------------------------------------
 * A layer keeps about eight intermediate tensors in float32, each off by 2^-24, which add up as a random
 * walk: 3 * 2^-24. The softmax multiplies the error of q or k by its logits, here below 5, on either side:
 * 3 * 2^-24 * (1 + 2 * 5) = 2e-6 for the reference, which computes in double between them. The fast path
 * rounds within its products as well: twice that.
 */
static double tolerance(const layer *l)
{
    return l->ops == &msa_ref_ops ? 2e-6 : 4e-6;
}

static double twin_output(void *of)
{
    const layer *l = of;
    int64_t n = l->s.n_q * l->c.d_model;
    double *y = check_doubles(n), sum = 0;
    twin_weights w = wide_weights_of(l);
    twin_layer(&l->s, &l->c, l->mode, &w, l->wide_x, false, l->st.ids, y);
    for (int64_t i = 0; i < n; i++)
        sum += y[i] * l->wide_dy[i];
    return sum;
}

static double twin_loss(void *of)
{
    const layer *l = of;
    twin_weights w = wide_weights_of(l);
    return twin_layer(&l->s, &l->c, l->mode, &w, l->wide_x, false, l->st.ids,
                      check_doubles(l->s.n_q * l->c.d_model));
}

static void selection_is_right(check_case *c, const layer *l)
{
    bool ok;
    verdict_selection v =
        verdict_ids(&l->s, l->st.qi, l->st.ki, l->st.ids, l->ops == &msa_ref_ops ? 0 : 1, 0.001, &ok);
    check_true(c, ok && v.pass, "%lld of %lld ids wrong", (long long)v.n_wrong, (long long)v.n_ids);
}

static void output_equals_twin(check_case *c, layer *l)
{
    twin_weights w = wide_weights_of(l);
    int64_t n = l->s.n_q * l->c.d_model;
    double *y = check_doubles(n);
    twin_layer(&l->s, &l->c, l->mode, &w, l->wide_x, false, l->st.ids, y);
    check_tensor(c, "y", (verdict_dims){1, l->s.n_q, l->c.d_model}, y, l->y,
                 (verdict_budget){tolerance(l), 1e-7, NULL});
}

static void compare_gradient(check_case *c, layer *l, const char *what, numeric_loss *loss, double weight,
                             double *x, const float *grad, int64_t n)
{
    double *expected = check_doubles(n);
    numeric_gradient(loss, l, x, n, 2e-3, expected);
    for (int64_t i = 0; i < n; i++)
        expected[i] *= weight;
    check_tensor(c, what, (verdict_dims){1, 1, n}, expected, grad,
                 (verdict_budget){tolerance(l), 1e-7, NULL});
}

// L_LM is <dy, y> here; each parameter is moved by one of the two losses only.
static void gradients_equal_differences(check_case *c, layer *l, double kl_weight)
{
    double kl = backward(c, l, kl_weight), expected = twin_loss(l);
    check_true(c, fabs(kl - expected) <= tolerance(l) * (1 + expected), "kl: expected %.9g, found %.9g",
               expected, kl);
    compare_gradient(c, l, "x", twin_output, 1, l->wide_x, l->dx, l->s.n_q * l->c.d_model);
    for (int w = 0; w < N_WEIGHTS; w++)
        compare_gradient(c, l, weight_name[w], is_index(w) ? twin_loss : twin_output,
                         is_index(w) ? kl_weight : 1, l->wide_w[w], l->dw[w], l->n[w]);
}

static void whole_layer(const msa_shape *s, const char *name, const msa_ops *ops, msa_attention mode)
{
    check_case c = check_begin("%s layer, %s, %s: output and gradients", mode_name(mode),
                               ops == &msa_ref_ops ? "reference" : "fast", name);
    layer l = new_layer(s, ops, mode, 10);
    forward(&c, &l);
    if (mode == MSA_ATTN_SPARSE)
        selection_is_right(&c, &l);
    output_equals_twin(&c, &l);
    gradients_equal_differences(&c, &l, 0.5);
    check_end(&c);
    check_release(NULL);
}

/* ---- The two zeros ------------------------------------------------------------------------------- */

static bool all_zero(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(x[i] == 0))
            return false;
    return true;
}

static void clear(float *x, int64_t n)
{
    memset(x, 0, (size_t)n * sizeof *x);
}

// Exactly zero, not small: L_LM does not reach the index, L_KL reaches nothing else.
static void two_zeros(const msa_shape *s, const msa_ops *ops, msa_attention mode)
{
    check_case c = check_begin("%s layer, %s: L_LM gives the index nothing, L_KL gives the rest nothing",
                               mode_name(mode), ops == &msa_ref_ops ? "reference" : "fast");
    layer l = new_layer(s, ops, mode, 11);
    int64_t n = s->n_q * l.c.d_model;
    forward(&c, &l);
    backward(&c, &l, 0);
    check_true(&c, !all_zero(l.dx, n), "L_LM reaches x");
    for (int w = 0; w < N_WEIGHTS; w++) {
        check_true(&c, all_zero(l.dw[w], l.n[w]) == is_index(w), "L_LM and %s", weight_name[w]);
        clear(l.dw[w], l.n[w]);
    }
    clear(l.dy, n);
    backward(&c, &l, 1);
    check_true(&c, all_zero(l.dx, n), "L_KL does not reach x");
    for (int w = 0; w < N_WEIGHTS; w++)
        check_true(&c, all_zero(l.dw[w], l.n[w]) == (!is_index(w) || mode == MSA_ATTN_DENSE), "L_KL and %s",
                   weight_name[w]);
    check_end(&c);
    check_release(NULL);
}

// A second backward pass adds the same again; dx is written, not added to.
static void weights_accumulate(const msa_shape *s, const msa_ops *ops)
{
    check_case c = check_begin("%s layer: weight gradients are added to, dx is written",
                               ops == &msa_ref_ops ? "reference" : "fast");
    layer l = new_layer(s, ops, MSA_ATTN_SPARSE, 12);
    int64_t n = s->n_q * l.c.d_model;
    forward(&c, &l);
    backward(&c, &l, 1);
    double *once[N_WEIGHTS], *dx = check_widen(l.dx, n);
    for (int w = 0; w < N_WEIGHTS; w++) {
        once[w] = check_widen(l.dw[w], l.n[w]);
        for (int64_t i = 0; i < l.n[w]; i++)
            once[w][i] *= 2;
    }
    backward(&c, &l, 1);
    check_tensor(&c, "dx", (verdict_dims){1, 1, n}, dx, l.dx, (verdict_budget){0, 0, NULL});
    for (int w = 0; w < N_WEIGHTS; w++)
        check_tensor(&c, weight_name[w], (verdict_dims){1, 1, l.n[w]}, once[w], l.dw[w],
                     (verdict_budget){1e-6, 0, NULL});
    check_end(&c);
    check_release(NULL);
}

/* ---- Prefixes and packed batches ----------------------------------------------------------------- */

// Feeds the sequence in chunks over one KV cache; the outputs must be the whole sequence's.
static void chunks_equal_whole(const msa_shape *s, const msa_ops *ops, msa_attention mode)
{
    check_case c = check_begin("%s layer, %s: a sequence in chunks over the cache equals the whole",
                               mode_name(mode), ops == &msa_ref_ops ? "reference" : "fast");
    static const int64_t chunk[] = {1, 3, 1, 4};
    layer l = new_layer(s, ops, mode, 13);
    const int m = l.c.d_model;
    forward(&c, &l);
    double *whole = check_widen(l.y, s->n_q * m);
    msa_layer_weights w = weights_of(l.w);
    msa_layer_state st = new_state(s); // its cache has room for all
    int64_t done = 0;
    for (size_t n = 0; n < sizeof chunk / sizeof *chunk; done += chunk[n++]) {
        msa_shape part = *s;
        part.n_q = chunk[n];
        part.n_kv = done + chunk[n];
        msa_status status = msa_layer_forward(ops, &part, &l.c, mode, &w, l.x + done * m, &st, l.y, l.work);
        check_true(&c, status == MSA_OK, "%s", msa_strerror(status));
        check_tensor(&c, "y", (verdict_dims){1, part.n_q, m}, whole + done * m, l.y,
                     (verdict_budget){ops == &msa_ref_ops ? 0 : 4e-6, 0, NULL});
    }
    check_true(&c, done == s->n_q, "all tokens went in");
    check_end(&c);
    check_release(NULL);
}

static void packed_equals_one_by_one(const msa_shape *s, msa_attention mode)
{
    check_case c = check_begin("%s layer: a packed batch equals its sequences", mode_name(mode));
    layer l = new_layer(s, &msa_ref_ops, mode, 14);
    const int m = l.c.d_model;
    msa_layer_weights w = weights_of(l.w);
    forward(&c, &l);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        msa_seq seq = msa_get_seq(s, n);
        msa_shape one = *s;
        one.n_seqs = 1;
        one.cu_q = one.cu_kv = NULL;
        one.n_q = seq.n_q;
        one.n_kv = seq.n_kv;
        msa_layer_state st = new_state(&one);
        float *y = check_floats(seq.n_q * m);
        msa_layer_forward(&msa_ref_ops, &one, &l.c, mode, &w, l.x + seq.q0 * m, &st, y, l.work);
        check_same(&c, "y", y, l.y + seq.q0 * m, (size_t)(seq.n_q * m) * sizeof *y);
    }
    check_end(&c);
    check_release(NULL);
}

// The last tokens of every sequence again, over the cache that the whole batch left: the same outputs.
static void packed_with_prefixes(const msa_shape *s, msa_attention mode)
{
    check_case c = check_begin("%s layer: the last tokens of a packed batch over its cache", mode_name(mode));
    layer l = new_layer(s, &msa_ref_ops, mode, 16);
    const int m = l.c.d_model, tails[3] = {3, 1, 2};
    msa_layer_weights w = weights_of(l.w);
    forward(&c, &l);
    int32_t cu_q[4] = {0};
    float *x = check_floats(s->n_q * m), *y = check_floats(s->n_q * m), *expected = check_floats(s->n_q * m);
    for (int n = 0; n < 3; n++) {
        int64_t from = (s->cu_kv[n + 1] - tails[n]) * m, size = tails[n] * m;
        memcpy(x + cu_q[n] * m, l.x + from, (size_t)size * sizeof *x);
        memcpy(expected + cu_q[n] * m, l.y + from, (size_t)size * sizeof *x);
        cu_q[n + 1] = cu_q[n] + tails[n];
    }
    msa_shape tail = *s;
    tail.n_q = cu_q[3];
    tail.cu_q = cu_q;
    msa_status status = msa_layer_forward(&msa_ref_ops, &tail, &l.c, mode, &w, x, &l.st, y, l.work);
    check_true(&c, status == MSA_OK, "%s", msa_strerror(status));
    check_same(&c, "y", expected, y, (size_t)(tail.n_q * m) * sizeof *y);
    check_end(&c);
    check_release(NULL);
}

/* ---- Padding ------------------------------------------------------------------------------------- */

#define N_ALL (N_WEIGHTS + 3) // with the departures': sink, wiv, wio

/** A layer with everything that it can have. */
typedef struct full_layer {
    layer l;
    float *w[N_ALL], *dw[N_ALL];
    int64_t n[N_ALL];
} full_layer;

static msa_layer_weights all_weights(float *const w[N_ALL])
{
    msa_layer_weights x = weights_of(w);
    x.sink = w[N_WEIGHTS];
    x.wiv = w[N_WEIGHTS + 1];
    x.wio = w[N_WEIGHTS + 2];
    return x;
}

static full_layer new_full_layer(const msa_shape *s, const msa_ops *ops, msa_attention mode)
{
    full_layer f = {.l = new_layer(s, ops, mode, 17)};
    const int m = f.l.c.d_model;
    const int64_t more[3] = {s->n_heads, (int64_t)m * s->d_index, (int64_t)s->n_kv_heads * s->d_index * m};
    inputs_rng rng = {check_seed(18)};
    for (int a = 0; a < N_ALL; a++) {
        f.n[a] = a < N_WEIGHTS ? f.l.n[a] : more[a - N_WEIGHTS];
        f.w[a] = a < N_WEIGHTS ? f.l.w[a] : draw(f.n[a], 0.4, &rng);
        f.dw[a] = check_floats(f.n[a]);
    }
    f.l.c.sink = f.l.c.value_head = f.l.c.attached = true;
    f.l.st.vi = check_floats(s->n_kv * s->d_index);
    f.l.st.oi = check_floats(s->n_q * s->n_kv_heads * s->d_index);
    f.l.work = check_alloc((int64_t)msa_layer_workspace(ops, s, &f.l.c), 1);
    return f;
}

static double run_full_layer(check_case *c, full_layer *f)
{
    layer *l = &f->l;
    const msa_layer_weights w = all_weights(f->w), dw = all_weights(f->dw);
    double kl = NAN;
    check_true(c, msa_layer_forward(l->ops, &l->s, &l->c, l->mode, &w, l->x, &l->st, l->y, l->work) == MSA_OK,
               "forward");
    check_true(c,
               msa_layer_backward(l->ops, &l->s, &l->c, l->mode, &w, l->x, &l->st, l->dy, 0.5, l->dx, &dw,
                                  &kl, l->work) == MSA_OK,
               "backward");
    return kl;
}

// The rows of a padded batch are those of the packed one, whatever lies between them; padding gets zeros.
static void padded_equals_packed(const msa_ops *ops, msa_attention mode)
{
    enum { R = 4 };
    static const int32_t room[R + 1] = {0, 12, 17, 30, 31}, len[R] = {9, 0, 13, 1},
                                  tight[R + 1] = {0, 9, 9, 22, 23};
    const msa_shape padded = {31, 31, 4, 2, 8, 8, 4, 2, R, room, room, len, len};
    const msa_shape packed = {23, 23, 4, 2, 8, 8, 4, 2, R, tight, tight, NULL, NULL};
    check_case c = check_begin("%s layer, %s: a padded batch equals the packed one", mode_name(mode),
                               ops == &msa_ref_ops ? "reference" : "fast");
    full_layer a = new_full_layer(&padded, ops, mode), b = new_full_layer(&packed, ops, mode);
    const int m = a.l.c.d_model;
    const verdict_budget budget = {tolerance(&a.l), 1e-7, NULL};
    for (int r = 0; r < R; r++) {
        const int64_t from = tight[r] * m, to = room[r] * m, n = len[r] * m;
        memcpy(a.l.x + to, b.l.x + from, (size_t)n * sizeof *a.l.x);
        memcpy(a.l.dy + to, b.l.dy + from, (size_t)n * sizeof *a.l.dy);
        for (int64_t e = to + n; e < room[r + 1] * m; e++)
            a.l.x[e] = a.l.dy[e] = NAN;
    }
    const double found = run_full_layer(&c, &a), expected = run_full_layer(&c, &b);
    check_true(&c, fabs(found - expected) <= 1e-6 * expected, "kl: expected %.9g, found %.9g", expected,
               found);
    for (int r = 0; r < R; r++) {
        const int64_t from = tight[r] * m, to = room[r] * m, n = len[r] * m, end = room[r + 1] * m;
        if (n > 0)
            check_tensor(&c, "y", (verdict_dims){1, len[r], m}, check_widen(b.l.y + from, n), a.l.y + to,
                         budget);
        if (n > 0)
            check_tensor(&c, "dx", (verdict_dims){1, len[r], m}, check_widen(b.l.dx + from, n), a.l.dx + to,
                         budget);
        check_true(&c, all_zero(a.l.y + to + n, end - to - n), "y of padding");
        check_true(&c, all_zero(a.l.dx + to + n, end - to - n), "dx of padding");
    }
    for (int w = 0; w < N_ALL; w++)
        check_tensor(&c, "a weight's gradient", (verdict_dims){1, 1, a.n[w]}, check_widen(b.dw[w], b.n[w]),
                     a.dw[w], budget);
    check_end(&c);
    check_release(NULL);
}

// Wide index heads over narrow main heads: the value head's attention needs more than all stages of the
// layer.
static void stays_within_its_workspace(const msa_ops *ops)
{
    const msa_shape s = {64, 64, 8, 2, 4, 64, 8, 2, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("a layer with all departures stays within its workspace: %s",
                               ops == &msa_ref_ops    ? "reference"
                               : ops == &msa_fast_ops ? "fast"
                                                      : "fast in bf16");
    full_layer f = new_full_layer(&s, ops, MSA_ATTN_SPARSE);
    guard work;
    if (guard_new(&work, msa_layer_workspace(ops, &s, &f.l.c))) {
        f.l.work = work.data;
        run_full_layer(&c, &f);
        check_true(&c, guard_intact(&work), "written outside the workspace");
        guard_free(&work);
    }
    check_end(&c);
    check_release(NULL);
}

// A cache in pages of bf16 holds what a contiguous one of floats does, rounded, each token in its row; workspace and
// cache are not left.
static void cache_of_bf16(msa_attention mode)
{
    enum { T = 9, ROOM = 10, HEADS = 2, WIDTH = 6, INDEX = 3 };
    static const int32_t table[ROOM / 2] = {4, 2, 0, 1, 3}, lens[] = {T};
    const msa_shape whole = {T, T, 4, HEADS, WIDTH, INDEX, 2, 2, 1, NULL, NULL, NULL, NULL};
    msa_shape s = whole;
    s.n_kv = ROOM;
    check_case c = check_begin("%s layer: a cache in pages of bf16", mode_name(mode));
    msa_pages p = {.n_pages = ROOM / 2, .table = table, .lens = lens};
    layer l = new_layer(&whole, &msa_fast_bf16_ops, mode, 19);
    forward(&c, &l);
    const float *from[] = {l.st.k, l.st.v, l.st.ki};
    const int64_t width[] = {HEADS * WIDTH, HEADS * WIDTH, INDEX};
    guard work, half[3];
    check_true(&c, guard_new(&work, msa_layer_workspace(l.ops, &s, &l.c)), "memory");
    for (int n = 0; n < 3; n++)
        check_true(&c, guard_new(&half[n], (size_t)(ROOM * width[n]) * sizeof(uint16_t)), "memory");
    msa_layer_state st = l.st;
    st.k = half[0].data, st.v = half[1].data, st.ki = half[2].data, st.pages = &p;
    const msa_layer_weights w = weights_of(l.w);
    uint8_t codes[ROOM * INDEX];
    float scales[ROOM / 2];
    p.ki8 = codes, p.scale = scales;
    check_true(&c,
               msa_layer_forward(l.ops, &s, &l.c, mode, &w, l.x, &st, l.y, work.data) ==
                       MSA_ERR_UNSUPPORTED &&
                   guard_unwritten(&half[0]) == 0,
               "8-bit index keys beside it are refused, and nothing is written");
    p.ki8 = NULL;
    check_true(&c, msa_layer_forward(l.ops, &s, &l.c, mode, &w, l.x, &st, l.y, work.data) == MSA_OK,
               "a step");
    check_true(&c, guard_intact(&work), "written outside the workspace");
    for (int n = 0; n < (mode == MSA_ATTN_SPARSE ? 3 : 2); n++) {
        const uint16_t *rows = half[n].data;
        for (int64_t j = 0; j < T; j++)
            for (int64_t x = 0; x < width[n]; x++)
                check_true(&c,
                           rows[(table[j / 2] * 2 + j % 2) * width[n] + x] ==
                               msa_bf16_bits(from[n][j * width[n] + x]),
                           "tensor %d, token %d", n, (int)j);
        check_true(&c, guard_intact(&half[n]), "written outside cache %d", n);
    }
    guard_free(&work);
    for (int n = 0; n < 3; n++)
        guard_free(&half[n]);
    check_end(&c);
    check_release(NULL);
}

static void layer_refusals(const msa_shape *s)
{
    check_case c = check_begin("a layer refuses what it cannot do");
    layer l = new_layer(s, &msa_ref_ops, MSA_ATTN_SPARSE, 15);
    msa_layer_weights w = weights_of(l.w), dw = weights_of(l.dw);
    double kl;
    msa_shape prefix = *s;
    prefix.n_kv++;
    check_true(&c,
               msa_layer_backward(l.ops, &prefix, &l.c, l.mode, &w, l.x, &l.st, l.dy, 1, l.dx, &dw, &kl,
                                  l.work) == MSA_ERR_UNSUPPORTED,
               "the backward pass needs T = S");
    static const int32_t queries[] = {0, 4, 9}, keys[] = {0, 5, 9}, len[] = {4, 3}, one_more[] = {4, 4};
    const msa_shape apart = {9, 9, 4, 2, 6, 3, 2, 2, 2, queries, keys, len, len};
    const msa_shape longer = {9, 9, 4, 2, 6, 3, 2, 2, 2, queries, queries, len, one_more};
    check_true(&c,
               msa_layer_backward(l.ops, &apart, &l.c, l.mode, &w, l.x, &l.st, l.dy, 1, l.dx, &dw, &kl,
                                  l.work) == MSA_ERR_UNSUPPORTED,
               "in the same places");
    check_true(&c,
               msa_layer_backward(l.ops, &longer, &l.c, l.mode, &w, l.x, &l.st, l.dy, 1, l.dx, &dw, &kl,
                                  l.work) == MSA_ERR_UNSUPPORTED,
               "in every sequence");
    l.c.rot = 3;
    check_true(&c, msa_layer_forward(l.ops, s, &l.c, l.mode, &w, l.x, &l.st, l.y, l.work) == MSA_ERR_ROTARY,
               "an odd rotated width");
    l.c.rot = 4;
    l.c.index_rot = 0;
    check_true(&c, msa_layer_forward(l.ops, s, &l.c, l.mode, &w, l.x, &l.st, l.y, l.work) == MSA_ERR_ROTARY,
               "index heads narrower than the rotated width");
    l.c.index_rot = 2;
    l.c.d_model = 0;
    check_true(&c, msa_layer_forward(l.ops, s, &l.c, l.mode, &w, l.x, &l.st, l.y, l.work) == MSA_ERR_SIZE,
               "an empty model");
    check_true(&c, all_zero(l.y, s->n_q * 6), "y is untouched");
    check_end(&c);
    check_release(NULL);
}

int main(int argc, char **argv)
{
    static const int32_t packed[] = {0, 4, 5, 9};
    static const msa_shape plain = {9, 9, 4, 2, 6, 3, 2, 2, 1, NULL, NULL, NULL, NULL};
    static const msa_shape batch = {9, 9, 2, 2, 4, 8, 2, 1, 3, packed, packed, NULL, NULL};
    static const msa_ops *const sets[] = {&msa_ref_ops, &msa_fast_ops};
    check_start(argc, argv);
    norm_equals_twin(7, 1, 1e-6, 1);
    norm_equals_twin(5, 33, 1e-6, 1);
    norm_equals_twin(3, 128, 1e-6, 1e-4f);
    norm_equals_twin(3, 16, 1e-6, 1e6f);
    rope_equals_twin(16, 8, 5e6);
    rope_equals_twin(7, 6, 1e4);
    rope_equals_twin(5, 0, 1e4);
    rope_by_hand();
    refusals();
    for (int set = 0; set < 2; set++)
        for (msa_attention mode = MSA_ATTN_DENSE; mode <= MSA_ATTN_SPARSE; mode++) {
            whole_layer(&plain, "one sequence", sets[set], mode);
            whole_layer(&batch, "packed", sets[set], mode);
            two_zeros(&plain, sets[set], mode);
            chunks_equal_whole(&plain, sets[set], mode);
            padded_equals_packed(sets[set], mode);
        }
    for (msa_attention mode = MSA_ATTN_DENSE; mode <= MSA_ATTN_SPARSE; mode++) {
        packed_equals_one_by_one(&batch, mode);
        packed_with_prefixes(&batch, mode);
    }
    weights_accumulate(&plain, &msa_ref_ops);
    weights_accumulate(&plain, &msa_fast_ops);
    stays_within_its_workspace(&msa_ref_ops);
    stays_within_its_workspace(&msa_fast_ops);
    stays_within_its_workspace(&msa_fast_bf16_ops);
    cache_of_bf16(MSA_ATTN_DENSE);
    cache_of_bf16(MSA_ATTN_SPARSE);
    layer_refusals(&plain);
    return check_done();
}
