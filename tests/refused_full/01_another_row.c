/* wants: row.k, 40, 0.: expected 0 to 39 */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    o[0] = *row(k, 40, 0);
}
