/**
 * @file noise.h
 * @brief How far a bf16 kernel's roundings may move a row of O: the scale of its error budget.
 */
#ifndef MSA_NOISE_H
#define MSA_NOISE_H

#include "../msa.h"

/** Rounding each weight P by half a unit of bf16 moves o[c] by at most 2^-9 p v[c], each with a sign of its
 *  own; added up as a random walk that is noise[c] = 2^-9 sqrt(sum (p v[c])^2), sqrt(3) standard deviations.
 *  @param ids      NULL: dense attention
 *  @param partials whether each block's output is rounded too: adds 2^-9 w o_b[c] for a block of weight w
 *  @param noise    [T,Hq,dh]
 *  False if memory ran out. Shape and ids have been checked. */
bool noise_of_rounding(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                       bool partials, double *noise);

#endif
