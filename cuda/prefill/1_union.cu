/**
 * @file 1_union.cu
 * @brief The whole attention of a layer: the fused index, then sparse/union.
 *
 * Better than 2_kv_outer: no partial outputs, where neighbours agree on their blocks.
 * Bytes, floor and waste: those of index/4_fused.cu and sparse/3_union.cu, one after the other; the launch of
 * the second is the only thing between them.
 * Estimate: at M3's sizes, structured selections (index at 85 % of 770 TFLOP/s, union on an H200 if no cache
 * holds anything, 2.2 ms for 16384 queries and less with one): N = 128K 13.4 + 17.7 = 31 ms, where
 * dense/hopper is expected to take 0.44 s, 14 times as long; 1M 0.86 + 0.14 = 1.0 s against 28 s, 28 times.
 */
#include "prefill.cuh"

namespace
{

size_t workspace(const Call &c)
{
    return layer_workspace(c, ON_SIDE(sparse, union));
}
msa_status run(const Call &c)
{
    return layer(c, ON_SIDE(sparse, union));
}

} // namespace

ENTRY(prefill, union, run, workspace);
