/**
 * @file 5_deterministic.cu
 * @brief backward/hopper with equal bits from run to run.
 *
 * Idea: the only sums whose order was nobody's are those of dQ (and dQi). Here each pair (query,
 * group, block) stores its part of dQ in bf16 in a place of its own, and a second kernel sums the parts of a
 * row in the order of its slots. On every machine with the same instructions the result has the same bits,
 * whatever runs first.
 *
 * Bytes: with P pairs 2 G d P bytes written and as many read, in place of 4 G d P of reductions, and a
 * rounding of each part; dQ is stored once, and not cleared before.
 * Estimate: at M3's sizes and 128K tokens 34 GB written and 34 GB read for 69 GB of reductions, no more
 * through memory; beside hopper's 41 ms the sum by itself takes 10 of them, and loses what the sweep would
 * hide: at most 1.25 times hopper's.
 */
#include "../sweep/task.cuh"

namespace
{

size_t workspace(const Call &c)
{
    return ON_SIDE(backward, sweep_bytes)(c, backward_task(c, true));
}
msa_status run(const Call &c)
{
    return ON_SIDE(backward, hopper_sweep)(c, backward_task(c, true));
}

} // namespace

ENTRY(backward, deterministic, run, workspace);
