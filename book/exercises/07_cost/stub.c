/* Dense attention is counted. What MSA costs is yours to work out. */
#include "task.h"

double flop_dense(const msa_shape *s, double n)
{
    return 2.0 * s->n_heads * s->d_head * n * n;
}

double flop_msa(const msa_shape *s, double n)
{
    return flop_dense(s, n);
}

double bytes_dense(const msa_shape *s, double n)
{
    return 2.0 * s->n_kv_heads * s->d_head * 2 * n;
}

double bytes_msa(const msa_shape *s, double n)
{
    return bytes_dense(s, n);
}

double even_length(const msa_shape *s)
{
    (void)s;
    return 0;
}
