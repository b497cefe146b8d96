/* Rows in doubt, once more in double. */
#include "exact.h"
#include "streams.h"

#include <float.h>

/* ---- Magnitudes: floats, of 32 bits or 16, without their signs rank as integers do, NaN last --------------------- */

#define MAGNITUDE 0x7fffffff
#define INFINITE 0x7f800000

float most_of(const float *x, int64_t n)
{
    int32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        const int32_t bits = to_bits(x[i]) & MAGNITUDE;
        most = bits > most ? bits : most;
    }
    return from_bits(most < INFINITE ? most : INFINITE);
}

float most_of_halves(const uint16_t *x, int64_t n)
{
    uint16_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) {
        const uint16_t bits = (uint16_t)(x[i] & MAGNITUDE >> 16);
        most = bits > most ? bits : most;
    }
    return from_bits(most < INFINITE >> 16 ? most << 16 : INFINITE);
}

/* 0 less 1 is the largest of all as an unsigned number. */
float least_of(const float *x, int64_t n)
{
    uint32_t least = (uint32_t)INFINITE - 1;
#pragma omp simd reduction(min : least)
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)(to_bits(x[i]) & MAGNITUDE) - 1;
        least = bits < least ? bits : least;
    }
    return from_bits((int32_t)(least + 1));
}

/* ---- Attention ----------------------------------------------------------------------------------------- */

typedef struct scratch {
    double *acc;                /* [d] */
    float *query, *key, *value; /* [d] */
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->acc = arena_take(&a, s->d_head, sizeof *m->acc);
    m->query = arena_take(&a, s->d_head, sizeof *m->query);
    m->key = arena_take(&a, s->d_head, sizeof *m->key);
    m->value = arena_take(&a, s->d_head, sizeof *m->value);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* A head's query and the keys first .. last of group r: online softmax in double. A key of weight 0 has
 * its value added too, as in the reference. */
static void attend_to(const cache *x, int r, int64_t first, int64_t last, const float *q, const scratch *m,
                      double *max, double *sum)
{
    const int d = x->s->d_head, groups = x->s->n_kv_heads;
    const double scale = 1 / sqrt(d);
    for (int64_t j = first; j <= last; j++) {
        const int64_t row = key_row(&x->at, j);
        const double logit = scale * dot(q, rows_of(x->k, groups, r, d, row, 1, m->key), d);
        if (logit > *max) {
            const double shrink = exp(*max - logit);
            *sum *= shrink;
            for (int c = 0; c < d; c++)
                m->acc[c] *= shrink;
            *max = logit;
        }
        const double p = logit > -INFINITY || isnan(logit) ? exp(logit - *max) : 0;
        *sum += p;
        axpy(p, rows_of(x->v, groups, r, d, row, 1, m->value), d, m->acc);
    }
}

static void head_again(const cache *x, int64_t i, int h, cached q, const int32_t *ids, float *o, float *lse,
                       const scratch *m)
{
    const msa_shape *s = x->s;
    const int d = s->d_head, r = h / (s->n_heads / s->n_kv_heads), spans = ids ? s->topk : 1;
    const int64_t at = position(&x->at.seq, i), row = (x->at.seq.q0 + i) * s->n_heads + h;
    const int32_t *id = ids_row(s, ids, r, x->at.seq.q0 + i);
    const float *query = rows_of(q, 1, 0, d, row, 1, m->query);
    double max = -INFINITY, sum = 0;
    memset(m->acc, 0, (size_t)d * sizeof *m->acc);
    for (int j = 0; j < spans && (!id || id[j] >= 0); j++) {
        const int64_t first = id ? (int64_t)id[j] * s->block : 0;
        const int64_t last = id ? min_i64(first + s->block - 1, at) : at;
        attend_to(x, r, first, last, query, m, &max, &sum);
    }
    for (int c = 0; c < d; c++)
        o[row * d + c] = (float)(m->acc[c] / sum);
    if (lse)
        lse[row] = (float)(sum == 0 ? NAN : max + log(sum)); /* as O, which is acc / sum */
}

/* Found at once where there is one near the beginning. */
static bool any_value(const cache *x, const scratch *m)
{
    const int d = x->s->d_head, groups = x->s->n_kv_heads;
    bool any = false;
    for (int64_t j = 0; j < x->at.seq.n_kv && !any; j++)
        for (int r = 0; r < groups && !any; r++)
            any = most_of(rows_of(x->v, groups, r, d, key_row(&x->at, j), 1, m->value), d) > 0;
    return any;
}

/* Nothing finite comes of a query that is not finite itself. */
static bool in_doubt(cached q, int64_t row, const float *o, int d, bool values, const scratch *m)
{
    const float most = most_of(o + row * d, d);
    return most < INFINITY ? values && most < FAINT
                           : most_of(rows_of(q, 1, 0, d, row, 1, m->query), d) < INFINITY;
}

size_t attend_again_workspace(const msa_shape *s)
{
    return (size_t)fast_max_threads() * scratch_bytes(s);
}

void attend_again(const msa_shape *s, const msa_pages *p, cached q, cached k, cached v, const int32_t *ids,
                  float *o, float *lse, void *work)
{
    const int d = s->d_head;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const cache x = {s, get_request(s, p, b), k, v};
#pragma omp parallel num_threads(fast_threads())
        {
            scratch m;
            place(&m, s, own_part(work, scratch_bytes(s)));
            const bool values = any_value(&x, &m);
#pragma omp for schedule(dynamic, 16)
            for (int64_t i = 0; i < x.at.seq.n_q; i++)
                for (int h = 0; h < s->n_heads; h++) {
                    const int64_t row = (x.at.seq.q0 + i) * s->n_heads + h;
                    if (in_doubt(q, row, o, d, values, &m))
                        head_again(&x, i, h, q, ids, o, lse, &m);
                }
        }
    }
}

/* ---- Index --------------------------------------------------------------------------------------------- */

/* d products of the largest query element, below 2^e, with the largest float stay below 2^127. */
static int fitting_exponent(int d)
{
    int log2_d;
    frexp((double)d, &log2_d);
    return -1 - log2_d;
}

fitted fit_query(const float *q, int d, float *rows)
{
    float most = 0;
    int exponent;
    for (int c = 0; c < d; c++)
        most = fabsf(q[c]) > most && fabsf(q[c]) < INFINITY ? fabsf(q[c]) : most;
    frexpf(most, &exponent);
    const double factor = ldexp(1, fitting_exponent(d) - exponent);
    for (int c = 0; c < d; c++)
        rows[c] = (float)((double)q[c] * factor);
    return (fitted){.unit = 1 / factor, .least = (float)fmin(FLT_MAX, (double)least_of(q, d) * factor)};
}

void fit_count(fitted *f, float score)
{
    f->faint += fabsf(score) < 16 * FLT_MIN;
}

static float least_key(const met_keys *k, int d, float *rows)
{
    float least = INFINITY;
    int64_t keys = 0;
    for (int64_t j = 0; j < k->n; j += keys) {
        keys = min_i64(HEADS_KEYS, keys_together(k->at, j, k->n));
        least = fminf(least, least_of(rows_of(k->ki, 1, 0, d, key_row(k->at, j), keys, rows), keys * d));
    }
    return least;
}

bool fit_doubtful(const fitted *f, int64_t most, met_keys *k, int d, float *rows)
{
    if (f->least < FLT_MIN) /* the query has lost bits */
        return true;
    if (f->faint <= most)
        return false;
    if (k->least == 0)
        k->least = least_key(k, d, rows);
    return f->least * k->least < FLT_MIN;
}

chooser chooser_take(const msa_shape *s, arena *a)
{
    const int64_t blocks = msa_n_blocks(s);
    chooser c;
    c.m = arena_take(a, blocks, sizeof *c.m);
    c.best = arena_take(a, min_i64(s->topk, blocks), sizeof *c.best);
    c.room = arena_take(a, HEADS_KEYS * (int64_t)s->d_index, sizeof *c.room);
    return c;
}

void choose_again(const msa_shape *s, const request *where, int64_t at, const float *qi, cached ki, chooser c,
                  float *scores, int32_t *ids)
{
    const int d = s->d_index;
    const int64_t local = at / s->block;
    const double scale = 1 / sqrt(d);
    for (int64_t b = 0; b <= local; b++) {
        c.m[b] = -INFINITY;
        for (int64_t j = b * s->block; j <= min_i64((b + 1) * s->block - 1, at); j++) {
            const double x = dot(qi, rows_of(ki, 1, 0, d, key_row(where, j), 1, c.room), d);
            c.m[b] = x > c.m[b] ? x : c.m[b];
        }
        if (scores)
            scores[b] = (float)(c.m[b] * scale);
    }
    if (ids)
        topk_row(c.m, local, s->topk, c.best, ids);
}
