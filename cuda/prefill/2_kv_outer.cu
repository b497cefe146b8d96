/**
 * @file 2_kv_outer.cu
 * @brief The whole attention of a layer: the fused index, then sparse/kv_outer.
 *
 * Better where neighbours disagree: every product is full, whatever they chose.
 *
 * Its floor and what it wastes: those of index/4_fused.cu and sparse/4_kv_outer.cu, the reverse index
 * included.
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
