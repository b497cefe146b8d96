/* Prefill: the index, then the Main Branch. */
#include "fast.h"

msa_status fast_prefill(const msa_shape *s, const float *q, const float *k, const float *v, const float *qi,
                        const float *ki, int32_t *ids, float *o, float *lse, void *work)
{
    if (!q || !k || !v || !o)
        return MSA_ERR_NULL;
    MSA_TRY(fast_index(s, qi, ki, NULL, ids, NULL, work));
    return fast_sparse(s, q, k, v, ids, o, lse, work);
}

size_t fast_prefill_workspace(const msa_shape *s)
{
    return max_size(fast_index_workspace(s), fast_sparse_workspace(s));
}
