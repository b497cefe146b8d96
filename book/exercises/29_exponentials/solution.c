/* O stays in tiles 0 .. 3 until a maximum has to be raised, and that is only where weights would be above 2^8. */
#include "task.h"

#define SLACK 8
enum { LOGITS = 4, WEIGHTS = 4, LEFT = 5, QUERIES = 6 }; /* tiles; O has the first, Q two from QUERIES on */

static void logits(int64_t key, int half, int steps)
{
    unit_zero(LOGITS);
    for (int step = 0; step < steps; step++) {
        unit_load_keys(LEFT, key, step);
        unit_product(LOGITS, LEFT, QUERIES + step);
    }
    unit_store_logits(LOGITS, half);
}

/* Whether a row of the next 32 keys exceeds its maximum so far that O has to be scaled. */
static bool raise_maxima(float max[UNIT_ROWS], double sum[UNIT_ROWS], float factor[UNIT_ROWS])
{
    float most[2][UNIT_ROWS];
    bool any = false;
    unit_maxima(0, most[0]);
    unit_maxima(1, most[1]);
    for (int l = 0; l < UNIT_ROWS; l++) {
        const float next = fmaxf(most[0][l], most[1][l]);
        factor[l] = 1;
        if (next <= max[l] + SLACK)
            continue;
        factor[l] = exp2f(max[l] - next);
        sum[l] *= (double)factor[l];
        max[l] = next;
        any = true;
    }
    return any;
}

static void scale(const float factor[UNIT_ROWS], int parts)
{
    for (int part = 0; part < parts; part++)
        unit_store_output(part, part);
    unit_scale_output(factor);
    for (int part = 0; part < parts; part++)
        unit_load_output(part, part);
}

static void begin(int steps, int parts, float max[UNIT_ROWS])
{
    for (int l = 0; l < UNIT_ROWS; l++) {
        unit_put(0, l, 0, l);
        max[l] = -INFINITY;
    }
    for (int step = 0; step < steps; step++)
        unit_load_queries(QUERIES + step, 0, step);
    for (int part = 0; part < parts; part++)
        unit_zero(part);
}

void attend_on_tiles(int64_t n_keys, int width, float *o, float *lse)
{
    const int steps = width / UNIT_STEP, parts = width / UNIT_ROWS;
    float max[UNIT_ROWS], factor[UNIT_ROWS];
    double sum[UNIT_ROWS] = {0};
    begin(steps, parts, max);
    for (int64_t key = 0; key < n_keys; key += UNIT_STEP) {
        float more[2][UNIT_ROWS];
        logits(key, 0, steps);
        logits(key + UNIT_ROWS, 1, steps);
        if (raise_maxima(max, sum, factor) && key > 0)
            scale(factor, parts);
        unit_weigh(0, max, more[0]);
        unit_weigh(1, max, more[1]);
        unit_load_weights(WEIGHTS);
        for (int part = 0; part < parts; part++) {
            unit_load_values(LEFT, key, part);
            unit_product(part, LEFT, WEIGHTS);
        }
        for (int l = 0; l < UNIT_ROWS; l++)
            sum[l] += (double)more[0][l] + (double)more[1][l];
    }
    for (int part = 0; part < parts; part++) {
        const float *turned = unit_read(part);
        for (int l = 0; l < UNIT_ROWS; l++)
            for (int c = 0; c < UNIT_ROWS; c++)
                o[l * width + part * UNIT_ROWS + c] = (float)((double)turned[c * UNIT_ROWS + l] / sum[l]);
    }
    for (int l = 0; l < UNIT_ROWS; l++)
        lse[l] = (float)(((double)max[l] + log2(sum[l])) * 0.6931471805599453);
}
