/* wants: array that it was not given|looks into the memory of the judge|an ordinary access to the data of k */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    const tensor own = {k->data + 16, 1, 16, NULL};
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    o[0] = *row(&own, 0, 0);
}
