/* Online softmax: a row of logits comes piece by piece, and what was summed before shrinks when a larger
 * logit turns up. Logits are in base 2 (multiplied by log2 e), which saves the exponential a multiplication.
 */
#ifndef MSA_ONLINE_H
#define MSA_ONLINE_H

#include <math.h>

#include "vector.h"

#define LOG2_E 1.4426950408889634
#define LN_2 0.6931471805599453

/* One more piece of a row: its logits x[n] become weights 2^(x - max). Updates max and sum, which begin as
 * -inf and 0; returns the factor by which earlier weights shrink. The sum of a piece is float32, that of a
 * row double: of a million equal weights nothing is lost. */
static inline float online_softmax(float *x, int64_t n, float *max, double *sum)
{
    const float most = row_top(x, n, *max);
    lanes parts = {0};
    float part = 0;
    int64_t a = 0;
    for (; a + LANES <= n; a += LANES) {
        const lanes p = exp2_lanes(load(x + a) - most);
        store(x + a, p);
        parts += p;
    }
    for (; a < n; a++)
        part += x[a] = exp2_nonpositive(x[a] - most);
    const float shrink = most > *max ? exp2_nonpositive(*max - most) : 1;
    *sum = *sum * (double)shrink + (double)(sum_of(parts) + part);
    *max = most;
    return shrink;
}

static inline float online_lse(float max, double sum)
{
    return (float)(LN_2 * ((double)max + log2(sum)));
}

#endif
