/**
 * @file verdict.h
 * @brief Comparisons with a derived budget: what `msa check`, `msa bench` and the tests all judge by.
 *
 * Every comparison is written so that NaN fails, looks at each element as well as at the whole, and
 * reports how much of its budget was used: a check that uses 1% of it for years is a loose check.
 */
#ifndef MSA_VERDICT_H
#define MSA_VERDICT_H

#include "../stages.h"
#include "inputs.h"

/** A tensor [d0,d1,d2]; the last dimension is the row that shares a value scale. Unused ones are 1. */
typedef struct verdict_dims {
    int64_t d0, d1, d2;
} verdict_dims;

/** How far from the oracle is still right. An element may be off by
 *      relative * max |row| + absolute + 4 * max noise over the row,
 *  (4 noise: 4.7 standard deviations, or more), and the whole, in the L2 norm, by the same formula over norms
 *  (absolute times sqrt(n)), but with 2/sqrt(3) times the noise, 1.36 standard deviations: a sum over many
 *  elements has little luck. The errors of one row may come from few roundings, of at most 2 times the noise:
 *  that is allowed to a single row, and noise^2 (1 + 2/rows) in place of noise^2 to several. */
typedef struct verdict_budget {
    double relative;     /**< of the row's value scale */
    double absolute;     /**< what cancellation may leave where the exact value is zero */
    const double *noise; /**< of bf16 roundings, per element (noise.h), or NULL */
} verdict_budget;

/** The outcome of one comparison. */
typedef struct verdict {
    bool pass;
    double used; /**< largest share of a budget that was used, 1 = all; infinite for NaN */
    double relative_l2;
    int64_t n_bad; /**< elements over their budget */
    int64_t at[3]; /**< of the first such element (of the one that used most, if none failed) */
    double expected, found, allowed; /**< there */
    double error2, oracle2, noise2;  /**< sums over what was compared so far */
    long double noise4;              /**< of the squares of the rows' noise2, which may be beyond a double */
    int64_t n_elements;
} verdict;

/** Judges `found` against the oracle. An infinity must be met exactly; NaN never passes. */
verdict verdict_compare(verdict_dims n, const double *oracle, const float *found, verdict_budget budget);

/** The type in which a result is stored: its significant bits, and the exponent of its smallest normal
 * number. */
typedef struct verdict_store {
    int bits, min_exponent;
} verdict_store;

/** The same piece by piece: `v` begins as {0}, takes the rows [first, first + n.d0) of a tensor at a time,
 * and is closed with the budget of the last. `store` (NULL: float32) is the type that the results were
 * rounded to in the end: an element may be off by half of its spacing more, and the whole, in the L2 norm, by
 * as much as rounding the oracle itself takes, or by a rounding's root mean square where that is more. */
void verdict_add(verdict *v, int64_t first, verdict_dims n, const double *oracle, const float *found,
                 verdict_budget budget, const verdict_store *store);
void verdict_close(verdict *v, verdict_budget budget);
/** Whether all n values are of that type. */
bool verdict_is_stored(const float *x, size_t n, const verdict_store *store);

/** The outcome of judging a selection. */
typedef struct verdict_selection {
    bool pass;
    int64_t n_ids;   /**< ids in the oracle's selection */
    int64_t n_ties;  /**< of those, replaced by a block whose score differs by less than rounding can */
    int64_t n_wrong; /**< of those, replaced by a worse block; or rows that break the ids contract */
    double expected_ties; /**< how many float32 rounding makes on average of scores as close as these */
    int64_t query;   /**< the first wrong row, -1 if none */
    int group;
} verdict_selection;

/** Judges ids [Hkv,T,k] against scores recomputed in double.
 *  @param tolerance 0: exact, as on dyadic inputs. Otherwise blocks whose unscaled scores differ by at
 *      most tolerance * 2 di 2^-24 * max over the two of sum |q||k| may be swapped: 1 is float32
 *      accumulation.
 *  @param max_ties the share of the ids that may be swapped so, rounded up: 0.001 on random data; more
 *      where so many scores are closer than their rounding, as behind a channel that is large in every row
 *  Allocates; *ok is false if memory ran out. */
verdict_selection verdict_ids(const msa_shape *s, const float *qi, const float *ki, const int32_t *ids,
                              double tolerance, double max_ties, bool *ok);

/** What such a judgement knows of the visible blocks of one query of one group: `score` [B], the maximum over
 *  the block's visible keys of qi . ki, and `rounding` [B], how far float32 accumulation may move it, di
 * 2^-24 max sum |qi||ki|. @param qi,ki  of that query and from its sequence's first key on */
void verdict_score_blocks(const msa_shape *s, const float *qi, const float *ki, int64_t position,
                          double *score, double *rounding);

/** Whether an array is a float output of a stage: what the next functions are for. */
bool verdict_judges(array_id a);
verdict_dims verdict_dims_of(const msa_shape *s, array_id t);

/** What float32 arithmetic with float32 accumulation may lose, derived from the sizes and norms of the
 *  inputs (verdict.c explains). @param kl_weight as passed to the KL stage; of no effect on the others. */
verdict_budget verdict_float32(const msa_shape *s, const inputs *in, array_id t, double kl_weight);
/** The same for the KL loss, whose exact value is `kl`. */
verdict_budget verdict_float32_kl(const msa_shape *s, const inputs *in, double kl);

#define VERDICT_TEXT 256
/** "o: 12% of its budget" or "o[3,1,5]: expected 0.25, found nan, allowed 1e-06 (17 such)". */
void verdict_text(const char *what, const verdict *v, char text[VERDICT_TEXT]);

#endif
