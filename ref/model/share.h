/**
 * @file share.h
 * @brief What a rank has of every batch where several train one model: some of its windows, whole or cut.
 *
 * C ranks share a window, by parallel/context.h, and the R/C groups of such ranks have as many windows each: with C = 1
 * that is data parallel, with C = R context parallel. Every rank has all parameters and takes the same step.
 */
#ifndef MSA_SHARE_H
#define MSA_SHARE_H

#include "../parallel/context.h"
#include "train.h"

typedef struct train_share {
    transport *t;
    int cut;                /**< C */
    int64_t first, windows; /**< of the batch, this rank's or its group's */
    int64_t own, context;   /**< tokens of a step here; of a window */
    parallel_group group;   /**< these three where C > 1 */
    parallel_context attention;
    msa_ops ops;
    const model *m;
    float *parts;                  /**< [R,its part of the parameters] gradients */
    transport_part *part;          /**< [2 R] */
    double *record;                /**< [R,1+layers] losses */
    double model[TRAFFIC_N_KINDS]; /**< bytes so far */
} train_share;

/** Whether the ranks can share such batches; else a line in err. */
bool share_check(const model_config *m, const train_config *c, io_error err);
/** False if memory runs out; share_free() is due anyway. */
bool share_new(train_share *s, const model *m, const train_config *c, const msa_ops *ops);
void share_free(train_share *s);
/** Room for this rank's part of a pass. NULL if memory runs out. */
model_run *share_run(const train_share *s);

/** Of rows [batch*context] of `bytes` the own ones, one after the other at the start. */
void share_take(const train_share *s, size_t bytes, void *rows);
/** Parts of a batch's loss, its KL losses [n_layers] and gradients become their sums, in the order of ranks, on all. */
void share_sum(train_share *s, double *loss, double *kl, float *grads);
/** A step in that mode is over. */
void share_count(train_share *s, msa_attention mode);
/** What this rank has sent, and how its work compares. */
train_account share_account(const train_share *s, double seconds);

#endif
