/**
 * @file uniform.cuh
 * @brief A number that all lanes of a warp have, told to ptxas.
 *
 * Where everything follows from a warp's number made by warp_max(), as in dense/hopper and sparse/kv_outer, ptxas finds out
 * by itself, and wgmma_advanced() moves descriptors in uniform registers. index/fused has the tile's from uniform(), and adds
 * to all of it: with wgmma_advanced() its turn has 8 instructions more, with warp_max() 32, and spills.
 */
#ifndef MSA_UNIFORM_CUH
#define MSA_UNIFORM_CUH

#include "ptx.cuh"

/// A descriptor for wgmma: lane 0's, so that it stays in uniform registers, and what is added to it too. Else both its
/// halves are moved there before every product, 64 instructions of a tile in index/fused. By a whole warp.
PTX_INLINE uint64_t uniform(uint64_t descriptor)
{
    return descriptor >> 32 << 32 | shfl((uint32_t)descriptor, 0);
}

#endif
