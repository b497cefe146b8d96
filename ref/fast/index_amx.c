/* Index Branch on tiles of bf16.
 *
 * The logits are turned, a key in each row and 16 (query, group) rows in the lanes: a block's maximum is taken lane by
 * lane as the products leave their tiles, and no logit is kept. There is no exponential: what is beside the products
 * is a load and a maximum for every 16 of them.
 *
 * A task is 512 rows. It walks the keys in chunks that stay in the L2 cache while its strips of 64 rows pass. A block's
 * maximum is offered to a row's list only if it exceeds the least in it, 16 rows in one comparison. Where blocks are
 * no multiple of 16 keys, a tile of keys that two share is multiplied for both. */
#include "index_amx.h"

#include "exact.h"
#include "panels.h"
#include "vector.h"

/* Rows. Of 128 channels a key is 256 bytes from memory for 128 clocks of products. On a Zen 4 128, 256, 1024 and 2048 rows
 * take 1.02, 1.01, 1.00 and 1.01 of the time. */
#define TASK 512

typedef struct scratch {
    tile_rows *q;    /* [TASK/STRIP][COLUMNS][steps] */
    float *query;    /* [2][di], one as it is, one fitted */
    uint16_t *half;  /* [di] */
    float *logits;   /* [16][STRIP] */
    float *least;    /* [TASK]: what a block has to exceed to enter a row's list; NaN: nothing */
    int32_t *faint;  /* [TASK] */
    int64_t *row;    /* [TASK], of the sequence: query row / groups of group row % groups */
    int64_t *last;   /* [TASK], the last key that a row sees */
    fitted *fit;     /* [TASK] */
    best_list *best; /* [TASK] */
    chooser again;
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int steps = steps_of(s->d_index);
    arena a = arena_over(work);
    m->q = arena_take(&a, INT64_C(1) * TASK / TILE_ROWS * steps, sizeof *m->q);
    m->query = arena_take(&a, 2 * (int64_t)s->d_index, sizeof *m->query);
    m->half = arena_take(&a, s->d_index, sizeof *m->half);
    m->logits = arena_take(&a, TILE_ROWS * STRIP, sizeof *m->logits);
    m->least = arena_take(&a, TASK, sizeof *m->least);
    m->faint = arena_take(&a, TASK, sizeof *m->faint);
    m->row = arena_take(&a, TASK, sizeof *m->row);
    m->last = arena_take(&a, TASK, sizeof *m->last);
    m->fit = arena_take(&a, TASK, sizeof *m->fit);
    m->best = best_take(s, TASK, &a);
    m->again = chooser_take(s, &a);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

size_t BODY_WORKSPACE(index_rows)(const msa_shape *s)
{
    return (size_t)fast_max_threads() * scratch_bytes(s);
}

size_t BODY_WORKSPACE(index)(const msa_shape *s)
{
    arena a = arena_over(NULL);
    arena_take(&a, index_key_tiles(s), sizeof(tile_rows));
    arena_take(&a, 1, BODY_WORKSPACE(index_rows)(s));
    return arena_bytes(&a);
}

typedef struct task {
    const msa_shape *s;
    const msa_seq *seq;
    const tile_rows *keys;
    scratch *m;
    int steps;
    int64_t rows;        /* of the task, ascending */
    float *scores;       /* NULL: not asked for */
} task;

/* What a row does not see of the 16 keys from key j on counts for nothing. */
static void hide_future(const int64_t *last, int64_t j, float *logits)
{
    for (int row = 0; row < STRIP; row++)
        for (int64_t key = max_i64(0, last[row] + 1 - j); key < TILE_ROWS; key++)
            logits[key * STRIP + row] = -INFINITY;
}

/* The maxima of a block for a strip. */
static void block_maxima(tiles *t, const task *k, int strip, int64_t block, float *max)
{
    const int64_t begin = block * k->s->block, end = min_i64(begin + k->s->block, k->seq->n_kv);
    const int64_t *last = k->m->last + strip * STRIP;
    const tile_rows *q = k->m->q + strip * COLUMNS * k->steps;
    for (int n = 0; n < STRIP; n++)
        max[n] = -INFINITY;
    /* [maxima] */
    for (int64_t j = begin / TILE_ROWS * TILE_ROWS; j < end; j += TILE_ROWS) {
        multiply_strip(t, k->keys + j / TILE_ROWS * k->steps, q, k->steps, false, k->m->logits);
        if (j + TILE_ROWS - 1 > last[0])
            hide_future(last, j, k->m->logits);
        for (int n = 0; n < STRIP; n += LANES) {
            lanes most = load(max + n);
            for (int64_t key = max_i64(0, begin - j); key < min_i64(TILE_ROWS, end - j); key++)
                most = larger(most, load(k->m->logits + key * STRIP + n));
            store(max + n, most);
        }
    }
    /* [maxima] */
}

/* A block's maximum for row `at` of the task. */
static void offer(const task *k, int at, int64_t block, float max)
{
    const msa_shape *s = k->s;
    const int64_t local = k->m->last[at] / s->block, most = min_i64(s->topk - 1, local);
    best_list *best = &k->m->best[at];
    if (block >= local)
        return;
    best_insert(best, most, max, (int32_t)block);
    k->m->least[at] = best->n == most ? (most > 0 ? best->score[most - 1] : INFINITY) : NAN;
}

static void offer_strip(const task *k, int strip, int64_t block, const float *max)
{
    for (int n = 0; n < STRIP; n += LANES) {
        const int at = strip * STRIP + n;
        const int_lanes take = ~(load(max + n) <= load(k->m->least + at));
        for (int l = 0; any_of(take) && l < LANES; l++)
            if (take[l])
                offer(k, at + l, block, max[n + l]);
    }
}

static void note_scores(const task *k, int strip, int64_t block, const float *max)
{
    const msa_shape *s = k->s;
    for (int n = 0; n < STRIP && strip * STRIP + n < k->rows; n++) {
        const int at = strip * STRIP + n;
        const int64_t of = k->m->row[at], query = k->seq->q0 + of / s->n_kv_heads;
        const int64_t to = (of % s->n_kv_heads * s->n_q + query) * msa_n_blocks(s) + block;
        if (block <= k->m->last[at] / s->block)
            k->scores[to] = (float)((double)max[n] * k->m->fit[at].unit / sqrt(s->d_index));
    }
}

/* A strip meets a block that some of its rows may choose. */
static void meet_block(tiles *t, const task *k, int strip, int64_t block)
{
    float max[STRIP];
    block_maxima(t, k, strip, block, max);
    for (int n = 0; n < STRIP; n++)
        k->m->faint[strip * STRIP + n] += fabsf(max[n] * TILES_HELD) < 0x1p-122f;
    offer_strip(k, strip, block, max);
    if (k->scores)
        note_scores(k, strip, block, max);
}

/* Row `at` of the task: fitted, which is exact in bf16 but for what is as good as 0. */
static void begin_row(const task *k, int at, const uint16_t *qi)
{
    const int d = k->s->d_index;
    const int64_t row = k->m->row[at];
    float *query = k->m->query, *fits = query + d;
    floats_of(qi + (k->seq->q0 * k->s->n_kv_heads + row) * d, d, query);
    k->m->fit[at] = fit_query(query, d, fits);
    upper_halves(k->m->half, fits, d);
    put_right(k->m->q + at / TILE_ROWS * k->steps, at % TILE_ROWS, k->m->half, d);
    k->m->best[at].n = 0;
    k->m->faint[at] = 0;
    k->m->last[at] = position(k->seq, row / k->s->n_kv_heads);
    k->m->least[at] = min_i64(k->s->topk - 1, k->m->last[at] / k->s->block) > 0 ? NAN : INFINITY;
}

static void run_task(tiles *t, const task *k, const uint16_t *qi, const uint16_t *ki, int32_t *ids)
{
    const msa_shape *s = k->s;
    const int strips = (int)((k->rows + STRIP - 1) / STRIP);
    const int64_t step = max_i64(1, CHUNK / s->block);
    const request whole = {.seq = *k->seq};
    memset(k->m->q, 0, (size_t)(strips * COLUMNS * k->steps) * sizeof *k->m->q);
    for (int r = 0; r < strips * STRIP; r++) {
        k->m->row[r] = k->m->row[min_i64(r, k->rows - 1)];
        begin_row(k, r, qi);
    }
    const int64_t blocks = k->m->last[k->rows - 1] / s->block + (k->scores != NULL);
    for (int64_t b0 = 0; b0 < blocks; b0 += step)
        for (int strip = 0; strip < strips; strip++) {
            const int64_t own = k->m->last[strip * STRIP + STRIP - 1] / s->block + (k->scores != NULL);
            for (int64_t b = b0; b < min_i64(b0 + step, own); b++)
                meet_block(t, k, strip, b);
        }
    /* Whether a row is in doubt depends on no other row: all keys that one of the sequence may ask for count. */
    const int64_t asked_for = k->scores ? k->seq->n_kv : k->seq->n_kv / s->block * s->block;
    met_keys keys = {.ki = halves(ki), .at = &whole, .n = asked_for};
    for (int r = 0; r < k->rows; r++) {
        floats_of(qi + (k->seq->q0 * s->n_kv_heads + k->m->row[r]) * s->d_index, s->d_index, k->m->query);
        k->m->fit[r].faint = k->m->faint[r];
        end_row(s, k->seq, k->m->row[r], k->m->query, &k->m->best[r], &k->m->fit[r], &keys, k->m->again,
                k->scores, ids);
    }
}

/* Keys 16 n .. 16 n + 15. */
static void pack_tile(const msa_shape *s, const msa_seq *seq, int64_t n, const uint16_t *ki, tile_rows *to)
{
    const int steps = steps_of(s->d_index), d = s->d_index;
    tile_rows *keys = to + n * steps;
    memset(keys, 0, (size_t)steps * sizeof *keys);
    for (int64_t j = n * TILE_ROWS; j < min_i64((n + 1) * TILE_ROWS, seq->n_kv); j++)
        put_left(keys, (int)(j % TILE_ROWS), ki + (seq->kv0 + j) * d, d);
}

void BODY(pack_index_keys)(const msa_shape *s, const msa_seq *seq, const uint16_t *ki, tile_rows *to)
{
#pragma omp parallel for schedule(static) num_threads(fast_threads())
    for (int64_t n = 0; n < (seq->n_kv + TILE_ROWS - 1) / TILE_ROWS; n++)
        pack_tile(s, seq, n, ki, to);
}

void BODY(index_rows)(const msa_shape *s, const msa_seq *seq, const msa_arrays *a, const tile_rows *keys,
                      const int64_t *rows, int64_t n, void *work)
{
    const int64_t tasks = (n + TASK - 1) / TASK;
#pragma omp parallel num_threads(fast_threads())
    {
        scratch m;
        tiles t;
        place(&m, s, own_part(work, scratch_bytes(s)));
        tiles_begin(&t);
        /* The last tasks are the longest: they go first. */
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks; i++) {
            const int64_t first = (tasks - 1 - i) * TASK;
            const task k = {.s = s,
                            .seq = seq,
                            .keys = keys,
                            .m = &m,
                            .steps = steps_of(s->d_index),
                            .rows = min_i64(TASK, n - first),
                            .scores = writable(a->scores)};
            for (int64_t row = 0; row < k.rows; row++)
                m.row[row] = rows ? rows[first + row] : first + row;
            run_task(&t, &k, a->qi, a->ki, writable(a->ids));
        }
        tiles_end(&t);
    }
}

msa_status BODY(index)(const msa_shape *s, const msa_arrays *a, void *work)
{
    arena all = arena_over(work);
    tile_rows *keys = arena_take(&all, index_key_tiles(s), sizeof *keys);
    void *rest = all.base + all.used;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        BODY(pack_index_keys)(s, &seq, a->ki, keys);
        BODY(index_rows)(s, &seq, a, keys, NULL, seq.n_q * s->n_kv_heads, rest);
    }
    return MSA_OK;
}
