/**
 * @file launch.cuh
 * @brief What a C++ compiler lacks of CUDA: launching a kernel and its dynamic shared memory, written once
 * for both sides.
 *
 *     struct Smem { alignas(1024) bf16 tile[64 * 64]; uint64_t full; };
 *     __global__ void kernel(float *out, int n) { Smem &s = shared<Smem>(); ... }
 *     LAUNCH(kernel, grid, block, sizeof(Smem), stream, out, n);      a template in parentheses: (kernel<64>)
 *
 * LAUNCH_DEPENDENT is programmatic dependent launch: the grid may start while the one before still runs, and
 * must call grid_wait() before it touches what that one stores. On the CPU that is poison until then.
 * LAUNCH_CLUSTER is a dependent launch of clusters of up to 8 CTAs along x, a divisor of grid.x: they run at the same
 * time and reach each other's shared memory.
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

/// The bytes from an element of `whole` on, `offset` after its start. The engine lets them reach the end of `whole`: the
/// address of an element ends with the array that holds it.
template <class Whole, class T> PTX_INLINE unsigned char *bytes_from(Whole &whole, T &element, size_t offset)
{
    PTX((void)whole; (void)offset; return (unsigned char *)&element;)
    CPU((void)element; return (unsigned char *)&whole + offset;)
}

/// On the CPU the engine ends the run where this does not hold, and says so; nothing on the GPU.
PTX_INLINE void engine_require(bool holds, const char *what SITE)
{
    PTX((void)holds; (void)what;)
    CPU(simt::require(holds, what, site);)
}

/// SMs of the device (host).
inline int device_sms()
{
    PTX(int device = 0, n = 0; cudaGetDevice(&device);
        cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device); return n;)
    CPU(return simt::options.sms;)
}

/// What is one on a GPU and another on the engine (host).
constexpr int of_side(int gpu, int engine)
{
    PTX((void)engine; return gpu;)
    CPU((void)gpu; return engine;)
}

/// Around launches that belong to no plan (host): a failure is the caller's to report.
inline void begin_launches()
{
    CPU(simt::options.keep_going = true; simt::reset();)
}
inline bool launched_well()
{
    PTX(return cudaGetLastError() == cudaSuccess;)
    CPU(return simt::report().empty();)
}

#ifdef __CUDACC__
template <class... P, class... A>
void launch(bool dependent, unsigned cluster, void (*kernel)(P...), dim3 grid, dim3 block,
            size_t shared_bytes, cudaStream_t stream, const A &...args)
{
    if (shared_bytes > 48 << 10) // above that a kernel has to ask
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    cudaLaunchAttribute attribute[2] = {};
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = dependent;
    attribute[1].id = cudaLaunchAttributeClusterDimension;
    attribute[1].val.clusterDim = {cluster, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = cluster > 1 ? 2 : dependent;
    cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
    launch(false, 1, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define LAUNCH_DEPENDENT(kernel, grid, block, shared_bytes, stream, ...)                                     \
    launch(true, 1, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define LAUNCH_CLUSTER(kernel, cluster, grid, block, shared_bytes, stream, ...)                              \
    launch(true, cluster, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#else
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
    ((void)(stream),                                                                                         \
     simt::launch(#kernel, kernel, grid, block, shared_bytes, false, 1, simt::Site(), __VA_ARGS__))
#define LAUNCH_DEPENDENT(kernel, grid, block, shared_bytes, stream, ...)                                     \
    ((void)(stream),                                                                                         \
     simt::launch(#kernel, kernel, grid, block, shared_bytes, true, 1, simt::Site(), __VA_ARGS__))
#define LAUNCH_CLUSTER(kernel, cluster, grid, block, shared_bytes, stream, ...)                              \
    ((void)(stream),                                                                                         \
     simt::launch(#kernel, kernel, grid, block, shared_bytes, true, cluster, simt::Site(), __VA_ARGS__))
#endif

#endif
