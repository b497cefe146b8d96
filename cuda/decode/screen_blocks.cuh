/**
 * @file screen_blocks.cuh
 * @brief Between which bounds the scores of a step's blocks lie, by the 8-bit copy of the index keys: integer products by
 *        wgmma, operands swapped as in score.cuh. With the update of the cache it is the first launch of a step that
 *        screens; 3_swapped.cu says why.
 *
 * What leaves is an upper bound for each block and row, and of each segment a row's best k - 1 lower bounds, from which
 * settle_blocks.cuh finds what an upper bound may not be below. Blocks that a step completes or takes back have no codes
 * yet, or no more: they are not screened, but always settled. So this launch reads nothing that the update writes.
 * A query has two codes a channel, since bytes set the pace: so of what it is off by hardly anything is left, and half as
 * many blocks stay open. Both products of a key are neighbouring columns, which one thread has; they become one number
 * before maxima are looked for. Up to four rows take the eight columns that wgmma has at least.
 * Bounds are found a round at a time (score.cuh): stage by stage a warp would need 1390 clocks, where memory takes 910.
 */
#ifndef MSA_SCREEN_BLOCKS_CUH
#define MSA_SCREEN_BLOCKS_CUH

#include "../index/bounds.cuh"
#include "score.cuh"
#include "update_cache.cuh"

namespace
{

constexpr int screen_threads = consumers + 32;

/// What a step that screens is given, and leaves, beside its Job.
struct Screening {
    Copy8 copy;          ///< codes NULL: the step does not screen
    int code_at;         ///< row of the codes' map that is their first
    float *upper;        ///< [batch][blocks][rows]
    uint64_t *settled;   ///< [batch][rows][blocks] candidates with their scores...
    uint32_t *n_settled; ///< ... [batch][rows], and how many there are
    int blocks;          ///< of the largest request, as many as compete
    msa_screening *done;
};
PTX_INLINE int64_t upper_at(const Job &job, const Screening &x, int n, int b, int row)
{
    return ((int64_t)n * x.blocks + b) * job.rows + row;
}

/// Blocks that were complete before the step's tokens came: those that have codes.
PTX_INLINE int coded_blocks(const Shape &s)
{
    return smaller(s.prefix / s.block, competing_blocks(s));
}
PTX_INLINE int coded_stages(const Shape &s)
{
    return ceil_div(coded_blocks(s) * s.block, stage_keys);
}

/// A piece's numbers are needed until its round is over, codes only until they are multiplied: those of so many stages
/// are there, which is more than a round and the ring have.
constexpr int known_stages = 32;

/// Of N rows, so small that two CTAs fit on an SM: one that screens, and one that updates a request meanwhile.
template <int DI, int N> struct ScreenSmem {
    static constexpr int stages = ((N > 32 ? 48 : 80) << 10) / (int)sizeof(CodeTile<stage_keys, DI>);
    CodeTile<stage_keys, DI> codes[stages];
    CodeTile<2 * N, DI> queries; ///< a row's two codes side by side
    RowNumbers row[N];
    float4 numbers[known_stages][stage_keys / min_piece];  ///< s, N and E of each piece
    int32_t top[2][most_in_round<N> * stage_keys / 16][N]; ///< of 16 keys each; two rounds in turn
    float scores[N][score_chunk + 1];               ///< lower bounds of blocks that were not offered yet
    uint64_t list[N][32];
    uint64_t full[stages], empty[stages];
    Line line;
    UpdateSmem<screen_threads> update;
};

/// As in score.cuh: where pieces lie, and their numbers, come 32 at a time. Returns whether all pages exist.
template <int DI, int N>
PTX_INLINE bool produce_codes(ScreenSmem<DI, N> &m, const Job &job, const Screening &x,
                              const CUtensorMap *codes, int max_shares)
{
    const int lane = (int)threadIdx.x % 32, piece = job.pages.piece, pieces = stage_keys / piece;
    Place place;
    int taken = 0; // stages before
    bool good = true;
    timeline_role("producer");
    each_segment(m.line, job.batch, max_shares, [&](const Segment &seg, int) {
        const Shape s = request(job.largest, job.pages, seg.n);
        const int all = coded_blocks(s) * (s.block / piece), end = smaller(seg.end, coded_stages(s));
        int mine = 0;
        Numbers own = {};
        for (int at = seg.begin; at < end; at++, taken++) {
            const int stage = place.stage, known = (at - seg.begin) * pieces % 32;
            if (known == 0) { // past the end there is no piece: the last one once more
                mine = find_piece(job.pages, seg.n, smaller(at * pieces + lane, all - 1), good);
                own = {ld_global(x.copy.scale + mine), ld_global(x.copy.reach + mine),
                       ld_global(x.copy.error + mine)};
            }
            if (lane == 0)
                mbarrier_wait(&m.empty[stage], place.phase ^ 1); // all consumer warps have released the stage
            for (int g = 0; g < pieces; g++) {
                const float4 numbers = make_float4(shfl(own.scale, known + g), shfl(own.reach, known + g),
                                                   shfl(own.error, known + g), 0);
                if (lane == 0)
                    st_shared(&m.numbers[taken % known_stages][g], numbers);
            }
            if (lane == 0)
                mbarrier_arrive_expect(&m.full[stage], sizeof m.codes[stage]);
            for (int g = 0; g < pieces; g++) {
                const int there = shfl(mine, known + g);
                if (lane == 0)
                    tma_load_2d(m.codes[stage].x + g * piece * DI, codes, &m.full[stage], 0,
                                x.code_at + there * piece);
            }
            advance(place, m.stages);
        }
    });
    return good;
}

/// The codes of a request's index queries, a warp a query in turn; ends with a barrier of all consumers.
template <int DI, int N>
PTX_INLINE void code_queries(ScreenSmem<DI, N> &m, const Job &job, const bf16 *qi, int n, int rows, int row0)
{
    for (int column = (int)threadIdx.x / 32; column < N; column += warps) {
        const bool there = row0 + column < rows;
        const int64_t row = (int64_t)n * job.rows + row0 + (there ? column : 0);
        const RowNumbers numbers = make_query<2>(m.queries, 2 * column, qi + row * DI);
        if (threadIdx.x % 32 == 0)
            st_shared(&m.row[column], numbers);
    }
    fence_proxy_async();
    bar_sync(1, consumers);
}

/// The largest product of each query's two codes over this warp's 16 keys: 128 times the first one's, and the second's.
template <int n> PTX_INLINE void column_maxima(int32_t *top, const int32_t (&d)[n])
{
    const int lane = (int)threadIdx.x % 32;
    timeline_mark("maximum", 4 * n); // as of floats
    for (int i = 0; i < n; i += 4) { // the key 8 further down is i + 2
        const int upper = 128 * d[i] + d[i + 1], lower = 128 * d[i + 2] + d[i + 3];
        int x = max3(upper, lower, upper);
        for (int with = 4; with < 32; with *= 2) // lanes that hold the same columns
            x = max3(x, shfl_xor(x, with), x);
        if (lane < 4)
            st_shared(top + fragment_d(lane, i).col / 2, x);
    }
}

/// The bounds of block `b` of a round, whose first stage is number `first`, for a column: the larger ones of its pieces',
/// each of which has numbers of its own.
template <int DI, int N>
PTX_INLINE Bounds bound_block(ScreenSmem<DI, N> &m, int first, int buffer, int b, int column, int block,
                              int piece)
{
    const int pieces = stage_keys / piece;
    const RowNumbers row = ld_shared(&m.row[column]);
    Bounds all = {minus_infinity(), minus_infinity()};
    for (int g = b * block / piece; g < (b + 1) * block / piece; g++) {
        int x = ld_shared(&m.top[buffer][g * piece / 16][column]);
        for (int slice = 1; slice < piece / 16; slice++) {
            const int other = ld_shared(&m.top[buffer][g * piece / 16 + slice][column]);
            x = other > x ? other : x;
        }
        const float4 of = ld_shared(&m.numbers[(first + g / pieces) % known_stages][g % pieces]);
        const Bounds own = bounds<DI>(row, {of.x, of.y, of.z}, x);
        all.lower = fmaxf(all.lower, own.lower);
        all.upper = own.upper == own.upper ? fmaxf(all.upper, own.upper) : -minus_infinity();
    }
    return all;
}

template <int DI, int N>
PTX_INLINE void screen_segments(ScreenSmem<DI, N> &m, const Job &job, const Screening &x, const bf16 *qi,
                                int max_shares, int row0)
{
    const int t = (int)threadIdx.x, warp = t / 32, block = job.largest.block, blocks = stage_keys / block,
              round = stages_in_round<N>(blocks);
    Place place;
    int taken = 0; // stages before
    timeline_role("consumer");
    each_segment(m.line, job.batch, max_shares, [&](const Segment &seg, int) {
        const Shape s = request(job.largest, job.pages, seg.n);
        const int rows = s.n_q * s.n_kv_heads, coded = coded_blocks(s),
                  n_stages = smaller(seg.end, coded_stages(s)) - seg.begin;
        bar_sync(1, consumers); // all are done with the segment before
        clear_lists<N>(m, s.topk);
        code_queries(m, job, qi, seg.n, rows, row0);
        for (int n = 0, at = 0, buffer = 0; n < n_stages; n++, taken++) { // stage `at` of its round
            const int stage = place.stage;
            int32_t first[N], second[N];
            mbarrier_wait(&m.full[stage], place.phase); // the stage's codes have landed
            issue_codes<2 * N, DI>(first, m.codes[stage].x, m.queries.x);
            issue_codes<2 * N, DI>(second, m.codes[stage].x + 64 * DI, m.queries.x);
            wgmma_wait<0>();
            wgmma_pin(first);
            wgmma_pin(second);
            __syncwarp();
            if (t % 32 == 0)
                mbarrier_arrive(&m.empty[stage]); // its products are done, and the round before is over
            advance(place, m.stages);

            column_maxima(m.top[buffer][at * 2 * warps + warp], first);
            column_maxima(m.top[buffer][at * 2 * warps + warps + warp], second);
            if (++at < round && n < n_stages - 1)
                continue;
            // [round]
            bar_sync(1, consumers); // the round's maxima are there; the next one has the other buffer
            const int b0 = (seg.begin + n + 1 - at) * blocks, in_chunk = (n + 1 - at) * blocks % score_chunk,
                      here = at * blocks;
            for (int a = t; a < here * N; a += consumers) {
                const int column = a % N, b = a / N;
                const bool there = b0 + b < coded && row0 + column < rows;
                const Bounds bound =
                    bound_block(m, taken + 1 - at, buffer, b, column, block, job.pages.piece);
                st_shared(&m.scores[column][in_chunk + b], there ? bound.lower : minus_infinity());
                if (there)
                    st_global(x.upper + upper_at(job, x, seg.n, b0 + b, row0 + column), bound.upper);
            }
            if (in_chunk + here == score_chunk || n == n_stages - 1) {
                bar_sync(1, consumers); // a chunk's bounds are there: 32 blocks, or the segment's last
                offer_chunk<N>(m, s, row0, b0 - in_chunk, in_chunk + here);
            }
            at = 0, buffer ^= 1;
            // [round]
        }
        store_lists<N>(m, job, seg.n, row0);
    });
}

/// CTAs max_shares .. max_shares + batch - 1 have no share, but a request each to update.
template <int DI, int N>
__global__ void __launch_bounds__(screen_threads, 2)
    screen(const __grid_constant__ CUtensorMap codes, Job job, Screening x, const bf16 *qi, int max_shares,
           Store store, uint32_t *counters, int n_counters)
{
    ScreenSmem<DI, N> &m = shared<ScreenSmem<DI, N>>();
    const int t = (int)threadIdx.x, row0 = (int)blockIdx.y * N, n = (int)blockIdx.x - max_shares;
    if (n >= 0) {
        grid_launch_dependents();
        if (row0 == 0) {
            clear_counters<screen_threads>(counters, n_counters, n, job.batch);
            update_request(m.update, job.largest, store, n);
        }
        return;
    }
    if (t < 32)
        lay_line(m.line, job.largest, job.pages, job.batch);
    if (t == 32) {
        ring_init(m.full, m.empty, m.stages);
        fence_mbarrier_init();
    }
    __syncthreads();
    bool good = true;
    if (t >= consumers)
        good = produce_codes(m, job, x, &codes, max_shares);
    else
        screen_segments(m, job, x, qi, max_shares, row0);
    grid_launch_dependents();
    check_page(job.pages, good);
}

} // namespace

#endif
