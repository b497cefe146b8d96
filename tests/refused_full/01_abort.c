/* wants: 01_abort.c:[0-9]+, in attend: it gave up */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    abort();
}
