/**
 * @file combine.cuh
 * @brief The partial outputs of a query's k blocks, each a softmax of its own, to one (chapter 3). Slot after slot, so
 *        that every run gives the same bits.
 *
 * A pair (query, group, slot) is numbered (query Hkv + group) k + slot; it has G rows of partials.
 */
#ifndef MSA_COMBINE_CUH
#define MSA_COMBINE_CUH

#include "../kit/kernel.cuh"

namespace
{

PTX_INLINE int64_t pair_at(const Shape &s, int query, int group, int slot)
{
    return ((int64_t)query * s.n_kv_heads + group) * s.topk + slot;
}

/* ---- D / 8 lanes a row of O -------------------------------------------------------------------------- */

constexpr int combine_threads = 128;

template <int D, class Out>
__global__ void __launch_bounds__(combine_threads)
    combine(Shape s, const int32_t *ids, const bf16 *partial, const float *partial_lse, Out *o, float *lse)
{
    s = actual(s);
    constexpr int lanes = D / 8, slots = 32 / lanes; // a lane holds 8 channels and the weights of some slots
    constexpr int together = 8;                      // partials that a thread waits for at once
    const int64_t row = ((int64_t)blockIdx.x * combine_threads + threadIdx.x) / lanes;
    const int lane = (int)threadIdx.x % lanes, leader = (int)threadIdx.x % 32 - lane;
    const bool exists = row < (int64_t)s.n_q * s.n_heads;
    const int i = exists ? (int)(row / s.n_heads) : 0, h = (int)(row % s.n_heads), r = h / s.group;
    const int64_t at = pair_at(s, i, r, 0) * s.group + h % s.group; // slot after slot, G rows apart
    const int32_t *chosen = ids + row_at(s, i, r) * s.topk;
    int n = exists ? s.topk : 0; // ids of the row
    if (closed(s.gate))
        return;
    for (int slot = lane; slot < n; slot += lanes)
        n = is_block(s, ld_global(chosen + slot)) ? n : slot;
    for (int with = 1; with < lanes; with *= 2) {
        const int other = shfl_xor(n, with);
        n = other < n ? other : n;
    }
    grid_wait();
    // [combine]
    float weight[slots], top = minus_infinity(), sum = 0;
    for (int a = 0; a < slots; a++) {
        const float *slot_lse = partial_lse + at + (a * lanes + lane) * s.group;
        weight[a] = a * lanes + lane < n ? ld_global(slot_lse) * log2_e : minus_infinity();
        top = fmaxf(top, weight[a]);
    }
    for (int with = 1; with < lanes; with *= 2)
        top = fmaxf(top, shfl_xor(top, with));
    for (int a = 0; a < slots; a++)
        sum += weight[a] = exists ? ex2(weight[a] - top) : 0;
    for (int with = 1; with < lanes; with *= 2)
        sum += shfl_xor(sum, with);
    float acc[8] = {};
    UNROLL
    for (int a = 0; a < slots; a++)
        UNROLL
    for (int first = 0; first < lanes; first += together) {
        if (a * lanes + first >= s.topk)
            break;
        bf16x8 y[together]; // all on their way before the first is needed
        UNROLL
        for (int b = 0; b < together; b++) {
            const int slot = a * lanes + first + b;
            const bf16 *source = partial + (at + slot * s.group) * D;
            y[b] = slot < n ? ld_global_once((const bf16x8 *)source + lane) : bf16x8{};
        }
        UNROLL
        for (int b = 0; b < together; b++) { // whatever its weight: 0 times NaN is NaN
            const float x = shfl(weight[a], leader + first + b);
            UNROLL
            for (int e = 0; e < 8; e++)
                acc[e] += x * to_float(y[b].x[e]);
        }
    }
    // [combine]
    if (!exists)
        return;
    const float f = 1 / sum;
    Out *out = o + row * D + 8 * lane;
    store_4(out, make_float4(acc[0] * f, acc[1] * f, acc[2] * f, acc[3] * f));
    store_4(out + 4, make_float4(acc[4] * f, acc[5] * f, acc[6] * f, acc[7] * f));
    if (lse && lane == 0)
        st_global(lse + row, top * ln_2 + logf(sum));
}

/// O and LSE of the call from the partials of all its pairs and their LSE, which the kernel before makes.
template <int D> void launch_combine(const Call &c, const bf16 *partial, const float *partial_lse)
{
    const Shape &s = c.s;
    const int64_t lanes = (int64_t)s.n_q * s.n_heads * (D / 8);
    with_output(c, [&](auto *o) {
        LAUNCH_DEPENDENT((combine<D, std::remove_pointer_t<decltype(o)>>),
                         dim3((unsigned)ceil_div(lanes, (int64_t)combine_threads)), dim3(combine_threads), 0,
                         c.stream, s, c.a.ids, partial, partial_lse, o, c.a.lse);
    });
}

} // namespace

#endif
