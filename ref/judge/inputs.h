/**
 * @file inputs.h
 * @brief Replayable inputs for verdicts: shapes that are not multiples of anything, tensors that do not
 * hide errors.
 *
 * Values in [0.5, 1] give a nearly flat softmax that lets a broken kernel pass; so these are zero-mean,
 * peaked, tied, huge or constant. The same seed gives the same bits on every machine: no libm is used.
 */
#ifndef MSA_INPUTS_H
#define MSA_INPUTS_H

#include "../msa.h"

/** SplitMix64: any seed is a good one. */
typedef struct inputs_rng {
    uint64_t state;
} inputs_rng;

uint64_t inputs_u64(inputs_rng *rng);
/** Uniform in 0 .. n-1. */
int64_t inputs_below(inputs_rng *rng, int64_t n);
/** Zero mean, unit variance, bell-shaped, within [-6, 6]. */
float inputs_normal(inputs_rng *rng);

typedef enum inputs_pattern {
    INPUTS_NORMAL,   /**< unit normal everywhere */
    INPUTS_PEAKED,   /**< logits spread by about 12: a few keys take all */
    INPUTS_DISTINCT, /**< V row j encodes j, so that a wrong key or weight shows in every channel */
    INPUTS_DYADIC,   /**< small integers: every score is exact in float32, no swap of ids is allowed */
    INPUTS_TIES,     /**< dyadic, with few distinct index keys: whole blocks tie */
    INPUTS_LARGE,    /**< logits of about 1000: exp without a subtracted maximum overflows */
    INPUTS_CONSTANT, /**< all ones: flat softmax, everything ties */
    INPUTS_MASSIVE,  /**< a channel of about 100 in all queries and -100 in all keys: what rows of dQ and dQi
                          have of it cancels */
    INPUTS_N_PATTERNS
} inputs_pattern;

const char *inputs_pattern_name(inputs_pattern p);
/** Whether the pattern's index scores are exact in float32. */
bool inputs_is_exact(inputs_pattern p);

/** One set of inputs for every stage, each tensor in an allocation of its own. */
typedef struct inputs {
    float *q, *k, *v, *qi, *ki, *dout;
    inputs_pattern pattern;
} inputs;

/** The same inputs rounded to bf16. False if memory runs out. */
bool inputs_rounded(inputs *out, const inputs *in, const msa_shape *s);

/** Padding is NaN. False if memory runs out. */
bool inputs_new(inputs *in, const msa_shape *s, inputs_pattern p, uint64_t seed);
void inputs_free(inputs *in);
/** The index keys, but others in the block where a sequence ends, which is before no query's own: nobody may
 *  choose otherwise for them. NULL if memory runs out; the caller frees them. */
float *inputs_other_ends(const msa_shape *s, const float *ki);
/** As the arrays of a call, without any output. */
msa_arrays inputs_arrays(const inputs *in);

/** The ragged shapes that every implementation is judged on: inputs_n_shapes small ones, up to
 *  inputs_n_all_shapes such as the kernels of cuda/ take, the padded ones last. */
extern const msa_shape inputs_shapes[];
extern const int inputs_n_shapes, inputs_n_all_shapes, inputs_first_padded;

#define INPUTS_NAME 96
/** "T=13 S=45 heads=4:2 width=16:8 block=8 topk=3 seqs=1": the parameters are the case's name. */
void inputs_shape_name(const msa_shape *s, char name[INPUTS_NAME]);

#endif
