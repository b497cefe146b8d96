/**
 * @file simt.h
 * @brief The CPU engine as a kernel and its caller see it: CUDA's names, launches, options, counters,
 *        and the bodies that ptx.cuh calls where there is no GPU.
 *
 * A CUDA thread is a fiber. It runs until it has to wait, so only a wrong kernel can notice in which
 * order threads run, and options let a test try several. Copies and wgmma take place as late as allowed, at
 * once, or at random; meanwhile their results are poison. A kernel includes launch.cuh and nothing of this:
 *
 * - Shared memory is one struct, got by shared<T>(). It starts as NaNs and is guarded at both ends.
 * - ld_shared, st_shared, ld_global and st_global (ptx.cuh) are checked for bounds (of the named array, too),
 *   races, proxy fences and reads of what nobody wrote, and counted. Plain C++ accesses run as fast as C++
 *   and are only seen by their effects: NaNs, broken guards; or by ThreadSanitizer (tsan.h). What wgmma or
 *   TMA will read must be written by the named ones.
 * - wgmma's accumulators must be a named array that lives until the wait.
 * - A loop that waits for another CTA spins on ld_acquire (and the launch needs resident CTAs), never
 *   on a plain variable.
 *
 * Whether one access comes after another is asked of vector clocks, which barriers, mbarriers, fences,
 * releases and acquires carry from thread to thread and from CTA to CTA; so a missing one is found in
 * most orders, and not only where it does harm. Of what lanes do together only bar.warp.sync is a barrier: a
 * shuffle, a vote or a product orders no memory. Atomics are relaxed. Only as many CTAs are resident as fit
 * on options.sms.
 *
 * It is a checker, not a simulator of time: no clock (but a model of one, see timeline()), no cache, nothing
 * of the memory model but what is ordered, and sums are added in another order than the hardware's.
 * Grids run one after the other; of programmatic dependent launch a grid
 * sees poison in place of the output of the grid before (of declared buffers, up to options.snapshot bytes)
 * until grid_wait returns, and named accesses that collide with those of a grid that may still run are
 * reported; static __shared__ variables do not compile.
 */
#ifndef MSA_SIMT_H
#define MSA_SIMT_H

#include "counts.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

/* ---- CUDA's words -------------------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
inline float2 make_float2(float x, float y)
{
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

/// Set anew whenever a fiber runs.
extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

using cudaStream_t = void *;

/// bf16 by its bits; conversions round to nearest even.
struct __nv_bfloat16 {
    uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 h)
{
    uint32_t u = (uint32_t)h.bits << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if (f != f)
        return {(uint16_t)0x7fff};
    return {(uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

/// A tensor map, opaque to kernels as the driver's is. Filled by simt::encode_tiled.
struct alignas(64) CUtensorMap {
    uint64_t magic;
    unsigned char *base;
    uint64_t dim[5], stride[5]; ///< elements, bytes
    uint32_t box[5];
    uint16_t rank, element, swizzle, type;
};

namespace simt
{

/* ---- Where in the kernel ------------------------------------------------------------------------- */

/// The call site of an instruction: as a default argument it names the caller's file and line.
struct Site {
    const char *file;
    int line;
    constexpr Site(const char *f = __builtin_FILE(), int l = __builtin_LINE()) : file(f), line(l)
    {
    }
    bool operator==(const Site &o) const
    {
        return line == o.line && (file == o.file || strcmp(file, o.file) == 0);
    }
};

/* ---- Running a kernel ---------------------------------------------------------------------------- */

/// In which threads of a CTA run. unfair: a warp, and of several CTAs one, runs as far ahead as it can.
enum class Order { forward, reverse, random, unfair };
enum class Timing { late, early, random }; ///< when asynchronous copies and products take place

/// What instructions cost in the timeline's model: nominal clocks of an H100's SM, not measurements.
struct Costs {
    double copy_latency = 600; ///< from a copy's turn on the path to its landing
    double copy_bytes = 24;    ///< bytes a clock, of all copies of a CTA together
    double tensor_fma = 2048;  ///< multiply-adds a clock of wgmma, of all warpgroups together
    double mma_fma = 340;      ///< ... of one warp's mma.sync
    double shared_bytes = 128; ///< bytes a clock of a warp's named loads and stores
    double barrier = 16;       ///< from the end of a wait to the next instruction
    double issue = 2;          ///< any other instruction that the engine sees
};

struct Options {
    Order order = Order::forward;
    Timing timing = Timing::late;
    uint64_t seed = 1; ///< of both random modes; printed with every failure
    int resident = 1; ///< CTAs that run interleaved; more than one for kernels whose CTAs wait for each other
    int sms = 132;           ///< what a kernel that asks for the number of SMs is told
    bool dry = false;        ///< run no CTA at all: for who asks what a call would take
    bool keep_going = false; ///< leave a failure in report() instead of ending the program
    bool unwritten = false;  ///< let wgmma read shared memory that nobody has written
    /// Which CTAs of a grid run; all, if empty. Launches count from 0 at reset(). Called by one thread.
    /// `block` counts along x first.
    std::function<bool(const char *kernel, uint64_t launch, uint64_t block, dim3 grid)> only;
    /// Shown every access by a named helper, by all CTAs that run at the same time.
    std::function<void(const simt_access &)> watch;
    size_t snapshot =
        64 << 20;          ///< LAUNCH_DEPENDENT: bytes of declared buffers up to which output is poisoned
    bool timeline = false; ///< record what timeline() hands out
    int64_t timeline_block = -1; ///< only of this CTA of each launch, unless negative
    Costs costs;                 ///< its clocks
};
extern Options options;
extern uintptr_t reach; ///< the furthest address of a workspace that any kernel's host code has carved out

/// Exact work of all launches since reset().
using Counters = ::simt_counters;
extern Counters counters;
void reset(); ///< counters to zero, launches count from 0 again, no timeline

/* The timeline is a model, not a measurement. The engine has no clock, so each thread gets one that advances
 * by the nominal options.costs. Products share the CTA's tensor cores in order of issue, copies share one
 * path to memory, and whoever waits goes on when the last arrival or landing has come. A CTA has an SM
 * for itself, and starts at clock 0. Ordinary arithmetic is not seen: a kernel declares it by
 * timeline_mark("softmax", clk), which gives the warp its quarter of the SM for so long. Order and timing of
 * the run have no influence; waiting for other CTAs takes no time. */

enum class Did {
    work,          ///< what timeline_mark declared
    copy,          ///< a bulk copy or cp.async, from issue to landing
    product,       ///< a group of wgmma, from its first issue to its last result; in the first of its warps
    wait_mbarrier, ///< object: the barrier's offset in shared memory
    wait_barrier,  ///< object: the number of the CTA's or named barrier
    wait_product,  ///< wgmma.wait_group
    wait_copy,     ///< the wait for groups of bulk stores or cp.async
    wait_lanes     ///< for the other lanes of a warp or warpgroup, at a collective instruction
};

/// What lanes of one warp did together. Waits that took no time are left out.
struct Event {
    const char *kernel;
    uint64_t launch, block; ///< launches as options.only counts them
    unsigned warp;
    uint32_t lanes;   ///< mask
    const char *role; ///< as timeline_role said, else ""
    Did did;
    const char *name; ///< of work, else ""
    uint32_t object;  ///< of a wait; of a copy: the offset of the mbarrier that it completes on
    uint64_t bytes;   ///< of a copy
    double busy;      ///< clocks that it had the tensor cores, the path or the quarter for itself
    double served;    ///< when its turn there came
    double begin, end;
    Site at;
};
/// All launches since reset() with options.timeline, ordered by launch, CTA, warp and begin.
const std::vector<Event> &timeline();

/// What was wrong with the first launch since reset() that failed: "file:line: what (kernel, block, thread)"; empty
/// if nothing. Until the next reset() no kernel runs then.
const std::string &report();

/// Declares a buffer of global memory. Once there is one, every access by a named helper or a copy has
/// to lie within some declared buffer.
void declare_global(const void *start, size_t bytes, const char *name);
void forget_globals();
/// Fills a workspace with what a kernel must not take for its own: an atomic or a flag where no grid has
/// stored since is reported. There is one at a time, or none of 0 bytes.
void spoil(void *start, size_t bytes);

struct Launch {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    std::function<void()> body;
    Site at;
    bool dependent;   ///< until grid_wait, the output of the launch before is poison
    unsigned cluster; ///< CTAs of one, along x; 1: each is alone
};
void run(const Launch &launch);

template <class... P, class... A>
void launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
            bool dependent, unsigned cluster, Site at, const A &...args)
{
    if (!options.dry)
        run({name, grid, block, shared_bytes, [&] { kernel(static_cast<P>(args)...); }, at, dependent,
             cluster});
}

/* ---- Bodies of the instructions in ptx.cuh ------------------------------------------------------- */

void *shared_base(size_t bytes, Site at); ///< start of the CTA's dynamic shared memory, 1024-byte aligned
uint32_t shared_address(const void *p, Site at); ///< as cvta.to.shared gives it
void yield(Site at);                             ///< lets all others run; for loops that spin

void require(bool ok, const char *what, Site at); ///< what a kernel says of the numbers it is given

/// `rest` bytes lie from a place to the end of the array by which the kernel names it, as far as the compiler
/// knows; else ~0. In shared memory the neighbour behind an array is another one of the struct.
[[noreturn]] void leaves_array(size_t bytes, size_t rest, Site at);
inline void stay_inside(size_t bytes, size_t rest, Site at)
{
    if (bytes > rest)
        leaves_array(bytes, rest, at);
}

void touch_shared(const void *p, unsigned bytes, bool write, Site at);
void prefetch(const void *p, Site at); ///< moves nothing, but p has to be in bounds
void touch_global(const void *p, unsigned bytes, bool write, Site at, const void *value = nullptr);
/// Refuses registers that an unfinished wgmma owns, or that nobody has set.
void check_stored(const void *value, unsigned bytes, Site at);

void sync_threads(Site at);
void bar_sync(unsigned id, unsigned n, Site at);
void bar_arrive(unsigned id, unsigned n, Site at);
void cluster_arrive(Site at);
void cluster_wait(Site at);
uint32_t map_shared(const void *p, unsigned bytes, unsigned rank, Site at);
void store_remote(uint32_t address, const void *value, unsigned bytes, Site at);
void fence_memory(Site at);                                          ///< threadfence
void release_at(const void *p, Site at);                             ///< before a store with release...
void acquire_at(const void *p, Site at);                             ///< ... and after a load with acquire
uint32_t add_acq_rel(uint32_t *p, uint32_t v, Site at); ///< an atomic that is both; the old value
void atomic_at(void *p, unsigned bytes, Site at, bool reads = true); ///< before a relaxed atomic
void spins(bool changed, Site at); ///< an atomic that changes nothing again and again lets others run

enum class Shuffle { index, up, down, exclusive_or };
uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, unsigned lane, unsigned width, Site at);
enum class Reduce { add, min_s, max_s, min_u, max_u, bit_and, bit_or, bit_xor, ballot, elect, sync };
uint32_t reduce(Reduce kind, uint32_t mask, uint32_t value, Site at);
bool elect(uint32_t mask, Site at);

void ldmatrix(uint32_t *r, int n, bool trans, const void *row, Site at);
void stmatrix(const uint32_t *r, int n, bool trans, void *row, Site at);
void mma(float *d, const uint32_t *a, const uint32_t *b, Site at);

void mbarrier_init(uint64_t *b, uint32_t count, Site at);
void mbarrier_fence_init(Site at);
void mbarrier_arrive(uint64_t *b, uint32_t count, int64_t expected_bytes, Site at);
void mbarrier_wait(uint64_t *b, unsigned parity, Site at);

/// cuTensorMapEncodeTiled with the driver's rules for its arguments, which are numbered as the driver's.
/// Returns NULL, or which rule was broken.
const char *encode_tiled(CUtensorMap *map, int type, int rank, void *base, const uint64_t *dim,
                         const uint64_t *stride, const uint32_t *box, const uint32_t *step, int interleave,
                         int swizzle, int promotion, int fill);
enum class Store { copy, add };
void tma_prefetch(const CUtensorMap *map, Site at);
void tma_load(void *dst, const CUtensorMap *map, uint64_t *b, const int *c, int rank, Site at);
void tma_store(const CUtensorMap *map, const void *src, const int *c, int rank, Store how, Site at);
void bulk_load(void *dst, const void *src, uint32_t bytes, uint64_t *b, Site at);
void bulk_store(void *dst, const void *src, uint32_t bytes, Site at);
void bulk_commit(Site at);
void bulk_wait(int pending, bool only_read, Site at); ///< until the sources were read, or all was written
void cp_async(void *dst, const void *src, unsigned bytes, unsigned src_bytes, Site at);
void cp_async_commit(Site at);
void cp_async_wait(int pending, Site at);
void fence_proxy_async(Site at);
void fence_proxy_async_global(Site at);

/// The shared address of an operand; its fields have no room for parts of 16 bytes.
uint32_t checked_start(const void *p, uint32_t leading, uint32_t stride, Site at);
void wgmma_fence(Site at);
void wgmma_commit(Site at);
void wgmma_wait(int pending, Site at);
/// a: four registers, or NULL for descriptor desc_a.
void wgmma(float *d, int n, const uint32_t *a, uint64_t desc_a, uint64_t desc_b, bool accumulate,
           bool trans_a, bool trans_b, Site at);
/// k = 32 of 8-bit integers, both operands K-major.
void wgmma_int8(int32_t *d, int n, uint64_t desc_a, uint64_t desc_b, bool accumulate, Site at);
void setmaxnreg(unsigned n, bool increase, Site at);
void grid_wait(Site at);
void launch_dependents(Site at);

void timeline_role(const char *role, Site at);
void timeline_mark(const char *what, double clk, Site at);

/// Any trivially copyable value of up to 8 bytes as an integer and back.
template <class T> uint64_t to_bits(T v)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a register or two");
    uint64_t u = 0;
    memcpy(&u, &v, sizeof v);
    return u;
}
template <class T> T from_bits(uint64_t u)
{
    T v;
    memcpy(&v, &u, sizeof v);
    return v;
}

} // namespace simt

#include "intrinsics.h"

#endif
