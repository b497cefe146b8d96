/* Slices in order: as many queries for each rank, and the last rank has most of the work. */
#include "task.h"

void deal(int ranks, int64_t n, int32_t *home)
{
    for (int64_t i = 0; i < n; i++)
        home[i] = (int32_t)(i * ranks / n);
}
