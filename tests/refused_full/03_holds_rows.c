/* wants: not yet: (o.[0-9]+,0,0.: .*nan|bytes kept of a long text) */
#include "task.h"


void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse)
{
    double x[visible]; const float *value[visible];
    double max = -INFINITY, sum = 0, acc[16] = {0};
    for (int64_t j = 0; j < visible; j++) {
        x[j] = dot_product(q, row(k, j, 0), 16) / 4;
        value[j] = row(v, j, 0);
        max = fmax(max, x[j]);
    }
    for (int64_t j = 0; j < visible; j++) {
        const double p = exp(x[j] - max);
        sum += p;
        for (int c = 0; c < 16; c++)
            acc[c] += p * (double)value[j][c];
    }
    for (int c = 0; c < 16; c++)
        o[c] = (float)(acc[c] / sum);
    *lse = (float)(max + log(sum));
}
