/* The table full of references, and the attention as a walk through whatever table one is given. */
#include "call.h"
#include "internal.h"

#define STAGE(NAME, field, text, ...)                                                                        \
    CHECKED_WORKSPACE(field)                                                                                 \
    RUN(field, msa_##field)                                                                                  \
    const msa_kernel ref_##field##_kernel = {.stage = MSA_STAGE_##NAME,                                      \
                                             .name = "reference",                                            \
                                             .backend = "ref",                                               \
                                             .constraints = "any shape",                                     \
                                             .idea = text,                                                   \
                                             .best = true,                                                   \
                                             .workspace = field##_checked,                                   \
                                             .run = msa_##field##_run};
#include "stages.def"

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
    .stage =
        {
#define STAGE(NAME, name, ...) [MSA_STAGE_##NAME] = &ref_##name##_kernel,
#include "stages.def"
        },
    .gemm = plain_gemm,
};

size_t msa_workspace(const msa_ops *ops, const msa_shape *s)
{
    size_t most = 0;
    for (int stage = 0; stage < MSA_N_STAGES; stage++) {
        size_t bytes = (ops ? ops : &msa_ref_ops)->stage[stage]->workspace(s);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* The selection and, if asked for, its LSE: in one go where the index entry can, else step by step. The program has its own,
 * cli_selection() of cli/choose.c: there --ids and --kernel take part, and what ran is said. */
static msa_status choose(const msa_ops *ops, const msa_shape *s, const float *qi, const float *ki,
                         float *scores, int32_t *ids, float *index_lse, void *work)
{
    const msa_kernel *index = ops->stage[MSA_STAGE_INDEX];
    msa_arrays a = {.qi = qi, .ki = ki, .scores = scores, .ids = ids, .index_lse = index_lse};
    msa_status status = index->run(s, &a, work);
    if (status != MSA_ERR_UNSUPPORTED)
        return status;
    a.index_lse = NULL;
    status = index->run(s, &a, work);
    if (status == MSA_ERR_UNSUPPORTED && scores) {
        a.ids = NULL;
        MSA_TRY(index->run(s, &a, work));
        status = ops->stage[MSA_STAGE_TOPK]->run(s, &(msa_arrays){.scores = scores, .ids = ids}, work);
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
    const msa_arrays attended = {.q = q, .k = k, .v = v, .ids = ids, .o = o, .lse = lse};
    return ops->stage[MSA_STAGE_SPARSE]->run(s, &attended, work);
}
