/* A step of generation by dense attention: every part of a request's keys meets all queries of all groups, as
 * they lie side by side. */
#include "../stages.h"
#include "amx_kernels.h"
#include "streams.h"

static size_t place_unpacked(unpacked *u, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    *u = unpacked_take(s, &a);
    return arena_bytes(&a);
}

static size_t unpacked_bytes(const msa_shape *s)
{
    unpacked u;
    return place_unpacked(&u, s, NULL);
}

typedef struct scratch {
    heads *h; /* [groups,n,parts,slabs] */
    void *own;
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->h = heads_take(s, most_heads(s, KEY_PARTS), &a);
    m->own = arena_take(&a, fast_max_threads(), unpacked_bytes(s));
    return arena_bytes(&a);
}

size_t dense_few_workspace(const msa_shape *s)
{
    scratch m;
    return max_size(place(&m, s, NULL), attend_again_workspace(s));
}

/* Keys of one part of a dense step, for all queries of all groups. */
static void dense_part(const cache *x, int part, int parts, int64_t begin, int64_t end, heads *h, unpacked u)
{
    const int groups = x->s->n_kv_heads, slabs = slabs_of(x->s);
    const int64_t n = x->at.seq.n_q;
    run keys = run_at(&x->at, begin, end), next;
    for (int64_t j = begin; j < end; j += keys.n, keys = next) {
        next = run_at(&x->at, j + keys.n, end);
        for (int r = 0; r < groups; r++) /* they lie side by side */
            attend_keys(x, r, keys, position(&x->at.seq, 0) + 1 - j,
                        h + ((int64_t)r * n * parts + part) * slabs, n, (int64_t)parts * slabs,
                        (r + 1) % groups, r + 1 < groups ? keys : next, u);
    }
}

void dense_few(const msa_shape *s, const request *at, const float *q, cached k, cached v, float *o,
               float *lse, void *work)
{
    const int groups = s->n_kv_heads, slabs = slabs_of(s);
    const int64_t visible = at->seq.n_kv, step = part_keys(visible), n = at->seq.n_q;
    const int parts = (int)((visible + step - 1) / step);
    const cache x = {s, *at, k, v};
    scratch m;
    place(&m, s, work);
    heads *h = m.h;
#pragma omp parallel num_threads(fast_threads())
    {
        unpacked u;
        place_unpacked(&u, s, own_part(m.own, unpacked_bytes(s)));
#pragma omp for schedule(static)
        for (int64_t row = 0; row < groups * n; row++)
            parts_begin(s, h + row * parts * slabs, parts, q, at->seq.q0 + row % n, (int)(row / n));
#pragma omp for schedule(dynamic)
        for (int part = 0; part < parts; part++)
            dense_part(&x, part, parts, part * step, min_i64(visible, (part + 1) * step), h, u);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < groups * n; row++)
            parts_finish(s, h + row * parts * slabs, parts, at->seq.q0 + row % n, (int)(row / n), o, lse);
    }
}

/* ---- Many queries over pages ----------------------------------------------------------------------- */

typedef struct many_scratch {
    float *k, *v;
    void *stage;
} many_scratch;

static size_t place_many(many_scratch *m, const msa_shape *s, void *work)
{
    const int64_t n = longest_kv(s) * s->n_kv_heads * s->d_head;
    arena a = arena_over(work);
    m->k = arena_take(&a, n, sizeof *m->k);
    m->v = arena_take(&a, n, sizeof *m->v);
    m->stage = arena_take(&a, 1, fast_dense_workspace(s));
    return arena_bytes(&a);
}

static size_t dense_many_workspace(const msa_shape *s)
{
    alone a;
    many_scratch m;
    set_alone(&a, s, NULL);
    return place_many(&m, &a.s, NULL);
}

static msa_status dense_many(const cache *x, const float *q, float *o, float *lse, void *work)
{
    const msa_shape *s = x->s;
    const int64_t q0 = x->at.seq.q0, row = (int64_t)s->n_heads * s->d_head;
    alone a;
    many_scratch m;
    set_alone(&a, s, &x->at);
    place_many(&m, &a.s, work);
    gather_rows(&x->at, x->k, s->n_kv_heads * s->d_head, m.k);
    gather_rows(&x->at, x->v, s->n_kv_heads * s->d_head, m.v);
    return fast_dense(&a.s, q + q0 * row, m.k, m.v, o + q0 * row, lse ? lse + q0 * s->n_heads : NULL,
                      m.stage);
}

/* ---- The step: request after request --------------------------------------------------------------- */

size_t fast_dense_decode_workspace(const msa_shape *s)
{
    size_t most = dense_few_workspace(s); /* enough for fewer queries too */
    if (padded_queries(s) > FEW)
        most = max_size(most, fast_dense_workspace(s));
    return worth_gathering(s, padded_queries(s)) ? max_size(most, dense_many_workspace(s)) : most;
}

static msa_status dense_decode(const msa_shape *s, const msa_pages *p, const float *q, cached k, cached v,
                               float *o, float *lse, void *work)
{
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const cache x = {s, get_request(s, p, b), k, v};
        const msa_seq padded = padded_seq(s, b);
        const bool gathered = worth_gathering(s, x.at.seq.n_q);
        if (gathered)
            MSA_TRY(dense_many(&x, q, o, lse, work));
        for (int64_t i = 0; i < x.at.seq.n_q && !gathered; i += FEW) {
            const cache few = few_of(&x, i);
            dense_few(s, &few.at, q, k, v, o, lse, work);
        }
        write_padding(s, padded.q0 + x.at.seq.n_q, padded.q0 + padded.n_q, NULL, o, lse);
    }
    attend_again(s, p, floats(q), k, v, NULL, o, lse, work);
    return MSA_OK;
}

msa_status fast_dense_decode(const msa_shape *s, const msa_pages *p, const float *q, const float *k,
                             const float *v, float *o, float *lse, void *work)
{
    MSA_TRY(p ? msa_check_pages(s, p) : msa_check_shape(s));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    if (p || all_few(s))
        return dense_decode(s, p, q, floats(k), floats(v), o, lse, work);
    return fast_dense(s, q, k, v, o, lse, work);
}

msa_status msa_fast_dense_decode_bf16(const msa_shape *s, const float *q, const uint16_t *k,
                                      const uint16_t *v, float *o, float *lse, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    if (!all_few(s))
        return MSA_ERR_UNSUPPORTED;
    return dense_decode(s, NULL, q, halves(k), halves(v), o, lse, work);
}

/* ---- bf16 tensors --------------------------------------------------------------------------------------- */

typedef struct widened_rows {
    float *q; /* of all queries */
    void *rest;
} widened_rows;

static size_t place_widened(widened_rows *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->q = arena_take(&a, s->n_q * s->n_heads * s->d_head, sizeof *m->q);
    m->rest = arena_take(&a, 1, fast_dense_decode_workspace(s));
    return arena_bytes(&a);
}

size_t dense_decode_halves_workspace(const msa_shape *s)
{
    widened_rows m;
    return place_widened(&m, s, NULL);
}

msa_status dense_decode_halves(const msa_shape *s, const msa_arrays *a, void *work)
{
    widened_rows m;
    place_widened(&m, s, work);
    return dense_decode(s, has_pages(a) ? &a->pages : NULL,
                        rows_of(halves(a->q), 1, 0, s->d_head, 0, s->n_q * s->n_heads, m.q), halves(a->k),
                        halves(a->v), writable(a->o), writable(a->lse), m.rest);
}
