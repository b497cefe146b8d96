/* Tiles: neighbouring queries, the union of their blocks, gather, mask, softmax. */
#include "fast.h"
#include "vmath.h"

#include <float.h>

/* Rows of a tile's products: queries times heads of the group. OpenBLAS is near its peak from 64 on. */
#define TILE_ROWS 64

/* The logit of what a query does not see. Not -inf, which says that float32 could not hold a logit. */
#define UNSEEN (-FLT_MAX)

int64_t tile_queries(const msa_shape *s)
{
    int group = s->n_heads / s->n_kv_heads;
    return max_i64(8, TILE_ROWS / group);
}

int64_t tile_count(const msa_shape *s, const msa_seq *seq)
{
    int64_t n = tile_queries(s);
    return (seq->n_q + n - 1) / n;
}

/* Blocks in the largest possible union. */
static int64_t max_union(const msa_shape *s)
{
    int64_t blocks = msa_n_blocks(s), n = tile_queries(s);
    return s->topk >= blocks || n * s->topk >= blocks ? blocks : n * s->topk;
}

int64_t tile_max_cols(const msa_shape *s, bool full)
{
    int64_t all = longest_kv(s);
    return full ? all : min_i64(all, max_union(s) * s->block);
}

void tile_take(tile *t, const msa_shape *s, bool full, arena *a)
{
    *t = (tile){.full = full};
    if (full)
        return;
    t->blocks = arena_take(a, max_union(s), sizeof *t->blocks);
    t->col = arena_take(a, max_union(s), sizeof *t->col);
}

/* Merges one ascending row of ids into the ascending union. */
static void merge_row(tile *t, const int32_t *ids)
{
    int k = 0, fresh = 0;
    for (int entry = 0; k < t->s->topk && ids[k] >= 0; k++) {
        while (entry < t->n_blocks && t->blocks[entry] < ids[k])
            entry++;
        fresh += entry == t->n_blocks || t->blocks[entry] != ids[k];
    }
    /* From the back, so that nothing is overwritten before it has moved. */
    int from = t->n_blocks - 1, to = t->n_blocks + fresh - 1;
    t->n_blocks += fresh;
    for (k--; k >= 0; to--) {
        if (from >= 0 && t->blocks[from] >= ids[k]) {
            k -= t->blocks[from] == ids[k];
            t->blocks[to] = t->blocks[from--];
        } else {
            t->blocks[to] = ids[k--];
        }
    }
}

static int64_t tokens_in(const tile *t, int32_t block)
{
    int64_t last_visible = position(&t->seq, t->i0 + t->n - 1);
    return min_i64(t->s->block, last_visible + 1 - (int64_t)block * t->s->block);
}

void tile_open(tile *t, const msa_shape *s, const msa_seq *seq, int r, int64_t index, const int32_t *ids)
{
    t->s = s;
    t->seq = *seq;
    t->r = r;
    t->i0 = index * tile_queries(s);
    t->n = min_i64(tile_queries(s), seq->n_q - t->i0);
    t->n_blocks = 0;
    t->cols = position(seq, t->i0 + t->n - 1) + 1;
    if (t->full)
        return;
    for (int64_t i = 0; i < t->n; i++)
        merge_row(t, ids_row(s, ids, r, seq->q0 + t->i0 + i));
    t->cols = 0;
    for (int i = 0; i < t->n_blocks; i++) {
        t->col[i] = t->cols;
        t->cols += tokens_in(t, t->blocks[i]);
    }
}

const float *tile_gather(const tile *t, const float *x, int heads, int head, int d, float *copy, int64_t *ld)
{
    const float *base = x + (t->seq.kv0 * heads + head) * d;
    const int64_t stride = (int64_t)heads * d;
    *ld = t->full ? stride : d;
    if (t->full)
        return base;
    for (int i = 0; i < t->n_blocks; i++) {
        const float *from = base + (int64_t)t->blocks[i] * t->s->block * stride;
        for (int64_t j = 0; j < tokens_in(t, t->blocks[i]); j++)
            memcpy(copy + (t->col[i] + j) * d, from + j * stride, (size_t)d * sizeof *copy);
    }
    return copy;
}

void tile_scatter_add(const tile *t, const float *grad, int heads, int head, int d, float *dx)
{
    float *base = dx + (t->seq.kv0 * heads + head) * d;
    const int64_t stride = (int64_t)heads * d;
    for (int i = 0; i < t->n_blocks; i++) {
        float *to = base + (int64_t)t->blocks[i] * t->s->block * stride;
        for (int64_t j = 0; j < tokens_in(t, t->blocks[i]); j++)
            for (int c = 0; c < d; c++)
                to[j * stride + c] += grad[(t->col[i] + j) * d + c];
    }
}

void tile_pack(const tile *t, const float *x, int heads, int head, int count, int d, float scale, float *rows)
{
    for (int64_t i = 0; i < t->n; i++) {
        const float *from = x + ((t->seq.q0 + t->i0 + i) * heads + head) * d;
        for (int c = 0; c < count * d; c++)
            rows[i * count * d + c] = scale * from[c];
    }
}

void tile_unpack(const tile *t, const float *rows, int heads, int head, int count, int d, float *x)
{
    for (int64_t i = 0; i < t->n; i++)
        memcpy(x + ((t->seq.q0 + t->i0 + i) * heads + head) * d, rows + i * count * d,
               (size_t)(count * d) * sizeof *x);
}

static void fill(float *x, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        x[i] = UNSEEN;
}

/* UNSEEN where query i of the tile may not look: unselected blocks, and what lies after its position. */
static void mask_row(const tile *t, const int32_t *ids, int64_t i, float *x)
{
    int64_t p = position(&t->seq, t->i0 + i);
    if (t->full) {
        fill(x, p + 1, t->cols);
        return;
    }
    int k = 0;
    for (int j = 0; j < t->n_blocks; j++) {
        int64_t end = j + 1 < t->n_blocks ? t->col[j + 1] : t->cols;
        while (k < t->s->topk && ids[k] >= 0 && ids[k] < t->blocks[j])
            k++;
        bool chosen = k < t->s->topk && ids[k] == t->blocks[j];
        int64_t seen = chosen ? p + 1 - (int64_t)t->blocks[j] * t->s->block : 0;
        fill(x, min_i64(end, t->col[j] + seen), end);
    }
}

static void softmax(float *x, int64_t n, float *denom, float *lse)
{
    float max = -INFINITY, least = INFINITY, sum = 0;
#pragma omp simd reduction(max : max) reduction(min : least)
    for (int64_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        least = x[i] < least ? x[i] : least;
    }
    if (!(max > UNSEEN && least >= UNSEEN))
        max = NAN; /* as row_top() */
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        x[i] = exp_nonpositive(x[i] - max);
        sum += x[i];
    }
    *denom = sum;
    if (lse)
        *lse = (float)((double)max + log((double)sum));
}

void tile_softmax(const tile *t, const int32_t *ids, int count, float *logits, float *denom, float *lse)
{
    for (int64_t i = 0; i < t->n; i++)
        for (int h = 0; h < count; h++) {
            int64_t row = i * count + h;
            mask_row(t, ids_row(t->s, ids, t->r, t->seq.q0 + t->i0 + i), i, logits + row * t->cols);
            softmax(logits + row * t->cols, t->cols, denom + row, lse ? lse + row : NULL);
        }
}
