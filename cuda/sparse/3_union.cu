/**
 * @file 3_union.cu
 * @brief Sparse attention on Hopper: neighbouring queries walk the union of their blocks together.
 *
 * Better than 2_q_outer where neighbours agree on their blocks, as they mostly do: a block that several of
 * them chose is loaded once for all, and the rows of several queries fill a tile of 64 for wgmma. It is
 * dense/hopper with another list of keys. A tile is 64 / G queries times the G heads of a group; a CTA is a
 * producer and two consumers, a tile each, which share one ring of blocks and take turns to issue products.
 * - The producer is a warp that merges ids while it loads: a lane follows the ascending ids of up to four
 *   queries. The smallest id that is left is the next block, a ballot says who chose it, and who did moves
 * on. The answer travels beside the block in its stage of the ring.
 * - Rows whose query did not choose the block see nothing of it. A tile that nobody of chose it passes on: so
 * the bytes are those of both tiles' union, the products those of each tile's own.
 *
 * Bytes, exactly: 2 Hq T dh for Q; as much for O in bf16; 4 Hq T for the LSE; 4 for each id, read once, and
 * for the -1 after a short row; and for each CTA 4 dh a token of its union. With union8 the mean size of the
 * union over the 8 queries of a CTA at G = 16, and union4 that over the 4 of a tile, K and V are T/2 Hkv
 * union8 Bk dh bytes instead of 4 T Hkv k Bk dh, and products union4 / k of what is useful.
 *
 * Its floor: those products at 4096 operations a clock and SM: at dh 128 a block takes both tiles 2048
 * clocks, in which its 64 KB arrive at 32 bytes a clock, from L2 mostly, since the CTAs beside it want the
 * same.
 *
 * Estimated (make chapter N=14), a chunk of 16384 of M3's queries at the end of 2^20 tokens, 1.07 useful
 * TFLOP, on an H800 and an H200 if no cache holds anything: structured selections (union8 18.7) 3.2 and 2.2
 * ms, which is 340 and 480 useful TFLOP/s; local ones (16.0) 2.7 and 1.9 ms, 390 and 560; random ones
 * (120.2) 19.4 and 13.6 ms. The other end, if L2 delivers all of K and V as fast as said: the products, at
 * 989 TFLOP/s 1.3 ms for structured ones, 1.1 ms for local ones, 4.3 ms for random ones. A whole prompt of
 * 2^20 tokens is 64 such chunks, and one of N tokens N / 16384.
 *
 * What it wastes: union4 / k, up to 4 where neighbours disagree: then the keys belong in the outer loop. Rows
 * past 64 / G * G; hidden keys of local blocks; the start of each run of blocks without a gap, which nothing
 * overlaps.
 *
 * Registers at dh 128: O 64, S 64, P 32 of a consumer's 232. Shared memory: Q 32 KB, three stages of 64 KB.
 *
 * Dropped: a ring for each tile: twice the bytes, half the stages. A list of the union before the first load:
 * its 4096 ids and masks at G = 1 do not fit. No exponentials for a warp that nobody of chose the block (a
 * warp is one query at G = 16): spills, for work that hides behind products. Products that stay under way
 * across a gap: ptxas cannot follow them and waits after each.
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
    uint64_t q_full, padded_v, full[stages], empty[stages];
    /// Queries, blocks, keys before padding, keys that a tile's first query sees: there are no registers left
    /// for what is not known at the launch.
    int n_q, n_blocks, last, seen[consumers];
};

/// Tile c of this CTA: neighbouring queries of one group.
struct Rows {
    int n_queries, first; ///< queries first .. first + n_queries - 1, of which some may be past the last
    bool any;             ///< or all
};
PTX_INLINE Rows rows_of(const Shape &s, int c)
{
    const int n_queries = queries_per_tile(s.group), first = ((int)blockIdx.x * consumers + c) * n_queries;
    return {n_queries, first, first < s.n_q};
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

template <int D, int block>
PTX_INLINE void produce(const Shape &s, Smem<D, block> &smem, const CUtensorMap *map_q,
                        const CUtensorMap *map_k, const CUtensorMap *map_v, const int32_t *ids)
{
    constexpr int stages = Smem<D, block>::stages;
    const int lane = (int)threadIdx.x, r = (int)blockIdx.y;
    timeline_role("producer");
    if (lane == 0) {
        const uint32_t bytes = q_bytes<D>(s, rows_of(s, 0).n_queries);
        mbarrier_arrive_expect(&smem.q_full, rows_of(s, 1).any ? 2 * bytes : bytes);
        for (int c = 0; c < consumers; c++)
            if (rows_of(s, c).any)
                load_q(smem.q[c], map_q, &smem.q_full, s, r, rows_of(s, c).first);
    }
    Cursor cursor[consumers][2]; // of queries lane and 32 + lane of each tile
    for (int c = 0; c < consumers; c++)
        for (int word = 0; word < 2; word++) {
            const Rows rows = rows_of(s, c);
            const int number = 32 * word + lane, i = rows.first + number;
            const bool exists = number < rows.n_queries && i < s.n_q;
            const int32_t *const row = ids + (exists ? row_at(s, i, r) * s.topk : 0);
            cursor[c][word] = {row, exists ? row + s.topk : row, no_block};
            advance(cursor[c][word], s.n_blocks);
        }
    for (int n = 0, more = true; more; n++) {
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
        const bool padded = more && ((int)b + 1) * block > ld_shared(&smem.last);
        Stage<D, block> &stage = smem.ring[n % stages];
        uint64_t *const full = &smem.full[n % stages];
        if (lane > 0 && !padded)
            continue;
        mbarrier_wait(&smem.empty[n % stages], n / stages % 2 ^ 1);
        if (padded)
            load_last_values(stage.v, map_v, &smem.padded_v, r, (int)b * block, ld_shared(&smem.last));
        if (lane > 0)
            continue;
        for (int c = 0; c < consumers; c++) {
            choice[c].seen = ld_shared(&smem.seen[c]) - (int)b * block;
            st_shared(&smem.choice[n % stages][c], choice[c]);
        }
        mbarrier_arrive_expect(full, padded ? sizeof stage.k : more ? sizeof stage : 0);
        if (more)
            load_kv(stage.k, map_k, full, r, (int)b * block);
        if (more && !padded)
            load_kv(stage.v, map_v, full, r, (int)b * block);
    }
}

/* ---- The consumers: a warpgroup each, a tile each ----------------------------------------------------- */

/// What of the n-th block of the union tile c wants.
template <int D, int block> PTX_INLINE Choice wait_stage(Smem<D, block> &smem, int n, int c)
{
    constexpr int stages = Smem<D, block>::stages;
    mbarrier_wait(&smem.full[n % stages], n / stages % 2);
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
        softmax_step<true>(softmax, x, keep, scale2<D>, visible);
    else
        softmax_step<false>(softmax, x, keep, scale2<D>, visible);
}

/// O and LSE of the tile's rows.
template <int D, class Out>
PTX_INLINE void epilogue(const Shape &s, const Rows &mine, int n_q, const Softmax &softmax,
                         const float (&acc)[D / 2], const int (&number)[2], Out *o, float *lse)
{
    const int t = (int)threadIdx.x % 128, r = (int)blockIdx.y;
    float inverse[2], z[2];
    softmax_finish(softmax, inverse, z);
    int64_t at[2]; // number of the row in LSE, -1 for none
    for (int half = 0; half < 2; half++) {
        const int i = mine.first + number[half], h = r * s.group + fragment_row(t, half) % s.group;
        at[half] = number[half] < mine.n_queries && i < n_q ? lse_at(s, i, h) : -1;
        if (lse && t % 4 == 0 && at[half] >= 0)
            st_global(lse + at[half], z[half]);
    }
    write_rows<Out>(acc, inverse, [&](int half) { return at[half] < 0 ? nullptr : o + at[half] * D; });
}

/// The two tiles multiply in turns, if there are two.
PTX_INLINE void take_turn(int c, bool alone)
{
    if (!alone)
        bar_sync(turn(c), 256);
}
PTX_INLINE void pass_turn(int c, bool alone)
{
    if (!alone)
        bar_arrive(turn(1 - c), 256);
}

template <int D, int block, class Out>
PTX_INLINE void consume(const Shape &s, Smem<D, block> &smem, int c, Out *o, float *lse)
{
    constexpr int stages = Smem<D, block>::stages;
    const int t = (int)threadIdx.x % 128;
    const Rows mine = rows_of(s, c);
    const bool alone = !rows_of(s, 1).any;
    int number[2]; // of the query of the thread's rows
    for (int half = 0; half < 2; half++)
        number[half] = fragment_row(t, half) / s.group;
    timeline_role("consumer");
    Softmax softmax = softmax_init();
    float acc[D / 2] = {}, x[block / 2], keep[2];
    uint32_t p[block / 16][4];

    auto wait = [&](int n) { return wait_stage(smem, n, c); };
    auto release = [&](int n) {
        __syncwarp();
        if (t % 32 == 0)
            mbarrier_arrive(&smem.empty[n % stages]);
    };

    mbarrier_wait(&smem.q_full, 0);
    if (c == 1)
        pass_turn(c, alone);
    for (int n = 0;; n++) {
        Choice choice = wait(n);
        if (choice.block == no_block)
            break;
        take_turn(c, alone);
        if (!(choice.chosen[0] | choice.chosen[1])) { // the other tile's
            pass_turn(c, alone);
            release(n);
            continue;
        }
        issue_scores<block>(x, smem.q[c], smem.ring[n % stages].k);
        pass_turn(c, alone);
        wgmma_wait<0>();
        wgmma_pin(x);
        weigh<D, block>(softmax, x, keep, choice, number);
        rescale(acc, keep);
        pack_weights(p, x);
        while (choice = wait(n + 1), choice.chosen[0] | choice.chosen[1]) { // as long as no block is skipped
            take_turn(c, alone);
            issue_scores<block>(x, smem.q[c], smem.ring[(n + 1) % stages].k);
            issue_values(acc, p, smem.ring[n % stages].v, true);
            pass_turn(c, alone);
            wgmma_wait<1>();
            wgmma_pin(x);
            weigh<D, block>(softmax, x, keep, choice, number);
            wgmma_wait<0>();
            wgmma_pin(acc);
            wgmma_pin(p);
            release(n++);
            rescale(acc, keep);
            pack_weights(p, x);
        }
        issue_values(acc, p, smem.ring[n % stages].v, true);
        wgmma_wait<0>();
        wgmma_pin(acc);
        wgmma_pin(p);
        release(n);
    }
    if (c == 0)
        take_turn(c, alone); // the last that consumer 1 passes
    epilogue<D, Out>(s, mine, ld_shared(&smem.n_q), softmax, acc, number, o, lse);
}

template <int D, int block, class Out>
__global__ void __launch_bounds__(threads, 1)
    walk_union(Shape s, const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
               const __grid_constant__ CUtensorMap map_v, const int32_t *ids, Out *o, float *lse)
{
    Smem<D, block> &smem = shared<Smem<D, block>>();
    const int c = (int)threadIdx.x / 128 - 1; // consumer, or -1
    if (closed(s.gate))
        return;
    s = actual(s);
    if (!rows_of(s, 0).any)
        return;
    if (threadIdx.x == 0) {
        mbarrier_init(&smem.q_full, 1);
        mbarrier_init(&smem.padded_v, 1);
        st_shared(&smem.n_q, s.n_q);
        st_shared(&smem.n_blocks, s.n_blocks);
        for (int a = 0; a < consumers; a++)
            st_shared(&smem.seen[a], s.prefix + rows_of(s, a).first + 1);
        st_shared(&smem.last, s.padding.len_q || s.padding.len_kv ? s.n_kv : INT32_MAX);
        for (int i = 0; i < Smem<D, block>::stages; i++) {
            mbarrier_init(&smem.full[i], 1);
            mbarrier_init(&smem.empty[i], rows_of(s, 1).any ? 8 : 4); // warps that read it
        }
        fence_mbarrier_init();
    }
    if (c >= 0)
        clear_rows(smem.q[c], rows_of(s, c).n_queries * s.group, (int)threadIdx.x % 128);
    __syncthreads();
    if (c < 0) {
        setmaxnreg_dec<40>();
        if (threadIdx.x < 32)
            produce(s, smem, &map_q, &map_k, &map_v, ids);
    } else {
        setmaxnreg_inc<232>();
        if (rows_of(s, c).any)
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
    const dim3 grid((unsigned)ceil_div(c.s.n_q, consumers * queries), (unsigned)c.s.n_kv_heads);
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
