/* exp and log of a float as short straight-line code, so that the compiler turns a loop over them into
 * vector instructions. Relative error below 2^-22 over the ranges a softmax needs. */
#ifndef MSA_VMATH_H
#define MSA_VMATH_H

#include <stdint.h>
#include <string.h>

static inline float from_bits(int32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline int32_t to_bits(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* 2^n for n = -126..127; of the n that a NaN becomes, anything. */
static inline float power_of_2(int32_t n)
{
    return from_bits((int32_t)((uint32_t)(n + 127) << 23));
}

/* exp(x) for x <= 0; 0 below -87, -inf included. x = n ln 2 + f, |f| <= ln2/2; e^f by its series. */
static inline float exp_nonpositive(float x)
{
    float clamped = x < -87.0f ? -87.0f : x;
    float shifted =
        clamped * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the low bits */
    float n = shifted - 12582912.0f;
    float f = (clamped - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts */
    float p = 1.0f / 5040;
    p = p * f + 1.0f / 720;
    p = p * f + 1.0f / 120;
    p = p * f + 1.0f / 24;
    p = p * f + 1.0f / 6;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    float power = power_of_2(to_bits(shifted) - to_bits(12582912.0f));
    return x < -87.0f ? 0.0f : p * power;
}

/* From here on roundings of a logit and of the LSE are 1 and more: no weight follows from their difference. */
#define MOST_LSE 0x1p24f

/* 2^x for x <= 0; 0 below -126, -inf included. x = n + f, |f| <= 1/2; 2^f by the polynomial of degree 6 whose
 * largest relative error there is smallest (1.9e-9 before rounding, by Remez' exchange); exact for f = 0. */
static inline float exp2_nonpositive(float x)
{
    float clamped = x < -126.0f ? -126.0f : x;
    float shifted = clamped + 12582912.0f; /* 1.5 * 2^23 again */
    float f = clamped - (shifted - 12582912.0f);
    float p = 0.00015345812f;
    p = p * f + 0.00133999312f;
    p = p * f + 0.00961848896f;
    p = p * f + 0.0555032878f;
    p = p * f + 0.240226469f;
    p = p * f + 0.693147206f;
    p = p * f + 1.0f;
    float power = power_of_2(to_bits(shifted) - to_bits(12582912.0f));
    return x < -126.0f ? 0.0f : p * power;
}

/* log(x) for normal x > 0. x = 2^e m, m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m-1)/(m+1)). */
static inline float log_positive(float x)
{
    int32_t bits = to_bits(x) - 0x3f3504f3; /* sqrt(1/2) */
    int32_t e = bits >> 23;
    float m = from_bits((bits & 0x007fffff) + 0x3f3504f3);
    float z = (m - 1.0f) / (m + 1.0f), z2 = z * z;
    float p = 1.0f / 9;
    p = p * z2 + 1.0f / 7;
    p = p * z2 + 1.0f / 5;
    p = p * z2 + 1.0f / 3;
    return (float)e * 0.693147181f + 2.0f * (z + z * z2 * p);
}

#endif
