/* What the files of the fast CPU path share. The idea, in one paragraph:
 *
 * A tile is a few neighbouring queries of one sequence and one GQA group. Its queries and heads together
 * make the rows of matrix products that are tall enough for OpenBLAS; its columns are the tokens of the
 * UNION of the blocks that its queries selected (all visible tokens for full support). Columns that a
 * query did not select are masked to -inf before the softmax. Neighbours choose alike, so the union is
 * little larger than one selection. Dense and sparse attention, backward and KL are the same walk.
 *
 * Threads are ours: while products run, OpenBLAS is told to use one. Work is cut the same way whatever the
 * number of threads, and every output element is owned by one piece, so the result does not depend on that
 * number. */
#ifndef MSA_FAST_H
#define MSA_FAST_H

#include "../internal.h"

/* ---- Matrix products (gemm.c) --------------------------------------------------------------------- */

/* C[m,n] = op(A) op(B) + beta C on one thread; ld* are row strides in floats. Only between products_begin(),
 * which returns fast_threads(), and products_end(): OpenBLAS would start threads of its own in every one of
 * ours. */
int products_begin(void);
void products_end(void);
void small_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
msa_gemm_fn fast_gemm; /* the same over all threads, for dense matrices */

/* Threads of a parallel region, and the most there can be: what workspaces are sized for. */
int fast_threads(void);
int fast_max_threads(void);
int fast_thread(void);

/* Of memory that has `bytes` for every thread, what is this one's. */
static inline void *own_part(void *memory, size_t bytes)
{
    return (char *)memory + (size_t)fast_thread() * bytes;
}

static inline size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Keys up to which the gradients' and the sparse rows of logits are taken whole; beyond, block by block. */
#define SHORT 2048

/* x [n] as bf16, rounded to nearest even, on all threads: msa_bf16_bits() of each (heads.c). */
void round_halves(uint16_t *to, const float *x, int64_t n);

/* ---- Tiles (tile.c) ---------------------------------------------------------------------------------- */

typedef struct tile {
    const msa_shape *s;
    msa_seq seq;
    int r;           /* group */
    int64_t i0, n;   /* queries i0 .. i0+n-1 of the sequence */
    int64_t cols;    /* tokens in the union */
    int n_blocks;    /* blocks in the union; full support: 0 */
    int32_t *blocks; /* ascending */
    int64_t *col;    /* first column of each block */
    bool full;
} tile;

/* Queries that a tile holds, and the columns it can have. */
int64_t tile_queries(const msa_shape *s);
int64_t tile_max_cols(const msa_shape *s, bool full);
/* Takes the two lists above. */
void tile_take(tile *t, const msa_shape *s, bool full, arena *a);

/* Describes tile number `index` of (sequence, group): finds the union of what its queries selected. */
void tile_open(tile *t, const msa_shape *s, const msa_seq *seq, int r, int64_t index, const int32_t *ids);
/* Tiles in a sequence. */
int64_t tile_count(const msa_shape *s, const msa_seq *seq);

/* The rows of the union's tokens in x [S,heads,d], head `head`. Full support: x itself, with its stride in
 * *ld; else a copy in `copy` [cols,d]. */
const float *tile_gather(const tile *t, const float *x, int heads, int head, int d, float *copy, int64_t *ld);
/* dx += the columns' gradients, the way tile_gather read them. `grad` [cols,d]. */
void tile_scatter_add(const tile *t, const float *grad, int heads, int head, int d, float *dx);

/* Rows (query, head of the group) of x [T,heads,d] to a dense [n*count,d], times `scale`; and back. */
void tile_pack(const tile *t, const float *x, int heads, int head, int count, int d, float scale,
               float *rows);
void tile_unpack(const tile *t, const float *rows, int heads, int head, int count, int d, float *x);

/* Logits [n*count, cols] to unnormalised softmax weights, where a query's selection and causality allow,
 * else 0. Each row's sum goes to denom [n*count]; its LSE to lse, if not NULL. */
void tile_softmax(const tile *t, const int32_t *ids, int count, float *logits, float *denom, float *lse);

/* ---- Selection (index_tiles.c) --------------------------------------------------------------------------- */

/* The best blocks so far: score descending, earlier first among equals. */
typedef struct best_list {
    int64_t n;
    float *score;
    int32_t *id;
} best_list;

/* Lists for `rows` rows, empty; n = 0 empties one again. */
best_list *best_take(const msa_shape *s, int64_t rows, arena *a);
/* Blocks come in ascending order; the `most` best stay. */
void best_insert(best_list *list, int64_t most, float score, int32_t block);
/* The list and the local block, ascending, then -1: a row of ids. */
void best_write(const msa_shape *s, const best_list *list, int64_t local, int32_t *ids);

/* ---- Attention over tiles, sparse and dense (sparse_tiles.c) ------------------------------------------------- */

/* ids NULL, full: every visible key. */
msa_status attend_tiles(const msa_shape *s, const float *q, const float *k, const float *v,
                        const int32_t *ids, float *o, float *lse, void *work);
size_t attend_tiles_workspace(const msa_shape *s, bool full);

/* A stage of bf16 tensors: the run_half of a table's entry. */
typedef msa_status msa_half_fn(const msa_shape *s, const msa_arrays *a, void *work);

/* ---- Stages ------------------------------------------------------------------------------------------ */

msa_dense_fn fast_dense;
msa_half_fn fast_dense_amx, fast_prefill_amx; /* amx.c */
msa_half_fn fast_index_amx, fast_index_amx_full, fast_index_amx_screened;
msa_half_fn fast_index_screened; /* of float32 tensors: an entry's run */
msa_half_fn fast_sparse_amx, fast_sparse_amx_queries, fast_sparse_amx_blocks;
msa_half_fn fast_backward_amx, fast_dense_backward_amx, fast_kl_amx;
msa_half_fn fast_decode_amx, fast_dense_decode_amx;
msa_sparse_fn fast_sparse_naive, fast_sparse_threaded, fast_sparse_blocked, fast_sparse_tiles,
    fast_sparse_blocks, fast_sparse_lanes, fast_sparse;
msa_prefill_fn fast_prefill;
msa_index_fn fast_index;
msa_decode_fn fast_decode;
msa_dense_decode_fn fast_dense_decode;
msa_backward_fn fast_backward_tiles, fast_backward_blocks, fast_backward;
msa_dense_backward_fn fast_dense_backward;
msa_kl_fn fast_kl_tiles, fast_kl_blocks, fast_kl;
size_t fast_dense_workspace(const msa_shape *s);
size_t fast_dense_amx_workspace(const msa_shape *s);
size_t fast_index_amx_workspace(const msa_shape *s);
size_t fast_index_amx_full_workspace(const msa_shape *s);
size_t fast_index_amx_screened_workspace(const msa_shape *s);
size_t fast_prefill_amx_workspace(const msa_shape *s);
size_t fast_sparse_amx_workspace(const msa_shape *s);
size_t fast_backward_amx_workspace(const msa_shape *s);
size_t fast_kl_amx_workspace(const msa_shape *s);
size_t fast_decode_amx_workspace(const msa_shape *s);
size_t fast_dense_decode_amx_workspace(const msa_shape *s);
size_t fast_sparse_naive_workspace(const msa_shape *s);
size_t fast_sparse_threaded_workspace(const msa_shape *s);
size_t fast_sparse_blocked_workspace(const msa_shape *s);
size_t fast_sparse_tiles_workspace(const msa_shape *s);
size_t fast_sparse_blocks_workspace(const msa_shape *s);
size_t fast_sparse_lanes_workspace(const msa_shape *s);
size_t fast_sparse_workspace(const msa_shape *s);
size_t fast_index_workspace(const msa_shape *s);
size_t fast_index_screened_workspace(const msa_shape *s);
size_t fast_prefill_workspace(const msa_shape *s);
size_t fast_decode_workspace(const msa_shape *s);
size_t fast_dense_decode_workspace(const msa_shape *s);
size_t fast_backward_tiles_workspace(const msa_shape *s);
size_t fast_backward_blocks_workspace(const msa_shape *s);
size_t fast_backward_workspace(const msa_shape *s);
size_t fast_dense_backward_workspace(const msa_shape *s);
size_t fast_kl_tiles_workspace(const msa_shape *s);
size_t fast_kl_blocks_workspace(const msa_shape *s);
size_t fast_kl_workspace(const msa_shape *s);

#endif
