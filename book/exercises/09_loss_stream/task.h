/** The selector's loss for one query and group, KL(t || u) over all keys that the query sees.
 *  Teacher t_j = mean over the group's heads h of exp(x_hj - lse[h]), x_hj = q_h . k_j / sqrt(width);
 *  student u = softmax of s_j = qi . ki_j / sqrt(width of the index keys);
 *  loss = sum_j t_j (log t_j - log u_j), where 0 log 0 = 0. */
#include "../exercise.h"
/** The only memory that may grow with the text: as many doubles as you want, and all that you touch are
 * counted. */
typedef struct pad pad;
/** Number i of the pad, to be read or written. */
double *cell(pad *p, int64_t i);
/** @param q       [group,width] the group's query heads
 *  @param lse     [group] of each head over the keys 0 .. visible-1, as the forward pass stored them
 *  @param qi      [width of the index keys] the index query
 *  @param k,ki    keys and index keys: row(k, j, 0) and row(ki, j, 0)
 *  @return the loss */
double loss_row(const float *q, const float *lse, int group, const float *qi, const tensor *k,
                const tensor *ki, int64_t visible, pad *p);
