/* The fast CPU path as entries of the table. Selection from given scores is the reference's: it is cheap. */
#include "fast.h"

static msa_status fast_prefill(const msa_shape *s, const float *q, const float *k, const float *v,
                               const float *qi, const float *ki, int32_t *ids, float *o, float *lse,
                               void *work)
{
    if (!q || !k || !v || !o)
        return MSA_ERR_NULL;
    MSA_TRY(fast_index(s, qi, ki, NULL, ids, NULL, work));
    return fast_sparse(s, q, k, v, ids, o, lse, work);
}
static size_t fast_prefill_workspace(const msa_shape *s)
{
    return (size_t)max_i64((int64_t)fast_index_workspace(s), (int64_t)fast_sparse_workspace(s));
}

static msa_status fast_dense_backward(const msa_shape *s, const float *q, const float *k, const float *v,
                                      const float *o, const float *lse, const float *dout, float *dq,
                                      float *dk, float *dv, void *work)
{
    return fast_backward(s, q, k, v, NULL, o, lse, dout, dq, dk, dv, work);
}
#define fast_dense_backward_workspace fast_backward_workspace

#define FAST(STAGE, field, function, called, text)                                                           \
    {                                                                                                        \
        .stage = STAGE, .name = called, .backend = "fast", .constraints = "any shape", .idea = text,         \
        .workspace = function##_checked, .field = function                                                   \
    }

CHECKED_WORKSPACE(fast_dense)
CHECKED_WORKSPACE(fast_index)
CHECKED_WORKSPACE(fast_naive)
CHECKED_WORKSPACE(fast_threaded)
CHECKED_WORKSPACE(fast_blocked)
CHECKED_WORKSPACE(fast_tiles)
CHECKED_WORKSPACE(fast_blocks)
CHECKED_WORKSPACE(fast_lanes)
CHECKED_WORKSPACE(fast_sparse)
CHECKED_WORKSPACE(fast_prefill)
CHECKED_WORKSPACE(fast_decode)
CHECKED_WORKSPACE(fast_dense_decode)
CHECKED_WORKSPACE(fast_backward_tiles)
CHECKED_WORKSPACE(fast_backward_blocks)
CHECKED_WORKSPACE(fast_backward)
CHECKED_WORKSPACE(fast_dense_backward)
CHECKED_WORKSPACE(fast_kl_tiles)
CHECKED_WORKSPACE(fast_kl_blocks)
CHECKED_WORKSPACE(fast_kl)

enum {
    DENSE,
    INDEX,
    SPARSE_NAIVE,
    SPARSE_THREADED,
    SPARSE_BLOCKED,
    SPARSE_TILES,
    SPARSE_BLOCKS,
    SPARSE_LANES,
    SPARSE,
    PREFILL,
    DECODE,
    DENSE_DECODE,
    BACKWARD_TILES,
    BACKWARD_BLOCKS,
    BACKWARD,
    DENSE_BACKWARD,
    KL_TILES,
    KL_BLOCKS,
    KL,
    N_KERNELS
};

/* A stage's last is its best. */
const msa_kernel msa_fast_kernels[N_KERNELS + 1] = {
    [DENSE] = FAST(MSA_STAGE_DENSE, dense, fast_dense, "tiles",
                   "heads and queries of a tile in one OpenBLAS product, chunks of keys, online softmax"),
    [INDEX] = FAST(MSA_STAGE_INDEX, index, fast_index, "tiles",
                   "all groups share one product with the index keys; a running selection, no score matrix"),
    [SPARSE_NAIVE] =
        FAST(MSA_STAGE_SPARSE, sparse, fast_naive, "naive", "plain loops over queries, heads, keys"),
    [SPARSE_THREADED] =
        FAST(MSA_STAGE_SPARSE, sparse, fast_threaded, "threaded", "the same, queries on all cores"),
    [SPARSE_BLOCKED] = FAST(MSA_STAGE_SPARSE, sparse, fast_blocked, "blocked",
                            "key blocks outside, turned in the cache; loops that the compiler vectorises"),
    [SPARSE_TILES] =
        FAST(MSA_STAGE_SPARSE, sparse, fast_tiles, "tiles",
             "Q-outer: a tile of neighbouring queries walks the union of its blocks under a mask"),
    [SPARSE_BLOCKS] = FAST(MSA_STAGE_SPARSE, sparse, fast_blocks, "blocks",
                           "KV-outer: the queries that chose a block are gathered for a full product"),
    [SPARSE_LANES] =
        FAST(MSA_STAGE_SPARSE, sparse, fast_lanes, "lanes",
             "KV-outer, one query at a time: its heads are the lanes of a vector, no product to fill"),
    [SPARSE] =
        FAST(MSA_STAGE_SPARSE, sparse, fast_sparse, "ruled",
             "lanes for large groups, tiles where neighbours agree, else blocks: sparse_tiles.c has the rule"),
    [PREFILL] = FAST(MSA_STAGE_PREFILL, prefill, fast_prefill, "tiles", "the index, then the Main Branch"),
    [DECODE] = FAST(MSA_STAGE_DECODE, decode, fast_decode, "streams",
                    "index keys, then chosen blocks, stream by; the heads of a group are the lanes"),
    [DENSE_DECODE] = FAST(MSA_STAGE_DENSE_DECODE, dense_decode, fast_dense_decode, "streams",
                          "all keys and values stream by; the heads of a group are the lanes"),
    [BACKWARD_TILES] = FAST(MSA_STAGE_BACKWARD, backward, fast_backward_tiles, "tiles",
                            "the same tiles; a group owns its dK and dV, so no atomics"),
    [BACKWARD_BLOCKS] =
        FAST(MSA_STAGE_BACKWARD, backward, fast_backward_blocks, "blocks",
             "KV-outer, five full products; parts of the blocks own dK and dV, dQ is summed over them"),
    [BACKWARD] =
        FAST(MSA_STAGE_BACKWARD, backward, fast_backward, "ruled", "tiles for short rows, else blocks"),
    [DENSE_BACKWARD] = FAST(MSA_STAGE_DENSE_BACKWARD, dense_backward, fast_dense_backward, "ruled",
                            "the same over all visible keys"),
    [KL_TILES] = FAST(MSA_STAGE_KL, kl, fast_kl_tiles, "tiles",
                      "teacher and student of a tile side by side; loss and gradients in one walk"),
    [KL_BLOCKS] = FAST(MSA_STAGE_KL, kl, fast_kl_blocks, "blocks",
                       "KV-outer: log-sum-exps first, then teacher and student meet block by block"),
    [KL] = FAST(MSA_STAGE_KL, kl, fast_kl, "ruled", "tiles for short rows, else blocks"),
};

const msa_ops msa_fast_ops = {
    .stage = {&msa_fast_kernels[DENSE], &msa_fast_kernels[INDEX], &ref_topk_kernel, &ref_reverse_kernel,
              &msa_fast_kernels[SPARSE], &msa_fast_kernels[PREFILL], &msa_fast_kernels[DECODE],
              &msa_fast_kernels[DENSE_DECODE], &msa_fast_kernels[BACKWARD], &msa_fast_kernels[DENSE_BACKWARD],
              &msa_fast_kernels[KL]},
    .gemm = fast_gemm,
};
