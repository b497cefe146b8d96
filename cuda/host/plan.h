/* What plan.c and host.c share about the kernels of kernels.def. */
#ifndef MSA_PLAN_H
#define MSA_PLAN_H

#include "msa_cuda.h"

#define STAGE_dense MSA_STAGE_DENSE
#define STAGE_index MSA_STAGE_INDEX
#define STAGE_topk MSA_STAGE_TOPK
#define STAGE_reverse MSA_STAGE_REVERSE
#define STAGE_sparse MSA_STAGE_SPARSE
#define STAGE_prefill MSA_STAGE_PREFILL
#define STAGE_decode MSA_STAGE_DECODE
#define STAGE_dense_decode MSA_STAGE_DENSE_DECODE
#define STAGE_backward MSA_STAGE_BACKWARD
#define STAGE_dense_backward MSA_STAGE_DENSE_BACKWARD
#define STAGE_kl MSA_STAGE_KL
#define STAGE_exercise MSA_N_STAGES /* of a kernel that is in no table */

/** Whether the kernels of a stage take this (valid) shape... */
bool plan_takes(msa_stage stage, const msa_shape *s);

/* ...and that in words. */
#define TAKEN_dense "dh 64 or 128, Hq/Hkv <= 16"
#define TAKEN_index "di 64 or 128, block 32, 64 or 128, k <= 32"
#define TAKEN_topk "k <= 32"
#define TAKEN_reverse "k <= 32"
#define TAKEN_sparse "dh 64 or 128, block 32, 64 or 128, k <= 32, Hq/Hkv <= 16"
#define TAKEN_prefill "dh and di 64 or 128, block 32, 64 or 128, k <= 32, Hq/Hkv <= 16"
#define TAKEN_decode                                                                                         \
    "up to 16 queries, 128 paged requests, dh and di 64 or 128, block 32, 64 or 128, k <= 32, Hq/Hkv <= 16"
#define TAKEN_dense_decode                                                                                   \
    "up to 16 queries, 128 paged requests, dh 64 or 128, block 32, 64 or 128, Hq/Hkv <= 16"
#define TAKEN_backward TAKEN_sparse
#define TAKEN_dense_backward "dh 64 or 128, block 32, 64 or 128, Hq/Hkv <= 16"
#define TAKEN_kl TAKEN_prefill

#endif
