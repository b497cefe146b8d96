/**
 * @file 3_auto.cu
 * @brief The whole attention of a layer: the fused index, then sparse/union or sparse/kv_outer, whichever the
 *        selection is better for.
 *
 * Idea: between the two a single CTA measures union8, the mean size of the union of the blocks of 8
 * neighbouring queries, on 64 samples evenly spaced in every group. Both kernels are launched behind a gate
 * that compares it with auto_crossing (prefill.cuh): the CTAs of one find it closed and return. So the choice
 * costs no synchronisation with the host, and a CUDA graph can hold it. Sequences of a batch choose each for
 * itself.
 * Bytes, floor: those of the kernel it takes, and the samples' ids.
 * Waste: the measurement; the launches and CTAs of the kernel that is passed over.
 * Estimate: the measurement 7 us; what is passed over 0.04 ms of 1.3 at 8K tokens, at most 1.2 ms of about 1 s at 1M.
 * Design notes: chapter 14.
 */
#include "prefill.cuh"

namespace
{

constexpr int neighbours = 8, samples = 64, warps = 32, max_ids = neighbours * 32;

/// The samples of a group, and the first query of one.
MSA_BOTH_SIDES inline int n_samples(const Shape &s)
{
    const int all = ceil_div(s.n_q, neighbours), share = ceil_div(samples, s.n_kv_heads);
    return all < share ? all : share;
}
PTX_INLINE int sample_at(const Shape &s, int sample)
{
    return (int)((int64_t)ceil_div(s.n_q, neighbours) * sample / n_samples(s)) * neighbours;
}

struct Smem {
    int32_t ids[warps][max_ids];
    uint32_t sum[warps];
};

/// How many different blocks a sample's queries chose, in all lanes.
PTX_INLINE uint32_t size_of_union(const Shape &s, const int32_t *ids, int32_t (&seen)[max_ids], int r, int i)
{
    const int lane = (int)threadIdx.x % 32, left = s.n_q - i,
              n = (left < neighbours ? left : neighbours) * s.topk;
    for (int a = lane; a < n; a += 32)
        st_shared(&seen[a], ld_global(ids + row_at(s, i, r) * s.topk + a));
    __syncwarp();
    uint32_t first = 0; // of its kind
    for (int a = lane; a < n; a += 32) {
        const int id = ld_shared(&seen[a]);
        bool duplicate = id < 0;
        for (int b = 0; b < a / s.topk * s.topk; b++) // of earlier queries: within one ids differ
            duplicate |= ld_shared(&seen[b]) == id;
        first += !duplicate;
    }
    __syncwarp();
    for (int with = 1; with < 32; with *= 2)
        first += shfl_xor(first, with);
    return first;
}

__global__ void __launch_bounds__(32 * warps, 1) overlap(Shape padded, const int32_t *ids, uint32_t *sum)
{
    const Shape s = actual(padded);
    Smem &m = shared<Smem>();
    const int warp = (int)threadIdx.x / 32;
    uint32_t mine = 0;
    for (int a = warp; a < n_samples(s) * s.n_kv_heads; a += warps)
        mine += size_of_union(s, ids, m.ids[warp], a % s.n_kv_heads, sample_at(s, a / s.n_kv_heads));
    if (threadIdx.x % 32 == 0)
        st_shared(&m.sum[warp], mine);
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    mine = 0;
    for (int a = 0; a < warps; a++)
        mine += ld_shared(&m.sum[a]);
    // The host counts on as many samples as the capacity has.
    const uint32_t n = (uint32_t)n_samples(s), wanted = (uint32_t)n_samples(padded);
    st_global(sum, n > 0 ? mine * wanted / n : 0);
}

/// The sum comes first; what is left is the stages'.
uint32_t *take_sum(Carve &carve)
{
    return carve.take<uint32_t>(1);
}

size_t workspace(const Call &c)
{
    Carve carve = {};
    take_sum(carve);
    return carve.used + layer_workspace(c, ON_SIDE(sparse, kv_outer));
}

/// What the sum is where union8 is auto_crossing hundredths of k.
uint32_t limit_of(const Shape &s)
{
    return (uint32_t)tuned(MSA_TUNE_auto_crossing) * (uint32_t)(n_samples(s) * s.n_kv_heads * s.topk) / 100;
}

msa_status run(const Call &c)
{
    Carve carve = {(uintptr_t)c.work};
    uint32_t *sum = take_sum(carve);
    Call part = c;
    part.work = (char *)c.work + carve.used;
    msa_status status = choose_blocks(part);
    if (status != MSA_OK)
        return status;
    part = main_branch(part);
    // [gates]
    LAUNCH(overlap, dim3(1), dim3(32 * warps), sizeof(Smem), c.stream, c.s, part.a.ids, sum);
    part.s.gate = {sum, limit_of(c.s), false};
    status = ON_SIDE(sparse, union).run(part);
    part.s.gate.above = true;
    return status == MSA_OK ? ON_SIDE(sparse, kv_outer).run(part) : status;
    // [gates]
}

} // namespace

ENTRY(prefill, auto, run, workspace);
