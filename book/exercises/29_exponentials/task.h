/** Attention of a query's 16 heads, which fill a column each, to all of n_keys keys (a multiple of 32): o [16,width], and
 *  lse [16], the natural logarithm of the sum of exponentials of the logits q . k / sqrt(width). The width is a multiple
 *  of 32. What unit.h has is all that reaches Q, K and V. */
#include "../unit.h"
void attend_on_tiles(int64_t n_keys, int width, float *o, float *lse);
