/* Rotary embedding of index heads that are narrower than the rotated part of a main head. */
#include <math.h>

#include "checkpoint.h"

msa_status checkpoint_turn(int64_t n, int heads, int d, int rot, double theta, const int32_t *pos, float *x)
{
    if (rot <= d)
        return msa_rope(n, heads, d, rot, theta, pos, false, x);
    if (d % 2 != 0)
        return MSA_ERR_ROTARY;
    const int half = d / 2;
#pragma omp parallel for schedule(static) /* channel pairs are independent */
    for (int i = 0; i < half; i++) {
        const double first = pow(theta, -2.0 * (i % (rot / 2)) / rot);
        const double second = pow(theta, -2.0 * ((i + half) % (rot / 2)) / rot);
        for (int64_t t = 0; t < n; t++) {
            const double c = cos(pos[t] * first), s = sin(pos[t] * first);
            const double c2 = cos(pos[t] * second), s2 = sin(pos[t] * second);
            for (int h = 0; h < heads; h++) {
                float *head = x + (t * heads + h) * d;
                const double a = (double)head[i], b = (double)head[i + half];
                head[i] = (float)(a * c - b * s);
                head[i + half] = (float)(b * c2 + a * s2);
            }
        }
    }
    return MSA_OK;
}
