/* wants: 01_endless.c:[0-9]+, in attend: no result after 10 seconds of processor time: an endless loop */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    for (;;)
        *(volatile float *)o += 1;
}
