/**
 * @file layer.h
 * @brief What `msa layer` is asked for, reads and writes: layer.c has the command, layer_compute.c the layer.
 */
#ifndef MSA_LAYER_COMMAND_H
#define MSA_LAYER_COMMAND_H

#include "../checkpoint/checkpoint.h"
#include "cli.h"

/** What it writes. */
enum {
    OUT_Q,
    OUT_K,
    OUT_V,
    OUT_O,
    OUT_LSE,
    OUT_Y,
    OUT_RESIDUAL,
    OUT_QI,
    OUT_KI,
    OUT_IDS,
    OUT_INDEX_LSE,
    N_OUTPUTS
};

/** The KV cache. */
enum { PAST_K, PAST_V, PAST_KI, N_PAST };

typedef struct layer_request {
    const char *name, *dir, *hidden, *positions, *past, *out, *backend;
    int64_t layer, rot, index_rot; /**< -1: not given */
    bool residual, dump, exact;
    cli_list kernels;
} layer_request;

/** One layer of one checkpoint, everything that it reads and writes. */
typedef struct layer_run {
    layer_request q;
    cli_tensors t; /**< --ids, and the tensors of the attention once they are computed; their shape */
    checkpoint c;
    checkpoint_layer layer;
    npy_array hidden, positions;
    npy_array past[N_PAST]; /**< rows of earlier tokens; empty without --past */
    int32_t *pos;           /**< [T] */
    cli_plan plan;
    cli_output out[N_OUTPUTS];
    io_error notes[2]; /**< what was converted of the two files above */
} layer_run;

/** From the hidden states to y, into the outputs, which have their memory. */
int layer_compute(layer_run *r);

#endif
