/* Forward attention over tiles, dense and sparse: O = softmax(Q Ku^T / sqrt(dh)) Vu. */
#include "exact.h"

typedef struct scratch {
    tile t;
    float *rows, *logits, *denom, *lse, *k, *v;
} scratch;

static size_t place(scratch *m, const msa_shape *s, bool full, void *work)
{
    const int64_t rows = tile_queries(s) * (s->n_heads / s->n_kv_heads), cols = tile_max_cols(s, full);
    arena a = arena_over(work);
    tile_take(&m->t, s, full, &a);
    m->rows = arena_take(&a, rows * s->d_head, sizeof *m->rows);
    m->logits = arena_take(&a, rows * cols, sizeof *m->logits);
    m->denom = arena_take(&a, rows, sizeof *m->denom);
    m->lse = arena_take(&a, rows, sizeof *m->lse);
    m->k = full ? NULL : arena_take(&a, cols * s->d_head, sizeof *m->k);
    m->v = full ? NULL : arena_take(&a, cols * s->d_head, sizeof *m->v);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s, bool full)
{
    scratch m;
    return place(&m, s, full, NULL);
}

static void attend_tile(const msa_shape *s, scratch *m, const float *q, const float *k, const float *v,
                        const int32_t *ids, float *o, float *lse)
{
    const tile *t = &m->t;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads, head = t->r * group;
    const int64_t rows = t->n * group;
    int64_t ldk, ldv;
    const float *ku = tile_gather(t, k, s->n_kv_heads, t->r, d, m->k, &ldk);
    const float *vu = tile_gather(t, v, s->n_kv_heads, t->r, d, m->v, &ldv);
    tile_pack(t, q, s->n_heads, head, group, d, (float)(1 / sqrt(d)), m->rows);
    small_gemm(false, true, rows, t->cols, d, m->rows, d, ku, ldk, 0, m->logits, t->cols);
    tile_softmax(t, ids, group, m->logits, m->denom, m->lse);
    small_gemm(false, false, rows, d, t->cols, m->logits, t->cols, vu, ldv, 0, m->rows, d);
    for (int64_t row = 0; row < rows; row++)
        for (int c = 0; c < d; c++)
            m->rows[row * d + c] /= m->denom[row];
    tile_unpack(t, m->rows, s->n_heads, head, group, d, o);
    if (lse)
        tile_unpack(t, m->lse, s->n_heads, head, group, 1, lse);
}

size_t attend_tiles_workspace(const msa_shape *s, bool full)
{
    return max_size((size_t)fast_max_threads() * scratch_bytes(s, full), attend_again_workspace(s));
}

msa_status attend_tiles(const msa_shape *s, const float *q, const float *k, const float *v,
                        const int32_t *ids, float *o, float *lse, void *work)
{
    const bool full = !ids;
    const size_t each = scratch_bytes(s, full);
    pad_outputs(s, NULL, o, lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const int64_t tiles = tile_count(s, &seq), pieces = tiles * s->n_kv_heads;
        const int threads = products_begin();
#pragma omp parallel num_threads(threads)
        {
            scratch m;
            place(&m, s, full, own_part(work, each));
            /* The last tiles are the longest: they go first. */
#pragma omp for schedule(dynamic)
            for (int64_t piece = 0; piece < pieces; piece++) {
                tile_open(&m.t, s, &seq, (int)(piece % s->n_kv_heads), tiles - 1 - piece / s->n_kv_heads,
                          ids);
                attend_tile(s, &m, q, k, v, ids, o, lse);
            }
        }
        products_end();
    }
    attend_again(s, NULL, floats(q), floats(k), floats(v), ids, o, lse, work);
    return MSA_OK;
}

size_t fast_sparse_tiles_workspace(const msa_shape *s)
{
    return attend_tiles_workspace(s, false);
}

msa_status fast_sparse_tiles(const msa_shape *s, const float *q, const float *k, const float *v,
                             const int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    return attend_tiles(s, q, k, v, ids, o, lse, work);
}
