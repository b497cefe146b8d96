/**
 * @file 4_hopper.cu
 * @brief Dense causal GQA as Hopper wants it: TMA, wgmma, warpgroups with different tasks.
 *
 * Idea: a producer fills a ring of tiles of 128 keys; two consumers own 64 rows each, 64 / G queries times the
 * G heads of a group. A consumer has S of tile j and O += P V of tile j - 1 under way at once and takes the
 * exponentials of S meanwhile; the two take turns to issue products (ping-pong).
 * Bytes: Q and O once; of K and V, each 2 (64 / G) queries read what they see, in whole tiles of 128 keys.
 * Floor: 4 Hq dh operations a visible pair at wgmma's 4096 a clock and SM. L2 is nearer: 32 bytes a clock at
 * dh 128.
 * Estimate: at M3's sizes 0.43 to 0.46 s for 128K tokens, 28 to 29 s for 1M.
 * Waste: a CTA's start and end, which no other CTA's products cover; the masked part of tiles on the diagonal;
 * rows 64 / G * G .. 63 of a tile; most of the GPU if queries are few. Design notes: chapter 12.
 */
#include "../kit/attend.cuh"

namespace
{

constexpr int tile_keys = 128, stages = 3, consumers = 2, threads = 128 * (1 + consumers);

/// Tiles of K or of V on their way from TMA to the consumers. Tile j uses stage j % stages for the j / stages-th
/// time, which is what the parities below count: `full` completes when the bytes have landed, `empty` when both
/// consumers have released the stage.
template <int D> struct Ring {
    Tile<tile_keys, D> tile[stages];
    uint64_t full[stages], empty[stages];
};
template <int D> struct Smem {
    Tile<64, D> q[consumers];
    Ring<D> k, v;
    uint64_t full_q, padded_v;
};

template <int D> PTX_INLINE void ring_init(Ring<D> &ring)
{
    for (int i = 0; i < stages; i++) {
        mbarrier_init(&ring.full[i], 1);
        mbarrier_init(&ring.empty[i], 4 * consumers); // a warp arrives for itself
    }
}
// [ring]
template <int D> PTX_INLINE void load_stage(Ring<D> &ring, int j, const CUtensorMap *map, int r)
{
    mbarrier_wait(&ring.empty[j % stages], j / stages % 2 ^ 1); // passes at once in the first round
    mbarrier_arrive_expect(&ring.full[j % stages], sizeof ring.tile[0]);
    load_kv(ring.tile[j % stages], map, &ring.full[j % stages], r, j * tile_keys);
}
template <int D> PTX_INLINE const Tile<tile_keys, D> &wait_stage(Ring<D> &ring, int j)
{
    mbarrier_wait(&ring.full[j % stages], j / stages % 2);
    return ring.tile[j % stages];
}
// [ring]
/// A consumer warp has waited for its products of tile j.
template <int D> PTX_INLINE void release_stage(Ring<D> &ring, int j)
{
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(&ring.empty[j % stages]);
}

/// Of V the last tile, where it ends in padding. The whole warp calls it.
template <int D>
PTX_INLINE void load_last_stage(Smem<D> &smem, int j, const CUtensorMap *map, const Shape &s, int r)
{
    mbarrier_wait(&smem.v.empty[j % stages], j / stages % 2 ^ 1);
    load_last_values(smem.v.tile[j % stages], map, &smem.padded_v, r, j * tile_keys, s.n_kv);
    if (threadIdx.x == 0)
        mbarrier_arrive(&smem.v.full[j % stages]);
}

/// The 64 rows of consumer c of this block.
struct Rows {
    int n_queries, first; ///< queries first .. first + n_queries - 1, of which some may be past the last
    int full;             ///< keys that all rows see
    int tiles;            ///< key tiles that some row sees
};

PTX_INLINE Rows rows_of(const Shape &s, int c)
{
    Rows rows;
    rows.n_queries = queries_per_tile(s.group);
    rows.first = ((int)(gridDim.x - 1 - blockIdx.x) * consumers + c) * rows.n_queries;
    rows.full = s.prefix + rows.first + 1;
    const int end = rows.full + rows.n_queries - 1;
    rows.tiles = ceil_div(end < s.n_kv ? end : s.n_kv, tile_keys);
    return rows;
}

template <int D>
PTX_INLINE void produce(const Shape &s, Smem<D> &smem, const CUtensorMap *map_q, const CUtensorMap *map_k,
                        const CUtensorMap *map_v)
{
    timeline_role("producer");
    const int r = (int)blockIdx.y;
    const Rows last = rows_of(s, consumers - 1);
    const uint32_t bytes = q_bytes<D>(s, last.n_queries);
    const int padded = last.tiles - ends_in_padding(s, (last.tiles - 1) * tile_keys, tile_keys);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&smem.full_q, last.first < s.n_q ? 2 * bytes : bytes);
        for (int c = 0; c < consumers; c++)
            if (rows_of(s, c).first < s.n_q)
                load_q(smem.q[c], map_q, &smem.full_q, s, r, rows_of(s, c).first);
        for (int j = 0; j < last.tiles; j++) { // K before V: S of a tile needs no V yet
            load_stage(smem.k, j, map_k, r);
            if (j < padded)
                load_stage(smem.v, j, map_v, r);
        }
    }
    __syncwarp();
    if (padded < last.tiles)
        load_last_stage(smem, padded, map_v, s, r);
}

template <int D, class Out> PTX_INLINE void consume(const Shape &s, Smem<D> &smem, int c, Out *o, float *lse)
{
    timeline_role("consumer");
    const int t = (int)threadIdx.x % 128, r = (int)blockIdx.y;
    const Rows mine = rows_of(s, c), other = rows_of(s, 1 - c);
    int last[2]; // key that the thread's rows see
    for (int half = 0; half < 2; half++)
        last[half] = s.prefix + mine.first + fragment_row(t, half) / s.group;
    Softmax softmax = softmax_init();
    float acc[D / 2] = {}, x[tile_keys / 2], keep[2];
    uint32_t p[tile_keys / 16][4];
    auto weigh = [&](int j) {
        auto visible = [&](int half, int column) { return j * tile_keys + column <= last[half]; };
        if ((j + 1) * tile_keys > mine.full)
            // [masked]
            softmax_step<true>(softmax, x, keep, scale2<D>, visible);
            // [masked]
        else
            softmax_step<false>(softmax, x, keep, scale2<D>, visible);
    };
    if (c == 1 && other.tiles > 1)
        bar_arrive(turn(0), 256); // consumer 0 begins
    // Prologue: S and P of tile 0, with nothing to hide them under.
    mbarrier_wait(&smem.full_q, 0);
    issue_scores<tile_keys>(x, smem.q[c], wait_stage(smem.k, 0));
    wgmma_wait<0>();
    wgmma_pin(x);
    release_stage(smem.k, 0);
    weigh(0);
    pack_weights(p, x);
    // Tile j's S and tile j - 1's P V are under way together (chapter 12).
    // [turns]
    for (int j = 1; j < mine.tiles; j++) {
        const Tile<tile_keys, D> &k = wait_stage(smem.k, j), &v = wait_stage(smem.v, j - 1);
        bar_sync(turn(c), 256); // until the other has issued its products
        issue_scores<tile_keys>(x, smem.q[c], k);
        issue_values(acc, p, v, true);
        if (j + c < other.tiles)
            bar_arrive(turn(1 - c), 256);
        wgmma_wait<1>(); // S is there, P V may go on
        wgmma_pin(x);
        release_stage(smem.k, j);
        weigh(j);        // exponentials, under P V and under the other's products
        wgmma_wait<0>(); // P V of tile j - 1
        wgmma_pin(acc);
        wgmma_pin(p);
        release_stage(smem.v, j - 1);
        rescale(acc, keep); // O so far, to the maximum with tile j in it
        pack_weights(p, x);
    }
    // [turns]
    // Consumer 1 may see one tile more. Nobody waits for that one's stage in the ring, but 1 for its turn.
    if (c == 0 && other.tiles > mine.tiles)
        bar_arrive(turn(1), 256);
    issue_values(acc, p, wait_stage(smem.v, mine.tiles - 1), true); // P V of the last tile
    wgmma_wait<0>();
    wgmma_pin(acc);
    release_stage(smem.v, mine.tiles - 1);
    float inverse[2], z[2];
    softmax_finish(softmax, inverse, z);
    int64_t at[2]; // number of the row in LSE, -1 for none
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row(t, half), i = mine.first + row / s.group;
        at[half] =
            row < mine.n_queries * s.group && i < s.n_q ? lse_at(s, i, r * s.group + row % s.group) : -1;
        if (lse && t % 4 == 0 && at[half] >= 0)
            st_global(lse + at[half], z[half]);
    }
    write_rows<Out>(acc, inverse, [&](int half) { return at[half] < 0 ? nullptr : o + at[half] * D; });
}

template <int D, class Out>
__global__ void __launch_bounds__(threads, 1)
    hopper(Shape s, const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
           const __grid_constant__ CUtensorMap map_v, Out *o, float *lse)
{
    s = actual(s);
    Smem<D> &smem = shared<Smem<D>>();
    // A reduction of equal values tells the compiler that it is uniform: 474 instructions a tile, else 526.
    const int c = (int)warp_max(threadIdx.x / 128) - 1; // consumer, or -1
    if (rows_of(s, 0).first >= s.n_q)
        return;
    prefetch_maps(map_q, map_k, map_v);
    if (threadIdx.x == 0) {
        mbarrier_init(&smem.full_q, 1);
        mbarrier_init(&smem.padded_v, 1);
        ring_init(smem.k);
        ring_init(smem.v);
        fence_mbarrier_init();
    }
    if (c >= 0) {
        const Rows mine = rows_of(s, c);
        clear_rows(smem.q[c], mine.first < s.n_q ? mine.n_queries * s.group : 0, (int)threadIdx.x % 128);
    }
    __syncthreads();
    if (c < 0) {
        setmaxnreg_dec<24>();
        if (threadIdx.x < 32)
            produce(s, smem, &map_q, &map_k, &map_v);
    } else {
        setmaxnreg_inc<240>();
        consume(s, smem, c, o, lse);
    }
}

msa_status run(const Call &c)
{
    const int n_queries = queries_per_tile(c.s.group);
    CUtensorMap q, k, v;
    msa_status status = q_map(&q, c.s, c.a.q, c.d_head, n_queries);
    if (status == MSA_OK)
        status = kv_map(&k, c.s, c.a.k, c.d_head, tile_keys);
    if (status == MSA_OK)
        status = kv_map(&v, c.s, c.a.v, c.d_head, tile_keys);
    if (status != MSA_OK)
        return status;
    const dim3 grid((unsigned)ceil_div(c.s.n_q, consumers * n_queries), (unsigned)c.s.n_kv_heads);
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH((hopper<d.value, std::remove_pointer_t<decltype(o)>>), grid, dim3(threads),
                   sizeof(Smem<d.value>), c.stream, c.s, q, k, v, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(dense, hopper, run, no_workspace);
