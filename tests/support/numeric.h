/**
 * @file numeric.h
 * @brief Derivatives by five-point differences: the judge of every hand-written backward pass.
 */
#ifndef MSA_NUMERIC_H
#define MSA_NUMERIC_H

#include <stdint.h>

/** A scalar function of whatever `of` points to, the varied numbers among it. */
typedef double numeric_loss(void *of);

/** grad[i] = d loss / d x[i] for every i. The error is about step^4 times the fifth derivative. */
void numeric_gradient(numeric_loss *loss, void *of, double *x, int64_t n, double step, double *grad);

/** The slope of a float32 function along `direction` [n]. `step` times it must be well above the rounding
 *  of x. x is restored to the bit. */
double numeric_slope(numeric_loss *loss, void *of, float *x, int64_t n, const double *direction, double step);

#endif
