/**
 * @file 3_kv_outer.cu
 * @brief The gradient of attention with the keys in the outer loop; on request the selector's in the same
 *        sweep.
 *
 * Idea: dK and dV are owned. reverse/scan turns the ids around; a CTA takes an item of the worklist, keeps its
 * block's K and V in shared memory and dK and dV in registers, and the queries that chose it come past in
 * tiles (sweep/mma_sync.cuh). dQ leaves by float32 reductions; parts of blocks with several items are summed
 * in order (sweep/parts.cuh). Without ids an item is a block, with all queries that see it: dense attention's
 * backward pass.
 * Bytes of a chunk with P pairs and U tokens in its blocks, the largest: 4 d U of K and V, 4 G d P of Q and
 * dO, 4 G d P of dQ reduced, 16 d U of dK and dV. All of them: chapter 16, design notes.
 * Floor: 10 G d operations for each key of a pair.
 * Estimate: at M3's sizes and 128K tokens 34 ms at mma.sync's 650 TFLOP/s, 66 ms of shared memory, 41 ms of
 * bytes at 3.35 TB/s.
 * Waste: shared memory's bandwidth: each warp loads its operands itself, Q and dO twice for its 16 keys, K and
 * V for every 16 rows; K, V, dK and dV once more every chunk; rows of a group that is no power of two.
 * Dropped: 32 rows of a tile at a time, which spills, as does a reciprocal of G for the teacher with blocks of
 * 64; dKi in registers too, 192 before anything else.
 */
#include "../sweep/mma_sync.cuh"
#include "../sweep/task.cuh"

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
