/* A chunk of queries of one group, and which of them chose each block: what the KV-outer kernels walk. */
#ifndef MSA_CHUNKS_H
#define MSA_CHUNKS_H

#include "fast.h"

typedef struct chunk {
    msa_seq seq;
    int r;          /* group */
    int64_t i0, n;  /* queries i0 .. i0+n-1 of the sequence */
    int64_t *first; /* [B+2] the entries of block b are first[b] .. first[b+1]-1 */
    int32_t *entry; /* [n*k] queries of the chunk, ascending in a block */
} chunk;

/* Keys of the longest block: a block may be longer than any sequence. */
int64_t block_keys(const msa_shape *s);
/* `wanted` queries, but neither too many nor more than `most`, nor so many that threads go idle. */
int64_t chunk_queries(const msa_shape *s, int64_t wanted, int64_t most);
void chunk_take(chunk *c, const msa_shape *s, int64_t n, arena *a);
void chunk_open(chunk *c, const msa_seq *seq, int r, int64_t i0, int64_t most);
/* Turns its ids around. */
void chunk_turn(chunk *c, const msa_shape *s, const int32_t *ids);

#endif
