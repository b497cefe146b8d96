/* How fast tiles multiply: what kernels on tiles are measured by. */
#include "amx.h"
#include "amx_kernels.h"

#define DEEP 16 /* tiles of A side by side: two rows of these are 32 KB, for the first cache */
#define WIDE 16 /* columns of tiles of B: so many, as deep, are 256 KB, for the second */

/* In registers: no load is among the products. */
void BODY(products)(int64_t n, const tile_rows *factor, tile_rows *sum)
{
    tiles t;
    tiles_begin(&t);
    tile_zero(&t, 0);
    tile_zero(&t, 1);
    tile_zero(&t, 2);
    tile_zero(&t, 3);
    tile_load(&t, 4, factor, TILE_BYTES);
    tile_load(&t, 5, factor + 1, TILE_BYTES);
    tile_load(&t, 6, factor + 2, TILE_BYTES);
    tile_load(&t, 7, factor + 3, TILE_BYTES);
    for (int64_t i = 0; i < n; i++) {
        tile_bf16(&t, 0, 4, 6);
        tile_bf16(&t, 1, 4, 7);
        tile_bf16(&t, 2, 5, 6);
        tile_bf16(&t, 3, 5, 7);
    }
    tile_store(&t, 0, sum, TILE_BYTES);
    tile_store(&t, 1, sum + 1, TILE_BYTES);
    tile_store(&t, 2, sum + 2, TILE_BYTES);
    tile_store(&t, 3, sum + 3, TILE_BYTES);
    tiles_end(&t);
}

/* 32 x 32 of C += A B over `deep` tiles; a row of A, a column of B are `steps` tiles, a row of C n numbers. */
static void square(tiles *t, int64_t deep, int64_t steps, const tile_rows *a, const tile_rows *b, float *c,
                   int64_t n)
{
    const int64_t row = n * (int64_t)sizeof *c;
    float *below = c + n * TILE_ROWS;
    tile_load(t, 0, c, row);
    tile_load(t, 1, c + 16, row);
    tile_load(t, 2, below, row);
    tile_load(t, 3, below + 16, row);
    for (int64_t k = 0; k < deep; k++) {
        tile_load(t, 4, a + k, TILE_BYTES);
        tile_load(t, 5, a + steps + k, TILE_BYTES);
        tile_load(t, 6, b + k, TILE_BYTES);
        tile_load(t, 7, b + steps + k, TILE_BYTES);
        tile_bf16(t, 0, 4, 6);
        tile_bf16(t, 1, 4, 7);
        tile_bf16(t, 2, 5, 6);
        tile_bf16(t, 3, 5, 7);
    }
    tile_store(t, 0, c, row);
    tile_store(t, 1, c + 16, row);
    tile_store(t, 2, below, row);
    tile_store(t, 3, below + 16, row);
}

void BODY(matrices)(int64_t n, const tile_rows *a, const tile_rows *b, float *c)
{
    const int64_t steps = n / TILE_HALVES, side = n / TILE_ROWS;
#pragma omp parallel num_threads(fast_threads())
    {
        tiles t;
        tiles_begin(&t);
        for (int64_t k = 0; k < steps; k += DEEP)
#pragma omp for collapse(2)
            for (int64_t wide = 0; wide < side; wide += WIDE)
                for (int64_t i = 0; i < side; i += 2)
                    for (int64_t j = wide; j < min_i64(wide + WIDE, side); j += 2)
                        square(&t, min_i64(DEEP, steps - k), steps, a + i * steps + k, b + j * steps + k,
                               c + i * TILE_ROWS * n + j * TILE_ROWS, n);
        tiles_end(&t);
    }
}
