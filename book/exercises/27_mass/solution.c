/* The logarithm of the sum, which cannot overflow, in one pass: sum * exp(max) is what was added so far. */
#include "task.h"

double block_mass(const float *qi, const tensor *ki, int64_t first, int64_t last)
{
    double max = -INFINITY, sum = 0;
    for (int64_t j = first; j < last; j++) {
        const double logit = dot_product(qi, row(ki, j, 0), ki->width) / sqrt(ki->width);
        const double larger = fmax(max, logit);
        sum = sum * exp(max - larger) + exp(logit - larger);
        max = larger;
    }
    return max + log(sum);
}
