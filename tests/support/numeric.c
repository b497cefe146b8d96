/**
 * @file numeric.c
 * @brief f'(x) = (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h.
 */
#include "numeric.h"

#include <string.h>

#include "check.h"

static const int offset[4] = {1, -1, 2, -2};
static const double weight[4] = {8, -8, -1, 1};

void numeric_gradient(numeric_loss *loss, void *of, double *x, int64_t n, double step, double *grad)
{
    for (int64_t i = 0; i < n; i++) {
        double here = x[i];
        grad[i] = 0;
        for (int a = 0; a < 4; a++) {
            const void *mark = check_mark();
            x[i] = here + offset[a] * step;
            grad[i] += weight[a] * loss(of) / (12 * step);
            check_release(mark);
        }
        x[i] = here;
    }
}

double numeric_slope(numeric_loss *loss, void *of, float *x, int64_t n, const double *direction, double step)
{
    double slope = 0;
    const void *mark = check_mark();
    float *here = check_floats(n);
    memcpy(here, x, (size_t)n * sizeof *x);
    for (int a = 0; a < 4; a++) {
        for (int64_t i = 0; i < n; i++)
            x[i] = (float)((double)here[i] + offset[a] * step * direction[i]);
        slope += weight[a] * loss(of) / (12 * step);
    }
    memcpy(x, here, (size_t)n * sizeof *x);
    check_release(mark);
    return slope;
}
