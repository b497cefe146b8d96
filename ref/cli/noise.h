/**
 * @file noise.h
 * @brief How far a bf16 kernel's roundings move a row of O: the scale of its error budget.
 */
#ifndef MSA_NOISE_H
#define MSA_NOISE_H

#include "../msa.h"

/** Rounding to bf16, 8 significant bits, changes a number by up to 2^-8 of itself, in the mean square by
 *  0.85 * 2^-9: its error is uniform within half of a spacing of 2^-7 * 2^e, and over the numbers of one
 *  exponent e, as densely in their logarithm, the mean of (2^e/x)^2 is 3/(8 ln 2). Each weight p moves o[c]
 * by its error times v[c], with a sign of its own. Added up as a random walk that has a standard deviation of
 * about 0.85 noise[c], where noise[c] = 2^-9 sqrt(sum (p v[c])^2); the test of bf16 measures it.
 *  @param ids      NULL: dense attention
 *  @param partials whether each block's output is rounded too: adds 2^-9 w o_b[c] for a block of weight w
 *  @param noise    [T,Hq,dh]
 *  False if memory ran out. Shape and ids have been checked. */
bool noise_of_rounding(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                       bool partials, double *noise);

#endif
