/* The sum over all keys is dout . o, d lse / d x_j is p_j, and a key that was read serves every head. */
#include "task.h"

void backward_token(const forward *f, const tensor *k, const tensor *v, int64_t visible, float *dq,
                    double *dk, double *dv)
{
    double away[MOST_HEADS], acc[MOST_HEADS][WIDTH] = {{0}};
    for (int h = 0; h < f->heads; h++)
        away[h] = dot_product(f->dout + h * WIDTH, f->o + h * WIDTH, WIDTH) - (double)f->dlse[h];
    for (int64_t j = 0; j < visible; j++) {
        const float *key = row(k, j, 0), *value = row(v, j, 0);
        for (int h = 0; h < f->heads; h++) {
            const float *q = f->q + h * WIDTH, *dout = f->dout + h * WIDTH;
            const double p = exp(dot_product(q, key, WIDTH) / sqrt(WIDTH) - (double)f->lse[h]);
            const double ds = p * (dot_product(dout, value, WIDTH) - away[h]) / sqrt(WIDTH);
            for (int c = 0; c < WIDTH; c++) {
                acc[h][c] += ds * (double)key[c];
                dk[j * WIDTH + c] += ds * (double)q[c];
                dv[j * WIDTH + c] += p * (double)dout[c];
            }
        }
    }
    for (int i = 0; i < f->heads * WIDTH; i++)
        dq[i] = (float)acc[i / WIDTH][i % WIDTH];
}
