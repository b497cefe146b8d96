/**
 * @file 2_kv_outer.cu
 * @brief The selector's loss and gradients on tensor cores, with the keys in the outer loop.
 *
 * Better than 1_naive: the sweep of backward/3_kv_outer.cu without dO, V and their products. A CTA keeps a
 * block's K and Ki; the queries that chose it come past; S of a group's heads, averaged as probabilities, is
 * the teacher. dQi leaves by reductions, u - t in bf16 for index_keys(), which owns dKi: no atomics there.
 * With full support (no ids) the index's log-sum-exp is made here, in index_lse.cuh; a panel of u - t holds a
 * chunk's queries, never N x N.
 *
 * Bytes of a chunk of T queries with P pairs, C items of capacity and U tokens in the blocks of its items:
 * those of reverse/scan, those of backward/centre.cuh and 4 P for the centres of index keys, and
 * - read: 32 Bk C for items (by every thread), 4 P entries, 2 (d + di) U of K and Ki, 2 G d P of Q, 4 G P of
 * LSE, 2 di P of Qi, 4 P of the index's LSE;
 * - reduced: 4 di P of dQi; written: 2 Bk P of u - t, 8 C of the loss;
 * - index_keys: 2 (Bk + di) P of u - t and Qi, di / 2 P entries, 8 di S of dKi, 16 Bk Hkv B of where entries
 * begin. And zeros: 4 Hkv T di + 4 S di once; the sum of the loss, 8 C and 16.
 *
 * Its floor: 2 G d operations for each key of a pair, the main scores; the index's own products are G times
 * narrower. Beside a backward pass they are there already: backward/3_kv_outer.cu does both. Operations on
 * tensor cores: 2 d Bk for each row of a tile, in whole 16s, 48 di Bk a tile, 64 di Bk for every 32 queries
 * of a block. Estimate, not measured, at N = 131072, 64 query and 4 KV heads of 128, k = 16: 352 KB a tile
 * from shared memory are 2750 clocks, 25 ms at 1.755 GHz on 132 multiprocessors; 34 GB of Q take 10 ms beside
 * it.
 *
 * What it wastes: half of the narrow products' 16 rows; a hot block's dKi is one CTA's work.
 */
#include "../backward/mma_sweep.cuh"
#include "../backward/sweeps.cuh"

namespace
{

size_t workspace(const Call &c)
{
    return ON_SIDE(kl, sweep_bytes)(c, false);
}
msa_status run(const Call &c)
{
    return ON_SIDE(kl, sweep)(c, false);
}

} // namespace

size_t ON_SIDE(kl, sweep_bytes)(const Call &c, bool deterministic)
{
    return sweep_workspace(c, {false, true, deterministic, true});
}

msa_status ON_SIDE(kl, sweep)(const Call &c, bool deterministic)
{
    msa_status status = MSA_ERR_UNSUPPORTED;
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_int<64, 128>(c.d_index, [&](auto di) {
            with_int<32, 64, 128>(c.s.block, [&](auto n) {
                status =
                    mma_sweep<d.value, di.value, n.value, false, true>(c, {false, true, deterministic, true});
            });
        });
    });
    return status;
}

ENTRY(kl, kv_outer, run, workspace);
