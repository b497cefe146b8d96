/* wants: 01_overflow.c:[0-9]+, in attend: undefined behaviour: [Ss]igned integer overflow */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    int x = 2147483600;
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    for (int i = 0; i < 100; i++)
        x += (int)visible;
    o[0] = (float)x;
}
