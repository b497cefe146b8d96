/* The selector's KL loss over tiles. As in backward_tiles.c a piece of work is one (sequence, group), run in order;
 * the index keys are shared by the groups, so each group adds to a dKi of its own and these are summed last.
 */
#include "exact.h"
#include "vmath.h"

typedef struct scratch {
    tile t;
    float *q, *p, *denom, *k;                                /* teacher: rows of all heads */
    float *teacher;                                          /* [n,cols] */
    float *qi, *logits, *u, *udenom, *ulse, *ki, *dqi, *dki; /* student: one row a query */
} scratch;

static size_t place_own(scratch *m, const msa_shape *s, bool full, void *work)
{
    const int64_t n = tile_queries(s), rows = n * (s->n_heads / s->n_kv_heads), cols = tile_max_cols(s, full);
    arena a = arena_over(work);
    tile_take(&m->t, s, full, &a);
    m->q = arena_take(&a, rows * s->d_head, sizeof *m->q);
    m->p = arena_take(&a, rows * cols, sizeof *m->p);
    m->denom = arena_take(&a, rows, sizeof *m->denom);
    m->k = arena_take(&a, cols * s->d_head, sizeof *m->k);
    m->teacher = arena_take(&a, n * cols, sizeof *m->teacher);
    m->qi = arena_take(&a, n * s->d_index, sizeof *m->qi);
    m->logits = arena_take(&a, n * cols, sizeof *m->logits);
    m->u = arena_take(&a, n * cols, sizeof *m->u);
    m->udenom = arena_take(&a, n, sizeof *m->udenom);
    m->ulse = arena_take(&a, n, sizeof *m->ulse);
    m->ki = arena_take(&a, cols * s->d_index, sizeof *m->ki);
    m->dqi = arena_take(&a, n * s->d_index, sizeof *m->dqi);
    m->dki = arena_take(&a, cols * s->d_index, sizeof *m->dki);
    return arena_bytes(&a);
}

/* Enough for either support: a caller need not say which it will ask for. */
static size_t own_bytes(const msa_shape *s)
{
    scratch m;
    return max_size(place_own(&m, s, false, NULL), place_own(&m, s, true, NULL));
}

/* m->teacher = mean over the group's heads of their probabilities. */
static void teach(const msa_shape *s, scratch *m, const float *q, const float *k, const int32_t *ids)
{
    const tile *t = &m->t;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    int64_t ld;
    const float *ku = tile_gather(t, k, s->n_kv_heads, t->r, d, m->k, &ld);
    tile_pack(t, q, s->n_heads, t->r * group, group, d, (float)(1 / sqrt(d)), m->q);
    small_gemm(false, true, t->n * group, t->cols, d, m->q, d, ku, ld, 0, m->p, t->cols);
    tile_softmax(t, ids, group, m->p, m->denom, NULL);
    for (int64_t i = 0; i < t->n; i++)
        for (int h = 0; h < group; h++) {
            float share = 1 / (m->denom[i * group + h] * (float)group), *to = m->teacher + i * t->cols;
            const float *from = m->p + (i * group + h) * t->cols;
            for (int64_t c = 0; c < t->cols; c++)
                to[c] = share * from[c] + (h > 0 ? to[c] : 0);
        }
}

/* KL(t || u) of one row, log u taken from the logits so that no underflow of u cuts it short. Turns the
 * unnormalised student weights u into u - t. */
static double kl_row(int64_t n, const float *t, const float *logits, float lse, float denom, float *u)
{
    const float inv = 1 / denom, smallest = 1.17549435e-38f;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) {
        float log_t = log_positive(t[c] > smallest ? t[c] : smallest);
        sum += t[c] * (log_t - (logits[c] - lse)); /* t is 0 outside the support */
        u[c] = u[c] * inv - t[c];
    }
    return (double)sum;
}

/* Loss of a tile; its gradients if dqi is not NULL. dki is this group's own. */
static double kl_tile(const msa_shape *s, scratch *m, const float *q, const float *k, const float *qi,
                      const float *ki, const int32_t *ids, double weight, float *dqi, float *dki)
{
    const tile *t = &m->t;
    const int d = s->d_index;
    const float scale = (float)(1 / sqrt(d));
    int64_t ld;
    teach(s, m, q, k, ids);
    const float *ku = tile_gather(t, ki, 1, 0, d, m->ki, &ld);
    tile_pack(t, qi, s->n_kv_heads, t->r, 1, d, scale, m->qi);
    small_gemm(false, true, t->n, t->cols, d, m->qi, d, ku, ld, 0, m->u, t->cols);
    memcpy(m->logits, m->u, (size_t)(t->n * t->cols) * sizeof *m->u);
    tile_softmax(t, ids, 1, m->u, m->udenom, m->ulse);
    double loss = 0;
    for (int64_t i = 0; i < t->n; i++)
        loss += kl_row(t->cols, m->teacher + i * t->cols, m->logits + i * t->cols, m->ulse[i], m->udenom[i],
                       m->u + i * t->cols);
    if (!dqi)
        return loss;

    const float factor = (float)(weight / kl_rows(s));
    for (int64_t i = 0; i < t->n * t->cols; i++)
        m->u[i] *= factor;
    small_gemm(false, false, t->n, d, t->cols, m->u, t->cols, ku, ld, 0, m->dqi, d);
    for (int64_t i = 0; i < t->n * d; i++)
        m->dqi[i] *= scale;
    tile_unpack(t, m->dqi, s->n_kv_heads, t->r, 1, d, dqi);
    if (t->full) {
        small_gemm(true, false, t->cols, d, t->n, m->u, t->cols, m->qi, d, 1, dki + t->seq.kv0 * d, d);
    } else {
        small_gemm(true, false, t->cols, d, t->n, m->u, t->cols, m->qi, d, 0, m->dki, d);
        tile_scatter_add(t, m->dki, 1, 0, d, dki);
    }
    return loss;
}

typedef struct shared {
    double *part;     /* [sequence,Hkv] of the loss */
    float *group_dki; /* [Hkv,S,di] */
    void *own, *again;
} shared;

static size_t place(shared *w, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    w->again = arena_share(&a, kl_again_workspace(s));
    w->part = arena_take(&a, (int64_t)msa_n_seqs(s) * s->n_kv_heads, sizeof *w->part);
    w->group_dki = arena_take(&a, s->n_kv_heads * s->n_kv * s->d_index, sizeof *w->group_dki);
    w->own = arena_take(&a, fast_max_threads(), own_bytes(s));
    return arena_bytes(&a);
}

size_t fast_kl_tiles_workspace(const msa_shape *s)
{
    shared w;
    return place(&w, s, NULL);
}

msa_status fast_kl_tiles(const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,
                         const int32_t *ids, const float *lse, const float *index_lse, double weight,
                         double *loss, float *dqi, float *dki, void *work)
{
    (void)lse, (void)index_lse; /* recomputed with the tile */
    MSA_TRY(ids ? msa_check_ids(s, ids) : msa_check_shape(s));
    if (!q || !k || !qi || !ki || !loss || !work || !dqi != !dki)
        return MSA_ERR_NULL;
    const int groups = s->n_kv_heads, pieces = msa_n_seqs(s) * groups;
    const int64_t ki_size = s->n_kv * s->d_index;
    shared w;
    place(&w, s, work);
    double *part = w.part;
    float *group_dki = w.group_dki;
    if (dki)
        memset(group_dki, 0, (size_t)(groups * ki_size) * sizeof *group_dki);
    pad_queries(s, 1, (int64_t)groups * s->d_index, 0, dqi);
    const int threads = products_begin();
#pragma omp parallel num_threads(threads)
    {
        scratch m;
        place_own(&m, s, !ids, own_part(w.own, own_bytes(s)));
#pragma omp for schedule(dynamic)
        for (int piece = 0; piece < pieces; piece++) {
            const msa_seq seq = msa_get_seq(s, piece / groups);
            const int r = piece % groups;
            part[piece] = 0;
            for (int64_t i = 0; i < tile_count(s, &seq); i++) {
                tile_open(&m.t, s, &seq, r, i, ids);
                part[piece] += kl_tile(s, &m, q, k, qi, ki, ids, weight, dqi, group_dki + r * ki_size);
            }
        }
    }
    products_end();
    *loss = 0;
    for (int piece = 0; piece < pieces; piece++)
        *loss += part[piece] / kl_rows(s);
    for (int64_t i = 0; dki && i < ki_size; i++) {
        float sum = 0;
        for (int r = 0; r < groups; r++)
            sum += group_dki[r * ki_size + i];
        dki[i] = sum;
    }
    if (kl_faint(s, floats(qi), floats(ki), weight) || !kl_held(s, *loss, dqi, dki))
        kl_again(s, floats(q), floats(k), floats(qi), floats(ki), ids, weight, loss, dqi, dki, w.again);
    return MSA_OK;
}
