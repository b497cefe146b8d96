/* Screening by 8-bit index keys (../index8.c), in a prefill and in a step: queries and keys as factors of integer
 * products, and bounds in float32.
 *
 * A row is brought to a length below 1/2 by a power of two. Then only keys can make something overflow, which leaves a
 * bound that rules out nothing, or vanish, for which there is TINY. */
#ifndef MSA_SCREEN_AMX_H
#define MSA_SCREEN_AMX_H

#include <float.h>

#include "exact.h"
#include "panels.h"
#include "screen.h"

#define TINY 0x1p-140f
#define ROUNDINGS 0x1.00001p0f /* eight of eps */

/* Tiles side by side that hold d codes. */
static inline int steps8_of(int d)
{
    return (d + TILE_BYTES - 1) / TILE_BYTES;
}

/* Codes of a row are column n of a right factor, tiles [steps8_of(d)]. */
static inline void put_codes(tile_rows *to, int64_t n, const int8_t *codes, int d)
{
    for (int c = 0; c < d; c += 4)
        memcpy(&to[c / TILE_BYTES].word[c % TILE_BYTES / 4][n], codes + c, (size_t)min_i64(4, d - c));
}

/* Codes of a key are row `row` of a left factor. */
static inline void put_key_codes(tile_rows *to, int64_t row, const int8_t *codes, int d)
{
    for (int c = 0; c < d; c += TILE_BYTES)
        memcpy(to[c / TILE_BYTES].word[row], codes + c, (size_t)min_i64(TILE_BYTES, d - c));
}

/* What rows bring to their bounds, lane by lane; rows that are none bring zeros. */
typedef struct screened {
    float *step, *norm, *rest;
} screened;

static inline screened screened_take(int64_t rows, arena *a)
{
    screened x;
    x.step = arena_take(a, rows, sizeof *x.step);
    x.norm = arena_take(a, rows, sizeof *x.norm);
    x.rest = arena_take(a, rows, sizeof *x.rest);
    return x;
}

/* Row `row`, its query q [d]; codes [n_codes,d] and room [d] are written. */
static inline void screened_row(screened x, int64_t row, const float *q, int d, int n_codes, int8_t *codes,
                                double *room)
{
    const msa_index8_query y = msa_index8_round(q, d, n_codes, codes, room);
    int exponent = 0;
    if (isfinite(y.norm))
        frexpf(y.norm, &exponent);
    x.step[row] = ldexpf(y.step, -exponent - 1);
    x.norm[row] = ldexpf(y.norm, -exponent - 1) * ROUNDINGS;
    x.rest[row] = ldexpf(y.rest, -exponent - 1) * ROUNDINGS;
}

/* What a row's length is multiplied with in eps, rounded up: E and what float32 rounds. */
static inline float bound_of(float reach, float error, int d)
{
    const double sum = (double)reach + (double)error;
    return nextafterf((float)((double)error + index8_slack(d) * sum), INFINITY);
}

/* Bounds of the rows from `row` on whose largest integer product with a block is `best`. */
static inline void bounds_of(screened x, int64_t row, int_lanes best, float scale, float reach, float bound,
                             lanes *lower, lanes *upper)
{
    const lanes score = __builtin_convertvector(best, lanes) * load(x.step + row) * scale;
    const lanes eps = load(x.rest + row) * reach + load(x.norm + row) * bound + TINY;
    *lower = score - eps;
    *upper = score + eps;
}

/* Channels of which a sum of products of codes fits in 32 bits, 2^17 127^2 < 2^31: wider rows are scored in full. */
#define WIDEST (1 << 17)

/* Whether products of a row with keys of such least magnitude may vanish in float32, or on tiles. */
static inline bool may_vanish(const fitted *fit, float least)
{
    return fit->least < FLT_MIN || fit->least * least < FLT_MIN;
}

#endif
