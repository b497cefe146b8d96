/**
 * @file judge.h
 * @brief One kernel against the reference: run in guarded buffers, then a verdict on every output.
 */
#ifndef MSA_JUDGE_H
#define MSA_JUDGE_H

#include "../msa_index8.h"
#include "inputs.h"
#include "verdict.h"

typedef enum judge_outcome {
    JUDGE_PASS,
    JUDGE_FAIL,
    JUDGE_UNSUPPORTED, /**< the kernel does not take this shape: a verdict of its own, never a silent pass */
    JUDGE_NO_MEMORY
} judge_outcome;

typedef struct judge_report {
    judge_outcome outcome;
    double used;             /**< the largest share of any output's budget */
    int64_t n_ids, n_ties;   /**< of the index stage */
    msa_screening screening; /**< by 8-bit index keys, in the last call */
    char text[VERDICT_TEXT]; /**< what failed, or the output that used most of its budget */
} judge_report;

/** Judges kernel `k` on one set of inputs. The reference is its oracle, so judging the reference itself
 *  only says that it repeats. Stages that take ids get the reference's selection, three synthetic ones
 *  drawn from `seed`, and (backward, KL) full support. An index with a rule of its own is held to the
 *  scores that it gives. */
judge_report judge_kernel(const msa_kernel *k, const msa_shape *s, const inputs *in, uint64_t seed);
/** The same with an 8-bit copy of the index keys in every call, of a kernel that screens by it (table_screens). */
judge_report judge_screened(const msa_kernel *k, const msa_shape *s, const inputs *in, uint64_t seed);

#endif
