/* Matrices laid out for tile products (amx.h): rows of bf16 into tiles of 16 rows or columns and 32 channels, what is
 * missing at an end filled with zeros. A panel is cleared, then takes its rows one by one. */
#ifndef MSA_PANELS_H
#define MSA_PANELS_H

#include "amx.h"
#include "fast.h"

/* Tiles side by side that hold d channels, or so many keys. */
static inline int steps_of(int d)
{
    return (d + TILE_HALVES - 1) / TILE_HALVES;
}

/* Row `row` of a left factor [16,d], tiles [steps_of(d)]. */
static inline void put_left(tile_rows *to, int row, const uint16_t *x, int d)
{
    for (int step = 0; step * TILE_HALVES < d; step++)
        memcpy(to[step].word[row], x + step * TILE_HALVES,
               (size_t)min_i64(TILE_HALVES, d - step * TILE_HALVES) * sizeof *x);
}

/* Its row is column `column` of a right factor [d,16], tiles [steps_of(d)]. */
static inline void put_right(tile_rows *to, int column, const uint16_t *x, int d)
{
    for (int c = 0; c < d; c += 2) {
        const uint32_t second = c + 1 < d ? x[c + 1] : 0;
        to[c / TILE_HALVES].word[c % TILE_HALVES / 2][column] = x[c] | second << 16;
    }
}

/* Its row is column `column` of a left factor [d,32]: tiles [steps_of(d)][2], 16 channels each. */
static inline void put_turned(tile_rows *to, int column, const uint16_t *x, int d)
{
    for (int c = 0; c < d; c++) {
        uint16_t *row = (uint16_t *)to[c / TILE_ROWS].word[c % TILE_ROWS];
        row[column] = x[c];
    }
}

#endif
