/**
 * @file 3_swapped.cu
 * @brief One step of generation on tensor cores, with the index product's operands swapped, for a whole batch
 *        in three launches chained by programmatic dependent launch.
 *
 * What it does: (1) new tokens go into their pages (begin.cuh). (2) wgmma's M = 64 rows are keys and its N
 * columns are a request's T Hkv index queries, rounded up to 8, 16, 32 or 64. Keys come by TMA, a piece at a
 * time (a page, or a block of it), in stages of 128 through a ring; the largest row of each block is a
 * maximum over accumulators, lanes and warps, and after every 32 blocks the warps offer those to lists of the
 * best, a list a column. All stages of all requests form one line, which is cut into equal pieces, one for
 * each SM; what a piece has of one request is a segment, and leaves k - 1 candidates a row, never scores. (3)
 * Every block of threads that attends to a row first selects from its segments' candidates (any of the best k
 * - 1 of all is among the best k - 1 of its segment), then takes its part of the chosen tokens, and the last
 * one merges (attend.cuh).
 *
 * Why better: with queries as M, T = 1 and 4 groups would use 4 rows of 64; as N they use 4 columns of 8.
 * A stage costs 16 products of about 16 clocks each (reading the keys from shared memory), its 32 KB take
 * about 2300 clocks of memory's time (3.35 TB/s over 132 SMs at 1.8 GHz). Scores never leave the SM. Equal
 * pieces keep all SMs busy to the end whatever the lengths in the batch are. While one launch ends the next
 * has started: it waits only before it reads what the one before stores.
 *
 * 8-bit index keys (E4M3) halve the bytes. A stage of 16 KB comes as it is in memory; the consumers write its
 * keys as bf16, which is exact, to where wgmma reads them, 128 threads 128 keys: about 1150 clocks of
 * memory's time, in which shared memory moves 16 + 32 + 32 KB, 640 clocks. Products add up in float32 as
 * ever, and a warp multiplies its maxima, each of one piece, by the piece's scale.
 *
 * Its floor: the step's bytes, 2 di N + 2 Hkv dh 2 k Bk a request (contract, section 4): at S = 1M and M3's
 * sizes 272 MB, 0.08 ms at 3.35 TB/s, at batch 8 0.65 ms; with 8-bit keys 138 MB, 0.04 and 0.33 ms. Index
 * keys are read once for every 64 rows of selection; all else is under 1% of that at T = 1.
 *
 * Estimates, not measured, at the full rate of an H800 (3.35 TB/s) and an H200 (4.8 TB/s), in ms, beside
 * dense_decode's bytes at the same rate:
 *
 *     S = 1M      bf16 keys      8-bit keys     dense
 *     batch 1     0.081 0.057    0.041 0.029    0.641 0.447
 *     batch 8     0.651 0.454    0.331 0.231    5.128 3.579
 *
 * What is not reading has to fit into what is left: against dense attention at 0.9 of the rate, 0.712 ms, 7x
 * is 0.102 ms, and reading 272 MB at 0.9 takes 0.090: 11 us for the launches, the first stage of the ring,
 * selection and attention. At batch 8 and 7.6x there are 26.
 *
 * What was given up: four launches one after the other, in which a block of threads for each row selected and
 * a warp for each head merged, small grids that wait for each other (the last launch now does both); splits
 * of each request on its own, which leave SMs idle where lengths differ; a barrier between the maxima of two
 * stages, which two buffers in turn make needless.
 *
 * What it wastes: each block of threads of a row repeats its selection, at batch 1 of 132 x 15 candidates;
 * the lists grow one entry at a time, k (1 + ln(n / k)) times a row and segment of n blocks, which the ring
 * hides only as long as it is full; G < 16 heads pad 16 rows; P is rounded to bf16.
 *
 * Predicted, of one tile of up to 64 rows (P = ceil(T Hkv / 64) tiles do the same again), with N = 128
 * ceil(last Bk / 128) keys to score of a request (last: its last query's local block; 0 if k = 1), X segments
 * of it, n = selected(i) tokens in c parts, bytes beside lengths (4 a lane that reads one) and page ids:
 *  - (2) loads 2 di (N + X columns) by TMA (N (di + 4 / Bk) for the keys if they are 8-bit), less where
 *    the last request's queries end before the columns do; stores 8 X (k - 1) a row;
 *  - (3) loads 8 c X (k - 1), stores 4 k a row; loads 2 dh G c + 4 dh n a row; a head stores (8 + 4 dh) c,
 *    loads (16 + 4 dh) c, and stores O and LSE.
 */
#include "../kit/attend.cuh"
#include "attend.cuh"
#include "begin.cuh"

namespace
{

constexpr int warps = 4, consumers = 32 * warps, stage = 128, chunk = 32;

/* ---- Equal pieces of all requests' stages -------------------------------------------------------------- */

/// Request n has stages first[n] .. first[n + 1] - 1 of the line.
struct Line {
    int first[most_requests + 1];
};

PTX_INLINE int stages_of(const Shape &s)
{
    return ceil_div(competing_blocks(s) * s.block, stage);
}
/// Sums up the requests' stages. Warp 0 calls it, and all meet at a barrier afterwards.
PTX_INLINE void lay_line(Line &line, const Shape &largest, const Pages &pages, int batch)
{
    const int lane = (int)threadIdx.x;
    int sum = 0;
    for (int n0 = 0; n0 < batch; n0 += 32) {
        int x = n0 + lane < batch ? stages_of(request(largest, pages, n0 + lane)) : 0;
        for (int by = 1; by < 32; by *= 2) {
            const int before = shfl_up(x, (unsigned)by);
            x += lane >= by ? before : 0;
        }
        if (n0 + lane < batch)
            st_shared(&line.first[n0 + lane + 1], sum + x);
        sum += shfl(x, 31);
    }
    if (lane == 0)
        st_shared(&line.first[0], 0);
}

/// What a piece has of one request: stages begin .. end - 1 of it. Segments of all requests are numbered
/// piece + request: from one to the next one of the two grows.
struct Segment {
    int n, begin, end;
};
/// Pieces of a line, of which none is empty: a short line does not need them all.
PTX_INLINE int pieces_of(int total, int most)
{
    return smaller(total, most);
}
/// Calls f(segment, how many there were before) for those of this block of threads' piece.
template <class F> PTX_INLINE void each_segment(const Line &line, int batch, F f)
{
    const int64_t total = ld_shared(&line.first[batch]), piece = blockIdx.x;
    const int pieces = pieces_of((int)total, (int)gridDim.x);
    if (piece >= pieces)
        return;
    const int end = (int)((piece + 1) * total / pieces);
    int at = (int)(piece * total / pieces), n = 0;
    for (int number = 0; at < end; number++) {
        while (ld_shared(&line.first[n + 1]) <= at)
            n++;
        const int first = ld_shared(&line.first[n]), stop = smaller(end, ld_shared(&line.first[n + 1]));
        f(Segment{n, at - first, stop - first}, number);
        at = stop;
    }
}
/// The piece that has stage `at`.
PTX_INLINE int piece_of(int64_t at, int64_t total, int pieces)
{
    return (int)(((at + 1) * pieces - 1) / total);
}

/* ---- (2) Each segment's best ------------------------------------------------------------------------ */

template <int DI, bool small> struct Ring { ///< 160 KB
    static constexpr int places = 640 / DI;
    static constexpr uint32_t bytes = sizeof(Tile<stage, DI>);
    Tile<stage, DI> keys[places];
};
template <int DI> struct Ring<DI, true> {
    static constexpr int places = 1024 / DI;
    static constexpr uint32_t bytes = stage * DI;
    alignas(128) uint8_t keys[places][stage * DI]; ///< as in memory
    Tile<stage, DI> wide;                          ///< of the stage that is multiplied
    float scale[places][stage / least_piece];      ///< of each piece
};

template <int DI, int N, bool small> struct ScoreSmem {
    Ring<DI, small> ring;
    Tile<N, DI> queries[2];      ///< of a segment and the next one
    float top[2][stage / 16][N]; ///< of 16 keys each; two stages in turn
    float scores[N][chunk + 1];  ///< of blocks that were not offered yet
    uint64_t list[N][32];
    uint64_t full[1024 / DI], empty[1024 / DI], queries_full[2], queries_empty[2];
    Line line;
};

/// What the grid is given.
struct Job {
    Shape largest;
    Pages pages;
    int batch, rows;      ///< rows of a request: T Hkv
    uint64_t *candidates; ///< [pieces + batch - 1][rows][k - 1]
};

/// Where a stage of bf16 keys comes from: a copy is 64 channels of a piece.
template <int DI>
PTX_INLINE void load_piece(Ring<DI, false> &ring, uint64_t *full, const Job &job, const CUtensorMap *keys,
                           int place, int g, int at)
{
    const int piece = job.pages.piece;
    for (int slab = 0; slab < DI / 64; slab++)
        tma_load_2d(ring.keys[place].slab[slab] + g * piece * 64, keys, full, 64 * slab, at * piece);
}
template <int DI>
PTX_INLINE void load_piece(Ring<DI, true> &ring, uint64_t *full, const Job &job, const CUtensorMap *,
                           int place, int g, int at)
{
    const int bytes = job.pages.piece * DI;
    bulk_load(ring.keys[place] + g * bytes, job.pages.ki8 + (int64_t)at * bytes, (uint32_t)bytes, full);
}

template <int DI> PTX_INLINE void put_scale(Ring<DI, false> &, int, int, float)
{
}
template <int DI> PTX_INLINE void put_scale(Ring<DI, true> &ring, int place, int g, float scale)
{
    if (threadIdx.x % 32 == 0)
        st_shared(&ring.scale[place][g], scale);
}

/// Where pieces lie, and scales, come 32 at a time, a lane each; one lane copies. Returns whether all pages
/// exist.
template <int DI, int N, bool small>
PTX_INLINE bool produce(ScoreSmem<DI, N, small> &m, const Job &job, const CUtensorMap *queries,
                        const CUtensorMap *keys, int row0)
{
    const int lane = (int)threadIdx.x % 32, piece = job.pages.piece, pieces = stage / piece;
    int place = 0, round = 0;
    bool waited = false, good = true;
    timeline_role("producer");
    each_segment(m.line, job.batch, [&](const Segment &seg, int number) {
        const Shape s = request(job.largest, job.pages, seg.n);
        const int all = competing_blocks(s) * (s.block / piece), which = number % 2;
        int mine = 0;
        float scale = 0;
        if (lane == 0) {
            mbarrier_wait(&m.queries_empty[which], number / 2 % 2 ^ 1);
            mbarrier_arrive_expect(&m.queries_full[which], sizeof m.queries[0]);
            for (int slab = 0; slab < DI / 64; slab++)
                tma_load_2d(m.queries[which].slab[slab], queries, &m.queries_full[which], 64 * slab,
                            seg.n * job.rows + row0);
        }
        for (int at = seg.begin; at < seg.end; at++) {
            const int known = (at - seg.begin) * pieces % 32;
            if (known == 0) { // past the end there is no piece: the last one once more
                if (!waited && (at * pieces + 32) * piece > s.prefix) {
                    grid_wait(); // new tokens may be among them
                    waited = true;
                }
                mine = find_piece(job.pages, seg.n, smaller(at * pieces + lane, all - 1), good);
                scale = small ? ld_global(job.pages.scale + mine) : 0;
            }
            if (lane == 0)
                mbarrier_wait(&m.empty[place], round ^ 1);
            for (int g = 0; g < pieces && small; g++)
                put_scale(m.ring, place, g, shfl(scale, known + g));
            if (lane == 0)
                mbarrier_arrive_expect(&m.full[place], m.ring.bytes);
            for (int g = 0; g < pieces; g++) {
                const int there = shfl(mine, known + g);
                if (lane == 0)
                    load_piece(m.ring, &m.full[place], job, keys, place, g, there);
            }
            if (++place == m.ring.places)
                place = 0, round ^= 1;
        }
    });
    return good;
}

/// The keys of a place where wgmma finds them.
template <int DI> PTX_INLINE const Tile<stage, DI> &ready(Ring<DI, false> &ring, int place)
{
    return ring.keys[place];
}
/// 16 keys' channels at a time are decoded to their swizzled place; all consumers meet.
template <int DI> PTX_INLINE const Tile<stage, DI> &ready(Ring<DI, true> &ring, int place)
{
    timeline_mark("decode", 4.0 * DI);
    for (int c = (int)threadIdx.x; c < stage * DI / 16; c += consumers) {
        const int row = c / (DI / 16), column = c % (DI / 16) * 16;
        uint4 keys[2];
        decode_16(keys, ld_shared((const uint4 *)ring.keys[place] + c));
        for (int half = 0; half < 2; half++)
            st_shared(
                (uint4 *)&ring.wide.slab[column / 64][64 * row + ((column % 64 + 8 * half) ^ row % 8 * 8)],
                keys[half]);
    }
    fence_proxy_async();
    bar_sync(1, consumers);
    return ring.wide;
}

/// Scale of the piece that key `key` of a place belongs to.
template <int DI> PTX_INLINE float scale_of(const Ring<DI, false> &, int, int, int)
{
    return 1;
}
template <int DI> PTX_INLINE float scale_of(const Ring<DI, true> &ring, int place, int key, int piece)
{
    return ld_shared(&ring.scale[place][key / piece]);
}

/// Issues 64 keys times the queries.
template <int DI, int N>
PTX_INLINE void issue(float (&d)[N / 2], const Tile<stage, DI> &keys, int key, const Tile<N, DI> &queries)
{
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
}

/// The largest of each column over this warp's 16 rows.
template <int n> PTX_INLINE void column_tops(float *top, const float (&d)[n], float scale)
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

/// Offers the `count` scores of the chunk that starts at block b0; a warp has every fourth column.
template <int DI, int N, bool small>
PTX_INLINE void offer_chunk(ScoreSmem<DI, N, small> &m, const Shape &s, int row0, int b0, int count)
{
    const int lane = (int)threadIdx.x % 32, rows = s.n_q * s.n_kv_heads;
    for (int column = (int)threadIdx.x / 32; column < N && row0 + column < rows; column += warps) {
        const int local = local_block(s, (row0 + column) / s.n_kv_heads);
        WarpList list;
        list.entry = ld_shared(&m.list[column][lane]);
        list.threshold = shfl(list.entry, 31);
        offer(list, lane < count && b0 + lane < local
                        ? rank_key(ld_shared(&m.scores[column][lane]), b0 + lane)
                        : free_place);
        st_shared(&m.list[column][lane], list.entry);
    }
}

template <int DI, int N, bool small>
PTX_INLINE void consume(ScoreSmem<DI, N, small> &m, const Job &job, int row0)
{
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32, block = job.largest.block;
    const int blocks = stage / block, groups = block / 16; // blocks of a stage, groups of 16 keys of a block
    const int piece = job.pages.piece;
    int place = 0, round = 0;
    timeline_role("consumer");
    each_segment(m.line, job.batch, [&](const Segment &seg, int number) {
        const Shape s = request(job.largest, job.pages, seg.n);
        const Tile<N, DI> &queries = m.queries[number % 2];
        for (int column = warp; column < N; column += warps)
            st_shared(&m.list[column][lane], first_entry(lane, 32, s.topk, 0));
        mbarrier_wait(&m.queries_full[number % 2], number / 2 % 2);

        for (int n = 0; n < seg.end - seg.begin; n++) {
            float upper[N / 2], lower[N / 2];
            mbarrier_wait(&m.full[place], round);
            const float scale[2] = {scale_of(m.ring, place, 16 * warp, piece),
                                    scale_of(m.ring, place, 64 + 16 * warp, piece)};
            const Tile<stage, DI> &keys = ready(m.ring, place);
            issue(upper, keys, 0, queries);
            issue(lower, keys, 64, queries);
            wgmma_wait<0>();
            wgmma_pin(upper);
            wgmma_pin(lower);
            if (lane == 0)
                mbarrier_arrive(&m.empty[place]);
            if (++place == m.ring.places)
                place = 0, round ^= 1;

            float(&top)[stage / 16][N] = m.top[n % 2];
            column_tops(top[warp], upper, scale[0]);
            column_tops(top[warps + warp], lower, scale[1]);
            bar_sync(1, consumers);
            const int in_chunk = n * blocks % chunk;
            for (int a = t; a < blocks * N; a += consumers) {
                const int column = a % N, b = a / N;
                float x = minus_infinity();
                for (int g = 0; g < groups; g++)
                    x = fmaxf(x, ld_shared(&top[b * groups + g][column]));
                st_shared(&m.scores[column][in_chunk + b], x);
            }
            if (in_chunk + blocks == chunk || n == seg.end - seg.begin - 1) {
                bar_sync(1, consumers);
                offer_chunk(m, s, row0, (seg.begin + n) * blocks - in_chunk, in_chunk + blocks);
            }
        }
        if (lane == 0)
            mbarrier_arrive(&m.queries_empty[number % 2]);
        const int fixed = 33 - s.topk; // places of a list that no candidate takes
        const int64_t first = ((int64_t)blockIdx.x + seg.n) * job.rows + row0;
        for (int column = warp; column < N && row0 + column < job.rows; column += warps)
            if (lane >= fixed)
                st_global(job.candidates + (first + column) * (s.topk - 1) + lane - fixed,
                          ld_shared(&m.list[column][lane]));
    });
}

template <int DI, int N, bool small>
__global__ void __launch_bounds__(consumers + 32, 1)
    score(const __grid_constant__ CUtensorMap queries, const __grid_constant__ CUtensorMap keys, Job job)
{
    ScoreSmem<DI, N, small> &m = shared<ScoreSmem<DI, N, small>>();
    const int t = (int)threadIdx.x, row0 = (int)blockIdx.y * N;
    if (t < 32)
        lay_line(m.line, job.largest, job.pages, job.batch);
    if (t == 32) {
        for (int i = 0; i < m.ring.places; i++) {
            mbarrier_init(&m.full[i], 1);
            mbarrier_init(&m.empty[i], warps);
        }
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

/* ---- (3) Selection and attention ---------------------------------------------------------------------- */

template <int D> struct LastSmem {
    AttendSmem<D> attend;
    Line line;
};

/// The row's ids, from the candidates of its request's segments; all threads call it.
template <int D>
PTX_INLINE void select(LastSmem<D> &m, const Job &job, const Shape &s, int query, int r, int most_pieces)
{
    const int n = query / job.largest.n_q, i = query % job.largest.n_q;
    const int row = i * s.n_kv_heads + r, each = s.topk - 1;
    const int total = ld_shared(&m.line.first[job.batch]), first = ld_shared(&m.line.first[n]),
              end = ld_shared(&m.line.first[n + 1]), pieces = pieces_of(total, most_pieces);
    const int piece = end > first ? piece_of(first, total, pieces) : 0;
    const int segments = end > first ? piece_of(end - 1, total, pieces) + 1 - piece : 0;
    const uint64_t *mine = job.candidates + ((int64_t)(piece + n) * job.rows + row) * each;
    select_by_block(
        m.attend.lists, s.topk, local_block(s, i), segments * each,
        [&](int c) { return ld_global(mine + (int64_t)(c / each) * job.rows * each + c % each); },
        [&](int slot, int32_t id) { st_shared(&m.attend.ids[slot], id); });
    __syncthreads();
}

template <int D, class Out>
__global__ void __launch_bounds__(attend_threads)
    attend(Job job, int pieces, const bf16 *q, const bf16 *k, const bf16 *v, Parts parts, uint32_t *tickets,
           int32_t *ids, Out *o, float *lse)
{
    LastSmem<D> &m = shared<LastSmem<D>>();
    const int query = (int)blockIdx.z, r = (int)blockIdx.y, t = (int)threadIdx.x;
    const int n = query / job.largest.n_q, i = query % job.largest.n_q;
    const Shape s = request(job.largest, job.pages, n);
    const Part part = part_of(selected(s, i), (int)blockIdx.x, parts.count);
    if (t < 32)
        lay_line(m.line, job.largest, job.pages, job.batch);
    __syncthreads();
    grid_wait();
    if (i >= s.n_q && blockIdx.x == 0)
        pad_row(s, query, r, D, ids, o, lse);
    if (i >= s.n_q || part.first >= part.n)
        return;
    select(m, job, s, query, r, pieces);
    if (blockIdx.x == 0 && t < s.topk)
        st_global(ids + row_at(s, query, r) * s.topk + t, ld_shared(&m.attend.ids[t]));
    const int piece = job.pages.piece, each = s.block / piece;
    attend_part(m.attend, s, part, piece, r, q + q_at(s, query, r * s.group, D), k, v, [&](int g) {
        return piece_of(job.pages, n, ld_shared(&m.attend.ids[g / each]) * each + g % each);
    });
    finish_part(m.attend, s, part, query, r, parts, tickets + (int64_t)query * s.n_kv_heads + r, o, lse);
}

/* ---- The launches ----------------------------------------------------------------------------------- */

struct Work {
    Job job;
    int columns, tiles, pieces; ///< columns: wgmma's N
    Parts parts;
    uint32_t *tickets;
    size_t bytes;
};

Work lay_out(const Call &c)
{
    const Shape &s = c.s;
    const int64_t queries = (int64_t)c.batch * s.n_q, stages = ceil_div(competing_blocks(s) * s.block, stage);
    Work w;
    w.job = {s, c.pages, c.batch, s.n_q * s.n_kv_heads, nullptr};
    w.columns = w.job.rows <= 8 ? 8 : w.job.rows <= 16 ? 16 : w.job.rows <= 32 ? 32 : 64;
    w.tiles = w.job.rows > 0 ? ceil_div(w.job.rows, w.columns) : 1; // a request without queries plans too
    w.pieces = (int)std::min<int64_t>(c.batch * stages, w.tiles < sms() ? sms() / w.tiles : 1);
    w.parts.count = parts_of(c.batch * w.job.rows, smaller(s.n_kv, s.topk * s.block));
    Carve carve = {(uintptr_t)c.work};
    w.job.candidates = carve.take<uint64_t>((int64_t)(w.pieces + c.batch) * w.job.rows * (s.topk - 1));
    w.parts.ml = carve.take<float2>(queries * s.n_heads * w.parts.count);
    w.parts.o = carve.take<float>(queries * s.n_heads * w.parts.count * c.d_head);
    w.tickets = carve.take<uint32_t>(queries * s.n_kv_heads);
    w.bytes = carve.used;
    return w;
}

size_t workspace(const Call &c)
{
    return lay_out(c).bytes;
}

/// `n` rows of di channels; a copy takes 64 channels of `box` rows.
bool encode(CUtensorMap *map, const bf16 *rows, int64_t n, int di, int box)
{
    const uint64_t dim[] = {(uint64_t)di, (uint64_t)n}, pitch[] = {di * sizeof(bf16)};
    const uint32_t size[] = {64, (uint32_t)box};
    return !encode_tensor_map(map, TensorType::bf16, 2, (void *)rows, dim, pitch, size, TensorSwizzle::b128);
}

msa_status launch_score(const Call &c, const Work &w)
{
    const Shape &s = c.s;
    const bool small = c.pages.ki8 != nullptr;
    const int64_t keys_there =
        c.pages.table ? (int64_t)c.pages.n_pages * c.pages.pieces * c.pages.piece : s.n_kv;
    CUtensorMap queries, keys = {};
    if (!encode(&queries, c.a.qi, (int64_t)c.batch * w.job.rows, c.d_index, w.columns) ||
        (!small && !encode(&keys, c.a.ki, keys_there, c.d_index, c.pages.piece)))
        return MSA_ERR_DEVICE;
    with_int<64, 128>(c.d_index, [&](auto di) {
        with_int<8, 16, 32, 64>(w.columns, [&](auto n) {
            with_int<0, 1>(small, [&](auto e4m3) {
                LAUNCH_DEPENDENT((score<di.value, n.value, e4m3.value>),
                                 dim3((unsigned)w.pieces, (unsigned)w.tiles), dim3(consumers + 32),
                                 sizeof(ScoreSmem<di.value, n.value, e4m3.value>), c.stream, queries, keys,
                                 w.job);
            });
        });
    });
    return MSA_OK;
}

msa_status run(const Call &c)
{
    const Shape &s = c.s;
    if (!supported(c))
        return MSA_ERR_UNSUPPORTED;
    const Work w = lay_out(c);
    const dim3 grid((unsigned)w.parts.count, (unsigned)s.n_kv_heads, (unsigned)(c.batch * s.n_q));
    launch_begin(c, w.tickets, c.batch * w.job.rows);
    const msa_status status = w.pieces > 0 ? launch_score(c, w) : MSA_OK;
    if (status != MSA_OK)
        return status;
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH_DEPENDENT((attend<d.value, std::remove_pointer_t<decltype(o)>>), grid,
                             dim3(attend_threads), sizeof(LastSmem<d.value>), c.stream, w.job, w.pieces,
                             c.a.q, c.a.k, c.a.v, w.parts, w.tickets, c.a.ids, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(decode, swapped, run, workspace);
