/**
 * @file msa_index8.h
 * @brief The selection from 8-bit index keys, exact: a proven bound rules blocks out, the few that remain are scored
 *        in full. Part of msa.h.
 *
 * Beside the index keys stands a copy in 8 bits, a block at a time. An integer product with it, and a bound on what
 * rounding to it may have changed, give every block a lower and an upper bound of its score. A block whose upper bound
 * is below the (k-1)-th largest lower bound cannot be chosen, whatever its full keys say. All others are candidates;
 * their scores are computed from the full keys, and the ids are those of ::msa_index_fn, ties included.
 */
#ifndef MSA_INDEX8_H
#define MSA_INDEX8_H

#include "msa.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The copy. Only complete blocks have one: it is made once, from all keys of the block, so that no scale grows. A
 *  query asks only for blocks before its local one, which are complete. B is msa_n_blocks(), R sequences. In a cache
 *  in pages it lies in pages too: codes [P,page,di], and each number [P, page / n] of pieces of n = min(page, block)
 *  tokens, which stand for blocks then. */
typedef struct msa_index8 {
    int8_t *codes; /**< [S,di] keys, rotated (index8.c), as multiples -127 .. 127 of their block's scale */
    float *scale;  /**< [R,B] */
    float *reach;  /**< [R,B] N: no key of the block is longer as its codes say, in the Euclidean norm */
    float *
        error; /**< [R,B] E: no key of the block is farther from what its codes say; infinite where one is not
                    *   finite, which makes the block a candidate always */
    float *
        least; /**< [R,B] the smallest magnitude in the keys that is not 0, infinite where there is none: tells
                    *   whether float32 products may vanish */
} msa_index8;

/** What a call did. Rows are pairs of query and group that had to choose: more than k - 1 blocks before the local. */
typedef struct msa_screening {
    int64_t rows;
    int64_t blocks;    /**< before the local one, of all these rows together */
    int64_t settled;   /**< of those the candidates, which were scored from the full keys too */
    int64_t fell_back; /**< rows in which all blocks were */
} msa_screening;

/** The copy of one complete block: what a cache stores when its last token comes.
 *  @param ki   [n,di] its keys
 *  @param to   where its codes [n,di] and its four numbers go
 *  @param room [di] */
void msa_index8_block(const float *ki, int64_t n, int di, msa_index8 to, double *room);

/** Those of all complete blocks of a call. Where a sequence holds fewer keys than `had` says, tokens were taken back:
 *  the block that is no longer complete, and those behind it, get zeros, as if their last token had never come.
 *  @param p    NULL: keys are contiguous
 *  @param had  [R] how many keys of each sequence the copy knows already: their blocks stay; NULL: none
 *  @param room [di]
 *  @return ::MSA_OK; ::MSA_ERR_NULL; what msa_check_shape() or msa_check_pages() finds */
msa_status msa_index8_keys(const msa_shape *s, const msa_pages *p, const float *ki, const int64_t *had,
                           const msa_index8 *copy, double *room);

/** A query in 8 bits, or in 15: with two codes a channel, multiples of `step` that are 128 times the first and once the
 *  second. Then two integer products a key, and half the blocks to settle: for a step of generation, where bytes count. */
typedef struct msa_index8_query {
    int n_codes;
    float step; /**< what 1 stands for in the last code */
    float norm; /**< its length, rounded up */
    float rest; /**< its distance from what its codes say, rounded up; infinite where it is not finite */
} msa_index8_query;

/** @param n_codes 1 or 2
 *  @param codes   [n_codes,di], from -127 to 127; qi [di]; room [di] */
msa_index8_query msa_index8_round(const float *qi, int di, int n_codes, int8_t *codes, double *room);

/** Bounds of one query's scores, in units in which a score is Qi.Ki, halved where log2(di) is odd: what the reference
 *  and every kernel that sums in float32 computes lies between them.
 *  @param r     the sequence, whose blocks 0 .. n-1 have codes
 *  @param codes [n_codes,di] the query's
 *  @param lower [n], and upper; NaN or infinite where nothing is known */
void msa_index8_bounds(const msa_shape *s, const msa_index8 *copy, int r, int64_t n, const int8_t *codes,
                       const msa_index8_query *q, double *lower, double *upper);

/** The selection.
 *  @param n_codes of a query, 1 or 2: what is settled depends on it, not the ids
 *  @param ids     [Hkv,T,k], those of msa_index(), always
 *  @param copy    of all complete blocks: msa_index8_keys()
 *  @param done    may be NULL
 *  @param work    msa_index8_workspace() bytes
 *  @return ::MSA_OK; ::MSA_ERR_NULL; ::MSA_ERR_SIZE: n_codes; what msa_check_shape() finds */
msa_status msa_index8_select(const msa_shape *s, const float *qi, int n_codes, const float *ki,
                             const msa_index8 *copy, int32_t *ids, msa_screening *done, void *work);
size_t msa_index8_workspace(const msa_shape *s);

#ifdef __cplusplus
}
#endif
#endif
