/* A step of generation: a few new queries score the blocks of a long cache, choose, and attend to what they
 * chose. */
#include "../stages.h"
#include "amx_kernels.h"
#include "streams.h"

#define DOT_ROWS 4      /* index queries, and keys, of one step of the dot products */
#define FAR HEADS_KEYS  /* index keys between what is scored and what is asked for */
#define MOST_DOT_ROWS 8 /* with more rows a matrix product is faster */

/* ---- Index --------------------------------------------------------------------------------------------- */

/* max[r * apart] = the largest of it and q[r] . k[j], for DOT_ROWS rows at a time; past the end a row or key
 * repeats, which changes no maximum. Needs d % LANES == 0. */
static void dot_max(const float *q, int64_t rows, const float *k, int64_t keys, int d, float *max,
                    int64_t apart, ahead next)
{
    for (int64_t j = 0; j < keys; j += DOT_ROWS) {
        fetch(next, j, j + DOT_ROWS);
        for (int64_t r = 0; r < rows; r += DOT_ROWS) {
            const float *key[DOT_ROWS], *query[DOT_ROWS];
            lanes sum[DOT_ROWS][DOT_ROWS];
            for (int row = 0; row < DOT_ROWS; row++) {
                key[row] = k + min_i64(j + row, keys - 1) * d;
                query[row] = q + min_i64(r + row, rows - 1) * d;
                for (int b = 0; b < DOT_ROWS; b++)
                    sum[row][b] = (lanes){0};
            }
            for (int c = 0; c < d; c += LANES)
                for (int row = 0; row < DOT_ROWS; row++)
                    for (int b = 0; b < DOT_ROWS; b++)
                        sum[row][b] += load(query[row] + c) * load(key[b] + c);
            for (int row = 0; row < DOT_ROWS && r + row < rows; row++)
                for (int b = 0; b < DOT_ROWS; b++) {
                    const float x = sum_of(sum[row][b]);
                    if (x > max[(r + row) * apart])
                        max[(r + row) * apart] = x;
                }
        }
    }
}

/* `buffer` and `logits` are for HEADS_KEYS keys. */
static void score_block(const scorer *x, int64_t block, float *buffer, float *logits)
{
    const msa_shape *s = x->s;
    const int d = s->d_index;
    const int64_t rows = x->at.seq.n_q * s->n_kv_heads, blocks = msa_n_blocks(s),
                  end = (block + 1) * s->block;
    float *max = x->scores + block;
    for (int64_t r = 0; r < rows; r++)
        max[r * blocks] = -INFINITY;
    for (int64_t j = block * s->block, n = 0; j < end; j += n) {
        const run keys = run_at(&x->at, j, end);
        const float *k = rows_of(x->ki, 1, 0, d, keys.row, n = keys.n, buffer);
        if (rows <= MOST_DOT_ROWS && d % LANES == 0) {
            const run far = run_at(&x->at, j + FAR, x->at.seq.n_kv);
            dot_max(x->fitted_qi, rows, k, n, d, max, blocks,
                    rows_ahead(x->ki, 1, 0, d, far.row, min_i64(n, far.n)));
            continue;
        }
        small_gemm(false, true, rows, n, d, x->fitted_qi, d, k, d, 0, logits, n);
        for (int64_t r = 0; r < rows; r++) {
            max[r * blocks] = row_max(logits + r * n, n, max[r * blocks]);
        }
    }
}

/* ---- A step of generation ------------------------------------------------------------------------------ */

/* Slots of a row of ids that make a part, and the parts of a row. */
static int part_slots(const msa_shape *s)
{
    return (int)max_i64(PART_BLOCKS, (slots_of(s) + FEW - 1) / FEW);
}

static int row_parts(const msa_shape *s)
{
    return (slots_of(s) + part_slots(s) - 1) / part_slots(s);
}

static void attend_part(const cache *x, const int32_t *ids, int r, int64_t i, int part, heads *h, unpacked u)
{
    const int64_t at = position(&x->at.seq, i), last = min_i64((part + 1) * part_slots(x->s), slots_of(x->s));
    for (int64_t slot = part * part_slots(x->s); slot < last && ids[slot] >= 0; slot++) {
        const int64_t begin = (int64_t)ids[slot] * x->s->block, end = min_i64(begin + x->s->block, at + 1);
        run keys = run_at(&x->at, begin, end), next;
        for (int64_t j = begin; j < end; j += keys.n, keys = next) {
            next = run_at(&x->at, j + keys.n, end);
            attend_keys(x, r, keys, at + 1 - j, h, 1, 0, r, next, u);
        }
    }
}

/* Of a thread. */
typedef struct own {
    unpacked u;
    float *buffer, *logits; /* [keys,di], [n,groups,keys] */
    best_list *best;
    chooser again;
} own;

static size_t place_own(own *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->u = unpacked_take(s, &a);
    m->buffer = arena_take(&a, HEADS_KEYS * (int64_t)s->d_index, sizeof *m->buffer);
    m->logits = arena_take(&a, most_queries(s) * s->n_kv_heads * HEADS_KEYS, sizeof *m->logits);
    m->best = best_take(s, 1, &a);
    m->again = chooser_take(s, &a);
    return arena_bytes(&a);
}

static size_t own_bytes(const msa_shape *s)
{
    own m;
    return place_own(&m, s, NULL);
}

typedef struct few_scratch {
    heads *h; /* [n,groups,parts,slabs] */
    scorer y;
    void *own;
} few_scratch;

static size_t place_few(few_scratch *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->h = heads_take(s, most_heads(s, row_parts(s)), &a);
    scorer_take(&m->y, s, &a);
    m->own = arena_take(&a, fast_max_threads(), own_bytes(s));
    return arena_bytes(&a);
}

static size_t few_workspace(const msa_shape *s)
{
    few_scratch m;
    return max_size(place_few(&m, s, NULL), attend_again_workspace(s));
}

static void decode_few(const cache *x, const float *q, const float *qi, cached ki, int32_t *ids, float *o,
                       float *lse, void *work)
{
    const msa_shape *s = x->s;
    const msa_seq seq = x->at.seq;
    const int groups = s->n_kv_heads, slabs = slabs_of(s), parts = row_parts(s);
    const int64_t n = seq.n_q;
    few_scratch all;
    place_few(&all, s, work);
    scorer_begin(&all.y, x, qi + seq.q0 * groups * s->d_index, ki, 1);
    heads *h = all.h;
    const int threads = products_begin();
#pragma omp parallel num_threads(threads)
    {
        own m;
        place_own(&m, s, own_part(all.own, own_bytes(s)));
#pragma omp for schedule(static)
        for (int64_t b = 0; b < position(&seq, n - 1) / s->block; b++)
            score_block(&all.y, b, m.buffer, m.logits);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n * groups; row++) {
            topk_blocks(&all.y, row, m.best, m.again, ids);
            parts_begin(s, h + row * parts * slabs, parts, q, seq.q0 + row / groups, (int)(row % groups));
        }
#pragma omp for schedule(dynamic)
        for (int64_t row = 0; row < n * groups * parts; row++) {
            const int64_t i = row / parts / groups;
            const int r = (int)(row / parts % groups), part = (int)(row % parts);
            attend_part(x, ids_row(s, ids, r, seq.q0 + i), r, i, part, h + row * slabs, m.u);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n * groups; row++)
            parts_finish(s, h + row * parts * slabs, parts, seq.q0 + row / groups, (int)(row % groups), o,
                         lse);
    }
    products_end();
}

/* ---- Many queries over pages ----------------------------------------------------------------------- */

typedef struct many_scratch {
    float *k, *v, *ki;
    int32_t *chosen; /* [groups,n,k] */
    void *stage;
} many_scratch;

static size_t place_many(many_scratch *m, const msa_shape *s, void *work)
{
    const int64_t n = longest_kv(s), groups = s->n_kv_heads;
    arena a = arena_over(work);
    m->k = arena_take(&a, n * groups * s->d_head, sizeof *m->k);
    m->v = arena_take(&a, n * groups * s->d_head, sizeof *m->v);
    m->ki = arena_take(&a, n * s->d_index, sizeof *m->ki);
    m->chosen = arena_take(&a, groups * s->n_q * s->topk, sizeof *m->chosen);
    m->stage = arena_take(&a, 1, max_size(fast_index_workspace(s), fast_sparse_workspace(s)));
    return arena_bytes(&a);
}

static size_t decode_many_workspace(const msa_shape *s)
{
    alone a;
    many_scratch m;
    set_alone(&a, s, NULL);
    return place_many(&m, &a.s, NULL);
}

static msa_status decode_many(const cache *x, const float *q, const float *qi, cached ki, int32_t *ids,
                              float *o, float *lse, void *work)
{
    const msa_shape *s = x->s;
    const int64_t q0 = x->at.seq.q0, row = (int64_t)s->n_heads * s->d_head;
    alone a;
    many_scratch m;
    set_alone(&a, s, &x->at);
    place_many(&m, &a.s, work);
    gather_rows(&x->at, x->k, s->n_kv_heads * s->d_head, m.k);
    gather_rows(&x->at, x->v, s->n_kv_heads * s->d_head, m.v);
    gather_rows(&x->at, ki, s->d_index, m.ki);
    MSA_TRY(fast_index(&a.s, qi + q0 * s->n_kv_heads * s->d_index, m.ki, NULL, m.chosen, NULL, m.stage));
    MSA_TRY(fast_sparse(&a.s, q + q0 * row, m.k, m.v, m.chosen, o + q0 * row,
                        lse ? lse + q0 * s->n_heads : NULL, m.stage));
    const int64_t n = a.s.n_q * s->topk;
    for (int r = 0; r < s->n_kv_heads; r++)
        memcpy(ids + (r * s->n_q + q0) * s->topk, m.chosen + r * n, (size_t)n * sizeof *ids);
    return MSA_OK;
}

/* ---- The step: request after request --------------------------------------------------------------- */

size_t fast_decode_workspace(const msa_shape *s)
{
    const size_t index = fast_index_workspace(s), sparse = fast_sparse_workspace(s);
    size_t most = few_workspace(s);
    if (padded_queries(s) > FEW)
        most = max_size(most, max_size(index, sparse));
    return worth_gathering(s, padded_queries(s)) ? max_size(most, decode_many_workspace(s)) : most;
}

static msa_status decode(const msa_shape *s, const msa_pages *p, const float *q, cached k, cached v,
                         const float *qi, cached ki, int32_t *ids, float *o, float *lse, void *work)
{
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const cache x = {s, get_request(s, p, b), k, v};
        const msa_seq padded = padded_seq(s, b);
        const bool gathered = worth_gathering(s, x.at.seq.n_q);
        if (gathered)
            MSA_TRY(decode_many(&x, q, qi, ki, ids, o, lse, work));
        for (int64_t i = 0; i < x.at.seq.n_q && !gathered; i += FEW) {
            const cache few = few_of(&x, i);
            decode_few(&few, q, qi, ki, ids, o, lse, work);
        }
        write_padding(s, padded.q0 + x.at.seq.n_q, padded.q0 + padded.n_q, ids, o, lse);
    }
    attend_again(s, p, floats(q), k, v, ids, o, lse, work);
    return MSA_OK;
}

msa_status fast_decode(const msa_shape *s, const msa_pages *p, const float *q, const float *k, const float *v,
                       const float *qi, const float *ki, int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(p ? msa_check_pages(s, p) : msa_check_shape(s));
    const bool small = p && p->ki8;
    if (!q || !k || !v || !qi || !(ki || small) || !ids || !o || !work)
        return MSA_ERR_NULL;
    if (p || all_few(s))
        return decode(s, p, q, floats(k), floats(v), qi,
                      small ? (cached){p->ki8, false, p->scale, piece_tokens(s, p)} : floats(ki), ids, o, lse,
                      work);
    MSA_TRY(fast_index(s, qi, ki, NULL, ids, NULL, work));
    return fast_sparse(s, q, k, v, ids, o, lse, work);
}

msa_status msa_fast_decode_bf16(const msa_shape *s, const float *q, const uint16_t *k, const uint16_t *v,
                                const float *qi, const uint16_t *ki, int32_t *ids, float *o, float *lse,
                                void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!q || !k || !v || !qi || !ki || !ids || !o || !work)
        return MSA_ERR_NULL;
    if (!all_few(s))
        return MSA_ERR_UNSUPPORTED;
    return decode(s, NULL, q, halves(k), halves(v), qi, halves(ki), ids, o, lse, work);
}

/* ---- bf16 tensors --------------------------------------------------------------------------------------- */

typedef struct widened_rows {
    float *q, *qi; /* of all queries */
    void *rest;
} widened_rows;

static size_t place_widened(widened_rows *m, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    m->q = arena_take(&a, s->n_q * s->n_heads * s->d_head, sizeof *m->q);
    m->qi = arena_take(&a, s->n_q * s->n_kv_heads * s->d_index, sizeof *m->qi);
    m->rest = arena_take(&a, 1, fast_decode_workspace(s));
    return arena_bytes(&a);
}

size_t decode_halves_workspace(const msa_shape *s)
{
    widened_rows m;
    return place_widened(&m, s, NULL);
}

msa_status decode_halves(const msa_shape *s, const msa_arrays *a, void *work)
{
    const msa_pages *p = has_pages(a) ? &a->pages : NULL;
    const cached ki = p && p->ki8 ? (cached){p->ki8, false, p->scale, piece_tokens(s, p)} : halves(a->ki);
    widened_rows m;
    place_widened(&m, s, work);
    return decode(s, p, rows_of(halves(a->q), 1, 0, s->d_head, 0, s->n_q * s->n_heads, m.q), halves(a->k),
                  halves(a->v), rows_of(halves(a->qi), 1, 0, s->d_index, 0, s->n_q * s->n_kv_heads, m.qi), ki,
                  writable(a->ids), writable(a->o), writable(a->lse), m.rest);
}
