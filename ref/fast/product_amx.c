/* How fast tiles multiply: what kernels on tiles are measured by. */
#include "amx_kernels.h"
#include "panels.h"

#define COLUMNS 4

/* 4 n products of tiles that no load waits for. */
void BODY(tile_products)(int64_t n)
{
    static const tile_rows factor;
    tile_rows sum;
    tiles t;
    tiles_begin(&t);
    tile_zero(&t, 0);
    tile_zero(&t, 1);
    tile_zero(&t, 2);
    tile_zero(&t, 3);
    tile_load(&t, 4, &factor, TILE_BYTES);
    tile_load(&t, 5, &factor, TILE_BYTES);
    for (int64_t a = 0; a < n; a++) {
        tile_bf16(&t, 0, 4, 5);
        tile_bf16(&t, 1, 4, 5);
        tile_bf16(&t, 2, 4, 5);
        tile_bf16(&t, 3, 4, 5);
    }
    tile_store(&t, 0, &sum, TILE_BYTES);
    tiles_end(&t);
}

/* Rows 16 i .. of C, columns 64 j ..: a row of tiles of A passes four columns of tiles of B, which stay in the cache. */
static void multiply(tiles *t, int64_t steps, const tile_rows *a, const tile_rows *b, float *c, int64_t n)
{
    tile_zero(t, 0);
    tile_zero(t, 1);
    tile_zero(t, 2);
    tile_zero(t, 3);
    for (int64_t step = 0; step < steps; step++) {
        tile_load(t, 4, a + step, TILE_BYTES);
        tile_load(t, 5, b + step, TILE_BYTES);
        tile_load(t, 6, b + steps + step, TILE_BYTES);
        tile_bf16(t, 0, 4, 5);
        tile_bf16(t, 1, 4, 6);
        tile_load(t, 5, b + 2 * steps + step, TILE_BYTES);
        tile_load(t, 6, b + 3 * steps + step, TILE_BYTES);
        tile_bf16(t, 2, 4, 5);
        tile_bf16(t, 3, 4, 6);
    }
    tile_store(t, 0, c, n * (int64_t)sizeof *c);
    tile_store(t, 1, c + 16, n * (int64_t)sizeof *c);
    tile_store(t, 2, c + 32, n * (int64_t)sizeof *c);
    tile_store(t, 3, c + 48, n * (int64_t)sizeof *c);
}

/* C [n,n] = A B, of bf16 in panels: left factors [n/16][n/32] and right ones; n a multiple of 64. */
void BODY(tile_matrix_product)(int64_t n, const tile_rows *a, const tile_rows *b, float *c)
{
    const int64_t steps = n / TILE_HALVES;
#pragma omp parallel num_threads(fast_threads())
    {
        tiles t;
        tiles_begin(&t);
#pragma omp for schedule(dynamic)
        for (int64_t j = 0; j < n / TILE_ROWS; j += COLUMNS)
            for (int64_t i = 0; i < n / TILE_ROWS; i++)
                multiply(&t, steps, a + i * steps, b + j * steps, c + i * TILE_ROWS * n + j * TILE_ROWS, n);
        tiles_end(&t);
    }
}
