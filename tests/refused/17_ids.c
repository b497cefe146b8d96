/* wants: 17_ids.c:[0-9]+, in reverse: .*an ordinary access to ids, .*write chosen.c, query, slot. */
#include "task.h"

void reverse(const choices *c, int32_t *first, uint32_t *entry)
{
    int32_t n = 0;
    for (int64_t b = 0; b < c->n_blocks; b++) {
        first[b] = n;
        for (int64_t i = 0; i < c->n_q * c->topk; i++)
            if (c->ids[i] == b)
                entry[n++] = pack(i / c->topk, (int)(i % c->topk));
    }
    first[c->n_blocks] = n;
}
