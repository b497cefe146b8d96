/* What the Index Branch on tiles, screened or not, has in common: keys as factors, and rows scored in full. Each of two
 * bodies for itself. */
#ifndef MSA_INDEX_AMX_H
#define MSA_INDEX_AMX_H

#include "amx_kernels.h"
#include "panels.h"
#include "vector.h"

static inline void floats_of(const uint16_t *x, int d, float *to)
{
    for (int c = 0; c < d; c++)
        to[c] = from_bits((int32_t)((uint32_t)x[c] << 16));
}

static inline bool any_of(int_lanes x)
{
    int32_t any = 0;
    for (int l = 0; l < LANES; l++)
        any |= x[l];
    return any != 0;
}

/* Of the longest sequence: tiles [S/16][steps]. */
static inline int64_t index_key_tiles(const msa_shape *s)
{
    return (longest_kv(s) + TILE_ROWS - 1) / TILE_ROWS * steps_of(s->d_index);
}

/* Index keys of a sequence, as left factors. */
void BODY(pack_index_keys)(const msa_shape *s, const msa_seq *seq, const uint16_t *ki, tile_rows *to);

/* The ids, and the scores if they are asked for, of n rows of a sequence, query row / groups of group row % groups:
 * rows[n], ascending, or NULL: the first n. */
void BODY(index_rows)(const msa_shape *s, const msa_seq *seq, const msa_arrays *a, const tile_rows *keys,
                      const int64_t *rows, int64_t n, void *work);
size_t BODY_WORKSPACE(index_rows)(const msa_shape *s);

#endif
