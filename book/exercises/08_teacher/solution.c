/* The teacher is a mean of probabilities: each head is normalised before the mean. */
#include "task.h"

static void softmax(int64_t n, const double *x, double *p)
{
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++)
        max = fmax(max, x[j]);
    for (int64_t j = 0; j < n; j++)
        sum += p[j] = exp(x[j] - max);
    for (int64_t j = 0; j < n; j++)
        p[j] /= sum;
}

double selector_loss(int group, int64_t n, const double *main, const double *index, double *gradient)
{
    double *t = calloc((size_t)n, sizeof *t), *u = calloc((size_t)n, sizeof *u), loss = 0;
    for (int h = 0; h < group; h++) {
        softmax(n, main + h * n, u);
        for (int64_t j = 0; j < n; j++)
            t[j] += u[j] / group;
    }
    softmax(n, index, u);
    for (int64_t j = 0; j < n; j++) {
        loss += t[j] > 0 ? t[j] * (log(t[j]) - log(u[j])) : 0;
        gradient[j] = u[j] - t[j];
    }
    free(t);
    free(u);
    return loss;
}
