/**
 * @file unit.h
 * @brief The machine of the exercises on tiles: eight tiles, and vectors beside them, in the judge's process.
 *
 * A tile holds 16 rows of 64 bytes. Keys, queries and values are bf16 and lie where only the machine reaches them: an
 * answer says what is to be loaded, multiplied and kept, and the judge does it (ref/fast/amx.h) and counts. Logits are
 * turned, as in ref/fast: S^T = K Q^T has a key in each row and a column for each query row; O^T = V^T P^T has a
 * channel in each row.
 */
#ifndef MSA_EXERCISE_UNIT_H
#define MSA_EXERCISE_UNIT_H

#include "exercise.h"

enum {
    UNIT_ROWS = 16, /**< rows of a tile, and its columns of 4 bytes */
    UNIT_STEP = 32, /**< channels, or keys, that a product adds up */
    UNIT_TILES = 8,
    UNIT_PANELS = 4
};

/* ---- Queries: a panel holds 16 of their rows as the columns of right factors. This is not scored. -------------- */

/** Column `column` of panel `panel` becomes head `head` of query `query`. Column 0 begins a panel anew: it empties the
 *  others. */
void unit_put(int panel, int column, int64_t query, int head);

/* ---- Tiles, 0 to 7 --------------------------------------------------------------------------------------------- */

void unit_zero(int tile);
void unit_product(int sum, int left, int right); /**< sum += left right */
/** Keys `key` .. `key` + 15, of them channels 32 `step` .. 32 `step` + 31: a left factor. `key`: a multiple of 16. */
void unit_load_keys(int tile, int64_t key, int step);
/** The same channels of a panel: a right factor. */
void unit_load_queries(int tile, int panel, int step);
/** Channels 16 `part` .. 16 `part` + 15 of the values of keys `key` .. `key` + 31, turned: a left factor. */
void unit_load_values(int tile, int64_t key, int part);
/** Weights of 32 keys, see unit_weigh(): a right factor. */
void unit_load_weights(int tile);
/** 16 channels of O, which lies in memory and begins as 0. */
void unit_load_output(int tile, int part);
void unit_store_output(int tile, int part);
/** Logits of 16 keys, kept for the vectors: `half` 0 or 1. */
void unit_store_logits(int tile, int half);
/** What a tile holds, [row][column], for the answer itself; it stays until the next call. */
const float *unit_read(int tile);

/* ---- Vectors: a lane for each of the 16 columns ---------------------------------------------------------------- */

/** The largest of the kept logits, times log2(e)/sqrt(width). */
void unit_maxima(int half, float max[UNIT_ROWS]);
/** Weights 2^(logit - max) of the kept logits, scaled as above; rounded to bf16 they are half of the right factor. `sum`
 *  gets their sums over the 16 keys, not rounded. */
void unit_weigh(int half, const float max[UNIT_ROWS], float sum[UNIT_ROWS]);
/** Multiplies O in memory, column by column. */
void unit_scale_output(const float factor[UNIT_ROWS]);

/* ---- For checks ------------------------------------------------------------------------------------------------ */

/** What was done since unit_open(). */
typedef struct unit_counts {
    uint64_t products, loads, read; /**< tiles */
    uint64_t exponentials;          /**< vectors of 16 */
    uint64_t scaled;                /**< times that O was */
} unit_counts;

/** What a picture shows of an event: near which key, and, of a product, the columns that were filled, a bit each. */
typedef enum unit_event { UNIT_LOAD, UNIT_PRODUCT, UNIT_POWERS, UNIT_SCALING, UNIT_EVENTS } unit_event;
typedef void unit_note_fn(unit_event what, int64_t key, uint32_t columns);

/** A machine with these inputs, rounded to bf16, of one sequence and group. */
void unit_open(const msa_shape *s, const inputs *in, unit_note_fn *note);
unit_counts unit_counted(void);

#endif
