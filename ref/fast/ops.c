/* The fast CPU path as entries of the table. Selection from given scores is the reference's: it is cheap. */
#include "../call.h"
#include "../stages.h"
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

#define KERNEL(stage, name, function, idea) RUN(stage, function) CHECKED_WORKSPACE(function)
#include "kernels.def"

#define ROW(stage_, name_, function, idea_, best_)                                                           \
    {.stage = (msa_stage)STAGE_##stage_,                                                                     \
     .name = #name_,                                                                                         \
     .backend = "fast",                                                                                      \
     .constraints = "any shape",                                                                             \
     .idea = idea_,                                                                                          \
     .best = best_,                                                                                          \
     .workspace = function##_checked,                                                                        \
     .run = function##_run},

const msa_kernel msa_fast_kernels[] = {
#define KERNEL(stage, name, function, idea) ROW(stage, name, function, idea, false)
#define BEST(stage, name, function, idea) ROW(stage, name, function, idea, true)
#include "kernels.def"
    {.name = NULL}};

enum {
#define KERNEL(stage, name, function, idea) NUMBER_##stage##_##name,
#include "kernels.def"
};

/* The reference's entries, and over them those of this path. */
#pragma GCC diagnostic ignored "-Woverride-init"
const msa_ops msa_fast_ops = {
    .stage =
        {
#define STAGE(NAME, name, ...) [MSA_STAGE_##NAME] = &ref_##name##_kernel,
#include "../stages.def"
#define KERNEL(stage, name, function, idea)
#define BEST(stage, name, function, idea) [STAGE_##stage] = &msa_fast_kernels[NUMBER_##stage##_##name],
#include "kernels.def"
        },
    .gemm = fast_gemm,
};
