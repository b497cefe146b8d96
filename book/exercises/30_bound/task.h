/** Keys and queries in 8 bits, and what is certain of a block's score all the same. The score of a query q and a block is
 *  the largest of its KEYS products q . k_j. */
#include <stdint.h>

#include "../exercise.h"

enum { WIDTH = 64, KEYS = 16 };

/** What is kept of a block. bounds_of_block() sees this and no key. */
typedef struct block8 {
    int8_t code[KEYS][WIDTH]; /**< -127 .. 127 */
    float scale;              /**< what a code of 1 stands for, one for the whole block */
    float reach;              /**< N: no key is longer, as its codes say */
    float error;              /**< E: no key is farther from what its codes say */
} block8;

/** What is kept of a query. */
typedef struct query8 {
    int8_t code[WIDTH];
    float step, length, rest; /**< what a code of 1 stands for; |q|; its distance from what its codes say */
} query8;

void round_block(const float *keys, block8 *to); /**< keys [KEYS,WIDTH] */
void round_query(const float *q, query8 *to);
/** Two numbers between which the block's score lies, whatever the keys were. */
void bounds_of_block(const query8 *q, const block8 *b, double *lower, double *upper);
