/**
 * @file 3_union.cu
 * @brief Sparse attention on Hopper: neighbouring queries walk the union of their blocks together.
 *
 * Idea: dense/hopper with another list of keys. Two tiles of 64 / G queries times G heads share a ring of
 * blocks; the producer warp merges the queries' ascending ids while it loads, and rows whose query did not
 * choose a block see nothing of it. A block that several neighbours chose is loaded once, and their rows fill
 * a tile of 64 for wgmma. A CTA stays on its SM and takes each 132nd pair of tiles: ids, the first K and V and, when
 * the last S has been made, Q of the next pair come while this one is finished. K and V have barriers of their own.
 * Bytes, exactly: 2 Hq T dh of Q, as much of O in bf16, 4 Hq T of LSE; 4 for each id, read once, and for the
 * -1 after a short row; for each pair 4 dh a token of its union: T/2 Hkv union8 Bk dh of K and V at G = 16.
 * Floor: union4 / k times the useful products at 4096 operations a clock and SM; L2: 32 bytes a clock at dh
 * 128.
 * Estimate: for 16384 queries at M3's sizes, structured selections, 3.2 ms on an H800, 2.2 on an H200 (make
 * chapter N=14).
 * Waste: up to 4 times the products where neighbours disagree; rows past 64 / G * G; hidden keys of local
 * blocks; the start of each run of blocks without a gap and the end of a pair, while the other tile multiplies if it
 * is not there too. What was dropped, and why: chapter 14, design notes.
 */
#include "../kit/attend.cuh"

namespace
{

constexpr int consumers = 2, threads = 128 * (1 + consumers);
constexpr uint32_t no_block = ~0u; ///< after the last block

/// A block of the union, and which of a tile's queries chose it: number i if bit i % 32 of chosen[i / 32] is
/// set. It sees `seen` + i keys of the block, or all.
struct alignas(16) Choice {
    uint32_t chosen[2], block;
    int seen;
};

template <int D, int block> struct Stage {
    Tile<block, D> k, v;
};
template <int D, int block> struct Smem {
    static constexpr int fitting = (192 << 10) / sizeof(Stage<D, block>), stages = fitting < 8 ? fitting : 8;
    Tile<64, D> q[consumers];
    Stage<D, block> ring[stages];
    Choice choice[stages][consumers];
    uint64_t q_full, q_empty, padded_v, k_full[stages], k_empty[stages], v_full[stages], v_empty[stages];
    /// Queries, pairs of tiles of a group and of all, blocks, keys before padding, keys before the first query: there are
    /// no registers left for what is not known at the launch.
    int n_q, group_pairs, pairs, n_blocks, last, prefix;
};

/// Two tiles that walk together: number `n` of this CTA's.
struct Pair {
    int group, first; ///< the first of its queries
};
template <int D, int block>
PTX_INLINE bool pair_of(const Smem<D, block> &smem, int queries, int n, Pair &pair)
{
    const int number = (int)blockIdx.x + n * (int)gridDim.x, of_group = ld_shared(&smem.group_pairs);
    pair.group = number / of_group;
    pair.first = number % of_group * consumers * queries;
    return number < ld_shared(&smem.pairs);
}

/* ---- The producer: one warp, which merges the ids of all queries as it loads ------------------------- */

/// Where a lane is in the ascending ids of one query.
struct Cursor {
    const int32_t *next, *end;
    uint32_t block; ///< the smallest that is not walked yet
};
PTX_INLINE void advance(Cursor &c, int n_blocks)
{
    const int id = c.next < c.end ? ld_global(c.next++) : -1;
    c.block = id >= 0 && id < n_blocks ? (uint32_t)id : no_block;
}

/// The cursors of queries lane and 32 + lane of each tile.
using Cursors = Cursor[consumers][2];
template <int D, int block>
PTX_INLINE void begin_walk(Cursors &cursor, const Shape &s, const Smem<D, block> &smem, const Pair &pair,
                           const int32_t *ids)
{
    const int lane = (int)threadIdx.x, queries = queries_per_tile(s.group);
    for (int c = 0; c < consumers; c++)
        for (int word = 0; word < 2; word++) {
            const int number = 32 * word + lane, i = pair.first + c * queries + number;
            const bool exists = number < queries && i < ld_shared(&smem.n_q);
            const int32_t *const row = ids + (exists ? row_at(s, i, pair.group) * s.topk : 0);
            cursor[c][word] = {row, exists ? row + s.topk : row, no_block};
            advance(cursor[c][word], ld_shared(&smem.n_blocks));
        }
}

/// One lane: Q of the tiles, when the products of the tiles before are done with theirs.
template <int D, int block>
PTX_INLINE void ask_for_q(const Shape &s, Smem<D, block> &smem, const CUtensorMap *map_q, const Pair &pair,
                          int walk)
{
    const int queries = queries_per_tile(s.group), second = pair.first + queries;
    const uint32_t bytes = q_bytes<D>(s, queries);
    mbarrier_wait(&smem.q_empty, walk % 2 ^ 1);
    mbarrier_arrive_expect(&smem.q_full, second < ld_shared(&smem.n_q) ? 2 * bytes : bytes);
    load_q(smem.q[0], map_q, &smem.q_full, s, pair.group, pair.first);
    if (second < ld_shared(&smem.n_q))
        load_q(smem.q[1], map_q, &smem.q_full, s, pair.group, second);
}

/// The whole warp: K and V of block b of the union, or its end, which takes a stage without bytes.
template <int D, int block>
PTX_INLINE void bring(Smem<D, block> &smem, const CUtensorMap *map_k, const CUtensorMap *map_v,
                      const Pair &pair, const Choice (&choice)[consumers], int n)
{
    constexpr int stages = Smem<D, block>::stages;
    Stage<D, block> &stage = smem.ring[n % stages];
    const int lane = (int)threadIdx.x, key = (int)choice[0].block * block;
    const bool more = choice[0].block != no_block, padded = more && key + block > ld_shared(&smem.last);
    uint64_t *const k_full = &smem.k_full[n % stages], *const v_full = &smem.v_full[n % stages];
    if (lane == 0) {
        mbarrier_wait(&smem.k_empty[n % stages], n / stages % 2 ^ 1); // both tiles have released it
        for (int c = 0; c < consumers; c++)
            st_shared(&smem.choice[n % stages][c], choice[c]);
        mbarrier_arrive_expect(k_full, more ? sizeof stage.k : 0); // publishes the choices too
        if (more)
            load_kv(stage.k, map_k, k_full, pair.group, key);
        mbarrier_wait(&smem.v_empty[n % stages], n / stages % 2 ^ 1);
        if (!padded)
            mbarrier_arrive_expect(v_full, more ? sizeof stage.v : 0);
        if (more && !padded)
            load_kv(stage.v, map_v, v_full, pair.group, key);
    }
    if (padded) {
        __syncwarp();
        load_last_values(stage.v, map_v, &smem.padded_v, pair.group, key, ld_shared(&smem.last));
        if (lane == 0) {
            mbarrier_arrive(&smem.padded_v); // a phase for nobody: the next copy waits for the same parity
            mbarrier_arrive(v_full);
        }
    }
}

template <int D, int block>
PTX_INLINE void produce(const Shape &s, Smem<D, block> &smem, const CUtensorMap *map_q,
                        const CUtensorMap *map_k, const CUtensorMap *map_v, const int32_t *ids)
{
    const int lane = (int)threadIdx.x, queries = queries_per_tile(s.group);
    int n = 0;
    Pair pair;
    timeline_role("producer");
    for (int walk = 0; pair_of(smem, queries, walk, pair); walk++) {
        Cursors cursor;
        begin_walk(cursor, s, smem, pair, ids);
        for (bool more = true, first = true; more; n++, first = false) {
            // [merge_ids]
            uint32_t b = no_block;
            for (int c = 0; c < consumers; c++)
                for (int word = 0; word < 2; word++)
                    b = cursor[c][word].block < b ? cursor[c][word].block : b;
            b = warp_min(b);
            more = b != no_block;
            Choice choice[consumers];
            for (int c = 0; c < consumers; c++) {
                choice[c].block = b;
                for (int word = 0; word < 2; word++) {
                    const bool chosen = more && cursor[c][word].block == b;
                    choice[c].chosen[word] = warp_ballot(chosen);
                    if (chosen)
                        advance(cursor[c][word], ld_shared(&smem.n_blocks));
                }
            }
            // [merge_ids]
            for (int c = 0; c < consumers; c++)
                choice[c].seen = ld_shared(&smem.prefix) + pair.first + c * queries + 1 - (int)b * block;
            bring(smem, map_k, map_v, pair, choice, n);
            if (first && lane == 0) // after the first K, for which there may be room before Q has any
                ask_for_q(s, smem, map_q, pair, walk);
        }
    }
}

/* ---- The consumers: a warpgroup each, a tile each ----------------------------------------------------- */

/// Waits for K of the n-th block and says who of tile c chose it.
template <int D, int block> PTX_INLINE Choice wait_stage(Smem<D, block> &smem, int n, int c)
{
    constexpr int stages = Smem<D, block>::stages;
    mbarrier_wait(&smem.k_full[n % stages], n / stages % 2);
    const Choice choice = ld_shared(&smem.choice[n % stages][c]);
    // Reductions of equal values, which tell the compiler that branches on them are uniform.
    return Choice{
        {warp_max(choice.chosen[0]), warp_max(choice.chosen[1])}, warp_max(choice.block), choice.seen};
}

/// From products in x to P; number: of the query of the thread's rows.
template <int D, int block>
PTX_INLINE void weigh(Softmax &softmax, float (&x)[block / 2], float (&keep)[2], const Choice &choice,
                      const int (&number)[2])
{
    int sees[2]; // keys of the block that a row sees
    for (int half = 0; half < 2; half++) {
        const uint32_t chosen = number[half] < 32 ? choice.chosen[0] : choice.chosen[1];
        sees[half] = chosen >> number[half] % 32 & 1 ? choice.seen + number[half] : 0;
    }
    auto visible = [&](int half, int column) { return column < sees[half]; };
    if (warp_ballot(sees[0] < block || sees[1] < block))
        // [masked]
        softmax_step<true>(softmax, x, keep, scale2<D>, visible);
        // [masked]
    else
        softmax_step<false>(softmax, x, keep, scale2<D>, visible);
}

/// O and LSE of the tile's rows.
template <int D, class Out>
PTX_INLINE void epilogue(const Shape &s, int group, int first, int n_q, const Softmax &softmax,
                         const float (&acc)[D / 2], const int (&number)[2], Out *o, float *lse)
{
    const int t = (int)threadIdx.x % 128, queries = queries_per_tile(s.group);
    float inverse[2], z[2];
    softmax_finish(softmax, inverse, z);
    int64_t at[2]; // number of the row in LSE, -1 for none
    for (int half = 0; half < 2; half++) {
        const int i = first + number[half], h = group * s.group + fragment_row(t, half) % s.group;
        at[half] = number[half] < queries && i < n_q ? lse_at(s, i, h) : -1;
        if (lse && t % 4 == 0 && at[half] >= 0)
            st_global(lse + at[half], z[half]);
    }
    write_rows<Out>(acc, inverse, [&](int half) { return at[half] < 0 ? nullptr : o + at[half] * D; });
}

/// The two tiles multiply in turns.
PTX_INLINE void take_turn(int c)
{
    bar_sync(turn(c), 256);
}
PTX_INLINE void pass_turn(int c)
{
    bar_arrive(turn(1 - c), 256);
}
PTX_INLINE void release(uint64_t *barrier) ///< by each warp
{
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(barrier);
}

/// Tile c of a pair, whose blocks begin with the n-th; returns with the number of the block after its last.
template <int D, int block>
PTX_INLINE int multiply(Smem<D, block> &smem, int c, int n, const int (&number)[2], Softmax &softmax,
                        float (&acc)[D / 2])
{
    constexpr int stages = Smem<D, block>::stages;
    float x[block / 2], keep[2];
    uint32_t p[block / 16][4];
    auto wait = [&](int n) { return wait_stage(smem, n, c); };
    auto wait_v = [&](int n) { mbarrier_wait(&smem.v_full[n % stages], n / stages % 2); };
    for (;; n++) { // a run of blocks that this tile wants, one after the other
        Choice choice = wait(n);
        if (!(choice.chosen[0] | choice.chosen[1])) { // the other tile's, or the end
            const bool end = choice.block == no_block;
            if (!end) { // only the turn and the stage pass
                take_turn(c);
                pass_turn(c);
            }
            wait_v(n); // else the release may count for the block before
            release(&smem.k_empty[n % stages]);
            release(&smem.v_empty[n % stages]);
            if (end)
                return n + 1;
            continue;
        }
        take_turn(c);
        issue_scores<block>(x, smem.q[c], smem.ring[n % stages].k); // the run's first S, which nothing hides
        pass_turn(c);
        wgmma_wait<0>();
        wgmma_pin(x);
        release(&smem.k_empty[n % stages]);
        weigh<D, block>(softmax, x, keep, choice, number);
        rescale(acc, keep);
        pack_weights(p, x);
        wait_v(n);
        while (choice = wait(n + 1), choice.chosen[0] | choice.chosen[1]) { // as long as no block is skipped
            take_turn(c); // from here on as in dense/4_hopper.cu
            issue_scores<block>(x, smem.q[c], smem.ring[(n + 1) % stages].k);
            issue_values(acc, p, smem.ring[n % stages].v, true);
            pass_turn(c);
            wgmma_wait<1>(); // S of block n + 1; P V of block n goes on under the exponentials
            wgmma_pin(x);
            release(&smem.k_empty[(n + 1) % stages]);
            weigh<D, block>(softmax, x, keep, choice, number);
            wgmma_wait<0>();
            wgmma_pin(acc);
            wgmma_pin(p);
            release(&smem.v_empty[n % stages]);
            n++;
            rescale(acc, keep);
            pack_weights(p, x);
            wait_v(n);
        }
        issue_values(acc, p, smem.ring[n % stages].v, true); // the run's last P V
        wgmma_wait<0>();
        wgmma_pin(acc);
        wgmma_pin(p);
        release(&smem.v_empty[n % stages]);
    }
}

template <int D, int block, class Out>
PTX_INLINE void consume(const Shape &s, Smem<D, block> &smem, int c, Out *o, float *lse)
{
    const int t = (int)threadIdx.x % 128, queries = queries_per_tile(s.group);
    int number[2], n = 0; // of the query of the thread's rows
    for (int half = 0; half < 2; half++)
        number[half] = fragment_row(t, half) / s.group;
    timeline_role("consumer");
    if (c == 1)
        pass_turn(c); // consumer 0 begins
    Pair pair;
    for (int walk = 0; pair_of(smem, queries, walk, pair); walk++) {
        Softmax softmax = softmax_init();
        float acc[D / 2] = {};
        mbarrier_wait(&smem.q_full, walk % 2);
        n = multiply(smem, c, n, number, softmax, acc);
        release(&smem.q_empty);
        pair_of(smem, queries, walk, pair);
        epilogue<D, Out>(s, pair.group, pair.first + c * queries, ld_shared(&smem.n_q), softmax, acc, number,
                         o, lse);
    }
    if (c == 0)
        take_turn(c); // the last that consumer 1 passes: no arrival is left over
}

template <int D, int block, class Out>
__global__ void __launch_bounds__(threads, 1)
    walk_union(Shape s, const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
               const __grid_constant__ CUtensorMap map_v, const int32_t *ids, Out *o, float *lse)
{
    Smem<D, block> &smem = shared<Smem<D, block>>();
    // A reduction of equal values tells the compiler that it is uniform.
    const int c = (int)warp_max(threadIdx.x / 128) - 1; // consumer, or -1
    if (closed(s.gate))
        return;
    s = actual(s);
    prefetch_maps(map_q, map_k, map_v);
    if (threadIdx.x == 0) {
        const int pairs = ceil_div(s.n_q, consumers * queries_per_tile(s.group));
        mbarrier_init(&smem.q_full, 1);
        mbarrier_init(&smem.q_empty, 8);
        mbarrier_init(&smem.padded_v, 1);
        st_shared(&smem.n_q, s.n_q);
        st_shared(&smem.group_pairs, pairs > 0 ? pairs : 1);
        st_shared(&smem.pairs, pairs * s.n_kv_heads);
        st_shared(&smem.n_blocks, s.n_blocks);
        st_shared(&smem.prefix, s.prefix);
        st_shared(&smem.last, s.padding.len_q || s.padding.len_kv ? s.n_kv : INT32_MAX);
        for (int i = 0; i < Smem<D, block>::stages; i++) {
            mbarrier_init(&smem.k_full[i], 1);
            mbarrier_init(&smem.v_full[i], 1);
            mbarrier_init(&smem.k_empty[i], 8); // warps that read it
            mbarrier_init(&smem.v_empty[i], 8);
        }
        fence_mbarrier_init();
    }
    if (c >= 0)
        clear_rows(smem.q[c], queries_per_tile(s.group) * s.group, (int)threadIdx.x % 128);
    __syncthreads();
    if (c < 0) {
        setmaxnreg_dec<56>();
        if (threadIdx.x < 32)
            produce(s, smem, &map_q, &map_k, &map_v, ids);
    } else {
        setmaxnreg_inc<224>();
        consume(s, smem, c, o, lse);
    }
}

msa_status run(const Call &c)
{
    const int queries = queries_per_tile(c.s.group);
    CUtensorMap q, k, v;
    msa_status status = q_map(&q, c.s, c.a.q, c.d_head, queries);
    if (status == MSA_OK)
        status = kv_map(&k, c.s, c.a.k, c.d_head, c.s.block);
    if (status == MSA_OK)
        status = kv_map(&v, c.s, c.a.v, c.d_head, c.s.block);
    if (status != MSA_OK)
        return status;
    const int pairs = ceil_div(c.s.n_q, consumers * queries) * c.s.n_kv_heads, sms = device_sms();
    const dim3 grid((unsigned)(pairs < sms ? pairs : sms));
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_int<32, 64, 128>(c.s.block, [&](auto block) {
            with_output(c, [&](auto *o) {
                LAUNCH((walk_union<d.value, block.value, std::remove_pointer_t<decltype(o)>>), grid,
                       dim3(threads), sizeof(Smem<d.value, block.value>), c.stream, c.s, q, k, v, c.a.ids, o,
                       c.a.lse);
            });
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(sparse, union, run, no_workspace);
