/* wants: was not run, since it uses msa_dense: */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    const msa_shape s = {1, visible, 1, 1, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};
    msa_dense(&s, q, row(k, 0, 0), row(v, 0, 0), o, NULL, malloc(1 << 20));
}
