/* Partial rotary embedding: pair (i, i + rot/2) of a head turns by pos * theta^(-2i/rot), the channels from
 * rot on stay. A dot product of two rotated vectors then depends on the distance of their positions. */
#include "internal.h"

static void rotate(float *x, int half, int i, double c, double s)
{
    double a = (double)x[i], b = (double)x[i + half];
    x[i] = (float)(a * c - b * s);
    x[i + half] = (float)(b * c + a * s);
}

msa_status msa_rope(int64_t n, int heads, int d, int rot, double theta, const int32_t *pos, bool inverse,
                    float *x)
{
    if (!pos || !x)
        return MSA_ERR_NULL;
    if (n < 0 || heads < 1 || d < 1)
        return MSA_ERR_SIZE;
    if (rot < 0 || rot > d || rot % 2 != 0)
        return MSA_ERR_ROTARY;
#pragma omp parallel for schedule(static) /* channel pairs are independent */
    for (int i = 0; i < rot / 2; i++) {
        double frequency = pow(theta, -2.0 * i / rot);
        for (int64_t t = 0; t < n; t++) {
            double angle = pos[t] * frequency * (inverse ? -1 : 1), c = cos(angle), s = sin(angle);
            for (int h = 0; h < heads; h++)
                rotate(x + (t * heads + h) * d, rot / 2, i, c, s);
        }
    }
    return MSA_OK;
}
