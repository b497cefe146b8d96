/**
 * @file 4_kv_outer.cu
 * @brief Sparse attention with the key blocks outside: K and V of a block are loaded once for all queries that
 *        chose it.
 *
 * Idea: reverse/scan turns the selection around. A CTA takes an item of its worklist, loads K and V of one
 * block, and runs the item's queries through them, gathered by TMA, 64 / G with their G heads a tile. Each
 * (query, block) pair is a softmax of its own, whose output and LSE go to a fixed place; a second kernel
 * combines the k partial outputs of a query, so every run gives the same bits. Queries go in chunks of 4096, below
 * 256K tokens, so that Q stays in L2; of longer prompts in up to 16384, whose partials still fit.
 * Bytes of a chunk of T queries with P pairs and a worklist for C items: those of reverse/scan; read: 16 C of
 * items, 4 P of entries, for each item 4 d a key of its block, 2 G d P of Q, 2 G d P + 4 G P of partials and
 * their LSE, 4 k Hq T of ids; written: 2 G d P + 4 G P of partials and LSE, O, and 4 Hq T of LSE if asked for.
 * Floor: those bytes; at M3's sizes and 1M tokens 844 GB, and 69 more since each of 64 chunks reads K and V again,
 * against 70 TFLOP of products: 0.27 s on an H800, 0.19 on an H200.
 * Waste: partials in memory, 4 Hq k d bytes a query there and back; K and V once more every chunk; the end of
 * an item's last tile; rows 64 / G * G .. 63; an item's K and V arrive while nothing of it multiplies.
 * Machine code: a thread of the combination has up to 8 loads under way; it had one, which kept memory idle.
 * Design notes: chapter 14.
 */
#include "../kit/attend.cuh"
#include "../reverse/reverse.cuh"

#include <algorithm>

namespace
{

/* ---- Scratch --------------------------------------------------------------------------------------- */

/// A pair (query, group, slot) is numbered (query Hkv + group) k + slot.
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

PTX_INLINE int64_t pair_at(const Shape &s, int query, int group, int slot)
{
    return ((int64_t)query * s.n_kv_heads + group) * s.topk + slot;
}

/* ---- Partials: a CTA an item -------------------------------------------------------------- */

constexpr int stages = 2, consumers = 128, threads = consumers + 32;

template <int D, int N> struct Smem { ///< N keys in a block
    Tile<N, D> k, v;
    Tile<64, D> q[stages];
    uint32_t entry[stages][64]; ///< of the tile's queries
    int4 item;
    uint64_t k_full, v_full, full[stages], empty[stages];
};

/// An item and how its queries fall into tiles.
struct Work {
    int group, block, begin, end, per_tile;
};
/// Queries of a tile; 0 or less past the last one.
PTX_INLINE int queries(const Work &w, int tile)
{
    const int left = w.end - w.begin - tile * w.per_tile;
    return left < w.per_tile ? left : w.per_tile;
}

/// One warp. A lane fetches a query's entry, then G rows of Q: the queries of a block lie anywhere in the text.
template <int D, int N>
__device__ void produce(Smem<D, N> &m, const Shape &s, const Work &w, const CUtensorMap *q_map,
                        const CUtensorMap *k_map, const CUtensorMap *v_map, const uint32_t *entries)
{
    const int lane = (int)threadIdx.x % 32;
    timeline_role("producer");
    if (lane == 0) {
        mbarrier_arrive_expect(&m.k_full, sizeof m.k);
        load_kv(m.k, k_map, &m.k_full, w.group, w.block * N);
        mbarrier_arrive_expect(&m.v_full, sizeof m.v);
        load_kv(m.v, v_map, &m.v_full, w.group, w.block * N);
    }
    const uint32_t *mine = entries + (int64_t)w.group * s.capacity * s.topk + w.begin;
    for (int tile = 0; queries(w, tile) > 0; tile++, mine += w.per_tile) {
        const int stage = tile % stages, n = queries(w, tile);
        uint32_t entry[2]; // fetched while the stage is still in use
        for (int i = 0; i < 2; i++)
            entry[i] = lane + 32 * i < n ? ld_global(mine + lane + 32 * i) : 0;
        mbarrier_wait(&m.empty[stage], tile / stages % 2 ^ 1); // the consumer has multiplied its Q
        for (int i = 0; i < 2; i++)
            if (lane + 32 * i < n)
                st_shared(&m.entry[stage][lane + 32 * i], entry[i]);
        // Every lane arrives, with the bytes of its own queries; that publishes the entries too.
        mbarrier_arrive_expect(&m.full[stage], q_bytes<D>(s, (lane < n) + (lane + 32 < n)));
        for (int i = 0; i < 2; i++)
            if (lane + 32 * i < n)
                load_q(m.q[stage], q_map, &m.full[stage], s, w.group, (int)(entry[i] >> 5),
                       (lane + 32 * i) * s.group);
    }
}

/// One warpgroup.
template <int D, int N>
__device__ void consume(Smem<D, N> &m, const Shape &s, const Work &w, bf16 *partial, float *lse)
{
    const int t = (int)threadIdx.x;
    timeline_role("consumer");
    for (int tile = 0; tile < stages && queries(w, tile) > 0; tile++)
        clear_rows(m.q[tile], queries(w, tile) * s.group, t);
    bar_sync(1, consumers);
    int index[2], head[2]; // of this thread's two rows: query in the tile, head in the group
    for (int half = 0; half < 2; half++) {
        index[half] = fragment_row(t, half) / s.group;
        head[half] = fragment_row(t, half) % s.group;
    }
    mbarrier_wait(&m.k_full, 0);
    for (int tile = 0; queries(w, tile) > 0; tile++) {
        const int stage = tile % stages, n = queries(w, tile);
        float scores[N / 2], o[D / 2], keep[2];
        int64_t row[2]; // of the partials; -1 for none
        int visible[2]; // keys of the block
        mbarrier_wait(&m.full[stage], tile / stages % 2); // the tile's rows of Q and its entries
        for (int half = 0; half < 2; half++) {
            row[half] = -1;
            visible[half] = N;
            if (index[half] < n) {
                const uint32_t entry = ld_shared(&m.entry[stage][index[half]]);
                const int query = (int)(entry >> 5), slot = (int)(entry & 31);
                if (query < s.n_q && slot < s.topk) // else the ids name a block twice, and left a gap here
                    row[half] = pair_at(s, query, w.group, slot) * s.group + head[half];
                visible[half] = s.prefix + query - w.block * N + 1;
            }
        }
        issue_scores<N>(scores, m.q[stage], m.k);
        wgmma_wait<0>();
        wgmma_pin(scores);
        __syncwarp();
        if (t % 32 == 0)
            mbarrier_arrive(&m.empty[stage]); // S is made: Q's stage is released
        Softmax sum = softmax_init();
        auto sees = [&](int half, int column) { return column < visible[half]; };
        if (warp_ballot(visible[0] < N || visible[1] < N))
            // [masked]
            softmax_step<true>(sum, scores, keep, scale2<D>, sees);
            // [masked]
        else
            softmax_step<false>(sum, scores, keep, scale2<D>, sees);
        uint32_t p[N / 16][4];
        pack_weights(p, scores);
        if (tile == 0) { // V is needed only now
            mbarrier_wait(&m.v_full, 0);
            if (ends_in_padding(s, w.block * N, N)) {
                clear_rows(m.v, s.n_kv - w.block * N, t);
                bar_sync(1, consumers);
            }
        }
        issue_values(o, p, m.v, false); // a softmax of its own: nothing is carried from tile to tile
        float inverse[2], row_lse[2];
        softmax_finish_part(sum, inverse, row_lse);
        wgmma_wait<0>();
        wgmma_pin(o);
        for (int half = 0; half < 2; half++)
            if (t % 4 == 0 && row[half] >= 0)
                st_global(lse + row[half], row_lse[half]);
        write_rows<bf16>(o, inverse,
                         [&](int half) { return row[half] < 0 ? nullptr : partial + row[half] * D; });
    }
}

template <int D, int N>
__global__ void __launch_bounds__(threads, 2)
    partials(Shape s, const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
             const __grid_constant__ CUtensorMap v_map, const uint32_t *entries, const int4 *items,
             bf16 *partial, float *lse)
{
    Smem<D, N> &m = shared<Smem<D, N>>();
    if (closed(s.gate))
        return;
    s = actual(s);
    if (threadIdx.x == 0) {
        mbarrier_init(&m.k_full, 1);
        mbarrier_init(&m.v_full, 1);
        for (int i = 0; i < stages; i++) {
            mbarrier_init(&m.full[i], 32);
            mbarrier_init(&m.empty[i], consumers / 32);
        }
        fence_mbarrier_init();
        st_shared(&m.item, ld_global(items + blockIdx.x));
    }
    __syncthreads();
    const int4 item = ld_shared(&m.item);
    const Work w = {item.x, item.y, item.z, item.w, queries_per_tile(s.group)};
    if (w.group < 0) // past the worklist's end
        return;
    if (threadIdx.x < consumers)
        consume(m, s, w, partial, lse);
    else
        produce(m, s, w, &q_map, &k_map, &v_map, entries);
    grid_launch_dependents();
}

/* ---- Combination: D / 8 lanes a row of O ------------------------------------------------------------ */

constexpr int combine_threads = 128;

template <int D, class Out>
__global__ void __launch_bounds__(combine_threads)
    combine(Shape s, const int32_t *ids, const bf16 *partial, const float *partial_lse, Out *o, float *lse)
{
    s = actual(s);
    constexpr int lanes = D / 8, slots = 32 / lanes; // a lane holds 8 channels and the weights of some slots
    constexpr int together = 8;                      // partials that a thread waits for at once
    const int64_t row = ((int64_t)blockIdx.x * combine_threads + threadIdx.x) / lanes;
    const int lane = (int)threadIdx.x % lanes, leader = (int)threadIdx.x % 32 - lane;
    const bool exists = row < (int64_t)s.n_q * s.n_heads;
    const int i = exists ? (int)(row / s.n_heads) : 0, h = (int)(row % s.n_heads), r = h / s.group;
    const int64_t at = pair_at(s, i, r, 0) * s.group + h % s.group; // slot after slot, G rows apart
    const int32_t *chosen = ids + row_at(s, i, r) * s.topk;
    int n = exists ? s.topk : 0; // ids of the row
    if (closed(s.gate))
        return;
    for (int slot = lane; slot < n; slot += lanes)
        n = is_block(s, ld_global(chosen + slot)) ? n : slot;
    for (int with = 1; with < lanes; with *= 2) {
        const int other = shfl_xor(n, with);
        n = other < n ? other : n;
    }
    grid_wait();
    // [combine]
    float weight[slots], top = minus_infinity(), sum = 0;
    for (int a = 0; a < slots; a++) {
        const float *slot_lse = partial_lse + at + (a * lanes + lane) * s.group;
        weight[a] = a * lanes + lane < n ? ld_global(slot_lse) * log2_e : minus_infinity();
        top = fmaxf(top, weight[a]);
    }
    for (int with = 1; with < lanes; with *= 2)
        top = fmaxf(top, shfl_xor(top, with));
    for (int a = 0; a < slots; a++)
        sum += weight[a] = exists ? ex2(weight[a] - top) : 0;
    for (int with = 1; with < lanes; with *= 2)
        sum += shfl_xor(sum, with);
    float acc[8] = {};
    UNROLL
    for (int a = 0; a < slots; a++)
        UNROLL
    for (int first = 0; first < lanes; first += together) {
        if (a * lanes + first >= s.topk)
            break;
        bf16x8 y[together]; // all on their way before the first is needed
        UNROLL
        for (int b = 0; b < together; b++) {
            const int slot = a * lanes + first + b;
            const bf16 *source = partial + (at + slot * s.group) * D;
            y[b] = slot < n ? ld_global((const bf16x8 *)source + lane) : bf16x8{};
        }
        UNROLL
        for (int b = 0; b < together; b++) { // whatever its weight: 0 times NaN is NaN
            const float x = shfl(weight[a], leader + first + b);
            UNROLL
            for (int e = 0; e < 8; e++)
                acc[e] += x * to_float(y[b].x[e]);
        }
    }
    // [combine]
    if (!exists)
        return;
    const float f = 1 / sum;
    Out *out = o + row * D + 8 * lane;
    store_4(out, make_float4(acc[0] * f, acc[1] * f, acc[2] * f, acc[3] * f));
    store_4(out + 4, make_float4(acc[4] * f, acc[5] * f, acc[6] * f, acc[7] * f));
    if (lse && lane == 0)
        st_global(lse + row, top * ln_2 + logf(sum));
}

/* ---- The stage ------------------------------------------------------------------------------------- */

template <int D, int N> msa_status run_chunk(const Call &c)
{
    const Shape &s = c.s;
    const Scratch w = layout(s, D, c.work);
    CUtensorMap q, k, v;
    if (q_map(&q, s, c.a.q, D, 1) != MSA_OK || kv_map(&k, s, c.a.k, D, N) != MSA_OK ||
        kv_map(&v, s, c.a.v, D, N) != MSA_OK)
        return MSA_ERR_DEVICE;
    ON_SIDE(reverse, launch)(s, c.a.ids, w.first, w.entries, w.items, w.reverse, c.stream);
    LAUNCH((partials<D, N>), dim3((unsigned)reverse_items(s)), dim3(threads), sizeof(Smem<D, N>), c.stream, s,
           q, k, v, w.entries, (const int4 *)w.items, w.partial, w.lse);
    const int64_t lanes = (int64_t)s.n_q * s.n_heads * (D / 8);
    with_output(c, [&](auto *o) {
        LAUNCH_DEPENDENT((combine<D, std::remove_pointer_t<decltype(o)>>),
                         dim3((unsigned)ceil_div(lanes, (int64_t)combine_threads)), dim3(combine_threads), 0,
                         c.stream, s, c.a.ids, w.partial, w.lse, o, c.a.lse);
    });
    return MSA_OK;
}

/// Queries of a chunk: a chunk reads K and V again, so long prompts have longer ones.
int chunk_length(const Call &c)
{
    const int least = tuned(MSA_TUNE_kv_outer_chunk), most = tuned(MSA_TUNE_kv_outer_chunk_most);
    return std::min({c.s.n_q, std::max(least, c.s.n_kv / 64), most});
}

size_t workspace(const Call &call) // of the largest chunk: the last
{
    const Call c = with_items(call, tuned(MSA_TUNE_kv_outer_item));
    const int n = chunk_length(c);
    return n > 0 ? layout(chunk_of(c, c.s.n_q - n, n).s, c.d_head, nullptr).bytes : 0;
}

msa_status run(const Call &call)
{
    const Call c = with_items(call, tuned(MSA_TUNE_kv_outer_item));
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
