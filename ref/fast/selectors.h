/**
 * @file selectors.h
 * @brief The index kernels of selectors.def, which choose blocks by another rule than MSA's.
 */
#ifndef MSA_SELECTORS_H
#define MSA_SELECTORS_H

#include "../msa.h"

/** As entries of the table of kernels, of the back end ref; the name of the last is NULL. */
extern const msa_kernel index_selectors[];

#endif
