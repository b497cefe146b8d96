/* Backward: which of the two loop orders. */
#include "fast.h"

/* Short rows are taken whole, a tile at a time: their union of blocks is most of what is visible anyway. */
static bool rows_are_short(const msa_shape *s)
{
    return longest_kv(s) <= SHORT;
}

size_t fast_backward_workspace(const msa_shape *s)
{
    return rows_are_short(s) ? fast_backward_tiles_workspace(s) : fast_backward_blocks_workspace(s);
}

msa_status fast_backward(const msa_shape *s, const float *q, const float *k, const float *v,
                         const int32_t *ids, const float *o, const float *lse, const float *dout, float *dq,
                         float *dk, float *dv, void *work)
{
    MSA_TRY(msa_check_shape(s));
    return (rows_are_short(s) ? fast_backward_tiles : fast_backward_blocks)(s, q, k, v, ids, o, lse, dout, dq,
                                                                            dk, dv, work);
}
