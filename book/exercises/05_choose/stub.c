/* A sliding window: the last k blocks, whatever their scores. */
#include "task.h"

void choose(const float *score, int64_t local, int k, int32_t *ids)
{
    (void)score; /* yours to use */
    const int64_t first = local + 1 > k ? local + 1 - k : 0;
    for (int a = 0; a < k; a++)
        ids[a] = first + a <= local ? (int32_t)(first + a) : -1;
}
