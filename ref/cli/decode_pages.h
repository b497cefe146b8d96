/**
 * @file decode_pages.h
 * @brief Checks of the pages that `msa decode` reads.
 */
#ifndef MSA_DECODE_PAGES_H
#define MSA_DECODE_PAGES_H

#include "cli.h"

/** Names the first length or page that msa_check_pages() would refuse; -1 is no page where a row has ended. */
int pages_check(const char *command, const cli_tensors *t, const msa_pages *p);
/** [P,Hkv,page,dh] to [P,page,Hkv,dh]. */
int pages_turn(const char *command, const msa_shape *s, const msa_pages *p, npy_array *x);
/** The tokens of the requests have to be finite; what the rest of a cache holds, nobody has written. Of pages that were
 *  turned, or stay in their files. */
int pages_check_values(const char *command, const cli_tensors *t, const msa_pages *p);

#endif
