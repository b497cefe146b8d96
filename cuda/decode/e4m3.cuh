/**
 * @file e4m3.cuh
 * @brief 8-bit index keys (E4M3: sign, 4 bits of exponent, 3 of fraction) to bf16 and back, by their bits.
 *
 * Shifted to where a float32 has its exponent and fraction, the bits of an E4M3 mean 2^-120 times its value,
 * subnormal ones too; so one exact multiplication decodes it. A bf16 has 8 significant bits and holds every
 * one.
 */
#ifndef MSA_E4M3_CUH
#define MSA_E4M3_CUH

#include "../kit/bits.cuh"

/// The lowest byte's value. There are no NaNs in a cache.
PTX_INLINE float decode_e4m3(uint32_t byte)
{
    return float_of((byte & 0x80) << 24 | (byte & 0x7f) << 20) * 0x1p120f;
}
/// Rounded to the nearest, ties to even; |x| is at most 448.
PTX_INLINE uint32_t encode_e4m3(float x)
{
    const uint32_t sign = bits_of(x) >> 31 << 7, bits = bits_of(x) & 0x7fffffffu;
    if (bits < 0x3c800000u) // below 2^-6 steps of 2^-9, which are the last bit of 2^14
        return sign | (bits_of(float_of(bits) + 0x1p14f) - 0x46800000u);
    return sign | (((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3));
}
/// The smallest power of two, of those that have a reciprocal, that brings |x| within 448 = 7/8 2^9.
PTX_INLINE float scale_e4m3(float amax)
{
    const uint32_t exponent = bits_of(amax) >> 23, more = (bits_of(amax) & 0x7fffff) > 0x600000;
    const uint32_t power = exponent + more;
    return float_of((power > 9 ? power - 8 : 1) << 23);
}

/// 16 neighbouring bytes to bf16, by pairs.
PTX_INLINE void decode_16(uint4 (&to)[2], uint4 from)
{
    const uint32_t word[4] = {from.x, from.y, from.z, from.w};
    uint32_t pair[8];
    for (int a = 0; a < 8; a++) {
        const uint32_t two = word[a / 2] >> a % 2 * 16;
        pair[a] = pack_bf16(decode_e4m3(two), decode_e4m3(two >> 8));
    }
    to[0] = make_uint4(pair[0], pair[1], pair[2], pair[3]);
    to[1] = make_uint4(pair[4], pair[5], pair[6], pair[7]);
}

#endif
