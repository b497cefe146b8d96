/* What the Index Branch on tiles, screened or not, has in common: keys as factors, and rows scored in full. Each of two
 * bodies for itself. */
#ifndef MSA_INDEX_AMX_H
#define MSA_INDEX_AMX_H

#include "amx_kernels.h"
#include "panels.h"
#include "vector.h"

#define STRIP 64 /* rows whose products with a tile of keys are taken at once */
#define COLUMNS (STRIP / TILE_ROWS)
/* Keys that stay in the L2 cache while strips pass: 256 KB of 128 channels. On a Zen 4 256, 512, 2048 and 4096 take 1.00,
 * 1.01, 1.04 and 1.01 of the time. */
#define CHUNK 1024

/* Products of 16 keys and a strip, of bytes in int32 or of bf16 in float32: to [16][STRIP]. */
static inline void multiply_strip(tiles *t, const tile_rows *keys, const tile_rows *q, int steps, bool bytes,
                                  void *to)
{
#define MULTIPLY(c, b)                                                                                       \
    do {                                                                                                     \
        if (bytes)                                                                                           \
            tile_int8(t, c, 4, b);                                                                           \
        else                                                                                                 \
            tile_bf16(t, c, 4, b);                                                                           \
    } while (0)
    tile_zero(t, 0);
    tile_zero(t, 1);
    tile_zero(t, 2);
    tile_zero(t, 3);
    for (int step = 0; step < steps; step++) {
        tile_load(t, 4, keys + step, TILE_BYTES);
        tile_load(t, 5, q + step, TILE_BYTES);
        tile_load(t, 6, q + steps + step, TILE_BYTES);
        MULTIPLY(0, 5);
        MULTIPLY(1, 6);
        tile_load(t, 5, q + 2 * steps + step, TILE_BYTES);
        tile_load(t, 6, q + 3 * steps + step, TILE_BYTES);
        MULTIPLY(2, 5);
        MULTIPLY(3, 6);
    }
#undef MULTIPLY
    const int64_t row = STRIP * (int64_t)sizeof(float);
    tile_store(t, 0, to, row);
    tile_store(t, 1, (char *)to + TILE_BYTES, row);
    tile_store(t, 2, (char *)to + 2 * TILE_BYTES, row);
    tile_store(t, 3, (char *)to + 3 * TILE_BYTES, row);
}

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
