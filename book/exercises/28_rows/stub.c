/* A head at a time: the 15 other columns of every product are zeros. */
#include "task.h"

/* m and sum go on with the logit x, in natural units. */
static void add(double x, double *m, double *sum)
{
    const double next = fmax(*m, x);
    *sum = *sum * exp(*m - next) + exp(x - next);
    *m = next;
}

void lse_of_blocks(const msa_shape *s, const int32_t *ids, float *lse)
{
    const int steps = s->d_head / UNIT_STEP;
    const double scale = 1 / sqrt(s->d_head);
    for (int64_t i = 0; i < s->n_q; i++)
        for (int h = 0; h < s->n_heads; h++) {
            double m = -INFINITY, sum = 0;
            unit_put(0, 0, i, h);
            for (int n = 0; n < s->topk && ids[i * s->topk + n] >= 0; n++) {
                const int64_t first = (int64_t)ids[i * s->topk + n] * UNIT_ROWS;
                unit_zero(0);
                for (int step = 0; step < steps; step++) {
                    unit_load_keys(1, first, step);
                    unit_load_queries(2, 0, step);
                    unit_product(0, 1, 2);
                }
                const float *logits = unit_read(0);
                for (int row = 0; row < UNIT_ROWS && first + row <= i; row++)
                    add(scale * (double)logits[row * UNIT_ROWS], &m, &sum);
            }
            lse[i * s->n_heads + h] = (float)(m + log(sum));
        }
}
