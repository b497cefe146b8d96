/* sum and acc are always scaled to the maximum so far; a new maximum rescales both. */
#include "task.h"

void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse)
{
    const double scale = 1 / sqrt(k->width);
    double max = -INFINITY, sum = 0, *acc = calloc((size_t)v->width, sizeof *acc);
    for (int64_t j = 0; j < visible; j++) {
        const double x = scale * dot_product(q, row(k, j, 0), k->width);
        const double next = fmax(max, x), keep = exp(max - next), p = exp(x - next);
        const float *value = row(v, j, 0);
        sum = sum * keep + p;
        for (int c = 0; c < v->width; c++)
            acc[c] = acc[c] * keep + p * (double)value[c];
        max = next;
    }
    for (int c = 0; c < v->width; c++)
        o[c] = (float)(acc[c] / sum);
    *lse = (float)(max + log(sum));
    free(acc);
}
