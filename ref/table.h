/**
 * @file table.h
 * @brief The table of implementations: every kernel of every stage, whoever wrote it.
 *
 * Tests, benchmarks and the command line go through this table, so that a new kernel reaches all of them
 * by one entry.
 */
#ifndef MSA_TABLE_H
#define MSA_TABLE_H

#include "msa.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Entry i of the table, stage by stage with the reference first; NULL past the end. */
const msa_kernel *msa_kernel_at(int i);

/** The kernel called "STAGE/NAME", or NULL. */
const msa_kernel *msa_find_kernel(const char *name);

/** The full set of a back end: its own kernels, and the reference's where it has none. NULL if there is no
 *  such back end here. */
const msa_ops *msa_backend(const char *name);

#ifdef __cplusplus
}
#endif
#endif
