/* A step of generation on tiles of bf16: a few new queries score the blocks of a long cache, choose, and attend to what
 * they chose; step_amx.h has the idea of the last. The queries of a group walk the union of their blocks, each of which
 * is packed once for those that chose it.
 *
 * Scores: the index queries of all groups are the lanes of columns, 16 index keys a tile, and a block's maximum is taken
 * lane by lane (index_amx.c). Keys are left factors where they lie, if 16 are side by side and their width is a multiple
 * of 32; others are packed. Of 128 channels 16 keys are 4 KB, and a column's products take 64 clocks: up to 16 columns,
 * 256 rows, memory sets the pace wherever a core gets less than 4 bytes a clock.
 *
 * Keys of 8 bits (E4M3) are exact in bf16 without their scale, by which the logits are multiplied. */
#include "../stages.h"
#include "step_amx.h"
#include "step_screen_amx.h"

#define FAR HEADS_KEYS /* index keys between what is scored and what is asked for */

/* ---- Index ----------------------------------------------------------------------------------------------------------- */

/* Of a thread. */
typedef struct own {
    stream m;
    tile_rows *keys;   /* [steps], 16 of the index */
    tile_rows *logits; /* [COLUMNS] */
    uint16_t *half;    /* [di] */
    best_list *best;
    chooser again;
} own;

static size_t place_own(own *o, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    stream_take(&o->m, s, &a);
    o->keys = arena_take(&a, steps_of(s->d_index), sizeof *o->keys);
    o->logits = arena_take(&a, COLUMNS, sizeof *o->logits);
    o->half = arena_take(&a, s->d_index, sizeof *o->half);
    o->best = best_take(s, 1, &a);
    o->again = chooser_take(s, &a);
    return arena_bytes(&a);
}

static size_t own_bytes(const msa_shape *s)
{
    own o;
    return place_own(&o, s, NULL);
}

/* What the queries of a group chose. */
typedef struct united {
    int n;
    int32_t *block; /* ascending */
    uint32_t *who;  /* a bit a query */
} united;

typedef struct scratch {
    scorer y;
    screener by8;     /* where the cache has an 8-bit copy */
    float *qi;        /* [n,groups,di], the request's */
    tile_rows *right; /* the same fitted, right factors [columns][steps] */
    float least;      /* of the request's index keys */
    united *of;       /* [groups] */
    column *c;        /* [parts][n,groups,slabs] */
    void *own;
} scratch;

/* Columns that hold the index queries. */
static int64_t index_columns(const msa_shape *s, int64_t n)
{
    return (n * s->n_kv_heads + TILE_ROWS - 1) / TILE_ROWS;
}

/* Columns of a part at most, and blocks of a union. */
static int64_t part_columns(const msa_shape *s)
{
    return most_queries(s) * s->n_kv_heads * slabs_of(s);
}
static int64_t most_blocks(const msa_shape *s)
{
    return min_i64(msa_n_blocks(s), most_queries(s) * slots_of(s));
}

/* Blocks of a part of a union of n; the parts. */
static int part_blocks(int64_t n)
{
    return (int)max_i64(PART_BLOCKS, (n + KEY_PARTS - 1) / KEY_PARTS);
}
static int parts_of_union(int64_t n)
{
    return (int)((n + part_blocks(n) - 1) / part_blocks(n));
}

static int most_parts(const msa_shape *s)
{
    return (int)min_i64(KEY_PARTS, (most_blocks(s) + PART_BLOCKS - 1) / PART_BLOCKS);
}

static size_t place(scratch *k, const msa_shape *s, void *work)
{
    const int64_t n = most_queries(s);
    arena a = arena_over(work);
    scorer_take(&k->y, s, &a);
    screener_take(&k->by8, s, &a);
    k->qi = arena_take(&a, n * s->n_kv_heads * s->d_index, sizeof *k->qi);
    k->right = arena_take(&a, index_columns(s, n) * steps_of(s->d_index), sizeof *k->right);
    k->of = arena_take(&a, s->n_kv_heads, sizeof *k->of);
    int32_t *block = arena_take(&a, s->n_kv_heads * most_blocks(s), sizeof *block);
    uint32_t *who = arena_take(&a, s->n_kv_heads * most_blocks(s), sizeof *who);
    for (int r = 0; k->of && r < s->n_kv_heads; r++)
        k->of[r] = (united){0, block + r * most_blocks(s), who + r * most_blocks(s)};
    k->c = columns_take(part_columns(s), most_parts(s), s->d_head, &a);
    k->own = arena_take(&a, fast_max_threads(), own_bytes(s));
    return arena_bytes(&a);
}

size_t BODY_WORKSPACE(decode)(const msa_shape *s)
{
    scratch k;
    return place(&k, s, NULL);
}

#define E4M3_LEAST 0x1p-9f

/* The request's queries, fitted: exact in bf16 but for what is as good as 0. */
static void begin_scores(scratch *k, const cache *x, const uint16_t *qi, cached ki, uint16_t *half)
{
    const msa_shape *s = x->s;
    const int d = s->d_index, steps = steps_of(d);
    const int64_t rows = x->at.seq.n_q * s->n_kv_heads;
    scorer_begin(&k->y, x, rows_of(halves(qi), 1, 0, d, x->at.seq.q0 * s->n_kv_heads, rows, k->qi), ki,
                 ki.scale ? 1 : TILES_HELD);
    memset(k->right, 0, (size_t)(index_columns(s, x->at.seq.n_q) * steps) * sizeof *k->right);
    for (int64_t row = 0; row < rows; row++) {
        upper_halves(half, k->y.fitted_qi + row * d, d);
        put_right(k->right + row / TILE_ROWS * steps, (int)(row % TILE_ROWS), half, d);
        /* A scale may be so large that products which the tiles take for 0 count. */
        if (ki.scale && k->y.fit[row].least * E4M3_LEAST < FLT_MIN)
            k->y.fit[row].least = 0;
    }
}

/* An exponent's bias is 7 in E4M3 and 127 in bf16. */
static void halves_of_e4m3(uint16_t *to, const uint8_t *from, int d)
{
    for (int c = 0; c < d; c++) {
        const uint32_t sign = (from[c] & 0x80u) << 8, rest = from[c] & 0x7fu;
        const uint32_t small = (uint32_t)to_bits((float)rest * E4M3_LEAST) >> 16;
        to[c] = (uint16_t)(sign | (rest == 0x7f ? 0x7fc0 : rest < 8 ? small : (rest << 4) + (120u << 7)));
    }
}

/* n <= 16 index keys that lie side by side, as left factors. */
static left_rows index_keys(const scorer *y, int64_t row, int64_t n, const own *o)
{
    const int d = y->s->d_index;
    const uint16_t *ki = (const uint16_t *)y->ki.data + (y->ki.scale ? 0 : row * d);
    if (!y->ki.scale && n == TILE_ROWS && d % TILE_HALVES == 0)
        return (left_rows){ki, d * (int64_t)sizeof *ki, TILE_BYTES};
    memset(o->keys, 0, (size_t)steps_of(d) * sizeof *o->keys);
    for (int i = 0; i < n; i++) {
        if (y->ki.scale)
            halves_of_e4m3(o->half, (const uint8_t *)y->ki.data + (row + i) * d, d);
        put_left(o->keys, i, y->ki.scale ? o->half : ki + i * d, d);
    }
    return (left_rows){o->keys, TILE_BYTES, sizeof *o->keys};
}

/* The maxima of a block for `wide` columns. */
static void block_maxima(tiles *t, const scorer *y, const tile_rows *right, int wide, int64_t block,
                         const own *o, lanes max[COLUMNS])
{
    const int d = y->s->d_index, steps = steps_of(d);
    const int64_t end = (block + 1) * y->s->block;
    const tile_rows *q[COLUMNS] = {NULL};
    for (int b = 0; b < wide; b++) {
        q[b] = right + b * steps;
        max[b] = all(-INFINITY);
    }
    for (int64_t j = block * y->s->block, n; j < end; j += n) {
        const run keys = run_at(&y->at, j, end), far = run_at(&y->at, j + FAR, y->at.seq.n_kv);
        const float scale = y->ki.scale ? y->ki.scale[keys.row / y->ki.piece] : 1;
        n = min_i64(TILE_ROWS, keys.n);
        fetch(rows_ahead(y->ki, 1, 0, d, far.row, far.n), 0, n);
        multiply_columns(t, steps, index_keys(y, keys.row, n, o), q, wide, false, o->logits);
        for (int b = 0; b < wide; b++)
            for (int64_t i = 0; i < n; i++)
                max[b] = larger(max[b], load((const float *)o->logits[b].word[i]) * scale);
    }
}

static void score_block(tiles *t, const scorer *y, const tile_rows *right, int64_t block, const own *o)
{
    const int64_t rows = y->at.seq.n_q * y->s->n_kv_heads, blocks = msa_n_blocks(y->s);
    for (int64_t first = 0; first < rows; first += COLUMNS * TILE_ROWS) {
        const int64_t n = min_i64(COLUMNS * TILE_ROWS, rows - first);
        lanes max[COLUMNS];
        block_maxima(t, y, right + first / TILE_ROWS * steps_of(y->s->d_index),
                     (int)((n + TILE_ROWS - 1) / TILE_ROWS), block, o, max);
        for (int64_t i = 0; i < n; i++)
            y->scores[(first + i) * blocks + block] = max[i / TILE_ROWS][i % TILE_ROWS];
    }
}

/* A block that a row asks for is scored for all; to a row that did not ask it is none. */
static void settle_block(tiles *t, const scratch *k, int64_t block, const own *o)
{
    const int64_t blocks = msa_n_blocks(k->y.s);
    bool asked = false;
    for (int64_t row = 0; row < k->by8.rows; row++)
        asked = asked || asks_for(&k->by8, row, block);
    if (asked)
        score_block(t, &k->y, k->right, block, o);
    for (int64_t row = 0; row < k->by8.rows; row++)
        if (!asks_for(&k->by8, row, block))
            k->y.scores[row * blocks + block] = -INFINITY;
}

/* ---- Attention ------------------------------------------------------------------------------------------------------- */

static void unite(const msa_seq *seq, const msa_shape *s, const int32_t *ids, int r, united *of)
{
    const int32_t *row[FEW];
    int at[FEW] = {0};
    uint32_t who;
    for (int i = 0; i < seq->n_q; i++)
        row[i] = ids_row(s, ids, r, seq->q0 + i);
    of->n = 0;
    for (int64_t block; (block = next_block(row, s->topk, (int)seq->n_q, at, &who)) < INT64_MAX; of->n++) {
        of->block[of->n] = (int32_t)block;
        of->who[of->n] = who;
    }
}

/* Blocks first .. last - 1 of a union, span by span. */
typedef struct spans {
    const cache *x;
    const united *of;
    int next, last;
    int64_t j, end; /* of the block */
} spans;

/* Who meets it. */
static uint32_t next_span(spans *c, span *to)
{
    const int64_t block = c->x->s->block;
    if (c->j == c->end && c->next < c->last) {
        c->j = c->of->block[c->next++] * block;
        c->end = min_i64(c->j + block, c->x->at.seq.n_kv);
    }
    span_find(to, &c->x->at, c->j, c->end);
    c->j += to->n;
    return to->n > 0 ? c->of->who[c->next - 1] : 0;
}

static uint32_t who_meets(const united *of, int part)
{
    const int first = part * part_blocks(of->n);
    uint32_t who = 0;
    for (int n = first; n < min_i64(of->n, first + part_blocks(of->n)); n++)
        who |= of->who[n];
    return who;
}

/* The columns of query i and group r in a part. */
static column *columns_of(const scratch *k, const msa_shape *s, int64_t i, int r, int part)
{
    return k->c + part * part_columns(s) + (i * s->n_kv_heads + r) * slabs_of(s);
}

static void begin_part(const scratch *k, const cache *x, int r, int part)
{
    const uint32_t who = who_meets(&k->of[r], part);
    for (int i = 0; part > 0 && i < x->at.seq.n_q; i++)
        for (int slab = 0; (who >> i & 1) && slab < slabs_of(x->s); slab++)
            column_again(columns_of(k, x->s, i, r, part) + slab, columns_of(k, x->s, i, r, 0) + slab,
                         x->s->d_head);
}

/* A part of what group r chose; nothing of one that is not there. */
static void meet_part(tiles *t, stream *m, const cache *x, const scratch *k, int r, int part)
{
    const united *of = &k->of[r];
    const int first = part * part_blocks(of->n);
    spans all = {.x = x, .of = of, .next = first, .last = (int)min_i64(of->n, first + part_blocks(of->n))};
    span two[2];
    uint32_t who[2] = {next_span(&all, &two[0]), 0};
    for (int turn = 0; who[turn % 2]; turn++) {
        who[(turn + 1) % 2] = next_span(&all, &two[(turn + 1) % 2]);
        item e = pack_span(m, x, r, &two[turn % 2], r, &two[(turn + 1) % 2]);
        for (int i = 0; i < x->at.seq.n_q; i++)
            for (int slab = 0; (who[turn % 2] >> i & 1) && slab < slabs_of(x->s); slab++)
                meet_item(t, m, &e, columns_of(k, x->s, i, r, part) + slab);
        meet_now(t, m, &e);
    }
    walk_end(t, &m->w, &m->items);
}

/* The columns of query i in the first part go on where those of other parts end. */
static void merge_parts(const scratch *k, const msa_shape *s, int64_t i, int r)
{
    for (int part = 1; part < parts_of_union(k->of[r].n); part++)
        for (int slab = 0; (who_meets(&k->of[r], part) >> i & 1) && slab < slabs_of(s); slab++)
            column_merge(columns_of(k, s, i, r, 0) + slab, columns_of(k, s, i, r, part) + slab, s->d_head);
}

/* ---- The step -------------------------------------------------------------------------------------------------------- */

static cached index_cache(const msa_shape *s, const msa_arrays *a)
{
    const msa_pages *p = &a->pages;
    return has_pages(a) && p->ki8 ? (cached){p->ki8, false, p->scale, piece_tokens(s, p)} : halves(a->ki);
}

/* Scores of all blocks before the last row's own, for whom they may matter. All threads call this. */
static void score_blocks(tiles *t, const cache *x, const msa_arrays *a, scratch *k, const own *o)
{
    const msa_shape *s = x->s;
    const int64_t end = position(&x->at.seq, x->at.seq.n_q - 1) / s->block;
    if (!a->index8 || k->y.ki.scale) {
#pragma omp for schedule(static)
        for (int64_t b = 0; b < end; b++)
            score_block(t, &k->y, k->right, b, o);
        return;
    }
#pragma omp single
    {
        screener_begin(&k->by8, x, a, k->y.qi);
        k->least = least_before(&k->by8, end);
    }
#pragma omp for schedule(static)
    for (int64_t b = 0; b < end; b++)
        screen_block(t, &k->by8, b, FAR, o->keys, o->logits);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < k->by8.rows; row++)
        find_tau(&k->by8, row, &k->y.fit[row], k->least, o->best);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < end; b++)
        settle_block(t, k, b, o);
#pragma omp single
    if (a->screening) {
        const msa_screening done = screened_rows(&k->by8);
        screening_add(a->screening, &done);
    }
}

void BODY(decode)(const cache *x, const msa_arrays *a, void *work)
{
    const msa_shape *s = x->s;
    const msa_seq *seq = &x->at.seq;
    const int groups = s->n_kv_heads, group = s->n_heads / groups, slabs = slabs_of(s), parts = most_parts(s);
    const int64_t rows = seq->n_q * groups;
    int32_t *ids = writable(a->ids);
    scratch k;
    place(&k, s, work);
#pragma omp parallel num_threads(fast_threads())
    {
        own o;
        tiles t;
        place_own(&o, s, own_part(k.own, own_bytes(s)));
        tiles_begin(&t);
#pragma omp single
        begin_scores(&k, x, a->qi, index_cache(s, a), o.half);
        score_blocks(&t, x, a, &k, &o);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < rows; n++) {
            topk_blocks(&k.y, n, o.best, o.again, ids);
            begin_rows(k.c + n * slabs, s, seq, (int)(n % groups), n / groups * group, group, a->q);
        }
#pragma omp for schedule(static)
        for (int r = 0; r < groups; r++)
            unite(seq, s, ids, r, &k.of[r]);
#pragma omp for schedule(dynamic)
        for (int n = 0; n < groups * parts; n++) {
            begin_part(&k, x, n / parts, n % parts);
            meet_part(&t, &o.m, x, &k, n / parts, n % parts);
        }
#pragma omp for schedule(static)
        for (int64_t n = 0; n < rows; n++) {
            const int r = (int)(n % groups);
            merge_parts(&k, s, n / groups, r);
            end_rows(k.c + n * slabs, s, seq, r, n / groups * group, group, writable(a->o), writable(a->lse));
        }
        tiles_end(&t);
    }
}

#ifndef TILES
const bool multiplies_bf16_plain = ADDS_PAIRS;
#endif
