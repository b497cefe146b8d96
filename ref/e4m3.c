/* E4M3: 8-bit floats of sign, 4 bits of exponent (bias 7) and 3 of fraction; no infinity, one NaN, at most
 * 448.
 *
 *   exponent 0: (-1)^s fraction/8 2^-6      else (-1)^s (1 + fraction/8) 2^(exponent - 7) */
#include "internal.h"

#define LARGEST 448

float msa_e4m3(uint8_t bits)
{
    const int exponent = bits >> 3 & 15, fraction = bits & 7;
    const double size = exponent == 0 ? ldexp(fraction, -9) : ldexp(8 + fraction, exponent - 10);
    if ((bits & 0x7f) == 0x7f)
        return NAN;
    return (float)(bits >> 7 ? -size : size);
}

uint8_t msa_e4m3_bits(float x)
{
    const int sign = signbit(x) ? 0x80 : 0;
    int exponent;
    if (isnan(x))
        return 0x7f;
    const double size = fmin(fabs((double)x), LARGEST);
    frexp(size, &exponent); /* size = f 2^exponent, f from 1/2 to 1 */
    exponent = exponent - 1 < -6 ? -6 : exponent - 1;
    const int steps = (int)rint(ldexp(size, 3 - exponent)); /* of 2^(exponent-3): below 8 if subnormal */
    return (uint8_t)(sign | (steps < 8 ? steps : (exponent + 6) * 8 + steps)); /* 16 carries over */
}

void msa_e4m3_block(const float *x, int64_t n, uint8_t *bits, float *scale)
{
    float most = 0;
    int exponent;
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        finite = finite && isfinite(x[i]);
    }
    const double f = frexp(finite ? (double)most : 0, &exponent); /* 448 = 7/8 2^9 */
    const int power = exponent - 9 + (f > 0.875);
    *scale = finite ? (float)ldexp(1, most > 0 && power > -126 ? power : -126) : NAN;
    for (int64_t i = 0; i < n; i++)
        bits[i] = msa_e4m3_bits(x[i] / *scale);
}
