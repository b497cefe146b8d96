/* Chapter 11: block scores of one index query, right, wrong in four ways, better, and naive. */
#include "11_engine.h"

#include "../../cuda/kit/kernel.cuh"

constexpr int keys = KEYS, width = WIDTH;

/* [kernel] */
struct Smem {
    alignas(128) bf16 key[keys][width];
    float score[keys];
    uint64_t arrived;
};

/* A CTA per block of keys, a thread per key. */
template <int mistake>
__global__ void __launch_bounds__(keys) copied(const bf16 *qi, const bf16 *ki, float *m)
{
    Smem &s = shared<Smem>();
    const int t = (int)threadIdx.x;
    if (t == 0) {
        mbarrier_init(&s.arrived, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&s.arrived, sizeof s.key + (mistake == TOO_MANY_BYTES ? 16 : 0));
        bulk_load(s.key, ki + (int64_t)blockIdx.x * keys * width, sizeof s.key, &s.arrived);
    }
    __syncthreads(); // the mbarrier is there
    if (mistake != NO_WAIT)
        mbarrier_wait(&s.arrived, 0); // the keys are there

    float dot = 0;
    for (int c = 0; c < width; c++)
        dot += to_float(ld_global(qi + c)) * to_float(ld_shared(&s.key[t][c]));
    st_shared(&s.score[t], dot * scale<width>);

    for (int half = keys / 2; half > 0; half /= 2) { // the larger of two, of two of these, ...
        if (mistake == EARLY_RETURN && t >= half)
            return;
        if (mistake != NO_BARRIER)
            __syncthreads(); // the scores are there
        if (t < half)
            st_shared(&s.score[t], fmaxf(ld_shared(&s.score[t]), ld_shared(&s.score[t + half])));
    }
    if (t == 0)
        st_global(m + blockIdx.x, ld_shared(&s.score[0]));
}
/* [kernel] */

/* Every thread reads its key where it lies. */
__global__ void __launch_bounds__(keys) naive(const bf16 *qi, const bf16 *ki, float *m)
{
    float *score = shared<float[keys]>();
    const int t = (int)threadIdx.x;
    const bf16 *key = ki + ((int64_t)blockIdx.x * keys + t) * width;
    float dot = 0;
    for (int c = 0; c < width; c++)
        dot += to_float(ld_global(qi + c)) * to_float(ld_global(key + c));
    st_shared(&score[t], dot * scale<width>);
    for (int half = keys / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half)
            st_shared(&score[t], fmaxf(ld_shared(&score[t]), ld_shared(&score[t + half])));
    }
    if (t == 0)
        st_global(m + blockIdx.x, ld_shared(&score[0]));
}

/* Pairs of channels, each thread's loop begins elsewhere, and warps find their maximum by shuffles. */
struct alignas(4) Pair {
    bf16 x, y;
};
__global__ void __launch_bounds__(keys) skewed(const bf16 *qi, const bf16 *ki, float *m)
{
    Smem &s = shared<Smem>();
    const int t = (int)threadIdx.x, pairs = width / 2;
    if (t == 0) {
        mbarrier_init(&s.arrived, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&s.arrived, sizeof s.key);
        bulk_load(s.key, ki + (int64_t)blockIdx.x * keys * width, sizeof s.key, &s.arrived);
    }
    __syncthreads();
    mbarrier_wait(&s.arrived, 0);
    float dot = 0;
    /* [skewed] */
    for (int i = 0; i < pairs; i++) {
        const int c = (i + t) % pairs; // at any time the 32 lanes read 32 different banks
        const Pair q = ld_global((const Pair *)qi + c), k = ld_shared((const Pair *)s.key[t] + c);
        dot += to_float(q.x) * to_float(k.x) + to_float(q.y) * to_float(k.y);
    }
    float most = dot * scale<width>;
    for (int with = 16; with > 0; with /= 2)
        most = fmaxf(most, shfl_xor(most, with));
    if (t % 32 == 0)
        st_shared(&s.score[t / 32], most);
    /* [skewed] */
    __syncthreads();
    if (t == 0) {
        for (int warp = 1; warp < keys / 32; warp++)
            most = fmaxf(most, ld_shared(&s.score[warp]));
        st_global(m + blockIdx.x, most);
    }
}

/* ---- For C -------------------------------------------------------------------------------------- */

template <int mistake> static msa_status run_copied(const Call &c)
{
    LAUNCH(copied<mistake>, dim3((unsigned)c.s.n_blocks), dim3(keys), sizeof(Smem), c.stream, c.a.qi, c.a.ki,
           c.a.scores);
    return MSA_OK;
}
static msa_status run_naive(const Call &c)
{
    LAUNCH(naive, dim3((unsigned)c.s.n_blocks), dim3(keys), sizeof(float[keys]), c.stream, c.a.qi, c.a.ki,
           c.a.scores);
    return MSA_OK;
}
static msa_status run_skewed(const Call &c)
{
    LAUNCH(skewed, dim3((unsigned)c.s.n_blocks), dim3(keys), sizeof(Smem), c.stream, c.a.qi, c.a.ki, c.a.scores);
    return MSA_OK;
}

const msa_entry *engine_entry(enum version v)
{
    static const msa_entry entries[] = {
        {"naive", MSA_STAGE_INDEX, no_workspace, run_naive},
        {"copied", MSA_STAGE_INDEX, no_workspace, run_copied<COPIED>},
        {"skewed", MSA_STAGE_INDEX, no_workspace, run_skewed},
        {"no wait", MSA_STAGE_INDEX, no_workspace, run_copied<NO_WAIT>},
        {"no barrier", MSA_STAGE_INDEX, no_workspace, run_copied<NO_BARRIER>},
        {"early return", MSA_STAGE_INDEX, no_workspace, run_copied<EARLY_RETURN>},
        {"too many bytes", MSA_STAGE_INDEX, no_workspace, run_copied<TOO_MANY_BYTES>},
    };
    return &entries[v];
}
