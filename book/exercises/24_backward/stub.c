/* Right, and no row of weights is stored: every weight is computed twice instead. */
#include "task.h"

static double weight(const forward *f, const float *key, int width)
{
    return exp(dot_product(f->q, key, width) / sqrt(width) - (double)f->lse);
}

void backward_row(const forward *f, const tensor *k, const tensor *v, int64_t visible, float *dq, double *dk,
                  double *dv)
{
    const int width = k->width;
    double delta = 0, *acc = calloc((size_t)width, sizeof *acc);
    for (int64_t j = 0; j < visible; j++)
        delta += weight(f, row(k, j, 0), width) * dot_product(f->dout, row(v, j, 0), width);
    for (int64_t j = 0; j < visible; j++) {
        const float *key = row(k, j, 0);
        const double p = weight(f, key, width), dp = dot_product(f->dout, row(v, j, 0), width);
        const double ds = p * (dp - delta) / sqrt(width);
        for (int c = 0; c < width; c++) {
            acc[c] += ds * (double)key[c];
            dk[j * width + c] += ds * (double)f->q[c];
            dv[j * width + c] += p * (double)f->dout[c];
        }
    }
    for (int c = 0; c < width; c++)
        dq[c] = (float)acc[c];
    free(acc);
}
