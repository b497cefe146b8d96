/* Steps of generation on tiles of bf16: a few queries over a long cache.
 *
 * What is cut into parts, shared by threads and merged in order is as in streams.h; a part has columns of its own
 * (walk_amx.h). A thread packs 128 keys of a group just in time, from wherever in the cache they lie, into buffers that
 * its L2 cache holds, and its columns walk them. While it packs it asks memory for the 128 that come next.
 *
 * What sets the pace, for 128 keys of a group and heads of 128 channels:
 *
 *     memory        64 KB of K and V, each once
 *     packing       3072 clocks to turn V: 16 channels of 32 keys are 32 rows widened and 64 exchanges of lanes, of
 *                   which a core does one a clock; 512 to write K, a line a clock
 *     products      1024 clocks a column: 2 x 32 of 16
 *     exponentials  about 1300 clocks a column, beside the products: 128 vectors, 20 instructions each, two a clock
 *
 * With one column, a query of up to 16 heads a group, that is 4900 clocks, or 13 bytes a clock. Memory shared by many
 * cores gives each of them less, so it sets the pace; from about 3 columns a group the exponentials outweigh the packing. */
#ifndef MSA_STEP_AMX_H
#define MSA_STEP_AMX_H

#include "streams.h"
#include "walk_amx.h"

/* ---- Keys ------------------------------------------------------------------------------------------------------------ */

/* Keys j .. j + n - 1, which one item takes, and the rows of the cache where they lie; n = 0: none. */
typedef struct span {
    int64_t j;
    int n;
    int64_t row[KEYS];
} span;

/* The one that begins with key j, before `end`. */
static inline void span_find(span *x, const request *at, int64_t j, int64_t end)
{
    x->j = j;
    x->n = (int)max_i64(0, min_i64(KEYS, end - j));
    for (int64_t i = 0, side_by_side; i < x->n; i += side_by_side) {
        const int64_t row = key_row(at, j + i);
        side_by_side = keys_together(at, j + i, j + x->n);
        for (int64_t b = 0; b < side_by_side; b++)
            x->row[i + b] = row + b;
    }
}

/* ---- Of a thread ----------------------------------------------------------------------------------------------------- */

#define RING 3 /* spans: the values of two are still to be read when a third comes */

typedef struct stream {
    walk w;
    pipeline items;
    panels ring;
    int at; /* where in the ring the next one goes */
} stream;

static inline void stream_take(stream *m, const msa_shape *s, arena *a)
{
    walk_take(&m->w, s->d_head, a);
    panels_take(&m->ring, RING * KEYS / TILE_HALVES, s->d_head, a);
    m->items.n = 0;
    m->at = 0;
}

/* Asks for keys and values from .. from + 31 of a span. */
static inline void ask_for(const cache *x, int r, const span *next, int from)
{
    const int groups = x->s->n_kv_heads, d = x->s->d_head;
    for (int i = from; i < next->n && i < from + TILE_HALVES; i++) {
        fetch(rows_ahead(x->k, groups, r, d, next->row[i], 1), 0, 1);
        fetch(rows_ahead(x->v, groups, r, d, next->row[i], 1), 0, 1);
    }
}

/* Packs a span of group r, and asks for `next`, of group next_r: an item that no column meets yet. */
static inline item pack_span(stream *m, const cache *x, int r, const span *now, int next_r, const span *next)
{
    const int64_t piece = (int64_t)m->at * (KEYS / TILE_HALVES), start = piece * 2 * m->w.steps;
    for (int i = 0; i < KEYS; i += TILE_HALVES) {
        ask_for(x, next_r, next, i);
        if (i < now->n)
            pack_rows(&m->ring, piece + i / TILE_HALVES, x->s, r, now->row + i,
                      (int)min_i64(TILE_HALVES, now->n - i), x->k.data, x->v.data);
    }
    m->at = (m->at + 1) % RING;
    return (item){.k = m->ring.k + start, .v = m->ring.v + start, .j = now->j, .n = now->n};
}

/* Those that wait meet the item. */
static inline void meet_now(tiles *t, stream *m, item *e)
{
    if (e->columns > 0)
        walk_on(t, &m->w, &m->items, e);
    e->columns = 0;
}

/* One more; four go together. */
static inline void meet_item(tiles *t, stream *m, item *e, column *c)
{
    e->of[e->columns++] = c;
    if (e->columns == COLUMNS)
        meet_now(t, m, e);
}

/* ---- Columns of a part ----------------------------------------------------------------------------------------------- */

/* Asks what `first` asks, of other keys. */
static inline void column_again(column *c, const column *first, int d)
{
    memset(c->o, 0, (size_t)(2 * steps_of(d)) * sizeof *c->o);
    for (int l = 0; l < LANES; l++) {
        c->max[l] = -INFINITY;
        c->sum[l] = 0;
        c->last[l] = first->last[l];
    }
}

/* `into` goes on where `c` ends. */
static inline void column_merge(column *into, const column *c, int d)
{
    lanes own, other;
    for (int l = 0; l < LANES; l++) {
        const float x = into->max[l], y = c->max[l], most = x > y ? x : y;
        own[l] = x < most ? exp2_nonpositive(x - most) : 1;
        other[l] = y < most ? exp2_nonpositive(y - most) : 1;
        into->sum[l] = into->sum[l] * (double)own[l] + c->sum[l] * (double)other[l];
        into->max[l] = most;
    }
    for (int row = 0; row < steps_of(d) * 2 * TILE_ROWS; row++) {
        float *o = (float *)into->o[row / TILE_ROWS].word[row % TILE_ROWS];
        store(o, load(o) * own + load((const float *)c->o[row / TILE_ROWS].word[row % TILE_ROWS]) * other);
    }
}

#endif
