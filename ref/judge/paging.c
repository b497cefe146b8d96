/* A contiguous KV cache laid out in pages. */
#include "paging.h"

#include <stdlib.h>
#include <string.h>

#include "../internal.h"

bool paging_possible(const msa_shape *s)
{
    const int n = msa_n_seqs(s);
    bool possible = s->n_q % n == 0;
    for (int r = 0; r < n && possible && s->cu_q; r++)
        possible = s->cu_q[r + 1] - s->cu_q[r] == s->n_q / n;
    return possible;
}

/* Pages that the keys of a sequence fill or begin. */
static int64_t pages_of(const paging *g, const msa_shape *s, int r)
{
    return (msa_get_seq(s, r).n_kv + g->p.page - 1) / g->p.page;
}

static int64_t width_of(const paging *g)
{
    return g->s.n_kv / msa_n_seqs(&g->s) / g->p.page;
}

static void set_shape(paging *g, const msa_shape *s, int64_t capacity)
{
    const int n = msa_n_seqs(s);
    g->s = *s;
    g->s.n_kv = n * capacity;
    for (int r = 0; r <= n; r++) {
        g->cu[r] = (int32_t)(r * (s->n_q / n));
        g->cu[n + 1 + r] = (int32_t)(r * capacity);
    }
    g->s.cu_q = g->cu;
    g->s.cu_kv = g->cu + n + 1;
    g->s.len_kv = NULL;
}

/* Page ids in random order (Fisher and Yates), as many as each sequence needs, then -1. */
static bool set_table(paging *g, const msa_shape *s, uint64_t seed)
{
    inputs_rng rng = {seed};
    const int64_t width = width_of(g);
    int32_t *order = malloc((size_t)g->p.n_pages * sizeof *order), *next = order;
    for (int64_t i = 0; order && i < g->p.n_pages; i++) {
        const int64_t at = inputs_below(&rng, i + 1);
        order[i] = order[at];
        order[at] = (int32_t)i;
    }
    for (int r = 0; order && r < msa_n_seqs(s); r++) {
        g->lens[r] = (int32_t)msa_get_seq(s, r).n_kv;
        for (int64_t b = 0; b < width; b++)
            g->table[r * width + b] = b < pages_of(g, s, r) ? *next++ : -1;
    }
    free(order);
    return order != NULL;
}

/* Copies `width` floats a key of every sequence to its page. */
static void scatter(const paging *g, const msa_shape *s, const float *from, int64_t width, float *to)
{
    memset(to, 0xff, (size_t)(g->p.n_pages * g->p.page * width) * sizeof *to);
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        const request at = get_request(&g->s, &g->p, r);
        for (int64_t j = 0; j < seq.n_kv; j++)
            memcpy(to + key_row(&at, j) * width, from + (seq.kv0 + j) * width, (size_t)width * sizeof *to);
    }
}

/* The codes of every complete piece. */
static void encode(paging *g, const msa_shape *s, const float *ki)
{
    const int64_t piece = g->p.page < s->block ? g->p.page : s->block, n = piece * s->d_index;
    memset(g->p.ki8, 0x7f, (size_t)(g->p.n_pages * g->p.page * s->d_index));
    memset(g->p.scale, 0xff, (size_t)(g->p.n_pages * g->p.page / piece) * sizeof *g->p.scale);
    memcpy(g->decoded, ki, (size_t)(s->n_kv * s->d_index) * sizeof *ki);
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        const request where = get_request(&g->s, &g->p, r);
        for (int64_t j = 0; j + piece <= seq.n_kv; j += piece) {
            const int64_t row = key_row(&where, j), at = (seq.kv0 + j) * s->d_index;
            uint8_t *bits = g->p.ki8 + row * s->d_index;
            float *scale = &g->p.scale[row / piece];
            msa_e4m3_block(ki + at, n, bits, scale);
            for (int64_t c = 0; c < n; c++)
                g->decoded[at + c] = msa_e4m3(bits[c]) * *scale;
        }
    }
}

bool paging_layout(paging *g, const msa_shape *s, int page, int spare, uint64_t seed)
{
    const size_t n = (size_t)msa_n_seqs(s);
    int64_t width = 0;
    *g = (paging){.p = {.n_pages = spare, .page = page ? page : s->block}};
    for (int r = 0; r < msa_n_seqs(s); r++) {
        g->p.n_pages += pages_of(g, s, r);
        width = pages_of(g, s, r) > width ? pages_of(g, s, r) : width;
    }
    width += spare > 0 || width == 0;
    g->cu = malloc(2 * (n + 1) * sizeof *g->cu);
    g->lens = malloc(n * sizeof *g->lens);
    g->table = malloc(n * (size_t)width * sizeof *g->table);
    if (!g->cu || !g->lens || !g->table)
        return false;
    g->p.table = g->table;
    g->p.lens = g->lens;
    set_shape(g, s, width * g->p.page);
    return set_table(g, s, seed);
}

bool paging_new(paging *g, const msa_shape *s, const inputs *in, int page, uint64_t seed, bool small)
{
    const size_t width = (size_t)s->n_kv_heads * (size_t)s->d_head, di = (size_t)s->d_index;
    if (!paging_layout(g, s, page, 3, seed))
        return false;
    const size_t rows = (size_t)(g->p.n_pages * g->p.page);
    g->k = malloc(rows * width * sizeof *g->k);
    g->v = malloc(rows * width * sizeof *g->v);
    g->ki = malloc(rows * di * sizeof *g->ki);
    g->decoded = malloc((size_t)s->n_kv * di * sizeof *g->decoded);
    g->p.ki8 = small ? malloc(rows * di) : NULL;
    g->p.scale = small ? malloc(rows * sizeof *g->p.scale) : NULL;
    if (!g->k || !g->v || !g->ki || !g->decoded || (small && (!g->p.ki8 || !g->p.scale)))
        return false;
    scatter(g, s, in->k, (int64_t)width, g->k);
    scatter(g, s, in->v, (int64_t)width, g->v);
    scatter(g, s, in->ki, (int64_t)di, g->ki);
    if (small)
        encode(g, s, in->ki);
    return true;
}

void paging_free(paging *g)
{
    void *const all[] = {g->cu, g->lens, g->table, g->k, g->v, g->ki, g->decoded, g->p.ki8, g->p.scale};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}
