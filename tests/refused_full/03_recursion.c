/* wants: not yet: (o.[0-9]+,0,0.: .*nan|.*the stack is full|bytes kept of a long text) */
#include "task.h"

/* The stack as an array: a frame for each key, values weighed on the way back. */
static double weigh(const float *q, const tensor *k, const tensor *v, int64_t j, double max, double *sum, double *acc)
{
    if (j < 0)
        return max;
    const double x = dot_product(q, row(k, j, 0), 16) / 4;
    float value[16];
    memcpy(value, row(v, j, 0), sizeof value);
    const double best = weigh(q, k, v, j - 1, fmax(max, x), sum, acc), p = exp(x - best);
    *sum += p;
    for (int c = 0; c < 16; c++)
        acc[c] += p * (double)value[c];
    return best;
}

void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse)
{
    double sum = 0, acc[16] = {0};
    const double max = weigh(q, k, v, visible - 1, -INFINITY, &sum, acc);
    for (int c = 0; c < 16; c++)
        o[c] = (float)(acc[c] / sum);
    *lse = (float)(max + log(sum));
}
