/**
 * @file hopper_consumer.cuh
 * @brief What a consumer of the sweep of 4_hopper.cu, a warpgroup of 64 keys, does between its products: from
 *        accumulators to operands, to shared memory, to global memory.
 */
#ifndef MSA_HOPPER_CONSUMER_CUH
#define MSA_HOPPER_CONSUMER_CUH

#include "hopper_producer.cuh"

namespace
{

/// A consumer's thread: its warpgroup, its number there, its lane, the first of its warp's 16 keys in the
/// block.
struct ThreadIndex {
    int consumer, t, lane, key;
};
/// Every function finds it out for itself: registers are what is short here.
PTX_INLINE ThreadIndex thread_index()
{
    const unsigned thread = (unsigned)recomputed((int)threadIdx.x) - 128; // division of an int takes its sign
    return {(int)(thread / 128), (int)(thread % 128), (int)(thread % 32), (int)(thread / 32 * 16)};
}

/// P of this warp's keys and the tile's rows, from S.
template <int D, class Stage>
PTX_INLINE void weights(float (&p)[32], const Stage &stage, const Work &work, int group)
{
    const ThreadIndex me = thread_index();
    timeline_mark("softmax", 8 * 32);
    if (ld_shared(&stage.whole)) { // nearly always
        for (int first = 0; first < 32; first += 4) {
            const float2 lse = ld_shared((const float2 *)&stage.lse[fragment_d(me.lane, first).col]);
            for (int half = 0; half < 4; half += 2) {
                p[first + half] = ex2(p[first + half] * scale2<D> - lse.x);
                p[first + half + 1] = ex2(p[first + half + 1] * scale2<D> - lse.y);
            }
        }
        return;
    }
    // [masked]
    for (int first = 0; first < 32; first += 4) // 8 columns
        for (int i = 0; i < 2; i++) {
            const int column = fragment_d(me.lane, first + i).col, number = query_of(work, column);
            const float lse = ld_shared(&stage.lse[column]);
            const bool exists = number < tile_queries && head_of(work, column) < group;
            const int last = exists ? ld_shared(&stage.limit[number]) : -1; // key that the column sees
            for (int half = 0; half < 2; half++) {
                float &x = p[first + 2 * half + i];
                x = me.key + fragment_row(me.lane, half) <= last ? ex2(x * scale2<D> - lse) : 0;
            }
        }
    // [masked]
}

/// dS from P and dP.
template <class Stage> PTX_INLINE void derivatives(float (&dp)[32], const float (&p)[32], const Stage &stage)
{
    const ThreadIndex me = thread_index();
    for (int i = 0; i < 32; i++)
        dp[i] = p[i] * (dp[i] - ld_shared(&stage.delta[fragment_d(me.lane, i).col]));
}

/// The teacher t of this warp's 16 keys and the tile's queries, from P, which is spoiled, where index logits lie.
template <int n>
PTX_INLINE void teacher_of(float (&t)[4], float (&teacher)[n][tile_queries], float (&p)[32], const Work &work,
                           int group)
{
    const float share = 1 / (float)group;
    if (work.shift == 4) { // 16 heads of a query are 16 rows
        // Of queries 0 and 1 an even lane of a quad gets the sums, of 2 and 3 an odd one. The other two queries that a
        // lane has there do not exist, and what they get is not used.
        const bool odd = thread_index().lane % 2;
        for (int i = 0; i < 4; i++) {
            const int half = i / 2 * 2, low = 8 * (i % 2) + half, high = low + 16;
            auto sum = [&p](int a) { return (p[a] + p[a + 1]) + (p[a + 4] + p[a + 5]); };
            const float mine = odd ? sum(high) : sum(low), other = odd ? sum(low) : sum(high);
            t[i] = mine + shfl_xor(other, 1);
            t[i] = (t[i] + shfl_xor(t[i], 2)) * share;
        }
        return;
    }
    // [groups]
    for (int first = 0; first < 32; first += 8) { // 16 rows of the tile
        sum_heads(part<8>(p, first), work.shift);
        const ThreadIndex me = thread_index();
        for (int i = first; i < first + 8; i++) {
            const Element e = fragment_d(me.lane, i);
            const int number = query_of(work, e.col);
            if (head_of(work, e.col) == 0 && number < tile_queries)
                st_shared(&teacher[me.key + e.row][number], p[i] * share);
        }
    }
    __syncwarp();
    const ThreadIndex me = thread_index();
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(me.lane, i);
        t[i] = ld_shared(&teacher[me.key + e.row][e.col]);
    }
    // [groups]
}

/// u - t of this consumer's keys and the tile's queries, from index logits: to shared memory, a row a query.
template <int D, int DI, int N, bool kl>
PTX_INLINE void store_student(Smem<D, DI, N, kl> &m, const typename Smem<D, DI, N, kl>::Stage &stage,
                              const float (&logits)[4], const float (&t)[4])
{
    const ThreadIndex me = thread_index();
    float loss = 0, g[4];
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(me.lane, i);
        const bool sees = me.key + e.row <= ld_shared(&stage.limit[e.col]);
        g[i] = student<DI>(logits[i], ld_shared(&stage.index_lse[e.col]), sees ? t[i] : 0, sees, loss);
    }
    const uint32_t both[2] = {pack_bf16(g[0], g[1]), pack_bf16(g[2], g[3])};
    stmatrix_x2_trans(swizzled(m.g.slab[me.key / 64], me.lane % 8, me.key % 64 / 8 + me.lane / 8 % 2), both);
    if (ld_shared(&stage.index_centred)) {
        // [seldom]
        const float2 upper = unpack_bf16(both[0]), lower = unpack_bf16(both[1]);
        store_index_excess(m.index_excess[me.key / 16], make_float2(upper.x + lower.x, upper.y + lower.y));
        // [seldom]
    }
    double *const sum = &m.loss[128 * me.consumer + me.t];
    st_shared(sum, ld_shared(sum) + (double)loss);
}

/// dS^T of this warp's keys to shared memory.
template <int N> PTX_INLINE void store_ds(Tile<N, 64> &ds, const uint32_t (&left)[4][4])
{
    const ThreadIndex me = thread_index();
    for (int step = 0; step < 4; step++)
        stmatrix_x4(swizzled(ds.slab[0], me.key + me.lane % 16, 2 * step + me.lane / 16), left[step]);
}

/// What the warp's dS^T sums up to, column by column, for recentre_tile().
template <class Shared> PTX_INLINE void store_excess(Shared &m, const uint32_t (&left_ds)[4][4])
{
    // [seldom]
    float excess[tile_rows / 4] = {};
    add_columns<32>(excess, left_ds);
    store_columns<32>(m.excess[thread_index().key / 16], excess);
    // [seldom]
}

/// Takes what keys have in common out of 64 columns of dQ: see ../sweep/centre.cuh.
template <int D, int DI, int N, bool kl>
PTX_INLINE void recentre_tile(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const Out &out,
                              uint32_t centred, uint32_t entry, int slab, float (&dq)[32])
{
    const int t = thread_index().t;
    // [seldom]
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row(t, half), number = query_of(work, row);
        const uint32_t of = shfl(entry, number % tile_queries);
        if (number < tile_queries && (centred >> number & 1))
            recentre(dq, half, excess_of(m.excess, row),
                     centre_at(s, out.w.centres, work, of, D) + 64 * slab);
    }
    // [seldom]
}

/// Adds 64 columns of dQ of the tile to memory, from column 64 slab on. A copy takes 32 columns of a query.
template <int D, int DI, int N, bool kl>
PTX_INLINE void add_dq(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const CUtensorMap *map, int n,
                       uint32_t entry, int slab, const float (&dq)[32])
{
    const ThreadIndex me = thread_index();
    const int t = me.t, c = me.consumer;
    auto &tile = m.dq[c].slab;
    if (t < 32)
        bulk_wait_read<0>();
    bar_sync(2 + (unsigned)c, 128); // the copies before have read the tile
    // Of its place in the tile a thread's row and lane set all bits but those that 8 columns more, or 8 rows, change.
    const int at = (int)(swizzled(tile[0], fragment_row(t, 0), t % 4 / 2) - tile[0]) + t % 2 * 2;
    for (int i = 0; i < 32; i += 2) {
        const Element further = fragment_d(0, i);
        st_shared((float2 *)&tile[further.col / 32][(at ^ further.col % 32) + 32 * further.row],
                  make_float2(dq[i] * scale<D>, dq[i + 1] * scale<D>));
    }
    fence_proxy_async();
    bar_sync(2 + (unsigned)c, 128);
    // [reduce]
    if (t < n) { // a lane of the first warp a query, whose entry it has
        const int row = (int)(entry >> 5) * s.n_heads + work.group * s.group;
        for (int half = 0; half < 2; half++)
            tma_reduce_add_2d(map, &tile[half][32 * (t << work.shift)], 64 * slab + 32 * half, row);
        bulk_commit();
    }
    // [reduce]
}

/// 64 columns of dQ of the tile: added to memory, or left as the pairs' parts.
template <int D, int DI, int N, bool kl>
PTX_INLINE void store_dq(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const Out &out,
                         const CUtensorMap *map, int n, uint32_t entry, int slab, const float (&dq)[32])
{
    const int t = thread_index().t;
    if (!out.w.part_dq) {
        add_dq(m, s, work, map, n, entry, slab, dq);
        return;
    }
    // [seldom]
    bf16 *to[2];
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row(t, half), number = query_of(work, row), head = head_of(work, row);
        const int64_t pair = pair_at(s, out.w, work, shfl(entry, number % 32));
        to[half] =
            number < n && head < s.group ? out.w.part_dq + (pair * s.group + head) * D + 64 * slab : nullptr;
    }
    write_rows<bf16>(dq, {scale<D>, scale<D>}, [&](int half) { return to[half]; });
    // [seldom]
}

/// 64 channels of dQi of the tile, a row a channel and a column a query.
template <int D, int DI, int N, bool kl>
PTX_INLINE void store_dqi(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const Out &out, int n,
                          uint32_t centred, uint32_t entry, int slab, const float (&dqi)[4])
{
    const int t = thread_index().t;
    for (int i = 0; i < 2; i++) { // two queries, of each two channels
        const Element e = fragment_d(t, i);
        const uint32_t of = shfl(entry, e.col);
        const int channel = 64 * slab + e.row;
        float x[2] = {dqi[i], dqi[i + 2]};
        if (e.col >= n)
            continue;
        if (centred >> e.col & 1) {
            // [seldom]
            const float excess = excess_of(m.index_excess, e.col);
            const bf16 *const centre = centre_at(s, out.w.index_centres, work, of, DI) + channel;
            for (int half = 0; half < 2; half++)
                x[half] -= excess * to_float(ld_global(centre + 8 * half));
            // [seldom]
        }
        if (out.w.part_dqi) {
            // [seldom]
            float *const to = out.w.part_dqi + pair_at(s, out.w, work, of) * DI + channel;
            for (int half = 0; half < 2; half++)
                st_global(to + 8 * half, x[half] * out.factor);
            // [seldom]
        } else {
            float *const to = out.dqi + qi_at(s, of >> 5, work.group, DI) + channel;
            for (int half = 0; half < 2; half++)
                red_add(to + 8 * half, x[half] * out.factor);
        }
    }
}

/// u - t of the tile's pairs, for dKi.
template <int D, int DI, int N, bool kl>
PTX_INLINE void store_g(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const Out &out, int tile,
                        int n)
{
    static_assert(tile_queries * (N / 8) <= 2 * N, "a thread stores 8 keys at most");
    const ThreadIndex me = thread_index();
    const int a = 128 * me.consumer + me.t, q = a / (N / 8), key = a % (N / 8) * 8;
    if (q >= n)
        return;
    const int64_t row = row_of_g(s, out.w, work.group, work.block, work.begin + tile * work.per_tile + q);
    st_global((uint4 *)(out.w.g + row * N + key),
              ld_shared((const uint4 *)swizzled(m.g.slab[key / 64], q, key % 64 / 8)));
}

/// Where the block ends in padding, zeros to keys that do not exist: dS of 0 times NaN is NaN.
template <int D, int DI, int N, bool kl> PTX_INLINE void clear_padding(Smem<D, DI, N, kl> &m, const Shape &s)
{
    const int key = work_of(m).block * N;
    if (!ends_in_padding(s, key, N))
        return;
    const int t = (int)threadIdx.x - 128, first = s.n_kv - key;
    clear_rows<2 * N>(m.k, first, t);
    clear_rows<2 * N>(m.v, first, t);
    if constexpr (kl)
        clear_rows<2 * N>(m.ki, first, t);
    bar_sync(1, 2 * N);
}

} // namespace

#endif
