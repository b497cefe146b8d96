/* A block is as good as its keys are on average. */
#include "task.h"

double block_mass(const float *qi, const tensor *ki, int64_t first, int64_t last)
{
    double sum = 0;
    for (int64_t j = first; j < last; j++)
        sum += dot_product(qi, row(ki, j, 0), ki->width) / sqrt(ki->width);
    return sum / (double)(last - first);
}
