/* wants: 24_behind_dk.c:[0-9]+, in backward_row: .*dk has 5120 bytes */
#include "task.h"

void backward_row(const forward *f, const tensor *k, const tensor *v, int64_t visible, float *dq, double *dk, double *dv)
{
    (void)f, (void)v, (void)visible, (void)dq, (void)dv;
    for (int64_t j = 0; j <= 40; j++)
        dk[j * k->width] += 1;
}
