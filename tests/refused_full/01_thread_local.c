/* wants: was not run, since it says '_Thread_local' */
#include "task.h"

static _Thread_local double kept[1024];

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    o[0] = (float)kept[visible];
}
