/* A few new queries over a long cache: what dense and sparse steps of generation share. The keys are cut into
 * parts that the threads share; each part has its own softmax, and the parts are merged in order. Keys and
 * values are float32 or bf16, contiguous or in pages: what is taken at once lies side by side. */
#ifndef MSA_STREAMS_H
#define MSA_STREAMS_H

#include "exact.h"

/* Queries that the longest sequence has room for, and those that it may have if they are but few. */
int64_t padded_queries(const msa_shape *s);
int64_t most_queries(const msa_shape *s);
/* Whether no request has more than FEW. */
bool all_few(const msa_shape *s);

typedef struct cache {
    const msa_shape *s;
    request at;
    cached k, v;
} cache;

/* Keys that are taken at once: n rows, side by side; n = 0: none. */
typedef struct run {
    int64_t row, n;
} run;

/* The one of keys j, j+1, .. before `end`. */
static inline run run_at(const request *at, int64_t j, int64_t end)
{
    return j < end ? (run){key_row(at, j), min_i64(HEADS_KEYS, keys_together(at, j, end))} : (run){0, 0};
}

/* ---- Index: the scores of a request's blocks, and what follows from them ------------------------------- */

typedef struct scorer {
    const msa_shape *s;
    request at;
    const float *qi; /* [n,groups,di] */
    float *fitted_qi;
    fitted *fit; /* [n,groups] */
    cached ki;
    float held;    /* a score times this is faint where one of float32 is */
    float *scores; /* [n,groups,B] */
} scorer;

void scorer_take(scorer *y, const msa_shape *s, arena *a);
/* qi: those of the request. */
void scorer_begin(scorer *y, const cache *x, const float *qi, cached ki, float held);
/* A row of ids, query row / groups of group row % groups, from its scores. Only blocks before the local one compete, and
 * all of their keys are visible. */
void topk_blocks(const scorer *x, int64_t row, best_list *best, chooser again, int32_t *ids);

/* ---- Parts --------------------------------------------------------------------------------------------- */

/* Of a request's keys, at most. */
#define KEY_PARTS 64
/* Keys of one: a multiple of 128, and no fewer than 1024. */
int64_t part_keys(int64_t visible);
/* Chosen blocks of one, at least, and slots of a row of ids that can hold some. */
#define PART_BLOCKS 4
int slots_of(const msa_shape *s);

/* ---- Heads of a part, parts of a query (slab by slab: parts lie slabs_of() heads apart) -------------- */

/* Where keys and values lie as floats, row after row. */
typedef struct unpacked {
    float *k, *v;
} unpacked;

unpacked unpacked_take(const msa_shape *s, arena *a);

/* Heads of all groups for most_queries() and so many parts. */
int64_t most_heads(const msa_shape *s, int parts);

void parts_begin(const msa_shape *s, heads *h, int parts, const float *q, int64_t row, int r);
/* Keys of a group for `queries` queries that begin at h (`apart` heads from one to the next), of which the first sees
 * the first `seen`, the others one more each. Meanwhile those of group next_r that come next are asked for. */
void attend_keys(const cache *x, int r, run keys, int64_t seen, heads *h, int64_t queries, int64_t apart,
                 int next_r, run next, unpacked u);
/* Merges the parts of query `row` and writes what comes of them. */
void parts_finish(const msa_shape *s, heads *h, int parts, int64_t row, int r, float *o, float *lse);

/* ---- Many queries over pages: their products are worth a copy of the request's keys in one piece ------ */

/* Request r of a paged call as a padded sequence of its own: sizes, and so workspaces, do not depend on
 * lengths. */
typedef struct alone {
    msa_shape s;
    int32_t len_q, len_kv;
} alone;

void set_alone(alone *a, const msa_shape *s, const request *at);

/* Longer requests go through FEW queries at a time. */
bool worth_gathering(const msa_shape *s, int64_t n_q);
/* A request's rows of x, `width` numbers each. */
void gather_rows(const request *at, cached x, int width, float *to);
/* Queries i .. i+FEW-1 of a request, as if its newest tokens were theirs. */
cache few_of(const cache *x, int64_t i);

#endif
