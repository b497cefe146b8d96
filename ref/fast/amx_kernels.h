/* The kernels on tiles, twice: see amx.h. They take bf16 tensors, have been given what the stage needs, and leave
 * padding, and rows that float32 cannot hold, to amx.c. */
#ifndef MSA_AMX_KERNELS_H
#define MSA_AMX_KERNELS_H

#include "amx_counts.h"
#include "fast.h"
#include "kl_way.h"

/* Whether this machine has tiles, and the system lets us use them. */
bool amx_at_hand(void);
/* Whether it has the vectors that the body for tiles is compiled for. */
bool amx_vectors(void);

msa_half_fn dense_plain, dense_tiles, index_plain, index_tiles, index_screened_plain, index_screened_tiles;
msa_half_fn index_floats_plain, index_floats_tiles, amx_index_floats; /* the same of float32; the last chooses */
msa_half_fn sparse_plain, sparse_tiles; /* by the rule of sparse_amx.c; */
msa_half_fn sparse_queries_plain, sparse_queries_tiles, sparse_blocks_plain, sparse_blocks_tiles; /* one order */
/* Up to FEW queries of a request, that is x->at, of which the arrays are those of the call: step_amx.h. */
struct cache;
typedef void amx_step_fn(const struct cache *x, const msa_arrays *a, void *work);
amx_step_fn decode_plain, decode_tiles, dense_decode_plain, dense_decode_tiles;
msa_half_fn backward_plain, backward_tiles; /* add to dK and dV; without ids: full support */
extern const kl_way kl_plain, kl_tiles;
/* From how many rows that see all keys on it pays to screen by a copy that has first to be made; INT64_MAX: integer
 * products are no faster than those of bf16. */
extern const int64_t rows_for_a_copy_plain, rows_for_a_copy_tiles;
extern const bool multiplies_bf16_plain; /* in one instruction, as tiles do */
/* What these kernels are measured by (product_amx.c), in the body that runs. All four products of two left factors
 * and two right ones, n times, on this thread: their sums. */
struct tile_rows;
typedef void tile_products_fn(int64_t n, const struct tile_rows *factor, struct tile_rows *sum);
/* C [n,n] += A B on all threads, n a multiple of 32: rows of A as left factors [n/16][n/32], columns of B as right ones. */
typedef void tile_matrices_fn(int64_t n, const struct tile_rows *a, const struct tile_rows *b, float *c);
tile_products_fn amx_products, products_plain, products_tiles;
tile_matrices_fn amx_matrices, matrices_plain, matrices_tiles;
/* The same for both. */
size_t dense_plain_workspace(const msa_shape *s), dense_tiles_workspace(const msa_shape *s);
size_t index_plain_workspace(const msa_shape *s), index_tiles_workspace(const msa_shape *s);
size_t index_screened_plain_workspace(const msa_shape *s), index_screened_tiles_workspace(const msa_shape *s);
size_t sparse_plain_workspace(const msa_shape *s), sparse_tiles_workspace(const msa_shape *s);
size_t decode_plain_workspace(const msa_shape *s), decode_tiles_workspace(const msa_shape *s);
size_t dense_decode_plain_workspace(const msa_shape *s), dense_decode_tiles_workspace(const msa_shape *s);
size_t backward_plain_workspace(const msa_shape *s), backward_tiles_workspace(const msa_shape *s);

/* Steps whose tensors are bf16 and become floats on the way, for processors that do not multiply it: decode_streams.c,
 * dense_decode_streams.c. */
msa_half_fn decode_halves, dense_decode_halves;
size_t decode_halves_workspace(const msa_shape *s), dense_decode_halves_workspace(const msa_shape *s);

/* An output of a call. */
static inline void *writable(const void *x)
{
    return (void *)(uintptr_t)x;
}

/* The next of the blocks that n queries chose, ascending, and who chose it: a bit a query. at[n] begins with zeros. */
static inline int64_t next_block(const int32_t *const *row, int topk, int n, int *at, uint32_t *who)
{
    int64_t least = INT64_MAX;
    for (int b = 0; b < n; b++)
        if (at[b] < topk && row[b][at[b]] >= 0)
            least = min_i64(least, row[b][at[b]]);
    *who = 0;
    for (int b = 0; b < n; b++)
        if (at[b] < topk && row[b][at[b]] == least) {
            *who |= 1u << b;
            at[b]++;
        }
    return least;
}

#endif
