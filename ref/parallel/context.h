/**
 * @file context.h
 * @brief Sequences that are cut over ranks: each has the tokens of its slices, queries and keys, and all else of a layer
 *        is done token by token. Only attention has to see the others, so that a table of kernels is all that changes.
 */
#ifndef MSA_CONTEXT_H
#define MSA_CONTEXT_H

#include "deal.h"
#include "transport.h"

/** Some neighbours of a world as a transport of their own. All groups of a world exchange equally often. */
typedef struct parallel_group {
    transport t;
    transport *world;
    int first;            /**< rank of the world that is rank 0 here */
    transport_part *part; /**< [2 ranks of the world] */
} parallel_group;
/** False if memory runs out; parallel_free_group() is due anyway. @param ranks divides those of the world */
bool parallel_new_group(parallel_group *g, transport *world, int ranks);
void parallel_free_group(parallel_group *g);

/** Of keys, values and index keys; DK, DV and DKI likewise. */
enum { CONTEXT_K, CONTEXT_V, CONTEXT_KI, CONTEXT_N };

typedef struct parallel_context {
    transport *t;
    deal_rows rows; /**< tokens, home after home */
    int64_t own;    /**< at home here */
    int32_t *cu;    /**< [sequences+1] */
    int32_t *at;    /**< [own] their positions */
    msa_shape s;    /**< of all tokens of all ranks, packed */
    msa_ops ops;    /**< who computes */
    msa_kernel entry[MSA_N_STAGES];
    transport_part *part;            /**< [2 R] */
    float *homes, *whole[CONTEXT_N]; /**< [S,..] keys as they come, and in order */
    float *range[CONTEXT_N];         /**< [longest,..] gradients of a range */
    float *parts;                    /**< [R,own,..] of one gradient */
    double *sum[CONTEXT_N];          /**< [S,..] this rank's part of gradients */
    int32_t *ids, *lse;              /**< [Hkv,own,k], [Hkv,own] of a range */
    const void *k;                   /**< whose rows whole[CONTEXT_K] has */
    void *memory;
} parallel_context;

/** Deals n sequences of `length` tokens, at least two a rank. @param heads their sizes; of the rest of it nothing is read
 *  False if memory runs out; parallel_free_context() is due anyway. */
bool parallel_new_context(parallel_context *c, transport *t, const msa_shape *heads, int n, int length);
void parallel_free_context(parallel_context *c);

/** A table like `ops` for calls whose T queries and S keys are the c->own tokens here, in the order of deal_rows: dense, index,
 *  sparse, backward and kl gather the keys, run those of `ops` on each range of neighbours, and add up gradients of keys
 *  where they are at home, in the order of ranks. All ranks make the same calls. The loss of kl is this rank's part of the
 *  mean over all tokens; the ids of a token are those of `ops` for its range. For this thread, until the next call. */
msa_ops parallel_context_ops(parallel_context *c, const msa_ops *ops);

#endif
