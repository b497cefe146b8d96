/** Attention of one query: o = sum_j p_j v_j, with p the softmax of q . k_j / sqrt(width).
 *  @param q       [width] the query
 *  @param k,v     keys and values, one head: key j is row(k, j, 0)
 *  @param visible the query sees the keys 0 .. visible-1
 *  @param o       [width] the result */
#include "../exercise.h"
void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o);
