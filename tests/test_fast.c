/**
 * @file test_fast.c
 * @brief Every implementation in the table that is not the reference: agreement with it, and results that
 * do not depend on the number of threads.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef HAVE_OPENBLAS
#include <cblas.h>
#include <pthread.h>
#endif

#include "../ref/judge/guard.h"
#include "../ref/judge/judge.h"
#include "../ref/judge/selections.h"
#include "../ref/table/table.h"
#include "support/check.h"

// Past the tiles of the fast path: many queries, keys in several chunks, borders just before and after.
static const int32_t long_q[] = {0, 129, 130, 200}, long_kv[] = {0, 129, 530, 600};
static const msa_shape large_shapes[] = {
    {257, 257, 4, 2, 16, 16, 16, 4, 1, NULL, NULL, NULL, NULL},
    {40, 2113, 4, 2, 8, 8, 32, 5, 1, NULL, NULL, NULL, NULL},
    {3, 4225, 4, 1, 8, 8, 128, 3, 1, NULL, NULL, NULL, NULL},
    {10, 2200, 2, 2, 8, 8, 2100, 2, 1, NULL, NULL, NULL, NULL}, // a block longer than a chunk of keys
    {5, 60, 260, 130, 4, 4, 16, 3, 1, NULL, NULL, NULL, NULL},  // more groups than a chunk has rows
    {200, 600, 4, 2, 8, 8, 16, 6, 3, long_q, long_kv, NULL, NULL},
    {70, 2500, 32, 2, 16, 16, 64, 3, 1, NULL, NULL, NULL,
     NULL}, // groups that fill a vector, and keys past the short rows
    {16, 2300, 17, 1, 20, 12, 48, 3, 1, NULL, NULL, NULL,
     NULL}, // a head more than a vector holds; widths that are no multiple
    {1, 2600, 16, 1, 32, 32, 100, 5, 1, NULL, NULL, NULL, NULL}, // one query, blocks that 64 does not divide
    {17, 2600, 12, 1, 16, 16, 600, 3, 1, NULL, NULL, NULL,
     NULL}, // a query more than few; blocks longer than a product's keys
};
static const inputs_pattern large_patterns[] = {INPUTS_NORMAL, INPUTS_PEAKED, INPUTS_TIES};

#define N_LARGE ((int)(sizeof large_shapes / sizeof *large_shapes))
#define N_LARGE_PATTERNS ((int)(sizeof large_patterns / sizeof *large_patterns))

/* ---- Agreement ----------------------------------------------------------------------------------- */

/** What a case gathers over its runs besides verdicts. */
typedef struct ties {
    int64_t n_ids, n_ties;
} ties;

static void judge_one(check_case *c, const msa_kernel *k, const msa_shape *s, inputs_pattern p, uint64_t salt,
                      ties *t)
{
    inputs in;
    char name[INPUTS_NAME];
    inputs_shape_name(s, name);
    if (!inputs_new(&in, s, p, check_seed(salt)))
        return;
    judge_report report = judge_kernel(k, s, &in, check_seed(salt + 1));
    check_true(c, report.outcome == JUDGE_PASS, "%s, %s: %s", name, inputs_pattern_name(p), report.text);
    if (report.used >= c->used) {
        c->used = report.used;
        snprintf(c->worst, sizeof c->worst, "%s of %s", inputs_pattern_name(p), name);
    }
    t->n_ids += report.n_ids;
    t->n_ties += report.n_ties;
    inputs_free(&in);
}

// A large shape meets one pattern, the next shape the next one; with FULL=1 each of them meets all.
static int patterns_between(void)
{
    return tap_full() ? 1 : N_LARGE_PATTERNS;
}

static void agrees_on_padded(const msa_kernel *k, ties *t)
{
    check_case c = check_begin("%s/%s agrees on padded batches", msa_stage_name(k->stage), k->name);
    for (int n = inputs_first_padded; n < inputs_n_all_shapes; n++)
        for (int p = tap_full() ? 0 : n % N_LARGE_PATTERNS; p < N_LARGE_PATTERNS; p += patterns_between())
            judge_one(&c, k, &inputs_shapes[n], large_patterns[p], 200 + 2 * (uint64_t)n, t);
    check_end(&c);
}

static void agrees(const msa_kernel *k)
{
    ties t = {0, 0};
    check_case c = check_begin("%s/%s agrees with the reference", msa_stage_name(k->stage), k->name);
    for (int n = 0; n < inputs_n_shapes; n++)
        for (int p = 0; p < INPUTS_N_PATTERNS; p++)
            judge_one(&c, k, &inputs_shapes[n], (inputs_pattern)p, 2 * (uint64_t)n, &t);
    check_end(&c);
    c = check_begin("%s/%s agrees past the sizes of its tiles", msa_stage_name(k->stage), k->name);
    for (int n = 0; n < N_LARGE; n++)
        for (int p = tap_full() ? 0 : n % N_LARGE_PATTERNS; p < N_LARGE_PATTERNS; p += patterns_between())
            judge_one(&c, k, &large_shapes[n], large_patterns[p], 100 + 2 * (uint64_t)n, &t);
    check_end(&c);
    agrees_on_padded(k, &t);
    if (k->stage == MSA_STAGE_INDEX)
        tap_note("%lld of %lld ids swapped between scores closer than float32 rounding", (long long)t.n_ties,
                 (long long)t.n_ids);
}

/* What one kernel of a gradient leaves, as floats in the order of the verdicts' tensors. */
static void gradients_of(const msa_kernel *k, const msa_shape *s, const inputs *in, const int32_t *ids,
                         float *const d[ARRAY_N])
{
    void *work = check_alloc((int64_t)k->workspace(s), 1);
    double loss;
    msa_arrays a = inputs_arrays(in);
    a.ids = ids, a.weight = 1, a.loss = &loss;
    for (array_id t = ARRAY_DQ; t <= ARRAY_DKI; t++)
        array_set(&a, t, d[t]);
    k->run(s, &a, work);
}

static void gradients_agree(const char *where, const msa_shape *s, bool full)
{
    check_case c = check_begin("gradients, %s", where);
    inputs in;
    if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(250)))
        return;
    int32_t *ids = full ? NULL : check_ints(s->n_kv_heads * s->n_q * s->topk);
    if (ids)
        msa_index(s, in.qi, in.ki, NULL, ids, NULL, check_alloc((int64_t)msa_workspace(NULL, s), 1));
    float *right[ARRAY_N], *found[ARRAY_N];
    for (int t = 0; t < ARRAY_N; t++) {
        const verdict_dims n = verdict_dims_of(s, (array_id)t);
        right[t] = check_floats(n.d0 * n.d1 * n.d2);
        found[t] = check_floats(n.d0 * n.d1 * n.d2);
    }
    gradients_of(msa_ref_ops.stage[MSA_STAGE_BACKWARD], s, &in, ids, right);
    gradients_of(msa_ref_ops.stage[MSA_STAGE_KL], s, &in, ids, right);
    for (const msa_kernel *k = msa_fast_kernels; k->name; k++) {
        if ((k->stage != MSA_STAGE_BACKWARD && k->stage != MSA_STAGE_KL) || k->precision != MSA_FLOAT32)
            continue; // those of bf16 are test_amx's
        gradients_of(k, s, &in, ids, found);
        const array_id first = k->stage == MSA_STAGE_KL ? ARRAY_DQI : ARRAY_DQ,
                       last = k->stage == MSA_STAGE_KL ? ARRAY_DKI : ARRAY_DV;
        for (array_id t = first; t <= last; t++) {
            const verdict_dims n = verdict_dims_of(s, t);
            char name[96];
            snprintf(name, sizeof name, "%s of %s/%s", array_name(t), msa_stage_name(k->stage), k->name);
            check_tensor(&c, name, n, check_widen(right[t], n.d0 * n.d1 * n.d2), found[t],
                         verdict_float32(s, &in, t, 1));
        }
    }
    inputs_free(&in);
    check_end(&c);
    check_release(NULL);
}

// Queries and keys past what the gradients take at once.
static void gradients_of_many(void)
{
    static const msa_shape prompt = {1100, 1100, 2, 1, 4, 4, 16, 3, 1, NULL, NULL, NULL, NULL},
                           chunks = {4170, 4200, 1, 1, 4, 4, 16, 2, 1, NULL, NULL, NULL, NULL};
    gradients_agree("full support, where the first queries see nothing of later blocks", &prompt, true);
    gradients_agree("a chunk of queries behind the first", &chunks, false);
}

/* ---- Requests too long to be gathered ------------------------------------------------------------------ */

// More queries than few over more than 2^25 numbers of K, in pages of which all but the last few are the
// same: each query is to get what it gets alone.
static void long_requests(void)
{
    enum { T = 18, D = 256, PAGE = 64, LAST = 4, N = (1 << 17) / PAGE + LAST, KEYS = (LAST + 1) * PAGE };
    const msa_shape s = {T, N * PAGE, 1, 1, D, 1, PAGE, 2, 1, NULL, NULL, NULL, NULL};
    inputs_rng rng = {check_seed(260)};
    float *q = check_floats(T * D), *k = check_floats(KEYS * D), *v = check_floats(KEYS * D), qi[T], ki[KEYS];
    for (int a = 0; a < T * D; a++)
        q[a] = inputs_normal(&rng);
    for (int a = 0; a < KEYS * D; a++) {
        k[a] = inputs_normal(&rng);
        v[a] = inputs_normal(&rng);
    }
    for (int i = 0; i < T; i++)
        qi[i] = (float)(1 + inputs_below(&rng, 3));
    for (int j = 0; j < KEYS; j++)
        ki[j] = (float)inputs_below(&rng, 1 << 20);
    int32_t *table = check_ints(N), length = N * PAGE - 20;
    for (int g = N - LAST; g < N; g++)
        table[g] = g - (N - LAST) + 1;
    const msa_pages pages = {.n_pages = LAST + 1, .table = table, .lens = &length};
    for (const msa_kernel *kernel = msa_fast_kernels; kernel->name; kernel++) {
        if (kernel->stage != MSA_STAGE_DECODE && kernel->stage != MSA_STAGE_DENSE_DECODE)
            continue;
        const bool dense = kernel->stage == MSA_STAGE_DENSE_DECODE;
        check_case c = check_begin("%s/%s of a long request is that of its queries",
                                   msa_stage_name(kernel->stage), kernel->name);
        float *o = check_floats(T * D), *lse = check_floats(T), right[D], right_lse[1];
        int32_t *ids = check_ints(T * 2), right_ids[2] = {0};
        void *work = check_alloc((int64_t)kernel->workspace(&s), 1);
        if (dense)
            kernel->run(&s, &(msa_arrays){.pages = pages, .q = q, .k = k, .v = v, .o = o, .lse = lse}, work);
        else
            kernel->run(&s,
                        &(msa_arrays){.pages = pages,
                                      .q = q,
                                      .k = k,
                                      .v = v,
                                      .qi = qi,
                                      .ki = ki,
                                      .ids = ids,
                                      .o = o,
                                      .lse = lse},
                        work);
        for (int i = 0; i < T; i += dense ? T - 1 : 1) {
            msa_shape one = s;
            msa_pages seen = pages;
            const int32_t until = length - T + i + 1;
            one.n_q = 1, seen.lens = &until;
            if (dense)
                kernel->run(&one,
                            &(msa_arrays){
                                .pages = seen, .q = q + i * D, .k = k, .v = v, .o = right, .lse = right_lse},
                            work);
            else
                kernel->run(&one,
                            &(msa_arrays){.pages = seen,
                                          .q = q + i * D,
                                          .k = k,
                                          .v = v,
                                          .qi = qi + i,
                                          .ki = ki,
                                          .ids = right_ids,
                                          .o = right,
                                          .lse = right_lse},
                            work);
            check_tensor(&c, "o", (verdict_dims){1, 1, D}, check_widen(right, D), o + i * D,
                         (verdict_budget){1e-5, 1e-7, NULL});
            check_tensor(&c, "lse", (verdict_dims){1, 1, 1}, check_widen(right_lse, 1), lse + i,
                         (verdict_budget){1e-5, 1e-7, NULL});
            check_true(&c, dense || memcmp(right_ids, ids + 2 * i, sizeof right_ids) == 0, "ids of query %d",
                       i);
        }
        check_end(&c);
    }
    check_release(NULL);
}

/* ---- Threads ------------------------------------------------------------------------------------- */

static size_t tensor_bytes(const msa_shape *s, int t)
{
    verdict_dims n = verdict_dims_of(s, (array_id)t);
    return (size_t)(n.d0 * n.d1 * n.d2) * sizeof(float);
}

#ifdef _OPENMP
/** Everything that one back end computes from one set of inputs. */
typedef struct results {
    float *tensor[ARRAY_N];
    int32_t *ids;
    double loss;
} results;

static results run_all(const msa_ops *ops, const msa_shape *s, const inputs *in, bool full, int threads)
{
    results x;
    float **out = x.tensor;
    void *work = check_alloc((int64_t)msa_workspace(ops, s), 1);
    const msa_kernel *const *k = ops->stage;
    for (int t = 0; t < ARRAY_N; t++)
        out[t] = check_alloc(1, tensor_bytes(s, t));
    x.ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
    omp_set_num_threads(threads);
    k[MSA_STAGE_INDEX]->run(
        s, &(msa_arrays){.qi = in->qi, .ki = in->ki, .scores = out[ARRAY_SCORES], .ids = x.ids}, work);
    const int32_t *ids = full ? NULL : x.ids;
    msa_index_lse(s, in->qi, in->ki, ids, out[ARRAY_INDEX_LSE]);
    if (full)
        k[MSA_STAGE_DENSE]->run(
            s, &(msa_arrays){.q = in->q, .k = in->k, .v = in->v, .o = out[ARRAY_O], .lse = out[ARRAY_LSE]},
            work);
    else
        k[MSA_STAGE_SPARSE]->run(
            s,
            &(msa_arrays){
                .q = in->q, .k = in->k, .v = in->v, .ids = ids, .o = out[ARRAY_O], .lse = out[ARRAY_LSE]},
            work);
    k[MSA_STAGE_BACKWARD]->run(s,
                               &(msa_arrays){.q = in->q,
                                             .k = in->k,
                                             .v = in->v,
                                             .ids = ids,
                                             .o = out[ARRAY_O],
                                             .lse = out[ARRAY_LSE],
                                             .dout = in->dout,
                                             .dq = out[ARRAY_DQ],
                                             .dk = out[ARRAY_DK],
                                             .dv = out[ARRAY_DV]},
                               work);
    k[MSA_STAGE_KL]->run(s,
                         &(msa_arrays){.q = in->q,
                                       .k = in->k,
                                       .qi = in->qi,
                                       .ki = in->ki,
                                       .ids = ids,
                                       .lse = out[ARRAY_LSE],
                                       .index_lse = out[ARRAY_INDEX_LSE],
                                       .weight = 1,
                                       .loss = &x.loss,
                                       .dqi = out[ARRAY_DQI],
                                       .dki = out[ARRAY_DKI]},
                         work);
    return x;
}

static void same_on_any_threads(const msa_ops *ops, const msa_shape *s, bool full)
{
    char name[INPUTS_NAME];
    inputs in;
    inputs_shape_name(s, name);
    if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(200)))
        return;
    check_case c =
        check_begin("1, 2 and 3 threads give the same bits, %s: %s", full ? "dense" : "sparse", name);
    int before = omp_get_max_threads();
    results one = run_all(ops, s, &in, full, 1);
    for (int threads = 2; threads <= 3; threads++) {
        results many = run_all(ops, s, &in, full, threads);
        for (int t = 0; t < ARRAY_N; t++)
            check_same(&c, array_name((array_id)t), one.tensor[t], many.tensor[t], tensor_bytes(s, t));
        check_same(&c, "ids", one.ids, many.ids,
                   (size_t)(s->n_kv_heads * s->n_q * s->topk) * sizeof(int32_t));
        check_same(&c, "loss", &one.loss, &many.loss, sizeof one.loss);
    }
    omp_set_num_threads(before);
    check_end(&c);
    inputs_free(&in);
    check_release(NULL);
}

/** O, LSE and, of a decode, ids of one sparse or decode kernel. */
static results run_one(const msa_kernel *k, const msa_shape *s, const inputs *in, const int32_t *ids,
                       int threads)
{
    results x = {.ids = check_ints(s->n_kv_heads * s->n_q * s->topk)};
    void *work = check_alloc((int64_t)k->workspace(s), 1);
    float *o = x.tensor[ARRAY_O] = check_alloc(1, tensor_bytes(s, ARRAY_O));
    float *lse = x.tensor[ARRAY_LSE] = check_alloc(1, tensor_bytes(s, ARRAY_LSE));
    omp_set_num_threads(threads);
    if (k->stage == MSA_STAGE_SPARSE)
        k->run(s, &(msa_arrays){.q = in->q, .k = in->k, .v = in->v, .ids = ids, .o = o, .lse = lse}, work);
    else
        k->run(s,
               &(msa_arrays){.q = in->q,
                             .k = in->k,
                             .v = in->v,
                             .qi = in->qi,
                             .ki = in->ki,
                             .ids = x.ids,
                             .o = o,
                             .lse = lse},
               work);
    return x;
}

static void kernel_on_any_threads(const msa_kernel *k)
{
    const int before = omp_get_max_threads();
    check_case c =
        check_begin("1, 2 and 3 threads give the same bits, %s/%s", msa_stage_name(k->stage), k->name);
    for (int n = 0; n < N_LARGE; n++) {
        const msa_shape *s = &large_shapes[n];
        inputs in;
        if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(400 + (uint64_t)n)))
            return;
        int32_t *ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
        msa_index(s, in.qi, in.ki, NULL, ids, NULL, check_alloc((int64_t)msa_workspace(NULL, s), 1));
        const results one = run_one(k, s, &in, ids, 1);
        for (int threads = 2; threads <= 3; threads++) {
            const results many = run_one(k, s, &in, ids, threads);
            check_same(&c, "o", one.tensor[ARRAY_O], many.tensor[ARRAY_O], tensor_bytes(s, ARRAY_O));
            check_same(&c, "lse", one.tensor[ARRAY_LSE], many.tensor[ARRAY_LSE], tensor_bytes(s, ARRAY_LSE));
            if (k->stage == MSA_STAGE_DECODE)
                check_same(&c, "ids", one.ids, many.ids,
                           (size_t)(s->n_kv_heads * s->n_q * s->topk) * sizeof(int32_t));
        }
        inputs_free(&in);
        check_release(NULL);
    }
    omp_set_num_threads(before);
    check_end(&c);
}

static void threads(void)
{
    for (const msa_kernel *k = msa_fast_kernels; k->name; k++)
        if (k->stage == MSA_STAGE_SPARSE || k->stage == MSA_STAGE_DECODE)
            kernel_on_any_threads(k);
    same_on_any_threads(&msa_fast_ops, &large_shapes[6], true);
    same_on_any_threads(&msa_fast_ops, &large_shapes[8], true);
    for (int full = 0; full < 2; full++) {
        same_on_any_threads(&msa_fast_ops, &inputs_shapes[10], full);
        same_on_any_threads(&msa_fast_ops, &large_shapes[0], full);
        same_on_any_threads(&msa_fast_ops, &large_shapes[5], full);
    }
}
#else
static void threads(void)
{
    tap_skip("any number of threads gives the same bits", "built without OpenMP");
}
#endif

/* ---- Matrix products ----------------------------------------------------------------------------- */

/** One product: C = op(A) op(B) + beta C. */
typedef struct product {
    bool trans_a, trans_b;
    int64_t m, n, k;
    float beta;
} product;

// Element (i,j) in double, and the sum of the sizes of its terms.
static double element_of(const product *p, const float *a, const float *b, const float *c, int64_t i,
                         int64_t j, double *size)
{
    double sum = p->beta != 0 ? (double)p->beta * (double)c[i * p->n + j] : 0;
    *size = fabs(sum);
    for (int64_t l = 0; l < p->k; l++) {
        double term = (double)a[p->trans_a ? l * p->m + i : i * p->k + l] *
                      (double)b[p->trans_b ? j * p->k + l : l * p->n + j];
        sum += term;
        *size += fabs(term);
    }
    return sum;
}

static float *draw(int64_t n, inputs_rng *rng)
{
    float *x = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = inputs_normal(rng);
    return x;
}

// An element of k+1 terms rounds at most k+2 times, each time by 2^-24 of what it has summed so far.
static void one_product(check_case *c, msa_gemm_fn *gemm, const product *p, inputs_rng *rng)
{
    float *a = draw(p->m * p->k, rng), *b = draw(p->k * p->n, rng), *old = draw(p->m * p->n, rng);
    guard out;
    if (!guard_new(&out, (size_t)(p->m * p->n) * sizeof(float)))
        return;
    if (p->beta != 0) // beta 0 must not read what is there: it is NaN
        memcpy(out.data, old, out.bytes);
    gemm(p->trans_a, p->trans_b, p->m, p->n, p->k, a, b, p->beta, out.data);
    const float *found = out.data;
    bool right = guard_intact(&out);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            double size, exact = element_of(p, a, b, old, i, j, &size);
            double error = fabs((double)found[i * p->n + j] - exact);
            double allowed = (double)(p->k + 2) * 0x1p-24 * size;
            right = right && error <= allowed;
            c->used = fmax(c->used, error / allowed);
        }
    check_true(c, right, "m=%lld n=%lld k=%lld trans=%d%d beta=%g", (long long)p->m, (long long)p->n,
               (long long)p->k, p->trans_a, p->trans_b, (double)p->beta);
    guard_free(&out);
    check_release(NULL);
}

static void products(const char *name, msa_gemm_fn *gemm)
{
    static const float betas[] = {0, 1, -0.5f};
    inputs_rng rng = {check_seed(300)};
    check_case c = check_begin("%s products: transposes, beta, odd sizes", name);
    snprintf(c.worst, sizeof c.worst, "an element");
    for (int round = 0; round < 60; round++) {
        int64_t most = round % 3 == 0 ? 5 : 150;
        one_product(&c, gemm,
                    &(product){round & 1, round & 2, 1 + inputs_below(&rng, most),
                               1 + inputs_below(&rng, most), 1 + inputs_below(&rng, most),
                               betas[inputs_below(&rng, 3)]},
                    &rng);
    }
    check_end(&c);
}

/* ---- Memory ---------------------------------------------------------------------------------------- */

// A chunk of a prompt of a million tokens, on two cores: at most 1 GB besides inputs and outputs.
static void small_workspaces(void)
{
    static const msa_stage stages[] = {MSA_STAGE_DENSE,  MSA_STAGE_INDEX,    MSA_STAGE_SPARSE,
                                       MSA_STAGE_DECODE, MSA_STAGE_BACKWARD, MSA_STAGE_KL};
    const msa_shape s = {4096, 1 << 20, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("4096 queries over a million keys in 500 MB a thread");
    int threads = 1;
#ifdef _OPENMP
    threads = omp_get_num_procs();
#endif
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        const double mb = 1e-6 * (double)msa_fast_ops.stage[stages[i]]->workspace(&s);
        check_true(&c, mb > 0 && mb <= 500.0 * threads, "%s: %.0f MB", msa_stage_name(stages[i]), mb);
    }
    check_end(&c);
}

/* ---- Decode ---------------------------------------------------------------------------------------- */

static uint16_t *halves(float *x, int64_t n)
{
    uint16_t *bits = check_alloc(n, sizeof *bits);
    for (int64_t i = 0; i < n; i++) {
        bits[i] = msa_bf16_bits(x[i]);
        x[i] = msa_bf16(x[i]);
    }
    return bits;
}

// Keys in bf16 give the bits that the same numbers in float32 give.
static void reads_bf16(void)
{
    check_case c = check_begin("decode: keys stored as bf16");
    for (int n = 0; n < N_LARGE; n++) {
        const msa_shape *s = &large_shapes[n];
        const msa_kernel *k = msa_fast_ops.stage[MSA_STAGE_DECODE];
        inputs in;
        if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(500 + (uint64_t)n)))
            return;
        const int64_t kv = s->n_kv * s->n_kv_heads * s->d_head, n_ids = s->n_kv_heads * s->n_q * s->topk;
        const int64_t n_o = s->n_q * s->n_heads * s->d_head, n_lse = s->n_q * s->n_heads;
        const uint16_t *k16 = halves(in.k, kv), *v16 = halves(in.v, kv),
                       *ki16 = halves(in.ki, s->n_kv * s->d_index);
        float *o[2] = {check_floats(n_o), check_floats(n_o)},
              *lse[2] = {check_floats(n_lse), check_floats(n_lse)};
        int32_t *ids[2] = {check_ints(n_ids), check_ints(n_ids)};
        void *work = check_alloc((int64_t)k->workspace(s), 1);
        const msa_status status =
            msa_fast_decode_bf16(s, in.q, k16, v16, in.qi, ki16, ids[0], o[0], lse[0], work);
        bool few = true;
        for (int r = 0; r < msa_n_seqs(s); r++)
            few = few && msa_get_seq(s, r).n_q <= 16;
        check_true(&c, status == (few ? MSA_OK : MSA_ERR_UNSUPPORTED), "shape %d: %s", n,
                   msa_strerror(status));
        if (status == MSA_OK) {
            k->run(s,
                   &(msa_arrays){.q = in.q,
                                 .k = in.k,
                                 .v = in.v,
                                 .qi = in.qi,
                                 .ki = in.ki,
                                 .ids = ids[1],
                                 .o = o[1],
                                 .lse = lse[1]},
                   work);
            check_same(&c, "ids", ids[0], ids[1], (size_t)n_ids * sizeof **ids);
            check_same(&c, "o", o[0], o[1], (size_t)n_o * sizeof **o);
            check_same(&c, "lse", lse[0], lse[1], (size_t)n_lse * sizeof **lse);
            const msa_kernel *dense = msa_fast_ops.stage[MSA_STAGE_DENSE_DECODE];
            work = check_alloc((int64_t)dense->workspace(s), 1);
            msa_fast_dense_decode_bf16(s, in.q, k16, v16, o[0], lse[0], work);
            dense->run(s, &(msa_arrays){.q = in.q, .k = in.k, .v = in.v, .o = o[1], .lse = lse[1]}, work);
            check_same(&c, "dense o", o[0], o[1], (size_t)n_o * sizeof **o);
            check_same(&c, "dense lse", lse[0], lse[1], (size_t)n_lse * sizeof **lse);
        }
        inputs_free(&in);
        check_release(NULL);
    }
    check_end(&c);
}

// A million equal logits: the sum of their weights is exact, so the log-sum-exp is log(2^20) but for two
// roundings.
static void equal_logits(int64_t n_q)
{
    const msa_shape s = {n_q, 1 << 20, 1, 1, 4, 4, 128, 16, 1, NULL, NULL, NULL, NULL};
    const msa_kernel *k = msa_fast_ops.stage[MSA_STAGE_DENSE];
    const int64_t n = s.n_kv * s.d_head;
    float *zero = check_floats(n), *ones = check_floats(n), *o = check_floats(n_q * 4),
          *lse = check_floats(n_q);
    check_case c = check_begin("dense: a million equal logits, %lld queries", (long long)n_q);
    for (int64_t a = 0; a < n; a++) {
        zero[a] = 0;
        ones[a] = 1;
    }
    k->run(&s, &(msa_arrays){.q = zero, .k = zero, .v = ones, .o = o, .lse = lse},
           check_alloc((int64_t)k->workspace(&s), 1));
    for (int64_t i = 0; i < n_q; i++) {
        const double exact = log((double)(s.n_kv - n_q + i + 1));
        check_true(&c, fabs((double)lse[i] - exact) <= 2 * 0x1p-24 * exact, "lse %.9g, exact %.9g",
                   (double)lse[i], exact);
        check_true(&c, o[4 * i] == 1, "o %.9g", (double)o[4 * i]);
    }
    check_end(&c);
    check_release(NULL);
}

/* ---- The rule of sparse ---------------------------------------------------------------------------- */

static float *sparse_by(const char *name, const msa_shape *s, const inputs *in, const int32_t *ids)
{
    float *o = check_floats(s->n_q * s->n_heads * s->d_head);
    const msa_kernel *k = table_find(name, "fast");
    k->run(s, &(msa_arrays){.q = in->q, .k = in->k, .v = in->v, .ids = ids, .o = o},
           check_alloc((int64_t)k->workspace(s) + 1, 1));
    return o;
}

// Its results are, to the bit, those of the kernel that it is meant to choose; and the two others differ.
static void rule_chooses(selection_kind kind, const char *meant, const char *other)
{
    const msa_shape s = {1024, 4096, 4, 2, 16, 16, 64, 4, 1, NULL, NULL, NULL, NULL};
    const size_t bytes = (size_t)(s.n_q * s.n_heads * s.d_head) * sizeof(float);
    int32_t *ids = check_ints(s.n_kv_heads * s.n_q * s.topk);
    inputs in;
    check_case c = check_begin("sparse/ruled is %s for a %s selection", meant, selection_name(kind));
    if (inputs_new(&in, &s, INPUTS_NORMAL, check_seed(31))) {
        selection_draw(&s, kind, check_seed(32), ids);
        const float *ruled = sparse_by("sparse/ruled", &s, &in, ids);
        check_same(&c, "o", sparse_by(meant, &s, &in, ids), ruled, bytes);
        check_true(&c, memcmp(sparse_by(other, &s, &in, ids), ruled, bytes) != 0, "%s has other bits", other);
        inputs_free(&in);
    }
    check_end(&c);
    check_release(NULL);
}

/* ---- Settings of the process ------------------------------------------------------------------------ */

#ifdef HAVE_OPENBLAS
/** What a caller's thread works on. */
typedef struct caller {
    const msa_shape *s;
    const inputs *in;
    int rounds;
    void *work;
    float *o, *lse, *d[5];
    int32_t *ids;
    double loss;
} caller;

static caller caller_new(const msa_shape *s, const inputs *in, int rounds)
{
    caller x = {.s = s, .in = in, .rounds = rounds};
    size_t most = msa_workspace(&msa_fast_ops, s);
    for (const msa_kernel *k = msa_fast_kernels; k->name; k++)
        most = k->workspace(s) > most ? k->workspace(s) : most;
    x.work = check_alloc((int64_t)most, 1);
    x.o = check_alloc(1, tensor_bytes(s, ARRAY_O));
    x.lse = check_alloc(1, tensor_bytes(s, ARRAY_LSE));
    const array_id gradients[5] = {ARRAY_DQ, ARRAY_DK, ARRAY_DV, ARRAY_DQI, ARRAY_DKI};
    for (int i = 0; i < 5; i++)
        x.d[i] = check_alloc(1, tensor_bytes(s, gradients[i]));
    x.ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
    return x;
}

/** Every kernel of the fast path. */
static void *call_all(void *arg)
{
    caller *x = arg;
    msa_arrays a = inputs_arrays(x->in);
    a.ids = x->ids, a.o = x->o, a.lse = x->lse, a.weight = 1, a.loss = &x->loss;
    a.dq = x->d[0], a.dk = x->d[1], a.dv = x->d[2], a.dqi = x->d[3], a.dki = x->d[4];
    for (int n = 0; n < x->rounds; n++) {
        msa_fast_ops.stage[MSA_STAGE_PREFILL]->run(x->s, &a, x->work);
        msa_fast_ops.stage[MSA_STAGE_DECODE]->run(x->s, &a, x->work);
        for (const msa_kernel *k = msa_fast_kernels; k->name; k++)
            if (k->stage == MSA_STAGE_DENSE || k->stage == MSA_STAGE_SPARSE ||
                k->stage == MSA_STAGE_BACKWARD || k->stage == MSA_STAGE_KL)
                k->run(x->s, &a, x->work);
    }
    return NULL;
}
#endif

// OpenBLAS has one number of threads for everybody: the caller's is there again when a call is over.
static void leaves_settings(void)
{
#ifdef HAVE_OPENBLAS
    const msa_shape *s = &large_shapes[0];
    inputs in;
    if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(500)))
        return;
    const int before = openblas_get_num_threads();
    check_case c = check_begin("OpenBLAS keeps the caller's number of threads");
    openblas_set_num_threads(2);
    caller one = caller_new(s, &in, 1), many[2] = {caller_new(s, &in, 20), caller_new(s, &in, 20)};
    call_all(&one);
    check_true(&c, openblas_get_num_threads() == 2, "%d after one caller", openblas_get_num_threads());
    pthread_t thread;
    if (pthread_create(&thread, NULL, call_all, &many[1]) == 0) {
        call_all(&many[0]);
        pthread_join(thread, NULL);
    }
    check_true(&c, openblas_get_num_threads() == 2, "%d after two at once", openblas_get_num_threads());
    check_same(&c, "o", one.o, many[0].o, tensor_bytes(s, ARRAY_O));
    check_same(&c, "o", one.o, many[1].o, tensor_bytes(s, ARRAY_O));
    openblas_set_num_threads(before);
    check_end(&c);
    inputs_free(&in);
    check_release(NULL);
#else
    tap_skip("OpenBLAS keeps the caller's number of threads", "built without OpenBLAS");
#endif
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    products("reference", msa_ref_ops.gemm);
    products("fast", msa_fast_ops.gemm);
    const msa_kernel *k;
    for (int n = 0; (k = table_at(n)) != NULL; n++)
        if (strcmp(k->backend, "fast") == 0)
            agrees(k);
    gradients_of_many();
    long_requests();
    threads();
    rule_chooses(SELECTION_LOCAL, "sparse/tiles", "sparse/blocks");
    rule_chooses(SELECTION_RANDOM, "sparse/blocks", "sparse/tiles");
    small_workspaces();
    reads_bf16();
    equal_logits(1);
    equal_logits(17);
    leaves_settings();
    return check_done();
}
