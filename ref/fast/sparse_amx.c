/* Sparse attention on tiles of bf16: walk_amx.h has the idea. A query's heads of a group fill a column (16 heads
 * exactly, as MiniMax-M3 has; of fewer the rest of the lanes is lost, more take several columns), so that a column
 * meets the blocks that its query chose and no other, and nothing is masked but the future.
 *
 * Four columns should meet a block at once. By queries: four neighbours walk the union of what they chose, and those
 * that did not choose a block sit it out; their outputs stay in the L1 cache. By blocks: whoever of a task's queries
 * chose a block meets it, four at a time; outputs come and go between the caches, 16 KB a visit and 1024 clocks of
 * products. The rule takes neighbours where they fill 3 of 4 columns: a tile of keys is loaded for three products then,
 * which with each column's own is 1.33 loads a product, 11 clocks beside 16; of two it would be 1.5 and O's besides. On a
 * Zen 4 it hardly matters: by blocks takes 0.97 of the time where 66 to 73 % are filled, 0.98 with 84, 1.02 with all.
 *
 * A task's queries are those that a block is met with: random ones of 512 blocks, 16 each, fill two strips with 256 queries
 * and half a strip with 64. On a Zen 4 64, 128 and 1024 queries take 1.23, 1.07 and 1.01 of the time there; of 64 blocks,
 * where all fill strips, 0.98, 0.98 and 1.08, for the outputs of 1024 leave the cache. */
#include "walk_amx.h"

#define TASK 256 /* columns: their queries and outputs are 3 MB of 128 channels */
#define BATCH 64 /* items */
#define FILLED 0.75

typedef enum order { BY_RULE, BY_QUERIES, BY_BLOCKS } order;

typedef struct scratch {
    walk w;
    column *column;  /* [TASK] */
    item *items;     /* [BATCH] */
    int32_t *begin;  /* [B+1]: of a block's entries */
    int32_t *entry;  /* [TASK k]: queries of the task, block by block */
} scratch;

static int slabs_per_query(const msa_shape *s)
{
    return (s->n_heads / s->n_kv_heads + TILE_ROWS - 1) / TILE_ROWS;
}

/* Queries of a task: at least those of one strip. */
static int64_t queries_at_once(const msa_shape *s)
{
    return max_i64(COLUMNS, TASK / slabs_per_query(s));
}

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t queries = queries_at_once(s);
    arena a = arena_over(work);
    walk_take(&m->w, s->d_head, &a);
    m->column = columns_take(queries * slabs_per_query(s), 1, s->d_head, &a);
    m->items = arena_take(&a, BATCH, sizeof *m->items);
    m->begin = arena_take(&a, msa_n_blocks(s) + 1, sizeof *m->begin);
    m->entry = arena_take(&a, queries * s->topk, sizeof *m->entry);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

typedef struct shared {
    panels x;
    uint8_t *chosen; /* pieces in blocks that somebody chose */
} shared;

static void place_shared(shared *h, const msa_shape *s, arena *a)
{
    const int64_t pieces = pieces_of(longest_kv(s));
    panels_take(&h->x, pieces, s->d_head, a);
    h->chosen = arena_take(a, pieces, sizeof *h->chosen);
}

size_t BODY_WORKSPACE(sparse)(const msa_shape *s)
{
    shared h;
    arena a = arena_over(NULL);
    place_shared(&h, s, &a);
    arena_take(&a, fast_max_threads(), scratch_bytes(s));
    return arena_bytes(&a);
}

/* ---- A task: queries i0 .. i0 + n - 1 of a group --------------------------------------------------------------------- */

typedef struct task {
    const msa_shape *s;
    const msa_seq *seq;
    const shared *h;
    const int32_t *ids;
    scratch *m;
    tiles *t;
    int r;
    int64_t i0, n;
    int waiting; /* items */
} task;

/* What query i of the task chose. */
static const int32_t *choice_of(const task *k, int64_t i)
{
    return ids_row(k->s, k->ids, k->r, k->seq->q0 + k->i0 + i);
}

static void flush(task *k)
{
    walk_items(k->t, &k->m->w, k->m->items, k->waiting);
    k->waiting = 0;
}

/* Columns of[0 .. n-1] meet a block. */
static void meet(task *k, int64_t block, column *const *of, int n)
{
    const msa_shape *s = k->s;
    const int64_t end = min_i64((block + 1) * s->block, k->seq->n_kv);
    for (int64_t j = block * s->block; j < end;) {
        if (k->waiting == BATCH)
            flush(k);
        item *e = &k->m->items[k->waiting++];
        j = item_begin(e, &k->h->x, k->m->w.steps, j, end);
        e->columns = n;
        memcpy(e->of, of, (size_t)n * sizeof *of);
    }
}

/* What queries i .. i + n - 1 chose. */
static void choices_of(const task *k, int64_t i, int n, const int32_t *row[COLUMNS])
{
    for (int b = 0; b < n; b++)
        row[b] = choice_of(k, i + b);
}

/* Neighbours walk the union of what they chose. */
static void by_queries(task *k)
{
    const int slabs = slabs_per_query(k->s), wide = (int)max_i64(1, COLUMNS / slabs);
    for (int64_t i = 0; i < k->n; i += wide) {
        const int n = (int)min_i64(wide, k->n - i);
        const int32_t *row[COLUMNS];
        int at[COLUMNS] = {0};
        uint32_t who = 0;
        choices_of(k, i, n, row);
        for (int64_t block; (block = next_block(row, k->s->topk, n, at, &who)) < INT64_MAX;) {
            column *of[COLUMNS];
            int filled = 0;
            for (int b = 0; b < n; b++)
                for (int slab = 0; (who >> b & 1) && slab < slabs; slab++) {
                    of[filled++] = &k->m->column[(i + b) * slabs + slab];
                    if (filled == COLUMNS) {
                        meet(k, block, of, filled);
                        filled = 0;
                    }
                }
            if (filled > 0)
                meet(k, block, of, filled);
        }
        flush(k);
    }
}

/* Queries of each block of the task: a count, sums, then each in its place. */
static void list_entries(const task *k)
{
    const int64_t blocks = msa_n_blocks(k->s);
    int32_t *begin = k->m->begin;
    memset(begin, 0, (size_t)(blocks + 1) * sizeof *begin);
    for (int64_t i = 0; i < k->n; i++)
        for (int n = 0; n < k->s->topk && choice_of(k, i)[n] >= 0; n++)
            begin[choice_of(k, i)[n] + 1]++;
    for (int64_t b = 0; b < blocks; b++)
        begin[b + 1] += begin[b];
    for (int64_t i = 0; i < k->n; i++)
        for (int n = 0; n < k->s->topk && choice_of(k, i)[n] >= 0; n++)
            k->m->entry[begin[choice_of(k, i)[n]]++] = (int32_t)i;
}

static void by_blocks(task *k)
{
    const int slabs = slabs_per_query(k->s);
    list_entries(k); /* begin[b] is where b ends now */
    int32_t at = 0;
    for (int64_t block = 0; block < msa_n_blocks(k->s); block++) {
        column *of[COLUMNS];
        int filled = 0;
        for (; at < k->m->begin[block]; at++)
            for (int slab = 0; slab < slabs; slab++) {
                of[filled++] = &k->m->column[k->m->entry[at] * slabs + slab];
                if (filled == COLUMNS) {
                    meet(k, block, of, filled);
                    filled = 0;
                }
            }
        if (filled > 0)
            meet(k, block, of, filled);
    }
    flush(k);
}

/* Whether neighbours fill their columns: visits of the union's blocks over what they could be. */
static bool neighbours_agree(const task *k)
{
    const int wide = (int)max_i64(1, COLUMNS / slabs_per_query(k->s));
    int64_t visits = 0, places = 0;
    for (int64_t i = 0; i < k->n; i += wide) {
        const int n = (int)min_i64(wide, k->n - i);
        const int32_t *row[COLUMNS];
        int at[COLUMNS] = {0};
        uint32_t who = 0;
        choices_of(k, i, n, row);
        while (next_block(row, k->s->topk, n, at, &who) < INT64_MAX) {
            for (int b = 0; b < n; b++)
                visits += who >> b & 1;
            places += wide;
        }
    }
    return (double)visits >= FILLED * (double)places;
}

static void begin_columns(const task *k, const uint16_t *q)
{
    const int slabs = slabs_per_query(k->s), group = k->s->n_heads / k->s->n_kv_heads;
    for (int64_t i = 0; i < k->n; i++)
        begin_rows(&k->m->column[i * slabs], k->s, k->seq, k->r, (k->i0 + i) * group, group, q);
}

static void end_columns(const task *k, float *o, float *lse)
{
    const int slabs = slabs_per_query(k->s), group = k->s->n_heads / k->s->n_kv_heads;
    for (int64_t i = 0; i < k->n; i++)
        end_rows(&k->m->column[i * slabs], k->s, k->seq, k->r, (k->i0 + i) * group, group, o, lse);
}

/* ---- A call -------------------------------------------------------------------------------------------------------------- */

static void mark_chosen(const msa_shape *s, const msa_seq *seq, int r, const int32_t *ids, uint8_t *chosen)
{
    memset(chosen, 0, (size_t)pieces_of(seq->n_kv));
    for (int64_t i = 0; i < seq->n_q; i++) {
        const int32_t *id = ids_row(s, ids, r, seq->q0 + i);
        for (int entry = 0; entry < s->topk && id[entry] >= 0; entry++) {
            const int64_t first = id[entry] * (int64_t)s->block / TILE_HALVES;
            const int64_t last = (min_i64((id[entry] + INT64_C(1)) * s->block, seq->n_kv) - 1) / TILE_HALVES;
            memset(chosen + first, 1, (size_t)(last - first + 1));
        }
    }
}

static void attend(const msa_shape *s, const msa_seq *seq, int r, const msa_arrays *a, const shared *h, order by,
                   void *work)
{
    const int64_t step = queries_at_once(s), tasks = (seq->n_q + step - 1) / step;
    mark_chosen(s, seq, r, a->ids, h->chosen);
#pragma omp parallel num_threads(fast_threads())
    {
        scratch m;
        tiles t;
        place(&m, s, own_part(work, scratch_bytes(s)));
        tiles_begin(&t);
#pragma omp for schedule(dynamic, 16)
        for (int64_t piece = 0; piece < pieces_of(seq->n_kv); piece++)
            if (h->chosen[piece])
                pack_piece(&h->x, piece, s, seq, r, a->k, a->v);
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < tasks; n++) {
            task k = {.s = s, .seq = seq, .h = h, .ids = a->ids, .m = &m, .t = &t, .r = r, .i0 = n * step};
            k.n = min_i64(step, seq->n_q - k.i0);
            begin_columns(&k, a->q);
            if (by == BY_QUERIES || (by == BY_RULE && neighbours_agree(&k)))
                by_queries(&k);
            else
                by_blocks(&k);
            end_columns(&k, writable(a->o), writable(a->lse));
        }
        tiles_end(&t);
    }
}

static msa_status attend_all(const msa_shape *s, const msa_arrays *a, order by, void *work)
{
    shared h;
    arena all = arena_over(work);
    place_shared(&h, s, &all);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int r = 0; r < s->n_kv_heads; r++)
            attend(s, &seq, r, a, &h, by, all.base + all.used);
    }
    return MSA_OK;
}

msa_status BODY(sparse)(const msa_shape *s, const msa_arrays *a, void *work)
{
    return attend_all(s, a, BY_RULE, work);
}

msa_status BODY(sparse_queries)(const msa_shape *s, const msa_arrays *a, void *work)
{
    return attend_all(s, a, BY_QUERIES, work);
}

msa_status BODY(sparse_blocks)(const msa_shape *s, const msa_arrays *a, void *work)
{
    return attend_all(s, a, BY_BLOCKS, work);
}
