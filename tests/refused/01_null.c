/* wants: 01_null.c:7, in attend: .*null pointer */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible;
    *(volatile float *)(o - o) = 0, ((volatile float *)0)[3] = 1;
}
