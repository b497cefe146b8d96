/** The gradient of one token's attention, for all query heads of a group, which share one key-value head. Forward, for each
 *  head: p_j = exp(x_j - lse), x_j = q . k_j / sqrt(width), o = sum_j p_j v_j, lse = ln sum_j exp(x_j). Both o and lse go on into
 *  the loss, and gradients arrive at both: dout at o, dlse at lse. */
#include "../exercise.h"
enum { MOST_HEADS = 4, WIDTH = 16 };
/** What the forward pass stored of a token, and the gradients that arrive. */
typedef struct forward {
    int heads;                 /**< at most MOST_HEADS */
    const float *q, *o, *dout; /**< [heads,WIDTH] */
    const float *lse, *dlse;   /**< [heads] */
} forward;
/** @param k,v     keys and values of the group: key j is row(k, j, 0)
 *  @param visible the token sees the keys 0 .. visible-1
 *  @param dq      [heads,WIDTH] written
 *  @param dk,dv   [keys,WIDTH] added to */
void backward_token(const forward *f, const tensor *k, const tensor *v, int64_t visible, float *dq,
                    double *dk, double *dv);
