/* The random walk of bf16 roundings, row by row. */
#include "noise.h"

#include <stdlib.h>

#include "../internal.h"

typedef struct scratch {
    int64_t *tokens;
    double *s, *p, *o, *part; /* logits and weights of one row; its output, and that of one block */
} scratch;

/* Adds the squared noise of tokens of one block, whose weights p are normalised over the whole row. */
static void add_block(const msa_shape *s, const float *v, const int64_t *tokens, const double *p, int64_t n,
                      const scratch *b, noise_squares to)
{
    const int d = s->d_head;
    memset(b->part, 0, (size_t)d * sizeof *b->part);
    /* [noise] */
    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < d; c++) {
            const double term = p[i] * (double)v[tokens[i] * s->n_kv_heads * d + c];
            to.weights[c] += term * term;
            b->part[c] += term;
        }
    for (int c = 0; to.partials && c < d; c++)
        to.partials[c] += b->part[c] * b->part[c];
    /* [noise] */
    for (int c = 0; c < d; c++)
        b->o[c] += b->part[c];
}

static void noise_row(const msa_shape *s, const float *q, const float *k, const float *v, int64_t n,
                      const scratch *b, noise_squares to)
{
    const int d = s->d_head;
    double denom;
    for (int64_t i = 0; i < n; i++)
        b->p[i] = b->s[i] = dot(q, k + b->tokens[i] * s->n_kv_heads * d, d) / sqrt(d);
    softmax_row(b->p, n, false, &denom);
    for (int64_t i = 0; i < n; i++)
        b->p[i] /= denom;
    memset(b->o, 0, (size_t)d * sizeof *b->o);
    for (int64_t i = 0, next; i < n; i = next) {
        for (next = i + 1; next < n && b->tokens[next] / s->block == b->tokens[i] / s->block;)
            next++;
        add_block(s, v, b->tokens + i, b->p + i, next - i, b, to);
    }
    for (int64_t i = 0; to.logits && i < n; i++)
        for (int c = 0; c < d; c++) {
            const double value = (double)v[b->tokens[i] * s->n_kv_heads * d + c],
                         moved = b->p[i] * b->s[i] * (value - b->o[c]);
            to.logits[c] += moved * moved;
        }
}

static noise_squares row_of(noise_squares all, int64_t at)
{
    return (noise_squares){all.weights + at, all.partials ? all.partials + at : NULL,
                           all.logits ? all.logits + at : NULL};
}

static bool scratch_new(scratch *b, size_t n_tokens, size_t d)
{
    *b = (scratch){malloc(n_tokens * sizeof *b->tokens), malloc(n_tokens * sizeof *b->s),
                   malloc(n_tokens * sizeof *b->p), malloc(d * sizeof *b->o), malloc(d * sizeof *b->part)};
    return b->tokens && b->s && b->p && b->o && b->part;
}

static void scratch_free(scratch *b)
{
    free(b->tokens);
    free(b->s);
    free(b->p);
    free(b->o);
    free(b->part);
}

bool noise_by_cause(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                    noise_squares to)
{
    scratch b;
    const bool ok = scratch_new(&b, (size_t)max_support(s, !ids), (size_t)s->d_head);
    const int group = s->n_heads / s->n_kv_heads;
    double *const square[] = {to.weights, to.partials, to.logits};
    for (int i = 0; i < 3; i++)
        if (square[i])
            memset(square[i], 0, (size_t)(s->n_q * s->n_heads * s->d_head) * sizeof *square[i]);
    for (int j = 0; ok && j < msa_n_seqs(s); j++) {
        const msa_seq seq = msa_get_seq(s, j);
        for (int64_t i = 0; i < seq.n_q; i++)
            for (int h = 0; h < s->n_heads; h++) {
                const int r = h / group;
                const int64_t kv = (seq.kv0 * s->n_kv_heads + r) * s->d_head;
                const int64_t row = ((seq.q0 + i) * s->n_heads + h) * s->d_head;
                const int64_t n =
                    list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), b.tokens);
                noise_row(s, q + row, k + kv, v + kv, n, &b, row_of(to, row));
            }
    }
    scratch_free(&b);
    return ok;
}

bool noise_of_rounding(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                       bool partials, double *noise)
{
    const int64_t n = s->n_q * s->n_heads * s->d_head;
    /* Squares of one unit may gather in one place. */
    const bool ok = noise_by_cause(s, q, k, v, ids, (noise_squares){noise, partials ? noise : NULL, NULL});
    for (int64_t i = 0; ok && i < n; i++)
        noise[i] = NOISE_ROUNDING * sqrt(noise[i]);
    return ok;
}

/* ---- Gradients: squares first, then their roots -------------------------------------------------------- */

static void to_roots(double *square, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        square[i] = sqrt(square[i]);
}

/* Softmax over the listed rows of k, `stride` floats apart. */
static void weights_of(const float *q, const float *k, int64_t stride, const int64_t *tokens, int64_t n,
                       int d, double *p)
{
    double denom;
    for (int64_t i = 0; i < n; i++)
        p[i] = dot(q, k + tokens[i] * stride, d) / sqrt(d);
    softmax_row(p, n, false, &denom);
    for (int64_t i = 0; i < n; i++)
        p[i] /= denom;
}

/* What one query and head sees. Gradients of keys start at the group's first. */
typedef struct gradient_row {
    const float *q, *k, *v, *dout;
    const int64_t *tokens;
    int64_t n, stride;
    double *p, *ds, *sum, *mean;
    float *centre; /* what keys have in common, of which errors of dS leave nothing */
} gradient_row;

/* P, dS and, in sum[c], O. Returns e^2. */
static double score_gradients(const gradient_row *x, int d, bool rounded_o)
{
    double delta = 0, error2 = 0;
    weights_of(x->q, x->k, x->stride, x->tokens, x->n, d, x->p);
    memset(x->sum, 0, (size_t)d * sizeof *x->sum);
    for (int64_t i = 0; i < x->n; i++) {
        x->ds[i] = dot(x->dout, x->v + x->tokens[i] * x->stride, d);
        delta += x->p[i] * x->ds[i];
        axpy(x->p[i], x->v + x->tokens[i] * x->stride, d, x->sum);
    }
    for (int64_t i = 0; i < x->n; i++)
        x->ds[i] = x->p[i] * (x->ds[i] - delta);
    for (int c = 0; rounded_o && c < d; c++)
        error2 += pow(NOISE_ROUNDING * (double)x->dout[c] * x->sum[c], 2);
    return error2;
}

static void backward_row(const msa_shape *s, const gradient_row *x, msa_precision precision, bool rounded_o,
                         double *dq, double *dk, double *dv)
{
    const int d = s->d_head;
    const bool partials = precision >= MSA_BF16_PARTIALS;
    const double error2 = score_gradients(x, d, rounded_o),
                 unit2 = precision >= MSA_BF16_WEIGHTS ? NOISE_ROUNDING * NOISE_ROUNDING : 0;
    memset(x->mean, 0, (size_t)d * sizeof *x->mean);
    memset(x->sum, 0, (size_t)d * sizeof *x->sum); /* now a block's part of dq */
    for (int64_t i = 0; i < x->n; i++) {
        const int64_t at = x->tokens[i] * x->stride;
        const bool last = i + 1 == x->n || x->tokens[i + 1] / s->block != x->tokens[i] / s->block;
        const double p2 = x->p[i] * x->p[i], ds2 = x->ds[i] * x->ds[i];
        for (int c = 0; c < d; c++) {
            const double key = (double)x->k[at + c] - (double)x->centre[c], query = (double)x->q[c],
                         out = (double)x->dout[c];
            x->mean[c] += x->p[i] * key;
            x->sum[c] += x->ds[i] * key;
            dq[c] += unit2 * ds2 * key * key / d + (last && partials ? unit2 * x->sum[c] * x->sum[c] / d : 0);
            dk[at + c] += (unit2 * ds2 + error2 * p2) * query * query / d;
            dv[at + c] += unit2 * p2 * out * out;
            x->sum[c] = last ? 0 : x->sum[c];
        }
    }
    for (int c = 0; c < d; c++)
        dq[c] += error2 * x->mean[c] * x->mean[c] / d;
}

bool noise_of_backward(const msa_shape *s, const msa_arrays *in, msa_precision precision, bool rounded_o,
                       double *dq, double *dk, double *dv)
{
    const float *q = in->q, *k = in->k, *v = in->v, *dout = in->dout;
    const int32_t *ids = in->ids;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const size_t most = (size_t)max_support(s, true), width = (size_t)d;
    const int64_t nq = s->n_q * s->n_heads * d, nk = s->n_kv * s->n_kv_heads * d;
    int64_t *tokens = malloc(most * sizeof *tokens);
    double *buffer = malloc(2 * (most + width) * sizeof *buffer);
    float *centre = malloc(width * sizeof *centre);
    const bool ok = tokens && buffer && centre;
    memset(dq, 0, (size_t)nq * sizeof *dq);
    memset(dk, 0, (size_t)nk * sizeof *dk);
    memset(dv, 0, (size_t)nk * sizeof *dv);
    for (int b = 0; ok && b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int64_t i = 0; i < seq.n_q; i++)
            for (int h = 0; h < s->n_heads; h++) {
                const int r = h / group;
                const int64_t kv = (seq.kv0 * s->n_kv_heads + r) * d,
                              row = ((seq.q0 + i) * s->n_heads + h) * d;
                const gradient_row x = {
                    q + row,
                    k + kv,
                    v + kv,
                    dout + row,
                    tokens,
                    list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), tokens),
                    (int64_t)s->n_kv_heads * d,
                    buffer,
                    buffer + most,
                    buffer + 2 * most,
                    buffer + 2 * most + width,
                    centre};
                key_centre(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), x.k, x.stride, d, centre);
                backward_row(s, &x, precision, rounded_o, dq + row, dk + kv, dv + kv);
            }
    }
    to_roots(dq, nq);
    to_roots(dk, nk);
    to_roots(dv, nk);
    free(centre);
    free(tokens);
    free(buffer);
    return ok;
}

/* u - t of query row `row` (of the call) and group r, in g; p is scratch. */
static void index_gradients(const msa_shape *s, const float *q, const float *k, const float *qi,
                            const float *ki, int r, const int64_t *tokens, int64_t n, double *p, double *g)
{
    const int d = s->d_head, di = s->d_index, group = s->n_heads / s->n_kv_heads;
    weights_of(qi + r * di, ki, di, tokens, n, di, g);
    for (int h = r * group; h < (r + 1) * group; h++) {
        weights_of(q + h * d, k + (int64_t)r * d, (int64_t)s->n_kv_heads * d, tokens, n, d, p);
        for (int64_t i = 0; i < n; i++)
            g[i] -= p[i] / group;
    }
}

bool noise_of_kl(const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,
                 const int32_t *ids, double weight, double *dqi, double *dki)
{
    const int di = s->d_index;
    const size_t most = (size_t)max_support(s, true);
    const int64_t nq = s->n_q * s->n_kv_heads * di, nk = s->n_kv * di;
    const double f = NOISE_ROUNDING * weight / (sqrt(di) * kl_rows(s));
    int64_t *tokens = malloc(most * sizeof *tokens);
    double *buffer = malloc(2 * most * sizeof *buffer), *g = buffer + most;
    float *centre = malloc((size_t)di * sizeof *centre);
    const bool ok = tokens && buffer && centre;
    memset(dqi, 0, (size_t)nq * sizeof *dqi);
    memset(dki, 0, (size_t)nk * sizeof *dki);
    for (int b = 0; ok && b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const float *keys = k + seq.kv0 * s->n_kv_heads * s->d_head, *index_keys = ki + seq.kv0 * di;
        for (int64_t i = 0; i < seq.n_q; i++)
            for (int r = 0; r < s->n_kv_heads; r++) {
                const int64_t n = list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), tokens);
                const int64_t at = ((seq.q0 + i) * s->n_kv_heads + r) * di;
                key_centre(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), index_keys, di, di, centre);
                index_gradients(s, q + (seq.q0 + i) * s->n_heads * s->d_head, keys,
                                qi + (seq.q0 + i) * s->n_kv_heads * di, index_keys, r, tokens, n, buffer, g);
                for (int64_t j = 0; j < n; j++)
                    for (int c = 0; c < di; c++) {
                        const double key = (double)index_keys[tokens[j] * di + c] - (double)centre[c];
                        dqi[at + c] += pow(f * g[j] * key, 2);
                        dki[(seq.kv0 + tokens[j]) * di + c] += pow(f * g[j] * (double)qi[at + c], 2);
                    }
            }
    }
    to_roots(dqi, nq);
    to_roots(dki, nk);
    free(centre);
    free(tokens);
    free(buffer);
    return ok;
}

bool noise_of(const msa_shape *s, const inputs *in, const int32_t *ids, msa_precision precision,
              double kl_weight, double *const noise[ARRAY_N])
{
    bool ok = true;
    if (noise[ARRAY_O])
        ok = noise_of_rounding(s, in->q, in->k, in->v, ids, precision >= MSA_BF16_PARTIALS, noise[ARRAY_O]);
    if (noise[ARRAY_DQ])
        ok = noise_of_backward(
                 s, &(msa_arrays){.q = in->q, .k = in->k, .v = in->v, .ids = ids, .dout = in->dout},
                 precision, false, noise[ARRAY_DQ], noise[ARRAY_DK], noise[ARRAY_DV]) &&
             ok;
    if (noise[ARRAY_DQI])
        ok = noise_of_kl(s, in->q, in->k, in->qi, in->ki, ids, kl_weight, noise[ARRAY_DQI],
                         noise[ARRAY_DKI]) &&
             ok;
    return ok;
}
