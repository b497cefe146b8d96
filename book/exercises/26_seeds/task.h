/** Which difference between two models is more than the luck of their seeds? Arm a was trained with seeds[a]
 * seeds. All arms share one variance, that of a seed: s^2 = (the squares of every value's deviation from its
 * own arm's mean, summed) / (number of values - number of arms). Means of n seeds each differ by more than
 * 2 s sqrt(2 / n) about once in twenty comparisons of equals. */
#include "../exercise.h"
/** @param score what each model reached: that of arm a and its seed i is row(score, a, i)[0]
 *  @param seeds [arms] of each, at least 1, of one arm at least 2
 *  @param n     seeds of the two arms that are compared
 *  @returns     2 s sqrt(2 / n) */
double smallest_difference(const tensor *score, const int *seeds, int arms, int n);
