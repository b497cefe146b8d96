/**
 * @file 4_hopper.cu
 * @brief The gradient of attention as Hopper wants it: the sweep of 3_kv_outer.cu by TMA and wgmma.
 *
 * Better than 3_kv_outer: wgmma reads an operand from shared memory once for 64 keys, where a warp of
 * mma.sync read it for its 16, and at up to 1.5 times the rate. A CTA still owns an item, a block of keys and
 * queries that chose it, and dK and dV stay in registers; what changed:
 * - Two warps fetch. In one a lane takes a query's entry, then its G rows of Q and of dO by TMA; the other
 * brings what belongs to rows, LSE and delta. Each of N / 64 warpgroups has 64 keys. S^T = K Q^T and dP^T =
 * V dO^T come out of wgmma, P^T and dS^T go as left operands in registers into dV += P^T dO and dK += dS^T Q.
 * - dS^T goes through shared memory once, rows of 128 bytes, swizzled by hand: dQ = dS K then reads both
 * operands across their rows, which wgmma does for 16-bit types. A warpgroup takes 64 columns of dQ.
 * - Only tiles with a query whose keys have a centre (centre.cuh) sum their dS and take dQ about it.
 * - dQ leaves by TMA's reduction: a row of 32 columns is one line of memory, added in L2.
 * - Tensor cores have something to do meanwhile: dP while exponentials are taken, dV while dS is, dK while dQ
 * leaves.
 *
 * With the KL loss: index logits are one more product of 8 columns, dQi^T = Ki^T (u - t)^T another, of 64
 * channels a warpgroup.
 *
 * Bytes: those of 3_kv_outer, but 16 (128 + 2 Bk) a place of the worklist. Operations on tensor cores: 640 Bk
 * d a tile, whole 64 rows; with the KL loss 32 Bk di a tile, and 3_kv_outer's for dKi.
 *
 * Its floor: memory. For 3_kv_outer's example, 69 GB of Q and dO and 69 GB of reductions take 41 ms at 3.35
 * TB/s, if nothing stays in L2. A tile of 4 queries takes 2560 clocks of products; its operands, 256 KB, and
 * what is written and leaves, 112 KB, take 2900 clocks of shared memory at 128 bytes a clock: 27 ms. By this
 * estimate 41 to 50 ms, where 3_kv_outer takes 66 to 73; nothing is measured.
 *
 * What it wastes: at 64 rows a product m64n64 reads as many bytes of shared memory as it has clocks for, so
 * products wait for operands; 128 rows would read K and V half as often and need 64 registers more. K, V, dK
 * and dV once more every chunk. Rows of a group that is no power of two, or below 8. With d 64 and Bk 128
 * both warpgroups multiply all of dQ.
 *
 * Registers at d 128: dK and dV 128, S and dP 64, P as an operand 16, of 240. What is left is for addresses,
 * and is enough only since every step finds out its own (Place, work_of()): what the compiler keeps from tile
 * to tile spills. Dropped: S of the next tile under way while dQ leaves, since ptxas serializes wgmma whose
 * accumulators pass from one turn of a loop to the next; and holding dQ until then, for which there is no
 * room. Blocks of 32 keys are half of wgmma's rows, and go to 3_kv_outer's sweep.
 */
#include "../kit/attend.cuh"
#include "sweep.cuh"
#include "sweeps.cuh"

namespace
{

constexpr int stages = 2;

template <int D, int DI, int N, bool kl> struct Smem {
    struct Stage {
        Tile<64, D> q, dout;
        Tile<kl ? tile_queries : 8, DI> qi;
        float lse[tile_rows], delta[tile_rows], index_lse[tile_queries];
        int limit[tile_queries];         ///< the last key of the block that a query sees; -1 for no query
        uint32_t entry[tile_queries];    ///< query << 5 | slot
        uint32_t centred, index_centred; ///< a bit a query: whether it has a centre
    };
    Tile<N, D> k, v;
    Tile<kl ? N : 8, DI> ki;
    Stage stage[stages];
    Tile<N, 64> ds;                    ///< dS^T, a row a key
    Tile<tile_queries, kl ? N : 64> g; ///< u - t, a row a query
    struct alignas(1024) {
        float slab[2][tile_rows * 32];
    } dq[N / 64]; ///< 64 columns of dQ, on their way to memory
    float teacher[kl ? N : 1][tile_queries];
    float excess[N / 16][tile_rows], index_excess[N / 16][tile_queries]; ///< of each warp's keys
    double loss[N / 16];                                                 ///< of each warp, so far
    int4 item;                                                           ///< group, block, begin, end
    int shift;
    uint64_t keys_full, full[stages], empty[stages];
};

/// The tensors, as TMA needs to know them.
struct Maps {
    CUtensorMap q, dout, qi, k, v, ki, dq;
};

/// The item from shared memory, so that nothing of it has to stay in registers.
template <class Shared> PTX_INLINE Work work_of(const Shared &m)
{
    const int4 item = ld_shared(&m.item);
    const int shift = ld_shared(&m.shift);
    return {item.x, item.y, item.z, item.w, shift, per_tile_of(shift)};
}

/* ---- The producers: two warps, since a thread of theirs has but 24 registers ------------------------- */

/// The entry of this lane's query of a tile; 0 if it has none.
PTX_INLINE uint32_t entry_of(const Shape &s, const Scratch &w, const Work &work, int tile, int lane)
{
    return lane < queries(work, tile) ? entry_at(s, w, work, work.begin + tile * work.per_tile + lane) : 0;
}

/// Tiles by TMA: a lane fetches its query's rows, and says what the query sees.
template <int D, int DI, int N, bool kl>
PTX_INLINE void produce_tiles(Smem<D, DI, N, kl> &m, const Shape &s, const Scratch &w, const Maps &maps)
{
    timeline_role("producer");
    if (threadIdx.x == 0) {
        const Work work = work_of(m);
        mbarrier_arrive_expect(&m.keys_full, (uint32_t)(sizeof m.k + sizeof m.v + (kl ? sizeof m.ki : 0)));
        load_kv(m.k, &maps.k, &m.keys_full, work.group, work.block * N);
        load_kv(m.v, &maps.v, &m.keys_full, work.group, work.block * N);
        if constexpr (kl)
            load_kv(m.ki, &maps.ki, &m.keys_full, 0, work.block * N);
    }
    for (int tile = 0; queries(work_of(m), tile) > 0; tile++) {
        const Work work = work_of(m);
        const int lane = recomputed((int)threadIdx.x % 32);
        auto &stage = m.stage[tile % stages];
        uint64_t *const full = &m.full[tile % stages];
        const bool exists = lane < queries(work, tile);
        const uint32_t entry = entry_of(s, w, work, tile, lane); // while the stage is still in use
        const int query = (int)(entry >> 5);
        const uint32_t centred = warp_ballot(exists && centre_exists(s, w.centres, query, work.group));
        const uint32_t index_centred =
            warp_ballot(kl && exists && centre_exists(s, w.index_centres, query, work.group));
        mbarrier_wait(&m.empty[tile % stages], tile / stages % 2 ^ 1);
        if (lane < tile_queries) {
            st_shared(&stage.entry[lane], entry);
            st_shared(&stage.limit[lane], exists ? s.prefix + query - work.block * N : -1);
        }
        if (lane == 0) {
            st_shared(&stage.centred, centred);
            st_shared(&stage.index_centred, index_centred);
        }
        mbarrier_arrive_expect(full,
                               exists ? 2 * q_bytes<D>(s, 1) + (kl ? DI * (uint32_t)sizeof(bf16) : 0) : 0);
        if (exists) {
            load_q(stage.q, &maps.q, full, s, work.group, query, lane << work.shift);
            load_q(stage.dout, &maps.dout, full, s, work.group, query, lane << work.shift);
            for (int slab = 0; kl && slab < DI / 64; slab++)
                tma_load_2d(stage.qi.slab[slab] + 64 * lane, &maps.qi, full, work.group * DI + 64 * slab,
                            query);
        }
    }
}

/// What belongs to their rows, two a lane.
template <int D, int DI, int N, bool kl>
PTX_INLINE void produce_rows(Smem<D, DI, N, kl> &m, const Shape &s, const Arrays &a, const Scratch &w)
{
    timeline_role("producer");
    for (int tile = 0; queries(work_of(m), tile) > 0; tile++) {
        const int lane = recomputed((int)threadIdx.x % 32);
        const Work work = work_of(m);
        auto &stage = m.stage[tile % stages];
        const uint32_t entry = entry_of(s, w, work, tile, lane);
        float lse[2] = {}, delta[2] = {}, index_lse = 0;
        for (int i = 0; i < 2; i++) {
            const int row = lane + 32 * i, number = query_of(work, row), head = head_of(work, row);
            const int64_t query = shfl(entry, number % 32) >> 5;
            if (number < queries(work, tile) && head < s.group) {
                const int64_t at = lse_at(s, query, work.group * s.group + head);
                lse[i] = ld_global(a.lse + at) * log2_e;
                delta[i] = ld_global(w.delta + at);
            }
        }
        if (kl && lane < queries(work, tile))
            index_lse = ld_global(a.index_lse + row_at(s, entry >> 5, work.group)) * log2_e;
        mbarrier_wait(&m.empty[tile % stages], tile / stages % 2 ^ 1);
        for (int i = 0; i < 2; i++) {
            st_shared(&stage.lse[lane + 32 * i], lse[i]);
            st_shared(&stage.delta[lane + 32 * i], delta[i]);
        }
        if (kl && lane < tile_queries)
            st_shared(&stage.index_lse[lane], index_lse);
        mbarrier_arrive(&m.full[tile % stages]);
    }
}

/* ---- A consumer: a warpgroup of 64 keys ------------------------------------------------------------- */

/// A consumer's thread: its warpgroup, its number there, its lane, the first of its warp's 16 keys in the
/// block.
struct Place {
    int consumer, t, lane, key;
};
PTX_INLINE Place place() ///< every function finds it out for itself: registers are what is short here
{
    const int thread = recomputed((int)threadIdx.x) - 128;
    return {thread / 128, thread % 128, thread % 32, thread / 32 * 16};
}

/// Where 16 bytes of a row begin in a slab of 128 bytes a row: the swizzle that TMA and wgmma know.
template <class T> PTX_INLINE T *swizzled(T *slab, int row, int chunk)
{
    return slab + (row * 8 + (chunk ^ row % 8)) * (16 / (int)sizeof(T));
}

/// P of this warp's keys and the tile's rows, from S.
template <int D, class Stage>
PTX_INLINE void weights(float (&p)[32], const Stage &stage, const Work &work, int group)
{
    const Place me = place();
    timeline_mark("softmax", 8 * 32);
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
}

/// dS from P and dP.
template <class Stage> PTX_INLINE void derivatives(float (&dp)[32], const float (&p)[32], const Stage &stage)
{
    const Place me = place();
    for (int i = 0; i < 32; i++)
        dp[i] = p[i] * (dp[i] - ld_shared(&stage.delta[fragment_d(me.lane, i).col]));
}

/// The teacher of this warp's 16 keys, from P, which is spoiled.
template <int n>
PTX_INLINE void leave_teacher(float (&teacher)[n][tile_queries], float (&p)[32], const Work &work, int group)
{
    const Place me = place();
    for (int first = 0; first < 32; first += 8) { // 16 rows of the tile
        sum_heads(part<8>(p, first), work.shift);
        for (int i = first; i < first + 8; i++) {
            const Element e = fragment_d(me.lane, i);
            const int number = query_of(work, e.col);
            if (head_of(work, e.col) == 0 && number < tile_queries)
                st_shared(&teacher[me.key + e.row][number], p[i] / (float)group);
        }
    }
}

/// u - t of this consumer's keys and the tile's queries, from index logits: to shared memory, a row a query.
template <int D, int DI, int N, bool kl>
PTX_INLINE void leave_student(Smem<D, DI, N, kl> &m, const typename Smem<D, DI, N, kl>::Stage &stage,
                              const float (&logits)[4])
{
    const Place me = place();
    float loss = 0, excess[2] = {};
    __syncwarp(); // the teacher is there
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(me.lane, i);
        const int j = me.key + e.row;
        const bool sees = j <= ld_shared(&stage.limit[e.col]);
        const float t = sees ? ld_shared(&m.teacher[j][e.col]) : 0;
        const bf16 g =
            __float2bfloat16_rn(student<DI>(logits[i], ld_shared(&stage.index_lse[e.col]), t, sees, loss));
        st_shared(swizzled(m.g.slab[j / 64], e.col, j % 64 / 8) + j % 8, g);
        excess[i % 2] += to_float(g);
    }
    if (ld_shared(&stage.index_centred))
        leave_index_excess(m.index_excess[me.key / 16], make_float2(excess[0], excess[1]));
    for (int with = 1; with < 32; with *= 2)
        loss += shfl_xor(loss, with);
    if (me.lane == 0)
        st_shared(&m.loss[me.key / 16], ld_shared(&m.loss[me.key / 16]) + (double)loss);
}

/// dS^T of this warp's keys to shared memory.
template <int N> PTX_INLINE void leave_ds(Tile<N, 64> &ds, const uint32_t (&left)[4][4])
{
    const Place me = place();
    for (int step = 0; step < 4; step++)
        stmatrix_x4(swizzled(ds.slab[0], me.key + me.lane % 16, 2 * step + me.lane / 16), left[step]);
}

/// Takes what keys have in common out of 64 columns of dQ: see centre.cuh.
template <int D, int DI, int N, bool kl>
PTX_INLINE void recentre_tile(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const Out &out,
                              uint32_t centred, uint32_t entry, int slab, float (&dq)[32])
{
    const int t = place().t;
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row(t, half), number = query_of(work, row);
        const uint32_t of = shfl(entry, number % tile_queries);
        if (centred >> number & 1) // rows past the tile's queries have no bit
            recentre(dq, half, excess_of(m.excess, row),
                     centre_at(s, out.w.centres, work, of, D) + 64 * slab);
    }
}

/// Adds 64 columns of dQ of the tile to memory, from column 64 slab on. A copy takes 32 columns of a query.
template <int D, int DI, int N, bool kl>
PTX_INLINE void add_dq(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const CUtensorMap *map, int n,
                       uint32_t entry, int slab, const float (&dq)[32])
{
    const Place me = place();
    const int t = me.t, c = me.consumer;
    auto &tile = m.dq[c].slab;
    if (t < 32)
        bulk_wait_read<0>();
    bar_sync(2 + (unsigned)c, 128); // the copies before have read the tile
    for (int i = 0; i < 32; i += 2) {
        const Element e = fragment_d(t, i);
        st_shared((float2 *)(swizzled(tile[e.col / 32], e.row, e.col % 32 / 4) + e.col % 4),
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
PTX_INLINE void leave_dq(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const Out &out,
                         const CUtensorMap *map, int n, uint32_t entry, int slab, const float (&dq)[32])
{
    const int t = place().t;
    if (!out.w.part_dq) {
        add_dq(m, s, work, map, n, entry, slab, dq);
        return;
    }
    bf16 *to[2];
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row(t, half), number = query_of(work, row), head = head_of(work, row);
        const int64_t pair = pair_at(s, out.w, work, shfl(entry, number % 32));
        to[half] =
            number < n && head < s.group ? out.w.part_dq + (pair * s.group + head) * D + 64 * slab : nullptr;
    }
    write_rows<bf16>(dq, {scale<D>, scale<D>}, [&](int half) { return to[half]; });
}

/// 64 channels of dQi of the tile, a row a channel and a column a query.
template <int D, int DI, int N, bool kl>
PTX_INLINE void leave_dqi(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const Out &out, int n,
                          uint32_t centred, uint32_t entry, int slab, const float (&dqi)[4])
{
    const int t = place().t;
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(t, i);
        const uint32_t of = shfl(entry, e.col);
        const int channel = 64 * slab + e.row;
        if (e.col >= n)
            continue;
        float x = dqi[i];
        if (centred >> e.col & 1)
            x -= excess_of(m.index_excess, e.col) *
                 to_float(ld_global(centre_at(s, out.w.index_centres, work, of, DI) + channel));
        if (out.w.part_dqi)
            st_global(out.w.part_dqi + pair_at(s, out.w, work, of) * DI + channel, x * out.factor);
        else
            red_add(out.dqi + qi_at(s, of >> 5, work.group, DI) + channel, x * out.factor);
    }
}

/// u - t of the tile's pairs, for dKi.
template <int D, int DI, int N, bool kl>
PTX_INLINE void leave_g(Smem<D, DI, N, kl> &m, const Shape &s, const Work &work, const Out &out, int tile,
                        int n)
{
    const int e0 = work.begin + tile * work.per_tile;
    const Place me = place();
    for (int a = 128 * me.consumer + me.t; a < n * (N / 8); a += 2 * N) {
        const int q = a / (N / 8), key = a % (N / 8) * 8;
        bf16 *to = out.w.g + row_of_g(s, out.w, work.group, work.block, e0 + q) * N + key;
        st_global((uint4 *)to, ld_shared((const uint4 *)swizzled(m.g.slab[key / 64], q, key % 64 / 8)));
    }
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

template <int D, int DI, int N, bool kl>
PTX_INLINE void consume(Smem<D, DI, N, kl> &m, const Shape &s, const Out &out, const CUtensorMap *dq_map)
{
    constexpr int consumers = N / 64, turns = D / 64 > consumers ? D / 64 / consumers : 1;
    constexpr bool spread = D / 64 >= consumers; // else both take all of dQ, and leave it in turns
    timeline_role("consumer");
    float dk[D / 2] = {}, dv[D / 2] = {};
    mbarrier_wait(&m.keys_full, 0);
    clear_padding(m, s);
    for (int tile = 0; queries(work_of(m), tile) > 0; tile++) {
        auto &stage = m.stage[recomputed(tile % stages)];
        const int c = place().consumer, own = 64 * c;
        float p[32], dp[32], logits[4];
        uint32_t left_p[4][4], left_ds[4][4];
        mbarrier_wait(&m.full[tile % stages], tile / stages % 2);
        wgmma_pin(p);
        wgmma_fence();
        add_rows_by_rows<64>(p, m.k, own, stage.q, 0);
        wgmma_commit();
        wgmma_pin(dp);
        wgmma_fence();
        add_rows_by_rows<64>(dp, m.v, own, stage.dout, 0);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_pin(p);
        weights<D>(p, stage, work_of(m), s.group);
        pack_weights(left_p, p);
        if constexpr (kl) {
            wgmma_pin(logits);
            wgmma_fence();
            add_rows_by_rows<tile_queries>(logits, m.ki, own, stage.qi, 0);
            wgmma_commit();
        }
        issue_values(dv, left_p, stage.dout, true);
        wgmma_wait<1>();
        wgmma_pin(dp);
        wgmma_pin(logits);
        derivatives(dp, p, stage);
        pack_weights(left_ds, dp);
        if constexpr (kl)
            leave_teacher(m.teacher, p, work_of(m), s.group);
        bar_sync(1, 2 * N); // all are done with dS and u - t of the tile before
        leave_ds(m.ds, left_ds);
        if (ld_shared(&stage.centred)) {
            float excess[tile_rows / 4] = {};
            add_columns<32>(excess, left_ds);
            leave_columns<32>(m.excess[place().key / 16], excess);
        }
        if constexpr (kl)
            leave_student(m, stage, logits);
        fence_proxy_async();
        bar_sync(1, 2 * N); // they are there
        for (int turn = 0; turn < turns; turn++) {
            const int slab = spread ? turn * consumers + (c + tile) % consumers : 0;
            float dq[32], dqi[4];
            wgmma_pin(dq);
            wgmma_pin(dqi);
            wgmma_fence();
            for (int step = 0; step < N / 16; step++) {
                auto across = [&](const bf16 *from) { // 16 keys of 64 columns, which are the operand's rows
                    return wgmma_descriptor(from + 64 * 16 * step, N * 128, 1024, Swizzle::b128);
                };
                wgmma_ss<64, 1, 1>(dq, across(m.ds.slab[0]), across(m.k.slab[slab]), step > 0);
                if constexpr (kl)
                    wgmma_ss<tile_queries, 1>(
                        dqi, across(m.ki.slab[slab]),
                        wgmma_descriptor(&m.g.slab[step / 4][step % 4 * 16], 16, 1024, Swizzle::b128),
                        step > 0);
            }
            wgmma_commit();
            if (turn == 0) {
                issue_values(dk, left_ds, stage.q, true);
                wgmma_wait<1>(); // dQ leaves while dK is multiplied
            } else {
                wgmma_wait<0>();
            }
            wgmma_pin(dq);
            wgmma_pin(dqi);
            if (spread || (c + tile) % consumers == 0) {
                const Work work = work_of(m);
                const int n = queries(work, tile);
                const uint32_t entry = ld_shared(&stage.entry[place().lane % tile_queries]);
                if (const uint32_t centred = ld_shared(&stage.centred))
                    recentre_tile(m, s, work, out, centred, entry, slab, dq);
                leave_dq(m, s, work, out, dq_map, n, entry, slab, dq);
                if (kl && out.dqi)
                    leave_dqi(m, s, work, out, n, ld_shared(&stage.index_centred), entry, slab, dqi);
            }
        }
        if (kl && out.dqi)
            leave_g(m, s, work_of(m), out, tile, queries(work_of(m), tile));
        wgmma_wait<0>();
        wgmma_pin(dv);
        wgmma_pin(dk);
        wgmma_pin(left_p);
        wgmma_pin(left_ds);
        __syncwarp();
        if (place().lane == 0)
            mbarrier_arrive(&m.empty[tile % stages]);
    }
    if (place().t < 32)
        bulk_wait_read<0>();
    leave_block<D, N>(s, out, work_of(m), place().key, dk, dv);
    if constexpr (kl) {
        bar_sync(1, 2 * N);
        if (threadIdx.x == 128)
            st_global(out.w.loss + blockIdx.x, sum_of(m.loss));
    }
}

template <int D, int DI, int N, bool kl>
__global__ void __launch_bounds__(128 + 2 * N, 1)
    hopper_sweep(Shape s, Arrays a, Out out, const __grid_constant__ Maps maps)
{
    s = actual(s);
    Smem<D, DI, N, kl> &m = shared<Smem<D, DI, N, kl>>();
    constexpr int consumers = N / 64;
    const int t = (int)threadIdx.x, c = t / 128 - 1; // consumer, or -1
    const Work work = work_of(s, out.w, N, blockIdx.x);
    if (work.group < 0) { // past the worklist's end
        if (kl && t == 0)
            st_global(out.w.loss + blockIdx.x, 0.0);
        return;
    }
    if (t == 0) {
        st_shared(&m.item, int4{work.group, work.block, work.begin, work.end});
        st_shared(&m.shift, work.shift);
        for (int warp = 0; kl && warp < N / 16; warp++)
            st_shared(&m.loss[warp], 0.0);
        mbarrier_init(&m.keys_full, 1);
        for (int i = 0; i < stages; i++) {
            mbarrier_init(&m.full[i], 64);
            mbarrier_init(&m.empty[i], 4 * consumers);
        }
        fence_mbarrier_init();
    }
    for (int i = c < 0 ? stages : c; i < stages; i += consumers) { // the rows that no copy will write
        if (queries(work, i) <= 0)
            break;
        const int first = s.group == 1 << work.shift ? queries(work, i) << work.shift : 0;
        clear_rows(m.stage[i].q, first, t % 128);
        clear_rows(m.stage[i].dout, first, t % 128);
        if (kl)
            clear_rows(m.stage[i].qi, queries(work, i), t % 128);
    }
    __syncthreads();
    if (c < 0) {
        if constexpr (consumers == 2)
            setmaxnreg_dec<24>();
        if (t < 32)
            produce_tiles(m, s, out.w, maps);
        else if (t < 64)
            produce_rows(m, s, a, out.w);
    } else {
        if constexpr (consumers == 2)
            setmaxnreg_inc<240>();
        consume(m, s, out, &maps.dq);
    }
}

/* ---- The stage -------------------------------------------------------------------------------------- */

template <int D, int N, bool kl> msa_status launch_hopper(const Call &c, unsigned items, const Out &out)
{
    const Shape &s = c.s;
    const Arrays &a = c.a;
    const int64_t rows = (int64_t)s.n_q * s.n_heads;
    Maps maps = {};
    msa_status status[] = {q_map(&maps.q, s, a.q, D, 1),
                           q_map(&maps.dout, s, a.dout, D, 1),
                           kv_map(&maps.k, s, a.k, D, N),
                           kv_map(&maps.v, s, a.v, D, N),
                           rows_map(&maps.dq, a.dq, D, rows, s.group),
                           kl ? rows_map(&maps.qi, a.qi, (int64_t)s.n_kv_heads * D, s.n_q, 1) : MSA_OK,
                           kl ? rows_map(&maps.ki, a.ki, D, s.n_kv, N) : MSA_OK};
    for (msa_status one : status)
        if (one != MSA_OK)
            return one;
    LAUNCH((hopper_sweep<D, D, N, kl>), dim3(items), dim3(128 + 2 * N), sizeof(Smem<D, D, N, kl>), c.stream,
           s, a, out, maps);
    return MSA_OK;
}

template <bool kl> msa_status sweep_main(const Call &c, const Task &task)
{
    msa_status status = MSA_ERR_UNSUPPORTED;
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_int<64, 128>(c.s.block, [&](auto n) {
            constexpr int D = d.value, N = n.value;
            status = sweep_all<D, D, N, true, kl>(c, task, launch_hopper<D, N, kl>);
        });
    });
    return status;
}

size_t workspace(const Call &c)
{
    return ON_SIDE(backward, sweep_bytes)(c, backward_task(c, false));
}
msa_status run(const Call &c)
{
    return ON_SIDE(backward, hopper_sweep)(c, backward_task(c, false));
}

} // namespace

msa_status ON_SIDE(backward, hopper_sweep)(const Call &c, const Task &task)
{
    if (c.s.block < 64)
        return ON_SIDE(backward, sweep)(c, task);
    if (!c.a.loss)
        return sweep_main<false>(c, task);
    return task.kl ? sweep_main<true>(c, task) : MSA_ERR_UNSUPPORTED;
}

ENTRY(backward, hopper, run, workspace);
