#ifndef STEPS_AMX_H
#define STEPS_AMX_H

#include <stdalign.h>
#include <stdbool.h>
#include <stdint.h>

/* What a tile holds. */
typedef struct step_tile {
    alignas(64) uint32_t word[16][16];
} step_tile;

/* Every tile instruction once: out[0] += a b of bf16, out[1] of bytes; out[2] is what a tile holds after
 * tile_zero(); out[3] are rows that lie `stride` bytes apart. */
typedef void amx_steps_fn(const step_tile *a, const step_tile *b, const void *spread, int64_t stride,
                          step_tile out[4]);
amx_steps_fn amx_steps_plain, amx_steps_tiles;
/* Whether its sums of bf16 have another order than tdpbf16ps. */
extern const bool amx_adds_pairs_plain, amx_adds_pairs_tiles;

#endif
