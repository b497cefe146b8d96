/* What the kernels on tiles did, counted in the body without tiles (amx.h). */
#ifndef MSA_AMX_COUNTS_H
#define MSA_AMX_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tile_counts {
    int64_t products, loads, stores; /* of tiles: a load or a store moves 1024 bytes */
    int64_t exponentials;            /* vectors of 16 weights, in walk_amx.h */
    int64_t shrinks;                 /* of a column's outputs, where a maximum was raised */
} tile_counts;

/* What a thread has done. */
void amx_add_counts(const tile_counts *n);
/* What all have done since this was called last. Nobody is to be at work meanwhile. */
tile_counts amx_take_counts(void);
/* For tests, and for whoever wants counts: which body is to run from now on. */
void amx_choose(bool tiles);

#endif
