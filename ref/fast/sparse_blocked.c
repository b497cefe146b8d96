/* The rung after sparse_naive.c: blocks stay in the cache. A key block is brought once to all the queries of a chunk that
 * chose it. The block is turned once, so that the innermost loops run along keys, or channels, that lie side by side. */
#include "chunks.h"
#include "exact.h"
#include "online.h"

#define QUERIES 256

typedef struct scratch {
    chunk c;
    int64_t keys;      /* of the longest block */
    float *turned, *p; /* [d,keys], [keys] of a block */
    float *o, *max;    /* [n,group,d], [n,group] */
    double *sum;
} scratch;

static int64_t chunk_size(const msa_shape *s)
{
    return chunk_queries(s, QUERIES, QUERIES);
}

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t n = chunk_size(s), rows = n * (s->n_heads / s->n_kv_heads);
    arena a = arena_over(work);
    m->keys = block_keys(s);
    chunk_take(&m->c, s, n, &a);
    m->turned = arena_take(&a, s->d_head * m->keys, sizeof *m->turned);
    m->p = arena_take(&a, m->keys, sizeof *m->p);
    m->o = arena_take(&a, rows * s->d_head, sizeof *m->o);
    m->max = arena_take(&a, rows, sizeof *m->max);
    m->sum = arena_take(&a, rows, sizeof *m->sum);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* One row meets `seen` keys of a block. */
static void attend_row(const msa_shape *s, scratch *m, int64_t at, const float *q, const float *v,
                       int64_t stride, int64_t seen)
{
    const int d = s->d_head;
    const float scale = (float)(LOG2_E / sqrt(d));
    float *o = m->o + at * d;
    for (int64_t j = 0; j < seen; j++)
        m->p[j] = 0;
    for (int c = 0; c < d; c++)
        for (int64_t j = 0; j < seen; j++)
            m->p[j] += scale * q[c] * m->turned[c * m->keys + j];
    const float shrink = online_softmax(m->p, seen, &m->max[at], &m->sum[at]);
    for (int c = 0; c < d; c++)
        o[c] *= shrink;
    for (int64_t j = 0; j < seen; j++)
        for (int c = 0; c < d; c++)
            o[c] += m->p[j] * v[j * stride + c];
}

static void attend_block(const msa_shape *s, scratch *m, int64_t block, const float *q, const float *k,
                         const float *v)
{
    const chunk *x = &m->c;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const int64_t begin = block * s->block, stride = (int64_t)s->n_kv_heads * d;
    const int64_t base = ((x->seq.kv0 + begin) * s->n_kv_heads + x->r) * d;
    const int64_t keys = min_i64(s->block, x->seq.n_kv - begin);
    for (int64_t j = 0; j < keys; j++)
        for (int c = 0; c < d; c++)
            m->turned[c * m->keys + j] = k[base + j * stride + c];
    for (int64_t e = x->first[block]; e < x->first[block + 1]; e++) {
        const int64_t i = x->i0 + x->entry[e], seen = min_i64(keys, position(&x->seq, i) + 1 - begin);
        for (int h = 0; h < group; h++)
            attend_row(s, m, (int64_t)x->entry[e] * group + h,
                       q + ((x->seq.q0 + i) * s->n_heads + (int64_t)x->r * group + h) * d, v + base, stride,
                       seen);
    }
}

static void attend_chunk(const msa_shape *s, scratch *m, const float *q, const float *k, const float *v,
                         const int32_t *ids, float *o, float *lse)
{
    const chunk *x = &m->c;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    chunk_turn(&m->c, s, ids);
    memset(m->o, 0, (size_t)(x->n * group * d) * sizeof *m->o);
    for (int64_t i = 0; i < x->n * group; i++) {
        m->max[i] = -INFINITY;
        m->sum[i] = 0;
    }
    for (int64_t b = 0; b < msa_n_blocks(s); b++)
        if (x->first[b] < x->first[b + 1])
            attend_block(s, m, b, q, k, v);
    for (int64_t i = 0; i < x->n * group; i++) {
        const int64_t row = (x->seq.q0 + x->i0 + i / group) * s->n_heads + (int64_t)x->r * group + i % group;
        for (int c = 0; c < d; c++)
            o[row * d + c] = m->o[i * d + c] * (float)(1 / m->sum[i]);
        if (lse)
            lse[row] = online_lse(m->max[i], m->sum[i]);
    }
}

size_t fast_sparse_blocked_workspace(const msa_shape *s)
{
    return max_size((size_t)fast_max_threads() * scratch_bytes(s), attend_again_workspace(s));
}

msa_status fast_sparse_blocked(const msa_shape *s, const float *q, const float *k, const float *v,
                               const int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    pad_outputs(s, NULL, o, lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const int64_t step = chunk_size(s), chunks = (seq.n_q + step - 1) / step;
#pragma omp parallel num_threads(fast_threads())
        {
            scratch m;
            place(&m, s, own_part(work, scratch_bytes(s)));
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < chunks * s->n_kv_heads; i++) {
                chunk_open(&m.c, &seq, (int)(i % s->n_kv_heads), i / s->n_kv_heads * step, step);
                attend_chunk(s, &m, q, k, v, ids, o, lse);
            }
        }
    }
    attend_again(s, NULL, floats(q), floats(k), floats(v), ids, o, lse, work);
    return MSA_OK;
}
