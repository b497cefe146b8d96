/**
 * @file tensor_map.cuh
 * @brief Encodes the tensor maps that TMA copies take: the driver's entry point, or the engine's with its
 * rules.
 */
#ifndef MSA_TENSOR_MAP_CUH
#define MSA_TENSOR_MAP_CUH

#include "ptx.cuh"

#ifdef __CUDACC__
#include <cudaTypedefs.h>
#include <cuda_runtime.h>
#endif

/// Element types and swizzles, with the driver's values.
enum class TensorType { int8 = 0, float32 = 7, bf16 = 9 };
enum class TensorSwizzle { none = 0, b32 = 1, b64 = 2, b128 = 3 };

#ifdef __CUDACC__
/// The driver's function, looked up once; NULL without a driver.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder()
{
    static const PFN_cuTensorMapEncodeTiled_v12000 found = [] {
        void *entry = nullptr;
        cudaDriverEntryPointQueryResult query;
#if CUDART_VERSION >= 12050 // which is when it came; 13 no longer has the other
        const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                                                   cudaEnableDefault, &query);
#else
        const cudaError_t error =
            cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &query);
#endif
        return error == cudaSuccess ? (PFN_cuTensorMapEncodeTiled_v12000)entry : nullptr;
    }();
    return found;
}
#endif

/// A tensor of `rank` dimensions, innermost first: sizes in elements, strides in bytes of dimensions 1, 2,
/// ... and the box that one copy moves. Reads outside give zeros. Returns NULL, or one line that says what is
/// wrong.
inline const char *encode_tensor_map(CUtensorMap *map, TensorType type, int rank, void *base,
                                     const uint64_t *dim, const uint64_t *stride, const uint32_t *box,
                                     TensorSwizzle swizzle)
{
    const uint32_t step[5] = {1, 1, 1, 1, 1};
    // Rows of 256 bytes go in two boxes, of which the first one's misses bring the other's bytes into L2.
    const bool whole_rows = rank > 1 && stride[0] == 256;
#ifdef __CUDACC__
    const PFN_cuTensorMapEncodeTiled_v12000 encode = tensor_map_encoder();
    if (!encode)
        return "this machine has no CUDA driver that encodes tensor maps";
    const CUresult result = encode(
        map, (CUtensorMapDataType)type, (cuuint32_t)rank, base, (const cuuint64_t *)dim,
        (const cuuint64_t *)stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, (CUtensorMapSwizzle)swizzle,
        whole_rows ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? nullptr : "the driver refuses this tensor map";
#else
    return simt::encode_tiled(map, (int)type, rank, base, dim, stride, box, step, 0, (int)swizzle,
                              whole_rows ? 3 : 2, 0);
#endif
}

#endif
