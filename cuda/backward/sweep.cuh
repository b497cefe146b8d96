/**
 * @file sweep.cuh
 * @brief What surrounds a sweep over key blocks, whichever instruction multiplies (mma_sweep.cuh,
 * 4_hopper.cu): scratch and chunks of queries, the items of the worklist and how their queries fall into
 * tiles, the places where gradients are left, and the kernels that sum up what was left in parts.
 */
#ifndef MSA_SWEEP_CUH
#define MSA_SWEEP_CUH

#include "../kl/index_lse.cuh"
#include "../reverse/reverse.cuh"
#include "../kit/warp_attend.cuh"
#include "centre.cuh"
#include "sweeps.cuh"

namespace
{

constexpr int tile_rows = 64, tile_queries = 8; ///< of a tile, at most

/* ---- Scratch and chunks ------------------------------------------------------------------------------ */

/// A pair (query, group, slot) is numbered (query Hkv + group) width + slot. With full support every block is
/// a slot. Rows of g are numbered by group, block, query: see row_of_g().
struct Scratch {
    float *delta;     ///< [T,Hq]
    bf16 *part_dq;    ///< [pairs,G,D]: dQ of a pair
    float *part_dqi;  ///< [pairs,DI]
    bf16 *g;          ///< [pairs,N]: u - t of a pair and its block's keys
    double *loss;     ///< of each thread block
    float *split;     ///< [Hkv,splits,2,N,D]: dK and dV of the items of blocks that have several
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
    return 2 * ((int64_t)s.room * s.topk / item_limit(s) + 1);
}

/// Where such an item leaves its dK and dV.
PTX_INLINE int64_t split_at(const Shape &s, int group, int begin, int end)
{
    const int limit = item_limit(s);
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
    w.split = carve.take_if<float>(task.main && !full, groups * n_splits(s) * 2 * s.block * c.d_head);
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

constexpr size_t scratch_limit = (size_t)1 << 33; ///< bytes, about, that a chunk of queries may take

/// And how many it may have at most.
inline int most_queries()
{
    PTX(return 32768;)
    CPU(return simt::options.chunk;)
}

/// As many queries as the scratch allows: the last of a sequence, which see most.
inline int chunk_length(const Call &c, const Task &task, bool full)
{
    int n = c.s.n_q < most_queries() ? c.s.n_q : most_queries();
    while (n > 1 && layout(chunk_of(c, c.s.n_q - n, n), task, full, nullptr).bytes > scratch_limit)
        n = ceil_div(n, 2);
    return n;
}

/* ---- Items, rows of tiles, and what leaves ------------------------------------------------------------- */

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

/// Item `number` of the worklist, group -1 past its end; with full support a block of a group.
PTX_INLINE Work work_of(const Shape &s, const Scratch &w, int block, unsigned number)
{
    Work a;
    if (w.items) {
        const int4 item = ld_global((const int4 *)w.items + number);
        a = {item.x, item.y, item.z, item.w, 0, 0};
    } else { // all queries from the first that sees the block; padding has blocks, but none that is seen
        const int b = (int)number % w.width, before = b * block - s.prefix;
        a = {(int)number / w.width, b, before > 0 ? before : 0, s.n_q, 0, 0};
        if (b >= s.n_blocks)
            a.group = -1;
    }
    while (1 << a.shift < s.group)
        a.shift++;
    a.per_tile = per_tile_of(a.shift);
    return a;
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
    return w.entries ? ld_global(w.entries + (int64_t)work.group * s.room * s.topk + e) : (uint32_t)e << 5;
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
    return w.entries ? (int64_t)group * s.room * s.topk + e
                     : ((int64_t)group * w.width + block) * s.room + e;
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

/// Adds accumulators of 16 keys by D columns, times `factor`, to rows in memory that only this thread block
/// owns, or stores them. row(half) is where a thread's row starts, NULL for none.
template <bool add, int n, class Row> PTX_INLINE void leave_rows(const float (&x)[n], float factor, Row row)
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
PTX_INLINE void leave_block(const Shape &s, const Out &out, const Work &work, int key,
                            const float (&dk)[D / 2], const float (&dv)[D / 2])
{
    // [owner]
    const int lane = (int)threadIdx.x % 32;
    const int32_t *first = out.w.first + work.group * (s.n_scores + 1) + work.block;
    const bool alone = !out.w.items || ld_global(first + 1) - ld_global(first) <= item_limit(s);
    if (alone) { // the block's only item owns its rows of dK and dV
        auto row = [&](float *x) {
            return [&s, &work, x, key, lane](int half) {
                const int64_t j = (int64_t)work.block * N + key + fragment_row(lane, half);
                return j < s.n_kv ? x + kv_at(s, j, work.group, D) : nullptr;
            };
        };
        leave_rows<true>(dk, scale<D>, row(out.dk));
        leave_rows<true>(dv, 1, row(out.dv));
    } else { // one of several has a place of its own
        const int64_t place = split_at(s, work.group, work.begin, work.end);
        float *const to = out.w.split + place * 2 * N * D + (int64_t)key * D;
        leave_rows<false>(dk, scale<D>, [&](int half) { return to + fragment_row(lane, half) * D; });
        leave_rows<false>(dv, 1, [&](int half) { return to + N * D + fragment_row(lane, half) * D; });
    }
    // [owner]
}

/// The loss of a warp's threads; then a barrier, and one thread takes the sum of the warps, in order.
PTX_INLINE void leave_warp_loss(double &mine, double loss)
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

/* ---- What the sweep left in parts, in a fixed order ------------------------------------------------- */

constexpr int merge_threads = 256;

/// dK and dV of a block that several items share: a thread block sums their parts.
template <int D, int N>
__global__ void __launch_bounds__(merge_threads)
    merge(Shape s, const int32_t *first, const float *split, float *dk, float *dv)
{
    s = actual(s);
    const int block = (int)blockIdx.x, group = (int)blockIdx.y, limit = item_limit(s);
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

/* ---- dKi: index keys are shared, so a thread block owns a block in all groups ------------------------ */

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
                const uint32_t *entry = w.entries + (int64_t)r * s.room * s.topk + e + row;
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
            __syncthreads();
            if (e + at_once < end)
                fetch_step(e + at_once);
            uint32_t g[at_once / 16][4];
            for (int step = 0; step < at_once / 16; step++)
                load_transposed(g[step], stage.g, 16 * warp, 16 * step);
            warp_values(acc, g, stage.qi);
        }
        __syncthreads(); // the next group begins in the first stage again
    }
    leave_rows<true>(acc, factor, [&](int half) {
        const int64_t j = (int64_t)block * N + 16 * warp + fragment_row(lane, half);
        return j < s.n_kv ? dki + j * DI : nullptr;
    });
}

/* ---- The stage ------------------------------------------------------------------------------------- */

/// One chunk of queries; launch_sweep(c, items, out) multiplies.
template <int D, int DI, int N, bool main, bool kl, class Launch>
msa_status sweep_chunk(const Call &call, const Task &task, bool full, const Launch &launch_sweep)
{
    Call c = call;
    const Shape &s = c.s;
    const Scratch w = layout(c, task, full, c.work);
    const float factor = kl ? (float)(c.a.weight * loss_share(s)) * scale<DI> : 0;
    const unsigned items = full ? (unsigned)(s.n_kv_heads * s.n_blocks) : (unsigned)reverse_items(s);
    if (!full)
        ON_SIDE(reverse, launch)(s, c.a.ids, w.first, w.entries, w.items, w.reverse, c.stream);
    if (main)
        launch_deltas<D>(c, w.delta);
    if (main)
        launch_centres<D>(c, c.a.k, s.n_kv_heads, w.centres);
    if (kl)
        launch_centres<DI>(c, c.a.ki, 1, w.index_centres);
    if (kl && !c.a.index_lse)
        c.a.index_lse = launch_index_lse<DI>(c, w.index_lse);
    const msa_status status = launch_sweep(c, items, Out{w, c.a.dq, c.a.dk, c.a.dv, c.a.dqi, factor});
    if (status != MSA_OK)
        return status;
    if (main && !full)
        LAUNCH((merge<D, N>), dim3((unsigned)s.n_blocks, (unsigned)s.n_kv_heads), dim3(merge_threads), 0,
               c.stream, s, w.first, w.split, c.a.dk, c.a.dv);
    if (main && task.deterministic)
        launch_sum_slots(c, w, s.group, D, w.part_dq, c.a.dq);
    if (kl && c.a.dqi && task.deterministic)
        launch_sum_slots(c, w, 1, DI, w.part_dqi, c.a.dqi);
    if (kl && c.a.dqi)
        LAUNCH((index_keys<DI, N>), dim3((unsigned)s.n_blocks), dim3(2 * N), sizeof(KeysSmem<DI, N>),
               c.stream, s, w, c.a.qi, factor, c.a.dki);
    if (kl)
        launch_add_up(c, items, w.loss);
    return MSA_OK;
}

/// The bytes for the largest chunk: the last one.
inline size_t chunk_workspace(const Call &c, const Task &task, bool full)
{
    const int n = chunk_length(c, task, full);
    return n > 0 ? layout(chunk_of(c, c.s.n_q - n, n), task, full, nullptr).bytes : 0;
}

/// Whether there will be ids or not.
inline size_t sweep_workspace(const Call &c, const Task &task)
{
    const size_t some = task.ids ? chunk_workspace(c, task, false) : 0, all = chunk_workspace(c, task, true);
    return some > all ? some : all;
}

/// Chunk after chunk of queries. `task` is what the workspace was planned for; this run does `main` and `kl`.
template <int D, int DI, int N, bool main, bool kl, class Launch>
msa_status sweep_all(const Call &c, const Task &task, const Launch &launch_sweep)
{
    const bool full = !c.a.ids;
    const int step = chunk_length(c, task, full);
    const Task mine = {main, kl, task.deterministic, task.ids};
    msa_status status = MSA_OK;
    clear_gradients(c);
    for (int q0 = 0; q0 < c.s.n_q && status == MSA_OK; q0 += step)
        status = sweep_chunk<D, DI, N, main, kl>(chunk_of(c, q0, c.s.n_q - q0 < step ? c.s.n_q - q0 : step),
                                                 mine, full, launch_sweep);
    return status;
}

} // namespace

#endif
