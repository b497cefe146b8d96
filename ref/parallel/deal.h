/**
 * @file deal.h
 * @brief Who has what: key blocks and query rows of one call, dealt to ranks.
 *
 * Key block b of sequence n lies on rank (n + b) mod R: neighbours, which are often chosen together, have different
 * owners, and so have the first blocks of the requests of a batch.
 *
 * The queries of a sequence are cut into 2 R slices, and slices z and 2R-1-z have the same home, (z + n) mod R: the late
 * ones, which see most, are paired with early ones, so that causal work is even. A slice is a range of queries, which a
 * shape can say: n_q of them, the last of n_kv keys.
 */
#ifndef MSA_DEAL_H
#define MSA_DEAL_H

#include "../internal.h"
#include "../msa_index8.h"

/** A rank's keys. A block is a page, [Hkv,block,dh] of keys or values and [block,di] of index keys: the heads outside, so
 *  that a group's part of a block is a page of a call with one KV head. */
typedef struct deal_shard {
    int rank, ranks;
    msa_shape s;    /**< of the whole call, lengths included */
    int64_t *first; /**< [sequences+1] own blocks of those before; a sequence without queries has none */
    int64_t n_pages;
    int32_t *page; /**< [own blocks] where they lie */
    float *k, *v;  /**< [pages,Hkv,block,dh] */
    float *ki;     /**< [pages,block,di] */
    msa_index8 ki8; /**< of own blocks, in order; codes NULL: there is none */
} deal_shard;

/** The query rows of the call, home after home. */
typedef struct deal_rows {
    int64_t n;      /**< all, without padding */
    int64_t *first; /**< [R+1] rows of the homes before */
    int32_t *row;   /**< [n] which row of the call */
    int32_t *seq;   /**< [n] and of which sequence */
    int64_t *at;    /**< [n] at which position */
} deal_rows;

/** The first query of slice z, of 2 R, of a sequence's n_q. */
int64_t deal_slice(int ranks, int64_t n_q, int z);
/** The home of query i of sequence n, which has n_q. */
int deal_home(int ranks, int n, int64_t i, int64_t n_q);
/** The owner of block b of sequence n. */
int deal_owner(int ranks, int n, int64_t b);

/** A rank's own blocks of sequence n before block b; the j-th of them is block deal_block(). */
int64_t deal_blocks_before(int rank, int ranks, int n, int64_t b);
int64_t deal_block(int rank, int ranks, int n, int64_t j);

/** What a key has. */
typedef enum deal_array { DEAL_K, DEAL_V, DEAL_KI } deal_array;
/** Where n tokens are that lie side by side, from row `row` on: [n,Hkv,dh], or [n,di] of index keys. What has to be read
 *  goes to `room`. NULL: it cannot be. */
typedef const float *deal_read(void *files, deal_array which, int64_t row, int64_t n, float *room);

/** Where all keys lie, as msa.h says. */
typedef struct deal_source {
    const msa_shape *s;
    const msa_pages *p;      /**< NULL: contiguous */
    const float *k, *v, *ki; /**< ki NULL: there is no Index Branch */
    deal_read *read;         /**< NULL: they are there. Else of keys that are not in memory */
    void *files;             /**< what it gets */
    bool index;              /**< whether it knows index keys */
} deal_source;

/** Where n of them are, as ::deal_read says, in memory or not. */
const float *deal_tokens(const deal_source *from, deal_array which, int64_t row, int64_t n, float *room);

/** A paged call as a padded batch: the same shape, with the requests' lengths; len_q [sequences] is written. */
msa_shape deal_padded(const msa_shape *s, const msa_pages *p, int32_t *len_q);

/** Takes a rank's share of the keys. @param s with lengths: of a paged call, deal_padded()
 *  False if memory runs out, or keys cannot be read; deal_free_shard() is due anyway. */
bool deal_new_shard(deal_shard *to, int rank, int ranks, const msa_shape *s, const deal_source *from);
void deal_free_shard(deal_shard *shard);
/** Makes the 8-bit copy of its index keys, by which it screens. False if memory runs out. */
bool deal_screen(deal_shard *shard);

bool deal_new_rows(deal_rows *to, int ranks, const msa_shape *s);
void deal_free_rows(deal_rows *rows);

/** Copies rows of `bytes` that are a home's own from the call's order to one after the other. */
void deal_take(const deal_rows *rows, int home, size_t bytes, const void *from, void *to);
/** And rows of all homes back. */
void deal_give(const deal_rows *rows, size_t bytes, const void *from, void *to);

#endif
