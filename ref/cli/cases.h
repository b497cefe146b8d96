/**
 * @file cases.h
 * @brief Kernels and shapes as `msa check` and `msa bench` are given them on the command line.
 */
#ifndef MSA_CASES_H
#define MSA_CASES_H

#include "../../cuda/host/msa_cuda.h"
#include "../judge/selections.h"
#include "cli.h"

/** Whether a word of the command line, STAGE/NAME or STAGE, means this kernel. */
bool case_means(const char *word, const msa_kernel *kernel);
/** Makes sure that every word means some kernel. */
int case_check_names(const char *command, const cli_list *names);

/** The heads of MiniMax-M3 and a prompt of 4096 tokens; the engine runs a thousandth as fast, and gets less. */
msa_shape case_usual_shape(const msa_device *device);

/** Reads the words that name a shape, "T=13 S=45 heads=4:2 width=16:8 block=8 topk=3", over what `s` holds
 *  already: 0 where a word must not be missing. A last word seqs=1 changes nothing. */
int case_read_shape(const char *command, const char *text, msa_shape *s);

/** Makes sure that the shape is valid and small enough for the engine and the reference's judgement, which
 *  take hours for tensors of more than 2^26 elements. */
int case_check_shape(const char *command, const char *text, const msa_shape *s);

/** Reads the NAME of --distribution. */
int case_read_distribution(const char *command, const char *name, selection_kind *kind);

#endif
