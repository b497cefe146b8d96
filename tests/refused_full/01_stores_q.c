/* wants: 01_stores_q.c:[0-9]+, in attend: .*writes to q, which is only to be read */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    ((float *)q)[1] = 1;
}
