/**
 * @file msa_quality.h
 * @brief What a selection saves and what it loses: the cost model, block mass, recall. Part of msa.h.
 */
#ifndef MSA_QUALITY_H
#define MSA_QUALITY_H

#include "msa.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The cost model for one causal prefill of n tokens and one decoded token at length n: the paper's. */
typedef struct msa_cost_row {
    double flop_gqa;      /**< 2 Hq dh N^2 */
    double flop_msa;      /**< Hkv di N^2 + 4 Hq dh N k Bk */
    double flop_ratio;    /**< flop_gqa / flop_msa */
    double index_share;   /**< the index term's share of flop_msa */
    double bytes_gqa;     /**< decode reads, 2-byte elements: 2 Hkv dh 2 N */
    double bytes_msa;     /**< 2 di N + 2 Hkv dh 2 k Bk */
    double bytes_ratio;   /**< bytes_gqa / bytes_msa */
    double bytes_ratio_8; /**< the same with 1-byte index keys: what they choose may differ */
    double flop_ratio_8;  /**< flop_ratio with index products of 8 bits counted half: twice the rate */
    /** The same ids from 8 bits: blocks that a bound leaves open are scored again in full (msa_index8.h). How many
     *  that are is measured at 8192 blocks of random keys, 86 for 15 wanted, 43 in decode; never more than there are.
     *  @{ */
    double flop_settle;        /**< 2 Hkv di Bk N 86/15 (k-1) */
    double flop_ratio_exact8;  /**< flop_ratio_8 with that */
    double bytes_settle;       /**< 2 Hkv di Bk 43/15 (k-1) */
    double bytes_ratio_exact8; /**< bytes_ratio_8 with that */
    /** @} */
} msa_cost_row;

/** Evaluates the cost model at length n; reads only the head counts, widths, block and topk of `s`. */
msa_status msa_cost(const msa_shape *s, int64_t n, msa_cost_row *row);

/** mass[r,i,b]: probability of block b under the full causal softmax of the Main Branch, averaged over
 *  the heads of group r; 0 where nothing is visible. @param mass [Hkv,T,B]
 *  @param work msa_recall_workspace() bytes */
msa_status msa_block_mass(const msa_shape *s, const float *q, const float *k, float *mass, void *work);

/** Averages over the (query, group) pairs with local+1 > k. */
typedef struct msa_recall_result {
    int64_t rows;        /**< how many pairs that was; the averages are NaN if 0 */
    double block_recall; /**< |I* & I| / |I*| */
    double score_recall; /**< mass of (I* & I) / mass of I* */
} msa_recall_result;

/** Compares a selection with I*, the min(k, local+1) blocks of largest mass (ties to the lower id).
 *  @param per_query NULL, or [2,Hkv,T]: block recall, then score recall, of every pair (1 where local < k, and
 *      of padding)
 *  @param work msa_recall_workspace() bytes */
msa_status msa_recall(const msa_shape *s, const float *q, const float *k, const int32_t *ids,
                      float *per_query, msa_recall_result *result, void *work);

size_t msa_recall_workspace(const msa_shape *s);

#ifdef __cplusplus
}
#endif
#endif
