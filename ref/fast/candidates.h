/* The blocks that a row may have to choose, in ascending order: a list of fixed length that tau filters. */
#ifndef MSA_CANDIDATES_H
#define MSA_CANDIDATES_H

#include <math.h>
#include <stdint.h>

typedef struct candidate {
    int32_t block;
    float value; /* its upper bound; then its score */
} candidate;

/* Instead of a number of candidates: too many, or products that may vanish, all are scored; nothing to choose. */
enum { FELL = -1, TAKES_ALL = -2 };

/* Keeps those that tau has not yet passed; returns how many. */
static inline int32_t candidates_filter(candidate *list, int32_t n, float tau)
{
    int32_t kept = 0;
    for (int32_t at = 0; at < n; at++)
        if (!(list[at].value < tau))
            list[kept++] = list[at];
    return kept;
}

/* One more; where there is no room for it the row fell, and nothing is below its tau. */
static inline void candidates_add(candidate *list, int32_t *n, int64_t most, float *tau, int64_t block,
                                  float upper)
{
    if (*n == most)
        *n = candidates_filter(list, *n, *tau);
    if (*n == most) {
        *n = FELL;
        *tau = INFINITY;
    } else {
        list[(*n)++] = (candidate){(int32_t)block, upper};
    }
}

#endif
