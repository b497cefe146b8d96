/* Three passes: logits and their maximum, weights and their sum, values. */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    const double scale = 1 / sqrt(k->width);
    double *p = malloc((size_t)visible * sizeof *p), *acc = calloc((size_t)v->width, sizeof *acc);
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < visible; j++) {
        p[j] = scale * dot_product(q, row(k, j, 0), k->width);
        max = fmax(max, p[j]);
    }
    for (int64_t j = 0; j < visible; j++) {
        p[j] = exp(p[j] - max);
        sum += p[j];
    }
    for (int64_t j = 0; j < visible; j++) {
        const float *value = row(v, j, 0);
        for (int c = 0; c < v->width; c++)
            acc[c] += p[j] * (double)value[c];
    }
    for (int c = 0; c < v->width; c++)
        o[c] = (float)(acc[c] / sum);
    free(p);
    free(acc);
}
