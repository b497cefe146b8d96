/* Sparse attention with the key blocks outside (the paper's KV-outer order). One thread owns a chunk of
 * queries of a group. It turns their ids around, and for each block gathers the queries that chose it: their
 * heads are the rows of two full products with 128 keys. Every query carries its own online softmax, so no
 * partial result is stored and nothing is combined afterwards. */
#include "chunks.h"
#include "exact.h"
#include "online.h"

#define ROWS 512                        /* of one product at most */
#define KEYS 512                        /* a longer block is walked in pieces */
#define LINE 16                         /* floats of a cache line */
#define MOST_FLOATS ((int64_t)16 << 20) /* that a chunk accumulates: 64 MB */

/* So many queries that a block is chosen by ROWS rows on average. */
static int64_t queries_at_once(const msa_shape *s)
{
    const int64_t group = s->n_heads / s->n_kv_heads;
    return chunk_queries(s, ROWS * msa_n_blocks(s) / (s->topk * group), MOST_FLOATS / (group * s->d_head));
}

typedef struct scratch {
    chunk c;
    float *o, *max;          /* [n,group,d], [n,group] */
    double *sum;             /* [n,group] */
    float *q, *logits, *add; /* rows of one product */
    float *shrink;
} scratch;

static int64_t rows_at_once(const msa_shape *s)
{
    const int64_t group = s->n_heads / s->n_kv_heads;
    return max_i64(1, ROWS / group) * group;
}

static int64_t keys_at_once(const msa_shape *s)
{
    return min_i64(KEYS, s->block);
}

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t n = queries_at_once(s), group = s->n_heads / s->n_kv_heads, rows = rows_at_once(s);
    arena a = arena_over(work);
    chunk_take(&m->c, s, n, &a);
    m->o = arena_take(&a, n * group * s->d_head, sizeof *m->o);
    m->max = arena_take(&a, n * group, sizeof *m->max);
    m->sum = arena_take(&a, n * group, sizeof *m->sum);
    m->q = arena_take(&a, rows * s->d_head, sizeof *m->q);
    m->add = arena_take(&a, rows * s->d_head, sizeof *m->add);
    m->logits = arena_take(&a, rows * keys_at_once(s), sizeof *m->logits);
    m->shrink = arena_take(&a, rows, sizeof *m->shrink);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* The tensors of a call, from the first row of the sequence and the first channel of the group. */
typedef struct view {
    const msa_shape *s;
    msa_seq seq;
    int group;                   /* heads */
    int64_t q_stride, kv_stride; /* floats from token to token */
    const float *q, *k, *v;
} view;

/* Asks for the query and the output of row a of the product that comes next. */
static void fetch_next(const view *w, const scratch *m, const int32_t *next, int64_t a)
{
    const int64_t wide = w->s->d_head, head = a % w->group, query = next[a / w->group];
    const float *q = w->q + (m->c.i0 + query) * w->q_stride + head * wide;
    const float *o = m->o + (query * w->group + head) * wide;
    for (int64_t c = 0; c < wide; c += LINE) {
        __builtin_prefetch(q + c, 0, 2);
        __builtin_prefetch(o + c, 1, 2);
    }
}

/* Weights of `rows` logits of keys j0 .. j0+cols-1; keys after a query's own position weigh nothing. */
static void online_softmax_rows(const view *w, scratch *m, const int32_t *entry, int64_t rows, int64_t j0,
                                int64_t cols)
{
    const int64_t queries = rows / w->group;
    const int32_t *end = m->c.entry + m->c.first[msa_n_blocks(w->s)];
    for (int64_t row = 0; row < rows; row++) {
        const int64_t query = entry[row / w->group], at = query * w->group + row % w->group;
        const int64_t seen = min_i64(cols, position(&w->seq, m->c.i0 + query) + 1 - j0);
        float *x = m->logits + row * cols;
        if (entry + queries + row / w->group < end)
            fetch_next(w, m, entry + queries, row);
        m->shrink[row] = seen > 0 ? online_softmax(x, seen, &m->max[at], &m->sum[at]) : 1;
        for (int64_t c = max_i64(0, seen); c < cols; c++)
            x[c] = 0;
    }
}

static void gather(const view *w, scratch *m, const int32_t *entry, int64_t queries)
{
    const int64_t wide = (int64_t)w->group * w->s->d_head;
    const float scale = (float)(LOG2_E / sqrt(w->s->d_head));
    for (int64_t e = 0; e < queries; e++) {
        const float *from = w->q + (m->c.i0 + entry[e]) * w->q_stride;
        for (int64_t c = 0; c < wide; c++)
            m->q[e * wide + c] = scale * from[c];
    }
}

static void scatter(const view *w, scratch *m, const int32_t *entry, int64_t rows)
{
    const int d = w->s->d_head;
    for (int64_t row = 0; row < rows; row++) {
        float *o = m->o + ((int64_t)entry[row / w->group] * w->group + row % w->group) * d;
        const float *add = m->add + row * d, shrink = m->shrink[row];
        for (int c = 0; c < d; c++)
            o[c] = o[c] * shrink + add[c];
    }
}

/* Some queries meet one block. */
static void attend_block(const view *w, scratch *m, int64_t block, const int32_t *entry, int64_t queries)
{
    const int d = w->s->d_head;
    const int64_t rows = queries * w->group, begin = block * w->s->block;
    const int64_t end = min_i64(begin + w->s->block, position(&w->seq, m->c.i0 + entry[queries - 1]) + 1);
    gather(w, m, entry, queries);
    for (int64_t j0 = begin; j0 < end; j0 += KEYS) {
        const int64_t cols = min_i64(KEYS, end - j0);
        small_gemm(false, true, rows, cols, d, m->q, d, w->k + j0 * w->kv_stride, w->kv_stride, 0, m->logits,
                   cols);
        online_softmax_rows(w, m, entry, rows, j0, cols);
        small_gemm(false, false, rows, d, cols, m->logits, cols, w->v + j0 * w->kv_stride, w->kv_stride, 0,
                   m->add, d);
        scatter(w, m, entry, rows);
    }
}

static void attend_chunk(const view *w, scratch *m, const int32_t *ids, float *o, float *lse)
{
    const int d = w->s->d_head;
    const int64_t rows = m->c.n * w->group, most = rows_at_once(w->s) / w->group;
    chunk_turn(&m->c, w->s, ids);
    memset(m->o, 0, (size_t)(rows * d) * sizeof *m->o);
    for (int64_t row = 0; row < rows; row++) {
        m->max[row] = -INFINITY;
        m->sum[row] = 0;
    }
    for (int64_t b = 0; b < msa_n_blocks(w->s); b++)
        for (int64_t e = m->c.first[b]; e < m->c.first[b + 1]; e += most)
            attend_block(w, m, b, m->c.entry + e, min_i64(most, m->c.first[b + 1] - e));
    for (int64_t row = 0; row < rows; row++) {
        const int64_t query = row / w->group, head = row % w->group;
        const float inverse = (float)(1 / m->sum[row]);
        float *to = o + query * w->q_stride + head * d;
        for (int c = 0; c < d; c++)
            to[c] = m->o[row * d + c] * inverse;
        if (lse)
            lse[query * w->s->n_heads + head] = online_lse(m->max[row], m->sum[row]);
    }
}

size_t fast_sparse_blocks_workspace(const msa_shape *s)
{
    return max_size((size_t)fast_max_threads() * scratch_bytes(s), attend_again_workspace(s));
}

msa_status fast_sparse_blocks(const msa_shape *s, const float *q, const float *k, const float *v,
                              const int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    const int group = s->n_heads / s->n_kv_heads, d = s->d_head;
    const int64_t step = queries_at_once(s), q_stride = (int64_t)s->n_heads * d;
    pad_outputs(s, NULL, o, lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const int64_t chunks = (seq.n_q + step - 1) / step;
        const int threads = products_begin();
#pragma omp parallel num_threads(threads)
        {
            scratch m;
            place(&m, s, own_part(work, scratch_bytes(s)));
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < chunks * s->n_kv_heads; i++) {
                const int r = (int)(i % s->n_kv_heads);
                chunk_open(&m.c, &seq, r, i / s->n_kv_heads * step, step);
                const int64_t row = seq.q0 + m.c.i0, key = (seq.kv0 * s->n_kv_heads + r) * d;
                const view w = {.s = s,
                                .seq = seq,
                                .group = group,
                                .q_stride = q_stride,
                                .kv_stride = (int64_t)s->n_kv_heads * d,
                                .q = q + seq.q0 * q_stride + (int64_t)r * group * d,
                                .k = k + key,
                                .v = v + key};
                attend_chunk(&w, &m, ids, o + row * q_stride + (int64_t)r * group * d,
                             lse ? lse + row * s->n_heads + (int64_t)r * group : NULL);
            }
        }
        products_end();
    }
    attend_again(s, NULL, floats(q), floats(k), floats(v), ids, o, lse, work);
    return MSA_OK;
}
