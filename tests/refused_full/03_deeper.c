/* wants: not yet: (bytes kept of a long text|03_deeper.c) */
#include "task.h"

void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse)
{
    char deep[7 << 20];
    float *x = (float *)(uintptr_t)deep;
    double max = -INFINITY, sum = 0, acc[16] = {0};
    for (int64_t j = 0; j < visible; j++) {
        x[j] = (float)(dot_product(q, row(k, j, 0), 16) / 4);
        max = fmax(max, (double)x[j]);
    }
    for (int64_t j = 0; j < visible; j++) {
        const double p = exp((double)x[j] - max);
        const float *value = row(v, j, 0);
        sum += p;
        for (int c = 0; c < 16; c++)
            acc[c] += p * (double)value[c];
    }
    for (int c = 0; c < 16; c++)
        o[c] = (float)(acc[c] / sum);
    *lse = (float)(max + log(sum));

}
