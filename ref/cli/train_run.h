/**
 * @file train_run.h
 * @brief What `msa train` was told, and doing it.
 */
#ifndef MSA_TRAIN_RUN_H
#define MSA_TRAIN_RUN_H

#include "../model/train.h"
#include "curve.h"
#include "ranks.h"

typedef struct train_job {
    const char *text_path, *out, *attention, *backend, *selector, *precision;
    int64_t save_every;
    train_config train;
    model_config shape;
    bool task;
    msa_ops ops;
    cli_ranks ranks;
    char state[4096]; /**< where its states are saved */
    curve curve;
} train_job;

/** Trains, alone or on ranks, from the last saved state on if there is one. Returns the program's exit status. */
int train_run(const char *command, train_job *j);

#endif
