/* A counting sort: how many want each block, where each block's entries start, and each entry to its place.
 */
#include "task.h"

void reverse(const choices *c, int32_t *first, uint32_t *entry)
{
    int32_t *next = calloc((size_t)c->n_blocks, sizeof *next);
    for (int64_t i = 0; i < c->n_q; i++)
        for (int slot = 0; slot < c->topk; slot++) {
            const int32_t b = chosen(c, i, slot);
            if (b >= 0)
                next[b]++;
        }
    first[0] = 0;
    for (int64_t b = 0; b < c->n_blocks; b++) {
        first[b + 1] = first[b] + next[b];
        next[b] = first[b];
    }
    for (int64_t i = 0; i < c->n_q; i++)
        for (int slot = 0; slot < c->topk; slot++) {
            const int32_t b = chosen(c, i, slot);
            if (b >= 0)
                entry[next[b]++] = pack(i, slot);
        }
    free(next);
}
