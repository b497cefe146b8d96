/* The fast CPU path as entries of the table. Selection from given scores is the reference's: it is cheap. */
#include "../call.h"
#include "../stages.h"
#include "fast.h"

/* ---- bf16 from float32 -------------------------------------------------------------------------------- */

static unsigned halved(msa_stage stage)
{
    unsigned set = 0;
    for (array_id a = 0; a < ARRAY_N; a++)
        if (array_is_half(a))
            set |= arrays_of(stage).in & 1u << a;
    return set;
}

/* Where a call's bf16 tensors lie in work, and of a step with pages their table and scales. */
typedef struct rounded {
    msa_arrays a;
    int32_t *table;
    float *scale;
    void *rest;
} rounded;

/* `own` bytes are for the kernel itself. */
static size_t place_rounded(rounded *to, msa_stage stage, const msa_shape *s, size_t own, void *work)
{
    arena all = arena_over(work);
    for (array_id a = 0; a < ARRAY_N; a++)
        if (HAS(halved(stage), a))
            array_set(&to->a, a, arena_take(&all, array_count(s, NULL, a), sizeof(uint16_t)));
    to->table = arena_take(&all, stage_is_step(stage) ? s->n_kv : 0, sizeof *to->table);
    to->scale = arena_take(&all, stage == MSA_STAGE_DECODE ? s->n_kv : 0, sizeof *to->scale);
    to->rest = arena_take(&all, 1, own);
    return arena_bytes(&all);
}

static size_t rounded_workspace(msa_stage stage, const msa_shape *s, size_t own)
{
    rounded none = {0};
    return place_rounded(&none, stage, s, own, NULL);
}

/* Page `to` is page `from`, rounded; 8-bit index keys go where others would. */
static void round_page(const msa_shape *s, const msa_arrays *a, const rounded *half, int64_t page,
                       int64_t from, int64_t to)
{
    static const array_id of_pages[] = {ARRAY_K, ARRAY_V, ARRAY_KI};
    const int64_t codes = page * s->d_index, pieces = page / piece_tokens(s, &a->pages);
    for (int n = 0; n < 3; n++) {
        const float *x = array_get(a, of_pages[n]);
        const int64_t count = array_count(s, NULL, of_pages[n]) / s->n_kv * page;
        if (x && array_get(&half->a, of_pages[n]) && !(a->pages.ki8 && of_pages[n] == ARRAY_KI))
            round_halves((uint16_t *)array_get(&half->a, of_pages[n]) + to * count, x + from * count, count);
    }
    if (!a->pages.ki8 || !array_get(&half->a, ARRAY_KI))
        return;
    memcpy((uint8_t *)array_get(&half->a, ARRAY_KI) + to * codes, a->pages.ki8 + from * codes, (size_t)codes);
    memcpy(half->scale + to * pieces, a->pages.scale + from * pieces, (size_t)pieces * sizeof *half->scale);
}

/* The pages that requests use, one request's after the other's: how many there are in all no shape tells. */
static void round_pages(const msa_shape *s, const msa_arrays *a, rounded *half)
{
    const int64_t room = s->n_kv / msa_n_seqs(s);
    msa_pages *p = &half->a.pages;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const request at = get_request(s, &a->pages, r);
        const int64_t first = r * (room / at.page);
        for (int64_t n = 0; n * at.page < at.seq.n_kv; n++) {
            half->table[first + n] = (int32_t)(first + n);
            if (at.seq.n_q > 0)
                round_page(s, a, half, at.page, at.table[n], first + n);
        }
        p->n_pages = first + room / at.page;
    }
    p->table = half->table;
    if (p->ki8) {
        p->ki8 = array_get(&half->a, ARRAY_KI);
        p->scale = half->scale;
        half->a.ki = NULL;
    }
}

/* What every call of a kernel of bf16 tensors has to have, and what is in pages. */
static msa_status check_call(msa_stage stage, const msa_shape *s, const msa_arrays *a, const void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!a || !work || arrays_missing(stage, a))
        return MSA_ERR_NULL;
    return stage_is_step(stage) && has_pages(a) ? msa_check_pages(s, &a->pages) : MSA_OK;
}

static msa_status run_rounded(msa_stage stage, msa_half_fn *f, const msa_shape *s, const msa_arrays *a,
                              void *work)
{
    MSA_TRY(check_call(stage, s, a, work));
    const bool paged = stage_is_step(stage) && has_pages(a);
    rounded half = {.a = *a};
    half.a.index8 = NULL; /* it bounds the keys as they were */
    if (stage == MSA_STAGE_DENSE_DECODE)
        half.a.ki = NULL, half.a.pages.ki8 = NULL; /* which a caller may have, but work has no room for */
    place_rounded(&half, stage, s, 0, work);
    for (array_id x = 0; x < ARRAY_N; x++) {
        const bool in_pages = paged && (x == ARRAY_K || x == ARRAY_V || x == ARRAY_KI);
        if (HAS(halved(stage), x) && !in_pages && array_get(a, x))
            round_halves(array_get(&half.a, x), array_get(a, x), array_count(s, NULL, x));
        else if (HAS(halved(stage), x) && !in_pages)
            array_set(&half.a, x, NULL);
    }
    if (paged)
        round_pages(s, a, &half);
    return f(s, &half.a, half.rest);
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
    static msa_status function##_half(const msa_shape *s, const msa_arrays *a, void *work)                   \
    {                                                                                                        \
        MSA_TRY(check_call((msa_stage)STAGE_##stage, s, a, work));                                           \
        return function(s, a, work);                                                                         \
    }                                                                                                        \
    static size_t function##_rounded_workspace(const msa_shape *s)                                           \
    {                                                                                                        \
        return rounded_workspace((msa_stage)STAGE_##stage, s, function##_workspace(s));                      \
    }

/* ---- The table ------------------------------------------------------------------------------------------ */

#define RUN_ARRAYS(function)                                                                                 \
    static msa_status function##_run(const msa_shape *s, const msa_arrays *a, void *work)                    \
    {                                                                                                        \
        return a ? function(s, a, work) : MSA_ERR_NULL;                                                      \
    }
#define KERNEL(stage, name, function, idea) RUN(stage, function) CHECKED_WORKSPACE(function)
#define ARRAYS(stage, name, function, idea) RUN_ARRAYS(function) CHECKED_WORKSPACE(function)
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
#define HALF(stage, name, precision_, function, idea)                                                        \
    ROW(stage, name, function, function##_rounded, idea, .precision = MSA_##precision_,                      \
        .run_half = function##_half)
#include "kernels.def"
    {.name = NULL}};

enum {
#define KERNEL(stage, name, function, idea) NUMBER_##stage##_##name,
#include "kernels.def"
};

/* The reference's entries, and over them those of this path: the best, or of bf16 tensors a stage's last. */
#pragma GCC diagnostic ignored "-Woverride-init"
#define ENTRY(stage, name) [STAGE_##stage] = &msa_fast_kernels[NUMBER_##stage##_##name],
const msa_ops msa_fast_ops = {
    .stage =
        {
#define STAGE(NAME, name, ...) [MSA_STAGE_##NAME] = &ref_##name##_kernel,
#include "../stages.def"
#define KERNEL(stage, name, function, idea)
#define BEST(stage, name, function, idea) ENTRY(stage, name)
#include "kernels.def"
        },
    .gemm = fast_gemm,
};
const msa_ops msa_fast_bf16_ops = {
    .stage =
        {
#define STAGE(NAME, name, ...) [MSA_STAGE_##NAME] = &ref_##name##_kernel,
#include "../stages.def"
#define KERNEL(stage, name, function, idea)
#define HALF(stage, name, precision_, function, idea) ENTRY(stage, name)
#include "kernels.def"
        },
    .gemm = fast_gemm,
};
