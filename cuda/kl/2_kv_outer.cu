/**
 * @file 2_kv_outer.cu
 * @brief The selector's loss and gradients on tensor cores, with the keys in the outer loop.
 *
 * Idea: the sweep of backward/3_kv_outer.cu without dO, V and their products. A CTA keeps a block's K and Ki,
 * and the queries that chose it come past; S of a group's heads, averaged as probabilities, is the teacher.
 * dQi leaves by reductions, u - t in bf16 for index_keys(), which owns dKi. Without ids the index's
 * log-sum-exp is made here (sweep/index_lse.cuh), and a panel of u - t holds a chunk's queries, never N x N.
 * Bytes of a chunk with P pairs and U tokens in its blocks, the largest: 2 (d + di) U of K and Ki, 2 G d P of
 * Q, 2 Bk P of u - t there and back. All of them: chapter 16, design notes.
 * Floor: 2 G d operations for each key of a pair, the main scores. Beside a backward pass they are there
 * already: backward/3_kv_outer.cu does both.
 * Estimate: at M3's sizes and 128K tokens 25 ms of shared memory beside 10 ms of Q.
 * Waste: half of the narrow products' 16 rows; most of the CTAs that index_keys() has for items find none of a
 * hot block.
 */
#include "../sweep/mma_sync.cuh"
#include "../sweep/task.cuh"

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
