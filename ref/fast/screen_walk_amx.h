/* The screening half of index_screened_amx.c: a task's rows meet the codes of a sequence, and each leaves with a list of
 * the blocks that it may have to choose. Each of two bodies for itself. */
#ifndef MSA_SCREEN_WALK_AMX_H
#define MSA_SCREEN_WALK_AMX_H

#include "candidates.h"
#include "index_amx.h"
#include "screen_amx.h"

/* Rows: 16 that ask for the same block are settled together. Of 8192 blocks, a million keys, a row asks for some 80, and a
 * block is asked for by 20 rows of 2048 and by 5 of 512, when most of a tile's columns would be nobody's. Of 256 and 512
 * blocks, which are asked for by many, 512 rows take 0.98 and 0.93 of the time on a Zen 4, and 4096 1.01. */
#define TASK 2048
#define MOST 512   /* candidates of a row */

typedef struct scratch {
    tile_rows *q;      /* [TASK/16][bytes' steps], codes: right factors */
    tile_rows *asks;   /* [steps], 16 rows that ask for a block */
    uint16_t *full;    /* [TASK][steps 32], fitted as in index_amx.c */
    float *query;      /* [2][di] */
    double *room;      /* [di] */
    int8_t *codes;     /* [di] */
    int32_t *products; /* [16][STRIP] */
    float *logits;     /* [16][16] */
    screened rows;     /* [TASK] */
    float *tau;      /* [TASK]: what an upper bound may not be below; NaN: nothing is, infinity: everything */
    int64_t *last;   /* [TASK], the last key that a row sees */
    fitted *fit;     /* [TASK] */
    best_list *best; /* [TASK]: lower bounds; then scores */
    int32_t *n;      /* [TASK]: candidates; -1: too many */
    candidate *list; /* [TASK][MOST] */
    int64_t *first;  /* [B + 1]: candidates of blocks before this one */
    uint32_t *asking; /* [TASK MOST]: places in list, block by block */
    double *m, *top;  /* [MOST] and [k], float32 keys: scores of a row's candidates, and the best */
    chooser again;
} scratch;

static inline int64_t most_candidates(const msa_shape *s)
{
    return min_i64(MOST, msa_n_blocks(s));
}

static inline size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int steps = steps_of(s->d_index), steps8 = steps8_of(s->d_index);
    arena a = arena_over(work);
    m->q = arena_take(&a, INT64_C(1) * TASK / TILE_ROWS * steps8, sizeof *m->q);
    m->asks = arena_take(&a, steps, sizeof *m->asks);
    m->full = arena_take(&a, INT64_C(1) * TASK * steps * TILE_HALVES, sizeof *m->full);
    m->query = arena_take(&a, 2 * (int64_t)s->d_index, sizeof *m->query);
    m->room = arena_take(&a, s->d_index, sizeof *m->room);
    m->codes = arena_take(&a, s->d_index, sizeof *m->codes);
    m->products = arena_take(&a, TILE_ROWS * STRIP, sizeof *m->products);
    m->logits = arena_take(&a, TILE_ROWS * TILE_ROWS, sizeof *m->logits);
    m->rows = screened_take(TASK, &a);
    m->tau = arena_take(&a, TASK, sizeof *m->tau);
    m->last = arena_take(&a, TASK, sizeof *m->last);
    m->fit = arena_take(&a, TASK, sizeof *m->fit);
    m->best = best_take(s, TASK, &a);
    m->n = arena_take(&a, TASK, sizeof *m->n);
    m->list = arena_take(&a, TASK * most_candidates(s), sizeof *m->list);
    m->first = arena_take(&a, msa_n_blocks(s) + 1, sizeof *m->first);
    m->asking = arena_take(&a, TASK * most_candidates(s), sizeof *m->asking);
    m->m = arena_take(&a, most_candidates(s), sizeof *m->m);
    m->top = arena_take(&a, min_i64(s->topk, msa_n_blocks(s)), sizeof *m->top);
    m->again = chooser_take(s, &a);
    return arena_bytes(&a);
}

static inline size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* What all tasks of a call share. */
typedef struct shared {
    tile_rows *keys;  /* [S/16][steps] of the longest sequence */
    tile_rows *codes; /* [S/16][bytes' steps] */
    float *bound;     /* [B]: what a row's length is multiplied with in eps */
    msa_index8 copy;  /* of a call that brings none */
    int64_t *row;     /* [T groups]: those that fell back */
    bool *fell;       /* [T groups] */
    float least;      /* magnitude of a key of the sequence */
    void *own; /* scratch of every thread; before, room to make the copy; after, for rows that fell back */
} shared;

/* Of one sequence. */
typedef struct task {
    const msa_shape *s;
    const msa_seq *seq;
    const msa_arrays *a;
    bool floats; /* queries and keys are float32 */
    const shared *h;
    const float *scale, *reach; /* [B] */
    scratch *m;
    int steps, steps8;
    int64_t first, rows; /* rows first .. first + rows - 1 of the sequence */
    msa_screening done;
} task;

/* ---- Screen -------------------------------------------------------------------------------------------------------- */

/* X of a complete block for a strip. */
static inline void best_products(tiles *t, const task *k, int strip, int64_t block, int_lanes best[COLUMNS])
{
    const int64_t begin = block * k->s->block, end = begin + k->s->block;
    for (int n = 0; n < COLUMNS; n++)
        best[n] = (int_lanes){0} + INT32_MIN;
    for (int64_t j = begin / TILE_ROWS * TILE_ROWS; j < end; j += TILE_ROWS) {
        multiply_strip(t, k->h->codes + j / TILE_ROWS * k->steps8, k->m->q + strip * COLUMNS * k->steps8,
                       k->steps8, true, k->m->products);
        for (int64_t row = max_i64(0, begin - j); row < min_i64(TILE_ROWS, end - j); row++)
            for (int n = 0; n < COLUMNS; n++) {
                int_lanes x;
                memcpy(&x, k->m->products + row * STRIP + n * LANES, sizeof x);
                best[n] = larger_integer(best[n], x);
            }
    }
}

static inline void offer(const task *k, int64_t row, int64_t block, float lower, float upper)
{
    const int64_t local = k->m->last[row] / k->s->block, keep = k->s->topk - 1;
    best_list *best = &k->m->best[row];
    if (block >= local || k->m->n[row] < 0)
        return;
    best_insert(best, keep, lower, (int32_t)block);
    if (best->n == keep)
        k->m->tau[row] = best->score[keep - 1];
    const int64_t most = most_candidates(k->s);
    candidates_add(k->m->list + row * most, &k->m->n[row], most, &k->m->tau[row], block, upper);
}

/* [screen] */
static inline void screen_block(tiles *t, const task *k, int strip, int64_t block)
{
    const scratch *m = k->m;
    int_lanes best[COLUMNS];
    best_products(t, k, strip, block, best);
    for (int n = 0; n < COLUMNS; n++) {
        const int row = strip * STRIP + n * LANES;
        lanes lower, upper;
        bounds_of(m->rows, row, best[n], k->scale[block], k->reach[block], k->h->bound[block], &lower,
                  &upper);
        const int_lanes take = ~(upper < load(m->tau + row));
        for (int l = 0; any_of(take) && l < LANES; l++)
            if (take[l])
                offer(k, row + l, block, lower[l], upper[l]);
    }
}
/* [screen] */

static inline void screen(tiles *t, const task *k, int strips)
{
    const msa_shape *s = k->s;
    const int64_t step = max_i64(1, CHUNK / s->block), blocks = k->m->last[k->rows - 1] / s->block;
    for (int64_t b0 = 0; b0 < blocks; b0 += step)
        for (int strip = 0; strip < strips; strip++) {
            const int64_t own = k->m->last[strip * STRIP + STRIP - 1] / s->block;
            for (int64_t b = b0; b < min_i64(b0 + step, own); b++)
                screen_block(t, k, strip, b);
        }
}

#endif
