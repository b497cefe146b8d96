/** Deals n queries to ranks: home[i] is the rank of query i, 0 .. ranks-1. Query i sees i + 1 keys, so that the work of a rank is the
 *  sum of i + 1 over its queries. Neighbours with the same home are one call; calls should be few. n is a multiple of 2 ranks.
 *  @param home [n] */
#include "../exercise.h"
void deal(int ranks, int64_t n, int32_t *home);
