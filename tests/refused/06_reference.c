/* wants: was not run, since it uses msa_sparse: */
#include "task.h"

void attend_blocks(const float *q, const tensor *k, const tensor *v, int64_t position, const int32_t *ids, int topk,
                   int block, float *o)
{
    const msa_shape s = {1, position + 1, 1, 1, 16, 8, block, topk, 1, NULL, NULL, NULL, NULL};
    msa_sparse(&s, q, k->data, v->data, ids, o, NULL, malloc(1 << 20));
}
