/**
 * @file parts.cuh
 * @brief What a sweep left in parts, summed in a fixed order: dK and dV of blocks with several items, dQ and
 * dQi of slots, dKi of all groups.
 */
#ifndef MSA_PARTS_CUH
#define MSA_PARTS_CUH

#include "tiles.cuh"

namespace
{

/* ---- What the sweep left in parts, in a fixed order ------------------------------------------------- */

constexpr int merge_threads = 256;

/// dK and dV of a block that several items share: a CTA sums their parts.
template <int D, int N>
__global__ void __launch_bounds__(merge_threads)
    merge(Shape s, const int32_t *first, const float *split, float *dk, float *dv)
{
    s = actual(s);
    const int block = (int)blockIdx.x, group = (int)blockIdx.y, limit = s.item_limit;
    const int32_t *mine = first + group * (s.n_scores + 1) + block;
    const int begin = ld_global(mine), end = ld_global(mine + 1);
    if (end - begin <= limit)
        return;
    for (int a = 4 * (int)threadIdx.x; a < N * D; a += 4 * merge_threads) {
        const int64_t j = (int64_t)block * N + a / D;
        if (j >= s.n_kv)
            return;
        for (int which = 0; which < 2; which++) {
            float4 *const p = (float4 *)((which ? dv : dk) + kv_at(s, j, group, D) + a % D);
            float4 sum = ld_global(p);
            for (int at = begin; at < end; at += limit) {
                const int64_t place = split_at(s, group, at, end - at < limit ? end : at + limit);
                const float4 x = ld_global((const float4 *)(split + (2 * place + which) * N * D + a));
                sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
            }
            st_global(p, sum);
        }
    }
}

/// dQ or dQi of a row from the parts of its slots: a thread sums four channels. part[pairs,heads,width].
template <class In>
__global__ void __launch_bounds__(merge_threads)
    sum_slots(Shape s, const int32_t *ids, int slots, int heads, int width, const In *in, float *out)
{
    s = actual(s);
    const int64_t at = 4 * ((int64_t)blockIdx.x * merge_threads + threadIdx.x), row = at / width;
    if (row >= (int64_t)s.n_q * s.n_kv_heads * heads)
        return;
    const int64_t i = row / (s.n_kv_heads * heads), h = row % heads;
    const int r = (int)(row / heads % s.n_kv_heads);
    const In *mine = in + ((i * s.n_kv_heads + r) * slots * heads + h) * width + at % width;
    if (!ids) // full support: the blocks up to the local one
        slots = (s.prefix + (int)i) / s.block + 1;
    // [slots]
    float4 sum = make_float4(0, 0, 0, 0);
    for (int slot = 0; slot < slots; slot++) {
        if (ids && ld_global(ids + row_at(s, i, r) * s.topk + slot) < 0)
            break;
        const float4 x = load_4(mine + (int64_t)slot * heads * width);
        sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
    }
    st_global((float4 *)(out + at), sum);
    // [slots]
}

template <class In>
void launch_sum_slots(const Call &c, const Scratch &w, int heads, int width, const In *in, float *out)
{
    const int64_t n = (int64_t)c.s.n_q * c.s.n_kv_heads * heads * width / 4;
    LAUNCH((sum_slots<In>), dim3((unsigned)ceil_div(n, (int64_t)merge_threads)), dim3(merge_threads), 0,
           c.stream, c.s, c.a.ids, w.width, heads, width, in, out);
}

/* ---- dKi: index keys are shared, so a CTA owns a block in all groups ------------------------ */

template <int DI, int N> struct KeysSmem {
    struct Stage {
        WarpTile<32, N> g;
        WarpTile<32, DI> qi;
    } stage[2];
};

/// dKi += factor (u - t)^T Qi.
template <int DI, int N>
__global__ void __launch_bounds__(2 * N)
    index_keys(Shape s, Scratch w, const bf16 *qi, float factor, float *dki)
{
    s = actual(s);
    constexpr int threads = 2 * N, at_once = 32;
    KeysSmem<DI, N> &m = shared<KeysSmem<DI, N>>();
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32, block = (int)blockIdx.x;
    float acc[DI / 2] = {};
    for (int r = 0; r < s.n_kv_heads; r++) {
        const int before = block * N - s.prefix;
        const int32_t *first = w.first + r * (s.n_scores + 1) + block;
        const int begin = w.entries ? ld_global(first) : before > 0 ? before : 0;
        const int end = w.entries ? ld_global(first + 1) : s.n_q;
        auto fetch_step = [&](int e) {
            auto &stage = m.stage[(e - begin) / at_once % 2];
            copy_rows<threads>(stage.g, t, [&](int row) {
                return e + row < end ? w.g + row_of_g(s, w, r, block, e + row) * N : nullptr;
            });
            copy_rows<threads>(stage.qi, t, [&](int row) {
                if (e + row >= end)
                    return (const bf16 *)nullptr;
                const uint32_t *entry = w.entries + (int64_t)r * s.capacity * s.topk + e + row;
                const int64_t i = w.entries ? ld_global(entry) >> 5 : e + row;
                return qi + qi_at(s, i, r, DI);
            });
            cp_async_commit();
        };
        if (begin < end)
            fetch_step(begin);
        for (int e = begin; e < end; e += at_once) {
            auto &stage = m.stage[(e - begin) / at_once % 2];
            cp_async_wait<0>();
            __syncthreads(); // the step is there, and all are done with the one before
            if (e + at_once < end)
                fetch_step(e + at_once);
            uint32_t g[at_once / 16][4];
            for (int step = 0; step < at_once / 16; step++)
                load_transposed(g[step], stage.g, 16 * warp, 16 * step);
            warp_values(acc, g, stage.qi);
        }
        __syncthreads(); // the next group begins in the first stage again
    }
    store_rows<true>(acc, factor, [&](int half) {
        const int64_t j = (int64_t)block * N + 16 * warp + fragment_row(lane, half);
        return j < s.n_kv ? dki + j * DI : nullptr;
    });
}

} // namespace

#endif
