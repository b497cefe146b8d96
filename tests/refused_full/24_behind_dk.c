/* wants: 24_behind_dk.c:[0-9]+, in backward_token: .*dk has 5120 bytes */
#include "task.h"

void backward_token(const forward *f, const tensor *k, const tensor *v, int64_t visible, float *dq,
                    double *dk, double *dv)
{
    (void)f, (void)k, (void)v, (void)visible, (void)dq, (void)dv;
    for (int64_t j = 0; j <= 40; j++)
        dk[j * WIDTH] += 1;
}
