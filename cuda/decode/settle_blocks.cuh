/**
 * @file settle_blocks.cuh
 * @brief Blocks that a step's bounds leave open are scored from their full keys, by the products of score.cuh, so that
 *        their scores are its scores: the second launch of a step that screens.
 *
 * The shares that a request had in the first launch take its stages in turn, one by one, so that candidates that lie side
 * by side are spread. Each finds for itself what an upper bound may not be below; its producer looks through its stages
 * 32 at a time and copies those that some row asks for. Each row gets its candidates in a list, in any order, which has
 * room for all blocks: where everything is a candidate the step is slower, and right.
 */
#ifndef MSA_SETTLE_BLOCKS_CUH
#define MSA_SETTLE_BLOCKS_CUH

#include "screen_blocks.cuh"

namespace
{

template <int DI, int N> struct SettleSmem {
    Ring<DI, false> ring;
    Tile<N, DI> queries;
    float top[2][stage_keys / 16][N];
    float tau[N];
    KeptKeys kept[warps];
    int at[Ring<DI, false>::stages]; ///< which stage of the request it is; -1: the segment has no more
    uint64_t full[Ring<DI, false>::stages], empty[Ring<DI, false>::stages], queries_full;
    Line line;
};

/// What the row's upper bounds may not be below: the (k - 1)-th largest of its lower ones. By a warp.
// [tau]
PTX_INLINE float find_tau(KeptKeys &kept, const Job &job, const SharesOf &of, int n, int row)
{
    const int topk = job.largest.topk;
    const uint64_t list = take_lists(first_entry((int)threadIdx.x % 32, 32, topk, 0), kept, topk, of.n,
                                     topk - 1, candidates_of(job, of.first, n, row), job.rows * (topk - 1));
    const uint64_t last = shfl(list, 31);
    return last == free_entry ? minus_infinity() : score_of(last);
}
// [tau]

/// Whether a row asks for a block before its local one.
PTX_INLINE bool asks(const Job &job, const Screening &x, const Shape &s, int n, int b, int row, float tau)
{
    return b < local_block(s, row / s.n_kv_heads) &&
           (b >= coded_blocks(s) || !(ld_global(x.upper + upper_at(job, x, n, b, row)) < tau));
}
template <int DI, int N>
PTX_INLINE bool is_asked(SettleSmem<DI, N> &m, const Job &job, const Screening &x, const Shape &s, int n,
                         int at, int row0)
{
    const int blocks = stage_keys / s.block, rows = s.n_q * s.n_kv_heads;
    bool asked = false;
    for (int b = at * blocks; b < smaller((at + 1) * blocks, competing_blocks(s)); b++)
        for (int column = 0; column < N && row0 + column < rows && !asked; column++)
            asked = asks(job, x, s, n, b, row0 + column, ld_shared(&m.tau[column]));
    return asked;
}

/// Copies the stages that are asked for, of those that this CTA looks through: one of `of.n` that the request has.
template <int DI, int N>
PTX_INLINE void produce_asked(SettleSmem<DI, N> &m, const Job &job, const Screening &x,
                              const CUtensorMap *keys, const Shape &s, int n, int row0, const SharesOf &of,
                              Place &place, bool &good)
{
    const int lane = (int)threadIdx.x % 32, piece = job.pages.piece, pieces = stage_keys / piece;
    const int n_stages = stages_of(s), all = competing_blocks(s) * (s.block / piece), step = of.n;
    int &stage = place.stage;
    const auto next = [&](int at, auto copy) { // takes a stage of the ring
        if (lane == 0) {
            mbarrier_wait(&m.empty[stage], place.phase ^ 1); // all consumer warps have released the stage
            st_shared(&m.at[stage], at);
        }
        copy();
        advance(place, m.ring.stages);
    };
    for (int first = (int)blockIdx.x - of.first; first < n_stages; first += 32 * step) {
        const int mine = first + lane * step;
        const bool asked = mine < n_stages && is_asked(m, job, x, s, n, mine, row0);
        int there[stage_keys / min_piece] = {};
        UNROLL
        for (int g = 0; g < stage_keys / min_piece; g++)
            if (asked && g < pieces) // past the end there is no piece: the last one once more
                there[g] = find_piece(job.pages, n, smaller(mine * pieces + g, all - 1), good);
        for (uint32_t left = warp_ballot(asked); left; left &= left - 1) {
            const int from = __ffs((int)left) - 1;
            next(first + from * step, [&] {
                if (lane == 0)
                    mbarrier_arrive_expect(&m.full[stage], m.ring.bytes);
                UNROLL
                for (int g = 0; g < stage_keys / min_piece; g++) {
                    const int at = shfl(there[g], from);
                    if (lane == 0 && g < pieces)
                        load_piece(m.ring, &m.full[stage], job, keys, stage, g, at);
                }
            });
        }
    }
    next(-1, [&] {
        if (lane == 0)
            mbarrier_arrive(&m.full[stage]);
    });
}

template <int DI, int N>
PTX_INLINE bool produce(SettleSmem<DI, N> &m, const Job &job, const Screening &x, const CUtensorMap *queries,
                        const CUtensorMap *keys, int row0)
{
    Place place;
    bool good = true;
    timeline_role("producer");
    each_segment(m.line, job.batch, (int)gridDim.x, [&](const Segment &seg, int) {
        const Shape s = request(job.largest, job.pages, seg.n);
        const SharesOf of = shares_of_request(m.line, job.batch, (int)gridDim.x, seg.n);
        bar_sync(2, screen_threads); // tau is there, and the queries before have been multiplied
        if (threadIdx.x % 32 == 0) {
            mbarrier_arrive_expect(&m.queries_full, sizeof m.queries);
            for (int slab = 0; slab < DI / 64; slab++)
                tma_load_2d(m.queries.slab[slab], queries, &m.queries_full, 64 * slab,
                            seg.n * job.rows + row0);
        }
        produce_asked(m, job, x, keys, s, seg.n, row0, of, place, good);
    });
    return good;
}

/// The scores of a stage's blocks go to those rows that asked for them.
template <int N>
PTX_INLINE void append_scores(const float (&top)[stage_keys / 16][N], const float (&tau)[N], const Job &job,
                              const Screening &x, const Shape &s, int n, int at, int row0)
{
    const int blocks = stage_keys / s.block, slices = s.block / 16, rows = s.n_q * s.n_kv_heads;
    for (int a = (int)threadIdx.x; a < blocks * N; a += consumers) {
        const int column = a % N, row = row0 + column, b = at * blocks + a / N;
        if (row >= rows || !asks(job, x, s, n, b, row, ld_shared(&tau[column])))
            continue;
        float score = minus_infinity();
        for (int g = 0; g < slices; g++)
            score = fmaxf(score, ld_shared(&top[a / N * slices + g][column]));
        const int64_t list = (int64_t)n * job.rows + row;
        st_global(x.settled + list * x.blocks + atomicAdd(x.n_settled + list, 1u), rank_key(score, b));
    }
}

template <int DI, int N>
PTX_INLINE void settle_segments(SettleSmem<DI, N> &m, const Job &job, const Screening &x, int row0)
{
    const int t = (int)threadIdx.x, warp = t / 32;
    Place place;
    timeline_role("consumer");
    each_segment(m.line, job.batch, (int)gridDim.x, [&](const Segment &seg, int number) {
        const Shape s = request(job.largest, job.pages, seg.n);
        const SharesOf of = shares_of_request(m.line, job.batch, (int)gridDim.x, seg.n);
        bar_sync(1, consumers); // all are done with the segment before
        for (int column = warp; column < N && row0 + column < s.n_q * s.n_kv_heads; column += warps) {
            const float tau = find_tau(m.kept[warp], job, of, seg.n, row0 + column);
            if (t % 32 == 0)
                st_shared(&m.tau[column], tau);
        }
        bar_sync(2, screen_threads); // tau is there
        mbarrier_wait(&m.queries_full, number % 2);
        for (int n = 0;; n++) {
            float upper[N / 2], lower[N / 2];
            const int stage = place.stage;
            mbarrier_wait(&m.full[stage], place.phase);
            const int at = ld_shared(&m.at[stage]);
            if (at >= 0)
                multiply(upper, lower, m.ring, stage, m.queries);
            __syncwarp();
            if (t % 32 == 0)
                mbarrier_arrive(&m.empty[stage]); // its products are done: the stage is released
            advance(place, m.ring.stages);
            if (at < 0)
                break;
            column_maxima(m.top[n % 2][warp], upper, 1);
            column_maxima(m.top[n % 2][warps + warp], lower, 1);
            bar_sync(1, consumers); // all slices' maxima are there; the next stage has the other buffer
            append_scores<N>(m.top[n % 2], m.tau, job, x, s, seg.n, at, row0);
        }
    });
}

template <int DI, int N>
__global__ void __launch_bounds__(screen_threads, 1)
    settle(const __grid_constant__ CUtensorMap queries, const __grid_constant__ CUtensorMap keys, Job job,
           Screening x)
{
    SettleSmem<DI, N> &m = shared<SettleSmem<DI, N>>();
    const int t = (int)threadIdx.x, row0 = (int)blockIdx.y * N;
    if (t < 32)
        lay_line(m.line, job.largest, job.pages, job.batch);
    if (t == 32) {
        ring_init(m.full, m.empty, m.ring.stages);
        mbarrier_init(&m.queries_full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    grid_wait(); // bounds, new tokens and cleared counters are there
    bool good = true;
    if (t >= consumers)
        good = produce(m, job, x, &queries, &keys, row0);
    else
        settle_segments(m, job, x, row0);
    grid_launch_dependents();
    check_page(job.pages, good);
}

} // namespace

#endif
