/* The queries of a chunk as columns that the backward pass on tiles asks with, 16 (query, head) rows each, and what the
 * parts of the blocks sum up for them. backward_amx.c includes this, each of its two bodies for itself. */
#ifndef MSA_ASKS_AMX_H
#define MSA_ASKS_AMX_H

#include "amx_kernels.h"
#include "heads.h"
#include "panels.h"
#include "sweep.h"

#define PIECES 16                     /* (group, part) of a chunk, at least: for the threads to share */
#define MOST_TILES ((int64_t)1 << 18) /* of dQ that all pieces add up: 256 MB */
#define MOST_QUERIES 4096
#define LEAST_QUERIES 32

/* 16 (query, head) rows. */
typedef struct ask {
    tile_rows *q, *dout; /* [steps], right factors */
    float lse[LANES];    /* NaN: float32 could not hold it; infinity: no row */
    float delta[LANES];  /* rowsum(dP * P) = dO . O */
    int64_t last[LANES]; /* the last key that a row sees */
    int64_t row[LANES];  /* of Q; -1: none */
} ask;

typedef struct shared {
    const msa_shape *s;
    const msa_arrays *a;
    sweep w;
    int slabs, parts; /* columns that hold a query's heads; parts of a group's blocks */
    int64_t columns;  /* of the chunk, a group's */
    ask *ask;         /* [Hkv][columns] */
    tile_rows *dq;    /* [Hkv parts][columns][2 steps], each [16 channels][16 rows] of float32 */
    float *excess;    /* [Hkv parts][columns][16], sums of dS: centre.c */
    bool *met; /* [Hkv parts][columns]: of columns that met none of a part's blocks, dQ is not even cleared */
    void *own;        /* scratch of every thread */
} shared;

static inline int slabs_per_query(const msa_shape *s)
{
    return (s->n_heads / s->n_kv_heads + TILE_ROWS - 1) / TILE_ROWS;
}

static inline int parts_of_group(const msa_shape *s)
{
    return (PIECES + s->n_kv_heads - 1) / s->n_kv_heads;
}

static inline int64_t queries_at_once(const msa_shape *s)
{
    const int64_t pieces = (int64_t)parts_of_group(s) * s->n_kv_heads,
                  wide = slabs_per_query(s) * 2 * steps_of(s->d_head);
    return min_i64(s->n_q, max_i64(LEAST_QUERIES, min_i64(MOST_QUERIES, MOST_TILES / (pieces * wide))));
}

static inline size_t shared_take(shared *h, const msa_shape *s, size_t own_bytes, void *work)
{
    const int64_t n = queries_at_once(s), columns = n * slabs_per_query(s), steps = steps_of(s->d_head);
    const int64_t pieces = (int64_t)parts_of_group(s) * s->n_kv_heads;
    arena a = arena_over(work);
    sweep_take(&h->w, s, n, &a);
    h->ask = arena_take(&a, s->n_kv_heads * columns, sizeof *h->ask);
    tile_rows *q = arena_take(&a, s->n_kv_heads * columns * 2 * steps, sizeof *q);
    for (int64_t c = 0; h->ask && c < s->n_kv_heads * columns; c++) {
        h->ask[c].q = q + c * 2 * steps;
        h->ask[c].dout = q + (c * 2 + 1) * steps;
    }
    h->dq = arena_take(&a, pieces * columns * 2 * steps, sizeof *h->dq);
    h->excess = arena_take(&a, pieces * columns * LANES, sizeof *h->excess);
    h->met = arena_take(&a, pieces * columns, sizeof *h->met);
    h->own = arena_take(&a, fast_max_threads(), own_bytes);
    return arena_bytes(&a);
}

/* ---- A chunk's columns ----------------------------------------------------------------------------------------------- */

/* Lane l of a group's column c is a head of query *i of the chunk; its number within the group, or -1: none. With full
 * support rows follow one another, else a query's heads have columns of their own. */
static inline int head_in(const shared *h, int64_t c, int l, int64_t *i)
{
    const int group = h->s->n_heads / h->s->n_kv_heads;
    const int64_t row = c * TILE_ROWS + l, head = c % h->slabs * TILE_ROWS + l;
    *i = h->w.full ? min_i64(h->w.n - 1, row / group) : c / h->slabs;
    if (h->w.full)
        return row < h->w.n * group ? (int)(row % group) : -1;
    return head < group ? (int)head : -1;
}

static inline void no_row(ask *x, int l, int64_t last)
{
    x->row[l] = -1;
    x->last[l] = last;
    x->lse[l] = INFINITY;
    x->delta[l] = 0;
}

static inline void open_ask(const shared *h, int r, int64_t c, float *buffer)
{
    const msa_shape *s = h->s;
    const int d = s->d_head, steps = steps_of(d);
    const uint16_t *q = h->a->q, *dout = h->a->dout;
    const float *o = h->a->o, *lse = h->a->lse;
    ask *x = &h->ask[r * h->columns + c];
    memset(x->q, 0, (size_t)steps * sizeof *x->q);
    memset(x->dout, 0, (size_t)steps * sizeof *x->dout);
    for (int l = 0; l < TILE_ROWS; l++) {
        int64_t i;
        const int head = head_in(h, c, l, &i);
        no_row(x, l, position(&h->w.seq, h->w.i0 + i));
        if (head < 0)
            continue;
        const int64_t row =
            (h->w.seq.q0 + h->w.i0 + i) * s->n_heads + r * (s->n_heads / s->n_kv_heads) + head;
        put_left(x->q, l, q + row * d, d);
        put_left(x->dout, l, dout + row * d, d);
        x->row[l] = row;
        x->lse[l] = fabsf(lse[row]) < MOST_LSE ? lse[row] : NAN;
        x->delta[l] = (float)dot(o + row * d, rows_of(halves(dout), 1, 0, d, row, 1, buffer), d);
    }
    left_to_right(x->q, steps);
    left_to_right(x->dout, steps);
}

/* What a piece has of a column: dQ^T, cleared when its first block comes, and still in a cache when products add to it. */
static inline tile_rows *meet_column(const shared *h, int64_t piece, int64_t c)
{
    const int wide = 2 * steps_of(h->s->d_head);
    const int64_t at = piece * h->columns + c;
    if (!h->met[at]) {
        memset(h->dq + at * wide, 0, (size_t)wide * sizeof *h->dq);
        memset(h->excess + at * LANES, 0, LANES * sizeof *h->excess);
        h->met[at] = true;
    }
    return h->dq + at * wide;
}

/* Sums what the parts have of a column's dQ, without what keys have in common. */
static inline void end_ask(const shared *h, int r, int64_t c, float *buffer, float *centre)
{
    const int d = h->s->d_head, wide = 2 * steps_of(d);
    const int64_t first = (int64_t)r * h->parts;
    tile_rows *sum = meet_column(h, first, c);
    float *excess = h->excess + (first * h->columns + c) * LANES, *dq = writable(h->a->dq);
    for (int64_t piece = first + 1; piece < first + h->parts; piece++) {
        const int64_t at = piece * h->columns + c;
        if (!h->met[at])
            continue;
        store(excess, load(excess) + load(h->excess + at * LANES));
        for (int x = 0; x < wide * TILE_ROWS; x++) {
            float *to = (float *)sum[x / TILE_ROWS].word[x % TILE_ROWS];
            store(to, load(to) + load((const float *)h->dq[at * wide + x / TILE_ROWS].word[x % TILE_ROWS]));
        }
    }
    int64_t known = -1, i;
    for (int l = 0; l < TILE_ROWS; l++) {
        if (head_in(h, c, l, &i) < 0)
            continue;
        if (i != known)
            cached_centre(h->s, ids_row(h->s, h->a->ids, r, h->w.seq.q0 + h->w.i0 + i),
                          position(&h->w.seq, h->w.i0 + i), halves(h->a->k), h->s->n_kv_heads, r,
                          h->w.seq.kv0, d, buffer, centre);
        known = i;
        for (int x = 0; x < d; x++) {
            float found;
            memcpy(&found, &sum[x / TILE_ROWS].word[x % TILE_ROWS][l], sizeof found);
            dq[h->ask[r * h->columns + c].row[l] * d + x] =
                (float)(1 / sqrt(d)) * (found - excess[l] * centre[x]);
        }
    }
}

#endif
