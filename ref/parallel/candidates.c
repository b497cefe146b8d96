/* The best blocks of one rank for the queries of all: step 2 of pass_q.c.
 *
 * Their scores are those of the reference, in double. Most blocks are far from being chosen, and that is seen by less: by
 * products in float32, where the table's are faster than double, or by an 8-bit copy of the keys. Either gives a block a lower
 * and an upper bound. With tau the (k-1)-th largest lower one, a block whose upper bound is below tau is none of the best k - 1;
 * all others are settled, that is scored as the reference does. In float32
 *
 *     | max_j q.k_j - its float32 value |  <=  (d 2^-24 + ..) |q| N,      N the longest key of the block
 *
 * in whatever order the d products are added up: index8_slack(). */
#include <stdlib.h>

#include "pass_q.h"

/* Rows that are multiplied at a time. */
#define ROWS 32

/* Of a chunk of rows of one sequence, all groups, and blocks of this rank. */
typedef struct products {
    float *best;   /* [ROWS,Hkv,blocks] the largest with a block's keys; NULL: nobody computes them */
    double *reach; /* [own blocks] N */
    int64_t blocks;
} products;

/* What a thread needs for one row and group; only to settle no more than has to be: all but the first two. */
typedef struct scratch {
    double *m, *best;             /* [own blocks of a sequence] */
    double *lower, *upper, *room; /* likewise; [di] */
    int8_t *codes;                /* [di] */
    float *tile;                  /* [ROWS,Hkv,block] */
    msa_screening done;
} scratch;

/* ---- Bounds ------------------------------------------------------------------------------------------- */

static void bounds_of_codes(const step *p, int n, int64_t blocks, const float *qi, scratch *w)
{
    const deal_shard *keys = p->c->keys;
    const int64_t first = keys->first[n], size = (int64_t)p->s->block * p->s->d_index;
    const msa_shape own = {.n_kv = blocks * p->s->block, .block = p->s->block, .d_index = p->s->d_index};
    const msa_index8 *all = &keys->ki8, copy = {all->codes + first * size, all->scale + first,
                                                all->reach + first, all->error + first, all->least + first};
    const msa_index8_query q = msa_index8_round(qi, p->s->d_index, 1, w->codes, w->room);
    msa_index8_bounds(&own, &copy, 0, blocks, w->codes, &q, w->lower, w->upper);
}

/* Products may overflow, or vanish, where doubles do not. */
static void bounds_of_products(int d, int64_t blocks, const float *qi, const float *best, const double *reach,
                               scratch *w)
{
    const double norm = sqrt(dot(qi, qi, d));
    for (int64_t b = 0; b < blocks; b++) {
        const double eps = index8_slack(d) * norm * reach[b] + d * 0x1p-126;
        const bool known = norm * reach[b] < 0x1p120;
        w->lower[b] = known ? (double)best[b] - eps : -INFINITY;
        w->upper[b] = known ? (double)best[b] + eps : INFINITY;
    }
}

/* The scores of blocks within the bounds; -inf of those that are surely none of the best `kept`. ids [kept] is written over. */
static void settle(const step *p, const request *req, int64_t blocks, int64_t kept, const float *qi,
                   scratch *w, int32_t *ids)
{
    const int64_t before = w->done.settled;
    top_blocks(w->lower, blocks, kept, w->best, ids);
    const double least = w->best[kept - 1];
    for (int64_t b = 0; b < blocks; b++) {
        w->m[b] = -INFINITY;
        if (w->upper[b] < least)
            continue; /* NaN is open */
        const request one = {req->seq, req->table + b, req->page, req->number};
        score_request(p->s, NULL, &one, qi, p->c->keys->ki, 1, w->m + b);
        w->done.settled++;
    }
    w->done.rows++;
    w->done.blocks += blocks;
    w->done.fell_back += w->done.settled - before == blocks;
}

/* ---- Products in float32 ------------------------------------------------------------------------------- */

/* Of rows x .. x+n-1 with their sequence's first `blocks` blocks here; all threads come. */
static void multiply(const step *p, int64_t x, int64_t n, int64_t blocks, const products *all, float *tile)
{
    const msa_shape *s = p->s;
    const deal_shard *keys = p->c->keys;
    const int64_t rows = n * s->n_kv_heads, first = keys->first[p->c->rows->seq[x]];
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < blocks; b++) {
        p->c->ops->gemm(false, true, rows, s->block, s->d_index, p->qi + x * s->n_kv_heads * s->d_index,
                        keys->ki + keys->page[first + b] * s->block * s->d_index, 0, tile);
        for (int64_t row = 0; row < rows; row++) {
            float best = -INFINITY;
            for (int64_t j = 0; j < s->block; j++)
                best = tile[row * s->block + j] > best ? tile[row * s->block + j] : best;
            all->best[row * all->blocks + b] = best;
        }
    }
}

static void measure_keys(const step *p, double *reach)
{
    const msa_shape *s = p->s;
    const deal_shard *keys = p->c->keys;
#pragma omp for
    for (int64_t at = 0; at < keys->first[msa_n_seqs(s)]; at++) {
        const float *page = keys->ki + keys->page[at] * s->block * s->d_index;
        double most = 0;
        for (int64_t j = 0; j < s->block; j++) /* past the last token too, and then for no row */
            most = fmax(most, dot(page + j * s->d_index, page + j * s->d_index, s->d_index));
        reach[at] = sqrt(most);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------------------- */

static int64_t blocks_before(const step *p, int64_t x)
{
    const deal_shard *keys = p->c->keys;
    return deal_blocks_before(keys->rank, keys->ranks, p->c->rows->seq[x], p->c->rows->at[x] / p->s->block);
}

/* The best blocks of this rank for group r of row x, ascending, then -1. `best`: the row's products, or NULL */
static void find_row(const step *p, int64_t x, int r, const float *best, const double *reach, scratch *w)
{
    const msa_shape *s = p->s;
    const deal_shard *keys = p->c->keys;
    const int n = p->c->rows->seq[x], others = s->topk - 1;
    const int64_t at = (x * s->n_kv_heads + r) * others, blocks = blocks_before(p, x),
                  kept = min_i64(others, blocks);
    const request req = {msa_get_seq(s, n), keys->page + keys->first[n], s->block, n};
    const float *qi = p->qi + (x * s->n_kv_heads + r) * s->d_index;
    const bool open = kept > 0 && blocks > kept;
    if (open && keys->ki8.codes)
        bounds_of_codes(p, n, blocks, qi, w);
    else if (open && best)
        bounds_of_products(s->d_index, blocks, qi, best, reach + keys->first[n], w);
    if (open && (keys->ki8.codes || best))
        settle(p, &req, blocks, kept, qi, w, p->candidate + at);
    else
        score_request(s, NULL, &req, qi, keys->ki, blocks, w->m);
    top_blocks(w->m, blocks, kept, w->best, p->candidate + at);
    for (int64_t i = 0; i < others; i++) {
        const int32_t j = p->candidate[at + i];
        p->score[at + i] = i < kept ? w->m[j] : -INFINITY;
        p->candidate[at + i] = i < kept ? (int32_t)deal_block(keys->rank, keys->ranks, n, j) : -1;
    }
}

/* All rows, chunk by chunk; all threads come. */
static void walk_rows(const step *p, const products *all, scratch *w)
{
    const int heads = p->s->n_kv_heads;
    const int32_t *seq = p->c->rows->seq;
    if (all->best)
        measure_keys(p, all->reach);
    for (int64_t x = 0, end; x < p->rows; x = end) {
        int64_t blocks = 0;
        for (end = x; end < p->rows && end < x + ROWS && seq[end] == seq[x]; end++)
            blocks = max_i64(blocks, blocks_before(p, end));
        if (all->best)
            multiply(p, x, end - x, blocks, all, w->tile);
#pragma omp for schedule(dynamic)
        for (int64_t row = 0; row < (end - x) * heads; row++)
            find_row(p, x + row / heads, (int)(row % heads), all->best ? all->best + row * all->blocks : NULL,
                     all->reach, w);
    }
}

static bool new_scratch(scratch *w, const msa_shape *s)
{
    const size_t blocks = (size_t)msa_n_blocks(s) + 1, di = (size_t)s->d_index;
    double *m = malloc((4 * blocks + di) * sizeof *m);
    *w = (scratch){.m = m,
                   .codes = malloc(di),
                   .tile = malloc(ROWS * (size_t)s->n_kv_heads * (size_t)s->block * sizeof *w->tile)};
    if (m)
        w->best = m + blocks, w->lower = m + 2 * blocks, w->upper = m + 3 * blocks, w->room = m + 4 * blocks;
    return m && w->codes && w->tile;
}

static void add_screening(const step *p, const msa_screening *own)
{
    msa_screening *sum = &p->c->screening;
#pragma omp critical
    {
        sum->rows += own->rows, sum->blocks += own->blocks;
        sum->settled += own->settled, sum->fell_back += own->fell_back;
    }
}

msa_status find_candidates(const step *p)
{
    const msa_shape *s = p->s;
    const deal_shard *keys = p->c->keys;
    const bool multiplies = !keys->ki8.codes && s->topk > 1 && p->c->ops->gemm != msa_ref_ops.gemm;
    const size_t own = (size_t)keys->first[msa_n_seqs(s)] + 1;
    products all = {.blocks = msa_n_blocks(s) / keys->ranks + 1};
    if (multiplies) {
        all.best = malloc(ROWS * (size_t)(s->n_kv_heads * all.blocks) * sizeof *all.best);
        all.reach = malloc(own * sizeof *all.reach);
    }
    bool ok = !multiplies || (all.best && all.reach), ready = true;
#pragma omp parallel
    {
        scratch w;
        if (!new_scratch(&w, s)) {
#pragma omp atomic write
            ready = false;
        }
#pragma omp barrier
        if (ok && ready)
            walk_rows(p, &all, &w);
        add_screening(p, &w.done);
        free(w.m), free(w.codes), free(w.tile);
    }
    free(all.best), free(all.reach);
    return ok && ready ? MSA_OK : MSA_ERR_DEVICE;
}
