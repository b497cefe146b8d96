/**
 * @file judge.c
 * @brief Runs one kernel and the reference on the same inputs and compares what they wrote.
 */
#include "judge.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "guard.h"
#include "noise.h"
#include "paging.h"
#include "table.h"

#define KL_WEIGHT 0.75 // not 1, so that a kernel that ignores it is found out
#define MAX_TIES 0.001
#define BIT(t) (1u << (t))

/** One judgement: the reference's results beside the guarded buffers that the kernel writes. */
typedef struct judgement {
    const msa_kernel *kernel;
    const msa_shape *s;
    const inputs *in;
    float *oracle[VERDICT_N_TENSORS];
    guard found[VERDICT_N_TENSORS];
    int32_t *oracle_ids; // the reference's selection
    int32_t *drawn_ids;  // a synthetic one
    guard found_ids;
    void *oracle_work;
    guard work;
    double *wide;                     // one oracle tensor in double
    double *noise[VERDICT_N_TENSORS]; // of the kernel's roundings; NULL where it makes none
    inputs rounded;                   // what a bf16 kernel makes of the inputs
    judge_report report;
} judgement;

static size_t count(const msa_shape *s, int tensor)
{
    verdict_dims n = verdict_tensor_dims(s, (verdict_tensor)tensor);
    return (size_t)(n.d0 * n.d1 * n.d2);
}

/* What a stage writes that roundings to bf16 within it move. */
static unsigned noisy_tensors(msa_stage stage)
{
    return stage == MSA_STAGE_BACKWARD || stage == MSA_STAGE_DENSE_BACKWARD
               ? BIT(VERDICT_DQ) | BIT(VERDICT_DK) | BIT(VERDICT_DV)
           : stage == MSA_STAGE_KL ? BIT(VERDICT_DQI) | BIT(VERDICT_DKI)
                                   : BIT(VERDICT_O);
}

static bool open_judgement(judgement *j)
{
    const msa_shape *s = j->s;
    size_t n_ids = (size_t)(s->n_kv_heads * s->n_q * s->topk), widest = 0;
    bool ok = true;
    for (int t = 0; t < VERDICT_N_TENSORS; t++) {
        j->oracle[t] = malloc(count(s, t) * sizeof(float));
        ok = guard_new(&j->found[t], count(s, t) * sizeof(float)) && ok && j->oracle[t];
        widest = count(s, t) > widest ? count(s, t) : widest;
    }
    j->oracle_ids = malloc(n_ids * sizeof(int32_t));
    j->drawn_ids = malloc(n_ids * sizeof(int32_t));
    j->oracle_work = malloc(msa_workspace(&msa_ref_ops, s) + 1); // +1: malloc(0) may be NULL
    j->wide = malloc(widest * sizeof(double));
    ok = guard_new(&j->found_ids, n_ids * sizeof(int32_t)) && ok;
    ok = guard_new(&j->work, j->kernel->workspace(s)) && ok;
    for (int t = 0; t < VERDICT_N_TENSORS; t++)
        if (j->kernel->precision >= MSA_BF16_WEIGHTS && (BIT(t) & noisy_tensors(j->kernel->stage))) {
            j->noise[t] = malloc(count(s, t) * sizeof(double));
            ok = ok && j->noise[t];
        }
    if (j->kernel->precision >= MSA_BF16_INPUTS) {
        ok = inputs_rounded(&j->rounded, j->in, s) && ok;
        j->in = &j->rounded;
    }
    return ok && j->oracle_ids && j->drawn_ids && j->oracle_work && j->wide;
}

static void close_judgement(judgement *j)
{
    for (int t = 0; t < VERDICT_N_TENSORS; t++) {
        free(j->oracle[t]);
        guard_free(&j->found[t]);
        free(j->noise[t]);
    }
    free(j->oracle_ids);
    free(j->drawn_ids);
    free(j->oracle_work);
    free(j->wide);
    inputs_free(&j->rounded);
    guard_free(&j->found_ids);
    guard_free(&j->work);
}

/* ---- Verdicts ------------------------------------------------------------------------------------ */

// Only the first failure is kept: what follows it is often its consequence.
__attribute__((format(printf, 2, 3))) static void fail(judgement *j, const char *fmt, ...)
{
    if (j->report.outcome != JUDGE_PASS)
        return;
    j->report.outcome = JUDGE_FAIL;
    va_list args;
    va_start(args, fmt);
    vsnprintf(j->report.text, VERDICT_TEXT, fmt, args);
    va_end(args);
}

static void weigh(judgement *j, const char *what, const verdict *v)
{
    char text[VERDICT_TEXT];
    verdict_text(what, v, text);
    if (!v->pass)
        fail(j, "%s", text);
    else if (j->report.outcome == JUDGE_PASS && v->used >= j->report.used)
        snprintf(j->report.text, VERDICT_TEXT, "%s", text);
    j->report.used = v->used > j->report.used ? v->used : j->report.used;
}

static bool buffer_is_sound(judgement *j, const guard *g, const char *name, const char *support)
{
    if (!guard_intact(g))
        fail(j, "%s (%s): written outside the buffer", name, support);
    else if (guard_unwritten(g) >= 0)
        fail(j, "%s (%s): element %lld not written", name, support, (long long)guard_unwritten(g));
    return j->report.outcome == JUDGE_PASS;
}

// Compares the tensors of `mask`, checks every fence and poisons the buffers for the next run.
static void judge_tensors(judgement *j, unsigned mask, const char *support)
{
    if (!guard_intact(&j->work))
        fail(j, "work (%s): written outside the buffer", support);
    for (int t = 0; t < VERDICT_N_TENSORS; t++) {
        const char *name = verdict_tensor_name((verdict_tensor)t);
        if (!(mask & BIT(t)) || !buffer_is_sound(j, &j->found[t], name, support))
            continue;
        for (size_t i = 0; i < count(j->s, t); i++)
            j->wide[i] = (double)j->oracle[t][i];
        char what[VERDICT_TEXT];
        snprintf(what, sizeof what, "%s (%s)", name, support);
        verdict_budget budget = verdict_float32(j->s, j->in, (verdict_tensor)t, KL_WEIGHT);
        budget.noise = j->noise[t];
        verdict v =
            verdict_compare(verdict_tensor_dims(j->s, (verdict_tensor)t), j->wide, j->found[t].data, budget);
        weigh(j, what, &v);
        guard_poison(&j->found[t]);
    }
}

// False if there is nothing to compare: the kernel does not take this, or it failed.
static bool accepted(judgement *j, msa_status status)
{
    if (status == MSA_ERR_UNSUPPORTED && j->report.outcome == JUDGE_PASS)
        j->report.outcome = JUDGE_UNSUPPORTED;
    else if (table_no_memory(j->kernel, status))
        j->report.outcome = JUDGE_NO_MEMORY;
    else if (status != MSA_OK)
        fail(j, "%s", status == MSA_ERR_DEVICE ? table_trouble(j->kernel) : msa_strerror(status));
    return status == MSA_OK;
}

/* ---- Stages -------------------------------------------------------------------------------------- */

// How far the kernel's roundings may move what it writes; false if there is no memory to say it.
static bool know_noise(judgement *j, const int32_t *ids)
{
    const inputs *in = j->in;
    const bool partials = j->kernel->precision >= MSA_BF16_PARTIALS;
    double *const *noise = j->noise;
    bool ok = true;
    if (noise[VERDICT_O])
        ok = noise_of_rounding(j->s, in->q, in->k, in->v, ids, partials, noise[VERDICT_O]);
    if (noise[VERDICT_DQ])
        ok = noise_of_backward(j->s, in->q, in->k, in->v, ids, in->dout, j->kernel->precision, false,
                               noise[VERDICT_DQ], noise[VERDICT_DK], noise[VERDICT_DV]);
    if (noise[VERDICT_DQI])
        ok = noise_of_kl(j->s, in->q, in->k, in->qi, in->ki, ids, KL_WEIGHT, noise[VERDICT_DQI],
                         noise[VERDICT_DKI]);
    if (!ok)
        j->report.outcome = JUDGE_NO_MEMORY;
    return ok;
}

static void judge_dense(judgement *j)
{
    const inputs *in = j->in;
    if (!know_noise(j, NULL))
        return;
    msa_dense(j->s, in->q, in->k, in->v, j->oracle[VERDICT_O], j->oracle[VERDICT_LSE], j->oracle_work);
    if (accepted(j, j->kernel->dense(j->s, in->q, in->k, in->v, j->found[VERDICT_O].data,
                                     j->found[VERDICT_LSE].data, j->work.data)))
        judge_tensors(j, BIT(VERDICT_O) | BIT(VERDICT_LSE), "dense");
    if (j->report.outcome == JUDGE_PASS &&
        accepted(j,
                 j->kernel->dense(j->s, in->q, in->k, in->v, j->found[VERDICT_O].data, NULL, j->work.data)))
        judge_tensors(j, BIT(VERDICT_O), "no lse");
}

static void judge_found_ids(judgement *j)
{
    if (!buffer_is_sound(j, &j->found_ids, "ids", msa_stage_name(j->kernel->stage)))
        return;
    if (msa_check_ids(j->s, j->found_ids.data) != MSA_OK) {
        fail(j, "ids: %s", msa_strerror(MSA_ERR_IDS));
        return;
    }
    bool ok;
    double tolerance = inputs_is_exact(j->in->pattern) ? 0 : 1;
    verdict_selection v =
        verdict_ids(j->s, j->in->qi, j->in->ki, j->found_ids.data, tolerance, MAX_TIES, &ok);
    j->report.n_ids += v.n_ids;
    j->report.n_ties += v.n_ties;
    if (!ok)
        j->report.outcome = JUDGE_NO_MEMORY;
    else if (!v.pass)
        fail(j, "ids: %lld of %lld wrong, %lld ties; first wrong: query %lld, group %d", (long long)v.n_wrong,
             (long long)v.n_ids, (long long)v.n_ties, (long long)v.query, v.group);
}

// Every output alone, ids with their LSE, and all together, since an index kernel may produce only some of
// them.
static void judge_index(judgement *j)
{
    const inputs *in = j->in;
    bool supported = false;
    msa_index(j->s, in->qi, in->ki, j->oracle[VERDICT_SCORES], NULL, NULL, j->oracle_work);
    static const unsigned combination[] = {1, 2, 4, 6, 7};
    for (int n = 0; n < 5; n++) {
        const unsigned wanted = combination[n];
        bool scores = wanted & 1, ids = wanted & 2, lse = wanted & 4;
        guard_poison(&j->found_ids);
        msa_status status = j->kernel->index(
            j->s, in->qi, in->ki, scores ? j->found[VERDICT_SCORES].data : NULL,
            ids ? j->found_ids.data : NULL, lse ? j->found[VERDICT_INDEX_LSE].data : NULL, j->work.data);
        if (status == MSA_ERR_UNSUPPORTED)
            continue;
        supported = true;
        if (!accepted(j, status))
            return;
        if (ids)
            judge_found_ids(j);
        if (lse && j->report.outcome == JUDGE_PASS)
            msa_index_lse(j->s, in->qi, in->ki, ids ? j->found_ids.data : j->oracle_ids,
                          j->oracle[VERDICT_INDEX_LSE]);
        judge_tensors(j, (scores ? BIT(VERDICT_SCORES) : 0) | (lse ? BIT(VERDICT_INDEX_LSE) : 0), "index");
    }
    if (!supported)
        j->report.outcome = JUDGE_UNSUPPORTED;
}

static void judge_topk(judgement *j)
{
    size_t n_ids = j->found_ids.bytes / sizeof(int32_t);
    float *scores = j->oracle[VERDICT_SCORES];
    msa_index(j->s, j->in->qi, j->in->ki, scores, NULL, NULL, j->oracle_work);
    msa_topk(j->s, scores, j->drawn_ids, j->oracle_work);
    if (!accepted(j, j->kernel->topk(j->s, scores, j->found_ids.data, j->work.data)))
        return;
    judge_tensors(j, 0, "topk");
    if (!buffer_is_sound(j, &j->found_ids, "ids", "topk"))
        return;
    const int32_t *found = j->found_ids.data;
    for (size_t i = 0; i < n_ids; i++)
        if (found[i] != j->drawn_ids[i]) {
            fail(j, "ids[%zu]: expected %d, found %d", i, j->drawn_ids[i], found[i]);
            return;
        }
}

// What the forward pass leaves for the backward stages, for this support.
static void run_forward(judgement *j, const int32_t *ids)
{
    const inputs *in = j->in;
    float *o = j->oracle[VERDICT_O], *lse = j->oracle[VERDICT_LSE];
    if (ids)
        msa_sparse(j->s, in->q, in->k, in->v, ids, o, lse, j->oracle_work);
    else
        msa_dense(j->s, in->q, in->k, in->v, o, lse, j->oracle_work);
    msa_index_lse(j->s, in->qi, in->ki, ids, j->oracle[VERDICT_INDEX_LSE]);
}

static void judge_sparse(judgement *j, const int32_t *ids, const char *support)
{
    const inputs *in = j->in;
    if (ids && know_noise(j, ids) &&
        accepted(j, j->kernel->sparse(j->s, in->q, in->k, in->v, ids, j->found[VERDICT_O].data,
                                      j->found[VERDICT_LSE].data, j->work.data)))
        judge_tensors(j, BIT(VERDICT_O) | BIT(VERDICT_LSE), support);
}

// All arrays of the structure in one buffer each, compared word by word.
static void judge_words(judgement *j, const guard *found, const int32_t *expected, const char *name,
                        const char *support)
{
    if (!buffer_is_sound(j, found, name, support))
        return;
    const int32_t *word = found->data;
    for (size_t i = 0; i < found->bytes / 4; i++)
        if (word[i] != expected[i]) {
            fail(j, "%s[%zu] (%s): expected %d, found %d", name, i, support, expected[i], word[i]);
            return;
        }
}

static void judge_reverse(judgement *j, const int32_t *ids, const char *support)
{
    const msa_shape *s = j->s;
    const size_t sizes[3] = {(size_t)(msa_n_seqs(s) * s->n_kv_heads * (msa_n_blocks(s) + 1)),
                             (size_t)(s->n_kv_heads * s->n_q * s->topk),
                             4 * (size_t)msa_first_item(s, msa_n_seqs(s))};
    static const char *const name[3] = {"first", "entries", "items"};
    guard found[3] = {{0}}, expected[3] = {{0}};
    bool ok = ids != NULL;
    for (int a = 0; ids && a < 3; a++) {
        ok = guard_new(&found[a], sizes[a] * 4) && ok;
        ok = guard_new(&expected[a], sizes[a] * 4) && ok;
    }
    if (ids && !ok)
        j->report.outcome = JUDGE_NO_MEMORY;
    const msa_status status =
        ok ? msa_reverse(s, ids, expected[0].data, expected[1].data, expected[2].data, j->oracle_work)
           : MSA_ERR_UNSUPPORTED;
    if (status == MSA_OK &&
        accepted(j, j->kernel->reverse(s, ids, found[0].data, found[1].data, found[2].data, j->work.data)))
        for (int a = 0; a < 3; a++)
            judge_words(j, &found[a], expected[a].data, name[a], support);
    for (int a = 0; a < 3; a++) {
        guard_free(&found[a]);
        guard_free(&expected[a]);
    }
}

/** How the keys of a whole attention come: p NULL is contiguous. */
typedef struct step {
    const msa_shape *s;
    const msa_pages *p;
    const float *k, *v, *ki;
    void *work;
    const char *name;
} step;

static msa_status run_step(judgement *j, const step *a, float *lse)
{
    const inputs *in = j->in;
    float *o = j->found[VERDICT_O].data;
    int32_t *ids = j->found_ids.data;
    const msa_kernel *k = j->kernel;
    if (k->stage == MSA_STAGE_PREFILL)
        return k->prefill(a->s, in->q, a->k, a->v, in->qi, a->ki, ids, o, lse, a->work);
    if (k->stage == MSA_STAGE_DECODE)
        return k->decode(a->s, a->p, in->q, a->k, a->v, in->qi, a->ki, ids, o, lse, a->work);
    return k->dense_decode(a->s, a->p, in->q, a->k, a->v, o, lse, a->work);
}

// The ids first, where there are some; then the output given those ids.
static void judge_step(judgement *j, const step *a)
{
    const inputs *in = j->in;
    const bool sparse = j->kernel->stage != MSA_STAGE_DENSE_DECODE;
    float *o = j->oracle[VERDICT_O], *lse = j->oracle[VERDICT_LSE];
    const int least = a->p ? 1 : 0; // without LSE where keys are contiguous; with pages that is no news
    for (int want_lse = 1; want_lse >= least && j->report.outcome == JUDGE_PASS; want_lse--) {
        guard_poison(&j->found_ids);
        if (!accepted(j, run_step(j, a, want_lse ? j->found[VERDICT_LSE].data : NULL)))
            return;
        if (sparse)
            judge_found_ids(j);
        if (j->report.outcome != JUDGE_PASS || !know_noise(j, sparse ? j->found_ids.data : NULL))
            return;
        if (sparse)
            msa_sparse(j->s, in->q, in->k, in->v, j->found_ids.data, o, lse, j->oracle_work);
        else
            msa_dense(j->s, in->q, in->k, in->v, o, lse, j->oracle_work);
        judge_tensors(j, BIT(VERDICT_O) | (want_lse ? BIT(VERDICT_LSE) : 0), a->name);
    }
}

// Half a block, two of them, one. CUDA kernels take multiples of 16.
static int page_of(const msa_shape *s, uint64_t seed)
{
    const int half = s->block % 32 == 0 ? s->block / 2 : s->block, page[] = {half, 2 * s->block, s->block};
    return page[seed % 3];
}

// The same step once more with its keys in pages, where the queries of all sequences are equally many. A
// kernel that does not take pages, or 8-bit keys, has been judged without.
static void judge_pages(judgement *j, uint64_t seed, bool small)
{
    paging g;
    const inputs *whole = j->in;
    inputs decoded = *whole;
    guard work = {0};
    if (!paging_possible(j->s) || j->report.outcome != JUDGE_PASS)
        return;
    if (paging_new(&g, j->s, whole, page_of(j->s, seed), seed, small) &&
        guard_new(&work, j->kernel->workspace(&g.s))) {
        const step a = {&g.s, &g.p, g.k, g.v, small ? NULL : g.ki, work.data, small ? "8-bit" : "pages"};
        decoded.ki = g.decoded;
        j->in = small ? &decoded : whole;
        judge_step(j, &a);
        if (j->report.outcome == JUDGE_UNSUPPORTED)
            j->report.outcome = JUDGE_PASS;
        if (!guard_intact(&work))
            fail(j, "work (%s): written outside the buffer", a.name);
        j->in = whole;
    } else
        j->report.outcome = JUDGE_NO_MEMORY;
    paging_free(&g);
    guard_free(&work);
}

static void judge_layer(judgement *j, uint64_t seed)
{
    const inputs *in = j->in;
    const step a = {j->s, NULL, in->k, in->v, in->ki, j->work.data, msa_stage_name(j->kernel->stage)};
    judge_step(j, &a);
    if (j->kernel->stage != MSA_STAGE_PREFILL)
        judge_pages(j, seed, false);
    if (j->kernel->stage == MSA_STAGE_DECODE)
        judge_pages(j, seed, true);
}

// A random walk has no equal steps, but where inputs repeat themselves so do roundings, and all in one
// direction. So the noise is nowhere less than what they do to the reference: it rounds P and dS at the same
// places.
static void add_reference_noise(judgement *j, const int32_t *ids)
{
    const inputs *in = j->in;
    float *const rounded[3] = {j->found[VERDICT_DQ].data, j->found[VERDICT_DK].data,
                               j->found[VERDICT_DV].data};
    if (!j->noise[VERDICT_DQ])
        return;
    msa_backward_bf16(j->s, in->q, in->k, in->v, ids, NULL, NULL, in->dout, rounded[0], rounded[1],
                      rounded[2], j->oracle_work);
    for (int a = 0; a < 3; a++) {
        const int t = VERDICT_DQ + a;
        for (size_t i = 0; i < count(j->s, t); i++)
            j->noise[t][i] = fmax(j->noise[t][i], fabs((double)rounded[a][i] - (double)j->oracle[t][i]));
        guard_poison(&j->found[t]);
    }
}

static void judge_backward(judgement *j, const int32_t *ids, const char *support)
{
    const inputs *in = j->in;
    const float *o = j->oracle[VERDICT_O], *lse = j->oracle[VERDICT_LSE];
    if (!know_noise(j, ids))
        return;
    msa_backward(j->s, in->q, in->k, in->v, ids, o, lse, in->dout, j->oracle[VERDICT_DQ],
                 j->oracle[VERDICT_DK], j->oracle[VERDICT_DV], j->oracle_work);
    add_reference_noise(j, ids);
    float *dq = j->found[VERDICT_DQ].data, *dk = j->found[VERDICT_DK].data, *dv = j->found[VERDICT_DV].data;
    const msa_kernel *kernel = j->kernel;
    if (accepted(j, kernel->stage == MSA_STAGE_DENSE_BACKWARD
                        ? kernel->dense_backward(j->s, in->q, in->k, in->v, o, lse, in->dout, dq, dk, dv,
                                                 j->work.data)
                        : kernel->backward(j->s, in->q, in->k, in->v, ids, o, lse, in->dout, dq, dk, dv,
                                           j->work.data)))
        judge_tensors(j, BIT(VERDICT_DQ) | BIT(VERDICT_DK) | BIT(VERDICT_DV), support);
}

static void judge_kl(judgement *j, const int32_t *ids, const char *support)
{
    const inputs *in = j->in;
    const float *lse = j->oracle[VERDICT_LSE];
    const float *index_lse =
        ids ? j->oracle[VERDICT_INDEX_LSE] : NULL; // a warmup has none: the kernel makes it
    double expected, loss[2];                      // with gradients, and alone
    if (!know_noise(j, ids))
        return;
    msa_kl(j->s, in->q, in->k, in->qi, in->ki, ids, lse, index_lse, KL_WEIGHT, &expected,
           j->oracle[VERDICT_DQI], j->oracle[VERDICT_DKI], j->oracle_work);
    if (!accepted(j,
                  j->kernel->kl(j->s, in->q, in->k, in->qi, in->ki, ids, lse, index_lse, KL_WEIGHT, &loss[0],
                                j->found[VERDICT_DQI].data, j->found[VERDICT_DKI].data, j->work.data)) ||
        !accepted(j, j->kernel->kl(j->s, in->q, in->k, in->qi, in->ki, ids, lse, index_lse, KL_WEIGHT,
                                   &loss[1], NULL, NULL, j->work.data)))
        return;
    verdict_budget budget = verdict_float32_kl(j->s, in, expected);
    for (int alone = 0; alone < 2; alone++)
        if (!(loss[alone] - expected <= budget.absolute && expected - loss[alone] <= budget.absolute))
            fail(j, "kl (%s%s): expected %.12g, found %.12g, allowed %.2g", support, alone ? ", alone" : "",
                 expected, loss[alone], budget.absolute);
    judge_tensors(j, BIT(VERDICT_DQI) | BIT(VERDICT_DKI), support);
}

typedef void judge_support(judgement *j, const int32_t *ids, const char *support);

static void for_each_support(judgement *j, uint64_t seed, judge_support *judge)
{
    static const char *const name[INPUTS_N_SELECTIONS] = {"random ids", "hot ids", "last ids"};
    run_forward(j, j->oracle_ids);
    judge(j, j->oracle_ids, "selected ids");
    for (int kind = 0; kind < INPUTS_N_SELECTIONS; kind++) {
        inputs_ids(j->s, (inputs_selection)kind, seed, j->drawn_ids);
        run_forward(j, j->drawn_ids);
        judge(j, j->drawn_ids, name[kind]);
    }
    run_forward(j, NULL);
    judge(j, NULL, "full support");
}

static void judge_stage(judgement *j, uint64_t seed)
{
    msa_index(j->s, j->in->qi, j->in->ki, NULL, j->oracle_ids, NULL, j->oracle_work);
    switch (j->kernel->stage) {
    case MSA_STAGE_DENSE:
        judge_dense(j);
        break;
    case MSA_STAGE_INDEX:
        judge_index(j);
        break;
    case MSA_STAGE_TOPK:
        judge_topk(j);
        break;
    case MSA_STAGE_REVERSE:
        for_each_support(j, seed, judge_reverse);
        break;
    case MSA_STAGE_PREFILL:
    case MSA_STAGE_DECODE:
    case MSA_STAGE_DENSE_DECODE:
        judge_layer(j, seed);
        break;
    case MSA_STAGE_SPARSE:
        for_each_support(j, seed, judge_sparse);
        break;
    case MSA_STAGE_DENSE_BACKWARD:
        run_forward(j, NULL);
        judge_backward(j, NULL, "full support");
        break;
    case MSA_STAGE_BACKWARD:
        for_each_support(j, seed, judge_backward);
        break;
    default:
        for_each_support(j, seed, judge_kl);
    }
}

judge_report judge_kernel(const msa_kernel *k, const msa_shape *s, const inputs *in, uint64_t seed)
{
    judgement j = {.kernel = k, .s = s, .in = in};
    if (open_judgement(&j))
        judge_stage(&j, seed);
    else
        j.report.outcome = JUDGE_NO_MEMORY;
    close_judgement(&j);
    return j.report;
}
