/* wants: 01_recursion.c:[0-9]+, in deeper: .*(stack|memory) */
#include "task.h"

static double deeper(volatile double *x)
{
    volatile double y[64] = {*x};
    return y[0] + deeper(y);
}

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    double x = (double)visible;
    (void)q, (void)k, (void)v;
    o[0] = (float)deeper(&x);
}
