/**
 * @file e4m3.cuh
 * @brief 8-bit index keys (E4M3: sign, 4 bits of exponent, 3 of fraction) to bf16 and back, by their bits.
 *
 * Shifted to where a bf16 has its exponent and fraction, the bits of an E4M3 mean 2^-120 times its value,
 * subnormal ones too; so one exact multiplication decodes it, of two at once.
 */
#ifndef MSA_E4M3_CUH
#define MSA_E4M3_CUH

#include "../kit/bits.cuh"

constexpr uint32_t two_to_120 = 0x7b807b80; ///< a pair of it

/// Rounded to the nearest, ties to even; |x| is at most 448, or x is NaN.
PTX_INLINE uint32_t encode_e4m3(float x)
{
    const uint32_t sign = bits_of(x) >> 31 << 7, bits = bits_of(x) & 0x7fffffffu;
    if (bits > 0x7f800000u)
        return 0x7f;
    if (bits < 0x3c800000u) // below 2^-6 steps of 2^-9, which are the last bit of 2^14
        return sign | (bits_of(float_of(bits) + 0x1p14f) - 0x46800000u);
    return sign | (((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3));
}
/// The smallest power of two, of those that have a reciprocal, that brings |x| within 448 = 7/8 2^9; NaN for infinity.
PTX_INLINE float scale_e4m3(float amax)
{
    if (bits_of(amax) == 0x7f800000u)
        return float_of(0x7fc00000); // as in C, bit for bit
    const uint32_t exponent = bits_of(amax) >> 23, more = (bits_of(amax) & 0x7fffff) > 0x600000;
    const uint32_t power = exponent + more;
    return float_of((power > 9 ? power - 8 : 1) << 23);
}

/// Of four neighbouring ones the even two and the odd two, as bf16, in four and five instructions. A NaN becomes 480, but
/// the scale of a piece that has one is NaN.
PTX_INLINE uint32_t decode_even(uint32_t four)
{
    return mul_bf16x2((four << 4 & 0x07f007f0) | (four << 8 & 0x80008000), two_to_120);
}
PTX_INLINE uint32_t decode_odd(uint32_t four)
{
    return mul_bf16x2((four >> 4 & 0x07f007f0) | (four & 0x80008000), two_to_120);
}

#endif
