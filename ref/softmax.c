/* One softmax row, and the bf16 rounding that a tensor-core kernel puts on it. */
#include "internal.h"

float msa_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        bits |= 0x00400000u; /* NaN: keep it one when the low half goes */
    else
        bits += 0x7fffu + ((bits >> 16) & 1u); /* nearest, ties to even */
    bits &= 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

uint16_t msa_bf16_bits(float x)
{
    uint32_t bits;
    x = msa_bf16(x);
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* [softmax_row] */
double softmax_row(double *x, int64_t n, bool bf16, double *denom)
{
    double max = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    double sum = 0;
    float sum32 = 0;
    for (int64_t i = 0; i < n; i++) {
        x[i] = exp(x[i] - max);
        sum += x[i];
        sum32 += (float)x[i];
        if (bf16)
            x[i] = (double)msa_bf16((float)x[i]);
    }
    *denom = bf16 ? (double)sum32 : sum;
    return max + log(*denom);
}
/* [softmax_row] */
