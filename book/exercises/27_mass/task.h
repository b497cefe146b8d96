/** How much of the index's softmax lies in a block? Only the order of blocks matters, so any number that grows with
 *  sum over the block's keys j of exp(qi . ki_j / sqrt(width)) will do.
 *  @param qi    [width] one index query
 *  @param first the block's keys are first .. last-1, and the query sees all of them
 *  @return the larger, the sooner the block is chosen */
#include "../exercise.h"
double block_mass(const float *qi, const tensor *ki, int64_t first, int64_t last);
