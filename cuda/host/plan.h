/* What the files of host/ share about the kernels of kernels.def. */
#ifndef MSA_PLAN_H
#define MSA_PLAN_H

#include "../../ref/stages.h"
#include "msa_cuda.h"

/* What a kernel takes, by the words of kernels.def: each is a bit, and a text that begins with ", ". */
enum {
    TAKES_FEW = 1,         /* queries of a sequence, and requests */
    TAKES_WIDTH = 2,       /* of a main head */
    TAKES_INDEX_WIDTH = 4, /* of an index head */
    TAKES_WIDTHS = 6,
    TAKES_BLOCK = 8,
    TAKES_TOPK = 16,
    TAKES_GROUP = 32,
    TAKES_TURNED = 64,    /* a selection that msa_reverse_fn can number */
    TAKES_BY_BLOCK = 128, /* scores as msa_scores_turn() leaves them */
    TAKES_KV_OUTER = 256, /* key block after key block, whose partial outputs are combined */
    TAKES_SAME_BITS = 512 /* sums in a fixed order, where the others of its stage have none */
};
#define TEXT_FEW ", up to 16 queries, 128 paged requests"
#define TEXT_WIDTH ", dh 64 or 128"
#define TEXT_INDEX_WIDTH ", di 64 or 128"
#define TEXT_WIDTHS ", dh and di 64 or 128"
#define TEXT_BLOCK ", block 32, 64 or 128"
#define TEXT_TOPK ", k <= 32"
#define TEXT_GROUP ", Hq/Hkv <= 16"
#define TEXT_TURNED ""
#define TEXT_BY_BLOCK ""
#define TEXT_KV_OUTER ""
#define TEXT_SAME_BITS ""

/* What the kernel "STAGE/NAME" of kernels.def takes; of another, nothing. */
unsigned plan_takes(const char *name);

#endif
