/* Backward of dense attention: that of sparse attention, without ids over all visible keys. */
#include "fast.h"

msa_status fast_dense_backward(const msa_shape *s, const float *q, const float *k, const float *v,
                               const float *o, const float *lse, const float *dout, float *dq, float *dk,
                               float *dv, void *work)
{
    return fast_backward(s, q, k, v, NULL, o, lse, dout, dq, dk, dv, work);
}

size_t fast_dense_backward_workspace(const msa_shape *s)
{
    return fast_backward_workspace(s);
}
