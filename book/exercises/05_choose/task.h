/** The selection of one query: its local block, and the k-1 best of the blocks before it, by (score
 * descending, id ascending). Writes min(k, local+1) ids in ascending order, then -1.
 *  @param score [local+1] block scores; that of the local block counts for nothing
 *  @param ids   [k] */
#include "../exercise.h"
void choose(const float *score, int64_t local, int k, int32_t *ids);
