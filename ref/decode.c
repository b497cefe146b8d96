/* One step of generation: the whole attention for the newest tokens of every request, over a KV cache that is
 * contiguous or in pages.
 *
 * Nothing of the mathematics changes with pages. Only where key j of a request lies does:
 *
 *   row(j) = table[j / page] page + j % page */
#include "internal.h"

/* ---- Requests ------------------------------------------------------------------------------------- */

static int64_t page_tokens(const msa_shape *s, const msa_pages *p)
{
    return p->page ? p->page : s->block;
}

int64_t piece_tokens(const msa_shape *s, const msa_pages *p)
{
    return min_i64(s->block, page_tokens(s, p));
}

request get_request(const msa_shape *s, const msa_pages *p, int r)
{
    msa_seq seq = msa_get_seq(s, r);
    if (!p)
        return (request){seq, NULL, 0, r};
    const int64_t page = page_tokens(s, p), max_pages = seq.n_kv / page;
    seq.n_q = s->len_q || p->lens[r] > 0 ? seq.n_q : 0;
    seq.n_kv = p->lens[r];
    return (request){seq, p->table + r * max_pages, page, r};
}

/* [paged_row] */
int64_t key_row(const request *req, int64_t j)
{
    return req->table ? req->table[j / req->page] * req->page + j % req->page : req->seq.kv0 + j;
}
/* [paged_row] */

int64_t keys_together(const request *req, int64_t j, int64_t end)
{
    return req->table ? min_i64(end - j, req->page - j % req->page) : end - j;
}

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
    const int64_t page = page_tokens(s, p);
    if (p->n_pages < 1 || p->n_pages > INT32_MAX || page < 1 || (page % s->block && s->block % page))
        return MSA_ERR_SIZE;
    const msa_seq first = padded_seq(s, 0);
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq padded = padded_seq(s, r);
        if (s->len_kv || padded.n_q != first.n_q || padded.n_kv != first.n_kv || padded.n_kv % page)
            return MSA_ERR_SEQLENS;
        const request req = get_request(s, p, r);
        const int64_t n = req.seq.n_kv;
        if (n < req.seq.n_q || n < 0 || n > padded.n_kv ||
            !pages_in_range(req.table, n / page + (n % page != 0), p->n_pages))
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
    return sum * (double)p->scale[row / piece_tokens(s, p)];
}

void score_request(const msa_shape *s, const msa_pages *p, const request *req, const float *q, const float *ki,
                   int64_t n, double *m)
{
    for (int64_t b = 0; b < n; b++) {
        m[b] = -INFINITY;
        for (int64_t j = b * s->block; j < (b + 1) * s->block; j++) {
            const double x = index_dot(s, p, q, ki, key_row(req, j));
            m[b] = x > m[b] ? x : m[b];
        }
    }
}

/* ---- Attention ------------------------------------------------------------------------------------ */

typedef struct scratch {
    double *m, *best, *p, *acc;
    int64_t *rows;
} scratch;

static size_t place(scratch *w, const msa_shape *s, bool full, void *work)
{
    const int64_t n = max_support(s, full), blocks = full ? 0 : msa_n_blocks(s);
    arena a = arena_over(work);
    w->p = arena_take(&a, n, sizeof *w->p);
    w->acc = arena_take(&a, s->d_head, sizeof *w->acc);
    w->rows = arena_take(&a, n, sizeof *w->rows);
    w->m = arena_take(&a, blocks, sizeof *w->m);
    w->best = arena_take(&a, min_i64(s->topk, blocks), sizeof *w->best);
    return arena_bytes(&a);
}

/* The rows of K and V that group r of query i attends to; ids NULL: every visible key. */
static int64_t list_rows(const msa_shape *s, const request *req, int64_t i, int r, const int32_t *ids,
                         int64_t *rows)
{
    const int64_t n = list_support(s, ids, position(&req->seq, i), rows);
    for (int64_t t = 0; t < n; t++)
        rows[t] = key_row(req, rows[t]) * s->n_kv_heads + r;
    return n;
}

/* The heads of group r of a query over n rows. */
static void attend(const msa_shape *s, int64_t query, int r, int64_t n, const float *q, const float *k,
                   const float *v, float *o, float *lse, const scratch *w)
{
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const double scale = 1 / sqrt(d);
    for (int h = r * group; h < (r + 1) * group; h++) {
        const int64_t head = query * s->n_heads + h;
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

/* What follows the queries of request n. */
static void pad_request(const msa_shape *s, const request *req, int n, int32_t *ids, float *o, float *lse)
{
    write_padding(s, req->seq.q0 + req->seq.n_q, req->seq.q0 + padded_seq(s, n).n_q, ids, o, lse);
}

size_t decode_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, false, NULL);
}

msa_status msa_decode(const msa_shape *s, const msa_pages *p, const float *q, const float *k, const float *v,
                      const float *qi, const float *ki, int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(p ? msa_check_pages(s, p) : msa_check_shape(s));
    if (!q || !k || !v || !qi || !(ki || (p && p->ki8)) || !ids || !o || !work)
        return MSA_ERR_NULL;
    scratch w;
    place(&w, s, false, work);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request req = get_request(s, p, n);
        for (int64_t i = 0; i < req.seq.n_q; i++)
            for (int r = 0; r < s->n_kv_heads; r++) {
                const int64_t query = req.seq.q0 + i, local = position(&req.seq, i) / s->block;
                int32_t *chosen = ids + (r * s->n_q + query) * s->topk;
                score_request(s, p, &req, qi + (query * s->n_kv_heads + r) * s->d_index, ki, local, w.m);
                topk_row(w.m, local, s->topk, w.best, chosen);
                attend(s, query, r, list_rows(s, &req, i, r, chosen, w.rows), q, k, v, o, lse, &w);
            }
        pad_request(s, &req, n, ids, o, lse);
    }
    return MSA_OK;
}

size_t dense_decode_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, true, NULL);
}

msa_status msa_dense_decode(const msa_shape *s, const msa_pages *p, const float *q, const float *k,
                            const float *v, float *o, float *lse, void *work)
{
    MSA_TRY(p ? msa_check_pages(s, p) : msa_check_shape(s));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    scratch w;
    place(&w, s, true, work);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request req = get_request(s, p, n);
        for (int64_t i = 0; i < req.seq.n_q; i++)
            for (int r = 0; r < s->n_kv_heads; r++)
                attend(s, req.seq.q0 + i, r, list_rows(s, &req, i, r, NULL, w.rows), q, k, v, o, lse, &w);
        pad_request(s, &req, n, NULL, o, lse);
    }
    return MSA_OK;
}

/* ---- New tokens, and tokens taken back ----------------------------------------------------------------- */

/* Makes the codes of the piece that key j of a request completes. */
static void complete_piece(const msa_shape *s, const msa_pages *p, const request *req, int64_t j,
                           const float *ki)
{
    const int64_t n = piece_tokens(s, p), first = key_row(req, j + 1 - n), d = s->d_index;
    msa_e4m3_block(ki + first * d, n * d, p->ki8 + first * d, &p->scale[first / n]);
}

void append_rows(const msa_shape *s, const msa_pages *p, size_t bytes, const void *new_rows, void *rows)
{
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request req = get_request(s, p, n);
        for (int64_t i = 0; i < req.seq.n_q; i++)
            memcpy((char *)rows + (size_t)key_row(&req, position(&req.seq, i)) * bytes,
                   (const char *)new_rows + (size_t)(req.seq.q0 + i) * bytes, bytes);
    }
}

msa_status msa_append(const msa_shape *s, const msa_pages *p, const float *new_k, const float *new_v,
                      const float *new_ki, float *k, float *v, float *ki)
{
    MSA_TRY(msa_check_pages(s, p));
    if (!new_k || !new_v || !k || !v || (new_ki && !ki))
        return MSA_ERR_NULL;
    const size_t kv = (size_t)s->n_kv_heads * (size_t)s->d_head;
    append_rows(s, p, kv * sizeof *k, new_k, k);
    append_rows(s, p, kv * sizeof *v, new_v, v);
    if (!new_ki)
        return MSA_OK;
    append_rows(s, p, (size_t)s->d_index * sizeof *ki, new_ki, ki);
    for (int n = 0; p->ki8 && n < msa_n_seqs(s); n++) {
        const request req = get_request(s, p, n);
        for (int64_t j = position(&req.seq, 0); j < req.seq.n_kv; j++)
            if ((j + 1) % piece_tokens(s, p) == 0)
                complete_piece(s, p, &req, j, ki);
    }
    return MSA_OK;
}

/* Key j goes, and with it the codes of its piece, if the piece was complete. */
static void take_back(const msa_shape *s, const msa_pages *p, const request *req, int64_t j, float *k,
                      float *v, float *ki)
{
    const size_t kv = (size_t)s->n_kv_heads * (size_t)s->d_head, di = (size_t)s->d_index;
    const size_t row = (size_t)key_row(req, j), n = (size_t)piece_tokens(s, p), first = row - row % n;
    memset(k + row * kv, 0, kv * sizeof *k);
    memset(v + row * kv, 0, kv * sizeof *v);
    if (ki)
        memset(ki + row * di, 0, di * sizeof *ki);
    if (p->ki8) {
        memset(p->ki8 + first * di, 0, n * di);
        p->scale[first / n] = 0;
    }
}

msa_status msa_rollback(const msa_shape *s, const msa_pages *p, const int32_t *keep, float *k, float *v,
                        float *ki)
{
    MSA_TRY(msa_check_pages(s, p));
    if (!keep || !k || !v)
        return MSA_ERR_NULL;
    for (int n = 0; n < msa_n_seqs(s); n++)
        if (keep[n] < 0 || keep[n] > p->lens[n])
            return MSA_ERR_PAGES;
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request req = get_request(s, p, n);
        for (int64_t j = keep[n]; j < req.seq.n_kv; j++)
            take_back(s, p, &req, j, k, v, ki);
    }
    return MSA_OK;
}
