/** Sparse attention of one head for all queries, and each one's LSE.
 *  The selection is given both ways round: query i chose the blocks ids[i*topk ..], ascending, then -1;
 *  block b was chosen by the queries query[first[b]] .. query[first[b+1]-1], ascending.
 *  Query i sees the keys 0 .. i, and every query has chosen a block that it sees. */
#include "../exercise.h"
typedef struct task {
    tensor k, v;          /**< row(&t->k, j, 0) is key j */
    int64_t n, n_blocks;  /**< queries, as many as keys */
    int block, topk;      /**< keys in a block (the last may be short), places in a row of ids */
    const int32_t *ids;   /**< [n,topk] */
    const int32_t *first; /**< [n_blocks+1] */
    const int32_t *query; /**< [first[n_blocks]] */
    const tensor *q;      /**< read it through fetch_query() */
} task;
/** [width] Query i. */
const float *fetch_query(const task *t, int64_t i);
/** @param o   [n,width]
 *  @param lse [n] */
void attend_all(const task *t, float *o, float *lse);
