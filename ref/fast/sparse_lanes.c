/* Sparse attention with the key blocks outside, for groups that fill a vector: the heads of a query are its
 * lanes. A thread owns a chunk of queries of a group; every query of the chunk keeps its heads, turned, with
 * their softmax so far; block after block is brought into the cache and meets the queries that chose it. No
 * product needs many rows, so nothing is gathered, packed, or combined. */
#include "chunks.h"
#include "exact.h"

#define QUERIES_OF_BLOCK 16             /* on average, to pay for bringing the block */
#define MOST_FLOATS ((int64_t)16 << 20) /* that a chunk keeps: 64 MB */

static int64_t queries_at_once(const msa_shape *s)
{
    const int64_t wanted = QUERIES_OF_BLOCK * msa_n_blocks(s) / s->topk;
    return chunk_queries(s, wanted, MOST_FLOATS / (2 * (int64_t)s->d_head * LANES * slabs_of(s)));
}

typedef struct scratch {
    chunk c;
    heads *h;     /* [n,slabs] */
    float *k, *v; /* [block,d] */
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t n = queries_at_once(s);
    arena a = arena_over(work);
    chunk_take(&m->c, s, n, &a);
    m->h = heads_take(s, n * slabs_of(s), &a);
    m->k = arena_take(&a, block_keys(s) * s->d_head, sizeof *m->k);
    m->v = arena_take(&a, block_keys(s) * s->d_head, sizeof *m->v);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* The heads and outputs of a query, as rows to be asked for. */
static ahead lines_of(const lanes *x, int d)
{
    return (ahead){(const char *)x, sizeof *x, sizeof *x, d};
}

static void attend_block(const msa_shape *s, const chunk *c, scratch *m, int64_t block, cached k, cached v)
{
    const int d = s->d_head, slabs = slabs_of(s);
    const int64_t begin = block * s->block, last = c->entry[c->first[block + 1] - 1];
    const int64_t keys = min_i64(s->block, position(&c->seq, c->i0 + last) + 1 - begin);
    const float *kb = rows_of(k, s->n_kv_heads, c->r, d, c->seq.kv0 + begin, keys, m->k);
    const float *vb = rows_of(v, s->n_kv_heads, c->r, d, c->seq.kv0 + begin, keys, m->v);
    for (int64_t e = c->first[block]; e < c->first[block + 1]; e++) {
        const int64_t seen = min_i64(keys, position(&c->seq, c->i0 + c->entry[e]) + 1 - begin);
        heads *h = m->h + (int64_t)c->entry[e] * slabs;
        const heads *next_heads =
            m->h + (int64_t)c->entry[e + 1 < c->first[msa_n_blocks(s)] ? e + 1 : e] * slabs;
        ahead next = lines_of(next_heads->q, d), after = lines_of(next_heads->o, d);
        for (int64_t j = 0; j < seen; j += HEADS_KEYS)
            for (int slab = 0; slab < slabs; slab++) {
                heads_attend(&h[slab], d, kb + j * d, vb + j * d, min_i64(HEADS_KEYS, seen - j), next, after);
                next.n = after.n = 0;
            }
    }
}

static void attend_chunk(const msa_shape *s, scratch *m, const float *q, cached k, cached v,
                         const int32_t *ids, float *o, float *lse)
{
    const chunk *c = &m->c;
    const int d = s->d_head, slabs = slabs_of(s), group = s->n_heads / s->n_kv_heads;
    chunk_turn(&m->c, s, ids);
    for (int64_t i = 0; i < c->n * slabs; i++) {
        const int64_t row = (c->seq.q0 + c->i0 + i / slabs) * s->n_heads + (int64_t)c->r * group;
        const int64_t slab = i % slabs, head = slab * LANES;
        heads_begin(&m->h[i], s, q + (row + head) * d, (int)min_i64(LANES, group - head));
    }
    for (int64_t b = 0; b < msa_n_blocks(s); b++)
        if (c->first[b] < c->first[b + 1])
            attend_block(s, c, m, b, k, v);
    for (int64_t i = 0; i < c->n * slabs; i++) {
        const int64_t row = (c->seq.q0 + c->i0 + i / slabs) * s->n_heads + (int64_t)c->r * group;
        const int64_t slab = i % slabs, head = slab * LANES;
        heads_end(&m->h[i], s, (int)min_i64(LANES, group - head), o + (row + head) * d,
                  lse ? lse + row + head : NULL);
    }
}

size_t fast_sparse_lanes_workspace(const msa_shape *s)
{
    return max_size((size_t)fast_max_threads() * scratch_bytes(s), attend_again_workspace(s));
}

msa_status fast_sparse_lanes(const msa_shape *s, const float *q, const float *k, const float *v,
                             const int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    const int64_t step = queries_at_once(s);
    pad_outputs(s, NULL, o, lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const int64_t chunks = (seq.n_q + step - 1) / step;
#pragma omp parallel num_threads(fast_threads())
        {
            scratch m;
            place(&m, s, own_part(work, scratch_bytes(s)));
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < chunks * s->n_kv_heads; i++) {
                chunk_open(&m.c, &seq, (int)(i % s->n_kv_heads), i / s->n_kv_heads * step, step);
                attend_chunk(s, &m, q, floats(k), floats(v), ids, o, lse);
            }
        }
    }
    attend_again(s, NULL, floats(q), floats(k), floats(v), ids, o, lse, work);
    return MSA_OK;
}
