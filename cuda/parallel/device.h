/**
 * @file device.h
 * @brief The plan of ref/parallel where queries, keys and outputs lie on devices: one rank's part of it.
 *
 * The same deal, the same messages, the same model. What differs is who computes, and how wide things are: Q, K, V, Qi and
 * Ki are bf16, and so are partial outputs; a candidate is a rank key of 8 bytes.
 *
 * Ids. A block's score is the same product wherever it lies, and the order of candidates is total: any number of ranks
 * gives the same bits. Against the reference they are judged as those of every kernel: exact where scores are (small
 * integers), else but for swaps of blocks whose scores differ by no more than the rounding of float32 sums.
 *
 * O and LSE, given the ids. Where queries travel, parts as dense_decode gives them, rounded to bf16, are merged in
 * float32 in the order of ranks: another number of ranks rounds otherwise, and one rank as well. Where keys do, a row is
 * what sparse gives for it among its neighbours at home.
 */
#ifndef MSA_PARALLEL_DEVICE_H
#define MSA_PARALLEL_DEVICE_H

#include "../../ref/parallel/parallel.h"
#include "wire.h"

/** What a rank brings and takes home, as a parallel_call; all arrays but `keys` and `rows` are on the device. */
typedef struct device_call {
    const deal_shard *keys; /**< where its pages lie; its k, v and ki are not read */
    const deal_rows *rows;
    const int32_t *page;        /**< that of `keys` */
    const uint16_t *k, *v, *ki; /**< pages, as those of deal_shard, bf16 */
    const int8_t *codes;        /**< [own blocks,block,di], by which owners screen; NULL: they do not */
    const float *scale, *reach, *error; /**< [own blocks] */
    msa_screening *done;                /**< grows by what device_pass_q() has to score in full */
    const uint16_t *q, *qi;     /**< [rows,Hq,dh] and [rows,Hkv,di], bf16 */
    int32_t *ids;               /**< [rows,Hkv,k] */
    float *o, *lse;             /**< [rows,Hq,dh] and [rows,Hq] */
    const char *index, *sparse; /**< kernels of device_pass_kv(), "STAGE/NAME" */
    const char *dense_decode;   /**< and of device_pass_q() */
    int64_t
        chunk; /**< queries of a home that device_pass_q() chooses blocks for at a time, the same on all ranks */
    double pairs; /**< written by device_pass_q(), as by parallel_pass_q() */
} device_call;

/** Of a chunk: its scores take 4 Hkv S / (R block) bytes for each of R times as many queries, 134 MB at M3's heads, 1M keys
 *  and 4 ranks. */
#define DEVICE_CHUNK 1024

/** Queries travel: parallel_pass_q(). A chunk's blocks are scored while the queries of the one before travel, and its
 *  winners chosen while that one's outputs do.
 *  @return ::MSA_ERR_UNSUPPORTED for sizes that the kernels do not take, ::MSA_ERR_DEVICE where memory runs out or a kernel
 *  fails; the other ranks then wait: transport.end */
msa_status device_pass_q(wire *w, device_call *c);
/** Keys travel: parallel_pass_kv(). */
msa_status device_pass_kv(wire *w, device_call *c);

/** The call as the model sees it. */
traffic_call device_traffic(const parallel_call *c);

/** One of the two, from and to arrays of the host. c->ops, a device's, names the kernels. */
msa_status device_attend(wire *w, parallel_call *c, bool queries, int64_t chunk);

#endif
