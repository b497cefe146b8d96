/* wants: not yet: products of tiles: expected at most 192, found 288 */
#include "task.h"

static void logits(int64_t key, int half, int steps)
{
    unit_zero(4);
    for (int step = 0; step < steps; step++) {
        unit_load_keys(5, key, step);
        unit_product(4, 5, 6 + step);
    }
    unit_store_logits(4, half);
}

/* The true maximum first: O is never scaled, but the keys are multiplied twice. */
void attend_on_tiles(int64_t n_keys, int width, float *o, float *lse)
{
    const int steps = width / UNIT_STEP;
    float max[UNIT_ROWS], more[UNIT_ROWS];
    double sum[UNIT_ROWS] = {0};
    for (int l = 0; l < UNIT_ROWS; l++) {
        unit_put(0, l, 0, l);
        max[l] = -INFINITY;
    }
    for (int step = 0; step < steps; step++)
        unit_load_queries(6 + step, 0, step);
    for (int64_t key = 0; key < n_keys; key += UNIT_ROWS) {
        logits(key, 0, steps);
        unit_maxima(0, more);
        for (int l = 0; l < UNIT_ROWS; l++)
            max[l] = fmaxf(max[l], more[l]);
    }
    for (int64_t key = 0; key < n_keys; key += UNIT_STEP) {
        for (int half = 0; half < 2; half++) {
            logits(key + half * UNIT_ROWS, half, steps);
            unit_weigh(half, max, more);
            for (int l = 0; l < UNIT_ROWS; l++)
                sum[l] += (double)more[l];
        }
        unit_load_weights(4);
        for (int part = 0; part < width / UNIT_ROWS; part++) {
            unit_load_values(5, key, part);
            unit_product(part, 5, 4);
        }
    }
    for (int part = 0; part < width / UNIT_ROWS; part++)
        for (int l = 0; l < UNIT_ROWS; l++)
            for (int c = 0; c < UNIT_ROWS; c++)
                o[l * width + part * UNIT_ROWS + c] = (float)((double)unit_read(part)[c * UNIT_ROWS + l] / sum[l]);
    for (int l = 0; l < UNIT_ROWS; l++)
        lse[l] = (float)(((double)max[l] + log2(sum[l])) * 0.6931471805599453);
}
