/**
 * @file test_extremes.c
 * @brief Finite inputs at the ends of float32, for every kernel of the fast path: products that overflow or
 * vanish, values near the largest number and below the smallest normal one. And gradients of inputs that are
 * not finite.
 *
 * The reference computes in double, where none of this matters. `test_extremes SEED STAGE/NAME` is one kernel
 * alone.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../ref/judge/judge.h"
#include "../ref/judge/noise.h"
#include "../ref/table/table.h"
#include "support/check.h"

static const int32_t steps_q[] = {0, 2, 4, 6}, steps_kv[] = {0, 70, 103, 240};
static const msa_shape shapes[] = {
    {37, 37, 4, 2, 16, 16, 8, 3, 1, NULL, NULL, NULL, NULL},          // a prompt
    {7, 560, 4, 2, 8, 20, 32, 5, 1, NULL, NULL, NULL, NULL},          // keys in two chunks
    {6, 240, 16, 1, 32, 16, 32, 3, 3, steps_q, steps_kv, NULL, NULL}, // steps of three requests
};
#define N_SHAPES (int)(sizeof shapes / sizeof *shapes)

/* ---- Inputs ------------------------------------------------------------------------------------------- */

/** One tensor of the inputs as rows of `width`. */
typedef struct tensor {
    float *x;
    int64_t n;
    int width;
} tensor;

enum { Q, K, V, QI, KI, DOUT, N_TENSORS };

static void tensors_of(const msa_shape *s, const inputs *in, tensor t[N_TENSORS])
{
    const int64_t q = s->n_q * s->n_heads * s->d_head, k = s->n_kv * s->n_kv_heads * s->d_head;
    t[Q] = (tensor){in->q, q, s->d_head};
    t[K] = (tensor){in->k, k, s->d_head};
    t[V] = (tensor){in->v, k, s->d_head};
    t[QI] = (tensor){in->qi, s->n_q * s->n_kv_heads * s->d_index, s->d_index};
    t[KI] = (tensor){in->ki, s->n_kv * s->d_index, s->d_index};
    t[DOUT] = (tensor){in->dout, q, s->d_head};
}

static void multiply(tensor t, float by)
{
    for (int64_t a = 0; a < t.n; a++)
        t.x[a] *= by;
}

/* Any exponent that there is, in every element. */
static void scatter(tensor t, inputs_rng *rng)
{
    for (int64_t a = 0; a < t.n; a++) {
        const float x = 1 + (float)inputs_below(rng, 1 << 20) * 0x1p-20f;
        t.x[a] = ldexpf(inputs_below(rng, 2) ? x : -x, (int)inputs_below(rng, 276) - 149);
    }
}

/* One channel of all rows, with its sign. */
static void enlarge(tensor t, int channel, float by)
{
    for (int64_t a = channel; a < t.n; a += t.width)
        t.x[a] = t.x[a] < 0 ? -by : by;
}

// What a kernel gets and the reference beside it: where its tensors are bf16, these, as large as bf16 goes.
static bool store_for(const msa_kernel *k, const msa_shape *s, inputs *in)
{
    const float most = 0x1.fep127f;
    tensor t[N_TENSORS];
    inputs rounded;
    if (k->precision < MSA_BF16_INPUTS)
        return true;
    tensors_of(s, in, t);
    for (int n = 0; n < N_TENSORS; n++)
        for (int64_t a = 0; a < t[n].n; a++)
            if (isfinite(t[n].x[a]) && fabsf(t[n].x[a]) > most)
                t[n].x[a] = copysignf(most, t[n].x[a]);
    const bool ok = inputs_rounded(&rounded, in, s);
    inputs_free(in);
    *in = rounded;
    return ok;
}

typedef void spoil_fn(const tensor *t, inputs_rng *rng);

static void mixed(const tensor *t, inputs_rng *rng)
{
    for (int a = 0; a < N_TENSORS; a++)
        scatter(t[a], rng);
}
static void mixed_index(const tensor *t, inputs_rng *rng)
{
    scatter(t[QI], rng);
    scatter(t[KI], rng);
}
static void large_index(const tensor *t, inputs_rng *rng)
{
    (void)rng;
    multiply(t[QI], 3e19f);
    multiply(t[KI], 3e19f);
}
static void small_index(const tensor *t, inputs_rng *rng)
{
    (void)rng;
    multiply(t[QI], 1e-30f);
    multiply(t[KI], 1e-30f);
}
static void denormal_index(const tensor *t, inputs_rng *rng)
{
    (void)rng;
    multiply(t[QI], 1e-40f);
    multiply(t[KI], 1e-40f);
}
/* Sums that overflow on the way to something that float32 can hold: 3e38 + 3e38 - 2e38 - 1.7e38. */
static void cancelling_index(const tensor *t, inputs_rng *rng)
{
    for (int c = 0; c < 4; c++) {
        for (int64_t a = c; a < t[QI].n; a += t[QI].width)
            t[QI].x[a] = 1;
        for (int64_t a = c; a < t[KI].n; a += t[KI].width)
            t[KI].x[a] = c < 2 ? 3e38f : -0x1p-18f * 3e38f * (float)(1 + inputs_below(rng, 1 << 18));
    }
}
/* A query that sees small keys only, beside large ones: those must be told apart all the same. */
static void uneven_index(const tensor *t, inputs_rng *rng)
{
    const int64_t rows = t[KI].n / t[KI].width;
    for (int64_t j = 0; j < rows; j++)
        multiply((tensor){t[KI].x + j * t[KI].width, t[KI].width, 1}, inputs_below(rng, 2) ? 1e-42f : 0);
    multiply(t[QI], 1e-3f);
}
static void large_values(const tensor *t, inputs_rng *rng)
{
    for (int64_t a = 0; a < t[V].n; a++)
        t[V].x[a] = FLT_MAX * (1 - (float)inputs_below(rng, 1 << 10) * 0x1p-12f);
}
static void denormal_values(const tensor *t, inputs_rng *rng)
{
    (void)rng;
    multiply(t[V], 1e-43f);
}
static void large_logits(const tensor *t, inputs_rng *rng)
{
    (void)rng;
    multiply(t[Q], 1e20f);
    multiply(t[K], 1e20f);
}
static void large_channel(const tensor *t, inputs_rng *rng)
{
    (void)rng;
    enlarge(t[Q], 3, 2e19f);
    enlarge(t[K], 3, 2e19f);
}
/* Keys whose true logits are the largest, -1.8e38 to the others' -2e38, but whose sums overflow before:
 * channel by channel, or where even channels come together first. So it is with logits in base 2 too, 1.44
 * times as large, where it is the query that is scaled. They are powers of two, so that all sums which do not
 * overflow are exact, whatever their order: equal logits stay equal. */
static void cancelling_logits(const tensor *t, inputs_rng *rng)
{
    const int d = t[Q].width;
    for (int64_t a = 0; a < t[Q].n; a++)
        t[Q].x[a] = 1e19f * sqrtf((float)d);
    for (int64_t row = 0; row < t[K].n / d; row++) {
        float *k = t[K].x + row * d;
        const int64_t kind = inputs_below(rng, 6);
        memset(k, 0, (size_t)d * sizeof *k);
        k[0] = kind < 2 ? -0x1p64f : -0x1.1p64f;
        k[1] = kind == 0 ? -0x1p64f : kind == 1 ? 0x1p64f : 0;
        k[2] = kind == 0 ? 0x1p64f : kind == 1 ? -0x1p64f : 0;
    }
}
static void small_gradients(const tensor *t, inputs_rng *rng)
{
    (void)rng;
    multiply(t[DOUT], 1e-38f);
    multiply(t[KI], 1e-38f);
}
static void large_gradients(const tensor *t, inputs_rng *rng)
{
    (void)rng;
    multiply(t[DOUT], 1e30f);
    multiply(t[V], 1e30f);
}

/* The gradient of the first value, to which the first heads attend alone, and which overflows on the way. All
 * others hold, and those of other sequences have nothing to do with it. */
static void cancelling_gradients(const tensor *t, inputs_rng *rng)
{
    const int64_t rows = t[Q].n / t[Q].width < 32 ? t[Q].n / t[Q].width : 32;
    (void)rng;
    multiply(t[V], 1e-30f);
    t[K].x[0] = 30;
    for (int64_t row = 0; row < rows; row++) {
        t[Q].x[row * t[Q].width] = 30;
        for (int c = 0; c < t[DOUT].width; c++)
            t[DOUT].x[row * t[DOUT].width + c] = row < rows / 2 ? 3e38f : -2.9e38f;
    }
}

/* What reads it: the Index Branch, the Main Branch, a gradient. */
enum { INDEX = 1, MAIN = 2, GRADIENT = 4 };

static const struct {
    const char *name;
    spoil_fn *apply;
    int read_by;
    bool close; /* outputs of attention that are to be the reference's to a few roundings */
} spoils[] = {
    {"every exponent", mixed, INDEX | MAIN | GRADIENT, false},
    {"every exponent in the index", mixed_index, INDEX, false},
    {"index times 3e19", large_index, INDEX, false},
    {"index times 1e-30", small_index, INDEX, false},
    {"index times 1e-40", denormal_index, INDEX, false},
    {"index sums that overflow on the way", cancelling_index, INDEX, false},
    {"index keys of 0 and of 1e-42", uneven_index, INDEX, false},
    {"values near the largest", large_values, MAIN | GRADIENT, true},
    {"values times 1e-43", denormal_values, MAIN | GRADIENT, true},
    {"logits times 1e40", large_logits, MAIN | GRADIENT, true},
    {"a channel of 2e19", large_channel, MAIN | GRADIENT, true},
    {"logits that overflow on the way", cancelling_logits, MAIN | GRADIENT, true},
    {"gradients times 1e-38", small_gradients, GRADIENT, false},
    {"gradients times 1e30", large_gradients, GRADIENT, false},
    {"gradients that overflow on the way", cancelling_gradients, GRADIENT, false},
};
#define N_SPOILS (int)(sizeof spoils / sizeof *spoils)

static int reads(msa_stage stage)
{
    switch (stage) {
    case MSA_STAGE_INDEX:
        return INDEX;
    case MSA_STAGE_PREFILL:
    case MSA_STAGE_DECODE:
        return INDEX | MAIN;
    case MSA_STAGE_KL:
        return INDEX | GRADIENT;
    case MSA_STAGE_BACKWARD:
    case MSA_STAGE_DENSE_BACKWARD:
        return GRADIENT;
    default:
        return MAIN;
    }
}

/* ---- Verdicts ----------------------------------------------------------------------------------------- */

/* Logits past float32 leave the ordinary budget without a bound; but then weights are 0 or 1, and the outputs
 * are the reference's to a few roundings, of weights too where they are bf16. */
static void outputs_are_close(check_case *c, const msa_kernel *k, const msa_shape *s, const inputs *in,
                              const char *what)
{
    const int64_t n_o = s->n_q * s->n_heads * s->d_head, n_lse = s->n_q * s->n_heads;
    float *o[2] = {check_floats(n_o), check_floats(n_o)},
          *lse[2] = {check_floats(n_lse), check_floats(n_lse)};
    int32_t *ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
    void *work = check_alloc((int64_t)msa_workspace(NULL, s), 1),
         *own = check_alloc((int64_t)k->workspace(s), 1);
    msa_index(s, in->qi, in->ki, NULL, ids, NULL, work);
    if (k->stage != MSA_STAGE_DENSE && k->stage != MSA_STAGE_SPARSE && !stage_is_step(k->stage))
        return;
    for (int a = 0; a < 2; a++) {
        msa_arrays arrays = inputs_arrays(in);
        arrays.ids = ids, arrays.o = o[a], arrays.lse = lse[a];
        (a ? k : msa_ref_ops.stage[k->stage])->run(s, &arrays, a ? own : work);
    }
    verdict_budget budget = {1e-5, 0, NULL};
    double *noise = check_doubles(n_o);
    char name[192];
    if (k->precision >= MSA_BF16_WEIGHTS &&
        noise_of_rounding(s, in->q, in->k, in->v, k->stage == MSA_STAGE_SPARSE ? ids : NULL, false, noise))
        budget.noise = noise;
    snprintf(name, sizeof name, "o (%s)", what);
    check_tensor(c, name, verdict_dims_of(s, ARRAY_O), check_widen(o[0], n_o), o[1], budget);
    budget.noise = NULL;
    snprintf(name, sizeof name, "lse (%s)", what);
    check_tensor(c, name, verdict_dims_of(s, ARRAY_LSE), check_widen(lse[0], n_lse), lse[1], budget);
}

static void one_spoil(check_case *c, const msa_kernel *k, const msa_shape *s, int spoil, uint64_t salt)
{
    const void *mark = check_mark();
    inputs in;
    tensor t[N_TENSORS];
    inputs_rng rng = {check_seed(salt)};
    char name[INPUTS_NAME], what[160];
    inputs_shape_name(s, name);
    snprintf(what, sizeof what, "%s, %s", spoils[spoil].name, name);
    if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(salt)))
        return;
    tensors_of(s, &in, t);
    spoils[spoil].apply(t, &rng);
    if (!store_for(k, s, &in))
        return;
    const judge_report report = judge_kernel(k, s, &in, check_seed(salt + 1));
    check_true(c, report.outcome == JUDGE_PASS, "%s: %s", what, report.text);
    if (spoils[spoil].close)
        outputs_are_close(c, k, s, &in, what);
    inputs_free(&in);
    check_release(mark);
}

/* ---- Gradients of what is not finite ------------------------------------------------------------------ */

/** What a backward or KL kernel writes, in the order of the verdicts' tensors. */
typedef struct gradients {
    float *d[ARRAY_N]; // NULL: not of this stage
    double loss;
} gradients;

static gradients run_gradients(const msa_kernel *k, const msa_shape *s, const inputs *in, const int32_t *ids,
                               const float *o, const float *lse)
{
    const bool kl = k->stage == MSA_STAGE_KL;
    void *work = check_alloc((int64_t)k->workspace(s), 1);
    gradients g = {.loss = 0};
    for (int t = kl ? ARRAY_DQI : ARRAY_DQ; t <= (kl ? ARRAY_DKI : ARRAY_DV); t++) {
        const verdict_dims n = verdict_dims_of(s, (array_id)t);
        g.d[t] = check_floats(n.d0 * n.d1 * n.d2);
    }
    msa_arrays a = inputs_arrays(in);
    a.ids = ids, a.o = o, a.lse = lse, a.weight = 1, a.loss = &g.loss;
    for (array_id t = ARRAY_DQ; t <= ARRAY_DKI; t++)
        array_set(&a, t, g.d[t]);
    k->run(s, &a, work);
    return g;
}

/* Not finite exactly where the reference's is not; elsewhere the ordinary budget of the clean inputs. */
static void gradients_agree(check_case *c, const msa_kernel *k, const msa_shape *s, const inputs *in,
                            const inputs *clean, const int32_t *ids, const char *what)
{
    const int64_t n_o = s->n_q * s->n_heads * s->d_head;
    float *o = check_floats(n_o), *lse = check_floats(s->n_q * s->n_heads);
    void *work = check_alloc((int64_t)msa_workspace(NULL, s), 1);
    if (ids)
        msa_sparse(s, in->q, in->k, in->v, ids, o, lse, work);
    else
        msa_dense(s, in->q, in->k, in->v, o, lse, work);
    const gradients right = run_gradients(msa_ref_ops.stage[k->stage], s, in, ids, o, lse),
                    found = run_gradients(k, s, in, ids, o, lse);
    double *noise[ARRAY_N] = {NULL};
    for (int t = 0; t < ARRAY_N; t++)
        if (right.d[t] && k->precision >= MSA_BF16_WEIGHTS)
            noise[t] = check_doubles(array_count(s, NULL, (array_id)t));
    noise_of(s, clean, ids, k->precision, 1, noise);
    check_true(c, isfinite(right.loss) == isfinite(found.loss), "loss of %s: expected %g, found %g", what,
               right.loss, found.loss);
    for (int t = 0; t < ARRAY_N; t++) {
        if (!right.d[t])
            continue;
        const verdict_dims n = verdict_dims_of(s, (array_id)t);
        double *oracle = check_widen(right.d[t], n.d0 * n.d1 * n.d2);
        for (int64_t a = 0; a < n.d0 * n.d1 * n.d2; a++)
            if (!isfinite(oracle[a]) && !isfinite(found.d[t][a]))
                oracle[a] = found.d[t][a] = 0;
        char name[192];
        snprintf(name, sizeof name, "%s (%s)", array_name((array_id)t), what);
        verdict_budget budget = verdict_float32(s, clean, (array_id)t, 1);
        budget.noise = noise[t];
        check_tensor(c, name, n, oracle, found.d[t], budget);
    }
}

static void one_poison(check_case *c, const msa_kernel *k, const msa_shape *s, int which, float x,
                       uint64_t salt)
{
    static const char *const called[] = {"q", "k", "v", "qi", "ki", "dout"};
    const void *mark = check_mark();
    inputs in, clean;
    tensor t[N_TENSORS];
    inputs_rng rng = {check_seed(salt)};
    if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(salt)) ||
        !inputs_new(&clean, s, INPUTS_NORMAL, check_seed(salt)))
        return;
    tensors_of(s, &in, t);
    t[which].x[inputs_below(&rng, t[which].n)] = x;
    if (!store_for(k, s, &in) || !store_for(k, s, &clean))
        return;
    int32_t *ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
    msa_index(s, clean.qi, clean.ki, NULL, ids, NULL, check_alloc((int64_t)msa_workspace(NULL, s), 1));
    char name[INPUTS_NAME], what[160];
    inputs_shape_name(s, name);
    snprintf(what, sizeof what, "%g in %s, %s", (double)x, called[which], name);
    if (k->stage != MSA_STAGE_DENSE_BACKWARD)
        gradients_agree(c, k, s, &in, &clean, ids, what);
    gradients_agree(c, k, s, &in, &clean, NULL, what);
    inputs_free(&in);
    inputs_free(&clean);
    check_release(mark);
}

static void poisoned(const msa_kernel *k)
{
    static const float x[] = {NAN, INFINITY, -INFINITY};
    check_case c = check_begin("%s/%s of what is not finite", msa_stage_name(k->stage), k->name);
    for (int shape = 0; shape < N_SHAPES; shape++)
        for (int which = 0; which < N_TENSORS; which++)
            for (int a = 0; a < 3; a++)
                one_poison(&c, k, &shapes[shape], which, x[a], (uint64_t)(1000 + 18 * shape + 3 * which + a));
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    const msa_kernel *k;
    for (int n = 0; (k = table_at(n)) != NULL; n++) {
        char name[64];
        snprintf(name, sizeof name, "%s/%s", msa_stage_name(k->stage), k->name);
        if (strcmp(k->backend, "fast") != 0 || (argc > 2 && strcmp(name, argv[2]) != 0))
            continue;
        check_case c = check_begin("%s at the ends of float32", name);
        for (int shape = 0; shape < N_SHAPES; shape++)
            for (int spoil = 0; spoil < N_SPOILS; spoil++)
                if (spoils[spoil].read_by & reads(k->stage))
                    one_spoil(&c, k, &shapes[shape], spoil, (uint64_t)(2 * (shape * N_SPOILS + spoil)));
        check_end(&c);
        if (reads(k->stage) & GRADIENT)
            poisoned(k);
    }
    return check_done();
}
