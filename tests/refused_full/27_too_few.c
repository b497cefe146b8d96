/* wants: not yet:  */
#include "task.h"

double block_mass(const float *qi, const tensor *ki, int64_t first, int64_t last)
{
    return dot_product(qi, row(ki, (first + last) / 2, 0), ki->width);
}
