/* Backward with the key blocks outside, and the rule that chooses between it and the tiles. */
#include "exact.h"
#include "online.h"
#include "sweep.h"

#define PIECES 16                       /* (group, part) of a chunk, at least: for the threads to share */
#define MOST_FLOATS ((int64_t)64 << 20) /* of dQ that all pieces add up: 256 MB */
#define MOST_QUERIES 4096
#define LEAST_QUERIES 32

static int parts_of(const msa_shape *s)
{
    return (PIECES + s->n_kv_heads - 1) / s->n_kv_heads;
}

static int64_t queries_at_once(const msa_shape *s)
{
    const int64_t most = MOST_FLOATS / ((int64_t)parts_of(s) * s->n_heads * s->d_head);
    return min_i64(s->n_q, max_i64(LEAST_QUERIES, min_i64(MOST_QUERIES, most)));
}

/* ---- One visit --------------------------------------------------------------------------------------- */

typedef struct gradients {
    const float *q, *k, *v, *lse, *dout, *delta; /* delta [n,Hq] of the chunk */
    float *dk, *dv;
    float *dq, *excess;                    /* [n,group,d], [n,group] of the piece */
    float *rows_q, *rows_do, *rows_dq;     /* [rows,d] */
    float *p, *dp, *rows_lse, *rows_delta; /* [rows,keys], [rows] */
} gradients;

/* Row a of logits x [queries*count,cols] becomes probabilities exp(x - lse[a]); 0 where a key is not seen. */
static void weigh(const block_visit *m, int count, const float *lse, float *x)
{
    for (int64_t row = 0; row < m->queries * count; row++, x += m->cols) {
        const int64_t seen = seen_by(m, row / count);
        /* What float32 could not hold has to show: -inf less anything weighs nothing. */
        const bool held = row_top(x, seen, -INFINITY) < INFINITY && fabsf(lse[row]) < MOST_LSE;
        const float base = held ? lse[row] : NAN;
        for (int64_t c = 0; c < seen; c++)
            x[c] = exp2_nonpositive((float)LOG2_E * (x[c] - base));
        for (int64_t c = seen; c < m->cols; c++)
            x[c] = 0;
    }
}

/* [visit_block] */
static void visit_block(const block_visit *m, void *own)
{
    const gradients *g = own;
    const msa_shape *s = m->w->s;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads, head = m->r * group;
    const int64_t rows = m->queries * group, stride = (int64_t)s->n_kv_heads * d;
    const int64_t at = (m->w->seq.kv0 + m->j0) * stride + (int64_t)m->r * d;
    visit_gather(m, g->q, s->n_heads, head, group, d, (float)(1 / sqrt(d)), g->rows_q);
    visit_gather(m, g->dout, s->n_heads, head, group, d, 1, g->rows_do);
    visit_gather(m, g->lse, s->n_heads, head, group, 1, 1, g->rows_lse);
    small_gemm(false, true, rows, m->cols, d, g->rows_q, d, g->k + at, stride, 0, g->p, m->cols);
    small_gemm(false, true, rows, m->cols, d, g->rows_do, d, g->v + at, stride, 0, g->dp, m->cols);
    weigh(m, group, g->rows_lse, g->p);
    for (int64_t row = 0; row < rows; row++) { /* dS = P * (dP - delta) */
        const float delta = g->delta[m->entry[row / group] * s->n_heads + head + row % group];
        float *dp = g->dp + row * m->cols, excess = 0;
        const float *p = g->p + row * m->cols;
#pragma omp simd reduction(+ : excess)
        for (int64_t c = 0; c < m->cols; c++) {
            dp[c] = p[c] * (dp[c] - delta);
            excess += dp[c];
        }
        g->excess[(int64_t)m->entry[row / group] * group + row % group] += excess;
    }
    small_gemm(true, false, m->cols, d, rows, g->p, m->cols, g->rows_do, d, 1, g->dv + at, stride);
    small_gemm(true, false, m->cols, d, rows, g->dp, m->cols, g->rows_q, d, 1, g->dk + at, stride);
    small_gemm(false, false, rows, d, m->cols, g->dp, m->cols, g->k + at, stride, 0, g->rows_dq, d);
    visit_scatter(m, g->rows_dq, (int64_t)group * d, g->dq);
}
/* [visit_block] */

static size_t place_own(gradients *g, const msa_shape *s, void *work)
{
    const int64_t rows = visit_queries(s) * (s->n_heads / s->n_kv_heads);
    arena a = arena_over(work);
    g->rows_q = arena_take(&a, rows * s->d_head, sizeof *g->rows_q);
    g->rows_do = arena_take(&a, rows * s->d_head, sizeof *g->rows_do);
    g->rows_dq = arena_take(&a, rows * s->d_head, sizeof *g->rows_dq);
    g->p = arena_take(&a, rows * SWEEP_KEYS, sizeof *g->p);
    g->dp = arena_take(&a, rows * SWEEP_KEYS, sizeof *g->dp);
    g->rows_lse = arena_take(&a, rows, sizeof *g->rows_lse);
    return arena_bytes(&a);
}

static size_t own_bytes(const msa_shape *s)
{
    gradients g;
    return place_own(&g, s, NULL);
}

/* ---- One chunk of queries ------------------------------------------------------------------------------ */

/* delta = rowsum(dP * P) = dO . O */
static void find_delta(const sweep *w, const float *o, const float *dout, float *delta)
{
    const int d = w->s->d_head;
    const int64_t first = (w->seq.q0 + w->i0) * w->s->n_heads;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < w->n * w->s->n_heads; row++)
        delta[row] = (float)dot(o + (first + row) * d, dout + (first + row) * d, d);
}

/* Sums what the parts have of dQ, without what keys have in common: a saved LSE of large logits is rounded,
 * and rows of dS do not sum to 0 (centre.c). */
static void finish(const sweep *w, const float *k, const int32_t *ids, const float *pieces,
                   const float *excesses, float *buffer, float *centre, float *dq)
{
    const msa_shape *s = w->s;
    const int parts = parts_of(s), d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const int64_t wide = (int64_t)group * d, size = w->n * wide;
    const float scale = (float)(1 / sqrt(s->d_head));
#pragma omp for schedule(static)
    for (int64_t row = 0; row < w->n * s->n_kv_heads; row++) {
        const int64_t i = row / s->n_kv_heads, r = row % s->n_kv_heads;
        const float *from = pieces + r * parts * size + i * wide;
        float *to = dq + ((w->seq.q0 + w->i0 + i) * s->n_kv_heads + r) * wide;
        cached_centre(s, ids_row(s, ids, (int)r, w->seq.q0 + w->i0 + i), position(&w->seq, w->i0 + i),
                      floats(k), s->n_kv_heads, (int)r, w->seq.kv0, d, buffer, centre);
        for (int h = 0; h < group; h++) {
            float excess = 0;
            for (int part = 0; part < parts; part++)
                excess += excesses[(r * parts + part) * w->n * group + i * group + h];
            for (int c = 0; c < d; c++) {
                float sum = -excess * centre[c];
                for (int part = 0; part < parts; part++)
                    sum += from[part * size + h * d + c];
                to[h * d + c] = scale * sum;
            }
        }
    }
}

static void backward_chunk(const sweep *w, const gradients *shared, const float *o, const int32_t *ids,
                           float *dq, float *delta, float *pieces, float *excesses, void *own)
{
    const msa_shape *s = w->s;
    const int parts = parts_of(s);
    const int64_t rows = w->n * (s->n_heads / s->n_kv_heads), size = rows * s->d_head;
    const int threads = products_begin();
#pragma omp parallel num_threads(threads)
    {
        gradients g = *shared;
        place_own(&g, s, own_part(own, own_bytes(s)));
        g.delta = delta;
        find_delta(w, o, g.dout, delta);
#pragma omp for schedule(dynamic)
        for (int row = 0; row < s->n_kv_heads * parts; row++) {
            const int r = row / parts, part = row % parts;
            g.dq = pieces + row * size;
            g.excess = excesses + row * rows;
            memset(g.dq, 0, (size_t)size * sizeof *g.dq);
            memset(g.excess, 0, (size_t)rows * sizeof *g.excess);
            sweep_walk(w, r, sweep_cut(w, r, r + 1, part, parts), sweep_cut(w, r, r + 1, part + 1, parts),
                       visit_block, &g);
        }
        finish(w, g.k, ids, pieces, excesses, g.rows_q, g.rows_do, dq); /* rows are many more than samples */
    }
    products_end();
}

/* ---- The stage ----------------------------------------------------------------------------------------- */

typedef struct scratch {
    float *o, *lse; /* for callers that do not have the forward's results */
    void *forward;
    sweep w;
    float *delta, *pieces, *excesses; /* [n,Hq], [parts,n,Hq,d], [parts,n,Hq] */
    void *own, *again;
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t n = queries_at_once(s), rows = n * s->n_heads;
    arena a = arena_over(work);
    m->again = arena_share(&a, backward_again_workspace(s));
    m->o = arena_take(&a, s->n_q * s->n_heads * s->d_head, sizeof *m->o);
    m->lse = arena_take(&a, s->n_q * s->n_heads, sizeof *m->lse);
    sweep_take(&m->w, s, n, &a);
    m->forward = arena_share(&a, max_size(fast_dense_workspace(s), fast_sparse_workspace(s)));
    m->delta = arena_take(&a, rows, sizeof *m->delta);
    m->pieces = arena_take(&a, parts_of(s) * rows * s->d_head, sizeof *m->pieces);
    m->excesses = arena_take(&a, parts_of(s) * rows, sizeof *m->excesses);
    m->own = arena_take(&a, fast_max_threads(), own_bytes(s));
    return arena_bytes(&a);
}

size_t fast_backward_blocks_workspace(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

msa_status fast_backward_blocks(const msa_shape *s, const float *q, const float *k, const float *v,
                                const int32_t *ids, const float *o, const float *lse, const float *dout,
                                float *dq, float *dk, float *dv, void *work)
{
    MSA_TRY(ids ? msa_check_ids(s, ids) : msa_check_shape(s));
    if (!q || !k || !v || !dout || !dq || !dk || !dv || !work)
        return MSA_ERR_NULL;
    scratch m;
    place(&m, s, work);
    if (!o || !lse) {
        MSA_TRY(ids ? fast_sparse(s, q, k, v, ids, m.o, m.lse, m.forward)
                    : fast_dense(s, q, k, v, m.o, m.lse, m.forward));
        o = m.o;
        lse = m.lse;
    }
    const size_t kv_bytes = (size_t)(s->n_kv * s->n_kv_heads * s->d_head) * sizeof(float);
    const int64_t step = queries_at_once(s);
    const gradients g = {.q = q, .k = k, .v = v, .lse = lse, .dout = dout, .dk = dk, .dv = dv};
    memset(dk, 0, kv_bytes);
    memset(dv, 0, kv_bytes);
    pad_queries(s, 1, (int64_t)s->n_heads * s->d_head, 0, dq);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int64_t i0 = 0; i0 < seq.n_q; i0 += step) {
            sweep_open(&m.w, &seq, i0, step, ids);
            backward_chunk(&m.w, &g, o, ids, dq, m.delta, m.pieces, m.excesses, m.own);
        }
    }
    if (backward_faint(s, floats(q), floats(k), floats(v), floats(dout)) || !backward_held(s, dq, dk, dv))
        backward_again(s, floats(q), floats(k), floats(v), ids, floats(dout), dq, dk, dv, m.again);
    return MSA_OK;
}
