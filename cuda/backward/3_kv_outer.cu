/**
 * @file 3_kv_outer.cu
 * @brief The gradient of attention with the keys in the outer loop; on request the selector's in the same
 * sweep.
 *
 * Better than 2_q_outer: dK and dV are owned. reverse/scan turns the ids around; a CTA then takes an item of
 * the worklist, a block and some of the queries that chose it, keeps K and V in shared memory and dK and dV
 * in registers, and the queries come past, 64 / G at a time (8 at most) with their heads as rows of a tile
 * (sweep.cuh):
 * - Each warp has 16 keys. Products are turned around, keys by rows: S^T = K Q^T and dP^T = V dO^T come out
 * as P^T and dS^T are needed for dV += P^T dO and dK += dS^T Q: as left operands, without moving between
 * threads.
 * - dS goes through shared memory, where every warp takes 16 columns of dQ = dS K, over all keys. dQ leaves
 * by float32 reductions: a row has as many contributors as its query chose blocks.
 * - The next tile is on its way by cp.async; its entries were fetched a tile before.
 * - A block's only item adds to rows of dK and dV that nobody else has. A hot block's items, of 2 k Bk
 * queries each, leave float32 parts, which merge() sums in the order of the worklist. So dK and dV take no
 * atomics, and come out with equal bits every time. A block that nobody chose is cleared and not touched
 * again: exactly 0.
 * - Without ids the support is full: an item is a block, with all queries from the first that sees it. This
 * is dense attention's backward pass.
 *
 * With the KL loss: t, the mean of P over a query's heads, is a few shuffles, since a query has
 * a power of two of neighbouring columns. The index logits of 16 keys by 8 queries are one narrow product,
 * dQi = (u - t) Ki another. u - t leaves in bf16, 2 Bk bytes a pair, for index_keys(), which owns the dKi of
 * a block over all groups. The loss is summed in double per thread, then in a fixed order.
 *
 * Queries go through in chunks, so that what is stored for a pair (query, group, block) stays below 8 GB.
 * With full support u - t is a panel of a chunk's queries by all keys, never N x N.
 *
 * Bytes of a chunk of T queries with P pairs, C items of capacity and U tokens in the blocks of its items:
 * those of reverse/scan, and
 * - 6 Hq T dh + 4 Hq T for delta (O in bf16: 4 Hq T dh + 4 Hq T);
 * - those of centre.cuh for the centres, and 4 P to see who has one: dQ is taken about it, or where logits
 * are large what all keys have in common would not cancel;
 * - read: 4 P entries, 4 d U of K and V, 4 G d P of Q and dO, 8 G P of LSE and delta; by every thread, so
 * that they count 2 Bk times, 16 C for items and 8 for each item's place among its block's entries, and 2048
 * Hkv B by merge();
 * - reduced: 4 G d P of dQ; read and written: 16 d U of dK and dV (blocks of one item).
 * And zeros: 4 Hq T dh + 8 Hkv S dh once.
 *
 * Operations on tensor cores: 10 d Bk for each row of a tile, in whole 16s; with the KL loss 48 di Bk a tile
 * and 64 di Bk for every 32 queries of a block besides. tests/test_traffic.cpp counts bytes and operations.
 *
 * Its floor: 10 G d operations for each key of a pair. mma.sync reaches about two thirds of what wgmma does
 * (FlashAttention-3's paper), 650 TFLOP/s on an H100. Estimate at N = 131072, 64 query and 4 KV heads of 128,
 * k = 16: 22 TFLOP of products take 34 ms at that rate; but operands come from shared memory, 930 KB a tile
 * of 4 queries, at 128 bytes a clock 7300 clocks where the products take 3800: 66 ms at 1.755 GHz on 132
 * multiprocessors. Beside it 69 GB of Q and dO and 69 GB of reductions take 41 ms at 3.35 TB/s. The KL loss
 * reads 96 KB a tile more, which takes 7 ms; by itself (kl/kv_outer) it takes 25. None of this is measured.
 *
 * What it wastes: shared memory's bandwidth. A warp of mma.sync loads its operands itself, so each reads all
 * of Q and dO twice for its 16 keys, and K and V for every 16 rows: 768 KB of the 930, the rest is dS K. That
 * is the form here because fragments of 16 x 16 pass from product to product, teacher and mask in registers,
 * for any group and block; 4_hopper reads operands once for 64 keys. K, V, dK and dV once more every chunk.
 * Rows of a group that is no power of two.
 *
 * Registers at d 128: dK and dV 128 of 255, so one CTA of 8 warps a multiprocessor. Dropped: 32 rows of a
 * tile at a time, for which K's and V's operands would serve twice: it spills. dKi in registers too: 192
 * before anything else.
 */
#include "mma_sweep.cuh"
#include "sweeps.cuh"

namespace
{

template <bool kl> msa_status sweep_main(const Call &c, const Task &task)
{
    msa_status status = MSA_ERR_UNSUPPORTED;
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_int<32, 64, 128>(
            c.s.block, [&](auto n) { status = mma_sweep<d.value, d.value, n.value, true, kl>(c, task); });
    });
    return status;
}

size_t workspace(const Call &c)
{
    return ON_SIDE(backward, sweep_bytes)(c, backward_task(c, false));
}
msa_status run(const Call &c)
{
    return ON_SIDE(backward, sweep)(c, backward_task(c, false));
}

} // namespace

size_t ON_SIDE(backward, sweep_bytes)(const Call &c, const Task &task)
{
    return sweep_workspace(c, task);
}

msa_status ON_SIDE(backward, sweep)(const Call &c, const Task &task)
{
    if (!c.a.loss)
        return sweep_main<false>(c, task);
    return task.kl ? sweep_main<true>(c, task) : MSA_ERR_UNSUPPORTED;
}

ENTRY(backward, kv_outer, run, workspace);
