/** Somebody has written bounds for 8-bit keys, and says that they always hold. Do they? */
#include "../exercise.h"

enum { WIDTH = 64, KEYS = 16 };

/** What they say of the largest product of q [WIDTH] with one of keys [KEYS,WIDTH]. Both are rounded as in chapter 13b:
 *  to whole multiples, -127 .. 127, of a 127th of the largest |number| in them. Ask as often as you like. */
void claimed(const float *q, const float *keys, double *lower, double *upper);

/** Looks for a query and a block whose largest product is not between the claimed bounds, by more than 2^-40 of the
 *  longest key times the query.
 *  @param q    [WIDTH], and keys [KEYS,WIDTH]: the evidence, where there is some: numbers from 2^-60 to 2^60, or 0
 *  @returns    whether there is */
bool refute(float *q, float *keys);
