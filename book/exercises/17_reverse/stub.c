/* Right, but every block asks every query. */
#include "task.h"

void reverse(const choices *c, int32_t *first, uint32_t *entry)
{
    int32_t n = 0;
    for (int64_t b = 0; b < c->n_blocks; b++) {
        first[b] = n;
        for (int64_t i = 0; i < c->n_q; i++)
            for (int slot = 0; slot < c->topk; slot++)
                if (chosen(c, i, slot) == b)
                    entry[n++] = pack(i, slot);
    }
    first[c->n_blocks] = n;
}
