/** One decoded token: choose blocks by the index keys, attend to the tokens of the chosen blocks. One head.
 *  A sequence's cache is in pages of `block` tokens, scattered in a pool that it shares with others: token j
 * of the sequence is in page[j / block], at place j % block of it. Page g of the pool holds the rows g *
 * block to g * block + block - 1. What lies in the last page behind the sequence is left over from others,
 * and behind the pages of the sequence the table holds -1. */
#include "../exercise.h"
typedef struct cache {
    tensor k, v, ki;     /**< the pool: row(&c->k, r, 0) is its row r */
    const int32_t *page; /**< [pages of the longest sequence] */
    int64_t length;      /**< tokens of the sequence, the new one included: it is the last and sees all */
    int block;           /**< tokens in a page */
} cache;
/** @param q    [width] the query
 *  @param qi   [width of the index keys] the index query
 *  @param topk blocks to keep: the local one, and the best others by (score descending, id ascending)
 *  @param o    [width] the result */
void decode(const float *q, const float *qi, const cache *c, int topk, float *o);
