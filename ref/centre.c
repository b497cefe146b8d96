/* What the keys that a query attends to have in common, for kernels with errors in dS.
 *
 * Rows of dS sum to 0, so what all keys have in common, c, drops out of dQ = dS K / sqrt(dh). Errors e of dS
 * leave it in: dQ is off by sum_j e_j K_j, and where a channel is about 100 in every key that is mostly c
 * sum_j e_j. But sum_j e_j is known, as the sum of the dS that were used; so such kernels take
 *
 *   dQ = (sum_j dS_j K_j - c sum_j dS_j) / sqrt(dh)          off by sum_j e_j (K_j - c)
 *
 * and likewise dQi, where (u - t) sums to 0. Any c is right. This one is the mean of up to 16 keys evenly
 * spaced among those attended to, in the channels where it is over twice their standard deviation; else 0. */
#include "internal.h"

int key_samples(const msa_shape *s, const int32_t *ids, int64_t p, int64_t at[KEY_SAMPLES])
{
    int64_t n = ids ? 0 : p + 1;
    int used = 0;
    for (int slot = 0; ids && slot < s->topk && ids[slot] >= 0; slot++) /* whole but for the last, if local */
        n += min_i64(s->block, p + 1 - (int64_t)ids[slot] * s->block);
    const int64_t step = (n + KEY_SAMPLES - 1) / KEY_SAMPLES;
    for (int64_t i = step / 2; i < n; i += step)
        at[used++] = ids ? (int64_t)ids[i / s->block] * s->block + i % s->block : i;
    return used;
}

static void centre_of(const int64_t *at, int used, const float *k, int64_t stride, int d, float *centre)
{
    for (int c = 0; c < d; c++) {
        double sum = 0, square = 0;
        for (int i = 0; i < used; i++) {
            const double x = (double)k[at[i] * stride + c];
            sum += x;
            square += x * x;
        }
        /* mean^2 > 4 (mean of squares - mean^2), and false where it is NaN */
        centre[c] = 5 * sum * sum > 4 * (double)used * square ? (float)(sum / (double)used) : 0;
    }
}

void sample_centre(const float *keys, int used, int d, float *centre)
{
    int64_t at[KEY_SAMPLES];
    for (int i = 0; i < used; i++)
        at[i] = i;
    centre_of(at, used, keys, d, d, centre);
}

void key_centre(const msa_shape *s, const int32_t *ids, int64_t p, const float *k, int64_t stride, int d,
                float *centre)
{
    int64_t at[KEY_SAMPLES];
    const int used = key_samples(s, ids, p, at);
    centre_of(at, used, k, stride, d, centre);
}
