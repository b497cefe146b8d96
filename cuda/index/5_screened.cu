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
 * Estimate: at M3's sizes 0.47 s for 1M tokens, where 4_fused takes 0.86, both at 85 % of the product rate, and 1 % of
 * the blocks are candidates: 0.43 to screen, 0.04 to settle, by L2. 4096 queries at 1M: 2.4 ms to screen, two CTAs to a
 * row. At 128K, where 8 % are candidates, about 4_fused's 13 ms, and below that more.
 * Waste: rotations in double while no tensor core works, 1 % at 128K; five candidates of an early tau for each that stays;
 * scores and LSE are not to be had.
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
PTX_INLINE void screen_rows(const Shape &s, Screen<D, Block> &m, const Span &span, const Copy8 &copy,
                            const Lists8 &lists)
{
    const int part = (int)threadIdx.x / 128 * 2, lane = (int)threadIdx.x % 32, keep = s.topk - 1;
    const int n_tiles = span.n_tiles;
    const uint64_t rows0 = uniform(codes_at<D>(m.q[part].x)), rows1 = uniform(codes_at<D>(m.q[part + 1].x));
    Screened a0 = screened_init(m, s, span, 64 * part), a1 = screened_init(m, s, span, 64 * part + 64);
    int32_t x0[Block / 2], x1[Block / 2];
    float4(&next)[32] = m.next[threadIdx.x / 32];
    for (int n = 0; n < n_tiles; n++) {
        // [numbers]
        if (n % 32 == 0) {
            const int b = ld_shared(&m.span).first + n + lane;
            __syncwarp(); // all have read those of the blocks before
            if (n + lane < n_tiles)
                st_shared(&next[lane], make_float4(ld_global(copy.scale + b), ld_global(copy.reach + b),
                                                   ld_global(copy.error + b), 0));
            __syncwarp();
        }
        // [numbers]
        const uint64_t keys = uniform(codes_at<D>(wait_stage(m, n).x));
        issue_codes<Block, D>(x0, rows0, keys);
        issue_codes<Block, D>(x1, rows1, keys);
        wgmma_wait<1>(); // as in keep_best()
        wgmma_pin(x0);
        screen_block<D, Block>(m, lists, a0, x0, next[n % 32], n, keep);
        wgmma_wait<0>();
        wgmma_pin(x1);
        release_stage(m, n);
        screen_block<D, Block>(m, lists, a1, x1, next[n % 32], n, keep);
    }
    __syncwarp(); // another lane has written lower bounds
    finish(m, lists, a0, keep);
    finish(m, lists, a1, keep);
}

template <int D, int Block>
__global__ void __launch_bounds__(stream_threads, 1)
    screen(Shape s, const __grid_constant__ CUtensorMap code_map, int at, const bf16 *qi, Copy8 copy,
           Lists8 lists)
{
    s = actual(s);
    Screen<D, Block> &m = shared<Screen<D, Block>>();
    Span span = span_of<rows>(s, lists.parts);
    if (span.row0 >= span.end) {
        grid_wait(); // a grid that ends before prepare() would let the next one begin
        return;
    }
    const int before =
        s.topk > 1 ? position_of(s, span.end - 1) / s.block : 0; // blocks that the last row may choose
    span.n_tiles = span.first + span.n_tiles < before ? span.n_tiles
                   : before > span.first              ? before - span.first
                                                      : 0;
    if (threadIdx.x == 0)
        st_shared(&m.span, span);
    prefetch_maps(code_map);
    ring_init(m);
    if (threadIdx.x < consumer_threads) {
        timeline_role("consumer");
        make_queries<D, 32>(m, span, qi);
        grid_wait();
        screen_rows(s, m, span, copy, lists);
    } else if (elect_one()) {
        grid_wait();
        produce_keys(m, &code_map, span, at);
    }
    grid_launch_dependents();
}

/// The lists of one part.
PTX_INLINE Lists8 lists_of(Lists8 lists, int part, int topk)
{
    const int64_t before = (int64_t)part * lists.rows;
    lists.candidate += before * lists.most;
    lists.n += before;
    lists.low = lists.low ? lists.low + before * (topk - 1) : nullptr;
    return lists;
}

/// A warp a row that parts share: what all of their lower bounds rule out leaves their lists.
__global__ void __launch_bounds__(turn_threads) unite(Shape s, Lists8 lists)
{
    s = actual(s);
    const int row = (int)(blockIdx.x * (turn_threads / 32) + threadIdx.x / 32), keep = s.topk - 1;
    grid_wait();
    if (row >= n_rows(s))
        return;
    bool fell = false;
    for (int part = 0; part < lists.parts; part++)
        fell |= ld_global(lists.n + (int64_t)part * lists.rows + row) < 0;
    WarpList best = warp_list(s.topk, 0);
    offer_all(best, 0, 32, lists.parts * keep, [&](int c) {
        return rank_key(ld_global(lists.low + ((int64_t)(c / keep) * lists.rows + row) * keep + c % keep), c);
    });
    const float tau = best.threshold == free_entry ? minus_infinity() : score_of(best.threshold);
    for (int part = 0; part < lists.parts; part++) {
        const Lists8 own = lists_of(lists, part, s.topk);
        const int n =
            fell ? (part > 0) - 1
                 : filter(own.candidate + (int64_t)row * own.most, ld_global(own.n + row), tau, own.asked);
        __syncwarp(); // all have read how many there were
        if (threadIdx.x % 32 == 0)
            st_global(own.n + row, n);
    }
    if (fell && threadIdx.x % 32 == 0)
        fall(lists, row);
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
    const int local = position_of(s, row) / s.block;
    WarpList list = warp_list(s.topk, local);
    int settled = 0;
    for (int part = 0; part < lists.parts && settled >= 0; part++) {
        const Lists8 own = lists_of(lists, part, s.topk);
        const int n = ld_global(own.n + row);
        offer_all(list, 0, 32, n, [&](int i) {
            const Candidate c = ld_global(own.candidate + row * own.most + i);
            return rank_key(c.value, c.block);
        });
        settled = n < 0 ? -1 : settled + n;
    }
    if (done && threadIdx.x % 32 == 0)
        count_row(s, local, settled, done);
    if (settled < 0)
        return; // all_blocks() has
    write_ids(ids + row_at(s, row / s.n_kv_heads, (int)(row % s.n_kv_heads)) * s.topk, list.entry, s.topk);
}

/* ---- Host ------------------------------------------------------------------------------------------------ */

struct Scratch {
    Copy8 copy;
    Lists8 lists;
    Turned turned;
    size_t bytes;
};

/// Queries that go in one go, so that their rows' lists fit.
int chunk_length(const Shape &s)
{
    const int n = tuned(MSA_TUNE_screen_rows) / s.n_kv_heads;
    return n < 1 ? 1 : n < s.n_q ? n : s.n_q;
}

/// How many CTAs share the keys of 256 rows, so that few rows leave no SM idle: as many as fit, of which none has fewer
/// than 16 blocks. A call's chunks have as many as its first.
int parts_of(const Shape &s)
{
    const int64_t ctas = ceil_div((int64_t)chunk_length(s) * s.n_kv_heads, (int64_t)rows);
    const int fit = (int)(device_sms() / (ctas > 0 ? ctas : 1)),
              most = s.n_blocks / 16 < 32 ? s.n_blocks / 16 : 32, parts = fit < most ? fit : most;
    return parts > 1 ? parts : 1;
}

Scratch layout(const Call &c)
{
    const Shape &s = c.s;
    const int parts = parts_of(s);
    const int64_t of_chunk = (int64_t)chunk_length(s) * s.n_kv_heads, n = parts * of_chunk;
    Carve carve = {(uintptr_t)c.work};
    Scratch w;
    w.copy.codes = carve.take<int8_t>((int64_t)s.n_kv * c.d_index);
    w.copy.scale = carve.take<float>(s.n_blocks);
    w.copy.reach = carve.take<float>(s.n_blocks);
    w.copy.error = carve.take<float>(s.n_blocks);
    w.copy.least = nullptr;
    w.lists.most = s.n_blocks < most_candidates ? s.n_blocks : most_candidates;
    w.lists.parts = parts;
    w.lists.rows = (int)of_chunk;
    w.lists.candidate = carve.take<Candidate>(n * w.lists.most);
    w.lists.n = carve.take<int32_t>(n);
    w.lists.low = carve.take_if<float>(parts > 1, n * (s.topk - 1));
    w.lists.fallen = carve.take<int32_t>(of_chunk);
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

template <int D, int Block> void run_chunk(const Call &c, Scratch w, const Maps8<D, Block> &maps)
{
    const Shape &s = c.s;
    const int64_t n = n_rows(s), all = n * w.lists.parts;
    const auto ctas = [](int64_t things, int64_t each) { return dim3((unsigned)ceil_div(things, each)); };
    w.lists.rows = (int)n;
    LAUNCH_DEPENDENT((screen<D, Block>), dim3(ctas(n, rows).x * (unsigned)w.lists.parts),
                     dim3(stream_threads), sizeof(Screen<D, Block>), c.stream, s, maps.codes, maps.at, c.a.qi,
                     w.copy, w.lists);
    if (w.lists.parts > 1)
        LAUNCH_DEPENDENT(unite, ctas(n, turn_threads / 32), dim3(turn_threads), 0, c.stream, s, w.lists);
    LAUNCH_DEPENDENT(allot, ctas(s.n_blocks, turn_threads), dim3(turn_threads), 0, c.stream, s, w.lists,
                     w.turned);
    LAUNCH_DEPENDENT(turn, ctas(all, turn_threads / 32), dim3(turn_threads), 0, c.stream, s, w.lists,
                     w.turned);
    const int64_t tiles = most_tiles(all * w.lists.most, s.n_blocks), at_once = 2 * device_sms();
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
        rows_map(&maps.keys, c.a.ki, D, c.s.n_kv, Block) != MSA_OK)
        return MSA_ERR_DEVICE;
    LAUNCH((prepare<D>), dim3((unsigned)c.s.n_blocks), dim3(32 * code_warps),
           sizeof(BlockNumbers<code_warps>), c.stream, c.s, c.a.ki, w.copy, !c.a.copy.codes, w.lists);
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
