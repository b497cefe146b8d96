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
 * a sixth of that. So the vector unit sets the pace, if products do not wait for it: those of 16 rows with the next 64
 * keys, 256 clocks, are woven into the exponentials of the 64 before, 640, as in walk_amx.h. Logits stay in the L1 cache
 * on the way: 8 KB, of two pieces. What was 1972 clocks one after the other is 1460.
 *
 * Vectors of pairs gain little of that, where products take two thirds of the time: but logits are not copied, and
 * neither are Q's rows, which are a left factor where they lie if a group has 16 heads or a multiple of that. */
#include "walk_amx.h"

#define WIDE (COLUMNS * TILE_ROWS) /* keys at once: a row of Q is loaded once for four products */

/* ---- Logits ------------------------------------------------------------------------------------------------------------ */

/* The products of some rows of a visit with its keys, piece by piece: 16 rows and up to 64 keys. */
typedef struct logit_pieces {
    const block_visit *m;
    const uint16_t *q;
    int n_heads, count, d, steps; /* heads in all, of a group */
    float scale;
    int64_t rows, across; /* pieces side by side */
    left_rows now;        /* the rows of the last piece */
    tile_rows *keys;      /* [SWEEP_KEYS/16][steps], right factors */
    tile_rows *room;      /* [steps], for rows that do not lie as a left factor */
    tile_rows *logits; /* [2][COLUMNS], of the last two pieces: products of one, exponentials of the other */
} logit_pieces;

static size_t place_pieces(logit_pieces *x, int d, void *work)
{
    arena a = arena_over(work);
    x->keys = arena_take(&a, INT64_C(1) * SWEEP_KEYS / TILE_ROWS * steps_of(d), sizeof *x->keys);
    x->room = arena_take(&a, steps_of(d), sizeof *x->room);
    x->logits = arena_take(&a, 2 * COLUMNS, sizeof *x->logits);
    return arena_bytes(&a);
}

static size_t logits_bytes(const msa_shape *s, int n_heads, int d)
{
    (void)s, (void)n_heads;
    logit_pieces x;
    return place_pieces(&x, d, NULL);
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

static logit_pieces begin_pieces(const block_visit *m, const void *q, int n_heads, const void *k,
                                 int kv_heads, int d, void *buffer)
{
    const int count = n_heads / m->w->s->n_kv_heads;
    logit_pieces x = {.m = m, .q = q, .n_heads = n_heads, .count = count, .d = d, .steps = steps_of(d)};
    x.scale = (float)(1 / sqrt(d));
    x.rows = m->queries * count;
    x.across = (m->cols + WIDE - 1) / WIDE;
    place_pieces(&x, d, buffer);
    put_keys(m, k, kv_heads, d, x.keys);
    return x;
}

static int64_t count_pieces(const logit_pieces *x)
{
    return (x->rows + TILE_ROWS - 1) / TILE_ROWS * x->across;
}

/* Heads of one query are a left factor where they lie. */
static left_rows left_at(const logit_pieces *x, int64_t row)
{
    if (x->count % TILE_ROWS == 0 && x->d % TILE_HALVES == 0)
        return (left_rows){visit_row(x->m, x->q, x->n_heads, row, x->d), x->d * (int64_t)sizeof *x->q,
                           TILE_BYTES};
    memset(x->room, 0, (size_t)x->steps * sizeof *x->room);
    for (int b = 0; b < min_i64(TILE_ROWS, x->rows - row); b++)
        put_left(x->room, b, visit_row(x->m, x->q, x->n_heads, row + b, x->d), x->d);
    return (left_rows){x->room, TILE_BYTES, sizeof *x->room};
}

/* Where piece number n begins: key *j of row *row. */
static void piece_at(const logit_pieces *x, int64_t n, int64_t *row, int64_t *j)
{
    *row = n / x->across * TILE_ROWS;
    *j = n % x->across * WIDE;
}

/* Piece number n; they come in order. */
static void multiply_piece(tiles *t, logit_pieces *x, int64_t n)
{
    int64_t row, j;
    piece_at(x, n, &row, &j);
    const int wide = (int)min_i64(COLUMNS, (x->m->cols - j + TILE_ROWS - 1) / TILE_ROWS);
    const tile_rows *keys[COLUMNS] = {NULL};
    for (int c = 0; c < wide; c++)
        keys[c] = x->keys + (j / TILE_ROWS + c) * x->steps;
    if (j == 0)
        x->now = left_at(x, row);
    multiply_columns(t, x->steps, x->now, keys, wide, false, x->logits + n % 2 * COLUMNS);
}

/* Logits of row b of piece n with its keys from `key` on. */
static inline lanes logits_in(const logit_pieces *x, int64_t n, int64_t b, int64_t key)
{
    return load((const float *)x->logits[n % 2 * COLUMNS + key / TILE_ROWS].word[b]) * x->scale;
}

/* The first n numbers of x, then zeros. */
static inline lanes load_some(const float *x, int64_t n)
{
    lanes y = {0};
    if (n >= LANES)
        return load(x);
    for (int64_t l = 0; l < n; l++)
        y[l] = x[l];
    return y;
}

static inline void store_some(float *x, lanes y, int64_t n)
{
    if (n >= LANES)
        store(x, y);
    else
        for (int64_t l = 0; l < n; l++)
            x[l] = y[l];
}

static void make_logits(const block_visit *m, const void *q, int n_heads, const void *k, int kv_heads, int d,
                        void *buffer, float *logits)
{
    logit_pieces x = begin_pieces(m, q, n_heads, k, kv_heads, d, buffer);
    tiles t;
    tiles_begin(&t);
    for (int64_t n = 0; n < count_pieces(&x); n++) {
        int64_t row, j;
        piece_at(&x, n, &row, &j);
        multiply_piece(&t, &x, n);
        for (int64_t b = 0; b < min_i64(TILE_ROWS, x.rows - row); b++)
            for (int64_t c = j; c < min_i64(j + WIDE, m->cols); c += LANES)
                store_some(logits + (row + b) * m->cols + c, logits_in(&x, n, b, c - j), m->cols - c);
    }
    tiles_end(&t);
}

/* ---- Teacher ----------------------------------------------------------------------------------------------------------- */

/* The probabilities in piece n, of 16 keys from `c` on, are added up head by head; of a query that ends here t is the
 * mean. A logit of -inf is one that float32 could not hold: times 0 it shows. */
static inline void add_heads(const logit_pieces *x, int64_t n, int64_t c, const float *lse, float *t)
{
    const int64_t cols = x->m->cols;
    int64_t row, j;
    piece_at(x, n, &row, &j);
    const int64_t high = min_i64(TILE_ROWS, x->rows - row);
    int64_t h = row % x->count;
    float *to = t + row / x->count * cols + c;
    lanes sum = h > 0 ? load_some(to, cols - c) : all(0);
    for (int64_t b = 0; b < high; b++) {
        const float base = fabsf(lse[row + b]) < MOST_LSE ? lse[row + b] : NAN;
        const lanes logits = logits_in(x, n, b, c - j);
        sum += exp2_lanes((float)LOG2_E * (logits - base)) + logits * 0;
        if (++h == x->count) {
            store_some(to, sum * (1 / (float)x->count), cols - c);
            to += cols;
            sum = all(0);
            h = 0;
        }
    }
    if (h > 0)
        store_some(to, sum, cols - c);
}

static size_t teach_bytes(const msa_shape *s)
{
    return logits_bytes(s, s->n_heads, s->d_head);
}

static void teach(const block_visit *m, const void *q, const void *k, const float *lse, void *buffer,
                  float *to)
{
    const msa_shape *s = m->w->s;
    logit_pieces x = begin_pieces(m, q, s->n_heads, k, s->n_kv_heads, s->d_head, buffer);
    const int64_t pieces = count_pieces(&x);
    tiles t;
    tiles_begin(&t);
    for (int64_t n = 0; n <= pieces; n++) {
        if (n < pieces)
            multiply_piece(&t, &x, n);
        const int64_t j = (n + x.across - 1) % x.across * WIDE; /* of the piece before */
        for (int64_t c = j; n > 0 && c < min_i64(j + WIDE, m->cols); c += LANES)
            add_heads(&x, n - 1, c, lse, to);
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
    return load_some(u + e * m->cols + j, e < m->queries ? m->cols - j : 0);
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
const kl_way BODY(kl) = {&logits, true, teach, teach_bytes, give, slopes_bytes};
