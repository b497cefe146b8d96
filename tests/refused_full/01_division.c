/* wants: 01_division.c:[0-9]+, in attend: .*[Dd]ivision by zero */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    o[0] = (float)(100 / (int)(visible - visible));
}
