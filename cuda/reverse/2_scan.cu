/**
 * @file 2_scan.cu
 * @brief A counting sort of the ids by block: count, scan, scatter.
 *
 * Idea: pass 1 counts in shared memory how often each segment of the queries chose each block; pass 2, a CTA a
 * group, scans the counts to where each segment's entries and each block's items begin; pass 3 walks a segment
 * again, 32 queries at a time: an entry's rank is the number of bits below its query's in its block's word. No
 * entry is sorted, and no result depends on the order of threads.
 * Bytes, with P = ceil(B / 4096) ranges of blocks and G = min(64, ceil(T / 1024)) segments: read 4 Hkv (2 P T
 * k + 3 G B + 3 B) + 4 * 32 k P G (Hkv (Hkv + 1) / 2 + 1); written 4 Hkv (2 G B + 2 B + 2 + T k) + 16 per item
 * of the capacity.
 * Floor: the ids read once and the entries written once, 8 Hkv T k bytes.
 * Estimate: for a chunk of sparse/4_kv_outer 0.05 ms, nearly all of it launches and barriers.
 * Waste: the ids' second reading, from L2 for a chunk; entries are stored 4 bytes at a time to B places at
 * once; three barriers for 32 queries. Design notes: chapter 14.
 */
#include "reverse.cuh"

namespace
{

constexpr int range = 4096; ///< blocks that a CTA counts or scatters
constexpr int batch = 32;   ///< queries of a step of pass 3, the bits of a word
constexpr int scan_threads = 1024;

int n_segments(const Shape &s)
{
    const int n = ceil_div(s.n_q, 1024);
    return n < 1 ? 1 : n < 64 ? n : 64;
}

/// What the passes hand on, in scratch. B is s.n_scores.
struct Scratch {
    int32_t *offset;      ///< [Hkv, segments, B]: entries; after pass 2 where the first of them goes
    int32_t *item;        ///< [Hkv, B]: items of the group before this block
    int32_t *n_items;     ///< [Hkv]
    int segments, length; ///< queries of a segment
    size_t bytes;
};

Scratch layout(const Shape &s, void *scratch)
{
    const int n = n_segments(s);
    const int64_t per_segment = s.n_kv_heads * s.n_scores;
    Carve carve = {(uintptr_t)scratch};
    Scratch w = {};
    w.offset = carve.take<int32_t>(n * per_segment);
    w.item = carve.take<int32_t>(per_segment);
    w.n_items = carve.take<int32_t>(s.n_kv_heads);
    w.segments = n;
    w.length = ceil_div(ceil_div(s.n_q, n), batch) * batch;
    w.bytes = carve.used;
    return w;
}

PTX_INLINE int32_t *offsets_of(const Shape &s, const Scratch &w, int r, int segment)
{
    return w.offset + ((int64_t)r * w.segments + segment) * s.n_scores;
}
/// First query of a segment, or the end of the last.
PTX_INLINE int segment_start(const Shape &s, const Scratch &w, int segment)
{
    const int64_t i = (int64_t)segment * w.length;
    return i < s.n_q ? (int)i : s.n_q;
}

/* ---- Pass 1 ---------------------------------------------------------------------------------------- */

struct Counts {
    int32_t n[range];
};

__global__ void __launch_bounds__(512) count(Shape s, Scratch w, const int32_t *ids)
{
    Counts &m = shared<Counts>();
    if (closed(s.gate))
        return;
    s = actual(s);
    const int b0 = (int)blockIdx.x * range, segment = (int)blockIdx.y, r = (int)blockIdx.z;
    const int blocks = s.n_scores - b0 < range ? (int)s.n_scores - b0 : range;
    const int t = (int)threadIdx.x, threads = (int)blockDim.x;
    for (int b = t; b < blocks; b += threads)
        st_shared(&m.n[b], 0);
    __syncthreads();
    const int32_t *mine = ids + row_at(s, 0, r) * s.topk;
    const int64_t k = s.topk, end = segment_start(s, w, segment + 1) * k;
    for (int64_t a = segment_start(s, w, segment) * k + t; a < end; a += threads) {
        const int b = ld_global(mine + a) - b0;
        if (b >= 0 && b < blocks)
            atomicAdd(&m.n[b], 1);
    }
    __syncthreads();
    for (int b = t; b < blocks; b += threads)
        st_global(offsets_of(s, w, r, segment) + b0 + b, ld_shared(&m.n[b]));
}

/* ---- Pass 2 ---------------------------------------------------------------------------------------- */

/// Entries in the low half, items in the high one: one sum for both.
using Sums = unsigned long long;

struct WarpSums {
    static_assert(scan_threads == 32 * 32, "one warp sums up those of all warps");
    Sums of[scan_threads / 32];
};

/// Sum over the lanes up to this one.
__device__ Sums scan_warp(Sums v)
{
    for (unsigned by = 1; by < 32; by *= 2) {
        const Sums before = __shfl_up_sync(~0u, v, by);
        v += threadIdx.x % 32 >= by ? before : 0;
    }
    return v;
}

/// Sum over the threads up to this one; `total` over all. There are as many warps as lanes, so one warp sums
/// up those of all. Ends with a barrier.
__device__ Sums scan_block(Sums v, WarpSums &m, Sums *total)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    v = scan_warp(v);
    if (lane == 31)
        st_shared(&m.of[warp], v);
    __syncthreads();
    if (warp == 0)
        st_shared(&m.of[lane], scan_warp(ld_shared(&m.of[lane])));
    __syncthreads();
    const Sums below = warp > 0 ? ld_shared(&m.of[warp - 1]) : 0;
    *total = ld_shared(&m.of[scan_threads / 32 - 1]);
    __syncthreads();
    return v + below;
}

__global__ void __launch_bounds__(scan_threads, 1) scan(Shape s, Scratch w, int32_t *first)
{
    WarpSums &m = shared<WarpSums>();
    const int r = (int)blockIdx.x;
    if (closed(s.gate))
        return;
    int32_t *my_first = first + r * (s.n_scores + 1);
    Sums sum = 0;
    for (int64_t b0 = 0; b0 < s.n_scores; b0 += scan_threads) {
        const int64_t b = b0 + threadIdx.x;
        const int segments = b < s.n_scores ? w.segments : 0;
        int n = 0;
        for (int i = 0; i < segments; i++)
            n += ld_global(offsets_of(s, w, r, i) + b);
        const Sums mine = (Sums)ceil_div(n, s.item_limit) << 32 | (unsigned)n;
        Sums total;
        const Sums before = sum + scan_block(mine, m, &total) - mine;
        int at = (int)(uint32_t)before;
        if (segments) {
            st_global(my_first + b, at);
            st_global(w.item + r * s.n_scores + b, (int)(before >> 32));
        }
        for (int i = 0; i < segments; i++) {
            int32_t *offset = offsets_of(s, w, r, i) + b;
            const int here = ld_global(offset);
            st_global(offset, at);
            at += here;
        }
        sum += total;
    }
    if (threadIdx.x == 0) {
        st_global(my_first + s.n_scores, (int)(uint32_t)sum);
        st_global(w.n_items + r, (int)(sum >> 32));
    }
}

/* ---- Pass 3 ---------------------------------------------------------------------------------------- */

struct Offsets {
    int32_t next[range];    ///< where the next entry of each block goes
    uint32_t chosen[range]; ///< which of the 32 queries chose it
};

/// The items of this CTA's key blocks, written by the first segment.
__device__ void list(const Shape &s, const Scratch &w, const int32_t *first, int4 *out, int r, int b0,
                     int blocks)
{
    const int32_t *start = first + r * (s.n_scores + 1) + b0;
    for (int b = (int)threadIdx.x; b < blocks; b += (int)blockDim.x)
        list_items(s, r, b0 + b, ld_global(start + b), ld_global(start + b + 1),
                   out + ld_global(w.item + r * s.n_scores + b0 + b));
}

/// Fills out[begin..end-1]; the CTAs of one group share the work.
template <class T> __device__ void fill(T *out, int64_t begin, int64_t end, T v SITE)
{
    const int64_t block = (int64_t)blockIdx.y * gridDim.x + blockIdx.x;
    const int64_t step = (int64_t)gridDim.x * gridDim.y * blockDim.x;
    for (int64_t a = begin + block * blockDim.x + threadIdx.x; a < end; a += step)
        st_global(out + a, v PASS_SITE);
}

__global__ void __launch_bounds__(1024, 1)
    scatter(Shape s, Scratch w, const int32_t *ids, const int32_t *first, uint32_t *entries, int4 *items)
{
    Offsets &m = shared<Offsets>();
    if (closed(s.gate))
        return;
    s = actual(s);
    const int b0 = (int)blockIdx.x * range, segment = (int)blockIdx.y, r = (int)blockIdx.z;
    const int blocks = s.n_scores - b0 < range ? (int)s.n_scores - b0 : range;
    const int t = (int)threadIdx.x, query = t / s.topk, slot = t % s.topk;
    for (int b = t; b < blocks; b += (int)blockDim.x) {
        st_shared(&m.next[b], ld_global(offsets_of(s, w, r, segment) + b0 + b));
        st_shared(&m.chosen[b], 0u);
    }
    const int32_t *my_ids = ids + row_at(s, 0, r) * s.topk;
    uint32_t *my_entries = entries + (int64_t)r * s.capacity * s.topk;
    const int end = segment_start(s, w, segment + 1);
    const uint32_t bit = 1u << query;
    int i = segment_start(s, w, segment) + query;
    auto block_of = [&](int at) { return at < end ? ld_global(my_ids + at * s.topk + slot) - b0 : -1; };
    // [ranks]
    for (int b = block_of(i), following; i - query < end; i += batch, b = following) {
        following = block_of(i + batch); // on its way meanwhile
        bool mine = b >= 0 && b < blocks;
        __syncthreads();
        if (mine) // an id that its row has twice, against the contract, counts once
            mine = !(atomicOr(&m.chosen[b], bit) & bit);
        __syncthreads();
        const uint32_t chosen = mine ? ld_shared(&m.chosen[b]) : 0;
        const int at = mine ? ld_shared(&m.next[b]) : 0, before = __popc(chosen & (bit - 1));
        if (mine)
            st_global(my_entries + at + before, (uint32_t)i << 5 | (uint32_t)slot);
        __syncthreads();
        if (mine && before == 0) { // the block's first query of these 32
            st_shared(&m.next[b], at + __popc(chosen));
            st_shared(&m.chosen[b], 0u);
        }
    }
    // [ranks]
    int items_before = 0;
    for (int a = 0; a < r; a++)
        items_before += ld_global(w.n_items + a);
    if (segment == 0)
        list(s, w, first, items + items_before, r, b0, blocks);
    fill(my_entries, ld_global(first + r * (s.n_scores + 1) + s.n_scores), (int64_t)s.capacity * s.topk, ~0u);
    if (r == s.n_kv_heads - 1)
        fill(items, items_before + ld_global(w.n_items + r), reverse_items(s), no_item());
}

/* ---- The stage ------------------------------------------------------------------------------------- */

size_t workspace(const Call &c)
{
    return ON_SIDE(reverse, scratch)(c.s);
}

msa_status run(const Call &c)
{
    const Arrays &a = c.a;
    ON_SIDE(reverse, launch)(c.s, a.ids, a.first, a.entries, a.items, c.work, c.stream);
    return MSA_OK;
}

} // namespace

size_t ON_SIDE(reverse, scratch)(const Shape &s)
{
    return layout(s, nullptr).bytes;
}

void ON_SIDE(reverse, launch)(const Shape &s, const int32_t *ids, int32_t *first, uint32_t *entries,
                              msa_item *items, void *scratch, cudaStream_t stream)
{
    const Scratch w = layout(s, scratch);
    const dim3 grid((unsigned)ceil_div(s.n_scores, (int64_t)range), (unsigned)w.segments,
                    (unsigned)s.n_kv_heads);
    LAUNCH(count, grid, dim3(512), sizeof(Counts), stream, s, w, ids);
    LAUNCH(scan, dim3((unsigned)s.n_kv_heads), dim3(scan_threads), sizeof(WarpSums), stream, s, w, first);
    LAUNCH(scatter, grid, dim3((unsigned)(batch * s.topk)), sizeof(Offsets), stream, s, w, ids, first,
           entries, (int4 *)items);
}

ENTRY(reverse, scan, run, workspace);
