/**
 * @file ptx.cuh
 * @brief The Hopper instructions that kernels use, each behind one named function.
 *
 * PTX(...) is the body for nvcc, one instruction; CPU(...) is the body for the engine in simt/, which does
 * what the instruction does and checks that it may be done. This is the only file with inline assembly,
 * and outside kit/ nothing has two bodies.
 * Sections are those of the PTX ISA 9.0, chapter 9.7 ("Instruction Set / Instructions").
 *
 * SITE is the caller's file and line on the CPU, nothing on the GPU; PASS_SITE hands it on.
 */
#ifndef MSA_PTX_CUH
#define MSA_PTX_CUH

#ifdef __CUDACC__
#include <cstdint>
#include <cstring>
#include <cuda.h>
#include <cuda_bf16.h>
#define PTX(...) __VA_ARGS__
#define CPU(...)
#define SITE
#define ONLY_SITE
#define PASS_SITE
#define UNROLL _Pragma("unroll")
#define UNROLL_BY_4 _Pragma("unroll 4")
#define ROLLED _Pragma("unroll 1")
#define PTX_INLINE static __device__ __forceinline__
#define PTX_NAMED PTX_INLINE
#else
#include "../simt/simt.h"
#define PTX(...)
#define CPU(...) __VA_ARGS__
#define SITE , simt::Site site = simt::Site()
#define ONLY_SITE simt::Site site = simt::Site()
#define PASS_SITE , site
/// Before a loop; of nvcc alone.
#define UNROLL
#define UNROLL_BY_4
#define ROLLED
#define PTX_INLINE inline
/// Of functions that ask how their caller names a place in shared memory, which only those in line can.
#define PTX_NAMED inline __attribute__((always_inline))
/// A place lies within the array by which it is named: &m.x[i] is not past the end of x, though more of m
/// follows.
#define INSIDE(p, bytes) simt::stay_inside(bytes, __builtin_dynamic_object_size(p, 1), site);
#if !defined(__has_builtin)
#define __builtin_dynamic_object_size __builtin_object_size // of places that are known to the compiler
#elif !__has_builtin(__builtin_dynamic_object_size)
#define __builtin_dynamic_object_size __builtin_object_size
#endif
#endif

using bf16 = __nv_bfloat16;

/* ---- Addresses, loads, stores -------------------------------------------------------------------- */

/// Where a pointer into shared memory points in the shared window. "cvta".
PTX_INLINE uint32_t shared_u32(const void *p SITE)
{
    PTX(return (uint32_t)__cvta_generic_to_shared(p);)
    CPU(return simt::shared_address(p, site);)
}

/// Plain loads and stores of 1 to 16 bytes, "ld" and "st": a C++ access on the GPU; on the CPU they are also
/// checked (bounds, races, proxies) and counted (sectors, bank conflicts). Data that wgmma or TMA will read
/// must be written by these (or by stmatrix), or a missing proxy fence goes unnoticed.
template <class T> PTX_NAMED T ld_shared(const T *p SITE)
{
    CPU(INSIDE(p, sizeof(T)) simt::touch_shared(p, sizeof(T), false, site);)
    return *p;
}
template <class T> PTX_NAMED void st_shared(T *p, T v SITE)
{
    CPU(INSIDE(p, sizeof(T)) simt::touch_shared(p, sizeof(T), true, site);
        simt::check_stored(&v, sizeof(T), site);)
    *p = v;
}
/// The same store where `take`, as one instruction and no branch: what it stores is computed in any case.
PTX_NAMED void st_shared_if(bool take, uint64_t *p, uint64_t v SITE)
{
    PTX(asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %0, 0;\n@p st.shared.b64 [%1], %2;\n}" ::"r"((int)take),
                     "r"(shared_u32(p)), "l"(v)
                     : "memory");)
    CPU(if (take) st_shared(p, v, site);)
}
template <class T> PTX_INLINE T ld_global(const T *p SITE)
{
    CPU(simt::touch_global(p, sizeof(T), false, site);)
    return *p;
}
/// The same load where `take`, as one instruction and no branch; 0 where not.
PTX_INLINE uint64_t ld_global_if(bool take, const uint64_t *p SITE)
{
    uint64_t v = 0;
    PTX(asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\n@p ld.global.b64 %0, [%1];\n}"
                     : "+l"(v)
                     : "l"(p), "r"((int)take)
                     : "memory");)
    CPU(if (take) v = ld_global(p, site);)
    return v;
}
PTX_INLINE float4 ld_global_if(bool take, const float4 *p SITE)
{
    float4 v = {};
    PTX(asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n@p ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n}"
                     : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w)
                     : "l"(p), "r"((int)take)
                     : "memory");)
    CPU(if (take) v = ld_global(p, site);)
    return v;
}
/// 16 bytes that nobody reads again, the first to leave L2: "ld", .cs.
template <class T> PTX_INLINE T ld_global_once(const T *p SITE)
{
    static_assert(sizeof(T) == sizeof(uint4), "one load of 16 bytes");
    PTX(const uint4 bytes = __ldcs((const uint4 *)p); T v; memcpy(&v, &bytes, sizeof v); return v;)
    CPU(return ld_global(p, site);)
}
template <class T> PTX_INLINE void st_global(T *p, T v SITE)
{
    CPU(simt::touch_global(p, sizeof(T), true, site, &v); simt::check_stored(&v, sizeof(T), site);)
    *p = v;
}

/// Loads a flag that another block sets with st_release: "ld", .acquire.gpu. Spinning on it lets others run.
PTX_INLINE uint32_t ld_acquire(const uint32_t *p SITE)
{
    uint32_t v;
    PTX(asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");)
    CPU(simt::yield(site); v = __atomic_load_n(p, __ATOMIC_ACQUIRE); simt::acquire_at(p, site);)
    return v;
}

/// Sets a flag, after all that this thread did before: "st", .release.gpu.
PTX_INLINE void st_release(uint32_t *p, uint32_t v SITE)
{
    PTX(asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");)
    CPU(simt::release_at(p, site); __atomic_store_n(p, v, __ATOMIC_RELEASE);)
}

/// Adds to a counter, by a thread that may then do what comes after all additions before its own: "atom", .acq_rel.gpu.
/// The old value.
PTX_INLINE uint32_t atom_add_acq_rel(uint32_t *p, uint32_t v SITE)
{
    uint32_t old;
    PTX(asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                     : "=r"(old)
                     : "l"(p), "r"(v)
                     : "memory");)
    CPU(old = simt::add_acq_rel(p, v, site);)
    return old;
}

/// Asks L2 for the line with this address; nobody waits for it. "prefetch".
PTX_INLINE void prefetch_l2(const void *p SITE)
{
    PTX(asm volatile("prefetch.global.L2 [%0];" ::"l"(p));)
    CPU(simt::prefetch(p, site);)
}

/// *p += v, nobody reads the old value: "red", .global.add.f32.
PTX_INLINE void red_add(float *p, float v SITE)
{
    PTX(asm volatile("red.global.add.f32 [%0], %1;" ::"l"(p), "f"(v) : "memory");)
    CPU(simt::check_stored(&v, 4, site); atomicAdd(p, v, site);)
}

/* ---- Arithmetic ---------------------------------------------------------------------------------- */

/// 2^x to 2 ulp; 2^-inf = 0, and so is what would be subnormal. "ex2".
PTX_INLINE float ex2(float x)
{
    float y;
    PTX(asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));)
    CPU(y = exp2f(x); y = y < 0x1p-126f ? 0 : y;)
    return y;
}

/// log2(x), approximately; of 0 and of subnormals -inf. "lg2".
PTX_INLINE float lg2(float x)
{
    float y;
    PTX(asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));)
    CPU(y = log2f(fabsf(x) < 0x1p-126f ? 0 : x);)
    return y;
}

/// Two bf16, rounded to nearest even, `lo` in the low half. "cvt" (whose first source goes to the high half).
PTX_INLINE uint32_t pack_bf16(float lo, float hi)
{
    uint32_t r;
    PTX(asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));)
    CPU(r = __float2bfloat16_rn(lo).bits | (uint32_t)__float2bfloat16_rn(hi).bits << 16;)
    return r;
}

/// Two products of bf16, rounded; subnormal numbers are not lost. "mul".
PTX_INLINE uint32_t mul_bf16x2(uint32_t x, uint32_t y)
{
    uint32_t r;
    PTX(asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y));)
    CPU(float a[4]; const uint32_t bits[4] = {x << 16, x & 0xffff0000u, y << 16, y & 0xffff0000u};
        memcpy(a, bits, sizeof a); r = pack_bf16(a[0] * a[2], a[1] * a[3]);)
    return r;
}

/// The largest of three: one instruction on Hopper. "max" twice, which ptxas joins.
PTX_INLINE int max3(int a, int b, int c)
{
    PTX(return __vimax3_s32(a, b, c);)
    CPU(const int m = a < b ? b : a; return m < c ? c : m;)
}

/// The smallest of three, the same.
PTX_INLINE uint32_t min3(uint32_t a, uint32_t b, uint32_t c)
{
    PTX(return __vimin3_u32(a, b, c);)
    CPU(const uint32_t m = a < b ? a : b; return m < c ? m : c;)
}

/* ---- Warps --------------------------------------------------------------------------------------- */

/// The value of lane (lane ^ with). "shfl.sync". Here and below only the lanes of the mask take part, and
/// each of them must pass the same mask.
template <class T> PTX_INLINE T shfl_xor(T v, int with, uint32_t mask = ~0u SITE)
{
    PTX(return __shfl_xor_sync(mask, v, with);)
    CPU(return __shfl_xor_sync(mask, v, with, 32, site);)
}
/// The value of lane `from`.
template <class T> PTX_INLINE T shfl(T v, int from, uint32_t mask = ~0u SITE)
{
    PTX(return __shfl_sync(mask, v, from);)
    CPU(return __shfl_sync(mask, v, from, 32, site);)
}
/// The value of lane (lane - by), or its own where there is none.
template <class T> PTX_INLINE T shfl_up(T v, unsigned by, uint32_t mask = ~0u SITE)
{
    PTX(return __shfl_up_sync(mask, v, by);)
    CPU(return __shfl_up_sync(mask, v, by, 32, site);)
}
/// Which lanes hold true. "vote.sync".
PTX_INLINE uint32_t warp_ballot(bool p, uint32_t mask = ~0u SITE)
{
    PTX(return __ballot_sync(mask, p);)
    CPU(return __ballot_sync(mask, p, site);)
}
/// Largest, smallest over the warp. "redux.sync".
PTX_INLINE uint32_t warp_max(uint32_t v, uint32_t mask = ~0u SITE)
{
    PTX(return __reduce_max_sync(mask, v);)
    CPU(return __reduce_max_sync(mask, v, site);)
}
PTX_INLINE uint32_t warp_min(uint32_t v, uint32_t mask = ~0u SITE)
{
    PTX(return __reduce_min_sync(mask, v);)
    CPU(return __reduce_min_sync(mask, v, site);)
}

/// True in one lane of the warp, the same one each time. "elect.sync".
PTX_INLINE bool elect_one(ONLY_SITE)
{
    PTX(uint32_t p; asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}"
                                 : "=r"(p));
        return p;)
    CPU(return simt::elect(~0u, site);)
}

/* ---- Barriers of threads ------------------------------------------------------------------------- */

/// Waits until n threads are at barrier `id` (0 is __syncthreads). "bar".
PTX_INLINE void bar_sync(unsigned id, unsigned n SITE)
{
    PTX(asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");)
    CPU(simt::bar_sync(id, n, site);)
}
/// Counts among the n threads of barrier `id` and goes on.
PTX_INLINE void bar_arrive(unsigned id, unsigned n SITE)
{
    PTX(asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory");)
    CPU(simt::bar_arrive(id, n, site);)
}

/* ---- Clusters ----------------------------------------------------------------------------------------
 * CTAs of LAUNCH_CLUSTER reach each other's shared memory, but only between two barriers of the cluster: before
 * the first one a CTA may not have started, after the last one it may have exited. */

/// Counts at the barrier of the cluster and goes on; all threads that have not exited do, warp by warp.
/// "barrier.cluster".
PTX_INLINE void cluster_arrive(ONLY_SITE)
{
    PTX(asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");)
    CPU(simt::cluster_arrive(site);)
}
/// Then waits there for the others, and knows what they did before they came.
PTX_INLINE void cluster_wait(ONLY_SITE)
{
    PTX(asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");)
    CPU(simt::cluster_wait(site);)
}

/// A T in the shared memory of some CTA of the cluster.
template <class T> struct Remote {
    uint32_t address;
};
/// What p points to in this CTA, in the CTA of this rank. "mapa".
template <class T> PTX_NAMED Remote<T> mapa(const T *p, unsigned rank SITE)
{
    uint32_t a;
    PTX(asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(a) : "r"(shared_u32(p)), "r"(rank));)
    CPU(INSIDE(p, sizeof(T)) a = simt::map_shared(p, sizeof(T), rank, site);)
    return {a};
}
/// Stores 8 bytes there: "st", .shared::cluster.
PTX_INLINE void st_remote(Remote<float2> p, float2 v SITE)
{
    PTX(asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(p.address), "f"(v.x), "f"(v.y)
                     : "memory");)
    CPU(simt::store_remote(p.address, &v, sizeof v, site);)
}

/* ---- mbarrier ---------------------------------------------------------------------------------------
 * "Parallel Synchronization and Communication Instructions: mbarrier". A barrier counts arrivals and bytes; a
 * phase ends when both are complete. A fresh barrier is in phase 0: waiting for parity 1 passes at once. */

/// A new barrier, whose phases end with so many arrivals. One thread's work. "mbarrier.init".
PTX_NAMED void mbarrier_init(uint64_t *b, uint32_t arrivals SITE)
{
    PTX(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_u32(b)), "r"(arrivals)
                     : "memory");)
    CPU(INSIDE(b, 8) simt::mbarrier_init(b, arrivals, site);)
}
/// Makes this thread's mbarrier_init known to copies. Then a __syncthreads(). "membar / fence",
/// .mbarrier_init.
PTX_INLINE void fence_mbarrier_init(ONLY_SITE)
{
    PTX(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");)
    CPU(simt::mbarrier_fence_init(site);)
}
/// n arrivals, or one: what this thread did before is known to whoever waits for this phase. "mbarrier.arrive".
PTX_NAMED void mbarrier_arrive(uint64_t *b, uint32_t n SITE)
{
    PTX(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(shared_u32(b)), "r"(n) : "memory");)
    CPU(INSIDE(b, 8) simt::mbarrier_arrive(b, n, 0, site);)
}
PTX_NAMED void mbarrier_arrive(uint64_t *b SITE)
{
    PTX(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_u32(b)) : "memory");)
    CPU(INSIDE(b, 8) simt::mbarrier_arrive(b, 1, 0, site);)
}
/// Expects `bytes` more in this phase, then arrives.
PTX_NAMED void mbarrier_arrive_expect(uint64_t *b, uint32_t bytes SITE)
{
    PTX(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_u32(b)), "r"(bytes)
                     : "memory");)
    CPU(INSIDE(b, 8) simt::mbarrier_arrive(b, 1, bytes, site);)
}
/// Whether the phase of this parity is complete; may wait for a while before it says no.
PTX_NAMED bool mbarrier_try_wait(uint64_t *b, unsigned parity SITE)
{
    PTX(uint32_t p; asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], "
                                 "%2;\nselp.u32 %0, 1, 0, p;\n}"
                                 : "=r"(p)
                                 : "r"(shared_u32(b)), "r"(parity)
                                 : "memory");
        return p;)
    CPU(INSIDE(b, 8) simt::mbarrier_wait(b, parity, site); return true;)
}
/// Waits until the phase of this parity is complete.
// [mbarrier_wait]
PTX_NAMED void mbarrier_wait(uint64_t *b, unsigned parity SITE)
{
    PTX(while (!mbarrier_try_wait(b, parity)){})
    CPU(INSIDE(b, 8) simt::mbarrier_wait(b, parity, site);)
}
// [mbarrier_wait]

/* ---- Bulk copies (TMA) ------------------------------------------------------------------------------
 * "Data Movement and Conversion Instructions: Bulk copy" and "Tensor copy". One thread issues; coordinates
 * are in elements, innermost first. Loads add their bytes to an mbarrier, whole boxes even where they stick
 * out of the tensor (zeros there); stores are waited for by groups of the issuing thread. */

/// Fetches the map itself, which is on its way when the first copy asks for it. "prefetch".
PTX_INLINE void tma_prefetch(const CUtensorMap *map SITE)
{
    PTX(asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");)
    CPU(simt::tma_prefetch(map, site);)
}
/// Asks for a box of a tensor, whose upper left element has these coordinates. "cp.async.bulk.tensor".
PTX_INLINE void tma_load_2d(void *dst, const CUtensorMap *map, uint64_t *b, int c0, int c1 SITE)
{
    PTX(asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
                     "{%2, %3}], [%4];" ::"r"(shared_u32(dst)),
                     "l"(map), "r"(c0), "r"(c1), "r"(shared_u32(b))
                     : "memory");)
    CPU(const int c[] = {c0, c1}; simt::tma_load(dst, map, b, c, 2, site);)
}
PTX_INLINE void tma_load_3d(void *dst, const CUtensorMap *map, uint64_t *b, int c0, int c1, int c2 SITE)
{
    PTX(asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
                     "{%2, %3, %4}], [%5];" ::"r"(shared_u32(dst)),
                     "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_u32(b))
                     : "memory");)
    CPU(const int c[] = {c0, c1, c2}; simt::tma_load(dst, map, b, c, 3, site);)
}
/// The way back: what of the box lies in the tensor is written. "cp.async.bulk.tensor".
PTX_INLINE void tma_store_2d(const CUtensorMap *map, const void *src, int c0, int c1 SITE)
{
    PTX(asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
                     "r"(c0), "r"(c1), "r"(shared_u32(src))
                     : "memory");)
    CPU(const int c[] = {c0, c1}; simt::tma_store(map, src, c, 2, simt::Store::copy, site);)
}
/// The same of what will be read once, the first to leave L2. "createpolicy".
PTX_INLINE void tma_store_once_2d(const CUtensorMap *map, const void *src, int c0, int c1 SITE)
{
    PTX(uint64_t first; asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;"
                            : "=l"(first));
        asm volatile(
            "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group.L2::cache_hint [%0, {%1, %2}], [%3], "
            "%4;" ::"l"(map),
            "r"(c0), "r"(c1), "r"(shared_u32(src)), "l"(first)
            : "memory");)
    CPU(tma_store_2d(map, src, c0, c1, site);)
}
/// Adds the tile to the tensor, element by element, in no particular order.
PTX_INLINE void tma_reduce_add_2d(const CUtensorMap *map, const void *src, int c0, int c1 SITE)
{
    PTX(asm volatile(
            "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
                map),
            "r"(c0), "r"(c1), "r"(shared_u32(src))
            : "memory");)
    CPU(const int c[] = {c0, c1}; simt::tma_store(map, src, c, 2, simt::Store::add, site);)
}
/// Asks for contiguous bytes, which the barrier counts; both addresses and the size are multiples of 16.
PTX_INLINE void bulk_load(void *dst, const void *src, uint32_t bytes, uint64_t *b SITE)
{
    PTX(asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                shared_u32(dst)),
            "l"(src), "r"(bytes), "r"(shared_u32(b))
            : "memory");)
    CPU(simt::bulk_load(dst, src, bytes, b, site);)
}
/// The way back, for contiguous bytes. "cp.async.bulk".
PTX_INLINE void bulk_store(void *dst, const void *src, uint32_t bytes SITE)
{
    PTX(asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(dst),
                     "r"(shared_u32(src)), "r"(bytes)
                     : "memory");)
    CPU(simt::bulk_store(dst, src, bytes, site);)
}
/// Closes a group of this thread's bulk stores.
PTX_INLINE void bulk_commit(ONLY_SITE)
{
    PTX(asm volatile("cp.async.bulk.commit_group;" ::: "memory");)
    CPU(simt::bulk_commit(site);)
}
/// Until at most `pending` groups of this thread still have to read their source...
template <int pending> PTX_INLINE void bulk_wait_read(ONLY_SITE)
{
    PTX(asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");)
    CPU(simt::bulk_wait(pending, true, site);)
}
/// ...or, to be visible to this thread, to write their destination.
template <int pending> PTX_INLINE void bulk_wait(ONLY_SITE)
{
    PTX(asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");)
    CPU(simt::bulk_wait(pending, false, site);)
}
/// Before wgmma or TMA reads what this thread wrote to shared memory with ordinary stores; then a barrier.
/// "membar / fence", .proxy.async.
PTX_INLINE void fence_proxy_async(ONLY_SITE)
{
    PTX(asm volatile("fence.proxy.async.shared::cta;" ::: "memory");)
    CPU(simt::fence_proxy_async(site);)
}
/// The same for what this thread wrote to global memory or read there, in this grid.
PTX_INLINE void fence_proxy_async_global(ONLY_SITE)
{
    PTX(asm volatile("fence.proxy.async.global;" ::: "memory");)
    CPU(simt::fence_proxy_async_global(site);)
}

/* ---- cp.async ---------------------------------------------------------------------------------------
 * "Data Movement and Conversion Instructions: Non-bulk copy". */

/// Copies 16 bytes past L1; only the first src_bytes come from global memory, the rest are zeros.
PTX_NAMED void cp_async_16(void *dst, const void *src, unsigned src_bytes SITE)
{
    PTX(asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_u32(dst)), "l"(src),
                     "r"(src_bytes)
                     : "memory");)
    CPU(INSIDE(dst, 16) simt::cp_async(dst, src, 16, src_bytes, site);)
}
/// Copies 4 bytes through L1, or writes zero.
PTX_NAMED void cp_async_4(void *dst, const void *src, unsigned src_bytes SITE)
{
    PTX(asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_u32(dst)), "l"(src),
                     "r"(src_bytes)
                     : "memory");)
    CPU(INSIDE(dst, 4) simt::cp_async(dst, src, 4, src_bytes, site);)
}
/// Closes a group of this thread's copies. "cp.async.commit_group".
PTX_INLINE void cp_async_commit(ONLY_SITE)
{
    PTX(asm volatile("cp.async.commit_group;" ::: "memory");)
    CPU(simt::cp_async_commit(site);)
}
/// Until at most `pending` of this thread's groups are in flight.
template <int pending> PTX_INLINE void cp_async_wait(ONLY_SITE)
{
    PTX(asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");)
    CPU(simt::cp_async_wait(pending, site);)
}

/* ---- Matrix fragments, mma.sync ---------------------------------------------------------------------
 * "Warp Level Matrix Instructions". Which register holds which element: fragment.cuh. Matrices of 8 x 8
 * bf16; lanes 8i..8i+7 give the addresses of the rows of matrix i. */

/// Loads 2 or 4 matrices, as fragments of mma, or transposed. "ldmatrix".
PTX_INLINE void ldmatrix_x2(uint32_t (&r)[2], const void *row SITE)
{
    PTX(asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1])
                     : "r"(shared_u32(row))
                     : "memory");)
    CPU(simt::ldmatrix(r, 2, false, row, site);)
}
PTX_INLINE void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row SITE)
{
    PTX(asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1])
                     : "r"(shared_u32(row))
                     : "memory");)
    CPU(simt::ldmatrix(r, 2, true, row, site);)
}
PTX_INLINE void ldmatrix_x4(uint32_t (&r)[4], const void *row SITE)
{
    PTX(asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_u32(row))
                     : "memory");)
    CPU(simt::ldmatrix(r, 4, false, row, site);)
}
PTX_INLINE void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row SITE)
{
    PTX(asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(shared_u32(row))
                     : "memory");)
    CPU(simt::ldmatrix(r, 4, true, row, site);)
}
/// Stores 4 of them. "stmatrix".
PTX_INLINE void stmatrix_x4(void *row, const uint32_t (&r)[4] SITE)
{
    PTX(asm volatile(
            "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_u32(row)),
            "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
            : "memory");)
    CPU(simt::stmatrix(r, 4, false, row, site);)
}
/// Stores 2, transposed.
PTX_INLINE void stmatrix_x2_trans(void *row, const uint32_t (&r)[2] SITE)
{
    PTX(asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(shared_u32(row)),
                     "r"(r[0]), "r"(r[1])
                     : "memory");)
    CPU(simt::stmatrix(r, 2, true, row, site);)
}
/// d += a b, 16x16 times 16x8. "mma.sync.aligned.m16n8k16".
PTX_INLINE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] SITE)
{
    PTX(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, "
                     "%7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));)
    CPU(simt::mma(d, a, b, site);)
}

/* ---- wgmma ------------------------------------------------------------------------------------------
 * "Asynchronous Warpgroup Level Matrix Instructions". From issue to wait the accumulators belong to the
 * hardware, and so do A in registers and the operands in shared memory. */

enum class Swizzle : unsigned { none = 0, b128 = 1, b64 = 2, b32 = 3 };

/// The matrix descriptor of an operand that starts at p; byte offsets as the table "Strides" of that chapter
/// names them: `leading` is ignored for a swizzled K-major operand, `stride` leads from 8 rows to the next.
PTX_INLINE uint64_t wgmma_descriptor(const void *p, uint32_t leading, uint32_t stride, Swizzle swizzle SITE)
{
    PTX(const uint32_t start = shared_u32(p);)
    CPU(const uint32_t start = simt::checked_start(p, leading, stride, site);)
    return (uint64_t)((start & 0x3ffff) >> 4) | (uint64_t)((leading & 0x3ffff) >> 4) << 16 |
           (uint64_t)((stride & 0x3ffff) >> 4) << 32 | (uint64_t)swizzle << 62;
}
/// The same operand `bytes` further on, a multiple of 16: only where it starts moves, in the lower half.
PTX_INLINE uint64_t wgmma_advanced(uint64_t descriptor, int bytes)
{
    return (descriptor & ~(uint64_t)UINT32_MAX) | ((uint32_t)descriptor + (uint32_t)(bytes / 16));
}

/// Before the first wgmma and after registers of one were touched: "wgmma.fence".
PTX_INLINE void wgmma_fence(ONLY_SITE)
{
    PTX(asm volatile("wgmma.fence.sync.aligned;" ::: "memory");)
    CPU(simt::wgmma_fence(site);)
}
/// The compiler must not move accesses to accumulators over a fence or a wait: pass them through here, before
/// the first fence and after the wait. No instruction.
template <int n> PTX_INLINE void wgmma_pin(float (&d)[n])
{
    PTX(for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");)
    CPU((void)d;)
}
/// The same for sums of integers.
template <int n> PTX_INLINE void wgmma_pin(int32_t (&d)[n])
{
    PTX(for (int i = 0; i < n; i++) asm volatile("" : "+r"(d[i])::"memory");)
    CPU((void)d;)
}
/// The same for A in registers.
template <int n> PTX_INLINE void wgmma_pin(uint32_t (&a)[n][4])
{
    PTX(for (int i = 0; i < 4 * n; i++) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");)
    CPU((void)a;)
}
/// Closes a group of this warpgroup's products. "wgmma.commit_group".
PTX_INLINE void wgmma_commit(ONLY_SITE)
{
    PTX(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");)
    CPU(simt::wgmma_commit(site);)
}
/// Until at most `pending` groups of this warpgroup are in flight.
template <int pending> PTX_INLINE void wgmma_wait(ONLY_SITE)
{
    PTX(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");)
    CPU(simt::wgmma_wait(pending, site);)
}

#ifdef __CUDACC__
// Operand lists: registers %0..%n-1 and d[0]..d[n-1].
#define R4 "%0, %1, %2, %3"
#define R8 R4 ", %4, %5, %6, %7"
#define R16 R8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define R32 R16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R64                                                                                                  \
    R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"                   \
        ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define R128                                                                                                 \
    R64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"                   \
        ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"                   \
        ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"       \
        ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D8(i) D4(i), D4(i + 4)
#define D16(i) D8(i), D8(i + 8)
#define D32(i) D16(i), D16(i + 16)
#define D64(i) D32(i), D32(i + 32)
#define D128(i) D64(i), D64(i + 64)
#define I4(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define I8(i) I4(i), I4(i + 4)
#define I16(i) I8(i), I8(i + 8)
#define I32(i) I16(i), I16(i + 16)
#define I64(i) I32(i), I32(i + 32)
// `x` operands follow the accumulators; the predicate says whether D is added to.
#define WGMMA_SS(N, regs, x0, x1, x2, x3, x4)                                                                \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " x2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N         \
                 "k16.f32.bf16.bf16 {" R##regs "}, " x0 ", " x1 ", p, 1, 1, " x3 ", " x4 ";\n}"              \
                 : D##regs(0)                                                                                \
                 : "l"(a), "l"(b), "r"((int)accumulate), "n"(trans_a), "n"(trans_b)                          \
                 : "memory")
#define WGMMA_RS(N, regs, x0, x1, x2, x3, x4, x5, x6)                                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " x5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N         \
                 "k16.f32.bf16.bf16 {" R##regs "}, {" x0 ", " x1 ", " x2 ", " x3 "}, " x4 ", p, 1, 1, " x6   \
                                               ";\n}"                                                        \
                 : D##regs(0)                                                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate), "n"(trans_b)    \
                 : "memory")
#define WGMMA_INT8(N, regs, x0, x1, x2)                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " x2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N         \
                 "k32.s32.s8.s8 {" R##regs "}, " x0 ", " x1 ", p;\n}"                                        \
                 : I##regs(0)                                                                                \
                 : "l"(a), "l"(b), "r"((int)accumulate)                                                      \
                 : "memory")
#endif

/// d (64 x N) = A B or d += A B for k = 16, both from shared memory. trans: 0 K-major, 1 MN-major.
template <int N, int trans_a = 0, int trans_b = 0>
PTX_INLINE void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate SITE)
{
    static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128 || N == 256, "add this N here");
    PTX(if constexpr (N == 8) WGMMA_SS(8, 4, "%4", "%5", "%6", "%7", "%8");)
    PTX(else if constexpr (N == 16) WGMMA_SS(16, 8, "%8", "%9", "%10", "%11", "%12");)
    PTX(else if constexpr (N == 32) WGMMA_SS(32, 16, "%16", "%17", "%18", "%19", "%20");)
    PTX(else if constexpr (N == 64) WGMMA_SS(64, 32, "%32", "%33", "%34", "%35", "%36");)
    PTX(else if constexpr (N == 128) WGMMA_SS(128, 64, "%64", "%65", "%66", "%67", "%68");)
    PTX(else if constexpr (N == 256) WGMMA_SS(256, 128, "%128", "%129", "%130", "%131", "%132");)
    CPU(simt::wgmma(d, N, nullptr, a, b, accumulate, trans_a, trans_b, site);)
}
/// The same with A (always K-major) from registers.
template <int N, int trans_b = 0>
PTX_INLINE void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate SITE)
{
    static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128 || N == 256, "add this N here");
    PTX(if constexpr (N == 8) WGMMA_RS(8, 4, "%4", "%5", "%6", "%7", "%8", "%9", "%10");)
    PTX(else if constexpr (N == 16) WGMMA_RS(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", "%14");)
    PTX(else if constexpr (N == 32) WGMMA_RS(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", "%22");)
    PTX(else if constexpr (N == 64) WGMMA_RS(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38");)
    PTX(else if constexpr (N == 128) WGMMA_RS(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70");)
    PTX(else if constexpr (N == 256)
            WGMMA_RS(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", "%134");)
    CPU(simt::wgmma(d, N, a, 0, b, accumulate, false, trans_b, site);)
}
/// d (64 x N) = A B or d += A B of 8-bit integers, exactly, for k = 32: both K-major, in shared memory.
template <int N>
PTX_INLINE void wgmma_ss_int8(int32_t (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate SITE)
{
    static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128, "add this N here");
    PTX(if constexpr (N == 8) WGMMA_INT8(8, 4, "%4", "%5", "%6");)
    PTX(else if constexpr (N == 16) WGMMA_INT8(16, 8, "%8", "%9", "%10");)
    PTX(else if constexpr (N == 32) WGMMA_INT8(32, 16, "%16", "%17", "%18");)
    PTX(else if constexpr (N == 64) WGMMA_INT8(64, 32, "%32", "%33", "%34");)
    PTX(else if constexpr (N == 128) WGMMA_INT8(128, 64, "%64", "%65", "%66");)
    CPU(simt::wgmma_int8(d, N, a, b, accumulate, site);)
}
#ifdef __CUDACC__
#undef R4
#undef R8
#undef R16
#undef R32
#undef R64
#undef R128
#undef D4
#undef D8
#undef D16
#undef D32
#undef D64
#undef D128
#undef I4
#undef I8
#undef I16
#undef I32
#undef I64
#undef WGMMA_SS
#undef WGMMA_RS
#undef WGMMA_INT8
#endif

/* ---- The timeline ------------------------------------------------------------------------------------
 * Nothing on the GPU. On the CPU they tell the engine's timeline what it cannot see. */

/// From here on this thread's warp is called so: "producer".
PTX_INLINE void timeline_role(const char *role SITE)
{
    PTX((void)role;)
    CPU(simt::timeline_role(role, site);)
}
/// The warp now does `what`: ordinary arithmetic of about `clk` clocks of a quarter of an SM.
PTX_INLINE void timeline_mark(const char *what, double clk SITE)
{
    PTX((void)what; (void)clk;)
    CPU(simt::timeline_mark(what, clk, site);)
}

/* ---- Registers and grids ------------------------------------------------------------------------- */

/// The same value, of which the compiler knows nothing: what follows from it in a loop is computed there, and
/// not kept in registers from turn to turn. No instruction.
PTX_INLINE int recomputed(int v)
{
    PTX(asm volatile("" : "+r"(v));)
    return v;
}

/// Changes how many registers each thread of this warpgroup may use. "setmaxnreg".
template <int n> PTX_INLINE void setmaxnreg_inc(ONLY_SITE)
{
    PTX(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));)
    CPU(simt::setmaxnreg(n, true, site);)
}
template <int n> PTX_INLINE void setmaxnreg_dec(ONLY_SITE)
{
    PTX(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));)
    CPU(simt::setmaxnreg(n, false, site);)
}

/// Programmatic dependent launch: wait until the grids before have finished and their writes are visible...
/// "griddepcontrol". For LAUNCH_DEPENDENT; after LAUNCH there is nothing to wait for.
PTX_INLINE void grid_wait(ONLY_SITE)
{
    PTX(asm volatile("griddepcontrol.wait;" ::: "memory");)
    CPU(simt::grid_wait(site);)
}
/// ...and let the next grid start early, which publishes nothing.
PTX_INLINE void grid_launch_dependents(ONLY_SITE)
{
    PTX(asm volatile("griddepcontrol.launch_dependents;" ::: "memory");)
    CPU(simt::launch_dependents(site);)
}

#endif
