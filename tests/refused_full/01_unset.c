/* wants: o.[0-9]+,0,0.: expected */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    double sum[2], acc[16]; // never set
    for (int64_t j = 0; j < visible; j++) {
        const double p = exp(dot_product(q, row(k, j, 0), 16) / 4);
        sum[0] += p;
        for (int c = 0; c < 16; c++)
            acc[c] += p * (double)row(v, j, 0)[c];
    }
    for (int c = 0; c < 16; c++)
        o[c] = (float)(acc[c] / sum[0]);
}
