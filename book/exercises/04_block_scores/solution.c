/* The mask acts on keys, before the maximum. */
#include "task.h"

void block_scores(const float *qi, const tensor *ki, int64_t position, int64_t n_kv, int block, float *m)
{
    const double scale = 1 / sqrt(ki->width);
    for (int64_t b = 0; b * block < n_kv; b++) {
        double maximum = -INFINITY;
        for (int64_t j = b * block; j < (b + 1) * block && j <= position; j++)
            maximum = fmax(maximum, scale * dot_product(qi, row(ki, j, 0), ki->width));
        m[b] = (float)maximum;
    }
}
