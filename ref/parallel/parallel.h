/**
 * @file parallel.h
 * @brief Attention over keys that are dealt to ranks: queries travel, or keys do.
 */
#ifndef MSA_PARALLEL_H
#define MSA_PARALLEL_H

#include "deal.h"
#include "transport.h"

/** What a rank brings to a call and what it takes home: rows of queries that it is the home of, in the order of
 *  deal_rows. */
typedef struct parallel_call {
    const msa_ops *ops; /**< whose kernels run where the keys lie */
    const deal_shard *keys;
    const deal_rows *rows;
    bool dense;          /**< all visible keys; no index */
    const float *q, *qi; /**< [rows,Hq,dh] and [rows,Hkv,di] */
    int32_t *ids;        /**< [rows,Hkv,k], not with `dense` */
    float *o, *lse;      /**< [rows,Hq,dh] and [rows,Hq] */
    double pairs; /**< written by parallel_pass_q(): (row, group) of others that this rank has served */
    msa_screening screening; /**< likewise: what it had to score in full, of its blocks and all rows */
} parallel_call;

/** Queries travel: owners score their own index keys, the winners are known everywhere, owners attend to their own
 *  chosen blocks, and the home of a query merges. Of the table only dense_decode is run, as a chosen block is a page, and
 *  the product.
 *
 *  The ids are those of the reference, to the bit, for any number of ranks: scores are double, and the order is total. What
 *  bounds by float32 products, or by 8-bit keys, leave open an owner settles by such scores. O and LSE are merged from partial ones that were rounded to float32, in the order of ranks: another number of ranks
 *  may round otherwise, and one rank does not at all.
 *  @return ::MSA_ERR_DEVICE where memory runs out; the other ranks then wait: transport.end */
msa_status parallel_pass_q(transport *t, parallel_call *c);

/** Keys travel: everyone gets all of them, and runs index and sparse, or dense, on the queries at home. Each row is what
 *  those kernels give for it: with the reference the same bits for any number of ranks. */
msa_status parallel_pass_kv(transport *t, parallel_call *c);

/** What a backward pass of a call gets, of rows at home, and gives. */
typedef struct parallel_gradients {
    const float *dout;    /**< [rows,Hq,dh] */
    double weight;        /**< of the KL loss in dqi and dki */
    bool full;            /**< full support, as in the warmup: c->ids is not read */
    float *dq, *dqi;      /**< [rows,Hq,dh] and [rows,Hkv,di] */
    float *dk, *dv, *dki; /**< of this rank's blocks, in pages as those of deal_shard */
    double loss;          /**< L_KL of the whole call, the same on all ranks */
} parallel_gradients;

/** Gradients of the Main Branch and of the KL loss, from what the forward pass left in ids, o and lse. Keys travel, and the
 *  parts of their gradients go to the owners. Rows of dQ and dQi are what the kernels give for them; dK, dV, dKi and the
 *  loss are sums of one part a rank, in the order of ranks, so that another number of ranks may round them otherwise. */
msa_status parallel_backward(transport *t, parallel_call *c, parallel_gradients *g);

/** Gradients of keys from their owners to rank 0, whose dk, dv and dki are the call's, with contiguous keys: 0 in padding and
 *  for sequences without queries. */
msa_status parallel_collect_keys(transport *t, const deal_shard *keys, const parallel_gradients *g, float *dk,
                                 float *dv, float *dki);

/** The call as the model sees it. */
traffic_call parallel_traffic(const parallel_call *c);

/** The cheaper of the two, by the model. */
msa_status parallel_attend(transport *t, parallel_call *c);

/** Rows of `bytes` from their homes to rank 0, in the call's order. `to` is that rank's. */
msa_status parallel_collect(transport *t, const deal_rows *rows, size_t bytes, const void *own, void *to);

#endif
