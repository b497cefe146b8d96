/* Sampled verdicts on gradients. A query's are those of a call with this query alone. A key's are sums over
 * all queries that chose its block, written out here from the formulas of msa.h, with the log-sum-exps that
 * the kernel was given. */
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "noise.h"
#include "sample_query.h"

#define MOST_ERRORS 6 /* standard errors that the loss may be from a sample's mean */

/* ---- Queries ----------------------------------------------------------------------------------------- */

void sample_backward(query *q)
{
    const msa_shape *s = &q->s;
    const int64_t width = (int64_t)s->n_heads * s->d_head, keys = s->n_kv * s->n_kv_heads * s->d_head;
    const msa_precision precision = q->t->kernel->precision;
    float *dkv = malloc(2 * (size_t)keys * sizeof *dkv);
    double *noise = malloc((size_t)(width + 2 * keys) * sizeof *noise);
    verdict_budget budget = verdict_float32(s, &q->in, VERDICT_DQ, 0);
    budget.noise = noise;
    if (!dkv || !noise ||
        !noise_of_backward(s, q->in.q, q->in.k, q->in.v, q->ids, q->in.dout, precision, q->t->device != NULL, noise,
                           noise + width, noise + width + keys))
        sample_no_memory(q->v);
    else if (sample_fetch(q->t, q->v, ARRAY_DQ, q->i * width, width, q->found)) {
        msa_backward(s, q->in.q, q->in.k, q->in.v, q->ids, NULL, NULL, q->in.dout, q->expected, dkv,
                     dkv + keys, q->work);
        sample_compare_query(q, VERDICT_DQ, budget);
    }
    free(dkv);
    free(noise);
}

/* The loss is a mean over the queries, so that one of T has a T-th of the weight. */
void sample_kl(query *q)
{
    const msa_shape *s = &q->s;
    const int64_t width = (int64_t)s->n_kv_heads * s->d_index;
    const double weight = SUBJECT_KL_WEIGHT / (double)q->t->s->n_q;
    const int64_t keys = s->n_kv * s->d_index;
    float *dki = malloc((size_t)keys * sizeof *dki);
    double *noise = malloc((size_t)(width + keys) * sizeof *noise);
    verdict_budget budget = verdict_float32(s, &q->in, VERDICT_DQI, weight);
    if (q->t->kernel->precision >= MSA_BF16_WEIGHTS)
        budget.noise = noise;
    if (!dki || !noise ||
        (budget.noise && !noise_of_kl(s, q->in.q, q->in.k, q->in.qi, q->in.ki, q->ids, weight, noise, noise + width)))
        sample_no_memory(q->v);
    else if (sample_fetch(q->t, q->v, ARRAY_DQI, q->i * width, width, q->found)) {
        msa_kl(s, q->in.q, q->in.k, q->in.qi, q->in.ki, q->ids, NULL, NULL, weight, &q->loss, q->expected,
               dki, q->work);
        sample_compare_query(q, VERDICT_DQI, budget);
    }
    free(dki);
    free(noise);
}

static inputs whole_inputs(const subject *t)
{
    void *const *x = t->given;
    return (inputs){.q = x[ARRAY_Q],
                    .k = x[ARRAY_K],
                    .v = x[ARRAY_V],
                    .qi = x[ARRAY_QI],
                    .ki = x[ARRAY_KI],
                    .dout = x[ARRAY_DOUT],
                    .pattern = INPUTS_NORMAL};
}

void sample_loss(const subject *t, sample_verdict *v, const double *loss, int64_t n)
{
    const inputs in = whole_inputs(t);
    double mean = 0, square = 0;
    for (int64_t a = 0; a < n; a++)
        mean += loss[a] / (double)n;
    for (int64_t a = 0; a < n; a++)
        square += (loss[a] - mean) * (loss[a] - mean);
    double allowed = verdict_float32_kl(t->s, &in, mean).absolute;
    if (n < t->s->n_q)
        allowed += MOST_ERRORS * sqrt(square / ((double)n * (double)(n - 1)));
    if (!(fabs(t->loss - mean) <= allowed))
        sample_fail(v, "loss: expected %.9g, found %.9g, allowed %.2g", mean, t->loss, allowed);
}

/* ---- Keys -------------------------------------------------------------------------------------------- */

typedef struct key {
    const subject *t;
    sample_verdict *v;
    msa_seq seq;
    int64_t j;            /* among the keys of its sequence */
    double *first, *last; /* its gradients: dk and dv [Hkv,dh], or dki [di] */
    double *noise[2];     /* squared, of bf16 roundings in these: see noise.h */
    float *found;
} key;

static bool chose(const msa_shape *s, const int32_t *ids, int64_t block)
{
    for (int a = 0; a < s->topk; a++)
        if (ids[a] == block)
            return true;
    return false;
}

/* What query i (of the call), head h adds to dk and dv of group r. */
static void add_main(key *x, int64_t i, int h, int r)
{
    const subject *t = x->t;
    const msa_shape *s = t->s;
    const int d = s->d_head;
    const int64_t at = (x->seq.kv0 + x->j) * s->n_kv_heads + r, row = i * s->n_heads + h;
    const float *q = sample_row(t->given[ARRAY_Q], row, d), *dout = sample_row(t->given[ARRAY_DOUT], row, d);
    const double logit = dot(q, sample_row(t->given[ARRAY_K], at, d), d) / sqrt(d);
    const double p = exp(logit - (double)*sample_row(t->given[ARRAY_LSE], row, 1));
    const double dp = dot(dout, sample_row(t->given[ARRAY_V], at, d), d);
    const double delta = dot(dout, sample_row(t->given[ARRAY_O], row, d), d);
    axpy(p * (dp - delta) / sqrt(d), q, d, x->first + r * d);
    axpy(p, dout, d, x->last + r * d);
    double error2 = 0; /* of delta, squared */
    for (int c = 0; t->device && c < d; c++)
        error2 += pow(NOISE_ROUNDING * (double)dout[c] * (double)sample_row(t->given[ARRAY_O], row, d)[c], 2);
    const double rounding = t->kernel->precision >= MSA_BF16_WEIGHTS ? NOISE_ROUNDING : 0;
    const double ds2 = pow(rounding * p * (dp - delta), 2) + error2 * p * p;
    for (int c = 0; c < d; c++) {
        x->noise[0][r * d + c] += ds2 * pow((double)q[c], 2) / d;
        x->noise[1][r * d + c] += pow(rounding * p * (double)dout[c], 2);
    }
}

/* What query i adds to dki by its group r: (u - t) Qi. */
static void add_index(key *x, int64_t i, int r)
{
    const subject *t = x->t;
    const msa_shape *s = t->s;
    const int d = s->d_head, di = s->d_index, group = s->n_heads / s->n_kv_heads;
    const float *qi = sample_row(t->given[ARRAY_QI], i * s->n_kv_heads + r, di);
    const float *k = sample_row(t->given[ARRAY_K], (x->seq.kv0 + x->j) * s->n_kv_heads + r, d);
    const double logit = dot(qi, sample_row(t->given[ARRAY_KI], x->seq.kv0 + x->j, di), di) / sqrt(di);
    double u = exp(logit - (double)*sample_row(t->given[ARRAY_INDEX_LSE], r * s->n_q + i, 1));
    for (int h = r * group; h < (r + 1) * group; h++) {
        const int64_t row = i * s->n_heads + h;
        const double main_logit = dot(sample_row(t->given[ARRAY_Q], row, d), k, d) / sqrt(d);
        u -= exp(main_logit - (double)*sample_row(t->given[ARRAY_LSE], row, 1)) / group;
    }
    const double g = SUBJECT_KL_WEIGHT * u / (sqrt(di) * (double)(s->n_q * s->n_kv_heads));
    axpy(g, qi, di, x->first);
    for (int c = 0; t->kernel->precision >= MSA_BF16_WEIGHTS && c < di; c++)
        x->noise[0][c] += pow(NOISE_ROUNDING * g * (double)qi[c], 2);
}

static void walk_queries(key *x)
{
    const msa_shape *s = x->t->s;
    const int group = s->n_heads / s->n_kv_heads;
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t i = max_i64(0, x->j - (x->seq.n_kv - x->seq.n_q)); i < x->seq.n_q; i++) {
            const int64_t row = x->seq.q0 + i;
            if (!chose(s, ids_row(s, x->t->given[ARRAY_IDS], r, row), x->j / s->block))
                continue;
            if (x->t->kernel->stage == MSA_STAGE_KL)
                add_index(x, row, r);
            for (int h = r * group; x->t->kernel->stage == MSA_STAGE_BACKWARD && h < (r + 1) * group; h++)
                add_main(x, row, h, r);
        }
}

static void compare_key(key *x, subject_array a, verdict_dims dims, const double *expected, double *noise,
                        verdict_budget budget)
{
    const int64_t n = dims.d1 * dims.d2, row = x->seq.kv0 + x->j;
    for (int64_t i = 0; i < n; i++)
        noise[i] = sqrt(noise[i]);
    budget.noise = noise;
    if (sample_fetch(x->t, x->v, a, row * n, n, x->found))
        sample_compare(x->v, subject_array_name(a), row, dims, expected, x->found, budget);
}

static msa_seq seq_of_key(const msa_shape *s, int64_t j)
{
    int n = 0;
    while (n + 1 < msa_n_seqs(s) && msa_get_seq(s, n).kv0 + msa_get_seq(s, n).n_kv <= j)
        n++;
    return msa_get_seq(s, n);
}

static void judge_key(const subject *t, sample_verdict *v, int64_t j, const verdict_budget budget[2])
{
    const msa_shape *s = t->s;
    const size_t n = (size_t)s->n_kv_heads * (size_t)s->d_head + (size_t)s->d_index;
    key x = {.t = t, .v = v, .seq = seq_of_key(s, j)};
    x.j = j - x.seq.kv0;
    x.first = calloc(n, sizeof *x.first);
    x.last = calloc(n, sizeof *x.last);
    x.noise[0] = calloc(n, sizeof *x.noise[0]);
    x.noise[1] = calloc(n, sizeof *x.noise[1]);
    x.found = malloc(n * sizeof *x.found);
    if (!x.first || !x.last || !x.found || !x.noise[0] || !x.noise[1])
        sample_no_memory(v);
    else {
        walk_queries(&x);
        const verdict_dims main_row = {1, s->n_kv_heads, s->d_head}, index_row = {1, 1, s->d_index};
        if (t->kernel->stage == MSA_STAGE_KL)
            compare_key(&x, ARRAY_DKI, index_row, x.first, x.noise[0], budget[0]);
        else {
            compare_key(&x, ARRAY_DK, main_row, x.first, x.noise[0], budget[0]);
            compare_key(&x, ARRAY_DV, main_row, x.last, x.noise[1], budget[1]);
        }
    }
    free(x.first);
    free(x.last);
    free(x.noise[0]);
    free(x.noise[1]);
    free(x.found);
}

void sample_keys(const subject *t, sample_verdict *v, int64_t n)
{
    const inputs in = whole_inputs(t);
    const bool kl = t->kernel->stage == MSA_STAGE_KL;
    const verdict_budget budget[2] = {
        verdict_float32(t->s, &in, kl ? VERDICT_DKI : VERDICT_DK, SUBJECT_KL_WEIGHT),
        verdict_float32(t->s, &in, kl ? VERDICT_DKI : VERDICT_DV, SUBJECT_KL_WEIGHT)};
    n = n == t->s->n_q ? t->s->n_kv : min_i64(n, t->s->n_kv); /* all if all queries were judged */
#pragma omp parallel for schedule(dynamic)
    for (int64_t a = 0; a < n; a++)
        judge_key(t, v, sample_pick(a, n, t->s->n_kv, ~t->seed), budget);
}
