/**
 * @file eager.h
 * @brief What Hugging Face's eager attention makes of bf16 tensors, rounding by rounding.
 */
#ifndef MSA_EAGER_H
#define MSA_EAGER_H

#include "../msa.h"

/** O [T,Hq,dh] over the selected blocks when each step is stored in bf16: the products Q K^T, the same times
 *  1/sqrt(dh), the softmax (taken in float32), and P V. Shape and ids have been checked.
 *  False if memory ran out. */
bool eager_attention(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                     float *o);

#endif
