/**
 * @file hopper_producer.cuh
 * @brief Shared memory of the sweep of 4_hopper.cu, and the two warps that fill it.
 */
#ifndef MSA_HOPPER_PRODUCER_CUH
#define MSA_HOPPER_PRODUCER_CUH

#include "../kit/attend.cuh"
#include "../sweep/chunks.cuh"

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
        int whole;                       ///< whether all 64 rows are heads of queries that see all of the block
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
    double loss[kl ? 2 * N : 1], warp_loss[N / 16]; ///< of each thread, so far; of each warp, at the end
    int4 item;                                                           ///< group, block, begin, end
    int shift, n_kv;                                                     ///< n_kv without padding
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
        const int limit = exists ? s.prefix + query - work.block * N : -1;
        const int heads = __popc(warp_ballot(limit >= N - 1)) * s.group;
        mbarrier_wait(&m.empty[tile % stages], tile / stages % 2 ^ 1); // all consumer warps have released it
        if (lane < tile_queries) {
            st_shared(&stage.entry[lane], entry);
            st_shared(&stage.limit[lane], limit);
        }
        if (lane == 0) {
            st_shared(&stage.centred, centred);
            st_shared(&stage.index_centred, index_centred);
            st_shared(&stage.whole, (int)(heads == tile_rows)); // then the group is a power of 2
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

} // namespace

#endif
