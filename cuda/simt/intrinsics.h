/**
 * @file intrinsics.h
 * @brief CUDA's functions by CUDA's names, by what the engine does for them. simt.h includes it at its end.
 */
#ifndef MSA_SIMT_INTRINSICS_H
#define MSA_SIMT_INTRINSICS_H

#include "simt.h"

inline void __syncthreads(simt::Site at = simt::Site())
{
    simt::sync_threads(at);
}
inline void __syncwarp(unsigned mask = ~0u, simt::Site at = simt::Site())
{
    simt::reduce(simt::Reduce::sync, mask, 0, at);
}
inline void __threadfence(simt::Site at = simt::Site())
{
    simt::fence_memory(at);
}
inline void __nanosleep(unsigned, simt::Site at = simt::Site())
{
    simt::yield(at);
}

template <class T> T __shfl_sync(unsigned mask, T v, int lane, int width = 32, simt::Site at = simt::Site())
{
    return simt::from_bits<T>(
        simt::shuffle(simt::Shuffle::index, mask, simt::to_bits(v), (unsigned)lane, (unsigned)width, at));
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, simt::Site at = simt::Site())
{
    return simt::from_bits<T>(
        simt::shuffle(simt::Shuffle::up, mask, simt::to_bits(v), by, (unsigned)width, at));
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, simt::Site at = simt::Site())
{
    return simt::from_bits<T>(
        simt::shuffle(simt::Shuffle::down, mask, simt::to_bits(v), by, (unsigned)width, at));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32, simt::Site at = simt::Site())
{
    return simt::from_bits<T>(simt::shuffle(simt::Shuffle::exclusive_or, mask, simt::to_bits(v),
                                            (unsigned)with, (unsigned)width, at));
}
inline unsigned __ballot_sync(unsigned mask, int p, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::ballot, mask, p != 0, at);
}
inline int __any_sync(unsigned mask, int p, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::ballot, mask, p != 0, at) != 0;
}
inline int __all_sync(unsigned mask, int p, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::ballot, mask, p == 0, at) == 0;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned v, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::add, mask, v, at);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned v, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::max_u, mask, v, at);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned v, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::min_u, mask, v, at);
}
inline int __reduce_max_sync(unsigned mask, int v, simt::Site at = simt::Site())
{
    return (int)simt::reduce(simt::Reduce::max_s, mask, (unsigned)v, at);
}
inline int __reduce_min_sync(unsigned mask, int v, simt::Site at = simt::Site())
{
    return (int)simt::reduce(simt::Reduce::min_s, mask, (unsigned)v, at);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned v, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::bit_and, mask, v, at);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned v, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::bit_or, mask, v, at);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned v, simt::Site at = simt::Site())
{
    return simt::reduce(simt::Reduce::bit_xor, mask, v, at);
}

inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
inline int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}

// Real atomics, since CTAs of one grid run on several cores.
template <class T> T atomic_update(T *p, T (*f)(T, T), T v, simt::Site at, bool reads = true)
{
    simt::atomic_at(p, sizeof(T), at, reads);
    T old, next;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do
        next = f(old, v);
    while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    if (std::is_integral<T>::value)
        simt::spins(old != next, at);
    return old;
}
template <class T> T atomicAdd(T *p, typename std::common_type<T>::type v, simt::Site at = simt::Site())
{
    return atomic_update<T>(
        p, [](T a, T b) { return T(a + b); }, v, at);
}
template <class T> T atomicMax(T *p, typename std::common_type<T>::type v, simt::Site at = simt::Site())
{
    return atomic_update<T>(
        p, [](T a, T b) { return a < b ? b : a; }, v, at);
}
template <class T> T atomicMin(T *p, typename std::common_type<T>::type v, simt::Site at = simt::Site())
{
    return atomic_update<T>(
        p, [](T a, T b) { return b < a ? b : a; }, v, at);
}
template <class T> T atomicExch(T *p, typename std::common_type<T>::type v, simt::Site at = simt::Site())
{
    return atomic_update<T>(
        p, [](T, T b) { return b; }, v, at, false);
}
template <class T> T atomicOr(T *p, typename std::common_type<T>::type v, simt::Site at = simt::Site())
{
    return atomic_update<T>(
        p, [](T a, T b) { return T(a | b); }, v, at);
}
template <class T>
T atomicCAS(T *p, typename std::common_type<T>::type expected, typename std::common_type<T>::type v,
            simt::Site at = simt::Site())
{
    simt::atomic_at(p, sizeof(T), at);
    T old = expected;
    const bool changed =
        __atomic_compare_exchange(p, &old, &v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) && !(v == expected);
    simt::spins(changed, at);
    return old;
}

#endif
