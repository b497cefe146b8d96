/* Right, but it computes every logit twice: once for the maximum, once for the weight. */
#include "task.h"

void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse)
{
    const double scale = 1 / sqrt(k->width);
    double max = -INFINITY, sum = 0, *acc = calloc((size_t)v->width, sizeof *acc);
    for (int64_t j = 0; j < visible; j++)
        max = fmax(max, scale * dot_product(q, row(k, j, 0), k->width));
    for (int64_t j = 0; j < visible; j++) {
        const double p = exp(scale * dot_product(q, row(k, j, 0), k->width) - max);
        const float *value = row(v, j, 0);
        sum += p;
        for (int c = 0; c < v->width; c++)
            acc[c] += p * (double)value[c];
    }
    for (int c = 0; c < v->width; c++)
        o[c] = (float)(acc[c] / sum);
    *lse = (float)(max + log(sum));
    free(acc);
}
