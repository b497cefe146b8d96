/* The fast CPU path as entries of the table. Selection from given scores is the reference's: it is cheap. */
#include "fast.h"

#define FAST(STAGE, field, text)                                                                             \
    static const msa_kernel fast_##field##_kernel = {.stage = STAGE,                                         \
                                                     .name = "tiles",                                        \
                                                     .backend = "fast",                                      \
                                                     .constraints = "any shape",                             \
                                                     .idea = text,                                           \
                                                     .workspace = fast_##field##_workspace,                  \
                                                     .field = fast_##field}

FAST(MSA_STAGE_DENSE, dense, "queries and heads of a tile in one OpenBLAS product, all visible keys");
FAST(MSA_STAGE_INDEX, index, "all groups share one product with the index keys; no score matrix");
FAST(MSA_STAGE_SPARSE, sparse, "a tile of neighbouring queries walks the union of its blocks under a mask");
FAST(MSA_STAGE_BACKWARD, backward, "the same tiles; a group owns its dK and dV, so no atomics");
FAST(MSA_STAGE_KL, kl, "teacher and student of a tile side by side; loss and gradients in one walk");

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
FAST(MSA_STAGE_PREFILL, prefill, "the index, then the Main Branch");

const msa_ops msa_fast_ops = {
    .stage = {&fast_dense_kernel, &fast_index_kernel, &ref_topk_kernel, &ref_reverse_kernel,
              &fast_sparse_kernel, &fast_prefill_kernel, &ref_decode_kernel, &ref_dense_decode_kernel,
              &fast_backward_kernel, &fast_kl_kernel},
    .gemm = fast_gemm,
};
