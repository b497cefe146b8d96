/**
 * @file precision.h
 * @brief Which class of precision the output of another implementation meets.
 *
 * An implementation may round on its way to O: the weights P, the outputs of blocks, O itself, even the
 * logits. What it rounds cannot be seen from the type of the file; but each class has an error budget that
 * follows from the inputs, and the output is said to meet the tightest whose budget it keeps.
 */
#ifndef MSA_PRECISION_H
#define MSA_PRECISION_H

#include "foreign.h"
#include "../judge/verdict.h"

#define PRECISION_N_CLASSES 7
#define PRECISION_NAMES                                                                                      \
    "float32, float16-output, bf16-weights, bf16-partials, bf16-output, bf16-partials-output, bf16-logits"

typedef struct precision_request {
    const char *name; /**< the class to be met; NULL: any */
    double
        tolerance; /**< an error relative to the largest value of a row in place of classes; negative: none */
} precision_request;

typedef struct precision_result {
    bool pass;
    const char *name; /**< the tightest class that is met; of none, the nearest */
    double used;      /**< share of its budget */
    verdict
        verdict[PRECISION_N_CLASSES]; /**< of each class, in the order of their names; or of the tolerance */
    double eager2;                    /**< squared distance to Hugging Face's eager attention in bf16 */
    int64_t n_skipped;                /**< queries without valid ids, which are not judged */
} precision_result;

/** Makes sure that the request names a class. */
int precision_check(const char *command, const precision_request *request);
/** Judges t's O against the reference, given the ids that go with it; NULL: that of dense attention, whose k is
 *  the number of all blocks. */
int precision_judge(const char *command, const precision_request *request, const cli_tensors *t,
                    const foreign_ids *theirs, precision_result *result);
void precision_print(const precision_request *request, int64_t n_queries, const precision_result *result);

#endif
