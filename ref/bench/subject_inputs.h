/**
 * @file subject_inputs.h
 * @brief What subject.c and subject_inputs.c share.
 */
#ifndef MSA_SUBJECT_INPUTS_H
#define MSA_SUBJECT_INPUTS_H

#include "subject.h"

/* Makes t->given: inputs as the reference takes them, rounded to what the kernel reads. */
msa_status subject_draw(subject *t);

/* Calls visit(t, page, x, n, to) for every block of a tensor of keys, x being its n floats. */
typedef msa_status visit_block(subject *t, int64_t page, float *x, int64_t n, void *to);
msa_status subject_each_block(subject *t, array_id a, visit_block *visit, void *to);

/* Whether the kernel reads or writes this as bf16. */
bool subject_is_bf16(const subject *t, array_id a);

#endif
