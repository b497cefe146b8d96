/**
 * @file twin.c
 * @brief The masked-dense formulation: see twin.h.
 */
#include "twin.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* ---- Where tokens are ---------------------------------------------------------------------------- */

/** Query i in the packed matrices: its sequence's first key, and its own key, both as rows of K. */
typedef struct place {
    int64_t first, self;
} place;

static place place_of(const msa_shape *s, int64_t i)
{
    if (s->n_seqs <= 1)
        return (place){0, s->n_kv - s->n_q + i};
    int r = 0;
    while (i >= s->cu_q[r + 1])
        r++;
    return (place){s->cu_kv[r], s->cu_kv[r + 1] - (s->cu_q[r + 1] - i)};
}

static bool is_visible(place p, int64_t j)
{
    return p.first <= j && j <= p.self;
}

static double dot(const double *a, const double *b, int d)
{
    double sum = 0;
    for (int c = 0; c < d; c++)
        sum += a[c] * b[c];
    return sum;
}

/* ---- Selection ----------------------------------------------------------------------------------- */

/** A block before the local one. */
typedef struct candidate {
    double score;
    int32_t id;
} candidate;

static int better_first(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

static void select_row(const msa_shape *s, candidate *past, int32_t local, int32_t *ids)
{
    qsort(past, (size_t)local, sizeof *past, better_first);
    int32_t n = 0;
    for (; n < local && n < s->topk - 1; n++)
        ids[n] = past[n].id;
    ids[n++] = local;
    qsort(ids, (size_t)n, sizeof *ids, ascending);
    while (n < s->topk)
        ids[n++] = -1;
}

void twin_select(const msa_shape *s, const double *qi, const double *ki, double *scores, int32_t *ids)
{
    int64_t n_blocks = msa_n_blocks(s);
    candidate *block = check_alloc(n_blocks, sizeof *block);
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t i = 0; i < s->n_q; i++) {
            place p = place_of(s, i);
            int64_t row = r * s->n_q + i;
            for (int32_t b = 0; b < n_blocks; b++)
                block[b] = (candidate){-HUGE_VAL, b};
            for (int64_t j = 0; j < s->n_kv; j++) {
                candidate *its = &block[is_visible(p, j) ? (j - p.first) / s->block : 0];
                double score =
                    dot(qi + (i * s->n_kv_heads + r) * s->d_index, ki + j * s->d_index, s->d_index);
                its->score = is_visible(p, j) && score > its->score ? score : its->score;
            }
            for (int64_t b = 0; b < n_blocks; b++)
                scores[row * n_blocks + b] = block[b].score / sqrt(s->d_index);
            select_row(s, block, (int32_t)((p.self - p.first) / s->block), ids + row * s->topk);
        }
}

void twin_mask(const msa_shape *s, const int32_t *ids, bool *mask)
{
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t i = 0; i < s->n_q; i++)
            for (int64_t j = 0; j < s->n_kv; j++) {
                place p = place_of(s, i);
                bool chosen = !ids;
                for (int slot = 0; ids && slot < s->topk; slot++)
                    chosen |= ids[(r * s->n_q + i) * s->topk + slot] == (j - p.first) / s->block;
                *mask++ = chosen && is_visible(p, j);
            }
}

/* ---- Softmax and its Jacobian -------------------------------------------------------------------- */

/** The sizes by which a branch finds its rows. */
typedef struct branch {
    int64_t n_kv;
    int heads_q, heads_k, d;
    const double *q, *k;
} branch;

static branch main_branch(const msa_shape *s, const double *q, const double *k)
{
    return (branch){s->n_kv, s->n_heads, s->n_kv_heads, s->d_head, q, k};
}

static branch index_branch(const msa_shape *s, const double *qi, const double *ki)
{
    return (branch){s->n_kv, s->n_kv_heads, 1, s->d_index, qi, ki};
}

static const double *query_row(const branch *b, int64_t i, int head)
{
    return b->q + (i * b->heads_q + head) * b->d;
}

static const double *key_row(const branch *b, int64_t j, int head)
{
    return b->k + (j * b->heads_k + head * b->heads_k / b->heads_q) * b->d;
}

// Log probabilities of query i and a head over the keys of the mask, -inf elsewhere. Returns the LSE.
static double log_softmax(const branch *b, int64_t i, int head, const bool *mask, double *log_p)
{
    double most = -HUGE_VAL, sum = 0;
    for (int64_t j = 0; j < b->n_kv; j++) {
        log_p[j] = mask[j] ? dot(query_row(b, i, head), key_row(b, j, head), b->d) / sqrt(b->d) : -HUGE_VAL;
        most = fmax(most, log_p[j]);
    }
    for (int64_t j = 0; j < b->n_kv; j++)
        sum += exp(log_p[j] - most);
    double lse = most + log(sum);
    for (int64_t j = 0; j < b->n_kv; j++)
        log_p[j] -= lse;
    return lse;
}

// Adds the gradient of a logit row to the rows of q and k that made it. The row sums to 0, so that keys may count
// from any of them: roundings of the row then leave nothing of what the keys have in common.
static void spread(const branch *b, int64_t i, int head, const double *dlogit, double *dq, double *dk)
{
    int64_t from = 0;
    while (from < b->n_kv && dlogit[from] == 0)
        from++;
    for (int64_t j = from; j < b->n_kv; j++) {
        double *dq_row = dq + (query_row(b, i, head) - b->q), *dk_row = dk + (key_row(b, j, head) - b->k);
        for (int c = 0; c < b->d; c++) {
            dq_row[c] += dlogit[j] * (key_row(b, j, head)[c] - key_row(b, from, head)[c]) / sqrt(b->d);
            dk_row[c] += dlogit[j] * query_row(b, i, head)[c] / sqrt(b->d);
        }
    }
}

static const bool *mask_row(const msa_shape *s, const bool *mask, int64_t i, int group)
{
    return mask + (group * s->n_q + i) * s->n_kv;
}

/* ---- Main Branch --------------------------------------------------------------------------------- */

void twin_attention(const msa_shape *s, const bool *mask, const double *q, const double *k, const double *v,
                    double *o, double *lse)
{
    branch b = main_branch(s, q, k);
    double *log_p = check_doubles(s->n_kv);
    for (int64_t i = 0; i < s->n_q; i++)
        for (int h = 0; h < s->n_heads; h++) {
            int r = h / (s->n_heads / s->n_kv_heads);
            double *o_row = o + (i * s->n_heads + h) * s->d_head;
            memset(o_row, 0, (size_t)s->d_head * sizeof *o_row);
            lse[i * s->n_heads + h] = log_softmax(&b, i, h, mask_row(s, mask, i, r), log_p);
            for (int64_t j = 0; j < s->n_kv; j++)
                for (int c = 0; c < s->d_head; c++)
                    o_row[c] += exp(log_p[j]) * v[(j * s->n_kv_heads + r) * s->d_head + c];
        }
}

// dlogit = J^T dp with the full Jacobian J[a][b] = p[a] (delta_ab - p[b]).
static void through_softmax(int64_t n, const double *p, const double *dp, double *dlogit)
{
    for (int64_t b = 0; b < n; b++) {
        dlogit[b] = 0;
        for (int64_t a = 0; a < n; a++)
            dlogit[b] += dp[a] * p[a] * ((a == b) - p[b]);
    }
}

void twin_backward(const msa_shape *s, const bool *mask, const double *q, const double *k, const double *v,
                   const double *dout, double *dq, double *dk, double *dv)
{
    branch b = main_branch(s, q, k);
    double *p = check_doubles(s->n_kv), *dp = check_doubles(s->n_kv), *dlogit = check_doubles(s->n_kv);
    memset(dq, 0, (size_t)(s->n_q * s->n_heads * s->d_head) * sizeof *dq);
    memset(dk, 0, (size_t)(s->n_kv * s->n_kv_heads * s->d_head) * sizeof *dk);
    memset(dv, 0, (size_t)(s->n_kv * s->n_kv_heads * s->d_head) * sizeof *dv);
    for (int64_t i = 0; i < s->n_q; i++)
        for (int h = 0; h < s->n_heads; h++) {
            int r = h / (s->n_heads / s->n_kv_heads);
            const double *do_row = dout + (i * s->n_heads + h) * s->d_head;
            log_softmax(&b, i, h, mask_row(s, mask, i, r), p);
            for (int64_t j = 0; j < s->n_kv; j++) {
                int64_t row = (j * s->n_kv_heads + r) * s->d_head;
                p[j] = exp(p[j]);
                dp[j] = dot(do_row, v + row, s->d_head);
                for (int c = 0; c < s->d_head; c++)
                    dv[row + c] += p[j] * do_row[c];
            }
            through_softmax(s->n_kv, p, dp, dlogit);
            spread(&b, i, h, dlogit, dq, dk);
        }
}

/* ---- Index Branch -------------------------------------------------------------------------------- */

void twin_index_lse(const msa_shape *s, const bool *mask, const double *qi, const double *ki,
                    double *index_lse)
{
    branch b = index_branch(s, qi, ki);
    double *log_u = check_doubles(s->n_kv);
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t i = 0; i < s->n_q; i++)
            *index_lse++ = log_softmax(&b, i, r, mask_row(s, mask, i, r), log_u);
}

static void mean_probability(const msa_shape *s, const branch *b, int64_t i, int r, const bool *mask,
                             double *log_p, double *mean)
{
    int group = s->n_heads / s->n_kv_heads;
    memset(mean, 0, (size_t)s->n_kv * sizeof *mean);
    for (int h = r * group; h < (r + 1) * group; h++) {
        log_softmax(b, i, h, mask, log_p);
        for (int64_t j = 0; j < s->n_kv; j++)
            mean[j] += exp(log_p[j]) / group;
    }
}

// The gradient of -sum t log u, by the Jacobian of log softmax: d log u[a] / d logit[b] = delta_ab - u[b].
static void through_log_softmax(int64_t n, const double *t, const double *log_u, double scale, double *dlogit)
{
    for (int64_t b = 0; b < n; b++) {
        dlogit[b] = 0;
        for (int64_t a = 0; a < n; a++)
            dlogit[b] -= scale * t[a] * ((a == b) - exp(log_u[b]));
    }
}

double twin_kl(const msa_shape *s, const bool *mask, const double *q, const double *k, const double *qi,
               const double *ki, double weight, double *dqi, double *dki)
{
    branch teacher = main_branch(s, q, k), student = index_branch(s, qi, ki);
    double *t = check_doubles(s->n_kv), *log_u = check_doubles(s->n_kv), *dlogit = check_doubles(s->n_kv);
    double loss = 0, rows = (double)s->n_q * s->n_kv_heads;
    if (dqi) {
        memset(dqi, 0, (size_t)(s->n_q * s->n_kv_heads * s->d_index) * sizeof *dqi);
        memset(dki, 0, (size_t)(s->n_kv * s->d_index) * sizeof *dki);
    }
    for (int64_t i = 0; i < s->n_q; i++)
        for (int r = 0; r < s->n_kv_heads; r++) {
            const bool *support = mask_row(s, mask, i, r);
            mean_probability(s, &teacher, i, r, support, log_u, t);
            log_softmax(&student, i, r, support, log_u);
            for (int64_t j = 0; j < s->n_kv; j++)
                loss += t[j] > 0 ? t[j] * (log(t[j]) - log_u[j]) / rows : 0;
            if (dqi) {
                through_log_softmax(s->n_kv, t, log_u, weight / rows, dlogit);
                spread(&student, i, r, dlogit, dqi, dki);
            }
        }
    return loss;
}

void twin_block_mass(const msa_shape *s, const double *q, const double *k, double *mass)
{
    branch b = main_branch(s, q, k);
    int64_t n_blocks = msa_n_blocks(s);
    bool *mask = check_alloc(s->n_kv_heads * s->n_q * s->n_kv, sizeof *mask);
    double *log_p = check_doubles(s->n_kv), *mean = check_doubles(s->n_kv);
    twin_mask(s, NULL, mask);
    memset(mass, 0, (size_t)(s->n_kv_heads * s->n_q * n_blocks) * sizeof *mass);
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t i = 0; i < s->n_q; i++) {
            place p = place_of(s, i);
            mean_probability(s, &b, i, r, mask_row(s, mask, i, r), log_p, mean);
            for (int64_t j = p.first; j <= p.self; j++)
                mass[(r * s->n_q + i) * n_blocks + (j - p.first) / s->block] += mean[j];
        }
}

/* ---- Norm, rotary, layer ------------------------------------------------------------------------- */

void twin_rmsnorm(int64_t rows, int d, double eps, const double *x, const double *w, double *y)
{
    for (int64_t i = 0; i < rows; i++, x += d, y += d) {
        double rms = sqrt(dot(x, x, d) / d + eps);
        for (int c = 0; c < d; c++)
            y[c] = x[c] / rms * (1 + w[c]);
    }
}

void twin_rope(int64_t n, int heads, int d, int rot, double theta, const int32_t *pos, double *x)
{
    for (int64_t i = 0; i < n; i++)
        for (int h = 0; h < heads; h++, x += d)
            for (int c = 0; c < rot / 2; c++) {
                double complex turn = cexp(I * (pos[i] * pow(theta, -2.0 * c / rot)));
                double complex z = (x[c] + I * x[c + rot / 2]) * turn;
                x[c] = creal(z);
                x[c + rot / 2] = cimag(z);
            }
}

static double *product(const double *a, const double *b, int64_t m, int n, int inner)
{
    double *c = check_doubles(m * n);
    for (int64_t i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            for (int l = 0; l < inner; l++)
                c[i * n + j] += a[i * inner + l] * b[l * n + j];
    return c;
}

// A projection, normalised and rotated head by head.
static double *head_rows(const msa_shape *s, const msa_layer_config *c, const double *x, const double *w,
                         const double *gain, int heads, int d, int rot)
{
    double *y = product(x, w, s->n_q, heads * d, c->d_model);
    int32_t *pos = check_ints(s->n_q);
    for (int64_t i = 0; i < s->n_q; i++)
        pos[i] = (int32_t)(place_of(s, i).self - place_of(s, i).first);
    twin_rmsnorm(s->n_q * heads, d, c->eps, y, gain, y);
    twin_rope(s->n_q, heads, d, rot, c->theta, pos, y);
    return y;
}

double twin_layer(const msa_shape *s, const msa_layer_config *c, msa_attention mode, const twin_weights *w,
                  const double *x, bool select, int32_t *ids, double *y)
{
    const int index_rot = c->index_rot ? c->index_rot : c->rot;
    double *q = head_rows(s, c, x, w->wq, w->gq, s->n_heads, s->d_head, c->rot);
    double *k = head_rows(s, c, x, w->wk, w->gk, s->n_kv_heads, s->d_head, c->rot);
    double *qi = head_rows(s, c, x, w->wiq, w->giq, s->n_kv_heads, s->d_index, index_rot);
    double *ki = head_rows(s, c, x, w->wik, w->gik, 1, s->d_index, index_rot);
    double *v = product(x, w->wv, s->n_q, s->n_kv_heads * s->d_head, c->d_model);
    double *o = check_doubles(s->n_q * s->n_heads * s->d_head), *lse = check_doubles(s->n_q * s->n_heads);
    bool *mask = check_alloc(s->n_kv_heads * s->n_q * s->n_kv, sizeof *mask);
    if (select)
        twin_select(s, qi, ki, check_doubles(s->n_kv_heads * s->n_q * msa_n_blocks(s)), ids);
    twin_mask(s, mode == MSA_ATTN_SPARSE ? ids : NULL, mask);
    twin_attention(s, mask, q, k, v, o, lse);
    memcpy(y, product(o, w->wo, s->n_q, c->d_model, s->n_heads * s->d_head),
           (size_t)(s->n_q * c->d_model) * sizeof *y);
    return mode == MSA_ATTN_DENSE ? 0 : twin_kl(s, mask, q, k, qi, ki, 0, NULL, NULL);
}
