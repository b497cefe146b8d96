/* Neighbouring query heads share a KV head: head h belongs to group h / G. */
#include "task.h"

void head_logits(const float *q, const tensor *k, int n_heads, int h, int64_t visible, float *x)
{
    const double scale = 1 / sqrt(k->width);
    const int r = h / (n_heads / k->heads);
    for (int64_t j = 0; j < visible; j++)
        x[j] = (float)(scale * dot_product(q, row(k, j, r), k->width));
}
