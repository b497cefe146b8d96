/* wants: was not run, since it uses pipe: */
#include "task.h"

#include <unistd.h>

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    int end[2];
    (void)q, (void)k, (void)v, (void)visible;
    o[0] = (float)pipe(end);
}
