/**
 * @file copy8.h
 * @brief The 8-bit copy of a call's index keys in memory of its own, for whoever hands one to a kernel.
 */
#ifndef MSA_COPY8_H
#define MSA_COPY8_H

#include "../stages.h"

/** Codes of a call, p NULL where its keys lie one after the other, and each of its numbers. */
int64_t copy8_codes(const msa_shape *s, const msa_pages *p);
int64_t copy8_numbers(const msa_shape *s, const msa_pages *p);

/** Room for a copy, zeros; its numbers are one allocation, which `scale` starts. Codes are NULL if memory runs out. */
msa_index8 copy8_room(const msa_shape *s, const msa_pages *p);
/** That of all complete blocks of ki. */
msa_index8 copy8_new(const msa_shape *s, const msa_pages *p, const float *ki);
/** Whether two copies of a call are the same: reach and error may be neighbouring floats. */
bool copy8_same(const msa_shape *s, const msa_pages *p, const msa_index8 *x, const msa_index8 *y);
void copy8_free(msa_index8 *copy);

#endif
