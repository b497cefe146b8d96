/* The products of the KL loss on tiles of bf16, with kl_blocks.c, which has the rest. Nothing is turned but K: a row of
 * logits is a head's, with keys in its lanes, so that the mean over the heads of a group is a sum of rows.
 *
 *     S = Q K^T     dKi += U^T Qi     dQi += U Ki        U = factor (u - t) = a sum of two bf16
 *
 * Q lies as a left factor already. U is one as it leaves the vector unit, pairs of its rows are a right factor, and
 * that, turned, is U^T as a left one: of 32 queries and 16 keys one transposition. Rows of U sum to 0, and few keys
 * make roundings of one sign; two bf16 hold 16 bits of it, for a few products more.
 *
 * Pace, for a query of 16 heads of d = 128 and 128 keys: S is 32 products of tiles, 512 clocks, and the student's
 * logits, a sixteenth of that, and the two gradients, two sixteenths each, are 160 more. The teacher's 128 vectors of
 * exponentials are some 20 instructions each, 1300 clocks on two ports; K and Ki, laid out anew for every 512 rows, are
 * a sixth of that. So the vector unit sets the pace. Products wait for it and it for them: woven together as in
 * walk_amx.h they would take two thirds of the time. */
#include "amx_kernels.h"
#include "kl_way.h"
#include "panels.h"

#define WIDE (4 * TILE_ROWS) /* keys at once: a row of Q is loaded once for four products */

/* ---- Logits ------------------------------------------------------------------------------------------------------------ */

typedef struct factors {
    tile_rows *keys; /* [SWEEP_KEYS/16][steps], right factors */
    tile_rows *rows; /* [steps], a left factor */
    float *logits;   /* [16][WIDE] */
} factors;

static size_t place_factors(factors *x, int d, void *work)
{
    arena a = arena_over(work);
    x->keys = arena_take(&a, INT64_C(1) * SWEEP_KEYS / TILE_ROWS * steps_of(d), sizeof *x->keys);
    x->rows = arena_take(&a, steps_of(d), sizeof *x->rows);
    x->logits = arena_take(&a, TILE_ROWS * WIDE, sizeof *x->logits);
    return arena_bytes(&a);
}

static size_t logits_bytes(const msa_shape *s, int n_heads, int d)
{
    (void)s, (void)n_heads;
    factors x;
    return place_factors(&x, d, NULL);
}

/* Where a row of a visit's `count` heads of a group lies in x [T,n_heads,d]. */
static const uint16_t *visit_row(const block_visit *m, const uint16_t *x, int n_heads, int64_t row, int d)
{
    const int count = n_heads / m->w->s->n_kv_heads;
    const int64_t query = m->w->seq.q0 + m->w->i0 + m->entry[row / count];
    return x + (query * n_heads + m->r * count + row % count) * d;
}

/* Key number j of a visit, of x [S,kv_heads,d]. */
static const uint16_t *visit_key(const block_visit *m, const uint16_t *x, int kv_heads, int64_t j, int d)
{
    return x + ((m->w->seq.kv0 + m->j0 + j) * kv_heads + (kv_heads > 1 ? m->r : 0)) * d;
}

static void put_keys(const block_visit *m, const uint16_t *k, int kv_heads, int d, tile_rows *to)
{
    const int steps = steps_of(d);
    for (int64_t j = 0; j < m->cols; j += TILE_ROWS, to += steps) {
        memset(to, 0, (size_t)steps * sizeof *to);
        for (int i = 0; i < TILE_ROWS && j + i < m->cols; i++)
            put_left(to, i, visit_key(m, k, kv_heads, j + i, d), d);
        left_to_right(to, steps);
    }
}

/* 16 rows and n <= 4 tiles of keys. */
static void multiply(tiles *t, int steps, const tile_rows *rows, const tile_rows *keys, int n, float *to)
{
    tile_zero(t, 0);
    tile_zero(t, 1);
    tile_zero(t, 2);
    tile_zero(t, 3);
    for (int step = 0; step < steps; step++, keys++) {
        tile_load(t, 4, rows + step, TILE_BYTES);
        tile_load(t, 5, keys, TILE_BYTES);
        tile_bf16(t, 0, 4, 5);
        if (n > 1) {
            tile_load(t, 6, keys + steps, TILE_BYTES);
            tile_bf16(t, 1, 4, 6);
        }
        if (n > 2) {
            tile_load(t, 5, keys + 2 * steps, TILE_BYTES);
            tile_bf16(t, 2, 4, 5);
        }
        if (n > 3) {
            tile_load(t, 6, keys + 3 * steps, TILE_BYTES);
            tile_bf16(t, 3, 4, 6);
        }
    }
    tile_store(t, 0, to, WIDE * sizeof *to);
    tile_store(t, 1, to + 16, WIDE * sizeof *to);
    tile_store(t, 2, to + 32, WIDE * sizeof *to);
    tile_store(t, 3, to + 48, WIDE * sizeof *to);
}

static void make_logits(const block_visit *m, const void *q, int n_heads, const void *k, int kv_heads, int d,
                        void *buffer, float *logits)
{
    const int steps = steps_of(d);
    const int64_t rows = m->queries * (n_heads / m->w->s->n_kv_heads);
    const float scale = (float)(1 / sqrt(d));
    factors x;
    tiles t;
    place_factors(&x, d, buffer);
    put_keys(m, k, kv_heads, d, x.keys);
    tiles_begin(&t);
    for (int64_t row = 0; row < rows; row += TILE_ROWS) {
        const int64_t high = min_i64(TILE_ROWS, rows - row);
        memset(x.rows, 0, (size_t)steps * sizeof *x.rows);
        for (int b = 0; b < high; b++)
            put_left(x.rows, b, visit_row(m, q, n_heads, row + b, d), d);
        for (int64_t j = 0; j < m->cols; j += WIDE) {
            const int64_t wide = min_i64(WIDE, m->cols - j);
            multiply(&t, steps, x.rows, x.keys + j / TILE_ROWS * steps,
                     (int)((wide + TILE_ROWS - 1) / TILE_ROWS), x.logits);
            for (int64_t b = 0; b < high; b++)
                for (int64_t c = 0; c < wide; c++)
                    logits[(row + b) * m->cols + j + c] = scale * x.logits[b * WIDE + c];
        }
    }
    tiles_end(&t);
}

/* ---- Gradients --------------------------------------------------------------------------------------------------------- */

#define QUERIES TILE_HALVES /* at once */

/* The two bf16 that numbers are sums of. */
typedef struct split {
    tile_rows *high, *low;
} split;

typedef struct slopes {
    tile_rows *queries; /* [2 steps], Qi of 32 queries as a right factor */
    tile_rows *
        keys; /* [SWEEP_KEYS/32][2 steps], Ki of 32 keys each: right factors, rows j and j + 16 side by side */
    split u;  /* [2][SWEEP_KEYS/32], left factors, columns in the order of those rows */
    split turned; /* [SWEEP_KEYS/16], U^T: left factors */
    float *sum;   /* [16][2 steps][16] */
} slopes;

static size_t place_slopes(slopes *x, const msa_shape *s, void *work)
{
    const int steps = steps_of(s->d_index);
    arena a = arena_over(work);
    x->queries = arena_take(&a, 2 * steps, sizeof *x->queries);
    x->keys = arena_take(&a, INT64_C(2) * SWEEP_KEYS / TILE_HALVES * steps, sizeof *x->keys);
    x->u.high = arena_take(&a, 2 * SWEEP_KEYS / TILE_HALVES, sizeof *x->u.high);
    x->u.low = arena_take(&a, 2 * SWEEP_KEYS / TILE_HALVES, sizeof *x->u.low);
    x->turned.high = arena_take(&a, SWEEP_KEYS / TILE_ROWS, sizeof *x->turned.high);
    x->turned.low = arena_take(&a, SWEEP_KEYS / TILE_ROWS, sizeof *x->turned.low);
    x->sum = arena_take(&a, INT64_C(2) * TILE_ROWS * TILE_ROWS * steps, sizeof *x->sum);
    return arena_bytes(&a);
}

static size_t slopes_bytes(const msa_shape *s)
{
    slopes x;
    return place_slopes(&x, s, NULL);
}

/* Rows x[0 .. 15] and y[0 .. 15], of di channels, side by side. */
static void put_both(tile_rows *to, const uint16_t *const x[TILE_ROWS], const uint16_t *const y[TILE_ROWS],
                     int di)
{
    for (int c = 0; c < 2 * steps_of(di); c++)
        put_beside(to + c, x, y, c * TILE_ROWS, di);
}

static void put_index_keys(const block_visit *m, const uint16_t *ki, tile_rows *to)
{
    const int di = m->w->s->d_index;
    for (int64_t j = 0; j < m->cols; j += TILE_HALVES, to += 2 * steps_of(di)) {
        const uint16_t *row[2][TILE_ROWS];
        for (int i = 0; i < TILE_HALVES; i++)
            row[i / TILE_ROWS][i % TILE_ROWS] = j + i < m->cols ? visit_key(m, ki, 1, j + i, di) : NULL;
        put_both(to, row[0], row[1], di);
    }
}

/* Of row e of U, which has m->cols numbers, those of keys j .. j + 15; 0 where there is none. */
static lanes slopes_at(const block_visit *m, const float *u, int64_t e, int64_t j)
{
    lanes x = {0};
    const int64_t n = e < m->queries ? min_i64(LANES, m->cols - j) : 0;
    if (n == LANES)
        return load(u + e * m->cols + j);
    for (int64_t l = 0; l < n; l++)
        x[l] = u[e * m->cols + j + l];
    return x;
}

static void split_pairs(lanes x, lanes y, int_lanes *high, int_lanes *low)
{
    const int_lanes a = halved(x), b = halved(y);
    *high = joined(a, b);
    *low = pairs_of(x - (lanes)a, y - (lanes)b);
}

/* Queries e0 .. e0 + 31: themselves and their rows of U. */
static void put_queries(const block_visit *m, const float *u, const uint16_t *qi, int64_t e0, const slopes *x)
{
    const int di = m->w->s->d_index;
    const uint16_t *row[2][TILE_ROWS];
    for (int r = 0; r < QUERIES; r++)
        row[r % 2][r / 2] = e0 + r < m->queries ? visit_row(m, qi, m->w->s->n_kv_heads, e0 + r, di) : NULL;
    put_both(x->queries, row[0], row[1], di);
    for (int64_t j = 0; j < m->cols; j += TILE_ROWS) {
        int_lanes high[16], low[16];
        for (int i = 0; i < 16; i++)
            split_pairs(slopes_at(m, u, e0 + 2 * i, j), slopes_at(m, u, e0 + 2 * i + 1, j), &high[i],
                        &low[i]);
        transpose(high);
        transpose(low);
        memcpy(&x->turned.high[j / TILE_ROWS], high, sizeof high);
        memcpy(&x->turned.low[j / TILE_ROWS], low, sizeof low);
    }
    for (int64_t j = 0; j < m->cols; j += TILE_HALVES)
        for (int r = 0; r < QUERIES; r++) {
            const int64_t at = r / TILE_ROWS * (SWEEP_KEYS / TILE_HALVES) + j / TILE_HALVES;
            int_lanes high, low;
            split_pairs(slopes_at(m, u, e0 + r, j), slopes_at(m, u, e0 + r, j + TILE_ROWS), &high, &low);
            memcpy(x->u.high[at].word[r % TILE_ROWS], &high, sizeof high);
            memcpy(x->u.low[at].word[r % TILE_ROWS], &low, sizeof low);
        }
}

/* sum [16][wide] = n left factors, split, times as many times `wide` right ones, two columns of tiles at once. */
static void add_up(tiles *t, const tile_rows *high, const tile_rows *low, const tile_rows *right, int64_t n,
                   int wide, float *sum)
{
    for (int c = 0; c < wide; c += 2) {
        tile_zero(t, 0);
        tile_zero(t, 1);
        for (int64_t i = 0; i < n; i++) {
            tile_load(t, 4, high + i, TILE_BYTES);
            tile_load(t, 5, right + i * wide + c, TILE_BYTES);
            tile_load(t, 6, right + i * wide + c + 1, TILE_BYTES);
            tile_load(t, 7, low + i, TILE_BYTES);
            tile_bf16(t, 0, 4, 5);
            tile_bf16(t, 1, 4, 6);
            tile_bf16(t, 0, 7, 5);
            tile_bf16(t, 1, 7, 6);
        }
        tile_store(t, 0, sum + c * TILE_ROWS, (int64_t)(wide * TILE_ROWS) * (int64_t)sizeof *sum);
        tile_store(t, 1, sum + (c + 1) * TILE_ROWS, (int64_t)(wide * TILE_ROWS) * (int64_t)sizeof *sum);
    }
}

static void add_row(const float *sum, int d, float scale, float *to)
{
    for (int c = 0; c < d; c++)
        to[c] += scale * sum[c];
}

static void give(const block_visit *m, const float *u, const void *qi, const void *ki, float *dqi, float *dki,
                 void *buffer)
{
    const int di = m->w->s->d_index, wide = 2 * steps_of(di);
    const int64_t pieces = (m->cols + TILE_HALVES - 1) / TILE_HALVES;
    const float scale = (float)(1 / sqrt(di));
    slopes x;
    tiles t;
    place_slopes(&x, m->w->s, buffer);
    put_index_keys(m, ki, x.keys);
    tiles_begin(&t);
    for (int64_t e0 = 0; e0 < m->queries; e0 += QUERIES) {
        put_queries(m, u, qi, e0, &x);
        for (int64_t e = e0; e < min_i64(e0 + QUERIES, m->queries); e += TILE_ROWS) {
            const int64_t at = (e - e0) / TILE_ROWS * (SWEEP_KEYS / TILE_HALVES);
            add_up(&t, x.u.high + at, x.u.low + at, x.keys, pieces, wide, x.sum);
            for (int row = 0; row < TILE_ROWS && e + row < m->queries; row++)
                add_row(x.sum + row * wide * TILE_ROWS, di, 1, dqi + (int64_t)m->entry[e + row] * di);
        }
        for (int64_t j = 0; j < m->cols; j += TILE_ROWS) {
            add_up(&t, x.turned.high + j / TILE_ROWS, x.turned.low + j / TILE_ROWS, x.queries, 1, wide,
                   x.sum);
            for (int i = 0; i < TILE_ROWS && j + i < m->cols; i++)
                add_row(x.sum + i * wide * TILE_ROWS, di, scale, dki + (m->w->seq.kv0 + m->j0 + j + i) * di);
        }
    }
    tiles_end(&t);
}

static const logits_way logits = {logits_bytes, make_logits};
const kl_way BODY(kl) = {&logits, true, slopes_bytes, give};
