/**
 * @file test_gradients.c
 * @brief Every backward pass of a single stage against finite differences: of the twin, element by element
 * in double, and of the reference's own forward, along directions in float32.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "support/check.h"
#include "support/numeric.h"
#include "support/twin.h"

#define STEP 2e-3         // of the twin: its fifth derivatives leave about 1e-10
#define FLOAT_STEP 0.0625 // along a unit vector in float32: rounding leaves about 1e-6, truncation 1e-5
#define SLOPE 2e-4        // so much of the gradient's norm may a float32 slope be off

static const int32_t packed_q[] = {0, 1, 4, 9}, packed_kv[] = {0, 1, 7, 12};
static const msa_shape shapes[] = {
    {7, 13, 4, 2, 6, 5, 4, 2, 1, NULL, NULL, NULL, NULL},
    {9, 9, 3, 3, 3, 4, 2, 3, 1, NULL, NULL, NULL, NULL},
    {6, 6, 4, 1, 5, 3, 1, 2, 1, NULL, NULL, NULL, NULL},
    {9, 12, 4, 2, 4, 4, 2, 2, 3, packed_q, packed_kv, NULL, NULL},
};

/* ---- A problem whose inputs can be varied -------------------------------------------------------- */

/** The six input tensors, in both precisions. */
enum { Q, K, V, QI, KI, DOUT, N_INPUTS };

typedef struct problem {
    const msa_shape *s;
    float *x[N_INPUTS];
    double *wide[N_INPUTS];
    int64_t n[N_INPUTS];
    const int32_t *ids; // NULL: full support
    bool *mask;
    void *work;
} problem;

static problem new_problem(const msa_shape *s, bool sparse, uint64_t salt)
{
    inputs in;
    int64_t nq = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head;
    problem p = {.s = s, .n = {nq, nk, nk, s->n_q * s->n_kv_heads * s->d_index, s->n_kv * s->d_index, nq}};
    if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(salt)))
        return p;
    const float *const drawn[N_INPUTS] = {in.q, in.k, in.v, in.qi, in.ki, in.dout};
    for (int t = 0; t < N_INPUTS; t++) {
        p.wide[t] = check_widen(drawn[t], p.n[t]);
        p.x[t] = check_narrow(p.wide[t], p.n[t]);
    }
    inputs_free(&in);
    p.work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, s), 1);
    p.mask = check_alloc(s->n_kv_heads * s->n_q * s->n_kv, sizeof *p.mask);
    if (sparse) {
        int32_t *ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
        msa_index(s, p.x[QI], p.x[KI], NULL, ids, NULL, p.work);
        p.ids = ids;
    }
    twin_mask(s, p.ids, p.mask);
    return p;
}

static double inner(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static double twin_output(void *of)
{
    const problem *p = of;
    double *o = check_doubles(p->n[Q]), *lse = check_doubles(p->s->n_q * p->s->n_heads);
    twin_attention(p->s, p->mask, p->wide[Q], p->wide[K], p->wide[V], o, lse);
    return inner(o, p->wide[DOUT], p->n[Q]);
}

static double reference_output(void *of)
{
    const problem *p = of;
    float *o = check_floats(p->n[Q]);
    if (p->ids)
        msa_sparse(p->s, p->x[Q], p->x[K], p->x[V], p->ids, o, NULL, p->work);
    else
        msa_dense(p->s, p->x[Q], p->x[K], p->x[V], o, NULL, p->work);
    return inner(check_widen(o, p->n[Q]), p->wide[DOUT], p->n[Q]);
}

static double twin_loss(void *of)
{
    const problem *p = of;
    return twin_kl(p->s, p->mask, p->wide[Q], p->wide[K], p->wide[QI], p->wide[KI], 0, NULL, NULL);
}

static double reference_loss(void *of)
{
    const problem *p = of;
    double loss;
    msa_kl(p->s, p->x[Q], p->x[K], p->x[QI], p->x[KI], p->ids, NULL, NULL, 0, &loss, NULL, NULL, p->work);
    return loss;
}

/* ---- Comparisons --------------------------------------------------------------------------------- */

// A unit vector half along the gradient, where the slope is large, half random, where a wrong component
// shows.
static double *mixed_direction(const double *grad, int64_t n, inputs_rng *rng)
{
    double *u = check_doubles(n), norm = sqrt(inner(grad, grad, n));
    for (int64_t i = 0; i < n; i++)
        u[i] = (norm > 0 ? grad[i] / norm : 0) + (double)inputs_normal(rng) / sqrt((double)n);
    norm = sqrt(inner(u, u, n));
    for (int64_t i = 0; i < n; i++)
        u[i] /= norm;
    return u;
}

static void compare_slope(check_case *c, const char *what, numeric_loss *loss, void *of, float *x,
                          const float *grad, int64_t n)
{
    inputs_rng rng = {check_seed(7)};
    double *wide = check_widen(grad, n), *u = mixed_direction(wide, n, &rng);
    double expected = inner(wide, u, n), found = numeric_slope(loss, of, x, n, u, FLOAT_STEP);
    double allowed = SLOPE * sqrt(inner(wide, wide, n)) + 1e-5;
    check_true(c, fabs(found - expected) <= allowed, "slope along %s: gradient says %.9g, differences %.9g",
               what, expected, found);
}

static void compare_gradient(check_case *c, const char *what, numeric_loss *loss, void *of, double *x,
                             const float *grad, int64_t n, double scale)
{
    double *expected = check_doubles(n);
    numeric_gradient(loss, of, x, n, STEP, expected);
    for (int64_t i = 0; i < n; i++)
        expected[i] *= scale;
    check_tensor(c, what, (verdict_dims){1, 1, n}, expected, grad, (verdict_budget){1e-6, 1e-9, NULL});
}

static void main_branch(const msa_shape *s, bool sparse, uint64_t salt)
{
    char name[INPUTS_NAME];
    inputs_shape_name(s, name);
    check_case c = check_begin("msa_backward, %s: %s", sparse ? "selected" : "dense", name);
    problem p = new_problem(s, sparse, salt);
    float *grad[3];
    static const char *const what[3] = {"q", "k", "v"};
    for (int t = Q; t <= V; t++)
        grad[t] = check_floats(p.n[t]);
    msa_status status = msa_backward(s, p.x[Q], p.x[K], p.x[V], p.ids, NULL, NULL, p.x[DOUT], grad[Q],
                                     grad[K], grad[V], p.work);
    check_true(&c, status == MSA_OK, "%s", msa_strerror(status));
    for (int t = Q; t <= V; t++) {
        compare_gradient(&c, what[t], twin_output, &p, p.wide[t], grad[t], p.n[t], 1);
        compare_slope(&c, what[t], reference_output, &p, p.x[t], grad[t], p.n[t]);
    }
    check_end(&c);
    check_release(NULL);
}

static void index_branch(const msa_shape *s, bool sparse, uint64_t salt)
{
    char name[INPUTS_NAME];
    inputs_shape_name(s, name);
    check_case c = check_begin("msa_kl, %s support: %s", sparse ? "selected" : "full", name);
    problem p = new_problem(s, sparse, salt);
    static const double weights[] = {1, 0.25, -3, 0};
    for (int n = 0; n < 4; n++) {
        float *dqi = check_floats(p.n[QI]), *dki = check_floats(p.n[KI]);
        double loss;
        msa_status status = msa_kl(s, p.x[Q], p.x[K], p.x[QI], p.x[KI], p.ids, NULL, NULL, weights[n], &loss,
                                   dqi, dki, p.work);
        check_true(&c, status == MSA_OK, "%s", msa_strerror(status));
        check_true(&c, loss == reference_loss(&p), "the weight leaves the loss alone");
        compare_gradient(&c, "qi", twin_loss, &p, p.wide[QI], dqi, p.n[QI], weights[n]);
        compare_gradient(&c, "ki", twin_loss, &p, p.wide[KI], dki, p.n[KI], weights[n]);
        if (n == 0) {
            compare_slope(&c, "qi", reference_loss, &p, p.x[QI], dqi, p.n[QI]);
            compare_slope(&c, "ki", reference_loss, &p, p.x[KI], dki, p.n[KI]);
        }
    }
    check_end(&c);
    check_release(NULL);
}

/* ---- Norm and rotary ----------------------------------------------------------------------------- */

#define ROWS 5
#define HEADS 3
#define EPS 0.5 // large, so that it shows, and that a norm of width 1 is smooth enough to difference

/** y = norm(x, w) or rope(x), and the weights dy of its sum. */
typedef struct pointwise {
    int d, rot;
    float *x, *w, *dy;
    double *wide_x, *wide_w, *wide_dy;
    int32_t pos[ROWS];
} pointwise;

static pointwise new_pointwise(int d, int rot, uint64_t salt)
{
    inputs_rng rng = {check_seed(salt)};
    int64_t n = ROWS * HEADS * d;
    pointwise p = {.d = d, .rot = rot, .pos = {0, 1, 5, 100, 70000}};
    p.x = check_floats(n);
    p.dy = check_floats(n);
    p.w = check_floats(d);
    for (int64_t i = 0; i < n; i++) {
        p.x[i] = inputs_normal(&rng);
        p.dy[i] = inputs_normal(&rng);
    }
    for (int i = 0; i < d; i++)
        p.w[i] = 0.5f * inputs_normal(&rng);
    p.wide_x = check_widen(p.x, n);
    p.wide_dy = check_widen(p.dy, n);
    p.wide_w = check_widen(p.w, d);
    return p;
}

static double twin_norm_loss(void *of)
{
    const pointwise *p = of;
    int64_t n = ROWS * HEADS * p->d;
    double *y = check_doubles(n);
    twin_rmsnorm(ROWS * HEADS, p->d, EPS, p->wide_x, p->wide_w, y);
    return inner(y, p->wide_dy, n);
}

static double reference_norm_loss(void *of)
{
    const pointwise *p = of;
    int64_t n = ROWS * HEADS * p->d;
    float *y = check_floats(n);
    msa_rmsnorm(ROWS * HEADS, p->d, EPS, p->x, p->w, y);
    return inner(check_widen(y, n), p->wide_dy, n);
}

static void norm_gradient(int d)
{
    check_case c = check_begin("msa_rmsnorm_backward, width %d", d);
    pointwise p = new_pointwise(d, 0, 20);
    int64_t n = ROWS * HEADS * d;
    float *dx = check_floats(n), *dw = check_floats(d), *in_place = check_narrow(p.wide_dy, n);
    double *work = check_doubles(d);
    msa_rmsnorm_backward(ROWS * HEADS, d, EPS, p.x, p.w, p.dy, dx, dw, work);
    compare_gradient(&c, "x", twin_norm_loss, &p, p.wide_x, dx, n, 1);
    compare_gradient(&c, "w", twin_norm_loss, &p, p.wide_w, dw, d, 1);
    compare_slope(&c, "x", reference_norm_loss, &p, p.x, dx, n);
    compare_slope(&c, "w", reference_norm_loss, &p, p.w, dw, d);
    float *twice = check_floats(d);
    memcpy(twice, dw, (size_t)d * sizeof *dw);
    msa_rmsnorm_backward(ROWS * HEADS, d, EPS, p.x, p.w, in_place, in_place, twice, work);
    check_same(&c, "dx written over dy", dx, in_place, (size_t)n * sizeof *dx);
    for (int i = 0; i < d; i++)
        check_true(&c, twice[i] == dw[i] + dw[i], "dw is added to");
    check_end(&c);
    check_release(NULL);
}

static double twin_rope_loss(void *of)
{
    const pointwise *p = of;
    int64_t n = ROWS * HEADS * p->d;
    double *y = check_doubles(n);
    memcpy(y, p->wide_x, (size_t)n * sizeof *y);
    twin_rope(ROWS, HEADS, p->d, p->rot, 1e4, p->pos, y);
    return inner(y, p->wide_dy, n);
}

static void rope_gradient(int d, int rot)
{
    check_case c = check_begin("msa_rope turned back is its gradient, width %d, %d rotated", d, rot);
    pointwise p = new_pointwise(d, rot, 21);
    int64_t n = ROWS * HEADS * d;
    float *grad = check_narrow(p.wide_dy, n);
    check_true(&c, msa_rope(ROWS, HEADS, d, rot, 1e4, p.pos, true, grad) == MSA_OK, "status");
    compare_gradient(&c, "x", twin_rope_loss, &p, p.wide_x, grad, n, 1);
    check_end(&c);
    check_release(NULL);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++)
        for (int sparse = 0; sparse < 2; sparse++) {
            main_branch(&shapes[n], sparse, n);
            index_branch(&shapes[n], sparse, n);
        }
    norm_gradient(1);
    norm_gradient(7);
    norm_gradient(64);
    rope_gradient(8, 8);
    rope_gradient(9, 4);
    rope_gradient(3, 0);
    return check_done();
}
