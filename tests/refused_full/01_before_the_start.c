/* wants: 01_before_the_start.c:[0-9]+, in attend: |o: something was written */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    o[-1] = 1;
    for (int c = 0; c < 16; c++)
        o[c] = 0;
}
