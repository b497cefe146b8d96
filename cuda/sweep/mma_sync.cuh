/**
 * @file mma_sync.cuh
 * @brief The sweep over key blocks by mma.sync, a CTA an item: backward/3_kv_outer.cu describes it,
 * kl/2_kv_outer.cu is the loss alone. That by wgmma is backward/4_hopper.cu.
 */
#ifndef MSA_MMA_SYNC_CUH
#define MSA_MMA_SYNC_CUH

#include "chunks.cuh"

namespace
{

constexpr int pass = 16; ///< rows of a tile that a warp works on at a time; with 32 registers spill

template <int D, int DI, int N, bool main, bool kl> struct Smem {
    struct Stage {
        WarpTile<tile_rows, D> q;
        WarpTile<main ? tile_rows : 8, D> dout;
        WarpTile<tile_queries, DI> qi;
        float lse[tile_rows], delta[tile_rows], index_lse[tile_queries];
        int limit[tile_queries]; ///< the last key of the block that a query sees; -1 for no query
        int centred[tile_queries], index_centred[tile_queries]; ///< whether a query has a centre
    };
    WarpTile<N, D> k;
    WarpTile<main ? N : 8, D> v;
    WarpTile<kl ? N : 8, DI> ki;
    Stage stage[2];
    uint32_t entry[3][tile_queries];      ///< of the tiles' queries: this one, the next and the one after
    WarpTile<main ? N : 8, tile_rows> ds; ///< dS, a row a key
    alignas(16) uint32_t g[kl ? N : 1][tile_queries / 2]; ///< u - t in bf16, a row a key
    float teacher[kl ? N : 1][tile_queries];
    float excess[N / 16][tile_rows], index_excess[N / 16][tile_queries]; ///< of each warp's keys
    double loss[N / 16];
    int prefix, n_kv; ///< without padding: there are no registers left for what is not known at the launch
};

/// Rows of a tile that belong to queries.
PTX_INLINE int rows_of(const Work &w, int tile)
{
    return queries(w, tile) << w.shift;
}

/// Reads the entries of a tile.
template <class Shared>
PTX_INLINE void fetch_entries(Shared &m, const Shape &s, const Scratch &w, const Work &work, int tile)
{
    const int t = (int)threadIdx.x;
    if (t < queries(work, tile))
        st_shared(&m.entry[tile % 3][t], entry_at(s, w, work, work.begin + tile * work.per_tile + t));
}

/// Starts copying a tile of queries, and what belongs to their rows.
template <int D, int DI, int N, bool main, bool kl>
PTX_INLINE void fetch(Smem<D, DI, N, main, kl> &m, const Shape &s, const Arrays &a, const Scratch &w,
                      const Work &work, int tile)
{
    constexpr int threads = 2 * N;
    const int t = recomputed((int)threadIdx.x), n = queries(work, tile); // kept, it would spill
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
        st_shared(&stage.limit[t], t < n ? ld_shared(&m.prefix) + (int)i - work.block * N : -1);
        if (main)
            st_shared(&stage.centred[t], t < n ? centre_exists(s, w.centres, i, work.group) : 0);
        if (kl)
            st_shared(&stage.index_centred[t], t < n ? centre_exists(s, w.index_centres, i, work.group) : 0);
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
        float excess[pass / 4] = {};
        add_columns<pass / 2>(excess, left);
        store_columns<pass / 2>(&m.excess[key / 16][row], excess);
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
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(lane, i);
        const bool sees = key + e.row <= ld_shared(&stage.limit[e.col]);
        const float t = sees ? ld_shared(&m.teacher[key + e.row][e.col]) : 0;
        g[i] = student<DI>(x[i], ld_shared(&stage.index_lse[e.col]), t, sees, loss);
    }
    float2 excess = make_float2(0, 0);
    for (int half = 0; half < 2; half++) {
        const uint32_t both = pack_bf16(g[2 * half], g[2 * half + 1]);
        st_shared(&m.g[key + fragment_row(lane, half)][lane % 4], both);
        excess = make_float2(excess.x + unpack_bf16(both).x, excess.y + unpack_bf16(both).y);
    }
    store_index_excess(m.index_excess[key / 16], excess);
    return (double)loss;
}

/// dQ = dS K of the tile, 16 columns of D a warp and turn.
template <int D, int DI, int N, bool main, bool kl>
PTX_INLINE void rows_by_channels(Smem<D, DI, N, main, kl> &m,
                                 const typename Smem<D, DI, N, main, kl>::Stage &stage, const Shape &s,
                                 const Work &work, const Out &out, int tile)
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
                if (ld_shared(&stage.centred[number]))
                    recentre(dq[b], half, excess_of(m.excess, row),
                             centre_at(s, out.w.centres, work, entry, D) + column);
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
PTX_INLINE void queries_by_channels(Smem<D, DI, N, main, kl> &m,
                                    const typename Smem<D, DI, N, main, kl>::Stage &stage, const Shape &s,
                                    const Work &work, const Out &out, int tile)
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
        if (ld_shared(&stage.index_centred[number]))
            recentre(dqi, 0, excess_of(m.index_excess, number),
                     centre_at(s, out.w.index_centres, work, entry, DI) + column);
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
__global__ void __launch_bounds__(2 * N, 1) sweep(Shape padded, Arrays a, Out out)
{
    const Shape s = actual(padded);
    using Shared = Smem<D, DI, N, main, kl>;
    constexpr int threads = 2 * N;
    Shared &m = shared<Shared>();
    const int t = (int)threadIdx.x, warp = t / 32;
    const Scratch &w = out.w;
    const Work work = work_of(s, w, blockIdx.x);
    if (work.group < 0) { // past the worklist's end
        if (kl && t == 0)
            st_global(w.loss + blockIdx.x, 0.0);
        return;
    }
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
    if (t == 0) {
        st_shared(&m.prefix, s.prefix);
        st_shared(&m.n_kv, s.n_kv);
    }
    __syncthreads();
    fetch(m, padded, a, w, work, 0);

    float dk[D / 2] = {}, dv[D / 2] = {}; // not there unless main
    double loss = 0;
    for (int tile = 0; queries(work, tile) > 0; tile++) {
        auto &stage = m.stage[tile % 2];
        cp_async_wait<0>();
        __syncthreads(); // the tile is there, and all are done with the one before
        if (queries(work, tile + 1) > 0)
            fetch(m, padded, a, w, work, tile + 1); // arrives under this tile's products
        fetch_entries(m, padded, w, work, tile + 2);
        for (int row = 0; row < rows_of(work, tile); row += pass) // P, dS; dV and dK of this warp's keys
            keys_by_rows(m, stage, row, work, padded.group, dk, dv);
        if constexpr (kl)
            loss += keys_by_queries(m, stage);
        __syncthreads(); // dS and u - t are there
        // What follows from the tile's number is worked out anew: kept from tile to tile it makes ptxas 12.6 spill.
        if constexpr (main) // dQ over all keys: of every warp's dS
            rows_by_channels(m, stage, padded, work, out, recomputed(tile));
        if constexpr (kl)
            if (out.dqi)
                queries_by_channels(m, stage, padded, work, out, recomputed(tile));
    }

    padded.n_kv = ld_shared(&m.n_kv);
    if constexpr (main)
        store_block<D, N>(padded, out, work, 16 * warp, dk, dv);
    if constexpr (kl) {
        store_warp_loss(m.loss[warp], loss);
        __syncthreads();
        if (t == 0)
            st_global(w.loss + blockIdx.x, sum_of(m.loss));
    }
}

/// Chunk after chunk, with dQ, dK, dV if `main`, and the loss, dQi and dKi if `kl`.
template <int D, int DI, int N, bool main, bool kl> msa_status mma_sweep(const Call &c, const Task &task)
{
    return sweep_all<D, DI, N, main, kl>(c, task, [](const Call &chunk, unsigned items, const Out &out) {
        LAUNCH((sweep<D, DI, N, main, kl>), dim3(items), dim3(2 * N), sizeof(Smem<D, DI, N, main, kl>),
               chunk.stream, chunk.s, chunk.a, out);
        return MSA_OK;
    });
}

} // namespace

#endif
