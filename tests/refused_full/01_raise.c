/* wants: was not run, since it uses [_a-z0-9]*raise: */
#define _GNU_SOURCE
#include "task.h"

#include <signal.h>

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    raise(9);
}
