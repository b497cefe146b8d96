/** How good is the selection of one query and group? Compare it with the blocks that the Main Branch weighs
 * most. P_b = mean over the group's heads of the mass of block b under that head's softmax; I* = the topk
 * blocks of largest P_b, of equal ones the lower id. */
#include "../exercise.h"
typedef struct selection {
    const int32_t *ids; /**< [topk] chosen blocks, ascending, then -1 */
    int topk, block;    /**< places, and keys in a block */
} selection;
typedef struct recalls {
    double block; /**< |I* and chosen| / |I*| */
    double score; /**< mass of (I* and chosen) / mass of I* */
} recalls;
/** @param q       [group,width] the group's query heads
 *  @param k       keys, one head: key j is row(k, j, 0)
 *  @param visible the query sees the keys 0 .. visible-1: more than topk blocks */
recalls recall(const float *q, int group, const tensor *k, int64_t visible, const selection *s);
