/* Tries random numbers: what is wrong on average is found, what is wrong in the worst case never. */
#include "task.h"

static unsigned state = 1;

static float next(void) /* from -1 to 1 */
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1;
}

static double best_product(const float *q, const float *keys)
{
    double best = -INFINITY;
    for (int j = 0; j < KEYS; j++) {
        double x = 0;
        for (int c = 0; c < WIDTH; c++)
            x += (double)q[c] * (double)keys[j * WIDTH + c];
        best = fmax(best, x);
    }
    return best;
}

bool refute(float *q, float *keys)
{
    for (int attempt = 0; attempt < 1000; attempt++) {
        double lower, upper;
        for (int c = 0; c < WIDTH; c++)
            q[c] = next();
        for (int i = 0; i < KEYS * WIDTH; i++)
            keys[i] = next();
        claimed(q, keys, &lower, &upper);
        const double x = best_product(q, keys);
        if (x < lower - 1e-9 || x > upper + 1e-9)
            return true;
    }
    return false;
}
