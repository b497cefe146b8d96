/**
 * @file settle.cuh
 * @brief Candidates turned around, block after block: the rows that ask for a block are gathered, 128 at a time, and
 *        meet its full keys in the products of 4_fused.cu, so that their scores are its scores.
 */
#ifndef MSA_INDEX_SETTLE_CUH
#define MSA_INDEX_SETTLE_CUH

#include "screen.cuh"

namespace
{

/// A pair of a row and a candidate of it is numbered list * most + place.
struct Turned {
    int32_t *next;   ///< [B]: where the next pair of a block goes
    uint32_t *pairs; ///< those of one block side by side
    int4 *tiles;     ///< block, first pair, how many: at most 128
};
constexpr int tile_pairs = 128, turn_threads = 256, settle_threads = 256;

MSA_BOTH_SIDES inline int64_t most_tiles(int64_t pairs, int64_t blocks)
{
    return pairs / tile_pairs + blocks;
}

/// Gives every block a place for its pairs, and tiles; in which order does not matter. A thread a block.
__global__ void __launch_bounds__(turn_threads) allot(Shape s, Lists8 lists, Turned turned)
{
    s = actual(s);
    const int b = (int)(blockIdx.x * turn_threads + threadIdx.x);
    grid_wait();
    const int n = b < s.n_blocks ? ld_global(lists.asked + b) : 0;
    if (n == 0)
        return;
    const int first = atomicAdd(lists.totals + total_pairs, n), tiles = ceil_div(n, tile_pairs),
              tile = atomicAdd(lists.totals + total_tiles, tiles);
    st_global(turned.next + b, first);
    for (int i = 0; i < tiles; i++) {
        const int left = n - i * tile_pairs;
        st_global(turned.tiles + tile + i,
                  int4{b, first + i * tile_pairs, left < tile_pairs ? left : tile_pairs, 0});
    }
}

/// A warp a list.
__global__ void __launch_bounds__(turn_threads) turn(Shape s, Lists8 lists, Turned turned)
{
    s = actual(s);
    const int number = (int)(blockIdx.x * (turn_threads / 32) + threadIdx.x / 32);
    grid_wait();
    const bool there = number < lists.parts * lists.rows && number % lists.rows < n_rows(s);
    const int n = there ? ld_global(lists.n + number) : 0;
    const Candidate *list = lists.candidate + (int64_t)number * lists.most;
    for (int i = (int)threadIdx.x % 32; i < n; i += 32)
        st_global(turned.pairs + atomicAdd(turned.next + ld_global(&list[i].block), 1),
                  (uint32_t)number * (uint32_t)lists.most + (uint32_t)i);
}

/// Rows row(0 .. n-1) of x [.., D] to tiles of 64, the rest zeros, by `threads` threads t; then fence_proxy_async() of
/// each, which this ends with, and a barrier.
template <int threads, int tiles, int D, class Row>
PTX_INLINE void gather_rows(Tile<64, D> *tile, const bf16 *x, int n, int t, Row row)
{
    constexpr int pieces = D / 8; // of 16 bytes, a row
    for (int i = t; i < 64 * tiles * pieces; i += threads) {
        const int to = i / pieces, column = i % pieces * 8, piece = column % 64 / 8 ^ to % 8;
        cp_async_16(&tile[to / 64].slab[column / 64][to % 64 * 64 + 8 * piece],
                    to < n ? x + (int64_t)row(to) * D + column : x, to < n ? 16 : 0);
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
}

template <int D, int Block> struct SettleSmem {
    Tile<64, D> q[tile_pairs / 64];
    Tile<Block, D> k;
    uint32_t pair[tile_pairs];
    uint64_t full;
};

/// As many CTAs as fit take tiles in turn.
template <int D, int Block>
__global__ void __launch_bounds__(settle_threads, 2)
    settle(const __grid_constant__ CUtensorMap key_map, const bf16 *qi, Lists8 lists, Turned turned)
{
    SettleSmem<D, Block> &m = shared<SettleSmem<D, Block>>();
    const int t = (int)threadIdx.x;
    if (t == 0) {
        mbarrier_init(&m.full, 1);
        fence_mbarrier_init();
    }
    grid_wait();
    __syncthreads();
    const int tiles = ld_global(lists.totals + total_tiles);
    unsigned parity = 0;
    for (int n = (int)blockIdx.x; n < tiles; n += (int)gridDim.x, parity ^= 1) {
        int4 tile = {};
        if (t % 32 == 0)
            tile = ld_global(turned.tiles + n);
        tile = {shfl(tile.x, 0), shfl(tile.y, 0), shfl(tile.z, 0), 0};
        if (t == 0) {
            mbarrier_arrive_expect(&m.full, sizeof m.k);
            load_kv(m.k, &key_map, &m.full, 0, tile.x * Block);
        }
        if (t < tile.z)
            st_shared(&m.pair[t], ld_global(turned.pairs + tile.y + t));
        __syncthreads();
        gather_rows<settle_threads, tile_pairs / 64>(m.q, qi, tile.z, t, [&](int row) {
            return ld_shared(&m.pair[row]) / (uint32_t)lists.most % (uint32_t)lists.rows;
        });
        __syncthreads();
        mbarrier_wait(&m.full, parity);
        float x[Block / 2];
        issue_scores<Block>(x, m.q[t / 128], m.k);
        wgmma_wait<0>();
        wgmma_pin(x);
        for (int half = 0; half < 2; half++) {
            const int row = t / 128 * 64 + fragment_d(t % 128, 2 * half).row;
            const float maximum = row_max<Block>(x, half, Block - 1);
            if (t % 4 == 0 && row < tile.z)
                st_global(&lists.candidate[ld_shared(&m.pair[row])].value, maximum);
        }
        __syncthreads(); // the next tile comes where this one's products have read
    }
}

/* ---- Rows with too many candidates: 4_fused.cu's way ----------------------------------------------------- */

/// The fallen rows of this CTA, and all blocks.
PTX_INLINE Span fallen_span(const Shape &s, const Lists8 &lists)
{
    const int fallen = ld_global(lists.totals + total_fallen), row0 = (int)blockIdx.x * rows;
    return {row0, row0 + rows < fallen ? row0 + rows : fallen, 0, s.n_blocks};
}

template <int D, int Block>
__global__ void __launch_bounds__(stream_threads, 1)
    all_blocks(Shape s, const __grid_constant__ CUtensorMap key_map, const bf16 *qi, Lists8 lists,
               int32_t *ids)
{
    s = actual(s);
    Smem<D, Block, false> &smem = shared<Smem<D, Block, false>>();
    auto &m = smem.stream;
    grid_wait();
    Span span = fallen_span(s, lists);
    if (span.row0 >= span.end)
        return;
    prefetch_maps(key_map);
    ring_init(m);
    if (threadIdx.x >= consumer_threads) {
        if (elect_one())
            produce_keys(m, &key_map, span);
        return;
    }
    const int consumer = (int)threadIdx.x / 128, first = 128 * consumer;
    timeline_role("consumer");
    gather_rows<128, 2>(&m.q[2 * consumer], qi, span.end - span.row0 - first, (int)threadIdx.x % 128,
                        [&](int row) { return row_of(span, first + row, lists.fallen); });
    bar_sync(1 + (unsigned)consumer, 128);
    Rows a0 = rows_init(smem.lists, s, span, first, lists.fallen),
         a1 = rows_init(smem.lists, s, span, first + 64, lists.fallen);
    keep_best(s, smem, span, a0, a1);
    span = fallen_span(s, lists); // rather than kept in registers meanwhile
    write<D, Block>(smem.lists, 0, a0, s, span, ids, nullptr, lists.fallen);
    write<D, Block>(smem.lists, 1, a1, s, span, ids, nullptr, lists.fallen);
}

} // namespace

#endif
