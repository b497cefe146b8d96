/**
 * @file access.h
 * @brief Ordinary loads and stores of an answer that is a kernel, which the engine would neither see nor count.
 *
 * The answer, and nothing else, is compiled with -fsanitize=thread: each of its loads and stores calls a function,
 * and access.c is who answers, not ThreadSanitizer. What a named helper (ld_global, st_shared, red_add ...) has just
 * told the engine may pass. Another access to an array or to shared memory ends the answer, with its line and with
 * what to write. Atomics are counted here.
 */
#ifndef MSA_ACCESS_H
#define MSA_ACCESS_H

#include "../../cuda/simt/counts.h"

/** Watches from now on; called in the answer's process, near the place that calls the answer's host code. */
void access_begin(void);
/** Adds the atomics since then: each has read its number, and written it unless it was a load. */
void access_count(simt_counters *n);

#endif
