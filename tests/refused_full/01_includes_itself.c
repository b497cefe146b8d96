/* wants: was not run, since it includes */
#include "task.h"
#ifndef ONCE
#define ONCE
#include "../../../tests/refused_full/../refused_full/01_includes_itself.c"
#else
__attribute__((constructor)) static void early(void) { }
void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
}
#endif
