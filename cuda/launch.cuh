/**
 * @file launch.cuh
 * @brief What a C++ compiler lacks of CUDA: launching a kernel and its dynamic shared memory, written once
 * for both sides.
 *
 *     struct Smem { alignas(1024) bf16 tile[64 * 64]; uint64_t full; };
 *     __global__ void kernel(float *out, int n) { Smem &s = shared<Smem>(); ... }
 *     LAUNCH(kernel, grid, block, sizeof(Smem), stream, out, n);      a template in parentheses: (kernel<64>)
 */
#ifndef MSA_LAUNCH_CUH
#define MSA_LAUNCH_CUH

#include "ptx.cuh"

/// The block's dynamic shared memory as the struct that describes it. It starts at a multiple of 1024 bytes.
template <class T> PTX_INLINE T &shared(ONLY_SITE)
{
    static_assert(alignof(T) <= 1024, "the swizzle's pattern is all that shared memory is aligned to");
    PTX(extern __shared__ __align__(1024) unsigned char dynamic_shared[];
        return *reinterpret_cast<T *>(dynamic_shared);)
    CPU(return *static_cast<T *>(simt::shared_base(sizeof(T), site));)
}

#ifdef __CUDACC__
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            const A &...args)
{
    if (shared_bytes > 48 << 10) // above that a kernel has to ask
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(args)...);
}
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
    launch(kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#else
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
    ((void)(stream), simt::launch(#kernel, kernel, grid, block, shared_bytes, simt::Site(), __VA_ARGS__))
#endif

#endif
