/* Index Branch in 8 bits, of float32 tensors: index_screened_amx.c with the reference's own scores for what is left. */
#include "amx_kernels.h"

size_t fast_index_screened_workspace(const msa_shape *s)
{
    return index_screened_plain_workspace(s);
}

msa_status fast_index_screened(const msa_shape *s, const msa_arrays *a, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!a->qi || !a->ki || !work)
        return MSA_ERR_NULL;
    if (a->scores || a->index_lse)
        return MSA_ERR_UNSUPPORTED;
    if (!a->ids)
        return MSA_OK;
    pad_outputs(s, writable(a->ids), NULL, NULL);
    return amx_index_floats(s, a, work);
}
