/**
 * @file pass_q.h
 * @brief What the parts of pass-Q share: candidates.c scores, select_blocks.c chooses, pass_q.c attends.
 */
#ifndef MSA_PASS_Q_H
#define MSA_PASS_Q_H

#include "parallel.h"

/** All that a call needs besides; freed at its end. */
typedef struct step {
    transport *t;
    parallel_call *c;
    const msa_shape *s;
    int64_t rows, own, first; /* of all homes; at home here; before them */
    int group;                /* query heads of a KV head */
    float *qi;                /* [all rows,Hkv,di] */
    double *score;            /* [all rows,Hkv,k-1] of this rank's candidates */
    int32_t *candidate;       /* and their blocks */
    int32_t *ids;             /* [all rows,Hkv,k] the winners */
    int64_t *served,
        *asked; /* [R+1] pairs of each home that this rank serves, and of each owner that it asks: sums */
    float *q, *o, *lse;           /* [served,G,dh], [served,G] */
    float *q_out, *o_in, *lse_in; /* [asked,..] */
    transport_part *to, *from;    /* [R] */
} step;

/** Step 2: p->score and p->candidate, of all rows. */
msa_status find_candidates(const step *p);
/** Steps 1 to 4: p->ids and the rows at home of p->c->ids. */
msa_status select_blocks(step *p);

/** The parts of an array of all rows that belong to the homes, a row being `width` bytes. */
void by_home(const step *p, transport_part *part, void *base, size_t width);
/** The parts of an array of pairs that `sum` counts, of `width` bytes each. */
void by_pairs(const step *p, const int64_t *sum, transport_part *part, void *base, size_t width);

/** The chosen blocks of `owner` among those of (row x, group r), which hold the tokens that it returns; as pages of that
 *  group, if `pages` is not NULL. Only the local block, which comes last, may be visible in part. */
int64_t list_blocks(const step *p, int owner, int64_t x, int r, int32_t *pages);
/** p->served and p->asked, by p->ids. */
void count_pairs(const step *p);

#endif
