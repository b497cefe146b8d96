/** The gradient of one query's attention. Forward: p_j = exp(x_j - lse), x_j = q . k_j / sqrt(width), o =
 * sum_j p_j v_j. With dp_j = dout . v_j and ds_j = p_j (dp_j - sum_i p_i dp_i): dq = sum_j ds_j k_j /
 * sqrt(width); this query adds ds_j q / sqrt(width) to dk_j and p_j dout to dv_j. */
#include "../exercise.h"
/** What the forward pass stored of a query, and the gradient that arrives at its output. All are [width]. */
typedef struct forward {
    const float *q, *o, *dout;
    float lse;
} forward;
/** @param k,v     keys and values, one head: key j is row(k, j, 0)
 *  @param visible the query sees the keys 0 .. visible-1
 *  @param dq      [width] written
 *  @param dk,dv   [keys,width] added to */
void backward_row(const forward *f, const tensor *k, const tensor *v, int64_t visible, float *dq, double *dk,
                  double *dv);
