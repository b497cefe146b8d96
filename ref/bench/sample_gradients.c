/* Sampled verdicts on gradients. A query's are those of a call with this query alone. A key's are sums over
 * all queries that chose its block, written out here from the formulas of msa.h, with the log-sum-exps that
 * the kernel was given. */
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "../judge/noise.h"
#include "sample_query.h"

#define MOST_ERRORS 6 /* standard errors that the loss may be from a sample's mean */

/* ---- Queries ----------------------------------------------------------------------------------------- */

/* One group of a query over the keys that it sees, gathered, as a call of its own with full support. */
typedef struct own_call {
    msa_shape s;
    float *k, *v, *ki;               /* of the keys; NULL where the stage has none */
    const float *q, *dout, *qi;      /* of the group */
    float *dq, *dk, *dv, *dqi, *dki; /* expected; those of keys are only a part of theirs, and nobody asks */
    double *noise[3];
    void *work;
} own_call;

static float *gathered(const float *x, int64_t stride, const int64_t *tokens, int64_t n, int width)
{
    float *y = x ? malloc((size_t)(n * width) * sizeof *y) : NULL;
    for (int64_t i = 0; y && i < n; i++)
        memcpy(y + i * width, x + tokens[i] * stride, (size_t)width * sizeof *y);
    return y;
}

static void close_own(own_call *c)
{
    void *const all[] = {c->k,   c->v,   c->ki,       c->dq,       c->dk,       c->dv,
                         c->dqi, c->dki, c->noise[0], c->noise[1], c->noise[2], c->work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static bool open_own(own_call *c, const query *q, int r)
{
    const msa_shape *s = &q->s;
    const int group = s->n_heads / s->n_kv_heads, d = s->d_head, di = s->d_index;
    const int32_t *ids = HAS(q->t->in, ARRAY_IDS) ? q->ids + r * s->topk : NULL;
    int64_t *tokens = malloc((size_t)max_support(s, !ids) * sizeof *tokens);
    *c = (own_call){.s = *s};
    if (!tokens)
        return false;
    const int64_t n = list_support(s, ids, s->n_kv - 1, tokens), stride = (int64_t)s->n_kv_heads * d;
    c->s.n_kv = n;
    c->s.n_heads = group;
    c->s.n_kv_heads = 1;
    c->k = gathered(q->in.k + r * d, stride, tokens, n, d);
    c->v = q->in.v ? gathered(q->in.v + r * d, stride, tokens, n, d) : NULL;
    c->ki = gathered(q->in.ki, di, tokens, n, di);
    free(tokens);
    c->q = q->in.q + (int64_t)r * group * d;
    c->dout = q->in.dout ? q->in.dout + (int64_t)r * group * d : NULL;
    c->qi = q->in.qi ? q->in.qi + (int64_t)r * di : NULL;
    const size_t own = (size_t)(group * d + di), keys = (size_t)(n * (d > di ? d : di));
    float **const result[] = {&c->dq, &c->dqi, &c->dk, &c->dv, &c->dki};
    bool ok = c->k != NULL;
    for (int i = 0; i < 5; i++) {
        *result[i] = malloc((i < 2 ? own : keys) * sizeof(float));
        ok = ok && *result[i];
    }
    for (int i = 0; i < 3; i++) {
        c->noise[i] = malloc((i < 1 ? own : keys) * sizeof(double));
        ok = ok && c->noise[i];
    }
    c->work = malloc(msa_workspace(&msa_ref_ops, &c->s));
    return ok && c->work && (c->v || !q->in.v) && (c->ki || !q->in.ki);
}

void sample_backward(query *q)
{
    const msa_shape *s = &q->s;
    const int64_t width = (int64_t)s->n_heads * s->d_head, part = width / s->n_kv_heads;
    verdict_budget budget = verdict_float32(s, &q->in, ARRAY_DQ, 0);
    budget.noise = q->noise;
    for (int r = 0; r < s->n_kv_heads; r++) {
        own_call c;
        if (open_own(&c, q, r) &&
            noise_of_backward(&c.s, &(msa_arrays){.q = c.q, .k = c.k, .v = c.v, .dout = c.dout},
                              q->t->kernel->precision, q->t->device != NULL, c.noise[0], c.noise[1],
                              c.noise[2])) {
            msa_backward(&c.s, c.q, c.k, c.v, NULL, NULL, NULL, c.dout, c.dq, c.dk, c.dv, c.work);
            memcpy(q->expected + r * part, c.dq, (size_t)part * sizeof *c.dq);
            memcpy(q->noise + r * part, c.noise[0], (size_t)part * sizeof *c.noise[0]);
        } else
            sample_no_memory(q->v);
        close_own(&c);
    }
    if (sample_fetch(q->t, q->v, ARRAY_DQ, q->i * width, width, q->found))
        sample_compare_query(q, ARRAY_DQ, budget);
}

/* The loss is a mean over queries and groups, so that one of each has so small a share of the weight. */
void sample_kl(query *q)
{
    const msa_shape *s = &q->s;
    const int64_t width = (int64_t)s->n_kv_heads * s->d_index;
    const double weight = SUBJECT_KL_WEIGHT / (double)q->t->s->n_q;
    verdict_budget budget = verdict_float32(s, &q->in, ARRAY_DQI, weight);
    if (q->t->kernel->precision >= MSA_BF16_WEIGHTS)
        budget.noise = q->noise;
    for (int r = 0; r < s->n_kv_heads; r++) {
        own_call c;
        double loss;
        if (open_own(&c, q, r) &&
            noise_of_kl(&c.s, c.q, c.k, c.qi, c.ki, NULL, weight / s->n_kv_heads, c.noise[0], c.noise[1])) {
            msa_kl(&c.s, c.q, c.k, c.qi, c.ki, NULL, NULL, NULL, weight / s->n_kv_heads, &loss, c.dqi, c.dki,
                   c.work);
            q->loss += loss / s->n_kv_heads;
            memcpy(q->expected + r * s->d_index, c.dqi, (size_t)s->d_index * sizeof *c.dqi);
            memcpy(q->noise + r * s->d_index, c.noise[0], (size_t)s->d_index * sizeof *c.noise[0]);
        } else
            sample_no_memory(q->v);
        close_own(&c);
    }
    if (sample_fetch(q->t, q->v, ARRAY_DQI, q->i * width, width, q->found))
        sample_compare_query(q, ARRAY_DQI, budget);
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
    for (int64_t i = 0; i < n; i++)
        mean += loss[i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        square += (loss[i] - mean) * (loss[i] - mean);
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
    int64_t j;        /* among the keys of its sequence */
    double *sum[3];   /* its gradients: dk and dv [Hkv,dh], dki [di] */
    double *noise[3]; /* squared, of bf16 roundings in these: see noise.h */
    float *found;
} key;

static bool chose(const msa_shape *s, const int32_t *ids, int64_t block)
{
    for (int entry = 0; entry < s->topk; entry++)
        if (ids[entry] == block)
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
    axpy(p * (dp - delta) / sqrt(d), q, d, x->sum[0] + r * d);
    axpy(p, dout, d, x->sum[1] + r * d);
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
    axpy(g, qi, di, x->sum[2]);
    for (int c = 0; t->kernel->precision >= MSA_BF16_WEIGHTS && c < di; c++)
        x->noise[2][c] += pow(NOISE_ROUNDING * g * (double)qi[c], 2);
}

static void walk_queries(key *x)
{
    const msa_shape *s = x->t->s;
    const int group = s->n_heads / s->n_kv_heads;
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t i = max_i64(0, x->j - (x->seq.n_kv - x->seq.n_q)); i < x->seq.n_q; i++) {
            const int64_t row = x->seq.q0 + i;
            const int32_t *ids = ids_row(s, x->t->given[ARRAY_IDS], r, row);
            if (ids && !chose(s, ids, x->j / s->block))
                continue;
            if (HAS(x->t->out, ARRAY_DKI))
                add_index(x, row, r);
            for (int h = r * group; HAS(x->t->out, ARRAY_DK) && h < (r + 1) * group; h++)
                add_main(x, row, h, r);
        }
}

static void compare_key(key *x, array_id a, verdict_dims dims, const double *expected, double *noise,
                        verdict_budget budget)
{
    const int64_t n = dims.d1 * dims.d2, row = x->seq.kv0 + x->j;
    for (int64_t i = 0; i < n; i++)
        noise[i] = sqrt(noise[i]);
    budget.noise = noise;
    if (sample_fetch(x->t, x->v, a, row * n, n, x->found))
        sample_compare(x->v, array_name(a), row, dims, expected, x->found, budget);
}

static msa_seq seq_of_key(const msa_shape *s, int64_t j)
{
    int n = 0;
    while (n + 1 < msa_n_seqs(s) && msa_get_seq(s, n).kv0 + msa_get_seq(s, n).n_kv <= j)
        n++;
    return msa_get_seq(s, n);
}

static const struct {
    array_id array;
    array_id tensor;
} of_keys[3] = {{ARRAY_DK, ARRAY_DK}, {ARRAY_DV, ARRAY_DV}, {ARRAY_DKI, ARRAY_DKI}};

static void judge_key(const subject *t, sample_verdict *v, int64_t j, const verdict_budget budget[3])
{
    const msa_shape *s = t->s;
    const verdict_dims main_row = {1, s->n_kv_heads, s->d_head}, index_row = {1, 1, s->d_index};
    const size_t n = (size_t)s->n_kv_heads * (size_t)s->d_head + (size_t)s->d_index;
    key x = {.t = t, .v = v, .seq = seq_of_key(s, j)};
    x.j = j - x.seq.kv0;
    double *sums = calloc(6 * n, sizeof *sums);
    x.found = malloc(n * sizeof *x.found);
    for (int i = 0; sums && i < 3; i++) {
        x.sum[i] = sums + (size_t)i * n;
        x.noise[i] = sums + (size_t)(3 + i) * n;
    }
    if (sums && x.found)
        walk_queries(&x);
    else
        sample_no_memory(v);
    for (int i = 0; sums && x.found && i < 3; i++)
        if (HAS(t->out, of_keys[i].array))
            compare_key(&x, of_keys[i].array, i < 2 ? main_row : index_row, x.sum[i], x.noise[i], budget[i]);
    free(sums);
    free(x.found);
}

void sample_keys(const subject *t, sample_verdict *v, int64_t n)
{
    const inputs in = whole_inputs(t);
    verdict_budget budget[3] = {{0}};
    for (int i = 0; i < 3; i++)
        if (HAS(t->out, of_keys[i].array))
            budget[i] = verdict_float32(t->s, &in, of_keys[i].tensor, SUBJECT_KL_WEIGHT);
    n = n == t->s->n_q ? t->s->n_kv : min_i64(n, t->s->n_kv); /* all if all queries were judged */
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++)
        judge_key(t, v, sample_pick(i, n, t->s->n_kv, ~t->seed), budget);
}
