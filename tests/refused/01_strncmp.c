/* wants: was not run, since it uses strncmp: */
#include "task.h"

#include <string.h>

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)k, (void)v, (void)visible;
    o[0] = (float)strncmp((const char *)q, "abc", 10); // strcmp to the compiler
}
