/* Evidence by design: errors that all point where the other vector points. */
#include "task.h"

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

static double length(const float *x)
{
    double sum = 0;
    for (int c = 0; c < WIDTH; c++)
        sum += (double)x[c] * (double)x[c];
    return sqrt(sum);
}

static bool outside(const float *q, const float *keys)
{
    double lower, upper, longest = 0;
    for (int j = 0; j < KEYS; j++)
        longest = fmax(longest, length(keys + j * WIDTH));
    claimed(q, keys, &lower, &upper);
    const double room = ldexp(length(q) * longest, -38), x = best_product(q, keys);
    return x < lower - room || x > upper + room;
}

/* 127 in the first channel makes a step 1 if nothing is larger; all else is `level`. */
static void fill(float *x, float level)
{
    x[0] = 127;
    for (int c = 1; c < WIDTH; c++)
        x[c] = level;
}

/* The last key's codes are half a step too small in each channel, and the query, whose codes are exact, does not look at
 * the channel that sets the step. All other keys are exact and short. */
static void keys_off(float *q, float *keys, float level)
{
    memset(keys, 0, KEYS * WIDTH * sizeof *keys);
    fill(keys + (KEYS - 1) * WIDTH, level + 0.4375f);
    for (int c = 0; c < WIDTH; c++)
        q[c] = c > 0;
}

/* The same with the query's codes; the last key is exact and does not look at the first channel. */
static void query_off(float *q, float *keys, float level)
{
    memset(keys, 0, KEYS * WIDTH * sizeof *keys);
    fill(q, level + 0.4375f);
    for (int c = 1; c < WIDTH; c++)
        keys[(KEYS - 1) * WIDTH + c] = 1;
}

/* Nothing is off: with exact codes eps is 0, and what is left is how the score itself is evaluated. The steps are no
 * powers of two. */
static void exact(float *q, float *keys, float step)
{
    memset(keys, 0, KEYS * WIDTH * sizeof *keys);
    for (int c = 0; c < WIDTH; c++)
        q[c] = keys[(KEYS - 1) * WIDTH + c] = 127 * step; /* one code, 127 */
}

bool refute(float *q, float *keys)
{
    for (int level = 1; level < 100; level += 7) {
        keys_off(q, keys, (float)level);
        if (outside(q, keys))
            return true;
        query_off(q, keys, (float)level);
        if (outside(q, keys))
            return true;
        exact(q, keys, 1 + (float)level / 128);
        if (outside(q, keys))
            return true;
    }
    return false;
}
