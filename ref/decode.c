/* One step of generation: the whole attention for the newest tokens of every request, over a KV cache that is
 * contiguous or in pages of one block.
 *
 * Nothing of the mathematics changes with pages. Only where key j of a request lies does:
 *
 *   row(j) = table[j / Bk] Bk + j % Bk */
#include "internal.h"

/* ---- Requests ------------------------------------------------------------------------------------- */

/* One request of the call: where its queries start, how many keys it has, and where those are. */
typedef struct request {
    int64_t q0, n_q, n_kv;
    int64_t kv0;          /* its first key, where keys are contiguous */
    const int32_t *table; /* its row of the page table; NULL: contiguous */
} request;

static request get_request(const msa_shape *s, const msa_pages *p, int r)
{
    const msa_seq seq = msa_get_seq(s, r);
    return (request){seq.q0, seq.n_q, p ? p->lens[r] : seq.n_kv, seq.kv0,
                     p ? p->table + r * msa_n_blocks(s) : NULL};
}

/* [paged_row] */
static int64_t row_of(const msa_shape *s, const request *a, int64_t j)
{
    return a->table ? (int64_t)a->table[j / s->block] * s->block + j % s->block : a->kv0 + j;
}
/* [paged_row] */

static bool pages_in_range(const int32_t *table, int64_t n, int64_t n_pages)
{
    for (int64_t b = 0; b < n; b++)
        if (table[b] < 0 || table[b] >= n_pages)
            return false;
    return true;
}

msa_status msa_check_pages(const msa_shape *s, const msa_pages *p)
{
    MSA_TRY(msa_check_shape(s));
    if (!p || !p->table || !p->lens || (p->ki8 && !p->scale))
        return MSA_ERR_NULL;
    if (p->n_pages < 1 || p->n_pages > INT32_MAX)
        return MSA_ERR_SIZE;
    const int64_t max_pages = msa_n_blocks(s), n_q = msa_get_seq(s, 0).n_q;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        if (seq.n_q != n_q || seq.n_kv != max_pages * s->block)
            return MSA_ERR_SEQLENS;
        const int64_t n = p->lens[r], blocks = n / s->block + (n % s->block != 0);
        if (n < n_q || n > seq.n_kv || !pages_in_range(p->table + r * max_pages, blocks, p->n_pages))
            return MSA_ERR_PAGES;
    }
    return MSA_OK;
}

/* ---- Index keys ------------------------------------------------------------------------------------- */

/* q . key, for the key in this row of the cache. */
static double index_dot(const msa_shape *s, const msa_pages *p, const float *q, const float *ki, int64_t row)
{
    const int d = s->d_index;
    if (!p || !p->ki8)
        return dot(q, ki + row * d, d);
    double sum = 0;
    for (int c = 0; c < d; c++)
        sum += (double)q[c] * (double)msa_e4m3(p->ki8[row * d + c]);
    return sum * (double)p->scale[row / s->block];
}

/* Maxima of the blocks that compete, those before the local one, where every key is visible. */
static void score_blocks(const msa_shape *s, const msa_pages *p, const request *a, const float *q,
                         const float *ki, int64_t local, double *m)
{
    for (int64_t b = 0; b < local; b++) {
        m[b] = -INFINITY;
        for (int64_t j = b * s->block; j < (b + 1) * s->block; j++) {
            const double x = index_dot(s, p, q, ki, row_of(s, a, j));
            m[b] = x > m[b] ? x : m[b];
        }
    }
}

/* ---- Attention ------------------------------------------------------------------------------------ */

typedef struct room {
    double *m, *best, *p, *acc;
    int64_t *rows;
} room;

static room take_room(const msa_shape *s, bool full, void *work)
{
    const int64_t n = max_support(s, full), blocks = full ? 0 : msa_n_blocks(s);
    return (room){.p = work_take(&work, n, sizeof(double)),
                  .acc = work_take(&work, s->d_head, sizeof(double)),
                  .rows = work_take(&work, n, sizeof(int64_t)),
                  .m = work_take(&work, blocks, sizeof(double)),
                  .best = work_take(&work, min_i64(s->topk, blocks), sizeof(double))};
}

static size_t room_bytes(const msa_shape *s, bool full)
{
    const int64_t n = max_support(s, full), blocks = full ? 0 : msa_n_blocks(s);
    return WORK_ALIGN + 2 * work_bytes(n, sizeof(double)) + work_bytes(s->d_head, sizeof(double)) +
           work_bytes(blocks, sizeof(double)) + work_bytes(min_i64(s->topk, blocks), sizeof(double));
}

/* The heads of group r of query i; ids NULL: every visible key. */
static void attend(const msa_shape *s, const request *a, int64_t i, int r, const float *q, const float *k,
                   const float *v, const int32_t *ids, float *o, float *lse, const room *w)
{
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const double scale = 1 / sqrt(d);
    const int64_t n = list_support(s, ids, a->n_kv - a->n_q + i, w->rows);
    for (int64_t t = 0; t < n; t++)
        w->rows[t] = row_of(s, a, w->rows[t]) * s->n_kv_heads + r;
    for (int h = r * group; h < (r + 1) * group; h++) {
        const int64_t head = (a->q0 + i) * s->n_heads + h;
        for (int64_t t = 0; t < n; t++)
            w->p[t] = scale * dot(q + head * d, k + w->rows[t] * d, d);
        double denom, row_lse = softmax_row(w->p, n, false, &denom);
        memset(w->acc, 0, (size_t)d * sizeof *w->acc);
        for (int64_t t = 0; t < n; t++)
            axpy(w->p[t], v + w->rows[t] * d, d, w->acc);
        for (int c = 0; c < d; c++)
            o[head * d + c] = (float)(w->acc[c] / denom);
        if (lse)
            lse[head] = (float)row_lse;
    }
}

size_t decode_workspace(const msa_shape *s)
{
    return room_bytes(s, false);
}

msa_status msa_decode(const msa_shape *s, const msa_pages *p, const float *q, const float *k, const float *v,
                      const float *qi, const float *ki, int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(p ? msa_check_pages(s, p) : msa_check_shape(s));
    if (!q || !k || !v || !qi || !(ki || (p && p->ki8)) || !ids || !o || !work)
        return MSA_ERR_NULL;
    const room w = take_room(s, false, work);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request a = get_request(s, p, n);
        for (int64_t i = 0; i < a.n_q; i++)
            for (int r = 0; r < s->n_kv_heads; r++) {
                const int64_t query = a.q0 + i, local = (a.n_kv - a.n_q + i) / s->block;
                int32_t *chosen = ids + (r * s->n_q + query) * s->topk;
                score_blocks(s, p, &a, qi + (query * s->n_kv_heads + r) * s->d_index, ki, local, w.m);
                select_row(w.m, local, s->topk, w.best, chosen);
                attend(s, &a, i, r, q, k, v, chosen, o, lse, &w);
            }
    }
    return MSA_OK;
}

size_t dense_decode_workspace(const msa_shape *s)
{
    return room_bytes(s, true);
}

msa_status msa_dense_decode(const msa_shape *s, const msa_pages *p, const float *q, const float *k,
                            const float *v, float *o, float *lse, void *work)
{
    MSA_TRY(p ? msa_check_pages(s, p) : msa_check_shape(s));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    const room w = take_room(s, true, work);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request a = get_request(s, p, n);
        for (int64_t i = 0; i < a.n_q; i++)
            for (int r = 0; r < s->n_kv_heads; r++)
                attend(s, &a, i, r, q, k, v, NULL, o, lse, &w);
    }
    return MSA_OK;
}

/* ---- New tokens ------------------------------------------------------------------------------------- */

/* An 8-bit index key at place `at` of a page. */
static void append_e4m3(const msa_shape *s, const msa_pages *p, const float *key, int64_t page, int64_t at)
{
    const int64_t d = s->d_index;
    uint8_t *keys = p->ki8 + page * s->block * d;
    float own, scale;
    msa_e4m3_block(key, d, keys + at * d, &own);
    scale = at > 0 && p->scale[page] > own ? p->scale[page] : own;
    for (int64_t c = 0; c < at * d && scale > p->scale[page]; c++)
        keys[c] = msa_e4m3_bits(msa_e4m3(keys[c]) * (p->scale[page] / scale));
    for (int64_t c = 0; c < d; c++)
        keys[at * d + c] = msa_e4m3_bits(key[c] / scale);
    p->scale[page] = scale;
}

msa_status msa_append(const msa_shape *s, const msa_pages *p, const float *new_k, const float *new_v,
                      const float *new_ki, float *k, float *v, float *ki)
{
    MSA_TRY(msa_check_pages(s, p));
    if (!new_k || !new_v || !k || !v || (new_ki && !ki && !p->ki8))
        return MSA_ERR_NULL;
    const size_t kv = (size_t)s->n_kv_heads * (size_t)s->d_head, di = (size_t)s->d_index;
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request a = get_request(s, p, n);
        for (int64_t i = 0; i < a.n_q; i++) {
            const size_t row = (size_t)row_of(s, &a, a.n_kv - a.n_q + i), from = (size_t)(a.q0 + i);
            memcpy(k + row * kv, new_k + from * kv, kv * sizeof *k);
            memcpy(v + row * kv, new_v + from * kv, kv * sizeof *v);
            if (new_ki && p->ki8)
                append_e4m3(s, p, new_ki + from * di, (int64_t)row / s->block, (int64_t)row % s->block);
            else if (new_ki)
                memcpy(ki + row * di, new_ki + from * di, di * sizeof *ki);
        }
    }
    return MSA_OK;
}
