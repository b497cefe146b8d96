/* Each worker adds up its share, and the shares are added in the order of the workers: right up to rounding.
 */
#include "task.h"

void work(int worker, int workers, const numbers *list, double partial[PLACES])
{
    const int64_t begin = list->n * worker / workers, end = list->n * (worker + 1) / workers;
    double sum = 0;
    for (int64_t i = begin; i < end; i++)
        sum += number(list, i);
    partial[worker] = sum;
}

double combine(int workers, const double partial[PLACES])
{
    double sum = 0;
    for (int a = 0; a < workers; a++)
        sum += partial[a];
    return sum;
}
