/**
 * @file tiles.cuh
 * @brief Scratch of a sweep, the items of the worklist and how their queries fall into tiles, and where
 * gradients are stored.
 */
#ifndef MSA_TILES_CUH
#define MSA_TILES_CUH

#include "../kit/warp_attend.cuh"
#include "../reverse/reverse.cuh"
#include "centre.cuh"
#include "index_lse.cuh"
#include "task.cuh"

namespace
{

constexpr int tile_rows = 64, tile_queries = 8; ///< of a tile, at most

/* ---- Scratch ----------------------------------------------------------------------------------------- */

/// A pair (query, group, slot) is numbered (query Hkv + group) width + slot. With full support every block is
/// a slot. Rows of g are numbered by group, block, query: see row_of_g().
struct Scratch {
    float *delta;     ///< [T,Hq]
    bf16 *part_dq;    ///< [pairs,G,D]: dQ of a pair
    float *part_dqi;  ///< [pairs,DI]
    bf16 *g;          ///< [pairs,N]: u - t of a pair and its block's keys
    double *loss;     ///< of each CTA
    float *split;     ///< [Hkv,splits]: dK and dV [2,N,D], then dKi [N,DI], of blocks with several items
    float *index_lse; ///< where none is given
    Centres centres, index_centres;
    int32_t *first;
    uint32_t *entries;
    msa_item *items;
    void *reverse;
    int width;
    size_t bytes;
};

/// Two for each full item: one for it, one for a shorter one that ends a block.
MSA_BOTH_SIDES inline int64_t n_splits(const Shape &s)
{
    return 2 * ((int64_t)s.capacity * s.topk / s.item_limit + 1);
}

/// Where such an item stores its dK and dV.
PTX_INLINE int64_t split_at(const Shape &s, int group, int begin, int end)
{
    const int limit = s.item_limit;
    return group * n_splits(s) + 2 * (begin / limit) + (end - begin < limit);
}

inline Scratch layout(const Call &c, const Task &task, bool full, void *work)
{
    const Shape &s = c.s;
    Scratch w = {};
    w.width = full ? s.n_blocks : s.topk;
    const int64_t groups = s.n_kv_heads, pairs = s.n_q * groups * w.width;
    const int64_t items = full ? groups * s.n_blocks : reverse_items(s);
    Carve carve = {(uintptr_t)work};
    w.delta = carve.take_if<float>(task.main, (int64_t)s.n_q * s.n_heads);
    w.part_dq = carve.take_if<bf16>(task.main && task.deterministic, pairs * s.group * c.d_head);
    w.part_dqi = carve.take_if<float>(task.kl && task.deterministic, pairs * c.d_index);
    w.g = carve.take_if<bf16>(task.kl, pairs * s.block);
    w.loss = carve.take_if<double>(task.kl, items);
    w.index_lse = carve.take_if<float>(task.kl && full, index_lse_floats(s));
    const int main_width = task.main ? 2 * c.d_head : 0, index_width = task.kl ? c.d_index : 0;
    w.split = carve.take_if<float>(!full, groups * n_splits(s) * s.block *
                                              (main_width > index_width ? main_width : index_width));
    w.first = carve.take_if<int32_t>(!full, groups * (s.n_scores + 1));
    w.entries = carve.take_if<uint32_t>(!full, pairs);
    w.items = carve.take_if<msa_item>(!full, items);
    w.reverse = carve.take_if<char>(!full, (int64_t)ON_SIDE(reverse, scratch)(s));
    if (task.main)
        w.centres = take_centres(carve, s, c.d_head);
    if (task.kl)
        w.index_centres = take_centres(carve, s, c.d_index);
    w.bytes = carve.used;
    return w;
}

/* ---- Items, rows of tiles, and how gradients are stored ------------------------------------------------ */

/// An item and how its queries fall into tiles.
struct Work {
    int group, block, begin, end;
    int shift;    ///< a query has 2^shift rows of a tile, the least such number not below G
    int per_tile; ///< queries
};
PTX_INLINE int query_of(const Work &w, int row)
{
    return row >> w.shift;
}
PTX_INLINE int head_of(const Work &w, int row)
{
    return row & ((1 << w.shift) - 1);
}
/// Queries of a tile; 0 or less past the last one.
PTX_INLINE int queries(const Work &w, int tile)
{
    const int left = w.end - w.begin - tile * w.per_tile;
    return left < w.per_tile ? left : w.per_tile;
}
PTX_INLINE int per_tile_of(int shift)
{
    return tile_rows >> shift < tile_queries ? tile_rows >> shift : tile_queries;
}

/// The entries of a group's block, from the reverse index...
struct List {
    int begin, end;
};
PTX_INLINE List listed(const Shape &s, const Scratch &w, int group, int block)
{
    const int32_t *first = w.first + group * (s.n_scores + 1) + block;
    return {ld_global(first), ld_global(first + 1)};
}
/// ...of which there are several items if they are many...
PTX_INLINE bool is_split(const Shape &s, const List &list)
{
    return list.end - list.begin > s.item_limit;
}
/// ...or, with full support, all queries from the first that sees the block.
PTX_INLINE List list_of(const Shape &s, const Scratch &w, int group, int block)
{
    const int before = block * s.block - s.prefix;
    return w.entries ? listed(s, w, group, block) : List{before > 0 ? before : 0, s.n_q};
}

/// Item `number` of the worklist, group -1 past its end; with full support a block of a group.
PTX_INLINE Work work_of(const Shape &s, const Scratch &w, unsigned number)
{
    Work work;
    if (w.items) {
        const int4 item = ld_global((const int4 *)w.items + number);
        work = {item.x, item.y, item.z, item.w, 0, 0};
    } else { // padding has blocks, but none that is seen
        const int group = (int)number / w.width, b = (int)number % w.width;
        const List all = list_of(s, w, group, b);
        work = {b < s.n_blocks ? group : -1, b, all.begin, all.end, 0, 0};
    }
    while (1 << work.shift < s.group)
        work.shift++;
    work.per_tile = per_tile_of(work.shift);
    return work;
}

/// What the kernel is given besides sizes and inputs.
struct Out {
    Scratch w;
    float *dq, *dk, *dv, *dqi;
    float factor; ///< of dQi and dKi
};

/// Query << 5 | slot of the item's entry e; without a list a query is its own entry.
PTX_INLINE uint32_t entry_at(const Shape &s, const Scratch &w, const Work &work, int e)
{
    return w.entries ? ld_global(w.entries + (int64_t)work.group * s.capacity * s.topk + e)
                     : (uint32_t)e << 5;
}
PTX_INLINE int64_t pair_at(const Shape &s, const Scratch &w, const Work &work, uint32_t entry)
{
    const int slot = w.entries ? (int)(entry & 31) : work.block;
    return ((int64_t)(entry >> 5) * s.n_kv_heads + work.group) * w.width + slot;
}
/// Of an entry's query, a row of `width`.
PTX_INLINE const bf16 *centre_at(const Shape &s, const Centres &centres, const Work &work, uint32_t entry,
                                 int width)
{
    return centre_of(s, centres, entry >> 5, work.group, width);
}
/// The rows of g of a group and block are neighbours.
PTX_INLINE int64_t row_of_g(const Shape &s, const Scratch &w, int group, int block, int e)
{
    return w.entries ? (int64_t)group * s.capacity * s.topk + e
                     : ((int64_t)group * w.width + block) * s.capacity + e;
}

/// Sums of x over the 2^shift columns of each query, in all of them.
PTX_INLINE void sum_heads(float (&x)[8], int shift)
{
    for (int i = 0; i < 8; i += 2)
        if (shift >= 1)
            x[i] = x[i + 1] = x[i] + x[i + 1];
    for (int with = 1; with <= 2; with++)
        if (shift > with)
            for (int i = 0; i < 8; i++)
                x[i] += shfl_xor(x[i], with);
    if (shift >= 4)
        for (int i = 0; i < 4; i++)
            x[i] = x[i + 4] = x[i] + x[i + 4];
}

/// Adds accumulators of 16 keys by D columns, times `factor`, to rows in memory that only this CTA
/// owns, or stores them. row(half) is where a thread's row starts, NULL for none.
template <bool add, int n, class Row> PTX_INLINE void store_rows(const float (&x)[n], float factor, Row row)
{
    const int lane = (int)threadIdx.x % 32;
    for (int half = 0; half < 2; half++) {
        float *const start = row(half);
        for (int i = 2 * half; i < n && start; i += 4) {
            float2 *p = (float2 *)(start + fragment_d(lane, i).col);
            const float2 old = add ? ld_global(p) : make_float2(0, 0);
            st_global(p, make_float2(old.x + factor * x[i], old.y + factor * x[i + 1]));
        }
    }
}

/// u - t of a key, from its index logit and the teacher; its share of the loss is added.
template <int DI> PTX_INLINE float student(float x, float index_lse, float t, bool sees, float &loss)
{
    // [student]
    const float log2_u = x * scale2<DI> - index_lse;
    loss += t >= 0x1p-126f ? t * (lg2(t) - log2_u) * ln_2 : 0; // lg2 of less is -inf
    return sees ? ex2(log2_u) - t : 0;
    // [student]
}

/// A warp's 16 keys of dK and dV, from key `key` of the block on.
template <int D, int N>
PTX_INLINE void store_block(const Shape &s, const Out &out, const Work &work, int key,
                            const float (&dk)[D / 2], const float (&dv)[D / 2])
{
    // [owner]
    const int lane = (int)threadIdx.x % 32;
    const bool alone = !out.w.items || !is_split(s, listed(s, out.w, work.group, work.block));
    if (alone) { // the block's only item owns its rows of dK and dV
        auto row = [&](float *x) {
            return [&s, &work, x, key, lane](int half) {
                const int64_t j = (int64_t)work.block * N + key + fragment_row(lane, half);
                return j < s.n_kv ? x + kv_at(s, j, work.group, D) : nullptr;
            };
        };
        store_rows<true>(dk, scale<D>, row(out.dk));
        store_rows<true>(dv, 1, row(out.dv));
    } else { // one of several has a place of its own
        const int64_t place = split_at(s, work.group, work.begin, work.end);
        float *const to = out.w.split + place * 2 * N * D + (int64_t)key * D;
        store_rows<false>(dk, scale<D>, [&](int half) { return to + fragment_row(lane, half) * D; });
        store_rows<false>(dv, 1, [&](int half) { return to + N * D + fragment_row(lane, half) * D; });
    }
    // [owner]
}

/// The loss of a warp's threads; then a barrier, and one thread takes the sum of the warps, in order.
PTX_INLINE void store_warp_loss(double &mine, double loss)
{
    for (int with = 1; with < 32; with *= 2)
        loss += shfl_xor(loss, with);
    if (threadIdx.x % 32 == 0)
        st_shared(&mine, loss);
}
template <int warps> PTX_INLINE double sum_of(const double (&loss)[warps])
{
    double sum = 0;
    for (int warp = 0; warp < warps; warp++)
        sum += ld_shared(&loss[warp]);
    return sum;
}

} // namespace

#endif
