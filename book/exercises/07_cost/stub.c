/* Dense attention is counted exactly, MSA as the paper does for long texts: in full, and with n/2 keys a token. */
#include "task.h"

int64_t pairs_dense(int64_t n)
{
    return n * (n + 1) / 2;
}

int64_t pairs_main(const msa_shape *s, int64_t n)
{
    return n * s->topk * s->block;
}

int64_t pairs_index(const msa_shape *s, int64_t n)
{
    (void)s;
    return n * n / 2;
}

int64_t pays_from(const msa_shape *s)
{
    return (int64_t)2 * s->topk * s->block;
}
