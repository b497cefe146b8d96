/**
 * @file 3_swapped.cu
 * @brief One step of generation on tensor cores, with the index product's operands swapped.
 *
 * What it does, in four launches: (1) wgmma's M = 64 rows are keys and its N columns are the T Hkv index
 * queries, rounded up to 8, 16, 32 or 64. A split is a run of stages of 128 keys that one SM streams by
 * TMA through a ring; the largest row of each block is a maximum over accumulators, lanes and warps, and
 * after every 32 blocks the warps offer those to lists of the best, a list a column. A split leaves k - 1
 * candidates a row, never scores. (2) A block of 8 warps selects each row from the splits' candidates:
 * any of the best k - 1 of all is among the best k - 1 of its split. (3) Attention by mma.sync, the G
 * heads of a group as 16 rows: four warps take 16 keys each of 64, and add their results up; several
 * blocks of threads may share a row. (4) A warp merges the parts of a head.
 *
 * Why better: with queries as M, T = 1 and 4 groups would use 4 rows of 64; as N they use 4 columns of 8.
 * A stage costs 16 products of about 16 clocks each (reading the keys from shared memory), its 32 KB take
 * about 2300 clocks of memory's time (3.35 TB/s over 132 SMs at 1.8 GHz). Scores never leave the SM.
 *
 * Its floor: the step's bytes, 2 di N + 2 Hkv dh 2 k Bk (contract, section 4): at S = 1M and M3's sizes
 * 272 MB, 0.08 ms at 3.35 TB/s. Index keys are read once for every 64 rows of selection; all else is under 1%
 * of that at T = 1.
 *
 * What it wastes: three launches follow the first one by one (programmatic dependent launch is a later
 * step); the lists grow one entry at a time, k (1 + ln(n / k)) times a row and split of n blocks, which
 * the ring hides only as long as it is full; G < 16 heads pad 16 rows; P is rounded to bf16.
 *
 * Predicted, with N = 128 ceil(last Bk / 128) keys to score (last: the last query's local block; 0 if k =
 * 1), P = ceil(T Hkv / 64) passes, X = min(N / 128, 132 / P) splits, n = selected(i) tokens in c = ceil(n
 * / parts.tokens) parts, bytes:
 *  - (1) loads 2 di (P min(N, S) + X T Hkv) by TMA, stores 8 X (k - 1) a row;
 *  - (2) loads 8 X (k - 1) and stores 4 k a row;
 *  - (3) loads c (4 ceil(n / Bk) + 2 dh G) + 4 dh n a row, stores (8 + 4 dh) c a head;
 *  - (4) loads (16 + 4 dh) c a head, stores O and LSE.
 */
#include "../attend.cuh"
#include "../warp_attend.cuh"
#include "decode.cuh"

namespace
{

constexpr int sms = 132; // what splits are counted for
constexpr int warps = 4, consumers = 32 * warps, stage = 128, chunk = 32;
template <int DI> constexpr int ring = 640 / DI; // 160 KB

/* ---- (1) Each split's best -------------------------------------------------------------------------- */

template <int DI, int N> struct ScoreSmem {
    Tile<stage, DI> keys[ring<DI>];
    Tile<N, DI> queries;
    float top[2][stage / 16][N]; ///< of 16 keys each; two stages in turn
    float scores[N][chunk + 1];  ///< of blocks that were not offered yet
    uint64_t list[N][32];
    uint64_t full[ring<DI>], empty[ring<DI>], queries_full;
};

template <int DI, int N>
PTX_INLINE void produce(ScoreSmem<DI, N> &m, const CUtensorMap *queries, const CUtensorMap *keys, int row0,
                        int first, int end)
{
    timeline_role("producer");
    mbarrier_arrive_expect(&m.queries_full, sizeof m.queries);
    for (int slab = 0; slab < DI / 64; slab++)
        tma_load_2d(m.queries.slab[slab], queries, &m.queries_full, 64 * slab, row0);
    for (int n = 0; n < end - first; n++) {
        const int place = n % ring<DI>;
        mbarrier_wait(&m.empty[place], n / ring<DI> % 2 ^ 1);
        mbarrier_arrive_expect(&m.full[place], sizeof m.keys[0]);
        for (int slab = 0; slab < DI / 64; slab++)
            tma_load_2d(m.keys[place].slab[slab], keys, &m.full[place], 64 * slab, (first + n) * stage);
    }
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
template <int n> PTX_INLINE void column_tops(float *top, const float (&d)[n])
{
    const int lane = (int)threadIdx.x % 32;
    timeline_mark("maximum", 4 * n);             // 64 n comparisons, 16 a clock
    for (int i = 0; i < n; i += i % 2 ? 3 : 1) { // 0 1 4 5 ...: the row 8 further down is i + 2
        float x = fmaxf(d[i], d[i + 2]);
        for (int with = 4; with < 32; with *= 2) // lanes that hold the same columns
            x = fmaxf(x, shfl_xor(x, with));
        if (lane < 4)
            st_shared(top + fragment_d(lane, i).col, x);
    }
}

/// Offers the `count` scores of the chunk that starts at block b0; a warp has every fourth column.
template <int DI, int N>
PTX_INLINE void offer_chunk(ScoreSmem<DI, N> &m, const Shape &s, int row0, int b0, int count)
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

template <int DI, int N>
PTX_INLINE void consume(ScoreSmem<DI, N> &m, const Shape &s, int row0, int first, int end)
{
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const int blocks = stage / s.block,
              groups = s.block / 16; // blocks of a stage, groups of 16 keys of a block
    timeline_role("consumer");
    for (int column = warp; column < N; column += warps)
        st_shared(&m.list[column][lane], first_entry(lane, 32, s.topk, 0));
    mbarrier_wait(&m.queries_full, 0);

    for (int n = 0; n < end - first; n++) {
        const int place = n % ring<DI>;
        float upper[N / 2], lower[N / 2];
        mbarrier_wait(&m.full[place], n / ring<DI> % 2);
        issue(upper, m.keys[place], 0, m.queries);
        issue(lower, m.keys[place], 64, m.queries);
        wgmma_wait<0>();
        wgmma_pin(upper);
        wgmma_pin(lower);
        if (lane == 0)
            mbarrier_arrive(&m.empty[place]);

        float(&top)[stage / 16][N] = m.top[n % 2];
        column_tops(top[warp], upper);
        column_tops(top[warps + warp], lower);
        bar_sync(1, consumers);
        const int in_chunk = n * blocks % chunk;
        for (int a = t; a < blocks * N; a += consumers) {
            const int column = a % N, b = a / N;
            float x = minus_infinity();
            for (int g = 0; g < groups; g++)
                x = fmaxf(x, ld_shared(&top[b * groups + g][column]));
            st_shared(&m.scores[column][in_chunk + b], x);
        }
        if (in_chunk + blocks == chunk || n == end - first - 1) {
            bar_sync(1, consumers);
            offer_chunk(m, s, row0, (first + n) * blocks - in_chunk, in_chunk + blocks);
        }
    }
}

/// candidates [T Hkv][splits][k - 1].
template <int DI, int N>
__global__ void __launch_bounds__(consumers + 32, 1)
    score(const __grid_constant__ CUtensorMap queries, const __grid_constant__ CUtensorMap keys, Shape s,
          uint64_t *candidates, int stages)
{
    ScoreSmem<DI, N> &m = shared<ScoreSmem<DI, N>>();
    const int t = (int)threadIdx.x, lane = t % 32, row0 = (int)blockIdx.y * N;
    const int splits = (int)gridDim.x, split = (int)blockIdx.x;
    const int first = (int)((int64_t)split * stages / splits),
              end = (int)((int64_t)(split + 1) * stages / splits);
    if (t == 0) {
        for (int i = 0; i < ring<DI>; i++) {
            mbarrier_init(&m.full[i], 1);
            mbarrier_init(&m.empty[i], warps);
        }
        mbarrier_init(&m.queries_full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (t >= consumers) {
        if (t == consumers)
            produce(m, &queries, &keys, row0, first, end);
        return;
    }
    consume(m, s, row0, first, end);
    const int fixed = 33 - s.topk; // places of a list that no candidate takes
    for (int column = t / 32; column < N && row0 + column < s.n_q * s.n_kv_heads; column += warps)
        if (lane >= fixed)
            st_global(candidates + ((int64_t)(row0 + column) * splits + split) * (s.topk - 1) + lane - fixed,
                      ld_shared(&m.list[column][lane]));
}

/* ---- (2) Selection ---------------------------------------------------------------------------------- */

constexpr int select_warps = 8;
struct SelectSmem {
    uint64_t lists[select_warps][32];
};

/// From n candidates a row.
__global__ void __launch_bounds__(32 * select_warps)
    select(Shape s, const uint64_t *candidates, int32_t *ids, int n)
{
    const int row = (int)blockIdx.x, i = row / s.n_kv_heads, r = row % s.n_kv_heads;
    select_by_block(shared<SelectSmem>().lists, ids + row_at(s, i, r) * s.topk, s.topk, local_block(s, i), n,
                    [&](int c) { return ld_global(candidates + (int64_t)row * n + c); });
}

/* ---- (3) Attention to a part of the selected tokens ------------------------------------------------- */

constexpr int step = 16 * warps; // tokens at a time

template <int D> struct AttendSmem {
    WarpTile<most_group, D> q;
    WarpTile<step, D> k[2], v[2];
    alignas(16) float o[warps][most_group][D + 8];
    float m[warps][most_group], l[warps][most_group];
    int32_t ids[most_blocks];
};

/// What a warp found goes to shared memory.
template <int D> PTX_INLINE void publish(AttendSmem<D> &m, const Softmax &a, const float (&o)[D / 2])
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row(lane, half);
        float l = a.l[half];
        l += shfl_xor(l, 1);
        l += shfl_xor(l, 2);
        if (lane % 4 == 0) {
            st_shared(&m.m[warp][row], a.m[half]);
            st_shared(&m.l[warp][row], l);
        }
        for (int i = 2 * half; i < D / 2; i += 4)
            st_shared((float2 *)&m.o[warp][row][fragment_d(lane, i).col], make_float2(o[i], o[i + 1]));
    }
}

/// The warps' sum goes to part number `part` of head 0 of the group, and so on.
template <int D> PTX_INLINE void add_up(AttendSmem<D> &m, int group, const Parts &parts, int64_t part)
{
    for (int a = (int)threadIdx.x; a < group * (D / 4); a += consumers) {
        const int h = a / (D / 4), c = a % (D / 4) * 4;
        float top = minus_infinity(), l = 0;
        for (int w = 0; w < warps; w++)
            top = fmaxf(top, ld_shared(&m.m[w][h]));
        float4 sum = make_float4(0, 0, 0, 0);
        for (int w = 0; w < warps; w++) {
            const float weight = ex2(ld_shared(&m.m[w][h]) - top);
            const float4 o = ld_shared((const float4 *)&m.o[w][h][c]);
            sum = make_float4(sum.x + weight * o.x, sum.y + weight * o.y, sum.z + weight * o.z,
                              sum.w + weight * o.w);
            l += weight * ld_shared(&m.l[w][h]);
        }
        const int64_t at = part + (int64_t)h * parts.count;
        st_global((float4 *)(parts.o + at * D + c), sum);
        if (c == 0)
            st_global(parts.ml + at, make_float2(top, l));
    }
}

template <int D>
__global__ void __launch_bounds__(consumers)
    attend(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *ids, Parts parts)
{
    AttendSmem<D> &m = shared<AttendSmem<D>>();
    const int r = (int)blockIdx.y, i = (int)blockIdx.z, t = (int)threadIdx.x, warp = t / 32;
    const int n = selected(s, i), first = (int)blockIdx.x * parts.tokens,
              end = smaller(n, first + parts.tokens);
    if (first >= n)
        return;
    if (t < ceil_div(n, s.block))
        st_shared(&m.ids[t], ld_global(ids + row_at(s, i, r) * s.topk + t));
    __syncthreads();

    auto fetch = [&](int a, int place) { // tokens a .. a + step - 1 of the selection; zeros past its end
        auto row_of = [&](const bf16 *kv, int row) {
            const int token = a + row;
            return token < end
                       ? kv + kv_at(s,
                                    (int64_t)ld_shared(&m.ids[token / s.block]) * s.block + token % s.block,
                                    r, D)
                       : nullptr;
        };
        copy_rows<consumers>(m.k[place], t, [&](int row) { return row_of(k, row); });
        copy_rows<consumers>(m.v[place], t, [&](int row) { return row_of(v, row); });
        cp_async_commit();
    };
    copy_rows<consumers>(
        m.q, t, [&](int row) { return row < s.group ? q + q_at(s, i, r * s.group + row, D) : nullptr; });
    fetch(first, 0);

    Softmax softmax = softmax_begin();
    float o[D / 2] = {};
    for (int a = first, place = 0; a < end; a += step, place ^= 1) {
        if (a + step < end)
            fetch(a + step, place ^ 1);
        else
            cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        uint32_t my_q[D / 16][4], p[1][4];
        float x[8], keep[2];
        load_queries(my_q, m.q, 0);
        warp_scores(x, my_q, m.k[place], 16 * warp);
        softmax_step<true>(softmax, x, keep, scale2<D>,
                           [&](int, int column) { return a + 16 * warp + column < end; });
        rescale(o, keep);
        pack_weights(p, x);
        warp_values(o, p, m.v[place], 16 * warp);
        __syncthreads();
    }
    publish(m, softmax, o);
    __syncthreads();
    add_up(m, s.group, parts, lse_at(s, i, r * s.group) * parts.count + blockIdx.x);
}

/* ---- The launches ----------------------------------------------------------------------------------- */

struct Work {
    int rows, columns, tiles, stages, splits; ///< columns: wgmma's N
    uint64_t *candidates;
    Parts parts;
    size_t bytes;
};

Work lay_out(const Call &c)
{
    const Shape &s = c.s;
    Work w;
    w.rows = s.n_q * s.n_kv_heads;
    w.columns = w.rows <= 8 ? 8 : w.rows <= 16 ? 16 : w.rows <= 32 ? 32 : 64;
    w.tiles = ceil_div(w.rows, w.columns);
    w.stages = ceil_div(competing_blocks(s) * s.block, stage);
    w.splits = smaller(w.stages, w.tiles < sms ? sms / w.tiles : 1);

    // Two blocks of threads share an SM: enough parts for all, and no more than one for `step` tokens.
    const int steps = ceil_div(s.topk * s.block, step), steps_of_part = ceil_div(w.rows * steps, 2 * sms);
    const int64_t heads = (int64_t)s.n_q * s.n_heads;
    w.parts.count = ceil_div(steps, steps_of_part);
    w.parts.tokens = step * steps_of_part;
    Carve carve = {(uintptr_t)c.work};
    w.candidates = carve.take<uint64_t>((int64_t)w.rows * w.splits * (s.topk - 1));
    w.parts.ml = carve.take<float2>(heads * w.parts.count);
    w.parts.o = carve.take<float>(heads * w.parts.count * c.d_head);
    w.bytes = carve.used;
    return w;
}

size_t workspace(const Call &c)
{
    return lay_out(c).bytes;
}

/// `n` rows of di channels; a copy takes 64 channels of `box` rows.
bool encode(CUtensorMap *map, const bf16 *rows, int n, int di, int box)
{
    const uint64_t dim[] = {(uint64_t)di, (uint64_t)n}, pitch[] = {di * sizeof(bf16)};
    const uint32_t size[] = {64, (uint32_t)box};
    return !encode_tensor_map(map, TensorType::bf16, 2, (void *)rows, dim, pitch, size, TensorSwizzle::b128);
}

msa_status run(const Call &c)
{
    const Shape &s = c.s;
    if (!supported(s))
        return MSA_ERR_UNSUPPORTED;
    const Work w = lay_out(c);
    if (w.splits > 0) {
        CUtensorMap queries, keys;
        if (!encode(&queries, c.a.qi, w.rows, c.d_index, w.columns) ||
            !encode(&keys, c.a.ki, s.n_kv, c.d_index, stage))
            return MSA_ERR_DEVICE;
        with_int<64, 128>(c.d_index, [&](auto di) {
            with_int<8, 16, 32, 64>(w.columns, [&](auto n) {
                LAUNCH((score<di.value, n.value>), dim3((unsigned)w.splits, (unsigned)w.tiles),
                       dim3(consumers + 32), sizeof(ScoreSmem<di.value, n.value>), c.stream, queries, keys, s,
                       w.candidates, w.stages);
            });
        });
    }
    LAUNCH(select, dim3((unsigned)w.rows), dim3(32 * select_warps), sizeof(SelectSmem), c.stream, s,
           w.candidates, c.a.ids, w.splits * (s.topk - 1));
    with_int<64, 128>(c.d_head, [&](auto d) {
        LAUNCH((attend<d.value>), dim3((unsigned)w.parts.count, (unsigned)s.n_kv_heads, (unsigned)s.n_q),
               dim3(consumers), sizeof(AttendSmem<d.value>), c.stream, s, c.a.q, c.a.k, c.a.v, c.a.ids,
               w.parts);
        launch_merge<d.value>(c, w.parts);
    });
    return MSA_OK;
}

} // namespace

ENTRY(decode, swapped, run, workspace);
