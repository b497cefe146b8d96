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

#define PRECISION_NAMES                                                                                      \
    "float32, float16-output, bf16-weights, bf16-partials, bf16-output, bf16-partials-output, bf16-logits"

typedef struct precision_request {
    const char *name; /**< the class to be met; NULL: any */
    double
        tolerance; /**< an error relative to the largest value of a row in place of classes; negative: none */
} precision_request;

int precision_check(const char *command, const precision_request *request);

/** Judges t's O, given the ids that go with it, prints the verdict and sets *pass. */
int precision_judge(const char *command, const precision_request *request, const cli_tensors *t,
                    const foreign_ids *theirs, bool *pass);

#endif
