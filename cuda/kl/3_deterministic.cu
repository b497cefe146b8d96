/**
 * @file 3_deterministic.cu
 * @brief kl/kv_outer with equal bits from run to run: each pair (query, group, block) leaves its part of dQi,
 * 4 di bytes, in a place of its own, and a second kernel sums them in the order of the slots.
 * Estimate: at M3's sizes and 128K tokens 4.3 GB written and read again, 1.3 ms more at 3.35 TB/s.
 */
#include "../sweep/task.cuh"

namespace
{

size_t workspace(const Call &c)
{
    return ON_SIDE(kl, sweep_bytes)(c, true);
}
msa_status run(const Call &c)
{
    return ON_SIDE(kl, sweep)(c, true);
}

} // namespace

ENTRY(kl, deterministic, run, workspace);
