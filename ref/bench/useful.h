/**
 * @file useful.h
 * @brief What a timed run had to do, for its rates.
 */
#ifndef MSA_USEFUL_H
#define MSA_USEFUL_H

#include "subject.h"

/** Floating-point operations on visible pairs that are attended or scored; 0 of a stage without products.
 *  @param ids the selection that the kernel took or left; NULL if it has none */
double useful_flops(const subject *t, const int32_t *ids);
/** Bytes of its arrays, of keys and values those of blocks that somebody selected. */
double moved_bytes(const subject *t, const int32_t *ids);
/** The ids that the kernel took or left; NULL if it has none. The caller frees them. */
msa_status useful_ids(const subject *t, int32_t **ids);

#endif
