/* Sampled verdicts. */
#include "sample.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "../judge/noise.h"
#include "sample_query.h"
#include "../judge/table.h"

#define WORK 4e9          /* multiplications that a verdict may cost, about */
#define LEAST 8           /* but so many queries at least */
#define MAX_TIES 0.001    /* of the ids, as in msa check */
#define BF16_FLOOR 0x1p-8 /* of a row's value scale, where O leaves as bf16 */

// The first failure is kept, whichever thread finds it.
void sample_fail(sample_verdict *v, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
#pragma omp critical(sample)
    {
        if (v->pass)
            vsnprintf(v->text, VERDICT_TEXT, fmt, args);
        v->pass = false;
    }
    va_end(args);
}

void sample_no_memory(sample_verdict *v)
{
    sample_fail(v, "no memory for the verdict");
    v->no_memory = true;
}

/* ---- One query as a call of its own -------------------------------------------------------------- */

/* The elements of a row of tensor x at index i; NULL for none. */
float *sample_row(void *x, int64_t i, int64_t width)
{
    return x ? (float *)x + i * width : NULL;
}

static int64_t largest_row(const msa_shape *s)
{
    const int64_t o = (int64_t)s->n_heads * s->d_head, qi = (int64_t)s->n_kv_heads * s->d_index;
    return max_i64(max_i64(o, qi), s->n_kv_heads * max_i64(msa_n_blocks(s), s->topk));
}

static bool open_query(query *q, const subject *t, sample_verdict *v, int64_t i)
{
    const msa_shape *s = t->s;
    msa_seq seq;
    void *const *x = t->given;
    const int64_t hq = (int64_t)s->n_heads * s->d_head, hkv = (int64_t)s->n_kv_heads * s->d_head;
    *q = (query){.t = t, .v = v, .i = i, .s = query_shape(s, i, &seq)};
    q->in = (inputs){.q = sample_row(x[ARRAY_Q], i, hq),
                     .k = sample_row(x[ARRAY_K], seq.kv0, hkv),
                     .v = sample_row(x[ARRAY_V], seq.kv0, hkv),
                     .qi = sample_row(x[ARRAY_QI], i, (int64_t)s->n_kv_heads * s->d_index),
                     .ki = sample_row(x[ARRAY_KI], seq.kv0, s->d_index),
                     .dout = sample_row(x[ARRAY_DOUT], i, hq),
                     .pattern = INPUTS_NORMAL};
    const size_t n = (size_t)largest_row(&q->s);
    q->work = malloc(msa_workspace(&msa_ref_ops, &q->s) + 1);
    q->ids = malloc((size_t)(s->n_kv_heads * s->topk) * sizeof *q->ids);
    q->expected = malloc(n * sizeof *q->expected);
    q->found = malloc(n * sizeof *q->found);
    q->wide = malloc(n * sizeof *q->wide);
    q->noise = malloc(n * sizeof *q->noise);
    return q->work && q->ids && q->expected && q->found && q->wide && q->noise;
}

static void close_query(query *q)
{
    free(q->work);
    free(q->ids);
    free(q->expected);
    free(q->found);
    free(q->wide);
    free(q->noise);
}

/* ---- Comparing ----------------------------------------------------------------------------------- */

void sample_compare(sample_verdict *v, const char *what, int64_t row, verdict_dims dims,
                    const double *expected, const float *found, verdict_budget budget)
{
    char name[64], text[VERDICT_TEXT];
    const verdict judged = verdict_compare(dims, expected, found, budget);
    snprintf(name, sizeof name, "%s of row %lld, ", what, (long long)row);
    verdict_text(name, &judged, text);
    if (!judged.pass)
        sample_fail(v, "%s", text);
#pragma omp critical(sample)
    v->used = fmax(v->used, judged.used);
}

void sample_compare_query(query *q, array_id which, verdict_budget budget)
{
    const verdict_dims dims = verdict_dims_of(&q->s, which);
    for (int64_t a = 0; a < dims.d0 * dims.d1 * dims.d2; a++)
        q->wide[a] = (double)q->expected[a];
    sample_compare(q->v, array_name(which), q->i, dims, q->wide, q->found, budget);
}

static verdict_budget budget_of(const query *q, array_id which)
{
    return verdict_float32(&q->s, &q->in, which, SUBJECT_KL_WEIGHT);
}

bool sample_fetch(const subject *t, sample_verdict *v, array_id a, int64_t first, int64_t n, void *to)
{
    const msa_status status = subject_fetch(t, a, first, n, to);
    if (table_no_memory(t->kernel, status))
        sample_no_memory(v);
    else if (status != MSA_OK)
        sample_fail(v, "%s: %s", array_name(a), table_trouble(t->kernel));
    return status == MSA_OK;
}

/* Row i of each group of a tensor [Hkv,T,width], of which the first n elements are wanted. */
static bool fetch_groups(query *q, array_id a, int64_t width, int64_t n, void *to)
{
    bool ok = true;
    for (int r = 0; r < q->s.n_kv_heads && ok; r++)
        ok = sample_fetch(q->t, q->v, a, (r * q->t->s->n_q + q->i) * width, n, (float *)to + r * n);
    return ok;
}

static void given_ids(query *q)
{
    const msa_shape *s = q->t->s;
    for (int r = 0; r < s->n_kv_heads; r++)
        memcpy(q->ids + r * s->topk, ids_row(s, q->t->given[ARRAY_IDS], r, q->i),
               (size_t)s->topk * sizeof *q->ids);
}

/* ---- What each stage wrote for a query ------------------------------------------------------------- */

static bool is_dense(msa_stage stage)
{
    return stage == MSA_STAGE_DENSE || stage == MSA_STAGE_DENSE_DECODE;
}

static void compare_main(query *q, const float *lse)
{
    const msa_shape *s = &q->s;
    const int64_t width = (int64_t)s->n_heads * s->d_head;
    verdict_budget budget = budget_of(q, ARRAY_O);
    if (q->t->device)
        budget.relative = BF16_FLOOR;
    if (q->t->kernel->precision >= MSA_BF16_WEIGHTS) {
        budget.noise = q->noise;
        if (!noise_of_rounding(s, q->in.q, q->in.k, q->in.v, is_dense(q->t->kernel->stage) ? NULL : q->ids,
                               q->t->kernel->precision >= MSA_BF16_PARTIALS, q->noise))
            sample_no_memory(q->v);
    }
    if (sample_fetch(q->t, q->v, ARRAY_O, q->i * width, width, q->found))
        sample_compare_query(q, ARRAY_O, budget);
    if (!HAS(q->t->out, ARRAY_LSE) ||
        !sample_fetch(q->t, q->v, ARRAY_LSE, q->i * s->n_heads, s->n_heads, q->found))
        return;
    memcpy(q->expected, lse, (size_t)s->n_heads * sizeof *lse);
    sample_compare_query(q, ARRAY_LSE, budget_of(q, ARRAY_LSE));
}

static void judge_dense(query *q, float *lse)
{
    msa_dense(&q->s, q->in.q, q->in.k, q->in.v, q->expected, lse, q->work);
    compare_main(q, lse);
}

static void judge_sparse(query *q, float *lse)
{
    msa_sparse(&q->s, q->in.q, q->in.k, q->in.v, q->ids, q->expected, lse, q->work);
    compare_main(q, lse);
}

static bool judge_ids(query *q)
{
    bool ok;
    if (!fetch_groups(q, ARRAY_IDS, q->s.topk, q->s.topk, q->ids))
        return false;
    const verdict_selection v = verdict_ids(&q->s, q->in.qi, q->in.ki, q->ids, 1, 1, &ok);
    if (!ok)
        sample_no_memory(q->v);
    else if (!v.pass)
        sample_fail(q->v, "ids of query %lld: %lld of %lld wrong, group %d", (long long)q->i,
                    (long long)v.n_wrong, (long long)v.n_ids, v.group);
#pragma omp critical(sample)
    {
        q->v->n_ids += v.n_ids;
        q->v->n_ties += v.n_ties;
    }
    return ok && v.pass;
}

static void judge_index(query *q)
{
    const msa_shape *s = &q->s;
    const int64_t n_blocks = msa_n_blocks(s);
    msa_index(s, q->in.qi, q->in.ki, q->expected, q->ids, NULL, q->work);
    if (HAS(q->t->out, ARRAY_SCORES) &&
        fetch_groups(q, ARRAY_SCORES, msa_n_blocks(q->t->s), n_blocks, q->found))
        sample_compare_query(q, ARRAY_SCORES, budget_of(q, ARRAY_SCORES));
    if (HAS(q->t->out, ARRAY_IDS) && !judge_ids(q))
        return;
    if (!HAS(q->t->out, ARRAY_INDEX_LSE) || !fetch_groups(q, ARRAY_INDEX_LSE, 1, 1, q->found))
        return;
    msa_index_lse(s, q->in.qi, q->in.ki, q->ids, q->expected);
    sample_compare_query(q, ARRAY_INDEX_LSE, budget_of(q, ARRAY_INDEX_LSE));
}

static void judge_topk(query *q)
{
    const msa_shape *s = &q->s;
    const int64_t n = msa_n_blocks(s), width = msa_n_blocks(q->t->s);
    int32_t *found = (int32_t *)q->found;
    for (int r = 0; r < s->n_kv_heads; r++)
        memcpy(q->expected + r * n, (float *)q->t->given[ARRAY_SCORES] + (r * q->t->s->n_q + q->i) * width,
               (size_t)n * sizeof *q->expected);
    msa_topk(s, q->expected, q->ids, q->work);
    if (!fetch_groups(q, ARRAY_IDS, s->topk, s->topk, found))
        return;
    for (int a = 0; a < s->n_kv_heads * s->topk; a++)
        if (found[a] != q->ids[a]) {
            sample_fail(q->v, "ids of query %lld, group %d: expected %d, found %d", (long long)q->i,
                        a / s->topk, q->ids[a], found[a]);
            return;
        }
}

static bool is_whole_layer(msa_stage stage)
{
    return stage == MSA_STAGE_PREFILL || stage == MSA_STAGE_DECODE;
}

static void judge_query(query *q)
{
    float *lse = malloc((size_t)q->s.n_heads * sizeof *lse);
    if (!lse)
        sample_no_memory(q->v);
    else if (is_dense(q->t->kernel->stage))
        judge_dense(q, lse);
    else if (q->t->kernel->own_rule)
        ; /* only itself knows what its ids should be; judge_whole() looks at their form */
    else if (q->t->kernel->stage == MSA_STAGE_INDEX)
        judge_index(q);
    else if (q->t->kernel->stage == MSA_STAGE_TOPK)
        judge_topk(q);
    else if (q->t->kernel->stage == MSA_STAGE_SPARSE)
        judge_sparse(q, lse);
    else if (is_whole_layer(q->t->kernel->stage) && judge_ids(q)) {
        if (q->t->given[ARRAY_IDS])
            given_ids(q);
        judge_sparse(q, lse);
    } else if (!HAS(q->t->out, ARRAY_DQ) && !HAS(q->t->out, ARRAY_DQI) && q->v->pass)
        sample_fail(q->v, "expected a stage whose samples are judged here");
    if (HAS(q->t->out, ARRAY_DQ))
        sample_backward(q);
    if (HAS(q->t->out, ARRAY_DQI))
        sample_kl(q);
    free(lse);
}

/* ---- Outputs as a whole ---------------------------------------------------------------------------- */

static void judge_words(subject *t, array_id a, const int32_t *expected, sample_verdict *v)
{
    const int64_t n = array_count(t->s, NULL, a);
    int32_t *found = malloc((size_t)n * sizeof *found + 1);
    if (!found)
        sample_no_memory(v);
    else
        sample_fetch(t, v, a, 0, n, found);
    for (int64_t i = 0; found && v->pass && i < n; i++)
        if (found[i] != expected[i])
            sample_fail(v, "%s[%lld]: expected %d, found %d", array_name(a), (long long)i, expected[i],
                        found[i]);
    free(found);
}

static void judge_reverse(subject *t, sample_verdict *v)
{
    int32_t *first = malloc((size_t)array_count(t->s, NULL, ARRAY_FIRST) * 4);
    uint32_t *entries = malloc((size_t)array_count(t->s, NULL, ARRAY_ENTRIES) * 4);
    msa_item *items = malloc((size_t)array_count(t->s, NULL, ARRAY_ITEMS) * 4);
    void *work = malloc(msa_workspace(&msa_ref_ops, t->s) + 1);
    if (first && entries && items && work) {
        msa_reverse(t->s, t->given[ARRAY_IDS], first, entries, items, work);
        judge_words(t, ARRAY_FIRST, first, v);
        judge_words(t, ARRAY_ENTRIES, (const int32_t *)entries, v);
        judge_words(t, ARRAY_ITEMS, (const int32_t *)items, v);
    } else
        sample_no_memory(v);
    free(first);
    free(entries);
    free(items);
    free(work);
}

#define CHUNK (INT64_C(1) << 22)

static void judge_written(subject *t, array_id a, sample_verdict *v)
{
    const int64_t n = array_count(t->s, NULL, a);
    float *x = malloc((size_t)min_i64(n, CHUNK) * sizeof *x + 1);
    if (!x)
        sample_no_memory(v);
    for (int64_t first = 0; x && v->pass && first < n; first += CHUNK) {
        const int64_t m = min_i64(CHUNK, n - first);
        sample_fetch(t, v, a, first, m, x);
        for (int64_t i = 0; v->pass && i < m; i++)
            if (isnan(x[i]))
                sample_fail(v, "%s[%lld]: not written, or no number", array_name(a), (long long)(first + i));
    }
    free(x);
}

static void judge_id_rows(subject *t, sample_verdict *v)
{
    const int64_t n = array_count(t->s, NULL, ARRAY_IDS);
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    if (!ids)
        sample_no_memory(v);
    else if (sample_fetch(t, v, ARRAY_IDS, 0, n, ids) && msa_check_ids(t->s, ids) != MSA_OK)
        sample_fail(v, "ids: %s", msa_strerror(msa_check_ids(t->s, ids)));
    free(ids);
}

static void judge_whole(subject *t, sample_verdict *v)
{
    for (int a = 0; a < ARRAY_N && v->pass; a++)
        if (HAS(t->out, a) && a == ARRAY_IDS)
            judge_id_rows(t, v);
        else if (HAS(t->out, a) && t->kernel->stage != MSA_STAGE_REVERSE)
            judge_written(t, (array_id)a, v);
    if (v->pass && t->kernel->stage == MSA_STAGE_REVERSE)
        judge_reverse(t, v);
}

/* ---- The sample ------------------------------------------------------------------------------------ */

/* Multiplications that one query costs the reference. */
static double cost_of_query(const subject *t)
{
    const msa_shape *s = t->s;
    const double keys = (double)s->n_kv, index = keys * s->n_kv_heads * s->d_index;
    const double kept = fmin(keys, (double)s->topk * s->block), wide = (double)s->n_heads * s->d_head;
    switch (t->kernel->stage) {
    case MSA_STAGE_DENSE:
    case MSA_STAGE_DENSE_DECODE:
    case MSA_STAGE_DENSE_BACKWARD:
        return 4 * keys * wide;
    case MSA_STAGE_INDEX:
        return 2 * index;
    case MSA_STAGE_TOPK:
        return (double)msa_n_blocks(s) * s->n_kv_heads * s->topk;
    case MSA_STAGE_PREFILL:
    case MSA_STAGE_DECODE:
        return index + 4 * kept * wide;
    default:
        return 4 * kept * wide;
    }
}

int64_t sample_pick(int64_t a, int64_t n, int64_t n_rows, uint64_t seed)
{
    inputs_rng rng = {seed + (uint64_t)a};
    const int64_t first = a * n_rows / n, next = (a + 1) * n_rows / n;
    return a == n - 1 ? n_rows - 1 : first + inputs_below(&rng, next - first);
}

static void judge_sample(subject *t, sample_verdict *v)
{
    const double affordable = fmax(LEAST, WORK / cost_of_query(t));
    const int64_t n = affordable < (double)t->s->n_q ? (int64_t)affordable : t->s->n_q;
    v->n_judged = n;
    double *loss = calloc((size_t)n, sizeof *loss);
    if (!loss)
        sample_no_memory(v);
#pragma omp parallel for schedule(dynamic)
    for (int64_t a = 0; a < n; a++) {
        query q;
        if (!v->pass)
            continue;
        if (open_query(&q, t, v, sample_pick(a, n, t->s->n_q, t->seed))) {
            if (HAS(t->in, ARRAY_IDS))
                given_ids(&q);
            judge_query(&q);
            loss[a] = q.loss;
        } else
            sample_no_memory(v);
        close_query(&q);
    }
    if (v->pass && HAS(t->out, ARRAY_DKI))
        sample_loss(t, v, loss, n);
    if (v->pass && (HAS(t->out, ARRAY_DK) || HAS(t->out, ARRAY_DKI)))
        sample_keys(t, v, n);
    free(loss);
    if ((double)v->n_ties > ceil(MAX_TIES * (double)v->n_ids))
        sample_fail(v, "ids: %lld of %lld swapped within rounding", (long long)v->n_ties,
                    (long long)v->n_ids);
}

sample_verdict sample_judge(subject *t)
{
    sample_verdict v = {.pass = true, .n_queries = t->s->n_q};
    subject_poison(t);
    msa_status status = subject_run(t, 0);
    if (status == MSA_OK)
        status = subject_fetch_loss(t);
    if (table_no_memory(t->kernel, status))
        sample_no_memory(&v);
    else if (status != MSA_OK)
        sample_fail(&v, "%s", status == MSA_ERR_DEVICE ? table_trouble(t->kernel) : msa_strerror(status));
    else
        judge_whole(t, &v);
    if (v.pass && t->kernel->stage == MSA_STAGE_REVERSE)
        v.n_judged = t->s->n_q;
    else if (v.pass)
        judge_sample(t, &v);
    return v;
}
