/* RMSNorm in the Gemma form: the gain is 1 + w, so that w = 0 is the identity and weight decay is harmless.
 *
 *   y = x / rms * (1 + w),   rms = sqrt(mean(x^2) + eps) */
#include "internal.h"

msa_status msa_rmsnorm(int64_t rows, int d, double eps, const float *x, const float *w, float *y)
{
    if (!x || !w || !y)
        return MSA_ERR_NULL;
    if (rows < 0 || d < 1)
        return MSA_ERR_SIZE;
#pragma omp parallel for schedule(static) /* rows are independent: threads change nothing but the time */
    for (int64_t i = 0; i < rows; i++) {
        const float *row = x + i * d;
        double inv = 1 / sqrt(dot(row, row, d) / d + eps);
        for (int c = 0; c < d; c++)
            y[i * d + c] = (float)((double)row[c] * inv * (1 + (double)w[c]));
    }
    return MSA_OK;
}

/* With xh = x/rms and g = dy (1+w):  dx = (g - xh mean(g xh)) / rms,  dw = sum over rows of dy xh. */
msa_status msa_rmsnorm_backward(int64_t rows, int d, double eps, const float *x, const float *w,
                                const float *dy, float *dx, float *dw, double *work)
{
    if (!x || !w || !dy || !dx || !dw || !work)
        return MSA_ERR_NULL;
    if (rows < 0 || d < 1)
        return MSA_ERR_SIZE;
    memset(work, 0, (size_t)d * sizeof *work);
    for (int64_t i = 0; i < rows; i++, x += d, dy += d, dx += d) {
        double inv = 1 / sqrt(dot(x, x, d) / d + eps), mean = 0;
        for (int c = 0; c < d; c++)
            mean += (double)dy[c] * (1 + (double)w[c]) * (double)x[c] * inv / d;
        for (int c = 0; c < d; c++) {
            double xh = (double)x[c] * inv, g = (double)dy[c];
            work[c] += g * xh;
            dx[c] = (float)((g * (1 + (double)w[c]) - xh * mean) * inv);
        }
    }
    for (int c = 0; c < d; c++)
        dw[c] += (float)work[c];
    return MSA_OK;
}
