/* wants: 01_stores_a_row.c:[0-9]+, in attend: .*writes to a row, which is only to be read */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    *(float *)row(k, 0, 0) = 1;
}
