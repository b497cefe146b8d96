/* wants: 03_data.c:[0-9]+, in attend_once: .*an ordinary access to the data of k, .*write row.k, j, 0. */
#include "task.h"

void attend_once(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o, float *lse)
{
    double max = -INFINITY;
    for (int64_t j = 0; j < visible; j++)
        max = fmax(max, dot_product(q, k->data + j * k->width, k->width));
    o[0] = *row(v, 0, 0);
    *lse = (float)max;
}
