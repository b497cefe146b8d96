/* Right, but it keeps two rows as long as the text: the teacher, and the student's logits. */
#include "task.h"

double loss_row(const float *q, const float *lse, int group, const float *qi, const tensor *k,
                const tensor *ki, int64_t visible, pad *p)
{
    double max = -INFINITY, sum = 0, loss = 0;
    for (int64_t j = 0; j < visible; j++) {
        const float *key = row(k, j, 0);
        double *t = cell(p, 2 * j), *s = cell(p, 2 * j + 1);
        *t = 0;
        for (int h = 0; h < group; h++) {
            const double x = dot_product(q + h * k->width, key, k->width) / sqrt(k->width);
            *t += exp(x - (double)lse[h]) / group;
        }
        *s = dot_product(qi, row(ki, j, 0), ki->width) / sqrt(ki->width);
        max = fmax(max, *s);
    }
    for (int64_t j = 0; j < visible; j++)
        sum += exp(*cell(p, 2 * j + 1) - max);
    for (int64_t j = 0; j < visible; j++) {
        const double t = *cell(p, 2 * j), log_u = *cell(p, 2 * j + 1) - max - log(sum);
        loss += t > 0 ? t * (log(t) - log_u) : 0;
    }
    return loss;
}
