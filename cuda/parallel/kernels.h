/**
 * @file kernels.h
 * @brief The kernels that a call on ranks needs beside those of kernels.def, on the engine and on a GPU.
 *
 * All are enqueued on the default stream. Arrays are on the device; an index row is (query, group), number query Hkv +
 * group.
 */
#ifndef MSA_PARALLEL_KERNELS_H
#define MSA_PARALLEL_KERNELS_H

#include <stdint.h>

#include "../../ref/msa.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Neighbouring index rows of one sequence, at most ::PARALLEL_TILE, and the blocks that some of them see: those of
 *  page[first] .. page[first + blocks - 1]. */
typedef struct parallel_tile {
    int32_t row, rows, first, blocks;
} parallel_tile;
#define PARALLEL_TILE 128

/** What a query may choose of a rank's own blocks: the first `blocks` of its sequence, which are first_id, first_id + R,
 *  ... of all. */
typedef struct parallel_limit {
    int32_t blocks, first_id;
} parallel_limit;

/** Scores of own blocks, as wgmma leaves them, unscaled: their order is that of the scores. */
typedef struct parallel_score {
    const msa_shape *s; /**< Hkv, di and block are read */
    int n_tiles;
    const parallel_tile *tiles;
    int64_t rows;            /**< index rows */
    const uint16_t *qi, *ki; /**< [rows,di] and pages [n_pages,block,di], bf16 */
    int64_t n_pages;
    const int32_t *page;
    float *scores;  /**< [rows,stride] */
    int64_t stride; /**< at least the blocks of any tile */
    /** The 8-bit copy of own blocks, in the order of `page`, which rules out some; NULL: all are scored. */
    const int8_t *codes;                /**< [n_own,block,di] */
    const float *scale, *reach, *error; /**< [n_own] */
    int64_t n_own;
    /** What it leaves: bounds of each score; what an upper one may not be below; blocks that a tile is asked for. */
    float *bounds;   /**< [rows,stride,2] lower, upper */
    float *tau;      /**< [rows] */
    uint32_t *asked; /**< [n_tiles,stride] */
} parallel_score;

/** Tokens from a page, or from a place among tokens, to a place among tokens. */
typedef struct parallel_move {
    int32_t from, to, tokens; /**< a page or a token; a token */
} parallel_move;

typedef struct parallel_kernels {
    /** By the codes, before the other two. `done` grows by what is to be settled. @param limits [rows / Hkv] */
    msa_status (*screen)(const parallel_score *a, const parallel_limit *limits, msa_screening *done);
    msa_status (*score)(const parallel_score *a);
    /** The best k - 1 of each index row as rank keys (kit/selection.cuh), 0 where there are fewer. @param limits [rows / Hkv] */
    msa_status (*find_candidates)(const parallel_score *a, int ranks, const parallel_limit *limits,
                                  uint64_t *keys);
    /** The best of the k - 1 of each of R ranks, and the local block. @param keys [R,queries,Hkv,k-1]
     *  @param local [queries] @param ids [queries,Hkv,k] */
    msa_status (*choose)(const msa_shape *s, int ranks, int64_t queries, const uint64_t *keys,
                         const int32_t *local, int32_t *ids);
    /** Row i of `to` is row list[i] of `from`. @param words 4-byte words of a row */
    msa_status (*gather)(int64_t n, int words, const int32_t *list, const void *from, void *to);
    /** O and LSE of each row (query, group), number x, from its parts of o [parts,G,dh], bf16, and lse [parts,G]: those
     *  that `part` numbers from place first[x] to before first[x+1]. */
    msa_status (*merge)(const msa_shape *s, int64_t rows, const int32_t *first, const int32_t *part,
                        const uint16_t *o, const float *lse, float *to, float *to_lse);
    /** Tokens [..,heads,d] of bf16 from pages [..,heads,block,d], or from tokens where `block` is 0. */
    msa_status (*move)(int n, const parallel_move *moves, int heads, int d, int block, const void *from,
                       void *to);
} parallel_kernels;

msa_status simt_screen(const parallel_score *a, const parallel_limit *limits, msa_screening *done);
msa_status cuda_screen(const parallel_score *a, const parallel_limit *limits, msa_screening *done);

/** Of the device "simt" or "cuda"; those of a device that the build lacks do not exist. */
extern const parallel_kernels simt_parallel, cuda_parallel;

#ifdef __cplusplus
}
#endif
#endif
