/**
 * @file sample.h
 * @brief The verdict on a kernel at a size where the reference would take hours: the whole kernel runs, and
 *        then some of its queries (and keys, for gradients) are held against the reference, each as a call of
 *        its own. Where there is time all of them are.
 */
#ifndef MSA_SAMPLE_H
#define MSA_SAMPLE_H

#include "subject.h"
#include "../judge/verdict.h"

typedef struct sample_verdict {
    bool pass, no_memory;
    double used; /**< largest share of a budget */
    int64_t n_judged, n_queries;
    int64_t n_ids, n_ties;
    char text[VERDICT_TEXT]; /**< what failed first */
} sample_verdict;

/** Runs the kernel on poisoned outputs and judges what it wrote. Besides the sample, every element of every
 *  output must have been written and be no NaN, every row of ids valid, and reverse is compared as a whole.
 */
sample_verdict sample_judge(subject *t);

#endif
