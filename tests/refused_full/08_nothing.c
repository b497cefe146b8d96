/* wants: not yet: loss, normal inputs: expected */
#include "task.h"

double selector_loss(int group, int64_t n, const double *main, const double *index, double *gradient)
{
    (void)group, (void)n, (void)main, (void)index, (void)gradient;
    return NAN;
}
