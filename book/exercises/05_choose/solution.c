/* A block is chosen if fewer than k-1 blocks before the local one are better: no sorting, ids in order. */
#include "task.h"

static int64_t rank(const float *score, int64_t local, int64_t b)
{
    int64_t better = 0;
    for (int64_t other = 0; other < local; other++)
        better += score[other] > score[b] || (score[other] == score[b] && other < b);
    return better;
}

void choose(const float *score, int64_t local, int k, int32_t *ids)
{
    int n = 0;
    for (int64_t b = 0; b < local; b++)
        if (rank(score, local, b) < k - 1)
            ids[n++] = (int32_t)b;
    ids[n++] = (int32_t)local;
    while (n < k)
        ids[n++] = -1;
}
