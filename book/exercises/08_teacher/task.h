/** The selector's loss for one query and group, and its gradient.
 *  Teacher t = mean over the group's heads of softmax(main[h]); student u = softmax(index);
 *  loss = sum_j t_j (log t_j - log u_j), gradient_j = d loss / d index_j.
 *  @param main     [group,n] logits of the group's main heads
 *  @param index    [n] index logits
 *  @param gradient [n] written
 *  @return the loss */
#include "../exercise.h"
double selector_loss(int group, int64_t n, const double *main, const double *index, double *gradient);
