/* wants: 20_list.c:[0-9]+, in work: .*an ordinary access to the list, .*write number.list, i. */
#include "task.h"

void work(int worker, int workers, const numbers *list, double partial[PLACES])
{
    partial[0] = 0;
    if (worker == workers - 1)
        for (int64_t i = 0; i < list->n; i++)
            partial[0] += list->x[i];
}

double combine(int workers, const double partial[PLACES])
{
    return workers > 0 ? partial[0] : 0;
}
