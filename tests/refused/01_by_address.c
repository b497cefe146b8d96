/* wants: 01_by_address.c:[0-9]+, in attend: .*it calls the reference, or looks at it */
#include "task.h"

/* The reference, wherever it lies behind the function that we know. */
void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible;
    for (volatile const char *code = (const char *)dot_product;; code += 4096)
        o[0] = *code;
}
