/** Exact attention of one query over the visible keys of its chosen blocks, and no others.
 *  @param q        [width] the query; it sees the keys 0 .. position
 *  @param k,v      keys and values, one head: key j is row(k, j, 0)
 *  @param ids      [topk] chosen blocks, ascending, then -1
 *  @param o        [width] the result */
#include "../exercise.h"
void attend_blocks(const float *q, const tensor *k, const tensor *v, int64_t position, const int32_t *ids,
                   int topk, int block, float *o);
