/* Sampled verdicts. */
#include "sample.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "../judge/noise.h"
#include "sample_query.h"
#include "../table/table.h"

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

/* Elements of the largest array that is the query's own. */
static int64_t largest_row(const msa_shape *s)
{
    int64_t n = 1;
    for (array_id a = 0; a < ARRAY_N; a++)
        if (strchr(array_sizes(a), 'T'))
            n = max_i64(n, array_count(s, NULL, a));
    return n;
}

static bool open_query(query *q, const subject *t, sample_verdict *v, int64_t i)
{
    const msa_shape *s = t->s;
    msa_seq seq;
    void *const *x = t->given;
    const int64_t hq = (int64_t)s->n_heads * s->d_head, hkv = (int64_t)s->n_kv_heads * s->d_head;
    *q = (query){.t = t, .v = v, .i = i, .s = query_shape(s, i, &seq)};
    q->kv0 = seq.kv0;
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
    for (int64_t j = 0; j < dims.d0 * dims.d1 * dims.d2; j++)
        q->wide[j] = (double)q->expected[j];
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

bool sample_fetch_query(query *q, array_id a, void *to)
{
    const int64_t n = array_count(&q->s, NULL, a), width = array_count(q->t->s, NULL, a) / q->t->s->n_q;
    if (array_sizes(a)[0] == 'T')
        return sample_fetch(q->t, q->v, a, q->i * width, n, to);
    const int64_t groups = q->s.n_kv_heads, own = n / groups;
    bool ok = true;
    for (int64_t r = 0; r < groups && ok; r++)
        ok = sample_fetch(q->t, q->v, a, (r * q->t->s->n_q + q->i) * (width / groups), own,
                          (float *)to + r * own);
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

/* Of O, which leaves a device as bf16 and may be a sum of rounded weights. */
static verdict_budget budget_of_output(query *q, array_id a)
{
    verdict_budget budget = budget_of(q, a);
    if (a != ARRAY_O)
        return budget;
    if (q->t->device)
        budget.relative = BF16_FLOOR;
    if (q->t->kernel->precision >= MSA_BF16_WEIGHTS && q->in.q) {
        const stage_line of = arrays_of(q->t->kernel->stage);
        budget.noise = q->noise;
        if (!noise_of_rounding(&q->s, q->in.q, q->in.k, q->in.v,
                               HAS(of.in | of.out, ARRAY_IDS) ? q->ids : NULL,
                               q->t->kernel->precision >= MSA_BF16_PARTIALS, q->noise))
            sample_no_memory(q->v);
    }
    return budget;
}

/* Against q->expected. */
static void compare_output(query *q, array_id a)
{
    const int32_t *expected = (const int32_t *)q->expected, *found = (const int32_t *)q->found;
    if (!sample_fetch_query(q, a, q->found))
        return;
    if (array_element(a) != ELEMENT_INTEGER) {
        sample_compare_query(q, a, budget_of_output(q, a));
        return;
    }
    const int64_t n = array_count(&q->s, NULL, a);
    for (int64_t i = 0; i < n; i++)
        if (found[i] != expected[i]) {
            const int64_t group = i * q->s.n_kv_heads / n;
            sample_fail(q->v, "%s of query %lld, group %lld: expected %d, found %d", array_name(a),
                        (long long)q->i, (long long)group, expected[i], found[i]);
            return;
        }
}

/* The reference's stage on the query alone; of a whole layer the Main Branch, from the ids that have been judged. */
static void judge_by_reference(query *q, msa_stage stage)
{
    const stage_line of = arrays_of(stage);
    const unsigned out = q->t->out & of.out;
    float *expected[ARRAY_N] = {0}, *given[ARRAY_N] = {0};
    msa_arrays a = {0};
    bool ok = true;
    for (array_id i = 0; i < ARRAY_N; i++)
        if (HAS(out, i)) {
            expected[i] = malloc((size_t)array_count(&q->s, NULL, i) * sizeof **expected + 1);
            array_set(&a, i, expected[i]);
            ok = ok && expected[i];
        } else if (HAS(of.in, i) && (i == ARRAY_IDS || q->t->given[i])) {
            const void *at = i == ARRAY_IDS ? q->ids : sample_given(q, i, &given[i]);
            array_set(&a, i, at);
            ok = ok && at;
        }
    const msa_status status = ok ? msa_ref_ops.stage[stage]->run(&q->s, &a, q->work) : MSA_ERR_SIZE;
    if (!ok)
        sample_no_memory(q->v);
    else if (status != MSA_OK)
        sample_fail(q->v, "the reference on query %lld alone: %s", (long long)q->i, msa_strerror(status));
    for (array_id i = 0; i < ARRAY_N; i++) {
        if (status == MSA_OK && expected[i]) {
            memcpy(q->expected, expected[i], (size_t)array_count(&q->s, NULL, i) * sizeof **expected);
            compare_output(q, i);
        }
        free(expected[i]);
        free(given[i]);
    }
}

static bool judge_ids(query *q)
{
    bool ok;
    if (!sample_fetch_query(q, ARRAY_IDS, q->ids))
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
    msa_index(s, q->in.qi, q->in.ki, q->expected, q->ids, NULL, q->work);
    if (HAS(q->t->out, ARRAY_SCORES))
        compare_output(q, ARRAY_SCORES);
    if ((HAS(q->t->out, ARRAY_IDS) && !judge_ids(q)) || !HAS(q->t->out, ARRAY_INDEX_LSE))
        return;
    msa_index_lse(s, q->in.qi, q->in.ki, q->ids, q->expected);
    compare_output(q, ARRAY_INDEX_LSE);
}

/* Ids that are chosen here are judged as such, and what is computed from them given these. */
static void judge_query(query *q)
{
    const msa_stage stage = q->t->kernel->stage;
    if (q->t->kernel->own_rule)
        return; /* only itself knows what its ids should be; judge_whole() looks at their form */
    if (stage == MSA_STAGE_INDEX)
        judge_index(q);
    else if (stage == MSA_STAGE_PREFILL || stage == MSA_STAGE_DECODE) {
        if (!judge_ids(q))
            return;
        if (q->t->given[ARRAY_IDS])
            given_ids(q);
        judge_by_reference(q, MSA_STAGE_SPARSE);
    } else if (!HAS(q->t->out, ARRAY_DQ) && !HAS(q->t->out, ARRAY_DQI))
        judge_by_reference(q, stage);
    if (HAS(q->t->out, ARRAY_DQ))
        sample_backward(q);
    if (HAS(q->t->out, ARRAY_DQI))
        sample_kl(q);
}

/* ---- Outputs as a whole ---------------------------------------------------------------------------- */

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
    for (array_id a = 0; a < ARRAY_N && v->pass; a++)
        if (HAS(t->out, a) && a == ARRAY_IDS)
            judge_id_rows(t, v);
        else if (HAS(t->out, a) && array_element(a) != ELEMENT_INTEGER)
            judge_written(t, a, v);
    if (v->pass && sample_is_whole(t))
        sample_whole(t, v);
}

/* ---- The sample ------------------------------------------------------------------------------------ */

/* Multiplications that one query costs the reference, by the arrays that it reads. */
static double cost_of_query(const subject *t)
{
    const msa_shape *s = t->s;
    const stage_line of = arrays_of(t->kernel->stage);
    const double keys = (double)s->n_kv, index = keys * s->n_kv_heads * s->d_index;
    const double kept = fmin(keys, (double)s->topk * s->block), wide = (double)s->n_heads * s->d_head;
    double cost = 0;
    if (HAS(of.in, ARRAY_K) || HAS(of.in, ARRAY_V))
        cost += 4 * (HAS(of.in | of.out, ARRAY_IDS) ? kept : keys) * wide;
    if (HAS(of.out, ARRAY_IDS) &&
        HAS(of.in, ARRAY_QI)) /* once for their verdict, once for the other outputs */
        cost += HAS(of.out, ARRAY_SCORES) ? 2 * index : index;
    if (HAS(of.in, ARRAY_SCORES))
        cost += (double)msa_n_blocks(s) * s->n_kv_heads * s->topk;
    return fmax(1, cost);
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
    for (int64_t i = 0; i < n; i++) {
        query q;
        if (!v->pass)
            continue;
        if (open_query(&q, t, v, sample_pick(i, n, t->s->n_q, t->seed))) {
            if (HAS(t->in, ARRAY_IDS))
                given_ids(&q);
            judge_query(&q);
            loss[i] = q.loss;
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
    if (v.pass && sample_is_whole(t))
        v.n_judged = t->s->n_q;
    else if (v.pass)
        judge_sample(t, &v);
    return v;
}
