/* Rotary embedding as a checkpoint's model computes it: msa_rope(), but angles are rounded to float32, and index
 * heads that are narrower than the rotated part of a main head get that table cut off at their width. */
#include <math.h>

#include "checkpoint.h"

/* theta^(-2i/rot), with a rounding after each operation unless `exact`. */
static double frequency(int i, const checkpoint_rotation *r)
{
    if (r->exact)
        return pow(r->theta, -2.0 * i / r->rot);
    const float exponent = (float)(2 * i) / (float)r->rot;
    return (double)(1 / (float)pow((double)(float)r->theta, (double)exponent));
}

static double angle(int32_t pos, double frequency, bool exact)
{
    return exact ? pos * frequency : (double)((float)pos * (float)frequency);
}

msa_status checkpoint_turn(const checkpoint_rotation *r, int64_t n, int heads, int d, const int32_t *pos,
                           float *x)
{
    const int half = (r->rot < d ? r->rot : d) / 2;
    if (r->rot < 0 || r->rot % 2 != 0 || (r->rot > d && d % 2 != 0))
        return MSA_ERR_ROTARY;
#pragma omp parallel for schedule(static) /* channel pairs are independent */
    for (int i = 0; i < half; i++) {
        const double first = frequency(i, r), second = frequency((i + half) % (r->rot / 2), r);
        for (int64_t t = 0; t < n; t++) {
            const double a = angle(pos[t], first, r->exact), b = angle(pos[t], second, r->exact);
            const double cos_a = cos(a), sin_a = sin(a), cos_b = cos(b), sin_b = sin(b);
            for (int h = 0; h < heads; h++) {
                float *head = x + (t * heads + h) * d;
                const double u = (double)head[i], v = (double)head[i + half];
                head[i] = (float)(u * cos_a - v * sin_a);
                head[i + half] = (float)(v * cos_b + u * sin_b);
            }
        }
    }
    return MSA_OK;
}
