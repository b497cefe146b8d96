/**
 * @file table.h
 * @brief The table of implementations: every kernel of every stage, whoever wrote it, and every selector.
 *
 * Tests, benchmarks and the command line go through this table, so that a new kernel reaches all of them
 * by one entry. The back ends are ref, fast, simt (the kernels of cuda/ on the CPU engine) and cuda.
 */
#ifndef MSA_TABLE_H
#define MSA_TABLE_H

#include "../../cuda/host/msa_cuda.h"

/** Entry i of the table, stage by stage with the reference first; NULL past the end. A kernel of cuda/ is one
 *  entry a back end. */
const msa_kernel *table_at(int i);

/** The kernel called "STAGE/NAME" on that back end, or, where it has none or is NULL, on the first that does;
 *  NULL if there is none. */
const msa_kernel *table_find(const char *name, const char *backend);

/** The kernel n rungs below on its stage's ladder, of the same back end; NULL if there are no more. */
const msa_kernel *table_below(const msa_kernel *kernel, int n);

/** NULL, or why the kernel "STAGE/NAME" is here on other back ends but not on cuda, where its compiler spoils it
 *  (cuda/nvcc.sh) or the GPU lacks its instructions: one line. */
const char *table_dropped(const char *name);

/** Fills `ops` with the best kernels of a back end, and the reference where it has none. False if this build
 *  has no such back end. */
bool table_ops(const char *backend, msa_ops *ops);

/** "float32" or "bf16": the type of the tensors that a table's attention multiplies. */
const char *table_precision(const msa_ops *ops);
/** Replaces a back end's table by its table of that type. False if it has none. */
bool table_prefer_precision(const char *backend, const char *precision, msa_ops *ops);

/** Whether it is a kernel of a device that screens by an 8-bit copy of the index keys, where a call brings one. */
bool table_screens(const msa_kernel *kernel);

/** Replaces those whose bits may differ from run to run by those that add in a fixed order. */
void table_prefer_same_bits(const char *backend, msa_ops *ops);

/** The names of the back ends of this build: "ref, fast or simt". */
const char *table_backends(void);

/** The device of a back end; NULL where its kernels are functions on the host's arrays. */
const msa_device *table_device(const char *backend);

/** NULL, or why the back end cannot run here: one line. */
const char *table_missing(const char *backend);

/** What a kernel's ::MSA_ERR_DEVICE was about. */
const char *table_trouble(const msa_kernel *kernel);
/** Whether a run that ended so, of a shape that the kernel takes, lacked memory: that is no verdict on it. */
bool table_no_memory(const msa_kernel *kernel, msa_status status);

#endif
