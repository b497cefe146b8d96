/* wants: it prints without end|an endless loop|SIGXFSZ */
#include "task.h"

#include <stdio.h>

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    for (;;)
        puts("pass (seed 1)");
}
