/* Times that scatter: chapter 17's program and an answer share this. */
#ifndef EXAMPLE_SCATTER_H
#define EXAMPLE_SCATTER_H

#include "../../ref/judge/inputs.h"

/* [series] */
/* An invented kernel of 1 ms: 1 % of one-sided jitter; one run in 12 is disturbed, one in
 * 30 meets a higher clock; the first three find cold caches. */
static double invented_ms(inputs_rng *rng, int run)
{
    static const double cold[] = {1.8, 1.3, 1.1};
    const double z = (double)inputs_normal(rng);
    double ms = 1 + 0.01 * z * z;
    if (inputs_below(rng, 12) == 0)
        ms += 0.4 * z * z;
    if (inputs_below(rng, 30) == 0)
        ms -= 0.06;
    return run < 3 ? cold[run] * ms : ms;
}
/* [series] */

#endif
