/* Exact selection from 8-bit index keys: rule blocks out by a bound, settle the rest.
 *
 * Rotated: x' = 2^-h H x, H the Hadamard matrix of d = 2^l channels and h = ceil(l/2), for queries and keys. H is
 * sqrt(d) times a rotation, so that q'.k' = 2^(l-2h) q.k: products keep their order, and a channel that stands out in
 * every key is spread over all. Where d is no power of two, x' = x.
 *
 * Rounded: key j of block b to s c_j, one scale s a block, the query to t a; c and a are integers. With
 * k' = s c + e and q' = t a + f
 *
 *     q'.k'_j - t s (a.c_j) = f.(s c_j) + q'.e_j      at most  |f| N + |q'| E =: eps   (Cauchy-Schwarz)
 *
 * N the largest |s c_j| of the block, E the largest |e_j|. So the block's score max_j q'.k'_j is within eps of
 * t s X, X = max_j a.c_j, a maximum of integers.
 *
 * Nothing of this asks a to have 8 bits. Where products cost little, a = 128 a1 + a2 in two codes, a.c = 128 a1.c + a2.c
 * in two products, and t is a 128th of what it is with one: so is |f|, and eps is nearly |q'| E. |a.c| <= 127^2 128 d
 * then, in 32 bits for d <= 1024.
 *
 * What is not exact in that:
 *
 * - rotations round, in double: |x'| l 2^-52 at most, which E and |f| contain. Norms are rounded up.
 * - who computes q.k in float32 sums d products: off by d 2^-24 |q'| |k'| to first order, |k'| <= N + E.
 * - who evaluates the bound in float32 rounds t s X thrice (X may have 31 bits), at most 3 2^-24 |t a| N, and eps four
 *   times; |t a| and eps itself are less than 2 |q'| (N + E).
 *
 * The last two are (d + 14) 2^-24 |q'| (N + E); index8_slack() leaves room for what is of second order. */
#include "msa_index8.h"

#include "internal.h"

#define MOST 127
#define OF_ONE 128 /* what a first code counts in units of the second */

static bool rotates(int d)
{
    return (d & (d - 1)) == 0;
}

/* log2 of d, rounded down. */
static int levels(int d)
{
    int l = 0;
    while (d >> (l + 1))
        l++;
    return l;
}

/* [rotate] */
static void rotate(const float *x, int d, double *y)
{
    for (int c = 0; c < d; c++)
        y[c] = (double)x[c];
    if (!rotates(d))
        return;
    for (int half = 1; half < d; half *= 2)
        for (int c = 0; c < d; c += 2 * half)
#pragma omp simd
            for (int n = c; n < c + half; n++) {
                const double sum = y[n] + y[n + half];
                y[n + half] = y[n] - y[n + half];
                y[n] = sum;
            }
    const double unit = ldexp(1, -(levels(d) + 1) / 2);
    for (int c = 0; c < d; c++)
        y[c] *= unit;
}
/* [rotate] */

/* The largest |y|; infinity if one is NaN. */
static double most_of(const double *y, int d)
{
    double most = 0, sum = 0;
    for (int c = 0; c < d; c++) {
        most = fabs(y[c]) > most ? fabs(y[c]) : most;
        sum += y[c]; /* NaN if one is, or infinite */
    }
    return isnan(sum) ? INFINITY : most;
}

/* A float that is larger than x by more than what sums of squares in double lose. */
static float above(double x)
{
    return x > 0 ? nextafterf((float)x, INFINITY) : (float)x;
}

/* The nearest integer from -most to most, of equally near ones the even one: a double of 2^52 has no fraction. */
static double nearest(double x, double most)
{
    const double within = x > most ? most : x < -most ? -most : x;
    return within + 0x1.8p52 - 0x1.8p52;
}

/* The largest multiple that a row may have in so many codes. */
static double most_in(int n_codes)
{
    return n_codes == 2 ? MOST * OF_ONE : MOST;
}

/* How far from it the numbers y[d] are as multiples of a step: the codes, what those say in norm, and the distance. */
typedef struct rounded {
    double norm, reach, rest;
} rounded;

/* @param codes [n_codes,d] */
/* [round_row] */
static rounded round_row(const double *y, int d, double step, int n_codes, int8_t *codes)
{
    const double most = most_in(n_codes);
    double norm = 0, reach = 0, rest = 0;
#pragma omp simd reduction(+ : norm, reach, rest)
    for (int c = 0; c < d; c++) {
        const double code = step > 0 ? nearest(y[c] / step, most) : 0;
        const double first = n_codes == 2 ? nearest(code / OF_ONE, MOST) : code;
        codes[c] = (int8_t)first;
        if (n_codes == 2)
            codes[d + c] = (int8_t)(code - OF_ONE * first);
        norm += y[c] * y[c];
        reach += step * code * step * code;
        rest += (y[c] - step * code) * (y[c] - step * code);
    }
    norm = sqrt(norm);
    return (rounded){norm, sqrt(reach), sqrt(rest) + (rotates(d) ? levels(d) * 0x1p-52 * norm : 0)};
}
/* [round_row] */

static float least_of(const float *x, int64_t n)
{
    float least = INFINITY;
    for (int64_t i = 0; i < n; i++)
        least = x[i] != 0 && fabsf(x[i]) < least ? fabsf(x[i]) : least;
    return least;
}

void msa_index8_block(const float *ki, int64_t n, int di, msa_index8 to, double *room)
{
    double most = 0, longest = 0, farthest = 0;
    for (int64_t j = 0; j < n; j++) {
        rotate(ki + j * di, di, room);
        most = fmax(most, most_of(room, di));
    }
    *to.least = least_of(ki, n * di);
    *to.scale = (float)(most / MOST);
    if (!isfinite(*to.scale)) {
        memset(to.codes, 0, (size_t)(n * di));
        *to.scale = *to.reach = 0;
        *to.error = INFINITY;
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        rotate(ki + j * di, di, room);
        const rounded row = round_row(room, di, (double)*to.scale, 1, to.codes + j * di);
        longest = fmax(longest, row.reach);
        farthest = fmax(farthest, row.rest);
    }
    *to.reach = above(longest);
    *to.error = above(farthest);
}

static bool complete_copy(const msa_index8 *c)
{
    return c && c->codes && c->scale && c->reach && c->error && c->least;
}

/* Where a block's, or a piece's, part of the copy is. */
static msa_index8 part_of(const msa_index8 *c, int64_t first_code, int64_t number)
{
    return (msa_index8){c->codes + first_code, c->scale + number, c->reach + number, c->error + number,
                        c->least + number};
}

msa_status msa_index8_keys(const msa_shape *s, const msa_pages *p, const float *ki, const int64_t *had,
                           const msa_index8 *copy, double *room)
{
    MSA_TRY(p ? msa_check_pages(s, p) : msa_check_shape(s));
    if (!ki || !complete_copy(copy) || !room)
        return MSA_ERR_NULL;
    const int64_t n = p ? piece_tokens(s, p) : s->block, d = s->d_index;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const request req = get_request(s, p, r);
        const int64_t complete = req.seq.n_kv / n, known = had ? had[r] / n : 0;
        for (int64_t b = min_i64(known, complete); b < max_i64(known, complete); b++) {
            const int64_t row = key_row(&req, b * n);
            const msa_index8 to = part_of(copy, row * d, p ? row / n : r * msa_n_blocks(s) + b);
            if (b < complete) {
                msa_index8_block(ki + row * d, n, s->d_index, to, room);
            } else {
                memset(to.codes, 0, (size_t)(n * d));
                *to.scale = *to.reach = *to.error = *to.least = 0;
            }
        }
    }
    return MSA_OK;
}

msa_index8_query msa_index8_round(const float *qi, int di, int n_codes, int8_t *codes, double *room)
{
    rotate(qi, di, room);
    const float step = (float)(most_of(room, di) / most_in(n_codes));
    if (!isfinite(step)) {
        memset(codes, 0, (size_t)n_codes * (size_t)di);
        return (msa_index8_query){n_codes, 0, INFINITY, INFINITY};
    }
    const rounded row = round_row(room, di, (double)step, n_codes, codes);
    return (msa_index8_query){n_codes, step, above(row.norm), above(row.rest)};
}

static int64_t product(const int8_t *x, const int8_t *y, int d)
{
    int64_t sum = 0;
    for (int c = 0; c < d; c++)
        sum += x[c] * y[c];
    return sum;
}

/* X of a block: the largest integer product of a query's codes with those of n keys. */
static int64_t best_product(const int8_t *query, int n_codes, const int8_t *keys, int64_t n, int d)
{
    int64_t best = INT64_MIN;
    for (int64_t j = 0; j < n; j++) {
        const int64_t x = product(query, keys + j * d, d);
        best = max_i64(best, n_codes == 2 ? OF_ONE * x + product(query + d, keys + j * d, d) : x);
    }
    return best;
}

/* [bounds] */
void msa_index8_bounds(const msa_shape *s, const msa_index8 *copy, int r, int64_t n, const int8_t *codes,
                       const msa_index8_query *q, double *lower, double *upper)
{
    const int64_t first = r * msa_n_blocks(s), kv0 = msa_get_seq(s, r).kv0;
    const int d = s->d_index;
    for (int64_t b = 0; b < n; b++) {
        const double scale = (double)copy->scale[first + b], reach = (double)copy->reach[first + b],
                     error = (double)copy->error[first + b], norm = (double)q->norm;
        const int64_t x =
            best_product(codes, q->n_codes, copy->codes + (kv0 + b * s->block) * d, s->block, d);
        const double score = (double)q->step * scale * (double)x;
        const double eps = (double)q->rest * reach + norm * error + index8_slack(d) * norm * (reach + error);
        lower[b] = score - eps;
        upper[b] = score + eps;
    }
}
/* [bounds] */

typedef struct scratch {
    double *lower, *upper, *m, *best, *room;
    int32_t *ids;
    int n_codes;
    int8_t *codes; /* [2,di] */
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    const int64_t blocks = msa_n_blocks(s);
    arena a = arena_over(work);
    w->lower = arena_take(&a, blocks, sizeof *w->lower);
    w->upper = arena_take(&a, blocks, sizeof *w->upper);
    w->m = arena_take(&a, blocks, sizeof *w->m);
    w->best = arena_take(&a, min_i64(s->topk, blocks), sizeof *w->best);
    w->ids = arena_take(&a, s->topk, sizeof *w->ids);
    w->room = arena_take(&a, s->d_index, sizeof *w->room);
    w->codes = arena_take(&a, 2 * (int64_t)s->d_index, sizeof *w->codes);
    return arena_bytes(&a);
}

static size_t index8_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, NULL);
}

CHECKED_WORKSPACE(index8)

size_t msa_index8_workspace(const msa_shape *s)
{
    return index8_checked(s);
}

/* The (k-1)-th largest of n lower bounds: so many blocks are at least as good. */
static double threshold(const scratch *w, int64_t n, int64_t keep)
{
    top_blocks(w->lower, n, keep, w->best, w->ids);
    return w->best[keep - 1];
}

/* Row (query q, group r): the ids, by the scores of the candidates. A block that was ruled out counts as -inf: k - 1
 * candidates are better than that. */
/* [select_row] */
static void select_row(const msa_shape *s, int seq, const float *qi, const float *keys, int64_t p,
                       const msa_index8 *copy, const scratch *w, int32_t *ids, msa_screening *done)
{
    const int64_t local = p / s->block, keep = min_i64(s->topk - 1, local), before = done->settled;
    if (local > keep && keep > 0) {
        const msa_index8_query q = msa_index8_round(qi, s->d_index, w->n_codes, w->codes, w->room);
        msa_index8_bounds(s, copy, seq, local, w->codes, &q, w->lower, w->upper);
        const double least = threshold(w, local, keep);
        for (int64_t b = 0; b < local; b++) {
            w->m[b] = -INFINITY;
            if (w->upper[b] < least)
                continue; /* NaN is a candidate */
            for (int64_t j = b * s->block; j < (b + 1) * s->block; j++) {
                const double x = dot(qi, keys + j * s->d_index, s->d_index);
                w->m[b] = x > w->m[b] ? x : w->m[b];
            }
            done->settled++;
        }
        done->rows++;
        done->blocks += local;
        done->fell_back += done->settled - before == local;
    }
    topk_row(w->m, local, s->topk, w->best, ids);
}
/* [select_row] */

msa_status msa_index8_select(const msa_shape *s, const float *qi, int n_codes, const float *ki,
                             const msa_index8 *copy, int32_t *ids, msa_screening *done, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!qi || !ki || !complete_copy(copy) || !ids || !work)
        return MSA_ERR_NULL;
    if (n_codes != 1 && n_codes != 2)
        return MSA_ERR_SIZE;
    msa_screening all = {0};
    scratch w;
    place(&w, s, work);
    w.n_codes = n_codes;
    memset(w.m, 0, (size_t)msa_n_blocks(s) * sizeof *w.m);
    pad_outputs(s, ids, NULL, NULL);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int r = 0; r < s->n_kv_heads; r++)
            for (int64_t i = 0; i < seq.n_q; i++) {
                const int64_t query = seq.q0 + i;
                select_row(s, b, qi + (query * s->n_kv_heads + r) * s->d_index, ki + seq.kv0 * s->d_index,
                           position(&seq, i), copy, &w, ids + (r * s->n_q + query) * s->topk, &all);
            }
    }
    if (done)
        *done = all;
    return MSA_OK;
}
