/**
 * @file 3_union.cu
 * @brief Sparse attention on Hopper: neighbouring queries walk the union of their blocks together.
 *
 * Idea: dense/hopper with another list of keys. Two tiles of 64 / G queries times G heads share a ring of
 * blocks; the producer warp merges the queries' ascending ids while it loads, and rows whose query did not
 * choose a block see nothing of it. A block that several neighbours chose is loaded once, and their rows fill
 * a tile of 64 for wgmma.
 * Bytes, exactly: 2 Hq T dh of Q, as much of O in bf16, 4 Hq T of LSE; 4 for each id, read once, and for the
 * -1 after a short row; for each CTA 4 dh a token of its union: T/2 Hkv union8 Bk dh of K and V at G = 16.
 * Floor: union4 / k times the useful products at 4096 operations a clock and SM; L2: 32 bytes a clock at dh
 * 128.
 * Estimate: for 16384 queries at M3's sizes, structured selections, 3.2 ms on an H800, 2.2 on an H200 (make
 * chapter N=14).
 * Waste: up to 4 times the products where neighbours disagree; rows past 64 / G * G; hidden keys of local
 * blocks; the start of each run of blocks without a gap, which nothing overlaps. What was dropped, and why:
 * chapter 14, design notes.
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
            continue;                                               // one lane loads
        mbarrier_wait(&smem.empty[n % stages], n / stages % 2 ^ 1); // both tiles have released it
        if (padded)
            load_last_values(stage.v, map_v, &smem.padded_v, r, (int)b * block, ld_shared(&smem.last));
        if (lane > 0)
            continue;
        for (int c = 0; c < consumers; c++) {
            choice[c].seen = ld_shared(&smem.seen[c]) - (int)b * block;
            st_shared(&smem.choice[n % stages][c], choice[c]);
        }
        // The arrival publishes the choices too; after the last block it comes without bytes.
        mbarrier_arrive_expect(full, padded ? sizeof stage.k : more ? sizeof stage : 0);
        if (more)
            load_kv(stage.k, map_k, full, r, (int)b * block);
        if (more && !padded)
            load_kv(stage.v, map_v, full, r, (int)b * block);
    }
}

/* ---- The consumers: a warpgroup each, a tile each ----------------------------------------------------- */

/// Waits for the n-th block of the union and says who of tile c chose it.
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
        // [masked]
        softmax_step<true>(softmax, x, keep, scale2<D>, visible);
        // [masked]
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
        pass_turn(c, alone); // consumer 0 begins
    for (int n = 0;; n++) {  // a run of blocks that this tile wants, one after the other
        Choice choice = wait(n);
        if (choice.block == no_block)
            break;
        take_turn(c, alone);
        if (!(choice.chosen[0] | choice.chosen[1])) { // the other tile's: only the turn and the stage pass
            pass_turn(c, alone);
            release(n);
            continue;
        }
        issue_scores<block>(x, smem.q[c], smem.ring[n % stages].k); // the run's first S, which nothing hides
        pass_turn(c, alone);
        wgmma_wait<0>();
        wgmma_pin(x);
        weigh<D, block>(softmax, x, keep, choice, number);
        rescale(acc, keep);
        pack_weights(p, x);
        while (choice = wait(n + 1), choice.chosen[0] | choice.chosen[1]) { // as long as no block is skipped
            take_turn(c, alone); // from here on as in dense/4_hopper.cu
            issue_scores<block>(x, smem.q[c], smem.ring[(n + 1) % stages].k);
            issue_values(acc, p, smem.ring[n % stages].v, true);
            pass_turn(c, alone);
            wgmma_wait<1>(); // S of block n + 1; P V of block n goes on under the exponentials
            wgmma_pin(x);
            weigh<D, block>(softmax, x, keep, choice, number);
            wgmma_wait<0>();
            wgmma_pin(acc);
            wgmma_pin(p);
            release(n++);
            rescale(acc, keep);
            pack_weights(p, x);
        }
        issue_values(acc, p, smem.ring[n % stages].v, true); // the run's last P V
        wgmma_wait<0>();
        wgmma_pin(acc);
        wgmma_pin(p);
        release(n);
    }
    if (c == 0)
        take_turn(c, alone); // the last that consumer 1 passes: no arrival is left over
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
