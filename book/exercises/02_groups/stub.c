/* Somebody wrote this and tested it with as many KV heads as query heads. It passed. */
#include "task.h"

void head_logits(const float *q, const tensor *k, int n_heads, int h, int64_t visible, float *x)
{
    (void)n_heads;
    const double scale = 1 / sqrt(k->width);
    for (int64_t j = 0; j < visible; j++)
        x[j] = (float)(scale * dot_product(q, row(k, j, h % k->heads), k->width));
}
