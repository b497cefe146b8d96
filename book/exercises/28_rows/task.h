/** LSE of sparse attention on tiles: lse [T,Hq], log sum exp(q . k_j / sqrt(width)) over the visible keys j <= i of the
 *  blocks that query i chose: ids [T,topk], ascending, and -1 where there are fewer. One group; a block has 16 keys; the
 *  width is a multiple of 32. What unit.h has is all that reaches Q and K. */
#include "../unit.h"
void lse_of_blocks(const msa_shape *s, const int32_t *ids, float *lse);
