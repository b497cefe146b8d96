/* wants: 01_behind_the_end.c:8, in attend: .*o has 64 bytes, and this access is 64 bytes after */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible;
    for (int c = 0; c <= 16; c++)
        o[c] = 0;
}
