/** The selection turned around: which queries chose a block. One group.
 *  first   [n_blocks+1] block b's entries are entry[first[b]] .. entry[first[b+1]-1]; first[0] = 0
 *  entry   [n_q*topk]   pack(query, slot), those of a block in ascending order */
#include "../exercise.h"
typedef struct choices {
    int64_t n_q, n_blocks;
    int topk;
    const int32_t *ids; /**< [n_q,topk]; read them through chosen() */
    touched *seen;
} choices;
/** The block that a query has in a slot, or -1: the rest of its slots are empty. */
int32_t chosen(const choices *c, int64_t query, int slot);
/** Which query, and in which of its slots: 27 bits and 5. */
static inline uint32_t pack(int64_t query, int slot)
{
    return (uint32_t)query << 5 | (uint32_t)slot;
}
void reverse(const choices *c, int32_t *first, uint32_t *entry);
