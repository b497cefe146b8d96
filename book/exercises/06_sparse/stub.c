/* Dense attention: it does not look at ids at all. */
#include "task.h"

void attend_blocks(const float *q, const tensor *k, const tensor *v, int64_t position, const int32_t *ids,
                   int topk, int block, float *o)
{
    (void)ids, (void)topk, (void)block; /* yours to use */
    const double scale = 1 / sqrt(k->width);
    double max = -INFINITY, sum = 0, *acc = calloc((size_t)v->width, sizeof *acc);
    for (int64_t j = 0; j <= position; j++) {
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
    free(acc);
}
