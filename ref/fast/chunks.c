/* The selection of a chunk of queries, turned around. */
#include "chunks.h"

#define MOST_QUERIES 4096
#define LEAST_QUERIES 64
#define LEAST_PIECES 8 /* for the threads to share */

int64_t block_keys(const msa_shape *s)
{
    return min_i64(s->block, longest_kv(s));
}

int64_t chunk_queries(const msa_shape *s, int64_t wanted, int64_t most)
{
    const int64_t fair = s->n_q * s->n_kv_heads / LEAST_PIECES;
    return max_i64(LEAST_QUERIES, min_i64(min_i64(wanted, MOST_QUERIES), min_i64(fair, most)));
}

void chunk_take(chunk *c, const msa_shape *s, int64_t n, arena *a)
{
    c->first = arena_take(a, msa_n_blocks(s) + 2, sizeof *c->first);
    c->entry = arena_take(a, n * s->topk, sizeof *c->entry);
}

void chunk_open(chunk *c, const msa_seq *seq, int r, int64_t i0, int64_t most)
{
    c->seq = *seq;
    c->r = r;
    c->i0 = i0;
    c->n = min_i64(most, seq->n_q - i0);
}

/* Count, sum up, scatter. */
void chunk_turn(chunk *c, const msa_shape *s, const int32_t *ids)
{
    const int32_t *id = ids_row(s, ids, c->r, c->seq.q0 + c->i0);
    const int64_t blocks = msa_n_blocks(s), n = c->n * s->topk;
    memset(c->first, 0, (size_t)(blocks + 2) * sizeof *c->first);
    for (int64_t i = 0; i < n; i++)
        if (id[i] >= 0)
            c->first[id[i] + 2]++;
    for (int64_t b = 1; b <= blocks; b++)
        c->first[b + 1] += c->first[b];
    for (int64_t i = 0; i < n; i++) /* first[b+1] begins as the start of b and ends as its end */
        if (id[i] >= 0)
            c->entry[c->first[id[i] + 1]++] = (int32_t)(i / s->topk);
}
