/**
 * @file whole.h
 * @brief Whole sequences of keys on every rank, gathered from the blocks of all; and their gradients, back to the owners.
 */
#ifndef MSA_WHOLE_H
#define MSA_WHOLE_H

#include "parallel.h"

/** Sequences with queries, one after the other. */
typedef struct whole {
    int64_t *kv0;      /* [sequences+1] */
    float *k, *v, *ki; /* [S,Hkv,dh], [S,di] */
} whole;

/** False if memory runs out; free_whole() is due anyway. @param dense no index keys */
bool new_whole(whole *w, const msa_shape *s, bool dense);
void free_whole(whole *w);

/** Everyone's blocks, to everyone. */
msa_status gather_whole(transport *t, const deal_shard *keys, const whole *w);

/** Of pages as a shard has them, [own blocks,heads,block,d], all ranks' tokens, in whole sequences on every rank;
 *  results, of kind ::TRAFFIC_OTHER, on rank 0. */
msa_status gather_pages(transport *t, const deal_shard *keys, traffic_kind kind, const float *pages,
                        int heads, int d, const whole *w, float *to);

/** Sums of what all ranks have for each block, on its owner: from gradients [S,heads,d] of whole sequences to pages as
 *  deal_shard has them, [own blocks,heads,block,d]. Sums are double, in the order of ranks, of floats that were sent. */
msa_status add_up_whole(transport *t, const deal_shard *keys, const whole *w, int heads, int d,
                        const double *from, float *pages);

/** Calls run(context, ...) for each range of neighbouring queries that is at `home`: rows x .. x+n-1, counted from the
 *  first there, of sequence seq, as the last queries of a shape. `all` is that of the whole call. */
typedef msa_status whole_range_fn(void *context, const msa_shape *s, int64_t x, int seq);
msa_status walk_ranges(const deal_rows *rows, int home, const msa_shape *all, whole_range_fn *run,
                       void *context);

#endif
