/* wants: 02_heap.c:7, in head_logits: heap-buffer-overflow: a store of 4 bytes */
#include "task.h"

void head_logits(const float *q, const tensor *k, int n_heads, int h, int64_t visible, float *x)
{
    float *own = malloc((size_t)visible * sizeof *own);
    for (int64_t j = 0; j <= visible; j++)
        own[j] = q[0];
    x[0] = own[h % n_heads % k->heads];
    free(own);
}
