/* Arrays of floats that are bf16. */
#ifndef MSA_BF16_ARRAYS_H
#define MSA_BF16_ARRAYS_H

#include <stdlib.h>

#include "msa.h"

/* A copy of x [n] rounded to bf16; NULL if memory runs out. */
static inline float *bf16_copy(const float *x, int64_t n)
{
    float *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; y && i < n; i++)
        y[i] = msa_bf16(x[i]);
    return y;
}

#endif
