/* The table full of references, and the attention as a walk through whatever table one is given. */
#include "internal.h"

#define REFERENCE(STAGE, field, function, text)                                                              \
    CHECKED_WORKSPACE(field)                                                                                 \
    const msa_kernel ref_##field##_kernel = {.stage = STAGE,                                                 \
                                             .name = "reference",                                            \
                                             .backend = "ref",                                               \
                                             .constraints = "any shape",                                     \
                                             .idea = text,                                                   \
                                             .workspace = field##_checked,                                   \
                                             .field = function}

REFERENCE(MSA_STAGE_DENSE, dense, msa_dense, "softmax over all visible keys, sums in double");
REFERENCE(MSA_STAGE_INDEX, index, msa_index, "dot products in double, block max, ranked unrounded");
REFERENCE(MSA_STAGE_TOPK, topk, msa_topk, "insertion into a sorted list of k, ties to the lower id");
REFERENCE(MSA_STAGE_REVERSE, reverse, msa_reverse,
          "count, sum up, scatter: queries of each block in ascending order");
REFERENCE(MSA_STAGE_SPARSE, sparse, msa_sparse, "list the chosen tokens, then attend to them");
REFERENCE(MSA_STAGE_PREFILL, prefill, msa_prefill, "index, then sparse");
REFERENCE(MSA_STAGE_DECODE, decode, msa_decode,
          "score, select, attend, each key found through the page table");
REFERENCE(MSA_STAGE_DENSE_DECODE, dense_decode, msa_dense_decode,
          "attend to all keys, each found through the page table");
REFERENCE(MSA_STAGE_BACKWARD, backward, msa_backward, "recompute P, accumulate dK and dV in double");
REFERENCE(MSA_STAGE_DENSE_BACKWARD, dense_backward, msa_dense_backward, "the same over all visible keys");
REFERENCE(MSA_STAGE_KL, kl, msa_kl, "teacher and student rows side by side, in double");

static void plain_gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
                       const float *b, float beta, float *c)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum +=
                    (double)a[trans_a ? l * m + i : i * k + l] * (double)b[trans_b ? j * k + l : l * n + j];
            c[i * n + j] = (float)(sum + (beta != 0 ? (double)beta * (double)c[i * n + j] : 0));
        }
}

const msa_ops msa_ref_ops = {
    .stage = {&ref_dense_kernel, &ref_index_kernel, &ref_topk_kernel, &ref_reverse_kernel, &ref_sparse_kernel,
              &ref_prefill_kernel, &ref_decode_kernel, &ref_dense_decode_kernel, &ref_backward_kernel,
              &ref_dense_backward_kernel, &ref_kl_kernel},
    .gemm = plain_gemm,
};

const char *msa_stage_name(msa_stage stage)
{
    static const char *const name[MSA_N_STAGES] = {"dense",    "index",          "topk",   "reverse",
                                                   "sparse",   "prefill",        "decode", "dense_decode",
                                                   "backward", "dense_backward", "kl"};
    return stage >= 0 && stage < MSA_N_STAGES ? name[stage] : "unknown";
}

size_t msa_workspace(const msa_ops *ops, const msa_shape *s)
{
    size_t most = 0;
    for (int stage = 0; stage < MSA_N_STAGES; stage++) {
        size_t bytes = (ops ? ops : &msa_ref_ops)->stage[stage]->workspace(s);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* The selection and, if asked for, its LSE: in one go where the index entry can, else step by step. */
static msa_status choose(const msa_ops *ops, const msa_shape *s, const float *qi, const float *ki,
                         float *scores, int32_t *ids, float *index_lse, void *work)
{
    msa_index_fn *index = ops->stage[MSA_STAGE_INDEX]->index;
    msa_status status = index(s, qi, ki, scores, ids, index_lse, work);
    if (status != MSA_ERR_UNSUPPORTED)
        return status;
    status = index(s, qi, ki, scores, ids, NULL, work);
    if (status == MSA_ERR_UNSUPPORTED && scores) {
        MSA_TRY(index(s, qi, ki, scores, NULL, NULL, work));
        status = ops->stage[MSA_STAGE_TOPK]->topk(s, scores, ids, work);
    }
    MSA_TRY(status);
    return index_lse ? msa_index_lse(s, qi, ki, ids, index_lse) : MSA_OK;
}

msa_status msa_forward(const msa_ops *ops, const msa_shape *s, const float *q, const float *k, const float *v,
                       const float *qi, const float *ki, float *scores, int32_t *ids, float *o, float *lse,
                       float *index_lse, void *work)
{
    if (!ops)
        ops = &msa_ref_ops;
    MSA_TRY(msa_check_shape(s));
    if (!q || !k || !v || !qi || !ki || !ids || !o || !work)
        return MSA_ERR_NULL;
    MSA_TRY(choose(ops, s, qi, ki, scores, ids, index_lse, work));
    return ops->stage[MSA_STAGE_SPARSE]->sparse(s, q, k, v, ids, o, lse, work);
}
