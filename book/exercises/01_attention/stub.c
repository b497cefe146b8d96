/* A plain mean of the values: as if every key mattered as much as any other. */
#include "task.h"

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k; /* yours to use */
    for (int c = 0; c < v->width; c++) {
        double sum = 0;
        for (int64_t j = 0; j < visible; j++)
            sum += (double)row(v, j, 0)[c];
        o[c] = (float)(sum / (double)visible);
    }
}
