/* Attention on tiles of bf16: columns of queries walk pieces of keys.
 *
 * Everything is turned: S^T = K Q^T has a key in each row and 16 (query, head) rows, a column, in its lanes. So a
 * row's maximum and sum are taken lane by lane, and two rows of weights, rounded and interleaved, are what a right
 * factor looks like: O^T = V^T P^T needs no transposition of P. K lies as a left factor already; V is turned once.
 *
 * An item is a piece of at most 128 keys and up to four columns, so that a tile of keys or values is loaded once for
 * four products. While the tile unit works at the logits of the next item and the output of the last one, the vector
 * unit does the exponentials of this one: all three are woven into one stream of instructions, and the processor
 * takes from it what is ready.
 *
 * A maximum is raised only where a logit exceeds it by 8, for then weights would be above 2^8: O is seldom scaled.
 *
 * STAGE_amx.c includes this, each of its two bodies for itself. */
#ifndef MSA_WALK_AMX_H
#define MSA_WALK_AMX_H

#include <float.h>

#include "amx_kernels.h"
#include "online.h"
#include "panels.h"

#define COLUMNS 4
#define KEYS 128
#define SLACK 8 /* of a maximum, in powers of 2 */

/* 16 rows: what they ask, and what they have so far. */
typedef struct column {
    tile_rows *q;     /* [steps] */
    tile_rows *o;     /* [2 steps], each [16 channels][16 rows] of float32 */
    float max[LANES]; /* of their logits times log2 e, or up to 2^SLACK less */
    double sum[LANES];
    int64_t last[LANES]; /* the last key that a row sees */
} column;

/* Keys j .. j + n - 1, of which the first `before` are another item's, and who meets them. */
typedef struct item {
    const tile_rows *k; /* [..][steps], 16 keys each: an even number of those */
    const tile_rows *v; /* [..][2 steps], 32 keys each */
    int64_t j;
    int before, n, columns;
    column *of[COLUMNS];
} item;

/* What lies between the products of an item: two of them, since items overlap. */
typedef struct between {
    tile_rows *logits; /* [KEYS/16][COLUMNS], [16 keys][16 rows] of float32 */
    tile_rows *p;      /* [KEYS/32][COLUMNS], right factors */
} between;

typedef struct walk {
    int steps;
    float scale; /* of logits, times log2 e */
    between at[2];
} walk;

static inline void walk_take(walk *w, int d, arena *a)
{
    w->steps = steps_of(d);
    w->scale = (float)(LOG2_E / sqrt(d));
    for (int n = 0; n < 2; n++) {
        w->at[n].logits = arena_take(a, KEYS / TILE_ROWS * COLUMNS, sizeof *w->at[n].logits);
        w->at[n].p = arena_take(a, KEYS / TILE_HALVES * COLUMNS, sizeof *w->at[n].p);
    }
}

/* ---- Keys and values of a group ------------------------------------------------------------------------------------ */

/* Pieces of 32 keys from a sequence's first on; each is packed by itself. */
typedef struct panels {
    tile_rows *k; /* [..][2][steps] */
    tile_rows *v; /* [..][steps][2] */
} panels;

static inline void panels_take(panels *x, int64_t pieces, int d, arena *a)
{
    x->k = arena_take(a, pieces * 2 * steps_of(d), sizeof *x->k);
    x->v = arena_take(a, pieces * 2 * steps_of(d), sizeof *x->v);
}

static inline int64_t pieces_of(int64_t keys)
{
    return (keys + TILE_HALVES - 1) / TILE_HALVES;
}

/* Rows row[0 .. n-1] of K and V, n <= 32, become piece `piece`. */
static inline void pack_rows(const panels *x, int64_t piece, const msa_shape *s, int r, const int64_t *row,
                             int n, const uint16_t *k, const uint16_t *v)
{
    const int d = s->d_head, steps = steps_of(d);
    const uint16_t *values[TILE_HALVES] = {NULL};
    tile_rows *keys = x->k + piece * 2 * steps;
    if (n < TILE_HALVES || d % TILE_HALVES != 0)
        memset(keys, 0, (size_t)(2 * steps) * sizeof *keys);
    for (int i = 0; i < n; i++) {
        const int64_t from = (row[i] * s->n_kv_heads + r) * d;
        put_left(keys + i / TILE_ROWS * steps, i % TILE_ROWS, k + from, d);
        values[i] = v + from;
    }
    put_turned(x->v + piece * 2 * steps, values, d);
}

/* The same of n rows that lie together. */
static inline void pack_run(const panels *x, int64_t piece, const msa_shape *s, int r, int64_t first, int64_t n,
                            const uint16_t *k, const uint16_t *v)
{
    int64_t row[TILE_HALVES];
    for (int i = 0; i < n; i++)
        row[i] = first + i;
    pack_rows(x, piece, s, r, row, (int)n, k, v);
}

/* Piece `piece` of group r. */
static inline void pack_piece(const panels *x, int64_t piece, const msa_shape *s, const msa_seq *seq, int r,
                              const uint16_t *k, const uint16_t *v)
{
    const int64_t first = piece * TILE_HALVES;
    pack_run(x, piece, s, r, seq->kv0 + first, min_i64(TILE_HALVES, seq->n_kv - first), k, v);
}

/* The first of the items that keys j .. end - 1 are, for nobody yet: it begins with the piece that has key j. Returns
 * the key that follows it. */
static inline int64_t item_begin(item *e, const panels *x, int steps, int64_t j, int64_t end)
{
    const int64_t piece = j / TILE_HALVES, first = piece * TILE_HALVES, after = min_i64(first + KEYS, end);
    *e = (item){.k = x->k + piece * 2 * steps,
                .v = x->v + piece * 2 * steps,
                .j = first,
                .before = (int)(j - first),
                .n = (int)(after - first)};
    return after;
}

/* ---- Columns -------------------------------------------------------------------------------------------------------- */

/* Columns [parts][n] with memory for q, which the parts share, and o. */
static inline column *columns_take(int64_t n, int parts, int d, arena *a)
{
    const int steps = steps_of(d);
    column *c = arena_take(a, n * parts, sizeof *c);
    tile_rows *q = arena_take(a, n * steps, sizeof *q), *o = arena_take(a, n * parts * 2 * steps, sizeof *o);
    for (int64_t i = 0; c && i < n * parts; i++) {
        c[i].q = q + i % n * steps;
        c[i].o = o + i * 2 * steps;
    }
    return c;
}

static inline void column_begin(column *c, int d)
{
    memset(c->q, 0, (size_t)steps_of(d) * sizeof *c->q);
    memset(c->o, 0, (size_t)(2 * steps_of(d)) * sizeof *c->o);
}

/* Row `lane` asks q [d] and sees keys up to `last`. */
static inline void column_row(column *c, int lane, const uint16_t *q, int d, int64_t last)
{
    put_right(c->q, lane, q, d);
    c->max[lane] = -INFINITY;
    c->sum[lane] = 0;
    c->last[lane] = last;
}

/* What row `lane` has found: o [d], and its log-sum-exp. */
static inline float column_end(const column *c, int lane, int d, float *o)
{
    const float lse = online_lse(c->max[lane], c->sum[lane]);
    const float inverse = isnan(lse) ? NAN : (float)(1 / c->sum[lane]); /* what float32 could not hold shows in O */
    for (int x = 0; x < d; x++) {
        float sum;
        memcpy(&sum, &c->o[x / TILE_ROWS].word[x % TILE_ROWS][lane], sizeof sum);
        o[x] = sum * inverse;
    }
    return lse;
}

/* A row of a group is head row % group of query row / group; this is where it lies in q and o. */
static inline int64_t row_of(const msa_shape *s, const msa_seq *seq, int r, int64_t row)
{
    const int group = s->n_heads / s->n_kv_heads;
    return (seq->q0 + row / group) * s->n_heads + r * group + row % group;
}

/* Rows first .. first + n - 1 into so many columns; what the last one has left over copies the last. */
static inline int begin_rows(column *c, const msa_shape *s, const msa_seq *seq, int r, int64_t first,
                             int64_t n, const uint16_t *q)
{
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads,
              columns = (int)((n + TILE_ROWS - 1) / TILE_ROWS);
    for (int i = 0; i < columns * TILE_ROWS; i++) {
        const int64_t row = first + min_i64(i, n - 1);
        if (i % TILE_ROWS == 0)
            column_begin(&c[i / TILE_ROWS], d);
        column_row(&c[i / TILE_ROWS], i % TILE_ROWS, q + row_of(s, seq, r, row) * d, d,
                   position(seq, row / group));
    }
    return columns;
}

static inline void end_rows(const column *c, const msa_shape *s, const msa_seq *seq, int r, int64_t first,
                            int64_t n, float *o, float *lse)
{
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = row_of(s, seq, r, first + i);
        const float found =
            column_end(&c[i / TILE_ROWS], (int)(i % TILE_ROWS), s->d_head, o + row * s->d_head);
        if (lse)
            lse[row] = found;
    }
}

/* ---- An item ---------------------------------------------------------------------------------------------------------- */

/* Tiles of 16 keys that an item has, the last ones' missing keys included. */
static inline int parts_of(const item *e)
{
    return (e->n + TILE_HALVES - 1) / TILE_HALVES * 2;
}

#define FOUR(n, what)                                                                                        \
    do {                                                                                                     \
        what(0);                                                                                             \
        if ((n) > 1)                                                                                         \
            what(1);                                                                                         \
        if ((n) > 2)                                                                                         \
            what(2);                                                                                         \
        if ((n) > 3)                                                                                         \
            what(3);                                                                                         \
    } while (0)

/* Where 16 keys lie as left factors: bytes from row to row, and from one tile of 32 channels to the next. */
typedef struct left_rows {
    const void *at;
    int64_t row, step;
} left_rows;

/* Their products with up to four right factors [steps], of bf16 or of bytes. */
static inline void multiply_columns(tiles *t, int steps, left_rows keys, const tile_rows *const q[COLUMNS],
                                    int columns, bool bytes, tile_rows *to)
{
#define CLEAR(n) tile_zero(t, n)
    FOUR(columns, CLEAR);
#undef CLEAR
    for (int step = 0; step < steps; step++) {
        tile_load(t, 4, (const char *)keys.at + step * keys.step, keys.row);
#define MULTIPLY(n)                                                                                          \
    do {                                                                                                     \
        tile_load(t, 5, q[n] + step, TILE_BYTES);                                                            \
        if (bytes)                                                                                           \
            tile_int8(t, n, 4, 5);                                                                           \
        else                                                                                                 \
            tile_bf16(t, n, 4, 5);                                                                           \
    } while (0)
        FOUR(columns, MULTIPLY);
#undef MULTIPLY
    }
#define KEEP(n) tile_store(t, n, to + n, TILE_BYTES)
    FOUR(columns, KEEP);
#undef KEEP
}

/* Logits of keys 16 part .. 16 part + 15. */
static inline void multiply_keys(tiles *t, const walk *w, const item *e, int part, tile_rows *logits)
{
    const left_rows keys = {e->k + part * w->steps, TILE_BYTES, sizeof *e->k};
    const tile_rows *q[COLUMNS] = {NULL};
    for (int n = 0; n < e->columns; n++)
        q[n] = e->of[n]->q;
    multiply_columns(t, w->steps, keys, q, e->columns, false, logits + part * COLUMNS);
}

/* Adds weights times values to channels 16 c .. 16 c + 15 of O. */
static inline void multiply_values(tiles *t, const walk *w, const item *e, int c, const tile_rows *p)
{
    const tile_rows *values = e->v + c;
#define FETCH(n) tile_load(t, n, e->of[n]->o + c, TILE_BYTES)
    FOUR(e->columns, FETCH);
#undef FETCH
    for (int part = 0; part < parts_of(e); part += 2, values += 2 * w->steps, p += COLUMNS) {
        tile_load(t, 4, values, TILE_BYTES);
#define MULTIPLY(n)                                                                                          \
    do {                                                                                                     \
        tile_load(t, 5, p + n, TILE_BYTES);                                                                  \
        tile_bf16(t, n, 4, 5);                                                                               \
    } while (0)
        FOUR(e->columns, MULTIPLY);
#undef MULTIPLY
    }
#define KEEP(n) tile_store(t, n, e->of[n]->o + c, TILE_BYTES)
    FOUR(e->columns, KEEP);
#undef KEEP
}

static inline float *logits_of(tile_rows *logits, int n, int key)
{
    return (float *)logits[key / TILE_ROWS * COLUMNS + n].word[key % TILE_ROWS];
}

/* What a row does not see is as low as can be: it weighs nothing, and is no -inf, which would be a logit that float32
 * could not hold. */
static inline void hide(const item *e, int n, tile_rows *logits)
{
    for (int key = 0; key < e->before; key++)
        store(logits_of(logits, n, key), all(-FLT_MAX));
    int_lanes seen;
    int32_t least = e->n;
    for (int l = 0; l < LANES; l++) {
        seen[l] = (int32_t)min_i64(e->n, max_i64(0, e->of[n]->last[l] + 1 - e->j));
        least = seen[l] < least ? seen[l] : least;
    }
    for (int key = least; key < parts_of(e) * TILE_ROWS; key++) {
        float *x = logits_of(logits, n, key);
        const int_lanes hidden = key >= seen;
        store(x, (lanes)(((int_lanes)load(x) & ~hidden) | ((int_lanes)all(-FLT_MAX) & hidden)));
    }
}

/* Raises a column's maxima where they have to be; false: none. `factor`: by how much what it has summed shrinks. */
static inline bool raise_maxima(const walk *w, column *c, const item *e, int n, tile_rows *logits, lanes *factor)
{
    lanes top = load(logits_of(logits, n, 0)), low = top, most, least;
    for (int part = 0; part < parts_of(e); part++) {
        extremes_of(logits_of(logits, n, part * TILE_ROWS), &most, &least);
        top = larger(top, most);
        low = smaller(low, least);
    }
    bool any = false;
    *factor = all(1);
    for (int l = 0; l < LANES; l++) {
        const float max = low[l] > -INFINITY ? top[l] * w->scale : NAN;
        if (max <= c->max[l] + SLACK)
            continue;
        (*factor)[l] = exp2_nonpositive(c->max[l] - max);
        c->max[l] = max;
        any = true;
    }
    return any;
}

static inline void shrink(const walk *w, column *c, lanes factor)
{
    for (int l = 0; l < LANES; l++)
        c->sum[l] *= (double)factor[l];
    for (int x = 0; x < 2 * w->steps * TILE_ROWS; x++) {
        float *o = (float *)c->o[x / TILE_ROWS].word[x % TILE_ROWS];
        store(o, load(o) * factor);
    }
}

/* Weights of a column for keys 16 part .. 16 part + 15; their sums are added to `sum`. */
static inline void weigh(const walk *w, const item *e, int n, int part, const between *b, lanes *sum)
{
    const lanes max = load(e->of[n]->max);
    const float *x = logits_of(b->logits, n, part * TILE_ROWS);
    uint32_t(*p)[16] = b->p[part / 2 * COLUMNS + n].word + part % 2 * 8;
    for (int pair = 0; pair < TILE_ROWS / 2; pair++, x += 2 * LANES) {
        const lanes first = exp2_lanes(load(x) * w->scale - max);
        const lanes second = exp2_lanes(load(x + LANES) * w->scale - max);
        const int_lanes pairs = pairs_of(first, second);
        *sum += first + second;
        memcpy(p[pair], &pairs, sizeof pairs);
    }
}

static inline bool shares(const item *e, const item *other)
{
    bool any = false;
    for (int n = 0; other && n < e->columns; n++)
        for (int m = 0; m < other->columns; m++)
            any = any || e->of[n] == other->of[m];
    return any;
}

/* One turn of the pipeline: the exponentials of item `now`, whose logits are in at[which], among the products of its
 * neighbours, where there are some. */
static inline void turn(tiles *t, const walk *w, const item *before, const item *now, const item *after, int which)
{
    const between *here = &w->at[which], *there = &w->at[!which];
    const int channels = before ? 2 * w->steps : 0, parts = parts_of(now);
    const bool same = shares(now, before);
    lanes sum[COLUMNS], factor;
    int done = 0; /* channels of `before` */
    for (int n = 0; n < now->columns; n++) {
        sum[n] = all(0);
        hide(now, n, here->logits);
        if (!raise_maxima(w, now->of[n], now, n, here->logits, &factor))
            continue;
        for (; same && done < channels; done++)
            multiply_values(t, w, before, done, there->p);
        shrink(w, now->of[n], factor);
        count_tiles(t, shrinks, 1);
    }
    /* [woven] */
    for (int part = 0; part < KEYS / TILE_ROWS; part++) {
        if (after && part < parts_of(after))
            multiply_keys(t, w, after, part, there->logits);
        for (int n = 0; part < parts && n < now->columns; n++)
            weigh(w, now, n, part, here, &sum[n]);
        count_tiles(t, exponentials, part < parts ? now->columns * TILE_ROWS : 0);
        for (; done < (part + 1) * channels / (KEYS / TILE_ROWS); done++)
            multiply_values(t, w, before, done, there->p);
    }
    /* [woven] */
    for (int n = 0; n < now->columns; n++)
        for (int l = 0; l < LANES; l++)
            now->of[n]->sum[l] += (double)sum[n][l];
}

/* Items that come one by one: the last three of them, and how many there were. */
typedef struct pipeline {
    item e[3];
    int64_t n;
} pipeline;

/* The next one. Its keys are read now, its values until two more have come, or the walk has ended. */
static inline void walk_on(tiles *t, const walk *w, pipeline *p, const item *next)
{
    const int64_t n = p->n++;
    const item *after = &p->e[n % 3];
    p->e[n % 3] = *next;
    for (int part = 0; n == 0 && part < parts_of(after); part++)
        multiply_keys(t, w, after, part, w->at[0].logits);
    if (n > 0)
        turn(t, w, n > 1 ? &p->e[(n - 2) % 3] : NULL, &p->e[(n - 1) % 3], after, (int)((n - 1) % 2));
}

static inline void walk_end(tiles *t, const walk *w, pipeline *p)
{
    const int64_t n = p->n - 1;
    if (n < 0)
        return;
    turn(t, w, n > 0 ? &p->e[(n - 1) % 3] : NULL, &p->e[n % 3], NULL, (int)(n % 2));
    for (int c = 0; c < 2 * w->steps; c++)
        multiply_values(t, w, &p->e[n % 3], c, w->at[n % 2].p);
    p->n = 0;
}

/* All items, in this order. */
static inline void walk_items(tiles *t, const walk *w, const item *items, int64_t n)
{
    pipeline p = {.n = 0};
    for (int64_t i = 0; i < n; i++)
        walk_on(t, w, &p, &items[i]);
    walk_end(t, w, &p);
}

#endif
