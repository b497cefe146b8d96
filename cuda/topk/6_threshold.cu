/**
 * @file 6_threshold.cu
 * @brief Selection from given scores, a warp per row, of which a first look leaves a few.
 *
 * Idea: a warp has 1024 scores of its row in registers, 32 a lane. Of the 32 lanes' largest, the (k - 1)-th is below at
 * least k - 1 scores, so only what reaches it can be chosen: 20 scores on average at k = 16. Their blocks pass through
 * shared memory to 32 lanes in a row, which read the scores again, sort them by key and merge them into the row's list;
 * its last entry bounds the next 1024 too. Nothing is inserted one by one, and no row waits for another.
 * Bytes, a row of n = local blocks: 4 n of scores in n / 8 sectors, and 4 for each that remains, out of L1; 4 k of ids;
 * 8 of shared memory for each that remains.
 * Floor: those bytes.
 * Machine code: 585 instructions for 4 KB, where 4_staged spends about 2540; 8 loads of 16 bytes under way.
 * Waste: lanes idle in rows below 1024 blocks; scores in ascending order remain all of them, 32 sorted at a time.
 */
#include "../kit/candidates.cuh"

namespace
{

constexpr int warps = 4, per_lane = 32, at_once = 32 * per_lane;

using Buffer = int32_t[at_once]; ///< of a warp: blocks that remain

/// The n-th largest (from 0) of the lanes' numbers: a bitonic network that sorts them. Runs that are to ascend descend
/// with their signs turned, so that a lane's part in a step does not depend on the run.
PTX_INLINE float nth_largest(float x, int n)
{
    UNROLL
    for (int run = 2; run <= 32; run *= 2) {
        x = lane_has(run % 32) ? -x : x;
        UNROLL
        for (int step = run / 2; step > 0; step /= 2) {
            const float other = shfl_xor(x, step);
            x = lane_has(step) ? fminf(x, other) : fmaxf(x, other);
        }
        x = lane_has(run % 32) ? -x : x;
    }
    return shfl(x, n);
}

/// The lane's share of scores first..first+1023 of n, four by four where `Wide`; -inf where there are none.
template <bool Wide> PTX_INLINE void fetch(float (&x)[per_lane], const float *scores, int first, int n)
{
    constexpr int width = Wide ? 4 : 1;
    UNROLL
    for (int i = 0; i < per_lane; i += width) {
        const int b = first + 32 * i + (int)threadIdx.x % 32 * width;
        if constexpr (Wide) {
            const float4 four = b < n ? ld_global((const float4 *)(scores + b)) : float4{};
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        } else {
            x[i] = b < n ? ld_global(scores + b) : 0;
        }
    }
}
/// Block of the lane's score i.
template <bool Wide> PTX_INLINE int block_at(int first, int i)
{
    const int lane = (int)threadIdx.x % 32;
    return Wide ? first + 32 * (i / 4 * 4) + 4 * lane + i % 4 : first + 32 * i + lane;
}

/// A bit for each of the lane's scores that is not below what the list and this look ask for. NaN, which is not below
/// anything, ranks last among those that remain.
template <bool Wide>
PTX_INLINE uint32_t remaining(uint64_t list, const float *scores, int first, int n, int topk)
{
    float x[per_lane], top = minus_infinity();
    uint32_t there = ~0u, stay = 0;
    fetch<Wide>(x, scores, first, n);
    if (first + at_once > n)
        // [tail]
        UNROLL
    for (int i = 0; i < per_lane; i++)
        if (block_at<Wide>(first, i) >= n)
            x[i] = minus_infinity(), there &= ~(1u << i);
    // [tail]
    UNROLL
    for (int i = 0; i < per_lane; i++)
        top = fmaxf(top, x[i]);
    const float bound = fmaxf(nth_largest(top, topk - 2), score_of(shfl(list, 31)));
    UNROLL
    for (int i = 0; i < per_lane; i++)
        stay |= x[i] < bound ? 0 : 1u << i;
    return stay & there;
}

/// Takes the scores from `first` on into the list.
// [chunk]
template <bool Wide>
PTX_INLINE uint64_t take(uint64_t list, Buffer &buffer, const float *scores, int first, int n, int topk)
{
    const int lane = (int)threadIdx.x % 32;
    uint32_t stay = remaining<Wide>(list, scores, first, n, topk);
    int before = __popc(stay); // in this lane and those below it, then without its own
    UNROLL
    for (int by = 1; by < 32; by *= 2) {
        const int lower = shfl_up(before, (unsigned)by);
        before += lane >= by ? lower : 0;
    }
    const int total = shfl(before, 31);
    before -= __popc(stay);
    for (; stay; stay &= stay - 1)
        st_shared(&buffer[before++], block_at<Wide>(first, __ffs((int)stay) - 1));
    __syncwarp();
    ROLLED
    for (int c = lane; c < ceil_div(total, 32) * 32; c += 32) {
        const int b = c < total ? ld_shared(&buffer[c]) : n;
        list = merged(list, b < n ? rank_key(ld_global(scores + b), b) : free_entry);
    }
    __syncwarp(); // read, before the next scores come
    return list;
}
// [chunk]

template <bool Wide>
__global__ void __launch_bounds__(32 * warps, 4) threshold(Shape s, const float *scores, int32_t *ids)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * warps + threadIdx.x / 32;
    if (row >= (int64_t)s.n_q * s.n_kv_heads)
        return;
    const int r = (int)(row / s.n_q), i = (int)(row % s.n_q), local = local_block(s, i);
    Buffer &buffer = shared<Buffer[warps]>()[threadIdx.x / 32];
    uint64_t list = first_entry((int)threadIdx.x % 32, 32, s.topk, local);
    if (s.topk > 1)
        ROLLED
    for (int first = 0; first < local; first += at_once)
        list = take<Wide>(list, buffer, scores + scores_at(s, i, r), first, local, s.topk);
    write_ids(ids + row_at(s, i, r) * s.topk, list, s.topk);
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div((int64_t)c.s.n_q * c.s.n_kv_heads, (int64_t)warps));
    with_int<0, 1>(c.s.n_scores % 4 == 0, [&](auto wide) { // then every row starts at a multiple of 16 bytes
        LAUNCH((threshold<wide.value>), grid, dim3(32 * warps), sizeof(Buffer[warps]), c.stream, c.s,
               c.a.scores, c.a.ids);
    });
    return MSA_OK;
}

} // namespace

ENTRY(topk, threshold, run, no_workspace);
