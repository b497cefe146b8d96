/**
 * @file score.cuh
 * @brief Each segment's best blocks: index keys times the index queries of a request, operands swapped, by
 * wgmma. The second launch of 3_swapped.cu, which says why; and what screen_blocks.cuh and settle_blocks.cuh, which take
 * its place in a step that screens, have in common with it.
 */
#ifndef MSA_SCORE_CUH
#define MSA_SCORE_CUH

#include "../kit/attend.cuh"
#include "../kit/candidates.cuh"
#include "e4m3.cuh"
#include "line.cuh"

namespace
{

constexpr int warps = 4, consumers = 32 * warps, score_chunk = 32;

/// Stages whose maxima are looked at together, so that all threads have one to do and stages follow each other without a
/// barrier: at most so many, and no more blocks than a chunk has.
template <int N> constexpr int most_in_round = consumers / (N < 8 ? 8 : N);
template <int N> PTX_INLINE int stages_in_round(int blocks)
{
    return smaller(most_in_round<N>, score_chunk / blocks);
}

template <int DI, bool fp8> struct Ring { ///< 160 KB
    static constexpr int stages = 640 / DI;
    static constexpr uint32_t bytes = sizeof(Tile<stage_keys, DI>);
    Tile<stage_keys, DI> keys[stages];
};
template <int DI> struct Ring<DI, true> {
    static constexpr int stages = 1024 / DI;
    static constexpr uint32_t bytes = stage_keys * DI;
    alignas(128) uint8_t keys[stages][stage_keys * DI]; ///< as in memory
    float scale[stages][stage_keys / min_piece];        ///< of each piece
};

template <int DI, int N, bool fp8> struct ScoreSmem {
    Ring<DI, fp8> ring;
    Tile<N, DI> queries[2];           ///< of a segment and the next one
    float top[2][most_in_round<N> * stage_keys / 16][N]; ///< of 16 keys each; two rounds in turn
    float scores[N][score_chunk + 1]; ///< of blocks that were not offered yet
    uint64_t list[N][32];
    uint64_t full[1024 / DI], empty[1024 / DI], queries_full[2], queries_empty[2];
    Line line;
};

/// What the grid is given.
struct Job {
    Shape largest;
    Pages pages;
    int batch, rows;      ///< rows of a request: T Hkv
    uint64_t *candidates; ///< [shares + batch - 1][rows][k - 1]
};

/// What share `share` leaves of a row of request n.
PTX_INLINE uint64_t *candidates_of(const Job &job, int share, int n, int row)
{
    return job.candidates + ((int64_t)(share + n) * job.rows + row) * (job.largest.topk - 1);
}

/// Barriers of a ring: a stage is full when its copies have landed, empty when all consumer warps have released it. By one
/// thread; then fence_mbarrier_init().
PTX_INLINE void ring_init(uint64_t *full, uint64_t *empty, int stages)
{
    for (int i = 0; i < stages; i++) {
        mbarrier_init(&full[i], 1);
        mbarrier_init(&empty[i], warps);
    }
}
/// Where a producer or a consumer is in a ring.
struct Place {
    int stage = 0, phase = 0;
};
PTX_INLINE void advance(Place &place, int stages)
{
    if (++place.stage == stages)
        place.stage = 0, place.phase ^= 1;
}

/// Where a stage of bf16 keys comes from: a copy is 64 channels of a piece.
template <int DI>
PTX_INLINE void load_piece(Ring<DI, false> &ring, uint64_t *full, const Job &job, const CUtensorMap *keys,
                           int stage, int g, int at)
{
    const int piece = job.pages.piece;
    for (int slab = 0; slab < DI / 64; slab++)
        tma_load_2d(ring.keys[stage].slab[slab] + g * piece * 64, keys, full, 64 * slab, at * piece);
}
template <int DI>
PTX_INLINE void load_piece(Ring<DI, true> &ring, uint64_t *full, const Job &job, const CUtensorMap *,
                           int stage, int g, int at)
{
    const int bytes = job.pages.piece * DI;
    bulk_load(ring.keys[stage] + g * bytes, job.pages.ki8 + (int64_t)at * bytes, (uint32_t)bytes, full);
}

template <int DI> PTX_INLINE void put_scale(Ring<DI, false> &, int, int, float)
{
}
template <int DI> PTX_INLINE void put_scale(Ring<DI, true> &ring, int stage, int g, float scale)
{
    if (threadIdx.x % 32 == 0)
        st_shared(&ring.scale[stage][g], scale);
}

/// Where pieces lie, and scales, come 32 at a time, a lane each; one lane copies. Returns whether all pages
/// exist.
template <int DI, int N, bool fp8>
PTX_INLINE bool produce(ScoreSmem<DI, N, fp8> &m, const Job &job, const CUtensorMap *queries,
                        const CUtensorMap *keys, int row0)
{
    const int lane = (int)threadIdx.x % 32, piece = job.pages.piece, pieces = stage_keys / piece;
    Place place;
    bool waited = false, good = true;
    timeline_role("producer");
    // Of one request after the other.
    each_segment(m.line, job.batch, (int)gridDim.x, [&](const Segment &seg, int number) {
        const Shape s = request(job.largest, job.pages, seg.n);
        const int all = competing_blocks(s) * (s.block / piece), buffer = number % 2;
        int mine = 0;
        float scale = 0;
        if (lane == 0) { // the segment's queries, while the one before is still multiplied
            mbarrier_wait(&m.queries_empty[buffer], number / 2 % 2 ^ 1);
            mbarrier_arrive_expect(&m.queries_full[buffer], sizeof m.queries[0]);
            for (int slab = 0; slab < DI / 64; slab++)
                tma_load_2d(m.queries[buffer].slab[slab], queries, &m.queries_full[buffer], 64 * slab,
                            seg.n * job.rows + row0);
        }
        for (int at = seg.begin; at < seg.end; at++) {
            const int stage = place.stage, known = (at - seg.begin) * pieces % 32;
            if (known == 0) { // past the end there is no piece: the last one once more
                if (!waited && (at * pieces + 32) * piece > s.prefix) {
                    grid_wait(); // new tokens may be among them
                    waited = true;
                }
                mine = find_piece(job.pages, seg.n, smaller(at * pieces + lane, all - 1), good);
                scale = fp8 ? ld_global(job.pages.scale + mine) : 0;
            }
            if (lane == 0)
                mbarrier_wait(&m.empty[stage], place.phase ^ 1); // all consumer warps have released the stage
            for (int g = 0; g < pieces && fp8; g++)
                put_scale(m.ring, stage, g, shfl(scale, known + g));
            if (lane == 0)
                mbarrier_arrive_expect(&m.full[stage], m.ring.bytes);
            for (int g = 0; g < pieces; g++) {
                const int there = shfl(mine, known + g);
                if (lane == 0)
                    load_piece(m.ring, &m.full[stage], job, keys, stage, g, there);
            }
            advance(place, m.ring.stages);
        }
    });
    return good;
}

/// Scale of the piece that key `key` of a stage belongs to.
template <int DI> PTX_INLINE float scale_of(const Ring<DI, false> &, int, int, int)
{
    return 1;
}
template <int DI> PTX_INLINE float scale_of(const Ring<DI, true> &ring, int stage, int key, int piece)
{
    return ld_shared(&ring.scale[stage][key / piece]);
}

/// Issues a stage's first 64 keys times the queries, and its others, then waits.
template <int DI, int N>
PTX_INLINE void multiply(float (&upper)[N / 2], float (&lower)[N / 2], const Ring<DI, false> &ring, int stage,
                         const Tile<N, DI> &queries)
{
    const Tile<stage_keys, DI> &keys = ring.keys[stage];
    const auto issue = [&](float(&d)[N / 2], int key) {
        wgmma_pin(d);
        wgmma_fence();
        // [swapped]
        for (int step = 0; step < DI / 16; step++) {
            const int slab = step / 4, column = step % 4 * 16;
            wgmma_ss<N>(d, wgmma_descriptor(&keys.slab[slab][64 * key + column], 16, 1024, Swizzle::b128),
                        wgmma_descriptor(&queries.slab[slab][column], 16, 1024, Swizzle::b128), step > 0);
        }
        // [swapped]
        wgmma_commit();
    };
    issue(upper, 0);
    issue(lower, 64);
    wgmma_wait<0>();
    wgmma_pin(upper);
    wgmma_pin(lower);
}

/// 8-bit keys become left operands in registers. A lane has a quarter of two rows' channels: of four neighbouring ones the
/// even two are where a product's step has its first columns for this lane, the odd two where it has its others.
template <int DI>
PTX_INLINE void decode_rows(uint32_t (&a)[DI / 16][4], const Ring<DI, true> &ring, int stage, int key)
{
    const int lane = (int)threadIdx.x % 32, row = key + (int)threadIdx.x / 32 * 16 + lane / 4;
    timeline_mark("decode", 2.0 * DI);
    for (int half = 0; half < 2; half++)
        for (int c = 0; c < DI / 64; c++) { // 16 channels
            const uint4 x = ld_shared(
                (const uint4 *)(ring.keys[stage] + (row + 8 * half) * DI + DI / 4 * (lane % 4)) + c);
            const uint32_t four[4] = {x.x, x.y, x.z, x.w};
            for (int i = 0; i < 4; i++) {
                a[4 * c + i][half] = decode_even(four[i]);
                a[4 * c + i][2 + half] = decode_odd(four[i]);
            }
        }
}
/// The queries' channels in the order of such operands, a warp a query in turn; ends with a barrier of all consumers.
template <int DI, int N> PTX_INLINE void match_queries(Tile<N, DI> &queries)
{
    const int lane = (int)threadIdx.x % 32;
    ROLLED
    for (int row = (int)threadIdx.x / 32; row < N; row += warps) {
        uint32_t own[DI / 64];
        const auto element = [&](int c) {
            return &queries.slab[c / 64][64 * row + ((c % 64) ^ row % 8 * 8)];
        };
        for (int i = 0; i < DI / 64; i++) {
            const int slot = 2 * (lane + 32 * i), c = DI / 4 * (slot % 8 / 2) + slot / 16 * 4 + slot / 8 % 2;
            own[i] = ld_shared((const uint16_t *)element(c)) |
                     (uint32_t)ld_shared((const uint16_t *)element(c + 2)) << 16;
        }
        __syncwarp(); // read by all lanes
        for (int i = 0; i < DI / 64; i++)
            st_shared((uint32_t *)element(2 * (lane + 32 * i)), own[i]);
    }
    fence_proxy_async();
    bar_sync(1, consumers);
}

template <int DI, int N>
PTX_INLINE void multiply(float (&upper)[N / 2], float (&lower)[N / 2], const Ring<DI, true> &ring, int stage,
                         const Tile<N, DI> &queries)
{
    uint32_t first[DI / 16][4], second[DI / 16][4];
    const auto issue = [&](float(&d)[N / 2], uint32_t(&a)[DI / 16][4]) {
        wgmma_pin(d);
        wgmma_pin(a);
        wgmma_fence();
        for (int step = 0; step < DI / 16; step++)
            wgmma_rs<N>(d, a[step],
                        wgmma_descriptor(&queries.slab[step / 4][step % 4 * 16], 16, 1024, Swizzle::b128),
                        step > 0);
        wgmma_commit();
    };
    decode_rows(first, ring, stage, 0);
    issue(upper, first);
    decode_rows(second, ring, stage, 64);
    issue(lower, second);
    fence_proxy_async(); // the keys have been read, before others are copied there
    wgmma_wait<0>();
    wgmma_pin(upper);
    wgmma_pin(lower);
    wgmma_pin(first);
    wgmma_pin(second);
}

/// The largest of each column over this warp's 16 rows.
template <int n> PTX_INLINE void column_maxima(float *top, const float (&d)[n], float scale)
{
    const int lane = (int)threadIdx.x % 32;
    timeline_mark("maximum", 4 * n);             // 64 n comparisons, 16 a clock
    for (int i = 0; i < n; i += i % 2 ? 3 : 1) { // 0 1 4 5 ...: the row 8 further down is i + 2
        float x = fmaxf(d[i], d[i + 2]);
        for (int with = 4; with < 32; with *= 2) // lanes that hold the same columns
            x = fmaxf(x, shfl_xor(x, with));
        if (lane < 4)
            st_shared(top + fragment_d(lane, i).col, x * scale);
    }
}

/// An empty list for each column.
template <int N, class M> PTX_INLINE void clear_lists(M &m, int topk)
{
    const int lane = (int)threadIdx.x % 32;
    for (int column = (int)threadIdx.x / 32; column < N; column += warps)
        st_shared(&m.list[column][lane], first_entry(lane, 32, topk, 0));
}
/// Offers the `count` scores of the chunk that starts at block b0; a warp has every fourth column.
template <int N, class M> PTX_INLINE void offer_chunk(M &m, const Shape &s, int row0, int b0, int count)
{
    const int lane = (int)threadIdx.x % 32, rows = s.n_q * s.n_kv_heads;
    for (int column = (int)threadIdx.x / 32; column < N && row0 + column < rows; column += warps) {
        const int local = local_block(s, (row0 + column) / s.n_kv_heads);
        WarpList list;
        list.entry = ld_shared(&m.list[column][lane]);
        list.threshold = shfl(list.entry, 31);
        offer(list, lane < count && b0 + lane < local
                        ? rank_key(ld_shared(&m.scores[column][lane]), b0 + lane)
                        : free_entry);
        st_shared(&m.list[column][lane], list.entry);
    }
}

template <int N, class M> PTX_INLINE void store_lists(M &m, const Job &job, int n, int row0)
{
    const int lane = (int)threadIdx.x % 32, fixed = 33 - job.largest.topk; // entries that no candidate takes
    for (int column = (int)threadIdx.x / 32; column < N && row0 + column < job.rows; column += warps)
        if (lane >= fixed)
            st_global(candidates_of(job, (int)blockIdx.x, n, row0 + column) + lane - fixed,
                      ld_shared(&m.list[column][lane]));
}

template <int DI, int N, bool fp8> PTX_INLINE void consume(ScoreSmem<DI, N, fp8> &m, const Job &job, int row0)
{
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32, block = job.largest.block;
    const int blocks = stage_keys / block, slices = block / 16; // blocks of a stage, 16-key slices of a block
    const int piece = job.pages.piece, round = stages_in_round<N>(blocks);
    Place place;
    timeline_role("consumer");
    each_segment(m.line, job.batch, (int)gridDim.x, [&](const Segment &seg, int number) {
        const Shape s = request(job.largest, job.pages, seg.n);
        Tile<N, DI> &queries = m.queries[number % 2];
        clear_lists<N>(m, s.topk);
        mbarrier_wait(&m.queries_full[number % 2], number / 2 % 2);
        if constexpr (fp8)
            match_queries<DI, N>(queries);

        const int last = seg.end - seg.begin - 1;
        for (int n = 0, at = 0, buffer = 0; n <= last; n++) { // stage `at` of its round
            const int stage = place.stage;
            float upper[N / 2], lower[N / 2];
            mbarrier_wait(&m.full[stage], place.phase); // the stage's keys have landed
            const float scale[2] = {scale_of(m.ring, stage, 16 * warp, piece),
                                    scale_of(m.ring, stage, 64 + 16 * warp, piece)};
            // Keys are the rows of the product, queries its columns (chapter 15).
            multiply(upper, lower, m.ring, stage, queries);
            __syncwarp();
            if (lane == 0)
                mbarrier_arrive(&m.empty[stage]); // its products are done: the stage is released
            advance(place, m.ring.stages);

            column_maxima(m.top[buffer][at * 2 * warps + warp], upper, scale[0]);
            column_maxima(m.top[buffer][at * 2 * warps + warps + warp], lower, scale[1]);
            if (++at < round && n < last)
                continue;
            // [round]
            bar_sync(1, consumers); // the round's maxima are there; the next one has the other buffer
            const int b0 = (n + 1 - at) * blocks, in_chunk = b0 % score_chunk, here = at * blocks;
            for (int a = t; a < here * N; a += consumers) { // slices to blocks
                const int column = a % N, b = a / N;
                float x = minus_infinity();
                for (int g = 0; g < slices; g++)
                    x = fmaxf(x, ld_shared(&m.top[buffer][b * slices + g][column]));
                st_shared(&m.scores[column][in_chunk + b], x);
            }
            if (in_chunk + here == score_chunk || n == last) {
                bar_sync(1, consumers); // a chunk's scores are there: 32 blocks, or the segment's last
                offer_chunk<N>(m, s, row0, seg.begin * blocks + b0 - in_chunk, in_chunk + here);
            }
            at = 0, buffer ^= 1;
            // [round]
        }
        if (lane == 0)
            mbarrier_arrive(&m.queries_empty[number % 2]);
        // Epilogue: what leaves is the segment's best k - 1 of each row, for the selection of the next launch.
        store_lists<N>(m, job, seg.n, row0);
    });
}

template <int DI, int N, bool fp8>
__global__ void __launch_bounds__(consumers + 32, 1)
    score(const __grid_constant__ CUtensorMap queries, const __grid_constant__ CUtensorMap keys, Job job)
{
    ScoreSmem<DI, N, fp8> &m = shared<ScoreSmem<DI, N, fp8>>();
    const int t = (int)threadIdx.x, row0 = (int)blockIdx.y * N;
    if (t < 32)
        lay_line(m.line, job.largest, job.pages, job.batch);
    if (t == 32) {
        ring_init(m.full, m.empty, m.ring.stages);
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&m.queries_full[i], 1);
            mbarrier_init(&m.queries_empty[i], warps);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    bool good = true;
    if (t >= consumers)
        good = produce(m, job, &queries, &keys, row0);
    else
        consume(m, job, row0);
    // [chained]
    grid_launch_dependents();
    grid_wait(); // who waits for this grid has waited for the one before it
    // [chained]
    check_page(job.pages, good);
}

} // namespace

#endif
