/**
 * @file sweep.cuh
 * @brief The sweep over key blocks that backward/3_kv_outer.cu and kl/2_kv_outer.cu are made of: the owner of
 * a block keeps its K, V and dK, dV, and the queries that chose it come past. 3_kv_outer.cu describes it.
 */
#ifndef MSA_SWEEP_CUH
#define MSA_SWEEP_CUH

#include "../kl/index_lse.cuh"
#include "../reverse/reverse.cuh"
#include "../warp_attend.cuh"
#include "gradient.cuh"
#include "sweeps.cuh"

namespace
{

constexpr int tile_rows = 64, tile_queries = 8; ///< of a tile, at most
constexpr int pass = 16; ///< rows of a tile that a warp works on at a time; with 32 registers spill

/* ---- Scratch and chunks ------------------------------------------------------------------------------ */

/// What a sweep is asked for.
struct Task {
    bool main, kl;      ///< dQ, dK, dV; the loss and, if c.a.dqi, dQi, dKi
    bool deterministic; ///< dQ and dQi as parts that are summed in order, instead of by reductions
};

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
    return 2 * ((int64_t)s.n_q * s.topk / item_limit(s) + 1);
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
    const size_t groups = (size_t)s.n_kv_heads, pairs = (size_t)s.n_q * groups * (size_t)w.width;
    const size_t items = full ? groups * (size_t)s.n_blocks : (size_t)reverse_items(s);
    size_t at = 0;
    auto take = [&](bool wanted, size_t bytes) {
        void *p = wanted ? (char *)work + at : nullptr;
        at += wanted ? ceil_div(bytes, (size_t)128) * 128 : 0;
        return p;
    };
    w.delta = (float *)take(task.main, (size_t)s.n_q * s.n_heads * sizeof(float));
    w.part_dq = (bf16 *)take(task.main && task.deterministic, pairs * s.group * c.d_head * sizeof(bf16));
    w.part_dqi = (float *)take(task.kl && task.deterministic, pairs * c.d_index * sizeof(float));
    w.g = (bf16 *)take(task.kl, pairs * s.block * sizeof(bf16));
    w.loss = (double *)take(task.kl, items * sizeof(double));
    w.index_lse = (float *)take(task.kl && full, index_lse_bytes(s));
    w.split =
        (float *)take(task.main && !full, groups * n_splits(s) * 2 * s.block * c.d_head * sizeof(float));
    w.first = (int32_t *)take(!full, groups * (s.n_scores + 1) * sizeof(int32_t));
    w.entries = (uint32_t *)take(!full, pairs * sizeof(uint32_t));
    w.items = (msa_item *)take(!full, items * sizeof(msa_item));
    w.reverse = take(!full, ON_SIDE(reverse, scratch)(s));
    w.bytes = at;
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

/* ---- The sweep ----------------------------------------------------------------------------------------- */

template <int D, int DI, int N, bool main, bool kl> struct Smem {
    struct Stage {
        WarpTile<tile_rows, D> q;
        WarpTile<main ? tile_rows : 8, D> dout;
        WarpTile<tile_queries, DI> qi;
        float lse[tile_rows], delta[tile_rows], index_lse[tile_queries];
        int limit[tile_queries]; ///< the last key of the block that a query sees; -1 for no query
    };
    WarpTile<N, D> k;
    WarpTile<main ? N : 8, D> v;
    WarpTile<kl ? N : 8, DI> ki;
    Stage stage[2];
    uint32_t entry[3][tile_queries];      ///< of the tiles' queries: this one, the next and the one after
    WarpTile<main ? N : 8, tile_rows> ds; ///< dS, a row a key
    alignas(16) uint32_t g[kl ? N : 1][tile_queries / 2]; ///< u - t in bf16, a row a key
    float teacher[kl ? N : 1][tile_queries];
    double loss[N / 16];
};

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
/// Rows of a tile that belong to queries.
PTX_INLINE int rows_of(const Work &w, int tile)
{
    return queries(w, tile) << w.shift;
}

/// What the kernel is given besides sizes and inputs.
struct Out {
    Scratch w;
    float *dq, *dk, *dv, *dqi;
    float factor; ///< of dQi and dKi
};

/// Reads the entries of a tile: query << 5 | slot; without a list a query is its own entry.
template <class Shared>
PTX_INLINE void fetch_entries(Shared &m, const Shape &s, const Scratch &w, const Work &work, int tile)
{
    const int t = (int)threadIdx.x, e = work.begin + tile * work.per_tile + t;
    if (t < queries(work, tile))
        st_shared(&m.entry[tile % 3][t], w.entries
                                             ? ld_global(w.entries + (int64_t)work.group * s.n_q * s.topk + e)
                                             : (uint32_t)e << 5);
}
PTX_INLINE int64_t pair_at(const Shape &s, const Scratch &w, const Work &work, uint32_t entry)
{
    const int slot = w.entries ? (int)(entry & 31) : work.block;
    return ((int64_t)(entry >> 5) * s.n_kv_heads + work.group) * w.width + slot;
}
/// The rows of g of a group and block are neighbours.
PTX_INLINE int64_t row_of_g(const Shape &s, const Scratch &w, int group, int block, int e)
{
    return w.entries ? (int64_t)group * s.n_q * s.topk + e
                     : ((int64_t)group * s.n_blocks + block) * s.n_q + e;
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

/// Starts copying a tile of queries, and what belongs to their rows.
template <int D, int DI, int N, bool main, bool kl>
PTX_INLINE void fetch(Smem<D, DI, N, main, kl> &m, const Shape &s, const Arrays &a, const Scratch &w,
                      const Work &work, int tile)
{
    constexpr int threads = 2 * N;
    const int t = (int)threadIdx.x, n = queries(work, tile);
    auto &stage = m.stage[tile % 2];
    auto query = [&](int number) { return (int64_t)(ld_shared(&m.entry[tile % 3][number]) >> 5); };
    auto source = [&](const bf16 *x) {
        return [&s, &work, &query, n, x](int row) {
            const int number = query_of(work, row), head = head_of(work, row);
            return number < n && head < s.group ? x + q_at(s, query(number), work.group * s.group + head, D)
                                                : nullptr;
        };
    };
    copy_rows<threads>(stage.q, t, source(a.q));
    if (main)
        copy_rows<threads>(stage.dout, t, source(a.dout));
    if (kl)
        copy_rows<threads>(stage.qi, t, [&](int number) {
            return number < n ? a.qi + qi_at(s, query(number), work.group, DI) : nullptr;
        });
    cp_async_commit();
    if (t < tile_rows) {
        const int number = query_of(work, t), head = head_of(work, t);
        const bool exists = number < n && head < s.group;
        const int64_t row = exists ? lse_at(s, query(number), work.group * s.group + head) : 0;
        st_shared(&stage.lse[t], exists ? ld_global(a.lse + row) * log2_e : 0);
        if (main)
            st_shared(&stage.delta[t], exists ? ld_global(w.delta + row) : 0);
    }
    if (t < tile_queries) {
        const int64_t i = t < n ? query(t) : 0;
        st_shared(&stage.limit[t], t < n ? s.prefix + (int)i - work.block * N : -1);
        if (kl)
            st_shared(&stage.index_lse[t],
                      t < n ? ld_global(a.index_lse + row_at(s, i, work.group)) * log2_e : 0);
    }
}

/// S, P and, for the main gradient, dP, dS of this warp's 16 keys and `pass` rows of the tile from `row` on;
/// adds to dK and dV, leaves dS in shared memory, and the teacher.
template <int D, int DI, int N, bool main, bool kl, int n>
PTX_INLINE void keys_by_rows(Smem<D, DI, N, main, kl> &m, typename Smem<D, DI, N, main, kl>::Stage &stage,
                             int row, const Work &work, int group, float (&dk)[n], float (&dv)[n])
{
    const int lane = (int)threadIdx.x % 32, key = (int)threadIdx.x / 32 * 16;
    float p[pass / 2];
    warp_product<D>(p, m.k, key, stage.q, row);
    for (int i = 0; i < pass / 2; i++) {
        const int column = row + fragment_d(lane, i).col, number = query_of(work, column);
        const bool sees = number < tile_queries && head_of(work, column) < group &&
                          key + fragment_d(lane, i).row <= ld_shared(&stage.limit[number]);
        p[i] = sees ? ex2(p[i] * scale2<D> - ld_shared(&stage.lse[column])) : 0;
    }
    if constexpr (main) {
        float ds[pass / 2];
        uint32_t left[pass / 16][4];
        pack_weights(left, p);
        warp_values(dv, left, stage.dout, row);
        warp_product<D>(ds, m.v, key, stage.dout, row);
        for (int i = 0; i < pass / 2; i++)
            ds[i] = p[i] * (ds[i] - ld_shared(&stage.delta[row + fragment_d(lane, i).col]));
        pack_weights(left, ds);
        warp_values(dk, left, stage.q, row);
        for (int i = 0; i < pass / 2; i += 2) {
            const Element e = fragment_d(lane, i);
            st_shared((uint32_t *)(chunk(m.ds, key + e.row, (row + e.col) & ~7) + e.col % 8),
                      left[i / 8][i / 2 % 4]);
        }
    }
    for (int first = 0; kl && first < pass / 2; first += 8) { // 16 rows
        sum_heads(part<8>(p, first), work.shift);
        for (int i = first; i < first + 8; i++) {
            const Element e = fragment_d(lane, i);
            const int number = query_of(work, row + e.col);
            if (head_of(work, row + e.col) == 0 && number < tile_queries)
                st_shared(&m.teacher[key + e.row][number], p[i] / (float)group);
        }
    }
}

/// The student of this warp's 16 keys and the tile's queries, beside the teacher: leaves u - t, returns this
/// thread's part of the loss.
template <int D, int DI, int N, bool main, bool kl>
PTX_INLINE double keys_by_queries(Smem<D, DI, N, main, kl> &m,
                                  typename Smem<D, DI, N, main, kl>::Stage &stage)
{
    const int lane = (int)threadIdx.x % 32, key = (int)threadIdx.x / 32 * 16;
    float x[4] = {}, g[4], loss = 0;
    for (int step = 0; step < DI / 16; step++) {
        uint32_t left[4], right[2];
        ldmatrix_x4(left, chunk(m.ki, key + lane % 16, 16 * step + lane / 16 * 8));
        ldmatrix_x2(right, chunk(stage.qi, lane % 8, 16 * step + lane / 8 % 2 * 8));
        mma_m16n8k16(x, left, right);
    }
    __syncwarp(); // the teacher is there
    // [student]
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(lane, i);
        const bool sees = key + e.row <= ld_shared(&stage.limit[e.col]);
        const float t = sees ? ld_shared(&m.teacher[key + e.row][e.col]) : 0;
        const float log2_u = x[i] * scale2<DI> - ld_shared(&stage.index_lse[e.col]);
        g[i] = sees ? ex2(log2_u) - t : 0;
        loss += t >= 0x1p-126f ? t * (lg2(t) - log2_u) * ln_2 : 0; // lg2 of less is -inf
    }
    // [student]
    for (int half = 0; half < 2; half++)
        st_shared(&m.g[key + fragment_row(lane, half)][lane % 4], pack_bf16(g[2 * half], g[2 * half + 1]));
    return (double)loss;
}

/// dQ = dS K of the tile, 16 columns of D a warp and turn.
template <int D, int DI, int N, bool main, bool kl>
PTX_INLINE void rows_by_channels(Smem<D, DI, N, main, kl> &m, const Shape &s, const Work &work,
                                 const Out &out, int tile)
{
    constexpr int blocks = tile_rows / 16, warps = N / 16;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, n = queries(work, tile);
    for (int column = 16 * warp; column < D; column += 16 * warps) {
        float dq[blocks][8] = {};
        for (int step = 0; step < N / 16; step++) {
            uint32_t left[4], right[4];
            ldmatrix_x4_trans(right, chunk(m.k, 16 * step + lane % 16, column + lane / 16 * 8));
            for (int b = 0; b < blocks; b++) {
                if (16 * b >= rows_of(work, tile))
                    break;
                load_transposed(left, m.ds, 16 * b, 16 * step);
                mma_m16n8k16(part<4>(dq[b], 0), left, part<2>(right, 0));
                mma_m16n8k16(part<4>(dq[b], 4), left, part<2>(right, 2));
            }
        }
        for (int b = 0; b < blocks; b++)
            for (int half = 0; half < 2; half++) {
                const int row = 16 * b + fragment_row(lane, half), number = query_of(work, row);
                const int head = head_of(work, row);
                if (number >= n || head >= s.group)
                    continue;
                const uint32_t entry = ld_shared(&m.entry[tile % 3][number]);
                for (int i = 2 * half; i < 8; i += 4) {
                    const int c = column + fragment_d(lane, i).col;
                    const float x = dq[b][i] * scale<D>, y = dq[b][i + 1] * scale<D>;
                    if (out.w.part_dq) {
                        bf16 *p = out.w.part_dq + (pair_at(s, out.w, work, entry) * s.group + head) * D + c;
                        st_global((uint32_t *)p, pack_bf16(x, y));
                    } else {
                        float *p = out.dq + q_at(s, entry >> 5, work.group * s.group + head, D) + c;
                        red_add(p, x);
                        red_add(p + 1, y);
                    }
                }
            }
    }
}

/// dQi = (u - t) Ki of the tile's queries, and u - t itself to memory for dKi.
template <int D, int DI, int N, bool main, bool kl>
PTX_INLINE void queries_by_channels(Smem<D, DI, N, main, kl> &m, const Shape &s, const Work &work,
                                    const Out &out, int tile)
{
    constexpr int warps = N / 16, threads = 2 * N;
    const int t = (int)threadIdx.x, lane = t % 32, n = queries(work, tile), number = lane / 4;
    const int e0 = work.begin + tile * work.per_tile;
    for (int column = 16 * (t / 32); column < DI; column += 16 * warps) {
        float dqi[8] = {};
        for (int step = 0; step < N / 16; step++) {
            uint32_t g[2], left[4] = {}, right[4];
            ldmatrix_x2_trans(g, &m.g[16 * step + lane % 16]);
            left[0] = g[0], left[2] = g[1]; // rows 8..15 are no queries
            ldmatrix_x4_trans(right, chunk(m.ki, 16 * step + lane % 16, column + lane / 16 * 8));
            mma_m16n8k16(part<4>(dqi, 0), left, part<2>(right, 0));
            mma_m16n8k16(part<4>(dqi, 4), left, part<2>(right, 2));
        }
        if (number >= n)
            continue;
        const uint32_t entry = ld_shared(&m.entry[tile % 3][number]);
        for (int i = 0; i < 8; i += 4) {
            const int c = column + fragment_d(lane, i).col;
            const float x = dqi[i] * out.factor, y = dqi[i + 1] * out.factor;
            if (out.w.part_dqi) {
                st_global((float2 *)(out.w.part_dqi + pair_at(s, out.w, work, entry) * DI + c),
                          make_float2(x, y));
            } else {
                float *p = out.dqi + qi_at(s, entry >> 5, work.group, DI) + c;
                red_add(p, x);
                red_add(p + 1, y);
            }
        }
    }
    for (int a = t; a < n * (N / 2); a += threads) { // two keys a thread
        const int q = a / (N / 2), key = a % (N / 2) * 2;
        const uint32_t x = ld_shared(&m.g[key][q / 2]), y = ld_shared(&m.g[key + 1][q / 2]);
        const uint32_t both = q % 2 ? x >> 16 | (y & 0xffff0000u) : (x & 0xffffu) | y << 16;
        st_global((uint32_t *)(out.w.g + row_of_g(s, out.w, work.group, work.block, e0 + q) * N + key), both);
    }
}

template <int D, int DI, int N, bool main, bool kl>
__global__ void __launch_bounds__(2 * N, 1) sweep(Shape s, Arrays a, Out out)
{
    using Shared = Smem<D, DI, N, main, kl>;
    constexpr int threads = 2 * N;
    Shared &m = shared<Shared>();
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const Scratch &w = out.w;
    Work work;
    if (w.items) {
        const int4 item = ld_global((const int4 *)w.items + blockIdx.x);
        work = {item.x, item.y, item.z, item.w, 0, 0};
    } else { // full support: all queries from the first that sees the block
        const int block = (int)blockIdx.x % s.n_blocks, before = block * N - s.prefix;
        work = {(int)blockIdx.x / s.n_blocks, block, before > 0 ? before : 0, s.n_q, 0, 0};
    }
    if (work.group < 0) { // past the worklist's end
        if (kl && t == 0)
            st_global(w.loss + blockIdx.x, 0.0);
        return;
    }
    while (1 << work.shift < s.group)
        work.shift++;
    work.per_tile = tile_rows >> work.shift < tile_queries ? tile_rows >> work.shift : tile_queries;
    auto key = [&](const bf16 *x, int64_t width, int64_t offset) {
        return [&s, &work, x, width, offset](int row) {
            const int64_t j = (int64_t)work.block * N + row;
            return j < s.n_kv ? x + j * width + offset : nullptr;
        };
    };
    copy_rows<threads>(m.k, t, key(a.k, (int64_t)s.n_kv_heads * D, work.group * D));
    if (main)
        copy_rows<threads>(m.v, t, key(a.v, (int64_t)s.n_kv_heads * D, work.group * D));
    if (kl)
        copy_rows<threads>(m.ki, t, key(a.ki, DI, 0));
    fetch_entries(m, s, w, work, 0);
    fetch_entries(m, s, w, work, 1);
    __syncthreads();
    fetch(m, s, a, w, work, 0);

    float dk[D / 2] = {}, dv[D / 2] = {}; // not there unless main
    double loss = 0;
    for (int tile = 0; queries(work, tile) > 0; tile++) {
        auto &stage = m.stage[tile % 2];
        cp_async_wait<0>();
        __syncthreads(); // the tile is there, and all are done with the one before
        if (queries(work, tile + 1) > 0)
            fetch(m, s, a, w, work, tile + 1);
        fetch_entries(m, s, w, work, tile + 2);
        for (int row = 0; row < rows_of(work, tile); row += pass)
            keys_by_rows(m, stage, row, work, s.group, dk, dv);
        if constexpr (kl)
            loss += keys_by_queries(m, stage);
        __syncthreads(); // dS and u - t are there
        if constexpr (main)
            rows_by_channels(m, s, work, out, tile);
        if constexpr (kl)
            if (out.dqi)
                queries_by_channels(m, s, work, out, tile);
    }

    if constexpr (main) {
        // [owner]
        const int64_t first_key = (int64_t)work.block * N + 16 * warp;
        const int32_t *first = w.first + work.group * (s.n_scores + 1) + work.block;
        const bool alone = !w.items || ld_global(first + 1) - ld_global(first) <= item_limit(s);
        if (alone) { // the block's only item owns its rows of dK and dV
            auto row = [&](float *x) {
                return [&s, &work, x, first_key, lane](int half) {
                    const int64_t j = first_key + fragment_row(lane, half);
                    return j < s.n_kv ? x + kv_at(s, j, work.group, D) : nullptr;
                };
            };
            leave_rows<true>(dk, scale<D>, row(out.dk));
            leave_rows<true>(dv, 1, row(out.dv));
        } else { // one of several has a place of its own
            const int64_t place = split_at(s, work.group, work.begin, work.end);
            float *const to = w.split + place * 2 * N * D + (int64_t)16 * warp * D;
            leave_rows<false>(dk, scale<D>, [&](int half) { return to + fragment_row(lane, half) * D; });
            leave_rows<false>(dv, 1, [&](int half) { return to + N * D + fragment_row(lane, half) * D; });
        }
        // [owner]
    }
    if constexpr (kl) {
        for (int with = 1; with < 32; with *= 2)
            loss += shfl_xor(loss, with);
        if (lane == 0)
            st_shared(&m.loss[warp], loss);
        __syncthreads();
        for (int other = 1; t == 0 && other < N / 16; other++)
            loss += ld_shared(&m.loss[other]);
        if (t == 0)
            st_global(w.loss + blockIdx.x, loss);
    }
}

/* ---- What the sweep left in parts, in a fixed order
 * ---------------------------------------------------------- */

constexpr int merge_threads = 256;

/// dK and dV of a block that several items share: a thread block sums their parts.
template <int D, int N>
__global__ void __launch_bounds__(merge_threads)
    merge(Shape s, const int32_t *first, const float *split, float *dk, float *dv)
{
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

/* ---- dKi: all groups share the index keys, so a thread block owns a block and walks its queries in all of
 * them --
 */

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
                const uint32_t *entry = w.entries + (int64_t)r * s.n_q * s.topk + e + row;
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

/* ---- The stage
 * ------------------------------------------------------------------------------------------------- */

template <int D, int DI, int N, bool main, bool kl>
void sweep_chunk(const Call &call, const Task &task, bool full)
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
    if (kl && !c.a.index_lse)
        c.a.index_lse = launch_index_lse<DI>(c, w.index_lse);
    LAUNCH((sweep<D, DI, N, main, kl>), dim3(items), dim3(2 * N), sizeof(Smem<D, DI, N, main, kl>), c.stream,
           s, c.a, Out{w, c.a.dq, c.a.dk, c.a.dv, c.a.dqi, factor});
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
    const size_t some = chunk_workspace(c, task, false), all = chunk_workspace(c, task, true);
    return some > all ? some : all;
}

/// Chunk after chunk of queries; run_one(chunk, full) is a sweep_chunk for this shape.
template <class Run> msa_status sweep_all(const Call &c, const Task &task, const Run &run_one)
{
    const bool full = !c.a.ids;
    const int step = chunk_length(c, task, full);
    clear_gradients(c);
    for (int q0 = 0; q0 < c.s.n_q; q0 += step)
        run_one(chunk_of(c, q0, c.s.n_q - q0 < step ? c.s.n_q - q0 : step), full);
    return MSA_OK;
}

} // namespace

#endif
