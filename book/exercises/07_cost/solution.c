/* The index still looks at every pair, with few heads; the Main Branch looks at k Bk keys a query. */
#include "task.h"

double flop_dense(const msa_shape *s, double n)
{
    return 2.0 * s->n_heads * s->d_head * n * n;
}

static double flop_index(const msa_shape *s, double n)
{
    return 1.0 * s->n_kv_heads * s->d_index * n * n;
}

static double flop_main(const msa_shape *s, double n)
{
    return 4.0 * s->n_heads * s->d_head * n * s->topk * s->block;
}

double flop_msa(const msa_shape *s, double n)
{
    return flop_index(s, n) + flop_main(s, n);
}

double bytes_dense(const msa_shape *s, double n)
{
    return 2.0 * s->n_kv_heads * s->d_head * 2 * n;
}

double bytes_msa(const msa_shape *s, double n)
{
    return 2.0 * s->d_index * n + bytes_dense(s, (double)s->topk * s->block);
}

double even_length(const msa_shape *s)
{
    return flop_main(s, 1) / flop_index(s, 1);
}
