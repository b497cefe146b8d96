/**
 * @file trial.h
 * @brief Kernels on the CPU engine, one after the other on the same inputs, for what the engine counts and
 *        records on the way.
 */
#ifndef MSA_TRIAL_H
#define MSA_TRIAL_H

#include "../../cuda/host/msa_cuda.h"
#include "../../cuda/simt/counts.h"
#include "../judge/selections.h"

/** A shape, and the inputs of every stage. */
typedef struct trial {
    msa_shape shape;
    selection_kind kind;
    int64_t seed;
    msa_dtype out;
    const msa_device *engine;
    msa_arrays in, outputs; /**< where they lie on the engine */
    float *by_block;        /**< in.scores as msa_takes_scores_by_block() has them */
} trial;

/** Makes the inputs, O among them in type `out`. False if memory runs out, with nothing to free. */
bool trial_begin(trial *t, const msa_shape *s, selection_kind kind, int64_t seed, msa_dtype out);
void trial_end(trial *t);

/** Runs a kernel of the engine; simt_counts() and simt_events() then tell of it. An index kernel that cannot
 * choose writes its scores. @param ran the arrays that it read and wrote. ::MSA_ERR_UNSUPPORTED where it does
 * not take the shape. */
msa_status trial_run(const trial *t, const msa_kernel *kernel, msa_arrays *ran);

#endif
