/* Gradients in doubt, once more in double. Unlike the reference, which sums dK and dV over the whole cache,
 * this visits first the queries, whose gradients are their own, and keeps what their weights can be found by;
 * then the keys. So it needs little memory, and threads share it. */
#include "exact.h"

/* ---- Doubt --------------------------------------------------------------------------------------------- */

#define FAINT_PRODUCT 0x1p-90

static double most_between(cached x, int64_t first, int64_t n)
{
    return (double)(x.bf16 ? most_of_halves((const uint16_t *)x.data + first, n)
                           : most_of((const float *)x.data + first, n));
}

static double most_in_queries(const msa_shape *s, cached x, int64_t width)
{
    double most = 0;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        most = fmax(most, most_between(x, seq.q0 * width, seq.n_q * width));
    }
    return most;
}

static double most_in_keys(const msa_shape *s, cached x, int64_t width)
{
    double most = 0;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        most = fmax(most, most_between(x, seq.kv0 * width, seq.n_kv * width));
    }
    return most;
}

static bool faint(double x)
{
    return x > 0 && x < FAINT_PRODUCT;
}

bool backward_faint(const msa_shape *s, cached q, cached k, cached v, cached dout)
{
    const int64_t wide_q = (int64_t)s->n_heads * s->d_head, wide_kv = (int64_t)s->n_kv_heads * s->d_head;
    const double most_dout = most_in_queries(s, dout, wide_q), ds = most_dout * most_in_keys(s, v, wide_kv);
    return faint(most_dout) || faint(ds) || faint(ds * most_in_keys(s, k, wide_kv)) ||
           faint(ds * most_in_queries(s, q, wide_q));
}

bool kl_faint(const msa_shape *s, cached qi, cached ki, double weight)
{
    const double factor = fabs(weight) / kl_rows(s);
    return faint(factor) || faint(factor * most_in_keys(s, ki, s->d_index)) ||
           faint(factor * most_in_queries(s, qi, (int64_t)s->n_kv_heads * s->d_index));
}

bool backward_held(const msa_shape *s, const float *dq, const float *dk, const float *dv)
{
    const int64_t wide_q = (int64_t)s->n_heads * s->d_head, wide_kv = (int64_t)s->n_kv_heads * s->d_head;
    return most_in_queries(s, floats(dq), wide_q) < INFINITY &&
           most_in_keys(s, floats(dk), wide_kv) < INFINITY && most_in_keys(s, floats(dv), wide_kv) < INFINITY;
}

bool kl_held(const msa_shape *s, double loss, const float *dqi, const float *dki)
{
    return isfinite(loss) &&
           (!dqi || (most_in_queries(s, floats(dqi), (int64_t)s->n_kv_heads * s->d_index) < INFINITY &&
                     most_in_keys(s, floats(dki), s->d_index) < INFINITY));
}

/* ---- Shared -------------------------------------------------------------------------------------------- */

/* Whether query i attends to key j, of the same sequence. */
static bool attends(const msa_shape *s, const msa_seq *seq, int64_t i, int64_t j, const int32_t *id)
{
    if (j > position(seq, i) || !id)
        return j <= position(seq, i);
    int a = 0;
    while (a < s->topk && id[a] >= 0 && id[a] < j / s->block)
        a++;
    return a < s->topk && id[a] == j / s->block;
}

static void round_row(const double *acc, int d, float *x)
{
    for (int c = 0; c < d; c++)
        x[c] = (float)acc[c];
}

/* ---- Main Branch --------------------------------------------------------------------------------------- */

/* By which the weights and their gradients of a head's row can be found again. */
typedef struct row_sums {
    double lse, origin, delta; /* origin: taken from every dP, as in the reference */
} row_sums;

typedef struct scratch {
    int64_t *tokens;
    double *p, *dp, *acc, *more;         /* [tokens], [tokens], [d], [d] */
    float *query, *key, *value, *output; /* [d]: rows that do not lie as floats */
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t n = max_support(s, true), d = max_i64(s->d_head, s->d_index);
    arena a = arena_over(work);
    m->tokens = arena_take(&a, n, sizeof *m->tokens);
    m->p = arena_take(&a, n, sizeof *m->p);
    m->dp = arena_take(&a, n, sizeof *m->dp);
    m->acc = arena_take(&a, d, sizeof *m->acc);
    m->more = arena_take(&a, d, sizeof *m->more);
    m->query = arena_take(&a, d, sizeof *m->query);
    m->key = arena_take(&a, d, sizeof *m->key);
    m->value = arena_take(&a, d, sizeof *m->value);
    m->output = arena_take(&a, d, sizeof *m->output);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* Row `row` of x [.,d], in place or in `buffer`. */
static const float *row_of(cached x, int64_t row, int d, float *buffer)
{
    return rows_of(x, 1, 0, d, row, 1, buffer);
}

typedef struct tensors {
    const msa_shape *s;
    cached q, k, v, dout;
    const int32_t *ids;
    float *dq, *dk, *dv;
    row_sums *sums; /* [T,Hq] */
    void *own;      /* scratch of every thread */
} tensors;

static void backward_row(const tensors *x, const msa_seq *seq, int64_t i, int h, const scratch *m)
{
    const msa_shape *s = x->s;
    const int d = s->d_head, r = h / (s->n_heads / s->n_kv_heads);
    const int64_t row = (seq->q0 + i) * s->n_heads + h, kv = seq->kv0 * s->n_kv_heads + r;
    const int64_t n = list_support(s, ids_row(s, x->ids, r, seq->q0 + i), position(seq, i), m->tokens);
    const float *q = row_of(x->q, row, d, m->query), *dout = row_of(x->dout, row, d, m->output);
    const double scale = 1 / sqrt(d);
    int64_t peak = 0;
    double denom;
    for (int64_t j = 0; j < n; j++) {
        const int64_t at = kv + m->tokens[j] * s->n_kv_heads;
        m->p[j] = scale * dot(q, row_of(x->k, at, d, m->key), d);
        m->dp[j] = dot(dout, row_of(x->v, at, d, m->value), d);
        peak = m->p[j] > m->p[peak] ? j : peak;
    }
    row_sums sums = {softmax_row(m->p, n, false, &denom), m->dp[peak], 0};
    for (int64_t j = 0; j < n; j++)
        sums.delta += (m->dp[j] - sums.origin) * (m->p[j] / denom);
    memset(m->acc, 0, (size_t)d * sizeof *m->acc);
    for (int64_t j = 0; j < n; j++)
        axpy(scale * (m->p[j] / denom) * (m->dp[j] - sums.origin - sums.delta),
             row_of(x->k, kv + m->tokens[j] * s->n_kv_heads, d, m->key), d, m->acc);
    round_row(m->acc, d, x->dq + row * d);
    x->sums[row] = sums;
}

static void backward_key(const tensors *x, const msa_seq *seq, int64_t j, int r, const scratch *m)
{
    const msa_shape *s = x->s;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const int64_t at = (seq->kv0 + j) * s->n_kv_heads + r;
    const float *k = row_of(x->k, at, d, m->key), *v = row_of(x->v, at, d, m->value);
    const double scale = 1 / sqrt(d);
    memset(m->acc, 0, (size_t)d * sizeof *m->acc);
    memset(m->more, 0, (size_t)d * sizeof *m->more);
    for (int64_t i = max_i64(0, j - position(seq, 0)); i < seq->n_q; i++) {
        if (!attends(s, seq, i, j, ids_row(s, x->ids, r, seq->q0 + i)))
            continue;
        for (int h = r * group; h < (r + 1) * group; h++) {
            const int64_t row = (seq->q0 + i) * s->n_heads + h;
            const row_sums *sums = &x->sums[row];
            const float *q = row_of(x->q, row, d, m->query), *dout = row_of(x->dout, row, d, m->output);
            const double p = exp(scale * dot(q, k, d) - sums->lse), dp = dot(dout, v, d);
            axpy(scale * p * (dp - sums->origin - sums->delta), q, d, m->acc);
            axpy(p, dout, d, m->more);
        }
    }
    round_row(m->acc, d, x->dk + at * d);
    round_row(m->more, d, x->dv + at * d);
}

static size_t place_backward(tensors *x, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    x->sums = arena_take(&a, s->n_q * s->n_heads, sizeof *x->sums);
    x->own = arena_take(&a, fast_max_threads(), scratch_bytes(s));
    return arena_bytes(&a);
}

size_t backward_again_workspace(const msa_shape *s)
{
    tensors x;
    return place_backward(&x, s, NULL);
}

void backward_again(const msa_shape *s, cached q, cached k, cached v, const int32_t *ids, cached dout,
                    float *dq, float *dk, float *dv, void *work)
{
    tensors x = {.s = s, .q = q, .k = k, .v = v, .dout = dout, .ids = ids, .dq = dq, .dk = dk, .dv = dv};
    place_backward(&x, s, work);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
#pragma omp parallel num_threads(fast_threads())
        {
            scratch m;
            place(&m, s, own_part(x.own, scratch_bytes(s)));
#pragma omp for schedule(dynamic)
            for (int64_t row = 0; row < seq.n_q * s->n_heads; row++)
                backward_row(&x, &seq, row / s->n_heads, (int)(row % s->n_heads), &m);
#pragma omp for schedule(dynamic)
            for (int64_t row = 0; row < seq.n_kv * s->n_kv_heads; row++)
                backward_key(&x, &seq, row / s->n_kv_heads, (int)(row % s->n_kv_heads), &m);
        }
    }
}

/* ---- KL ------------------------------------------------------------------------------------------------ */

typedef struct kl_call {
    const msa_shape *s;
    cached q, k, qi, ki;
    const int32_t *ids;
    double share, weight;
    float *dqi, *dki;
    double *loss, *lse, *index_lse; /* [T,Hkv], [T,Hq], [T,Hkv] */
    void *own;                      /* scratch of every thread */
} kl_call;

/* Mean over the heads of the probability of the key in row `at` of K. */
static double teacher(const kl_call *x, int64_t query, int r, int64_t at, const scratch *m)
{
    const int d = x->s->d_head, group = x->s->n_heads / x->s->n_kv_heads;
    const float *key = row_of(x->k, at, d, m->value);
    double t = 0;
    for (int64_t row = query * x->s->n_heads + r * group, h = 0; h < group; h++)
        t += exp(dot(row_of(x->q, row + h, d, m->output), key, d) / sqrt(d) - x->lse[row + h]) / group;
    return t;
}

static void kl_row(const kl_call *x, const msa_seq *seq, int64_t i, int r, const scratch *m)
{
    const msa_shape *s = x->s;
    const int d = s->d_head, di = s->d_index, group = s->n_heads / s->n_kv_heads;
    const int64_t query = seq->q0 + i, row = query * s->n_kv_heads + r;
    const int64_t n = list_support(s, ids_row(s, x->ids, r, query), position(seq, i), m->tokens);
    const int64_t kv = seq->kv0 * s->n_kv_heads + r;
    double denom;
    for (int64_t h = query * s->n_heads + r * group, last = h + group; h < last; h++) {
        const float *q = row_of(x->q, h, d, m->query);
        for (int64_t j = 0; j < n; j++)
            m->p[j] = dot(q, row_of(x->k, kv + m->tokens[j] * s->n_kv_heads, d, m->key), d) / sqrt(d);
        x->lse[h] = softmax_row(m->p, n, false, &denom);
    }
    const float *qi = row_of(x->qi, row, di, m->query);
    for (int64_t j = 0; j < n; j++)
        m->p[j] = m->dp[j] = dot(qi, row_of(x->ki, seq->kv0 + m->tokens[j], di, m->key), di) / sqrt(di);
    x->index_lse[row] = softmax_row(m->p, n, false, &denom);
    x->loss[row] = 0;
    memset(m->acc, 0, (size_t)di * sizeof *m->acc);
    for (int64_t j = 0; j < n; j++) {
        const double t = teacher(x, query, r, kv + m->tokens[j] * s->n_kv_heads, m);
        if (t != 0) /* 0 log 0 = 0 */
            x->loss[row] += x->share * t * (log(t) - (m->dp[j] - x->index_lse[row]));
        axpy(x->weight * x->share / sqrt(di) * (m->p[j] / denom - t),
             row_of(x->ki, seq->kv0 + m->tokens[j], di, m->key), di, m->acc);
    }
    if (x->dqi)
        round_row(m->acc, di, x->dqi + row * di);
}

static void kl_key(const kl_call *x, const msa_seq *seq, int64_t j, const scratch *m)
{
    const msa_shape *s = x->s;
    const int di = s->d_index;
    const float *key = row_of(x->ki, seq->kv0 + j, di, m->key);
    memset(m->acc, 0, (size_t)di * sizeof *m->acc);
    for (int64_t i = max_i64(0, j - position(seq, 0)); i < seq->n_q; i++)
        for (int r = 0; r < s->n_kv_heads; r++) {
            const int64_t query = seq->q0 + i, row = query * s->n_kv_heads + r;
            if (!attends(s, seq, i, j, ids_row(s, x->ids, r, query)))
                continue;
            const float *qi = row_of(x->qi, row, di, m->query);
            const double u = exp(dot(qi, key, di) / sqrt(di) - x->index_lse[row]);
            const double t = teacher(x, query, r, (seq->kv0 + j) * s->n_kv_heads + r, m);
            axpy(x->weight * x->share / sqrt(di) * (u - t), qi, di, m->acc);
        }
    round_row(m->acc, di, x->dki + (seq->kv0 + j) * di);
}

static size_t place_kl(kl_call *x, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    x->loss = arena_take(&a, s->n_q * s->n_kv_heads, sizeof *x->loss);
    x->lse = arena_take(&a, s->n_q * s->n_heads, sizeof *x->lse);
    x->index_lse = arena_take(&a, s->n_q * s->n_kv_heads, sizeof *x->index_lse);
    x->own = arena_take(&a, fast_max_threads(), scratch_bytes(s));
    return arena_bytes(&a);
}

size_t kl_again_workspace(const msa_shape *s)
{
    kl_call x;
    return place_kl(&x, s, NULL);
}

void kl_again(const msa_shape *s, cached q, cached k, cached qi, cached ki, const int32_t *ids, double weight,
              double *loss, float *dqi, float *dki, void *work)
{
    const int groups = s->n_kv_heads;
    kl_call x = {.s = s, .q = q, .k = k, .qi = qi, .ki = ki, .ids = ids, .dqi = dqi, .dki = dki};
    x.share = 1 / kl_rows(s);
    x.weight = weight;
    place_kl(&x, s, work);
    *loss = 0;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
#pragma omp parallel num_threads(fast_threads())
        {
            scratch m;
            place(&m, s, own_part(x.own, scratch_bytes(s)));
#pragma omp for schedule(dynamic)
            for (int64_t row = 0; row < seq.n_q * groups; row++)
                kl_row(&x, &seq, row / groups, (int)(row % groups), &m);
#pragma omp for schedule(dynamic)
            for (int64_t j = 0; j < (dki ? seq.n_kv : 0); j++)
                kl_key(&x, &seq, j, &m);
        }
        for (int64_t row = seq.q0 * groups; row < (seq.q0 + seq.n_q) * groups; row++)
            *loss += x.loss[row];
    }
}
