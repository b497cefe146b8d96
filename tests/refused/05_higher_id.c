/* wants: ties inputs, query [0-9]+, local block [0-9]+: expected block [0-9]+ .score .*, found block [0-9]+ .score .*: a tie, in which the lower id wins */
#include "task.h"

void choose(const float *score, int64_t local, int k, int32_t *ids)
{
    int n = 0;
    for (int64_t b = 0; b < local; b++) {
        int better = 0;
        for (int64_t other = 0; other < local; other++)
            better += score[other] > score[b] || (score[other] >= score[b] && other > b);
        if (better < k - 1)
            ids[n++] = (int32_t)b;
    }
    ids[n++] = (int32_t)local;
    while (n < k)
        ids[n++] = -1;
}
