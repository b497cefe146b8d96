/* The teacher sums to 1, so the student's LSE leaves the sum: loss = sum_j t_j (log t_j - s_j) + lse_s. */
#include "task.h"

double loss_row(const float *q, const float *lse, int group, const float *qi, const tensor *k,
                const tensor *ki, int64_t visible, pad *p)
{
    (void)p; /* three numbers are enough */
    double max = -INFINITY, sum = 0, loss = 0;
    for (int64_t j = 0; j < visible; j++) {
        const float *key = row(k, j, 0);
        double t = 0;
        for (int h = 0; h < group; h++) {
            const double x = dot_product(q + h * k->width, key, k->width) / sqrt(k->width);
            t += exp(x - (double)lse[h]) / group;
        }
        const double s = dot_product(qi, row(ki, j, 0), ki->width) / sqrt(ki->width);
        const double next = fmax(max, s);
        sum = sum * exp(max - next) + exp(s - next);
        max = next;
        loss += t > 0 ? t * (log(t) - s) : 0;
    }
    return loss + max + log(sum);
}
