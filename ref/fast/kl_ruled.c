/* The KL loss and its gradients: which of the two loop orders. */
#include "fast.h"

size_t fast_kl_workspace(const msa_shape *s)
{
    return longest_kv(s) <= SHORT ? fast_kl_tiles_workspace(s) : fast_kl_blocks_workspace(s);
}

/* As in backward: short rows are taken whole. */
msa_status fast_kl(const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,
                   const int32_t *ids, const float *lse, const float *index_lse, double weight, double *loss,
                   float *dqi, float *dki, void *work)
{
    MSA_TRY(msa_check_shape(s));
    return (longest_kv(s) <= SHORT ? fast_kl_tiles : fast_kl_blocks)(s, q, k, qi, ki, ids, lse, index_lse,
                                                                     weight, loss, dqi, dki, work);
}
