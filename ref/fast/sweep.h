/* A sweep over key blocks, for backward and KL at any length: a chunk of queries meets block after block, and
 * those that attend to a block are gathered as rows of full products with its keys. The blocks are cut into
 * parts of equal work, which are what threads share: a part owns the gradients of its keys, and adds to
 * gradients of the queries that are its own and are summed over the parts, in order, when all are done. So
 * memory is bounded by the chunk, nothing is atomic, and the number of threads changes no bit. */
#ifndef MSA_SWEEP_H
#define MSA_SWEEP_H

#include "chunks.h"

#define SWEEP_ROWS 512 /* of one product at most */
#define SWEEP_KEYS 512 /* of one product at most; of a block, for full support */

typedef struct sweep {
    const msa_shape *s;
    msa_seq seq;
    int64_t i0, n; /* queries i0 .. i0+n-1 of the sequence */
    bool full;
    chunk *group;         /* [Hkv] which queries chose each block; full: entry counts from 0 */
    int64_t width, count; /* keys of a block, and how many blocks the chunk may see */
} sweep;

/* Some queries of a group meet some keys of a block. */
typedef struct block_visit {
    const sweep *w;
    int r;
    const int32_t *entry; /* [queries] numbers within the chunk, ascending */
    int64_t queries, j0, cols;
} block_visit;
typedef void visit_fn(const block_visit *m, void *own);

void sweep_take(sweep *w, const msa_shape *s, int64_t n, arena *a);
/* Queries i0 .. of a sequence, `most` at most; ids NULL: full support. Turns the ids of all groups around. */
void sweep_open(sweep *w, const msa_seq *seq, int64_t i0, int64_t most, const int32_t *ids);

/* The *n queries of group r that attend to a block, ascending. */
const int32_t *sweep_entries(const sweep *w, int r, int64_t block, int64_t *n);

/* The first block of a part, where groups r0 .. r1-1 are cut into `parts` of equal work; of part `parts`, the
 * end. */
int64_t sweep_cut(const sweep *w, int r0, int r1, int part, int parts);
/* Calls `visit` for all visits of group r to blocks b0 .. b1-1, which are visible in part at least. */
void sweep_walk(const sweep *w, int r, int64_t b0, int64_t b1, visit_fn *visit, void *own);
/* Keys of a visit that its query number e sees. */
static inline int64_t seen_by(const block_visit *m, int64_t e)
{
    const int64_t last = position(&m->w->seq, m->w->i0 + m->entry[e]);
    return max_i64(0, min_i64(m->cols, last + 1 - m->j0));
}

/* Queries of a visit at most; it has SWEEP_KEYS keys at most. */
int64_t visit_queries(const msa_shape *s);
/* Heads head .. head+count-1 of its queries from x [T,heads,d], times scale, to rows [queries*count,d]. */
void visit_gather(const block_visit *m, const float *x, int heads, int head, int count, int d, float scale,
                  float *rows);
/* to [n,wide] += rows [queries,wide] at its queries. */
void visit_scatter(const block_visit *m, const float *rows, int64_t wide, float *to);

/* How the logits q.k/sqrt(d) of a visit are made: rows [queries*count,cols] of its heads, `count` of the n_heads for
 * each group, of q [T,n_heads,d] with k [S,kv_heads,d], of which a group has one or all share one. What q and k are
 * made of the way says. */
typedef struct logits_way {
    size_t (*bytes)(const msa_shape *s, int n_heads, int d);
    void (*make)(const block_visit *m, const void *q, int n_heads, const void *k, int kv_heads, int d,
                 void *buffer, float *logits);
} logits_way;
extern const logits_way sweep_floats; /* float32, products by OpenBLAS */

/* LSE of the chunk's logits over its support, for all n_heads heads, to lse [n,n_heads] of the chunk. */
size_t sweep_lse_bytes(const msa_shape *s, int64_t n, const logits_way *by, int n_heads, int d);
void sweep_lse(const sweep *w, const logits_way *by, const void *q, int n_heads, const void *k, int kv_heads,
               int d, float *lse, void *work);

#endif
