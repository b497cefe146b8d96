/* Dense attention at any length: a tile of queries walks the keys chunk by chunk with an online softmax, so
 * that its logits stay in the cache. Keys that fill no chunk are one tile's columns, as in sparse_tiles.c; few queries
 * are a step of generation, dense_decode_streams.c. */
#include "exact.h"
#include "online.h"

/* Keys of a chunk: products of 512 x 512 x 128 run at 95% of a large product's rate, and a row that is no
 * longer has nothing to stream. */
#define STREAM_KEYS 512
#define ROWS 512 /* (query, head) rows of a tile */

typedef struct scratch {
    float *q, *logits, *o, *max, *lse;
    double *sum;
} scratch;

static int64_t queries_at_once(const msa_shape *s)
{
    return max_i64(1, ROWS / (s->n_heads / s->n_kv_heads));
}

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t rows = queries_at_once(s) * (s->n_heads / s->n_kv_heads);
    arena a = arena_over(work);
    m->q = arena_take(&a, rows * s->d_head, sizeof *m->q);
    m->o = arena_take(&a, rows * s->d_head, sizeof *m->o);
    m->logits = arena_take(&a, rows * STREAM_KEYS, sizeof *m->logits);
    m->max = arena_take(&a, rows, sizeof *m->max);
    m->lse = arena_take(&a, rows, sizeof *m->lse);
    m->sum = arena_take(&a, rows, sizeof *m->sum);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* Logits of the keys j0 .. j0+cols-1 to weights; shrinks O where a row has met a larger logit. */
static void online_softmax_rows(const tile *t, scratch *m, int64_t j0, int64_t cols)
{
    const int d = t->s->d_head, group = t->s->n_heads / t->s->n_kv_heads;
    for (int64_t row = 0; row < t->n * group; row++) {
        const int64_t seen = min_i64(cols, position(&t->seq, t->i0 + row / group) + 1 - j0);
        float *x = m->logits + row * cols, *o = m->o + row * d;
        const float shrink = seen > 0 ? online_softmax(x, seen, &m->max[row], &m->sum[row]) : 1;
        for (int64_t c = max_i64(0, seen); c < cols; c++)
            x[c] = 0;
        for (int c = 0; shrink < 1 && c < d; c++)
            o[c] *= shrink;
    }
}

static void stream_tile(const tile *t, scratch *m, const float *q, const float *k, const float *v, float *o,
                        float *lse)
{
    const msa_shape *s = t->s;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads, head = t->r * group;
    const int64_t rows = t->n * group, stride = (int64_t)s->n_kv_heads * d;
    const float *kr = k + (t->seq.kv0 * s->n_kv_heads + t->r) * d;
    const float *vr = v + (t->seq.kv0 * s->n_kv_heads + t->r) * d;
    tile_pack(t, q, s->n_heads, head, group, d, (float)(LOG2_E / sqrt(d)), m->q);
    memset(m->o, 0, (size_t)(rows * d) * sizeof *m->o);
    for (int64_t row = 0; row < rows; row++) {
        m->max[row] = -INFINITY;
        m->sum[row] = 0;
    }
    for (int64_t j0 = 0; j0 < t->cols; j0 += STREAM_KEYS) {
        const int64_t cols = min_i64(STREAM_KEYS, t->cols - j0);
        small_gemm(false, true, rows, cols, d, m->q, d, kr + j0 * stride, stride, 0, m->logits, cols);
        online_softmax_rows(t, m, j0, cols);
        small_gemm(false, false, rows, d, cols, m->logits, cols, vr + j0 * stride, stride, 1, m->o, d);
    }
    for (int64_t row = 0; row < rows; row++) {
        const float inverse = (float)(1 / m->sum[row]);
        for (int c = 0; c < d; c++)
            m->o[row * d + c] *= inverse;
        m->lse[row] = online_lse(m->max[row], m->sum[row]);
    }
    tile_unpack(t, m->o, s->n_heads, head, group, d, o);
    if (lse)
        tile_unpack(t, m->lse, s->n_heads, head, group, 1, lse);
}

static size_t stream_workspace(const msa_shape *s)
{
    return (size_t)fast_max_threads() * scratch_bytes(s);
}

static void stream_dense(const msa_shape *s, const msa_seq *seq, const float *q, const float *k,
                         const float *v, float *o, float *lse, void *work)
{
    const int64_t step = queries_at_once(s), tiles = (seq->n_q + step - 1) / step;
    const int threads = products_begin();
#pragma omp parallel num_threads(threads)
    {
        scratch m;
        place(&m, s, own_part(work, scratch_bytes(s)));
        /* The last tiles are the longest: they go first. */
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tiles * s->n_kv_heads; i++) {
            const int64_t i0 = (tiles - 1 - i / s->n_kv_heads) * step, n = min_i64(step, seq->n_q - i0);
            const tile t = {.s = s,
                            .seq = *seq,
                            .r = (int)(i % s->n_kv_heads),
                            .i0 = i0,
                            .n = n,
                            .cols = position(seq, i0 + n - 1) + 1};
            stream_tile(&t, &m, q, k, v, o, lse);
        }
    }
    products_end();
}

size_t fast_dense_workspace(const msa_shape *s)
{
    if (longest_kv(s) <= STREAM_KEYS)
        return attend_tiles_workspace(s, true);
    return max_size(max_size(stream_workspace(s), dense_few_workspace(s)), attend_again_workspace(s));
}

msa_status fast_dense(const msa_shape *s, const float *q, const float *k, const float *v, float *o,
                      float *lse, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    if (longest_kv(s) <= STREAM_KEYS)
        return attend_tiles(s, q, k, v, NULL, o, lse, work);
    pad_outputs(s, NULL, o, lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const request at = get_request(s, NULL, b);
        if (at.seq.n_q <= FEW)
            dense_few(s, &at, q, floats(k), floats(v), o, lse, work);
        else
            stream_dense(s, &at.seq, q, k, v, o, lse, work);
    }
    attend_again(s, NULL, floats(q), floats(k), floats(v), NULL, o, lse, work);
    return MSA_OK;
}
