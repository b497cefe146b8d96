/* In the body that this is compiled for: what test_amx compares. */
#include "../../ref/fast/amx.h"
#include "steps_amx.h"

const bool BODY(amx_adds_pairs) = ADDS_PAIRS;

void BODY(amx_steps)(const step_tile *a, const step_tile *b, const void *spread, int64_t stride,
                     step_tile out[4])
{
    tiles t;
    tiles_begin(&t);
    tile_load(&t, 0, &out[0], TILE_BYTES);
    tile_load(&t, 1, &out[1], TILE_BYTES);
    tile_load(&t, 5, a, TILE_BYTES);
    tile_load(&t, 6, b, TILE_BYTES);
    tile_bf16(&t, 0, 5, 6);
    tile_int8(&t, 1, 5, 6);
    tile_load(&t, 2, a, TILE_BYTES);
    tile_zero(&t, 2);
    tile_load(&t, 3, spread, stride);
    tile_store(&t, 0, &out[0], TILE_BYTES);
    tile_store(&t, 1, &out[1], TILE_BYTES);
    tile_store(&t, 2, &out[2], TILE_BYTES);
    tile_store(&t, 3, &out[3], TILE_BYTES);
    tiles_end(&t);
}
