/**
 * @file 2_kv_outer.cu
 * @brief The whole attention of a layer: the fused index, then sparse/kv_outer.
 *
 * Better than 1_union: every product is full, where neighbours disagree too.
 * Bytes, floor and waste: those of index/4_fused.cu and sparse/4_kv_outer.cu, the reverse index included.
 * Estimate: at M3's sizes, random selections (index at 85 % of 770 TFLOP/s, KV-outer on an H200 at 80 % of its
 * roofline): N = 128K 13.4 + 28 = 42 ms, where dense/hopper is expected to take 0.44 s, 10.6 times as long; 1M
 * 0.86 + 0.24 = 1.1 s against 28 s, 25 times. Q is taken to come from memory every time; at 128K it should from L2.
 */
#include "prefill.cuh"

namespace
{

size_t workspace(const Call &c)
{
    return layer_workspace(c, ON_SIDE(sparse, kv_outer));
}
msa_status run(const Call &c)
{
    return layer(c, ON_SIDE(sparse, kv_outer));
}

} // namespace

ENTRY(prefill, kv_outer, run, workspace);
