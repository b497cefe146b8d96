/**
 * @file noise.h
 * @brief How far a bf16 kernel's roundings move a row of O: the scale of its error budget.
 */
#ifndef MSA_NOISE_H
#define MSA_NOISE_H

#include "../stages.h"
#include "inputs.h"

#define NOISE_ROUNDING 0x1p-9 /**< of bf16, relative; above its root mean square, see below */

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

/** Squares of what roundings with a unit of 1 would do to each element of O, cause by cause: times the square
 * of the unit, 2^-9 for bf16, they add up. [T,Hq,dh] each; all but the first may be NULL. */
typedef struct noise_squares {
    double *weights;  /**< of P: sum (p v[c])^2 */
    double *partials; /**< of each block's output: sum over the blocks of (sum p v[c])^2 */
    double *logits; /**< of the scaled logits s, each of which moves its weight by p ds and, since weights sum
                       to 1, all others against it: sum (p s (v[c] - o[c]))^2 */
} noise_squares;
bool noise_by_cause(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                    noise_squares to);

/** The same for the gradients of the Main Branch, whose products take P and dS in bf16:
 *      dv: 2^-9 sqrt(sum (P dO[c])^2) over the queries and heads of a key
 *      dk: 2^-9 sqrt(sum (dS Q[c])^2 / dh)     dq: 2^-9 sqrt(sum (dS K[c])^2 / dh) over the keys of a query
 *  @param in q, k, v, ids and dout
 *  @param precision below MSA_BF16_WEIGHTS nothing of this; MSA_BF16_PARTIALS: each block's part of dq is
 * rounded too, which adds 2^-9 of it
 *  @param rounded_o whether the kernel is given O in bf16: delta = dO . O then errs by
 *      e = 2^-9 sqrt(sum (dO[c] O[c])^2) in all of a row's dS = P (dP - delta): adds e sum P K[c] to dq and,
 * for each query and head, e P Q[c] to dk, both over sqrt(dh)
 *  @param dq,dk,dv  as the gradients */
bool noise_of_backward(const msa_shape *s, const msa_arrays *in, msa_precision precision, bool rounded_o,
                       double *dq, double *dk, double *dv);

/** And for the selector's, where u - t is in bf16: with f = weight / (sqrt(di) T Hkv)
 *      dqi: 2^-9 f sqrt(sum ((u - t) Ki[c])^2)     dki: 2^-9 f sqrt(sum ((u - t) Qi[c])^2)
 *  Where the KL loss is a mean over more queries than these, `weight` is to carry the ratio. */
bool noise_of_kl(const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,
                 const int32_t *ids, double weight, double *dqi, double *dki);

/** All of that which `noise` has room for: of O, dQ dK dV (O not rounded) and dQi dKi; the others are NULL.
 */
bool noise_of(const msa_shape *s, const inputs *in, const int32_t *ids, msa_precision precision,
              double kl_weight, double *const noise[ARRAY_N]);

#endif
