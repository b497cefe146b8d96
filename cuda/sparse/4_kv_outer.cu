/**
 * @file 4_kv_outer.cu
 * @brief Sparse attention with the key blocks outside: K and V of a block are loaded once for all queries that
 *        chose it.
 *
 * Idea: reverse/scan turns the selection around. A CTA an SM takes item after item of its worklist: K and V of one
 * block, which come while the item before is multiplied, and the queries that chose it, gathered by TMA, 64 / G
 * with their G heads a tile. Each (query, block) pair is a softmax of its own. Its O takes the place of its Q in
 * shared memory and goes from there by TMA to a fixed place, and so does its LSE; a second kernel combines the k
 * partial outputs of a query, so every run gives the same bits. Partials are the first to leave L2. Queries go in chunks of 4096, below 256K tokens, so
 * that Q stays in L2; of longer prompts in up to 16384, whose partials still fit.
 * Bytes of a chunk of T queries with P pairs: those of reverse/scan; read: 48 for each item and for one end of the
 * list a CTA, 4 P of entries, for each item 4 d a key of its block, 2 G d P of Q, 2 G d P + 4 G P of partials and
 * their LSE, 4 k Hq T of ids; written: 2 G d P + 4 G P of partials and LSE, O, and 4 Hq T of LSE if asked for.
 * Floor: those bytes; at M3's sizes and 1M tokens 844 GB, and 69 more since each of 64 chunks reads K and V again,
 * against 70 TFLOP of products: 0.27 s on an H800, 0.19 on an H200.
 * Waste: partials in memory, 4 Hq k d bytes a query there and back; K and V once more every chunk; the end of
 * an item's last tile, and its first S, which nothing of the item hides; rows 64 / G * G .. 63.
 * Machine code: a warp's tile is 699 instructions, 235 of them for O and LSE; two tiles take 2640 clocks, 2048 of
 * them products. A thread of the combination has up to 8 loads under way. Design notes: chapter 14.
 */
#include "../kit/attend.cuh"
#include "../reverse/reverse.cuh"
#include "combine.cuh"

#include <algorithm>

namespace
{

/* ---- Scratch --------------------------------------------------------------------------------------- */

struct Scratch {
    bf16 *partial; ///< [pairs, G, D]
    float *lse;    ///< [pairs, G]
    int32_t *first;
    uint32_t *entries;
    msa_item *items;
    void *reverse;
    size_t bytes;
};

Scratch layout(const Shape &s, int d, void *work)
{
    const int64_t pairs = (int64_t)s.n_q * s.n_kv_heads * s.topk;
    Carve carve = {(uintptr_t)work};
    Scratch w;
    w.partial = carve.take<bf16>(pairs * s.group * d);
    w.lse = carve.take<float>(pairs * s.group);
    w.first = carve.take<int32_t>(s.n_kv_heads * (s.n_scores + 1));
    w.entries = carve.take<uint32_t>(pairs);
    w.items = carve.take<msa_item>(reverse_items(s));
    w.reverse = carve.take<char>((int64_t)ON_SIDE(reverse, scratch)(s));
    w.bytes = carve.used;
    return w;
}

/* ---- Partials: a CTA an SM takes item after item -------------------------------------------------------- */

constexpr int consumers = 2, stages = 3, threads = 128 * (1 + consumers);

/// What two warpgroups need of an item. Item n of a CTA uses Keys n % 2 for the n / 2-th time.
template <int D, int N> struct Keys { ///< N keys in a block
    Tile<N, D> k, v;
};
struct KeyBarriers {
    uint64_t k_full, v_full, k_empty, v_empty;
};
/// A consumer's tiles on their way in and out.
template <int D> struct Ring {
    Tile<64, D> tile[stages]; ///< Q, and then O in its place
};
struct RingState {
    uint32_t entry[stages][64];          ///< of a tile's queries; ~0 past the last
    int group[stages];                   ///< that they are of
    uint64_t full[stages], made[stages]; ///< Q and entries are there; O is
};
template <int D, int N> struct Smem {
    Keys<D, N> keys[2];
    Ring<D> ring[consumers];
    RingState state[consumers];
    int4 item[2];
    KeyBarriers key_bars[2];
};

/// The worklist, and how many items it may have.
struct Worklist {
    const int4 *items;
    unsigned n;
};
/// Item n of this CTA; past its last one no_item(). The same for a warp, of which one lane reads.
PTX_INLINE int4 item_of(const Worklist &list, int n)
{
    const unsigned at = (unsigned)n * gridDim.x + blockIdx.x;
    return at < list.n ? ld_global(list.items + at) : no_item();
}
PTX_INLINE int4 warp_item_of(const Worklist &list, int n)
{
    const int4 item = threadIdx.x % 32 == 0 ? item_of(list, n) : no_item();
    return int4{shfl(item.x, 0), shfl(item.y, 0), shfl(item.z, 0), shfl(item.w, 0)};
}
/// The first entry that consumer c takes of this CTA's item n: tiles go to the two in turns, and so does the first one.
PTX_INLINE int first_of(const Shape &s, const int4 &item, int n, int c)
{
    return item.z + (n % 2 ^ c) * queries_per_tile(s.group);
}
/// The row of the partials of an entry's first head. -1 for an entry that is none: past the last, or a gap, which ids
/// leave that name a block twice.
PTX_INLINE int row_of(const Shape &s, int group, uint32_t entry)
{
    const int query = (int)(entry >> 5), slot = (int)(entry & 31);
    return query < s.n_q && slot < s.topk ? (int)pair_at(s, query, group, slot) * s.group : -1;
}

/// One thread: K and V of an item while the one before is multiplied.
template <int D, int N>
__device__ void bring_keys(Smem<D, N> &m, const CUtensorMap *k_map, const CUtensorMap *v_map,
                           const Worklist &list)
{
    timeline_role("producer");
    for (int n = 0;; n++) {
        const int4 item = item_of(list, n);
        Keys<D, N> &keys = m.keys[n % 2];
        KeyBarriers &bars = m.key_bars[n % 2];
        mbarrier_wait(&bars.k_empty, n / 2 % 2 ^ 1);
        st_shared(&m.item[n % 2], item);
        mbarrier_arrive_expect(&bars.k_full, item.x < 0 ? 0 : sizeof keys.k); // publishes the item too
        if (item.x < 0)
            return;
        load_kv(keys.k, k_map, &bars.k_full, item.x, item.y * N);
        mbarrier_wait(&bars.v_empty, n / 2 % 2 ^ 1);
        mbarrier_arrive_expect(&bars.v_full, sizeof keys.v);
        load_kv(keys.v, v_map, &bars.v_full, item.x, item.y * N);
    }
}

/// One warp: O of a tile to its places. Then the stage may be overwritten, by each lane what it has stored.
template <int D>
PTX_INLINE void store_tile(Ring<D> &ring, RingState &state, const Shape &s, const CUtensorMap *partial_map,
                           int tile)
{
    const int lane = (int)threadIdx.x % 32, stage = tile % stages;
    mbarrier_wait(&state.made[stage], tile / stages % 2);
    for (int i = lane; i < queries_per_tile(s.group); i += 32) {
        const int row = row_of(s, ld_shared(&state.group[stage]), ld_shared(&state.entry[stage][i]));
        for (int slab = 0; slab < D / 64 && row >= 0; slab++)
            tma_store_once_2d(partial_map, ring.tile[stage].slab[slab] + 64 * i * s.group, 64 * slab, row);
    }
    bulk_commit();
    bulk_wait_read<0>();
    __syncwarp();
}

/// One warp for each consumer. A lane fetches a query's entry, then G rows of Q: the queries of a block lie anywhere
/// in the text. What becomes of these rows it stores before it fetches the next.
template <int D>
__device__ void bring_queries(Ring<D> &ring, RingState &state, const Shape &s, int c,
                              const CUtensorMap *q_map, const CUtensorMap *partial_map,
                              const uint32_t *entries, const Worklist &list)
{
    const int lane = (int)threadIdx.x % 32, per_tile = queries_per_tile(s.group);
    int4 item;
    int tile = 0;
    timeline_role("producer");
    for (int n = 0; (item = warp_item_of(list, n)).x >= 0; n++)
        for (int begin = first_of(s, item, n, c); begin < item.w; begin += consumers * per_tile, tile++) {
            const int stage = tile % stages, left = item.w - begin, here = left < per_tile ? left : per_tile;
            const uint32_t *const mine = entries + (int64_t)item.x * s.capacity * s.topk + begin;
            uint32_t entry[2]; // fetched while the stage is still in use
            for (int i = 0; i < 2; i++)
                entry[i] = lane + 32 * i < here ? ld_global(mine + lane + 32 * i) : ~0u;
            if (tile >= stages)
                store_tile(ring, state, s, partial_map, tile - stages);
            if (lane == 0)
                st_shared(&state.group[stage], item.x);
            for (int i = 0; i < 2; i++)
                st_shared(&state.entry[stage][lane + 32 * i], entry[i]);
            // Every lane arrives, with the bytes of its own queries; that publishes the entries too.
            mbarrier_arrive_expect(&state.full[stage], q_bytes<D>(s, (lane < here) + (lane + 32 < here)));
            for (int i = 0; i < 2; i++)
                if (lane + 32 * i < here)
                    load_q(ring.tile[stage], q_map, &state.full[stage], s, item.x, (int)(entry[i] >> 5),
                           (lane + 32 * i) * s.group);
        }
    for (int last = tile < stages ? 0 : tile - stages; last < tile; last++)
        store_tile(ring, state, s, partial_map, last);
}

/// Where in a tile a thread's two rows are: query and head.
struct Places {
    int query[2], head[2];
};
PTX_INLINE Places places_of(const Shape &s)
{
    Places places;
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row((int)threadIdx.x % 128, half);
        places.query[half] = row / s.group;
        places.head[half] = row % s.group;
    }
    return places;
}
/// What becomes of them.
struct Rows {
    int at[2];      ///< of the partials; -1 for none
    int visible[2]; ///< keys of the block
};
/// Waits for Q of a tile and for its entries; `first`: the key with which the block begins.
PTX_INLINE Rows wait_tile(RingState &state, const Shape &s, const Places &places, int group, int first,
                          int tile)
{
    Rows rows;
    mbarrier_wait(&state.full[tile % stages], tile / stages % 2);
    for (int half = 0; half < 2; half++) {
        const uint32_t entry = ld_shared(&state.entry[tile % stages][places.query[half]]);
        const int row = row_of(s, group, entry);
        rows.at[half] = row < 0 ? -1 : row + places.head[half];
        rows.visible[half] = s.prefix + (int)(entry >> 5) - first + 1;
    }
    return rows;
}

/// A softmax of its own for each tile: from products to P.
template <int D, int N>
PTX_INLINE Softmax weigh(float (&scores)[N / 2], uint32_t (&p)[N / 16][4], const Rows &rows)
{
    Softmax sum = softmax_init();
    float keep[2];
    auto sees = [&](int half, int column) { return column < rows.visible[half]; };
    if (warp_ballot(rows.visible[0] < N || rows.visible[1] < N))
        // [masked]
        softmax_step<true>(sum, scores, keep, scale2<D>, sees);
    // [masked]
    else
        softmax_step<false>(sum, scores, keep, scale2<D>, sees);
    pack_weights(p, scores);
    return sum;
}

/// LSE of the rows, and what O has to be multiplied by.
PTX_INLINE void finish(const Softmax &sum, const Rows &rows, float (&inverse)[2], float *lse)
{
    float row_lse[2];
    softmax_finish_part(sum, inverse, row_lse);
    for (int half = 0; half < 2; half++)
        if (threadIdx.x % 4 == 0 && rows.at[half] >= 0)
            st_global(lse + rows.at[half], row_lse[half]);
}

PTX_INLINE void release(uint64_t *barrier) ///< by each warp of a consumer
{
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(barrier);
}

/// O of this warp's rows in bf16 over its rows of Q, which nobody needs any more.
template <int D>
PTX_INLINE void put_rows(Tile<64, D> &tile, uint64_t *made, const float (&o)[D / 2],
                         const float (&inverse)[2])
{
    const int t = (int)threadIdx.x % 128, lane = t % 32;
    for (int step = 0; step < D / 16; step++) {
        uint32_t x[4];
        for (int i = 0; i < 4; i++)
            x[i] = pack_bf16(o[8 * step + 2 * i] * inverse[i % 2], o[8 * step + 2 * i + 1] * inverse[i % 2]);
        stmatrix_x4(swizzled(tile.slab[step / 4], t / 32 * 16 + lane % 16, step % 4 * 2 + lane / 16), x);
    }
    fence_proxy_async();
    release(made);
}

/// A warpgroup each. S of a tile is made while O of the tile before goes to shared memory.
template <int D, int N> __device__ void consume(Smem<D, N> &m, const Shape &s, int c, float *lse)
{
    const int step = consumers * queries_per_tile(s.group);
    const Places places = places_of(s);
    Ring<D> &ring = m.ring[c];
    RingState &state = m.state[c];
    float scores[N / 2], o[D / 2], inverse[2];
    uint32_t p[N / 16][4];
    int tile = 0;
    timeline_role("consumer");
    for (int n = 0;; n++) {
        Keys<D, N> &keys = m.keys[n % 2];
        KeyBarriers &bars = m.key_bars[n % 2];
        mbarrier_wait(&bars.k_full, n / 2 % 2);
        const int4 item = ld_shared(&m.item[n % 2]);
        if (item.x < 0)
            return;
        if (ends_in_padding(s, item.y * N, N)) { // rarely
            mbarrier_wait(&bars.v_full, n / 2 % 2);
            clear_rows<128 * consumers>(keys.v, s.n_kv - item.y * N, (int)threadIdx.x - 128);
            bar_sync(1, 128 * consumers);
        }
        int begin = first_of(s, item, n, c);
        if (begin < item.w) {
            Rows rows = wait_tile(state, s, places, item.x, item.y * N, tile);
            issue_scores<N>(scores, ring.tile[tile % stages], keys.k); // the first, which nothing hides
            wgmma_wait<0>();
            wgmma_pin(scores);
            Softmax sum = weigh<D, N>(scores, p, rows);
            mbarrier_wait(&bars.v_full, n / 2 % 2);
            for (; begin + step < item.w; begin += step, tile++) {
                issue_values(o, p, keys.v, false);
                finish(sum, rows, inverse, lse);
                rows = wait_tile(state, s, places, item.x, item.y * N, tile + 1);
                issue_scores<N>(scores, ring.tile[(tile + 1) % stages], keys.k);
                wgmma_wait<1>(); // O is there
                wgmma_pin(o);
                wgmma_pin(p);
                put_rows(ring.tile[tile % stages], &state.made[tile % stages], o, inverse);
                wgmma_wait<0>();
                wgmma_pin(scores);
                sum = weigh<D, N>(scores, p, rows);
            }
            release(&bars.k_empty);
            issue_values(o, p, keys.v, false);
            finish(sum, rows, inverse, lse);
            wgmma_wait<0>();
            wgmma_pin(o);
            wgmma_pin(p);
            release(&bars.v_empty);
            put_rows(ring.tile[tile % stages], &state.made[tile % stages], o, inverse);
            tile++;
        } else { // all tiles are the other's
            release(&bars.k_empty);
            mbarrier_wait(&bars.v_full, n / 2 % 2); // else this may count for the item before
            release(&bars.v_empty);
        }
    }
}

template <int D, int N>
__global__ void __launch_bounds__(threads, 1)
    partials(Shape s, const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
             const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap partial_map,
             const uint32_t *entries, Worklist list, float *lse)
{
    Smem<D, N> &m = shared<Smem<D, N>>();
    // A reduction of equal values tells the compiler that it is uniform.
    const int warp = (int)warp_max(threadIdx.x / 32), c = warp / 4 - 1; // consumer, or -1
    if (closed(s.gate))
        return;
    s = actual(s);
    prefetch_maps(q_map, k_map, v_map, partial_map);
    if (threadIdx.x == 0) {
        for (KeyBarriers &bars : m.key_bars) {
            mbarrier_init(&bars.k_full, 1);
            mbarrier_init(&bars.v_full, 1);
            mbarrier_init(&bars.k_empty, 4 * consumers); // warps
            mbarrier_init(&bars.v_empty, 4 * consumers);
        }
        for (RingState &state : m.state)
            for (int i = 0; i < stages; i++) {
                mbarrier_init(&state.full[i], 32);
                mbarrier_init(&state.made[i], 4);
            }
        fence_mbarrier_init();
    }
    for (int i = 0; i < stages && c >= 0; i++) // rows that no query fills
        clear_rows(m.ring[c].tile[i], 0, (int)threadIdx.x % 128);
    __syncthreads();
    if (c >= 0) {
        setmaxnreg_inc<232>();
        consume(m, s, c, lse);
    } else {
        setmaxnreg_dec<40>();
        if (warp < consumers)
            bring_queries(m.ring[warp], m.state[warp], s, warp, &q_map, &partial_map, entries, list);
        else if (threadIdx.x == 32 * consumers)
            bring_keys(m, &k_map, &v_map, list);
    }
    grid_launch_dependents();
}

/* ---- The stage ------------------------------------------------------------------------------------- */

template <int D, int N> msa_status run_chunk(const Call &c)
{
    const Shape &s = c.s;
    const Scratch w = layout(s, D, c.work);
    const int64_t rows = (int64_t)s.n_q * s.n_heads * s.topk, items = reverse_items(s);
    const int sms = device_sms();
    CUtensorMap q, k, v, partial;
    if (q_map(&q, s, c.a.q, D, 1) != MSA_OK || kv_map(&k, s, c.a.k, D, N) != MSA_OK ||
        kv_map(&v, s, c.a.v, D, N) != MSA_OK || rows_map(&partial, w.partial, D, rows, s.group) != MSA_OK)
        return MSA_ERR_DEVICE;
    ON_SIDE(reverse, launch)(s, c.a.ids, w.first, w.entries, w.items, w.reverse, c.stream);
    LAUNCH((partials<D, N>), dim3((unsigned)(items < sms ? items : sms)), dim3(threads), sizeof(Smem<D, N>),
           c.stream, s, q, k, v, partial, w.entries, Worklist{(const int4 *)w.items, (unsigned)items}, w.lse);
    launch_combine<D>(c, w.partial, w.lse);
    return MSA_OK;
}

/// The call with this kernel's own items: of so many tiles.
Call tiled(const Call &c)
{
    return with_items(c, tuned(MSA_TUNE_kv_outer_item) * queries_per_tile(c.s.group));
}

/// Queries of a chunk: a chunk reads K and V again, so long prompts have longer ones.
int chunk_length(const Call &c)
{
    const int least = tuned(MSA_TUNE_kv_outer_chunk), most = tuned(MSA_TUNE_kv_outer_chunk_most);
    return std::min({c.s.n_q, std::max(least, c.s.n_kv / 64), most});
}

size_t workspace(const Call &call) // of the largest chunk: the last
{
    const Call c = tiled(call);
    const int n = chunk_length(c);
    return n > 0 ? layout(chunk_of(c, c.s.n_q - n, n).s, c.d_head, nullptr).bytes : 0;
}

msa_status run(const Call &call)
{
    const Call c = tiled(call);
    msa_status status = MSA_OK;
    const int step = chunk_length(c);
    for (int q0 = 0; q0 < c.s.n_q && status == MSA_OK; q0 += step) {
        const Call part = chunk_of(c, q0, c.s.n_q - q0 < step ? c.s.n_q - q0 : step);
        with_int<64, 128>(c.d_head, [&](auto d) {
            with_int<32, 64, 128>(c.s.block, [&](auto n) { status = run_chunk<d.value, n.value>(part); });
        });
    }
    return status;
}

} // namespace

ENTRY(sparse, kv_outer, run, workspace);
