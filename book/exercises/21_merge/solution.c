/* The same mean, relative to the largest LSE, and without the parts that are empty. */
#include "task.h"

void merge(const part *parts, int n, int width, float *o, float *lse)
{
    double max = -INFINITY, sum = 0, *acc = calloc((size_t)width, sizeof *acc);
    for (int a = 0; a < n; a++)
        max = fmax(max, (double)parts[a].lse);
    for (int a = 0; a < n; a++) {
        const double weight = exp((double)parts[a].lse - max);
        sum += weight;
        for (int c = 0; c < width && weight > 0; c++)
            acc[c] += weight * (double)parts[a].o[c];
    }
    for (int c = 0; c < width; c++)
        o[c] = (float)(acc[c] / sum);
    *lse = (float)(max + log(sum));
    free(acc);
}
