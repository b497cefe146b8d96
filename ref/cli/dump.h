/**
 * @file dump.h
 * @brief Maps of a selection for other commands than `msa dump`, and the captured layers that it reads.
 */
#ifndef MSA_DUMP_H
#define MSA_DUMP_H

#include "cli.h"

/** What to say of the maps. */
typedef struct dump_subject {
    const char *out, *source; /**< the directory that receives them; what the tensors are of */
    int layer;
    int argc;
    char **argv; /**< the command line */
} dump_subject;

/** The tensors of several layers, of which one at a time is in memory: DIR/layerNN/{q,k,qi,ki}.npy. */
typedef struct dump_captured {
    const char *dir;
    cli_tensors t; /**< block and topk of all; tensors and shape of the layer that was read last */
    char path[4][4096];
} dump_captured;

/** Reads a layer, whose shape is that of the layers before it. What was converted is said. */
int dump_read_captured(const char *command, dump_captured *c, int layer);

/** Draws the selection of the tensors q, k, qi and ki, and what dense attention would have read: pictures, arrays
 *  and a page, in a set of their own. */
int dump_layer(const char *command, const dump_subject *subject, const cli_tensors *t);

#endif
