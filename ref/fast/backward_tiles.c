/* Backward over tiles. One piece of work is one (sequence, group): it owns that group's dK and dV, so its
 * tiles add to them one after another, in the same order on every run. */
#include "exact.h"

typedef struct scratch {
    tile t;
    float *q, *d_o, *dq, *p, *dp, *denom, *k, *v, *dk, *dv;
} scratch;

static size_t place(scratch *m, const msa_shape *s, bool full, void *work)
{
    const int64_t rows = tile_queries(s) * (s->n_heads / s->n_kv_heads), cols = tile_max_cols(s, full);
    const int64_t wide = rows * s->d_head, square = rows * cols, tall = cols * s->d_head;
    arena a = arena_over(work);
    tile_take(&m->t, s, full, &a);
    m->q = arena_take(&a, wide, sizeof *m->q);
    m->d_o = arena_take(&a, wide, sizeof *m->d_o);
    m->dq = arena_take(&a, wide, sizeof *m->dq);
    m->p = arena_take(&a, square, sizeof *m->p);
    m->dp = arena_take(&a, square, sizeof *m->dp);
    m->denom = arena_take(&a, rows, sizeof *m->denom);
    m->k = arena_take(&a, tall, sizeof *m->k);
    m->v = arena_take(&a, tall, sizeof *m->v);
    m->dk = arena_take(&a, tall, sizeof *m->dk);
    m->dv = arena_take(&a, tall, sizeof *m->dv);
    return arena_bytes(&a);
}

/* Enough for either support: a caller need not say which it will ask for. */
static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return max_size(place(&m, s, false, NULL), place(&m, s, true, NULL));
}

/* p: weights to probabilities; dp: dP to dS = P * (dP - delta), delta = rowsum(dP * P) / rowsum(P). The sums
 * are in double: what float32 loses of many equal numbers would be in all of dS, and dS times equal keys add
 * up to it. */
static void softmax_backward(int64_t rows, int64_t cols, const float *denom, float *p, float *dp)
{
    for (int64_t row = 0; row < rows; row++, p += cols, dp += cols) {
        const float inv = 1 / denom[row];
        double weight = 0, sum = 0;
#pragma omp simd reduction(+ : weight, sum)
        for (int64_t c = 0; c < cols; c++) {
            p[c] *= inv;
            weight += p[c];
            sum += (double)dp[c] * p[c];
        }
        const float delta =
            (float)(weight == 0 ? 0 : sum / weight); /* no weight: a query that sees nothing */
        for (int64_t c = 0; c < cols; c++)
            dp[c] = p[c] * (dp[c] - delta);
    }
}

/* dx[union] += a^T b, for a [rows,cols] and b [rows,d]: straight into dx for full support. */
static void add_product(const tile *t, int64_t rows, const float *a, const float *b, int d, float *part,
                        float *dx)
{
    const int groups = t->s->n_kv_heads;
    if (t->full) {
        float *base = dx + (t->seq.kv0 * groups + t->r) * d;
        small_gemm(true, false, t->cols, d, rows, a, t->cols, b, d, 1, base, (int64_t)groups * d);
        return;
    }
    small_gemm(true, false, t->cols, d, rows, a, t->cols, b, d, 0, part, d);
    tile_scatter_add(t, part, groups, t->r, d, dx);
}

static void backward_tile(const msa_shape *s, scratch *m, const float *q, const float *k, const float *v,
                          const int32_t *ids, const float *dout, float *dq, float *dk, float *dv)
{
    const tile *t = &m->t;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads, head = t->r * group;
    const int64_t rows = t->n * group;
    const float scale = (float)(1 / sqrt(d));
    int64_t ldk, ldv;
    const float *ku = tile_gather(t, k, s->n_kv_heads, t->r, d, m->k, &ldk);
    const float *vu = tile_gather(t, v, s->n_kv_heads, t->r, d, m->v, &ldv);
    tile_pack(t, q, s->n_heads, head, group, d, scale, m->q);
    tile_pack(t, dout, s->n_heads, head, group, d, 1, m->d_o);

    small_gemm(false, true, rows, t->cols, d, m->q, d, ku, ldk, 0, m->p, t->cols);
    tile_softmax(t, ids, group, m->p, m->denom, NULL);
    small_gemm(false, true, rows, t->cols, d, m->d_o, d, vu, ldv, 0, m->dp, t->cols);
    softmax_backward(rows, t->cols, m->denom, m->p, m->dp);

    small_gemm(false, false, rows, d, t->cols, m->dp, t->cols, ku, ldk, 0, m->dq, d);
    for (int64_t i = 0; i < rows * d; i++)
        m->dq[i] *= scale;
    tile_unpack(t, m->dq, s->n_heads, head, group, d, dq);
    add_product(t, rows, m->dp, m->q, d, m->dk, dk); /* m->q carries the scale */
    add_product(t, rows, m->p, m->d_o, d, m->dv, dv);
}

size_t fast_backward_tiles_workspace(const msa_shape *s)
{
    return max_size((size_t)fast_max_threads() * scratch_bytes(s), backward_again_workspace(s));
}

msa_status fast_backward_tiles(const msa_shape *s, const float *q, const float *k, const float *v,
                               const int32_t *ids, const float *o, const float *lse, const float *dout,
                               float *dq, float *dk, float *dv, void *work)
{
    (void)o, (void)lse; /* recomputed with the tile */
    MSA_TRY(ids ? msa_check_ids(s, ids) : msa_check_shape(s));
    if (!q || !k || !v || !dout || !dq || !dk || !dv || !work)
        return MSA_ERR_NULL;
    const size_t kv_bytes = (size_t)(s->n_kv * s->n_kv_heads * s->d_head) * sizeof(float);
    const int pieces = msa_n_seqs(s) * s->n_kv_heads;
    memset(dk, 0, kv_bytes);
    memset(dv, 0, kv_bytes);
    pad_queries(s, 1, (int64_t)s->n_heads * s->d_head, 0, dq);
    const int threads = products_begin();
#pragma omp parallel num_threads(threads)
    {
        scratch m;
        place(&m, s, !ids, own_part(work, scratch_bytes(s)));
#pragma omp for schedule(dynamic)
        for (int piece = 0; piece < pieces; piece++) {
            const msa_seq seq = msa_get_seq(s, piece / s->n_kv_heads);
            for (int64_t i = 0; i < tile_count(s, &seq); i++) {
                tile_open(&m.t, s, &seq, piece % s->n_kv_heads, i, ids);
                backward_tile(s, &m, q, k, v, ids, dout, dq, dk, dv);
            }
        }
    }
    products_end();
    if (backward_faint(s, floats(q), floats(k), floats(v), floats(dout)) || !backward_held(s, dq, dk, dv))
        backward_again(s, floats(q), floats(k), floats(v), ids, floats(dout), dq, dk, dv, work);
    return MSA_OK;
}
