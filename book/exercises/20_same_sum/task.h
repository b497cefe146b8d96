/** A sum by several workers, with the same bits for any number of them.
 *  The check lets the workers run in any order, then calls combine() once. */
#include "../exercise.h"
#define PLACES 64 /**< partial results that fit; NaN before the workers start */
/** The numbers to add. */
typedef struct numbers {
    int64_t n;
    const double *x; /**< [n]; read them through number() */
    touched *seen;
} numbers;
/** Number i of the list. */
double number(const numbers *list, int64_t i);
/** The share of worker 0 .. workers-1: what it reads, and the places that it writes. */
void work(int worker, int workers, const numbers *list, double partial[PLACES]);
/** The sum of the whole list, from what the workers left. */
double combine(int workers, const double partial[PLACES]);
