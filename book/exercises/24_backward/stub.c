/* Right as long as no gradient arrives at lse; head by head, and the keys of each head twice. */
#include "task.h"

static double weight(const float *q, const float *key, float lse)
{
    return exp(dot_product(q, key, WIDTH) / sqrt(WIDTH) - (double)lse);
}

static void backward_head(const float *q, const float *dout, float lse, const tensor *k, const tensor *v,
                          int64_t visible, float *dq, double *dk, double *dv)
{
    double delta = 0,
           acc[WIDTH] = {0}; // delta = sum_i p_i (dout . v_i), which the derivative of a softmax takes away
    for (int64_t j = 0; j < visible; j++)
        delta += weight(q, row(k, j, 0), lse) * dot_product(dout, row(v, j, 0), WIDTH);
    for (int64_t j = 0; j < visible; j++) {
        const float *key = row(k, j, 0);
        const double p = weight(q, key, lse), dp = dot_product(dout, row(v, j, 0), WIDTH);
        const double ds = p * (dp - delta) / sqrt(WIDTH);
        for (int c = 0; c < WIDTH; c++) {
            acc[c] += ds * (double)key[c];
            dk[j * WIDTH + c] += ds * (double)q[c];
            dv[j * WIDTH + c] += p * (double)dout[c];
        }
    }
    for (int c = 0; c < WIDTH; c++)
        dq[c] = (float)acc[c];
}

void backward_token(const forward *f, const tensor *k, const tensor *v, int64_t visible, float *dq,
                    double *dk, double *dv)
{
    for (int h = 0; h < f->heads; h++)
        backward_head(f->q + h * WIDTH, f->dout + h * WIDTH, f->lse[h], k, v, visible, dq + h * WIDTH, dk,
                      dv);
}
