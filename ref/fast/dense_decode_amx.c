/* A step of generation by dense attention on tiles of bf16: step_amx.h has the idea. A group's rows, the heads of all
 * queries, lie side by side in its columns. */
#include "step_amx.h"

/* Columns that hold a group's rows of n queries. */
static int group_columns(const msa_shape *s, int64_t n)
{
    return (int)((n * (s->n_heads / s->n_kv_heads) + TILE_ROWS - 1) / TILE_ROWS);
}

/* Columns of a part at most. */
static int64_t part_columns(const msa_shape *s)
{
    return (int64_t)s->n_kv_heads * group_columns(s, most_queries(s));
}

static size_t place_own(stream *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    stream_take(m, s, &a);
    return arena_bytes(&a);
}

static size_t own_bytes(const msa_shape *s)
{
    stream m;
    return place_own(&m, s, NULL);
}

typedef struct scratch {
    column *c; /* [KEY_PARTS][part_columns], of which a part has the first */
    void *own;
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->c = columns_take(part_columns(s), KEY_PARTS, s->d_head, &a);
    m->own = arena_take(&a, fast_max_threads(), own_bytes(s));
    return arena_bytes(&a);
}

size_t BODY_WORKSPACE(dense_decode)(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* Keys begin .. end - 1 meet the columns c [groups][columns] of a part, group by group as they lie in memory. */
static void meet_part(tiles *t, stream *m, const cache *x, int64_t begin, int64_t end, column *c, int columns)
{
    const int groups = x->s->n_kv_heads;
    span two[2];
    span_find(&two[0], &x->at, begin, end);
    for (int turn = 0; two[turn % 2].n > 0; turn++) {
        const span *now = &two[turn % 2];
        span *next = &two[(turn + 1) % 2];
        span_find(next, &x->at, now->j + now->n, end);
        for (int r = 0; r < groups; r++) {
            item e = pack_span(m, x, r, now, (r + 1) % groups, r + 1 < groups ? now : next);
            for (int n = 0; n < columns; n++)
                meet_item(t, m, &e, &c[r * columns + n]);
            meet_now(t, m, &e);
        }
    }
    walk_end(t, &m->w, &m->items);
}

void BODY(dense_decode)(const cache *x, const msa_arrays *a, void *work)
{
    const msa_shape *s = x->s;
    const msa_seq *seq = &x->at.seq;
    const int group = s->n_heads / s->n_kv_heads, wide = group_columns(s, seq->n_q),
              all = s->n_kv_heads * wide;
    /* Keys that every query sees are cut; what the last queries see besides goes to the last part. So every row sees
     * the first key of every part. */
    const int64_t rows = seq->n_q * group, seen = position(seq, 0) + 1, step = part_keys(seen);
    const int64_t apart = part_columns(s);
    const int parts = (int)((seen + step - 1) / step);
    scratch k;
    place(&k, s, work);
#pragma omp parallel num_threads(fast_threads())
    {
        stream m;
        tiles t;
        place_own(&m, s, own_part(k.own, own_bytes(s)));
        tiles_begin(&t);
#pragma omp for schedule(static)
        for (int r = 0; r < s->n_kv_heads; r++)
            begin_rows(k.c + r * wide, s, seq, r, 0, rows, a->q);
#pragma omp for schedule(dynamic)
        for (int part = 0; part < parts; part++) {
            column *c = k.c + part * apart;
            for (int n = 0; part > 0 && n < all; n++)
                column_again(&c[n], &k.c[n], s->d_head);
            meet_part(&t, &m, x, part * step, part + 1 < parts ? (part + 1) * step : seq->n_kv, c, wide);
        }
#pragma omp for schedule(static)
        for (int n = 0; n < all; n++) {
            const int64_t first = n % wide * TILE_ROWS;
            for (int part = 1; part < parts; part++)
                column_merge(&k.c[n], &k.c[n + part * apart], s->d_head);
            end_rows(&k.c[n], s, seq, n / wide, first, min_i64(TILE_ROWS, rows - first), writable(a->o),
                     writable(a->lse));
        }
        tiles_end(&t);
    }
}
