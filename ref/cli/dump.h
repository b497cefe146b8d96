/**
 * @file dump.h
 * @brief Maps of a selection for other commands than `msa dump`.
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

/** Draws the selection of the tensors q, k, qi and ki, and what dense attention would have read: pictures, arrays
 *  and a page, in a set of their own. */
int dump_layer(const char *command, const dump_subject *subject, const cli_tensors *t);

#endif
