/**
 * @file 4_hopper.cu
 * @brief The gradient of attention as Hopper wants it: the sweep of 3_kv_outer.cu by TMA and wgmma.
 *
 * Idea: wgmma reads an operand from shared memory once for 64 keys, where a warp of mma.sync read it for its
 * 16. Two warps fetch; each of N / 64 warpgroups has 64 keys. P^T and dS^T are left operands in registers of
 * dV and dK; dS^T goes through shared memory once, and dQ leaves by TMA's reductions. dP, dV and dK run while
 * exponentials and dS are taken and dQ leaves.
 * Bytes: those of 3_kv_outer, but 16 (128 + 2 Bk) an item of the worklist. Tensor cores: 640 Bk d operations a
 * tile.
 * Floor: memory, at M3's sizes and 128K tokens 41 ms at 3.35 TB/s; shared memory 27 ms.
 * Estimate: there 41 to 50 ms.
 * Machine code: 660 instructions of a warp and tile, 1100 with KL, a third and a fifth fewer than its products take
 * clocks; with KL shared memory takes longest, 3550 clocks, 32 ms: cuda/clocks.def. Operands alone are 2624 of these, where
 * products take 2688: chapter 16 counts why no rearrangement of the rest brings it below them.
 * Waste: at 64 rows products wait for operands from shared memory; 128 rows would need 64 registers more. At 16
 * heads half of the index's 8 columns are of no query. K, V, dK and dV once more every chunk; rows of a group
 * that is no power of two, or below 8; with d 64 and Bk 128 both warpgroups multiply all of dQ. Blocks of 32
 * keys go to 3_kv_outer's sweep.
 * Dropped: S of the next tile under way while dQ leaves (ptxas serializes it); holding dQ until then (no
 * registers); the teacher as a product of P with zeros and ones (P in bf16 is too coarse for the loss, and its
 * rest takes the instructions that are to be saved); copies of dQ by a producer (one barrier more saves a warp in
 * four 40 instructions).
 */
#include "hopper_consumer.cuh"

namespace
{

/* ---- A consumer ------------------------------------------------------------------------------------- */

/// dQ = dS K and dQi = (u - t) Ki of a tile, from dS and u - t in shared memory: stored while dK is multiplied, for
/// which the caller waits. A warpgroup takes 64 columns of dQ a turn, over all keys of the block.
template <int D, int DI, int N, bool kl>
PTX_INLINE void multiply_derivatives(Smem<D, DI, N, kl> &m, const Shape &s, const Out &out,
                                     const CUtensorMap *dq_map, int tile, uint32_t (&left_ds)[4][4],
                                     float (&dk)[D / 2])
{
    constexpr int consumers = N / 64, turns = D / 64 > consumers ? D / 64 / consumers : 1;
    constexpr bool spread = D / 64 >= consumers; // else both take all of dQ, and store it in turns
    auto &stage = m.stage[recomputed(tile % stages)];
    const int c = thread_index().consumer;
    for (int turn = 0; turn < turns; turn++) {
        const int slab = spread ? turn * consumers + (c + tile) % consumers : 0;
        float dq[32], dqi[4];
        wgmma_pin(dq);
        wgmma_pin(dqi);
        wgmma_fence();
        auto across = [&](const bf16 *slab) { // 64 columns, which are the operand's rows
            return wgmma_descriptor(slab, N * 128, 1024, Swizzle::b128);
        };
        const uint64_t ds = across(m.ds.slab[0]), k = across(m.k.slab[slab]);
        for (int step = 0; step < N / 16; step++) { // 16 keys
            const int bytes = 16 * 128 * step;
            wgmma_ss<64, 1, 1>(dq, wgmma_advanced(ds, bytes), wgmma_advanced(k, bytes), step > 0);
        }
        if constexpr (kl) {
            const uint64_t ki = across(m.ki.slab[slab]),
                           g = wgmma_descriptor(&m.g.slab[0][0], 16, 1024, Swizzle::b128);
            for (int step = 0; step < N / 16; step++)
                wgmma_ss<tile_queries, 1>(
                    dqi, wgmma_advanced(ki, 16 * 128 * step),
                    wgmma_advanced(g, step / 4 * (int)sizeof m.g.slab[0] + step % 4 * 32), step > 0);
        }
        wgmma_commit();
        if (turn == 0) {
            issue_values(dk, left_ds, stage.q, true); // dK += dS^T Q
            wgmma_wait<1>();                          // dQ is stored while dK is multiplied
        } else {
            wgmma_wait<0>();
        }
        wgmma_pin(dq);
        wgmma_pin(dqi);
        if (spread || (c + tile) % consumers == 0) {
            const Work work = work_of(m);
            const int n = queries(work, tile);
            const uint32_t entry = ld_shared(&stage.entry[thread_index().lane % tile_queries]);
            if (const uint32_t centred = ld_shared(&stage.centred))
                recentre_tile(m, s, work, out, centred, entry, slab, dq);
            store_dq(m, s, work, out, dq_map, n, entry, slab, dq);
            if (kl && out.dqi)
                store_dqi(m, s, work, out, n, ld_shared(&stage.index_centred), entry, slab, dqi);
        }
    }
}

template <int D, int DI, int N, bool kl>
PTX_INLINE void consume(Smem<D, DI, N, kl> &m, Shape s, const Out &out, const CUtensorMap *dq_map)
{
    timeline_role("consumer");
    float dk[D / 2] = {}, dv[D / 2] = {};
    s.n_kv = ld_shared(&m.n_kv);
    mbarrier_wait(&m.keys_full, 0); // the block's K and V, and Ki
    clear_padding(m, s);
    for (int tile = 0; queries(work_of(m), tile) > 0; tile++) {
        auto &stage = m.stage[recomputed(tile % stages)];
        const int own = 64 * thread_index().consumer;
        float p[32], dp[32], logits[4];
        uint32_t left_p[4][4], left_ds[4][4];
        mbarrier_wait(&m.full[tile % stages], tile / stages % 2); // Q, dO, and what belongs to their rows
        // S^T = K Q^T and dP^T = V dO^T, keys by rows; P needs only the first (chapter 16).
        wgmma_pin(p);
        wgmma_fence();
        add_rows_by_rows<64>(p, m.k, own, stage.q, 0);
        wgmma_commit();
        wgmma_pin(dp);
        wgmma_fence();
        add_rows_by_rows<64>(dp, m.v, own, stage.dout, 0);
        wgmma_commit();
        wgmma_wait<1>(); // S; exponentials are taken while dP is multiplied
        wgmma_pin(p);
        weights<D>(p, stage, work_of(m), s.group);
        pack_weights(left_p, p);
        if constexpr (kl) {
            wgmma_pin(logits);
            wgmma_fence();
            add_rows_by_rows<tile_queries>(logits, m.ki, own, stage.qi, 0);
            wgmma_commit();
        }
        issue_values(dv, left_p, stage.dout, true); // dV += P^T dO, under dS
        wgmma_wait<1>();                            // dP, and logits
        wgmma_pin(dp);
        wgmma_pin(logits);
        derivatives(dp, p, stage);
        pack_weights(left_ds, dp);
        float t[4];
        if constexpr (kl)
            teacher_of(t, m.teacher, p, work_of(m), s.group);
        bar_sync(1, 2 * N); // all are done with dS and u - t of the tile before
        store_ds(m.ds, left_ds);
        if (ld_shared(&stage.centred))
            store_excess(m, left_ds);
        if constexpr (kl)
            store_student(m, stage, logits, t);
        fence_proxy_async();
        bar_sync(1, 2 * N); // they are there
        multiply_derivatives(m, s, out, dq_map, tile, left_ds, dk);
        if (kl && out.dqi)
            store_g(m, s, work_of(m), out, tile, queries(work_of(m), tile));
        wgmma_wait<0>(); // dV and dK: nothing reads the stage any more
        wgmma_pin(dv);
        wgmma_pin(dk);
        wgmma_pin(left_p);
        wgmma_pin(left_ds);
        __syncwarp();
        if (thread_index().lane == 0)
            mbarrier_arrive(&m.empty[tile % stages]); // a warp releases it
    }
    if (thread_index().t < 32)
        bulk_wait_read<0>(); // TMA has read the last dQ out of shared memory
    s.n_kv = ld_shared(&m.n_kv);
    store_block<D, N>(s, out, work_of(m), thread_index().key, dk, dv);
    if constexpr (kl)
        store_loss(m, out);
}

template <int D, int DI, int N, bool kl>
__global__ void __launch_bounds__(128 + 2 * N, 1)
    hopper_sweep(Shape padded, Arrays a, Out out, const __grid_constant__ Maps maps)
{
    const Shape s = actual(padded);
    Smem<D, DI, N, kl> &m = shared<Smem<D, DI, N, kl>>();
    constexpr int consumers = N / 64;
    const int t = (int)threadIdx.x, c = t / 128 - 1; // consumer, or -1
    const Work work = work_of(s, out.w, blockIdx.x);
    if (work.group < 0) { // past the worklist's end
        if (kl && t == 0)
            st_global(out.w.loss + blockIdx.x, 0.0);
        return;
    }
    prefetch_maps(maps.k, maps.v, maps.q, maps.dout, maps.dq);
    if constexpr (kl)
        prefetch_maps(maps.ki, maps.qi);
    if (t == 0) {
        st_shared(&m.item, int4{work.group, work.block, work.begin, work.end});
        st_shared(&m.shift, work.shift);
        st_shared(&m.n_kv, s.n_kv);
        mbarrier_init(&m.keys_full, 1);
        for (int i = 0; i < stages; i++) {
            mbarrier_init(&m.full[i], 64);
            mbarrier_init(&m.empty[i], 4 * consumers);
        }
        fence_mbarrier_init();
    }
    if (kl && c >= 0)
        st_shared(&m.loss[t - 128], 0.0);
    for (int i = c < 0 ? stages : c; i < stages; i += consumers) { // the rows that no copy will write
        if (queries(work, i) <= 0)
            break;
        const int first = s.group == 1 << work.shift ? queries(work, i) << work.shift : 0;
        clear_rows(m.stage[i].q, first, t % 128);
        clear_rows(m.stage[i].dout, first, t % 128);
        if (kl)
            clear_rows(m.stage[i].qi, queries(work, i), t % 128);
    }
    __syncthreads();
    if (c < 0) {
        if constexpr (consumers == 2)
            setmaxnreg_dec<24>();
        if (t < 32)
            produce_tiles(m, s, out.w, maps);
        else if (t < 64)
            produce_rows(m, s, a, out.w);
    } else {
        if constexpr (consumers == 2)
            setmaxnreg_inc<240>();
        consume(m, padded, out, &maps.dq);
    }
}

/* ---- The stage -------------------------------------------------------------------------------------- */

template <int D, int N, bool kl> msa_status launch_hopper(const Call &c, unsigned items, const Out &out)
{
    const Shape &s = c.s;
    const Arrays &a = c.a;
    const int64_t rows = (int64_t)s.n_q * s.n_heads;
    Maps maps = {};
    msa_status status[] = {q_map(&maps.q, s, a.q, D, 1),
                           q_map(&maps.dout, s, a.dout, D, 1),
                           kv_map(&maps.k, s, a.k, D, N),
                           kv_map(&maps.v, s, a.v, D, N),
                           rows_map(&maps.dq, a.dq, D, rows, s.group),
                           kl ? rows_map(&maps.qi, a.qi, (int64_t)s.n_kv_heads * D, s.n_q, 1) : MSA_OK,
                           kl ? rows_map(&maps.ki, a.ki, D, s.n_kv, N) : MSA_OK};
    for (msa_status one : status)
        if (one != MSA_OK)
            return one;
    LAUNCH((hopper_sweep<D, D, N, kl>), dim3(items), dim3(128 + 2 * N), sizeof(Smem<D, D, N, kl>), c.stream,
           s, a, out, maps);
    return MSA_OK;
}

template <bool kl> msa_status sweep_main(const Call &c, const Task &task)
{
    msa_status status = MSA_ERR_UNSUPPORTED;
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_int<64, 128>(c.s.block, [&](auto n) {
            constexpr int D = d.value, N = n.value;
            status = sweep_all<D, D, N, true, kl>(c, task, launch_hopper<D, N, kl>);
        });
    });
    return status;
}

size_t workspace(const Call &c)
{
    return ON_SIDE(backward, sweep_bytes)(c, backward_task(c, false));
}
msa_status run(const Call &c)
{
    return ON_SIDE(backward, hopper_sweep)(c, backward_task(c, false));
}

} // namespace

msa_status ON_SIDE(backward, hopper_sweep)(const Call &c, const Task &task)
{
    if (c.s.block < 64)
        return ON_SIDE(backward, sweep)(c, task);
    if (!c.a.loss)
        return sweep_main<false>(c, task);
    return task.kl ? sweep_main<true>(c, task) : MSA_ERR_UNSUPPORTED;
}

ENTRY(backward, hopper, run, workspace);
