/* wants: was not run, since it uses [_a-z0-9]*ptrace: */
#define _GNU_SOURCE
#include "task.h"

#include <sys/ptrace.h>

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    ptrace(PTRACE_ATTACH, 1, NULL, NULL);
}
