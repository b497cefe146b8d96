/* Index Branch in 8 bits on tiles, exact: ../index8.c has the mathematics and the proof.
 *
 * Screen: the walk of index_amx.c with integer products, at twice the rate, of codes. A block's maximum X gives 16 rows
 * at once their bounds t s X -+ eps. A row keeps its best lower bounds, the least of which, tau, rises as blocks come,
 * and a list of the blocks whose upper bound was not below it. A list that is full is filtered by the tau of the moment;
 * one that stays full makes its row one for index_amx.c: slower, never wrong.
 *
 * Settle: turned around. The rows of a task that ask for a block are gathered, 16 at a time, and meet its full keys in
 * the very products that index_amx.c would have computed, so that ids are equal bit for bit. A task is many rows, that
 * many ask for the same block.
 *
 * Of float32 keys the candidates of a row are scored in double, as the reference does it: its ids are the reference's.
 *
 * screen_amx.h has the bounds, screen_walk_amx.h the walk. */
#include "screen_walk_amx.h"

static size_t take_shared(shared *h, const msa_shape *s, void *work)
{
    const int64_t rows = s->n_q * s->n_kv_heads, blocks = msa_n_seqs(s) * msa_n_blocks(s);
    arena a = arena_over(work);
    h->keys = arena_take(&a, index_key_tiles(s), sizeof *h->keys);
    h->codes =
        arena_take(&a, index_key_tiles(s) / steps_of(s->d_index) * steps8_of(s->d_index), sizeof *h->codes);
    h->bound = arena_take(&a, msa_n_blocks(s), sizeof *h->bound);
    h->copy.codes = arena_take(&a, s->n_kv * s->d_index, 1);
    h->copy.scale = arena_take(&a, blocks, sizeof *h->copy.scale);
    h->copy.reach = arena_take(&a, blocks, sizeof *h->copy.reach);
    h->copy.error = arena_take(&a, blocks, sizeof *h->copy.error);
    h->copy.least = arena_take(&a, blocks, sizeof *h->copy.least);
    h->row = arena_take(&a, rows, sizeof *h->row);
    h->fell = arena_take(&a, rows, sizeof *h->fell);
    h->own = arena_share(&a, (size_t)fast_max_threads() * scratch_bytes(s));
    arena_share(&a, screen_copy_workspace(s));
    arena_share(&a, BODY_WORKSPACE(index_rows)(s));
    return arena_bytes(&a);
}

size_t BODY_WORKSPACE(index_screened)(const msa_shape *s)
{
    shared h;
    return take_shared(&h, s, NULL);
}

/* ---- Settle --------------------------------------------------------------------------------------------------------- */

/* Candidates in the order of their blocks. */
static void sort_asking(const task *k, int64_t blocks)
{
    const int64_t most = most_candidates(k->s);
    int64_t *first = k->m->first;
    memset(first, 0, (size_t)(blocks + 1) * sizeof *first);
    for (int64_t row = 0; row < k->rows; row++)
        for (int32_t n = 0; n < k->m->n[row]; n++)
            first[k->m->list[row * most + n].block + 1]++;
    for (int64_t b = 0; b < blocks; b++)
        first[b + 1] += first[b];
    for (int64_t row = 0; row < k->rows; row++)
        for (int32_t n = 0; n < k->m->n[row]; n++)
            k->m->asking[first[k->m->list[row * most + n].block]++] = (uint32_t)(row * most + n);
    memmove(first + 1, first, (size_t)blocks * sizeof *first);
    first[0] = 0;
}

/* The scores of a block for n <= 16 rows that ask for it: one column of index_amx.c's products. */
static void settle_few(tiles *t, const task *k, int64_t block, const uint32_t *asking, int n)
{
    const int64_t most = most_candidates(k->s), begin = block * k->s->block, end = begin + k->s->block;
    const int64_t halves_of_row = (int64_t)k->steps * TILE_HALVES;
    tile_rows *q = k->m->asks;
    lanes max = all(-INFINITY);
    for (int row = 0; row < TILE_ROWS; row++)
        for (int step = 0; step < k->steps; step++)
            memcpy(q[step].word[row],
                   k->m->full + asking[row < n ? row : 0] / most * halves_of_row + step * TILE_HALVES,
                   TILE_BYTES);
    left_to_right(q, k->steps);
    for (int64_t j = begin / TILE_ROWS * TILE_ROWS; j < end; j += TILE_ROWS) {
        const tile_rows *keys = k->h->keys + j / TILE_ROWS * k->steps;
        tile_zero(t, 0);
        for (int step = 0; step < k->steps; step++) {
            tile_load(t, 4, keys + step, TILE_BYTES);
            tile_load(t, 5, q + step, TILE_BYTES);
            tile_bf16(t, 0, 4, 5);
        }
        tile_store(t, 0, k->m->logits, TILE_ROWS * sizeof *k->m->logits);
        for (int64_t key = max_i64(0, begin - j); key < min_i64(TILE_ROWS, end - j); key++)
            max = larger(max, load(k->m->logits + key * TILE_ROWS));
    }
    for (int i = 0; i < n; i++)
        k->m->list[asking[i]].value = max[i];
}

static void settle(tiles *t, task *k)
{
    const int64_t blocks = k->m->last[k->rows - 1] / k->s->block;
    for (int64_t row = 0; row < k->rows; row++)
        if (k->m->n[row] > 0)
            k->m->n[row] =
                candidates_filter(k->m->list + row * most_candidates(k->s), k->m->n[row], k->m->tau[row]);
    for (int64_t row = 0; row < k->rows; row++)
        k->done.settled += max_i64(0, k->m->n[row]);
    if (k->floats)
        return; /* row by row, where they are written */
    sort_asking(k, blocks);
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t i = k->m->first[b]; i < k->m->first[b + 1]; i += TILE_ROWS)
            settle_few(t, k, b, k->m->asking + i, (int)min_i64(TILE_ROWS, k->m->first[b + 1] - i));
}

/* ---- Rows ------------------------------------------------------------------------------------------------------------- */

static void read_query(const task *k, int64_t row, float *to)
{
    const int d = k->s->d_index;
    const int64_t at = (k->seq->q0 * k->s->n_kv_heads + k->first + row) * d;
    if (k->floats)
        memcpy(to, (const float *)k->a->qi + at, (size_t)d * sizeof *to);
    else
        floats_of((const uint16_t *)k->a->qi + at, d, to);
}

static void begin_row(task *k, int64_t row)
{
    scratch *m = k->m;
    const int d = k->s->d_index;
    const int64_t keep = k->s->topk - 1;
    m->last[row] = position(k->seq, (k->first + row) / k->s->n_kv_heads);
    const int64_t local = m->last[row] / k->s->block;
    m->best[row].n = 0;
    m->n[row] = 0;
    read_query(k, row, m->query);
    screened_row(m->rows, row, m->query, d, 1, m->codes, m->room);
    put_codes(m->q + row / TILE_ROWS * k->steps8, row % TILE_ROWS, m->codes, d);
    m->fit[row] = fit_query(m->query, d, m->query + d);
    upper_halves(m->full + row * k->steps * TILE_HALVES, m->query + d, d);
    const bool chooses = keep > 0 && local > keep;
    if (!chooses || d > WIDEST || (!k->floats && may_vanish(&m->fit[row], k->h->least)))
        m->n[row] = chooses ? FELL : TAKES_ALL;
    m->tau[row] = m->n[row] == 0 ? NAN : INFINITY;
    k->done.rows += chooses;
    k->done.blocks += chooses ? local : 0;
}

/* A row's ids, by the settled scores of its candidates. */
static void write_row(const task *k, int64_t row, int64_t local, int32_t *ids)
{
    const candidate *list = k->m->list + row * most_candidates(k->s);
    const int64_t keep = min_i64(k->s->topk - 1, local);
    best_list *best = &k->m->best[row];
    best->n = 0;
    for (int64_t b = 0; k->m->n[row] == TAKES_ALL && b < keep; b++)
        best_insert(best, keep, 0, (int32_t)b);
    for (int32_t n = 0; n < k->m->n[row]; n++)
        best_insert(best, keep, list[n].value, list[n].block);
    if (k->m->n[row] != FELL)
        best_write(k->s, best, local, ids);
}

/* The same where keys are float32. */
static void write_row_of_floats(const task *k, int64_t row, int64_t local, int32_t *ids)
{
    const msa_shape *s = k->s;
    const float *keys = (const float *)k->a->ki + k->seq->kv0 * s->d_index;
    const candidate *list = k->m->list + row * most_candidates(s);
    const int64_t n = k->m->n[row], keep = min_i64(s->topk - 1, local);
    const request whole = {.seq = *k->seq};
    read_query(k, row, k->m->query);
    if (n < 0) {
        choose_again(s, &whole, k->m->last[row], k->m->query, floats(k->a->ki), k->m->again, NULL, ids);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        k->m->m[i] = -INFINITY;
        for (int64_t j = list[i].block * (int64_t)s->block; j < (list[i].block + INT64_C(1)) * s->block;
             j++) {
            const double x = dot(k->m->query, keys + j * s->d_index, s->d_index);
            k->m->m[i] = x > k->m->m[i] ? x : k->m->m[i];
        }
    }
    top_blocks(k->m->m, n, keep, k->m->top, ids);
    for (int64_t slot = 0; slot < s->topk; slot++)
        ids[slot] = slot < keep ? list[ids[slot]].block : slot == keep ? (int32_t)local : -1;
}

static void finish_row(task *k, int64_t row)
{
    const msa_shape *s = k->s;
    const int64_t of = k->first + row, query = k->seq->q0 + of / s->n_kv_heads,
                  local = k->m->last[row] / s->block;
    int32_t *ids = (int32_t *)writable(k->a->ids) + (of % s->n_kv_heads * s->n_q + query) * s->topk;
    k->h->fell[of] = k->m->n[row] == FELL;
    k->done.fell_back += k->m->n[row] == FELL || k->m->n[row] == local; /* of a row that chooses */
    k->done.settled += k->m->n[row] == FELL ? local : 0;
    (k->floats ? write_row_of_floats : write_row)(k, row, local, ids);
}

static void run_task(tiles *t, task *k)
{
    const int strips = (int)((k->rows + STRIP - 1) / STRIP);
    memset(k->m->q, 0, (size_t)(strips * COLUMNS * k->steps8) * sizeof *k->m->q);
    memset(k->m->full, 0, (size_t)(k->rows * k->steps * TILE_HALVES) * sizeof *k->m->full);
    for (int64_t row = 0; row < k->rows; row++)
        begin_row(k, row);
    for (int64_t row = k->rows; row < (int64_t)strips * STRIP; row++) {
        k->m->last[row] = k->m->last[k->rows - 1];
        k->m->tau[row] = INFINITY;
        k->m->n[row] = TAKES_ALL;
        k->m->rows.step[row] = k->m->rows.norm[row] = k->m->rows.rest[row] = 0;
    }
    screen(t, k, strips);
    settle(t, k);
    for (int64_t row = 0; row < k->rows; row++)
        finish_row(k, row);
}

/* ---- Keys ---------------------------------------------------------------------------------------------------------------- */

/* Codes as left factors, and of a block's numbers what a row's length is multiplied with, rounded up. */
static void pack_copy(const msa_shape *s, const msa_seq *seq, int r, const msa_index8 *copy, const shared *h)
{
    const int64_t d = s->d_index, at = r * msa_n_blocks(s), blocks = seq->n_kv / s->block;
    const int steps8 = steps8_of(s->d_index);
#pragma omp parallel for schedule(static) num_threads(fast_threads())
    for (int64_t n = 0; n < (blocks * s->block + TILE_ROWS - 1) / TILE_ROWS; n++) {
        tile_rows *to = h->codes + n * steps8;
        memset(to, 0, (size_t)steps8 * sizeof *to);
        for (int64_t j = n * TILE_ROWS; j < min_i64((n + 1) * TILE_ROWS, blocks * s->block); j++)
            put_key_codes(to, j % TILE_ROWS, copy->codes + (seq->kv0 + j) * d, s->d_index);
    }
    for (int64_t b = 0; b < blocks; b++)
        h->bound[b] = bound_of(copy->reach[at + b], copy->error[at + b], s->d_index);
}

/* From how many rows on a call that brings no copy had better make one. Of a channel of a key that takes 27 clocks:
 * index8.c is compiled for every processor of its kind, two doubles a vector, and rotates twice (14 additions, of 128
 * channels), then rounds and sums squares (some 30 operations). A row that meets codes in place of bf16 is done with the
 * channel in 1/1024 of a clock instead of 1/512 on tiles, else in 1/64 instead of 1/32, or of 1/16 where vectors do not
 * multiply pairs. Half of what that saves goes into settling.
 *
 * Measured on a Zen 4, vectors of pairs, 128 channels, whose number is 3456: with 64 rows screening takes 8 times as long
 * as full products, with 1024 1.5 times, with 4096 1.05 times of 512 blocks and 0.89 of 2048. With a copy that is there
 * 1.0, 0.86 and 0.86 of 512 blocks, 0.8, 0.69 and 0.74 of 2048. */
#define COPY_CLOCKS 27
#ifdef TILES
#define SAVED (1. / 512 - 1. / 1024)
#else
#define SAVED (1. / (ADDS_PAIRS ? 32 : 16) - 1. / 64)
#endif
const int64_t BODY(rows_for_a_copy) = FAST_INT8 ? (int64_t)(COPY_CLOCKS / (SAVED / 2)) : INT64_MAX;

/* ---- The stage ------------------------------------------------------------------------------------------------------------ */

/* Rows of a task: many, but so that every thread has one. */
static int64_t rows_at_once(int64_t rows)
{
    const int64_t share = (rows + fast_threads() - 1) / fast_threads();
    return min_i64(TASK, (share + STRIP - 1) / STRIP * STRIP);
}

static void screen_sequence(const task *like, msa_screening *sum)
{
    const msa_shape *s = like->s;
    const int64_t rows = like->seq->n_q * s->n_kv_heads, step = rows_at_once(rows),
                  tasks = step > 0 ? (rows + step - 1) / step : 0;
#pragma omp parallel num_threads(fast_threads())
    {
        scratch m;
        tiles t;
        msa_screening own = {0};
        place(&m, s, own_part(like->h->own, scratch_bytes(s)));
        tiles_begin(&t);
        /* The last tasks are the longest: they go first. */
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < tasks; n++) {
            task k = *like;
            k.m = &m;
            k.first = (tasks - 1 - n) * step;
            k.rows = min_i64(step, rows - k.first);
            run_task(&t, &k);
            screening_add(&own, &k.done);
        }
        tiles_end(&t);
#pragma omp critical
        screening_add(sum, &own);
    }
}

/* Of bf16 keys: in full, as index_amx.c does it. */
static void rows_that_fell(const task *k, void *work)
{
    const int64_t rows = k->seq->n_q * k->s->n_kv_heads;
    int64_t n = 0;
    for (int64_t row = 0; row < rows; row++)
        if (k->h->fell[row])
            k->h->row[n++] = row;
    if (n > 0)
        BODY(index_rows)(k->s, k->seq, k->a, k->h->keys, k->h->row, n, work);
}

static msa_status index_all(const msa_shape *s, const msa_arrays *a, bool floats, void *work)
{
    msa_screening sum = {0};
    shared h;
    take_shared(&h, s, work);
    const msa_index8 *copy = a->index8 ? a->index8 : &h.copy;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        if (!a->index8)
            screen_copy(s, b, floats ? (cached){.data = a->ki} : halves(a->ki), &h.copy, h.own);
        pack_copy(s, &seq, b, copy, &h);
        h.least = screen_least(s, b, copy);
        const task k = {.s = s,
                        .seq = &seq,
                        .a = a,
                        .floats = floats,
                        .h = &h,
                        .scale = copy->scale + b * msa_n_blocks(s),
                        .reach = copy->reach + b * msa_n_blocks(s),
                        .steps = steps_of(s->d_index),
                        .steps8 = steps8_of(s->d_index)};
        if (!floats)
            BODY(pack_index_keys)(s, &seq, a->ki, h.keys);
        screen_sequence(&k, &sum);
        if (!floats)
            rows_that_fell(&k, h.own);
    }
    if (a->screening)
        *a->screening = sum;
    return MSA_OK;
}

msa_status BODY(index_screened)(const msa_shape *s, const msa_arrays *a, void *work)
{
    return index_all(s, a, false, work);
}

msa_status BODY(index_floats)(const msa_shape *s, const msa_arrays *a, void *work)
{
    return index_all(s, a, true, work);
}
