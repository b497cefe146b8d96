/** Block scores of one index query: m[b] = max over the VISIBLE keys j of block b of qi . ki_j / sqrt(width),
 *  and -INFINITY where a block has no visible key.
 *  @param position the query sees the keys 0 .. position
 *  @param n_kv     keys in all; the last block may be short
 *  @param m        [ceil(n_kv / block)] the result */
#include "../exercise.h"
void block_scores(const float *qi, const tensor *ki, int64_t position, int64_t n_kv, int block, float *m);
