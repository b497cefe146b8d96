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

/* Row `row` of a left factor [16,d], tiles [steps_of(d)]. A whole line is one move: of a length that varies gcc makes a
 * loop of words. */
static inline void put_left(tile_rows *to, int row, const uint16_t *x, int d)
{
    int c = 0;
    for (; c + TILE_HALVES <= d; c += TILE_HALVES)
        memcpy(to[c / TILE_HALVES].word[row], x + c, TILE_BYTES);
    if (c < d)
        memcpy(to[c / TILE_HALVES].word[row], x + c, (size_t)(d - c) * sizeof *x);
}

/* Its row is column `column` of a right factor [d,16], tiles [steps_of(d)]. */
static inline void put_right(tile_rows *to, int column, const uint16_t *x, int d)
{
    for (int c = 0; c < d; c += 2) {
        const uint32_t second = c + 1 < d ? x[c + 1] : 0;
        to[c / TILE_HALVES].word[c % TILE_HALVES / 2][column] = x[c] | second << 16;
    }
}

/* The upper halves of floats: what they are in bf16, cut off. */
static inline void upper_halves(uint16_t *to, const float *x, int n)
{
    for (int c = 0; c < n; c++)
        to[c] = (uint16_t)((uint32_t)to_bits(x[c]) >> 16);
}

typedef uint16_t half_lanes __attribute__((vector_size(LANES * sizeof(uint16_t))));

/* Channels c .. c+15 of a row as words; 0 where there is none. */
static inline int_lanes widened(const uint16_t *x, int c, int d)
{
    half_lanes y = {0};
    if (x && c + LANES <= d)
        memcpy(&y, x + c, sizeof y);
    else
        for (int l = 0; x && c + l < d; l++)
            y[l] = x[c + l];
    return __builtin_convertvector(y, int_lanes);
}

/* Rows of a left factor [16,d] become the columns of a right one [d,16]. */
static inline void left_to_right(tile_rows *x, int steps)
{
    for (int step = 0; step < steps; step++) {
        int_lanes words[16];
        memcpy(words, &x[step], sizeof words);
        transpose(words);
        memcpy(&x[step], words, sizeof words);
    }
}

/* Channels c .. c+15 of rows x[0 .. 15] and y[0 .. 15], each of d channels or NULL: a right factor [32,16] whose rows
 * are x[0] y[0] x[1] y[1] .. */
static inline void put_beside(tile_rows *to, const uint16_t *const x[TILE_ROWS],
                              const uint16_t *const y[TILE_ROWS], int c, int d)
{
    for (int row = 0; row < TILE_ROWS; row++) {
        const int_lanes pairs = widened(x[row], c, d) | widened(y[row], c, d) << 16;
        memcpy(to->word[row], &pairs, sizeof pairs);
    }
}

/* Rows x[0 .. 31], each of d channels or NULL, are the columns of a left factor [d,32]: tiles [steps_of(d)][2] of 16
 * channels. Two rows interleaved are a row of a right factor; that, turned, is what is wanted. */
static inline void put_turned(tile_rows *to, const uint16_t *const x[TILE_HALVES], int d)
{
    for (int c = 0; c < steps_of(d) * TILE_HALVES; c += TILE_ROWS, to++) {
        int_lanes pairs[16];
        for (int j = 0; j < 16; j++)
            pairs[j] = widened(x[2 * j], c, d) | widened(x[2 * j + 1], c, d) << 16;
        transpose(pairs);
        memcpy(to, pairs, sizeof pairs);
    }
}

#endif
