/* Right, and between every two products there is something else to do. */
#include "task.h"

/* Logits of 16 keys, for the vectors. */
static void logits(int64_t key, int half, int steps)
{
    unit_zero(0);
    for (int step = 0; step < steps; step++) {
        unit_load_keys(1, key, step);
        unit_load_queries(2, 0, step);
        unit_product(0, 1, 2);
    }
    unit_store_logits(0, half);
}

/* What was summed so far now counts from the largest logit of 32 more keys. */
static void raise_maxima(float max[UNIT_ROWS], double sum[UNIT_ROWS])
{
    float most[2][UNIT_ROWS], factor[UNIT_ROWS];
    unit_maxima(0, most[0]);
    unit_maxima(1, most[1]);
    for (int l = 0; l < UNIT_ROWS; l++) {
        const float next = fmaxf(max[l], fmaxf(most[0][l], most[1][l]));
        factor[l] = exp2f(max[l] - next);
        sum[l] *= (double)factor[l];
        max[l] = next;
    }
    unit_scale_output(factor);
}

void attend_on_tiles(int64_t n_keys, int width, float *o, float *lse)
{
    const int steps = width / UNIT_STEP, parts = width / UNIT_ROWS;
    float max[UNIT_ROWS];
    double sum[UNIT_ROWS] = {0};
    for (int l = 0; l < UNIT_ROWS; l++) {
        unit_put(0, l, 0, l);
        max[l] = -INFINITY;
    }
    for (int64_t key = 0; key < n_keys; key += UNIT_STEP) {
        float more[2][UNIT_ROWS];
        logits(key, 0, steps);
        logits(key + UNIT_ROWS, 1, steps);
        raise_maxima(max, sum);
        for (int part = 0; part < parts; part++) {
            unit_weigh(0, max, more[0]);
            unit_weigh(1, max, more[1]);
            unit_load_output(0, part);
            unit_load_values(1, key, part);
            unit_load_weights(2);
            unit_product(0, 1, 2);
            unit_store_output(0, part);
        }
        for (int l = 0; l < UNIT_ROWS; l++)
            sum[l] += (double)more[0][l] + (double)more[1][l];
    }
    for (int part = 0; part < parts; part++) {
        unit_load_output(0, part);
        const float *turned = unit_read(0);
        for (int l = 0; l < UNIT_ROWS; l++)
            for (int c = 0; c < UNIT_ROWS; c++)
                o[l * width + part * UNIT_ROWS + c] = (float)((double)turned[c * UNIT_ROWS + l] / sum[l]);
    }
    for (int l = 0; l < UNIT_ROWS; l++)
        lse[l] = (float)(((double)max[l] + log2(sum[l])) * 0.6931471805599453);
}
