/** Logits of one query head over the keys it sees, in grouped-query attention:
 *  x_j = q . k[j, r] / sqrt(width), where r is the KV head of query head h.
 *  @param q      [width] query head h
 *  @param k      keys; row(k, j, r) is key j of KV head r, and k->heads says how many KV heads there are
 *  @param n_heads Hq, query heads
 *  @param x      [visible] the result */
#include "../exercise.h"
void head_logits(const float *q, const tensor *k, int n_heads, int h, int64_t visible, float *x);
