/* wants: not yet: bytes kept of a long text: expected at most 16384 */
#include "task.h"


void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse)
{
    double x[1 << 15]; float value[16 << 15];
    double max = -INFINITY, sum = 0, acc[16] = {0};
    for (int64_t j = 0; j < visible; j++) {
        x[j] = dot_product(q, row(k, j, 0), 16) / 4;
        memcpy(value + 16 * j, row(v, j, 0), 16 * sizeof *value);
        max = fmax(max, x[j]);
    }
    for (int64_t j = 0; j < visible; j++) {
        const double p = exp(x[j] - max);
        sum += p;
        for (int c = 0; c < 16; c++)
            acc[c] += p * (double)value[16 * j + c];
    }
    for (int c = 0; c < 16; c++)
        o[c] = (float)(acc[c] / sum);
    *lse = (float)(max + log(sum));
}
