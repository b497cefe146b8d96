/* KL with the key blocks outside, whatever its products are made of: kl_blocks.c. */
#ifndef MSA_KL_WAY_H
#define MSA_KL_WAY_H

#include "../stages.h"
#include "sweep.h"

typedef struct kl_way {
    const logits_way *logits;
    bool bf16; /* what the tensors are */
    /* The teacher of a visit, t [queries,cols]: the mean over the heads of its group of their probabilities, whose LSEs
     * are lse [queries*group]. For keys that a query does not see t may be anything. */
    void (*teach)(const block_visit *m, const void *q, const void *k, const float *lse, void *buffer,
                  float *t);
    size_t (*teach_bytes)(const msa_shape *s);
    /* What a visit's U [queries,cols] makes of the group's index queries and of its keys: U^T Qi/sqrt(di) is added to
     * dki [S,di], U Ki to dqi [n,di] of the group's chunk. */
    void (*give)(const block_visit *m, const float *u, const void *qi, const void *ki, float *dqi, float *dki,
                 void *buffer);
    size_t (*give_bytes)(const msa_shape *s);
} kl_way;

/* Log-sum-exps that the call does not have are found first. */
size_t kl_by_blocks_workspace(const msa_shape *s, const kl_way *by);
msa_status kl_by_blocks(const kl_way *by, const msa_shape *s, const msa_arrays *a, void *work);

#endif
