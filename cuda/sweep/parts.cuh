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

/// Adds to `sum` what the items of a list left at places of `size` floats, four from `at` on in each.
PTX_INLINE void add_parts(float4 &sum, const Shape &s, int group, const List &list, const float *split,
                          int64_t size, int64_t at)
{
    const int limit = s.item_limit;
    for (int begin = list.begin; begin < list.end; begin += limit) {
        const int64_t place = split_at(s, group, begin, list.end - begin < limit ? list.end : begin + limit);
        const float4 x = ld_global((const float4 *)(split + place * size + at));
        sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
    }
}

/// dK and dV of a block that several items share: a CTA sums their parts.
template <int D, int N>
__global__ void __launch_bounds__(merge_threads) merge(Shape s, Scratch w, float *dk, float *dv)
{
    s = actual(s);
    const int block = (int)blockIdx.x, group = (int)blockIdx.y;
    const List list = listed(s, w, group, block);
    if (!is_split(s, list))
        return;
    for (int a = 4 * (int)threadIdx.x; a < N * D; a += 4 * merge_threads) {
        const int64_t j = (int64_t)block * N + a / D;
        if (j >= s.n_kv)
            return;
        for (int which = 0; which < 2; which++) {
            float4 *const p = (float4 *)((which ? dv : dk) + kv_at(s, j, group, D) + a % D);
            float4 sum = ld_global(p);
            add_parts(sum, s, group, list, w.split, 2 * N * D, which * N * D + a);
            st_global(p, sum);
        }
    }
}

/// dQ or dQi of a row from the parts of its slots: a thread sums four channels. part[pairs,heads,width].
template <class In>
__global__ void __launch_bounds__(merge_threads)
    sum_slots(Shape s, const int32_t *ids, int slots, int heads, int width, const In *in, float *out)
{
    const int64_t at = 4 * ((int64_t)blockIdx.x * merge_threads + threadIdx.x), row = at / width;
    if (row >= (int64_t)s.n_q * s.n_kv_heads * heads)
        return;
    s = actual(s);
    const int64_t i = row / (s.n_kv_heads * heads), h = row % heads;
    const int r = (int)(row / heads % s.n_kv_heads);
    const In *mine = in + ((i * s.n_kv_heads + r) * slots * heads + h) * width + at % width;
    if (i >= s.n_q) // padding, which gets zeros: nobody else writes them
        slots = 0;
    else if (!ids) // full support: the blocks up to the local one
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

/// acc += (u - t)^T Qi of this warp's 16 keys, over a list of a group's entries.
template <int DI, int N>
PTX_INLINE void add_entries(KeysSmem<DI, N> &m, const Shape &s, const Scratch &w, const bf16 *qi, int r,
                            int block, const List &list, float (&acc)[DI / 2])
{
    constexpr int threads = 2 * N, at_once = 32;
    const int t = (int)threadIdx.x;
    auto fetch_step = [&](int e) {
        auto &stage = m.stage[(e - list.begin) / at_once % 2];
        copy_rows<threads>(stage.g, t, [&](int row) {
            return e + row < list.end ? w.g + row_of_g(s, w, r, block, e + row) * N : nullptr;
        });
        copy_rows<threads>(stage.qi, t, [&](int row) {
            if (e + row >= list.end)
                return (const bf16 *)nullptr;
            const uint32_t *entry = w.entries + (int64_t)r * s.capacity * s.topk + e + row;
            const int64_t i = w.entries ? ld_global(entry) >> 5 : e + row;
            return qi + qi_at(s, i, r, DI);
        });
        cp_async_commit();
    };
    if (list.begin < list.end)
        fetch_step(list.begin);
    for (int e = list.begin; e < list.end; e += at_once) {
        auto &stage = m.stage[(e - list.begin) / at_once % 2];
        cp_async_wait<0>();
        __syncthreads(); // the step is there, and all are done with the one before
        if (e + at_once < list.end)
            fetch_step(e + at_once);
        uint32_t g[at_once / 16][4];
        for (int step = 0; step < at_once / 16; step++)
            load_transposed(g[step], stage.g, t / 32 * 16, 16 * step);
        warp_values(acc, g, stage.qi);
    }
    __syncthreads(); // the next list begins in the first stage again
}

/// dKi += factor (u - t)^T Qi. The first CTAs own a block each, and what has but one item of it; then come those
/// of the items, which leave their parts of the others.
template <int DI, int N>
__global__ void __launch_bounds__(2 * N)
    index_keys(Shape s, Scratch w, const bf16 *qi, float factor, float *dki)
{
    const int owners = s.n_blocks, lane = (int)threadIdx.x % 32, key = (int)threadIdx.x / 32 * 16;
    const bool owns = (int)blockIdx.x < owners;
    const int4 item =
        owns ? int4{0, (int)blockIdx.x, 0, 0} : ld_global((const int4 *)w.items + blockIdx.x - owners);
    s = actual(s);
    KeysSmem<DI, N> &m = shared<KeysSmem<DI, N>>();
    float acc[DI / 2] = {};
    if (owns) {
        for (int r = 0; r < s.n_kv_heads; r++) {
            const List list = list_of(s, w, r, item.y);
            if (!w.items || !is_split(s, list))
                add_entries(m, s, w, qi, r, item.y, list, acc);
        }
        store_rows<true>(acc, factor, [&](int half) {
            const int64_t j = (int64_t)item.y * N + key + fragment_row(lane, half);
            return j < s.n_kv ? dki + j * DI : nullptr;
        });
    } else if (item.x >= 0 && is_split(s, listed(s, w, item.x, item.y))) {
        add_entries(m, s, w, qi, item.x, item.y, {item.z, item.w}, acc);
        float *const to = w.split + (split_at(s, item.x, item.z, item.w) * N + key) * DI;
        store_rows<false>(acc, factor, [&](int half) { return to + fragment_row(lane, half) * DI; });
    }
}

/// dKi of blocks that several items of a group share: a CTA adds their parts to a block's, of one group after the other.
template <int DI, int N>
__global__ void __launch_bounds__(merge_threads) merge_index_keys(Shape s, Scratch w, float *dki)
{
    s = actual(s);
    const int block = (int)blockIdx.x;
    for (int r = 0; r < s.n_kv_heads; r++) {
        const List list = listed(s, w, r, block);
        if (!is_split(s, list))
            continue;
        for (int a = 4 * (int)threadIdx.x; a < N * DI; a += 4 * merge_threads) {
            if ((int64_t)block * N + a / DI >= s.n_kv)
                break;
            float4 *const p = (float4 *)(dki + (int64_t)block * N * DI + a);
            float4 sum = ld_global(p);
            add_parts(sum, s, r, list, w.split, N * DI, a);
            st_global(p, sum);
        }
    }
}

/// Both; there are no items with full support.
template <int DI, int N> void launch_index_keys(const Call &c, const Scratch &w, unsigned items, float factor)
{
    const unsigned blocks = (unsigned)c.s.n_blocks;
    LAUNCH((index_keys<DI, N>), dim3(blocks + (w.items ? items : 0)), dim3(2 * N), sizeof(KeysSmem<DI, N>),
           c.stream, c.s, w, c.a.qi, factor, c.a.dki);
    if (w.items)
        LAUNCH((merge_index_keys<DI, N>), dim3(blocks), dim3(merge_threads), 0, c.stream, c.s, w, c.a.dki);
}

} // namespace

#endif
