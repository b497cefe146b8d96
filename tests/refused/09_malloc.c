/* wants: not yet: bytes kept of a long text: expected at most 16384 */
#include "task.h"


double loss_row(const float *q, const float *lse, int group, const float *qi, const tensor *k, const tensor *ki,
                int64_t visible, pad *p)
{
    double *t = malloc((size_t)visible * sizeof *t), *s = malloc((size_t)visible * sizeof *s);
    double max = -INFINITY, sum = 0, loss = 0;
    (void)p;
    for (int64_t j = 0; j < visible; j++) {
        const float *key = row(k, j, 0);
        t[j] = 0;
        for (int h = 0; h < group; h++)
            t[j] += exp(dot_product(q + h * k->width, key, k->width) / sqrt(k->width) - (double)lse[h]) / group;
        s[j] = dot_product(qi, row(ki, j, 0), ki->width) / sqrt(ki->width);
        max = fmax(max, s[j]);
    }
    for (int64_t j = 0; j < visible; j++)
        sum += exp(s[j] - max);
    for (int64_t j = 0; j < visible; j++)
        loss += t[j] > 0 ? t[j] * (log(t[j]) - (s[j] - max - log(sum))) : 0;
    return loss;
}
