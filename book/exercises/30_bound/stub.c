/* Right, and good for nothing: no product is longer than both vectors, so nothing is ever ruled out. */
#include "task.h"

static double length(const float *x)
{
    double sum = 0;
    for (int c = 0; c < WIDTH; c++)
        sum += (double)x[c] * (double)x[c];
    return sqrt(sum);
}

/* No float below is too small. */
static float above(double x)
{
    return nextafterf((float)x, INFINITY);
}

void round_block(const float *keys, block8 *to)
{
    memset(to, 0, sizeof *to);
    for (int j = 0; j < KEYS; j++)
        to->error = fmaxf(to->error, above(length(keys + j * WIDTH)));
}

void round_query(const float *q, query8 *to)
{
    memset(to, 0, sizeof *to);
    to->length = above(length(q));
}

void bounds_of_block(const query8 *q, const block8 *b, double *lower, double *upper)
{
    *upper = (double)q->length * (double)b->error;
    *lower = -*upper;
}
