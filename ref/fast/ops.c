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

/* ---- bf16 from float32 -------------------------------------------------------------------------------- */

static unsigned halved(msa_stage stage)
{
    unsigned set = 0;
    for (array_id a = 0; a < ARRAY_N; a++)
        if (array_is_half(a))
            set |= arrays_of(stage).in & 1u << a;
    return set;
}

/* Where a call's bf16 tensors lie in work. */
static size_t place_halves(msa_stage stage, const msa_shape *s, msa_arrays *to, void *work)
{
    arena all = arena_over(work);
    for (array_id a = 0; a < ARRAY_N; a++)
        if (HAS(halved(stage), a))
            array_set(to, a, arena_take(&all, array_count(s, NULL, a), sizeof(uint16_t)));
    return arena_bytes(&all);
}

static size_t halves_workspace(msa_stage stage, const msa_shape *s)
{
    msa_arrays none = {0};
    return place_halves(stage, s, &none, NULL);
}

static msa_status run_rounded(msa_stage stage, msa_half_fn *f, const msa_shape *s, const msa_arrays *a,
                              void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!a || !work || arrays_missing(stage, a))
        return MSA_ERR_NULL;
    msa_arrays half = *a;
    const size_t used = place_halves(stage, s, &half, work);
    for (array_id x = 0; x < ARRAY_N; x++)
        if (HAS(halved(stage), x))
            round_halves(array_get(&half, x), array_get(a, x), array_count(s, NULL, x));
    return f(s, &half, (char *)arena_over(work).base + used);
}

/* Kernels of one stage may share a workspace. */
#define fast_sparse_amx_queries_workspace fast_sparse_amx_workspace
#define fast_sparse_amx_blocks_workspace fast_sparse_amx_workspace
#define fast_dense_backward_amx_workspace fast_backward_amx_workspace
#define RUN_ROUNDED(stage, function)                                                                         \
    static msa_status function##_run(const msa_shape *s, const msa_arrays *a, void *work)                    \
    {                                                                                                        \
        return run_rounded((msa_stage)STAGE_##stage, function, s, a, work);                                  \
    }                                                                                                        \
    static size_t function##_rounded_workspace(const msa_shape *s)                                           \
    {                                                                                                        \
        return halves_workspace((msa_stage)STAGE_##stage, s) + function##_workspace(s);                      \
    }

/* ---- The table ------------------------------------------------------------------------------------------ */

#define KERNEL(stage, name, function, idea) RUN(stage, function) CHECKED_WORKSPACE(function)
#define HALF(stage, name, precision_, function, idea) RUN_ROUNDED(stage, function) CHECKED_WORKSPACE(function##_rounded)
#include "kernels.def"

#define ROW(stage_, name_, function, checked, idea_, ...)                                                    \
    {.stage = (msa_stage)STAGE_##stage_,                                                                     \
     .name = #name_,                                                                                         \
     .backend = "fast",                                                                                      \
     .constraints = "any shape",                                                                             \
     .idea = idea_,                                                                                          \
     .workspace = checked##_checked,                                                                         \
     .run = function##_run,                                                                                  \
     __VA_ARGS__},

const msa_kernel msa_fast_kernels[] = {
#define KERNEL(stage, name, function, idea) ROW(stage, name, function, function, idea, .best = false)
#define BEST(stage, name, function, idea) ROW(stage, name, function, function, idea, .best = true)
#define HALF(stage, name, precision_, function, idea)                                                                    \
    ROW(stage, name, function, function##_rounded, idea, .precision = MSA_##precision_, .run_half = function)
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
#define HALF(stage, name, precision_, function, idea)
#define BEST(stage, name, function, idea) [STAGE_##stage] = &msa_fast_kernels[NUMBER_##stage##_##name],
#include "kernels.def"
        },
    .gemm = fast_gemm,
};
