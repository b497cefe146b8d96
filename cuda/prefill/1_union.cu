/**
 * @file 1_union.cu
 * @brief The whole attention of a layer: the fused index, then sparse/union.
 *
 * Better where neighbours agree on their blocks: no partial outputs.
 *
 * Its floor and what it wastes: those of index/4_fused.cu and sparse/3_union.cu, one after the other. The
 * launch of the second is the only thing between them.
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
