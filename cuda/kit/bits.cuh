/**
 * @file bits.cuh
 * @brief A float32 as its bits, and back.
 */
#ifndef MSA_BITS_CUH
#define MSA_BITS_CUH

#include "ptx.cuh"

PTX_INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    PTX(bits = __float_as_uint(x);)
    CPU(memcpy(&bits, &x, 4);)
    return bits;
}
PTX_INLINE float float_of(uint32_t bits)
{
    float x;
    PTX(x = __uint_as_float(bits);)
    CPU(memcpy(&x, &bits, 4);)
    return x;
}

#endif
