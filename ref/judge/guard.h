/**
 * @file guard.h
 * @brief Buffers that tell on their user: poisoned before, fenced on both sides.
 */
#ifndef MSA_GUARD_H
#define MSA_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct guard {
    void *data;   /**< 16-byte aligned */
    size_t bytes; /**< a multiple of 4 */
} guard;

/** A buffer of `bytes`, rounded up to a multiple of 4, poisoned. False if memory runs out. */
bool guard_new(guard *g, size_t bytes);
void guard_free(guard *g);
/** Fills data with a NaN that no arithmetic makes; as an int32 it is no valid id either. */
void guard_poison(guard *g);
/** False if a byte of either fence has changed. */
bool guard_intact(const guard *g);
/** The first 4-byte element that still holds the poison, or -1: every element must be written. */
int64_t guard_unwritten(const guard *g);

#endif
