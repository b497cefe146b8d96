/* sum_i p_i dp_i = dout . sum_i p_i v_i = dout . o: the first pass over the keys is a dot product. */
#include "task.h"

void backward_row(const forward *f, const tensor *k, const tensor *v, int64_t visible, float *dq, double *dk,
                  double *dv)
{
    const int width = k->width;
    const double delta = dot_product(f->dout, f->o, width);
    double *acc = calloc((size_t)width, sizeof *acc);
    for (int64_t j = 0; j < visible; j++) {
        const float *key = row(k, j, 0);
        const double p = exp(dot_product(f->q, key, width) / sqrt(width) - (double)f->lse);
        const double dp = dot_product(f->dout, row(v, j, 0), width), ds = p * (dp - delta) / sqrt(width);
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
