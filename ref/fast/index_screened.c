/* Index Branch in 8 bits, of float32 tensors: index_screened_amx.c with the reference's own scores for what is left. */
#include "amx_kernels.h"

size_t fast_index_screened_workspace(const msa_shape *s)
{
    return index_screened_plain_workspace(s);
}

msa_status fast_index_screened(const msa_shape *s, const float *qi, const float *ki, float *scores, int32_t *ids,
                               float *index_lse, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!qi || !ki || !work)
        return MSA_ERR_NULL;
    if (scores || index_lse)
        return MSA_ERR_UNSUPPORTED;
    if (!ids)
        return MSA_OK;
    pad_outputs(s, ids, NULL, NULL);
    const msa_arrays a = {.qi = qi, .ki = ki, .ids = ids};
    return amx_index_floats(s, &a, work);
}
