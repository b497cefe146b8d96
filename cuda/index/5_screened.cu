/**
 * @file 5_screened.cu
 * @brief The selection of 4_fused.cu, id by id, from products of 8-bit codes: full keys only where these do not decide.
 *
 * Idea: ref/index8.c. Codes stream past in 4_fused's ring, at twice its rate; of a block's products a row needs the
 * largest. What its bounds do not rule out goes to the row's list, which is filtered when it is full and by the last tau.
 * Then lists are turned around: a block's full keys once for 128 rows that ask for them, in 4_fused's products. A row
 * whose list stays full goes 4_fused's way.
 * Bytes: codes: 4 di + di a key, 12 a block; screening: 2 di a row, di a key and 96 a block for each 256 rows. A
 * candidate: 8 to store it, 8 to filter, 16 to turn, 4 + 2 di to settle, 4 for its score, 8 to choose; 2 di a key of
 * a block for each 128 of its candidates. 4 k of ids a row.
 * Floor: 2 di operations a visible key, query and group at 8192 a clock and SM, half of 4_fused's time.
 * Estimate: at M3's sizes 0.47 s for 1M tokens, where 4_fused takes 0.73 and 1 % of the blocks are candidates: 0.42 to
 * screen, 0.04 to settle, by L2. At 128K, where 8 % are, about its 11 ms, and below that more.
 * Waste: rotations in double while no tensor core works, 1 % at 128K; five candidates of an early tau for each that stays;
 * few rows leave SMs idle, since no CTAs share a row's keys; scores and LSE are not to be had.
 * Dropped: settling by a CTA for its own 256 rows: 2 or 3 ask for a block, and its keys cost more than screening does.
 */
#include "../kit/selection.cuh"
#include "settle.cuh"

namespace
{

/* ---- Codes of keys --------------------------------------------------------------------------------------- */

PTX_INLINE void reset(const Lists8 &lists, int n_blocks)
{
    const int first = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    for (int i = first; i < n_blocks; i += (int)(gridDim.x * blockDim.x))
        st_global(lists.asked + i, 0);
    if (first < 3)
        st_global(lists.totals + first, 0);
}

constexpr int code_warps = 8;

/// A CTA a block.
template <int D>
__global__ void __launch_bounds__(32 * code_warps)
    prepare(Shape s, const bf16 *ki, Copy8 copy, bool make, Lists8 lists)
{
    s = actual(s);
    reset(lists, s.n_blocks);
    const int64_t first = (int64_t)blockIdx.x * s.block * D;
    if (make && ((int)blockIdx.x + 1) * s.block <= s.n_kv) // only complete blocks have codes
        make_codes<D>(shared<BlockNumbers<code_warps>>(), ki + first, s.block, copy.codes + first, copy,
                      blockIdx.x);
}

/* ---- Screening ------------------------------------------------------------------------------------------- */

template <int D, int Block>
PTX_INLINE void make_queries(Screen<D, Block> &m, const Span &span, const bf16 *qi)
{
    const int warp = (int)threadIdx.x / 32;
    for (int row = 32 * warp; row < 32 * warp + 32; row++) { // of the consumer that the warp belongs to
        const int of = span.row0 + row < span.end ? span.row0 + row : span.row0;
        const RowNumbers numbers = make_query(m.q[row / 64], row % 64, qi + (int64_t)of * D);
        if (threadIdx.x % 32 == 0)
            st_shared(&m.numbers[row], numbers);
    }
    fence_proxy_async();
    bar_sync(1 + (unsigned)warp / 4, 128);
}

template <int D, int Block>
PTX_INLINE void screen_rows(const Shape &s, Screen<D, Block> &m, const Span &span, const Copy8 &copy,
                            const Lists8 &lists)
{
    const int part = (int)threadIdx.x / 128 * 2, lane = (int)threadIdx.x % 32, keep = s.topk - 1;
    Screened a0 = screened_init(m, s, span, 64 * part), a1 = screened_init(m, s, span, 64 * part + 64);
    int32_t x0[Block / 2], x1[Block / 2];
    Numbers next = {};
    for (int n = 0; n < span.n_tiles; n++) {
        if (n % 32 == 0 && n + lane < span.n_tiles) // a lane has those of one of 32 blocks
            next = {ld_global(copy.scale + n + lane), ld_global(copy.reach + n + lane),
                    ld_global(copy.error + n + lane)};
        const Numbers numbers = {shfl(next.scale, n % 32), shfl(next.reach, n % 32),
                                 shfl(next.error, n % 32)};
        const CodeTile<Block, D> &keys = wait_stage(m, n);
        issue_codes<Block, D>(x0, m.q[part].x, keys.x);
        issue_codes<Block, D>(x1, m.q[part + 1].x, keys.x);
        wgmma_wait<1>(); // as in keep_best()
        wgmma_pin(x0);
        screen_block<D, Block>(m, lists, a0, x0, numbers, n, span.row0, keep);
        wgmma_wait<0>();
        wgmma_pin(x1);
        release_stage(m, n);
        screen_block<D, Block>(m, lists, a1, x1, numbers, n, span.row0, keep);
    }
    finish(lists, a0, span);
    finish(lists, a1, span);
}

template <int D, int Block>
__global__ void __launch_bounds__(stream_threads, 1)
    screen(Shape s, const __grid_constant__ CUtensorMap code_map, int at, const bf16 *qi, Copy8 copy,
           Lists8 lists)
{
    s = actual(s);
    Screen<D, Block> &m = shared<Screen<D, Block>>();
    Span span = span_of<rows>(s);
    if (span.row0 >= span.end) {
        grid_wait(); // a grid that ends before prepare() would let the next one begin
        return;
    }
    span.n_tiles = s.topk > 1 ? span.n_tiles - 1 : 0; // not the last row's local block
    ring_init(m);
    if (threadIdx.x < consumer_threads) {
        timeline_role("consumer");
        make_queries(m, span, qi);
        grid_wait();
        screen_rows(s, m, span, copy, lists);
    } else if (elect_one()) {
        grid_wait();
        produce_keys(m, &code_map, span, at);
    }
    grid_launch_dependents();
}

/* ---- Choosing -------------------------------------------------------------------------------------------- */

constexpr int select_warps = 4;

/// A warp a row: the best of its candidates, now that these have scores.
__global__ void __launch_bounds__(32 * select_warps)
    choose(Shape s, Lists8 lists, int32_t *ids, msa_screening *done)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * select_warps + threadIdx.x / 32;
    grid_wait();
    reset(lists, s.n_blocks); // for the next chunk
    if (row >= n_rows(s))
        return;
    const int local = position_of(s, row) / s.block, n = ld_global(lists.n + row);
    if (done && threadIdx.x % 32 == 0)
        count_row(s, local, n, done);
    if (n < 0)
        return; // all_blocks() has
    WarpList list = warp_list(s.topk, local);
    offer_all(list, 0, 32, n, [&](int i) {
        const Candidate c = ld_global(lists.candidate + row * lists.most + i);
        return rank_key(c.value, c.block);
    });
    write_ids(ids + row_at(s, row / s.n_kv_heads, (int)(row % s.n_kv_heads)) * s.topk, list.entry, s.topk);
}

/* ---- Host ------------------------------------------------------------------------------------------------ */

struct Scratch {
    Copy8 copy;
    Lists8 lists;
    Turned turned;
    size_t bytes;
};

/// Rows that go in one go, so that their lists fit: of M3's sizes 256 CTAs of screening, twice as many as there are SMs.
int chunk_length(const Shape &s)
{
    const int most = 65536 / s.n_kv_heads, n = most < longest_chunk() ? most : longest_chunk();
    return n < 1 ? 1 : n < s.n_q ? n : s.n_q;
}

Scratch layout(const Call &c)
{
    const Shape &s = c.s;
    const int64_t n = (int64_t)chunk_length(s) * s.n_kv_heads;
    Carve carve = {(uintptr_t)c.work};
    Scratch w;
    w.copy.codes = carve.take<int8_t>((int64_t)s.n_kv * c.d_index);
    w.copy.scale = carve.take<float>(s.n_blocks);
    w.copy.reach = carve.take<float>(s.n_blocks);
    w.copy.error = carve.take<float>(s.n_blocks);
    w.lists.most = s.n_blocks < most_candidates ? s.n_blocks : most_candidates;
    w.lists.candidate = carve.take<Candidate>(n * w.lists.most);
    w.lists.n = carve.take<int32_t>(n);
    w.lists.fallen = carve.take<int32_t>(n);
    w.lists.asked = carve.take<int32_t>(s.n_blocks);
    w.lists.totals = carve.take<int32_t>(3);
    w.turned.next = carve.take<int32_t>(s.n_blocks);
    w.turned.pairs = carve.take<uint32_t>(n * w.lists.most);
    w.turned.tiles = carve.take<int4>(most_tiles(n * w.lists.most, s.n_blocks));
    w.bytes = carve.used;
    return w;
}

size_t workspace(const Call &c)
{
    return layout(c).bytes;
}

/// Its maps: of codes, which start with row `at`, and of keys.
template <int D, int Block> struct Maps8 {
    CUtensorMap codes, keys;
    int at;
};

template <int D, int Block> void run_chunk(const Call &c, const Scratch &w, const Maps8<D, Block> &maps)
{
    const Shape &s = c.s;
    const int64_t n = n_rows(s);
    const auto ctas = [](int64_t things, int64_t each) { return dim3((unsigned)ceil_div(things, each)); };
    LAUNCH_DEPENDENT((screen<D, Block>), ctas(n, rows), dim3(stream_threads), sizeof(Screen<D, Block>),
                     c.stream, s, maps.codes, maps.at, c.a.qi, w.copy, w.lists);
    LAUNCH_DEPENDENT(allot, ctas(s.n_blocks, turn_threads), dim3(turn_threads), 0, c.stream, s, w.lists,
                     w.turned);
    LAUNCH_DEPENDENT(turn, ctas(n, turn_threads / 32), dim3(turn_threads), 0, c.stream, s, w.lists, w.turned);
    const int64_t tiles = most_tiles(n * w.lists.most, s.n_blocks), at_once = 2 * device_sms();
    LAUNCH_DEPENDENT((settle<D, Block>), dim3((unsigned)(tiles < at_once ? tiles : at_once)),
                     dim3(settle_threads), sizeof(SettleSmem<D, Block>), c.stream, maps.keys, c.a.qi, w.lists,
                     w.turned);
    LAUNCH_DEPENDENT((all_blocks<D, Block>), ctas(n, rows), dim3(stream_threads),
                     sizeof(Smem<D, Block, false>), c.stream, s, maps.keys, c.a.qi, w.lists, c.a.ids);
    LAUNCH_DEPENDENT(choose, ctas(n, select_warps), dim3(32 * select_warps), 0, c.stream, s, w.lists, c.a.ids,
                     c.a.screening);
}

template <int D, int Block> msa_status run_chunks(const Call &c, Scratch w)
{
    Maps8<D, Block> maps;
    if (c.a.copy.codes)
        w.copy = c.a.copy;
    if (codes_map<D>(&maps.codes, &maps.at, w.copy.codes, c.s.n_kv, Block) != MSA_OK ||
        vectors_map(&maps.keys, c.a.ki, c.s.n_kv, D, Block) != MSA_OK)
        return MSA_ERR_DEVICE;
    LAUNCH((prepare<D>), dim3((unsigned)c.s.n_blocks), dim3(32 * code_warps), sizeof(BlockNumbers<code_warps>), c.stream,
           c.s, c.a.ki, w.copy, !c.a.copy.codes, w.lists);
    const int step = chunk_length(c.s);
    for (int q0 = 0; q0 < c.s.n_q; q0 += step)
        run_chunk<D, Block>(chunk_of(c, q0, c.s.n_q - q0 < step ? c.s.n_q - q0 : step), w, maps);
    return MSA_OK;
}

msa_status run(const Call &c)
{
    if (!c.a.ids || c.a.scores || c.a.index_lse || n_rows(c.s) > INT32_MAX / 2)
        return MSA_ERR_UNSUPPORTED;
    msa_status status = MSA_OK;
    const Scratch w = layout(c);
    with_int<64, 128>(c.d_index, [&](auto d) {
        with_int<32, 64, 128>(c.s.block,
                              [&](auto block) { status = run_chunks<d.value, block.value>(c, w); });
    });
    return status;
}

} // namespace

ENTRY(index, screened, run, workspace);
