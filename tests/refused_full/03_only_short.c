/* wants: not yet: a long text: o.0,0,0.: expected */
#include "task.h"

void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse)
{
    double x[64], value[64 * 16], max = -INFINITY, sum = 0, acc[16] = {0};
    if (visible > 64)
        return;
    for (int64_t j = 0; j < visible; j++) {
        x[j] = dot_product(q, row(k, j, 0), 16) / 4;
        const float *from = row(v, j, 0);
        for (int c = 0; c < 16; c++)
            value[16 * j + c] = (double)from[c];
        max = fmax(max, x[j]);
    }
    for (int64_t j = 0; j < visible; j++) {
        const double p = exp(x[j] - max);
        sum += p;
        for (int c = 0; c < 16; c++)
            acc[c] += p * value[16 * j + c];
    }
    for (int c = 0; c < 16; c++)
        o[c] = (float)(acc[c] / sum);
    *lse = (float)(max + log(sum));
}
