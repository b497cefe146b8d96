/* A contiguous KV cache laid out in pages. */
#include "paging.h"

#include <stdlib.h>
#include <string.h>

bool paging_possible(const msa_shape *s)
{
    for (int r = 0; r < msa_n_seqs(s); r++)
        if (msa_get_seq(s, r).n_q != msa_get_seq(s, 0).n_q || msa_get_seq(s, r).n_q == 0)
            return false;
    return true;
}

static int64_t blocks_of(const msa_shape *s, int r)
{
    return (msa_get_seq(s, r).n_kv + s->block - 1) / s->block;
}

static void set_shape(paging *g, const msa_shape *s, int64_t room)
{
    const int n = msa_n_seqs(s);
    g->s = *s;
    g->s.n_kv = n * room;
    for (int r = 0; r <= n; r++) {
        g->cu[r] = (int32_t)(r * (s->n_q / n));
        g->cu[n + 1 + r] = (int32_t)(r * room);
    }
    g->s.cu_q = g->cu;
    g->s.cu_kv = g->cu + n + 1;
}

/* Page ids in random order (Fisher and Yates), as many as each sequence has blocks, then -1. */
static bool set_table(paging *g, const msa_shape *s, uint64_t seed)
{
    inputs_rng rng = {seed};
    const int64_t width = msa_n_blocks(&g->s);
    int32_t *order = malloc((size_t)g->p.n_pages * sizeof *order), *next = order;
    for (int64_t i = 0; order && i < g->p.n_pages; i++) {
        const int64_t at = inputs_below(&rng, i + 1);
        order[i] = order[at];
        order[at] = (int32_t)i;
    }
    for (int r = 0; order && r < msa_n_seqs(s); r++) {
        g->lens[r] = (int32_t)msa_get_seq(s, r).n_kv;
        for (int64_t b = 0; b < width; b++)
            g->table[r * width + b] = b < blocks_of(s, r) ? *next++ : -1;
    }
    free(order);
    return order != NULL;
}

/* Copies `width` floats a key of every sequence to its page. */
static void scatter(const paging *g, const msa_shape *s, const float *from, int64_t width, float *to)
{
    memset(to, 0xff, (size_t)(g->p.n_pages * s->block * width) * sizeof *to);
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        for (int64_t j = 0; j < seq.n_kv; j++) {
            const int64_t page = g->table[r * msa_n_blocks(&g->s) + j / s->block];
            memcpy(to + (page * s->block + j % s->block) * width, from + (seq.kv0 + j) * width,
                   (size_t)width * sizeof *to);
        }
    }
}

/* Block after block of every sequence. */
static void encode(paging *g, const msa_shape *s, const float *ki)
{
    const int64_t width = s->block * s->d_index;
    memset(g->p.ki8, 0x7f, (size_t)(g->p.n_pages * width));
    for (int64_t page = 0; page < g->p.n_pages; page++)
        g->p.scale[page] = 1;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        for (int64_t b = 0; b < blocks_of(s, r); b++) {
            const int64_t page = g->table[r * msa_n_blocks(&g->s) + b], first = b * s->block;
            const int64_t n = (seq.n_kv - first < s->block ? seq.n_kv - first : s->block) * s->d_index;
            const int64_t at = (seq.kv0 + first) * s->d_index;
            uint8_t *bits = g->p.ki8 + page * width;
            msa_e4m3_block(ki + at, n, bits, &g->p.scale[page]);
            for (int64_t c = 0; c < n; c++)
                g->decoded[at + c] = msa_e4m3(bits[c]) * g->p.scale[page];
        }
    }
}

bool paging_layout(paging *g, const msa_shape *s, int spare, uint64_t seed)
{
    const size_t n = (size_t)msa_n_seqs(s);
    const int64_t width = msa_n_blocks(s) + (spare > 0);
    *g = (paging){.p.n_pages = spare};
    for (int r = 0; r < msa_n_seqs(s); r++)
        g->p.n_pages += blocks_of(s, r);
    g->cu = malloc(2 * (n + 1) * sizeof *g->cu);
    g->lens = malloc(n * sizeof *g->lens);
    g->table = malloc(n * (size_t)width * sizeof *g->table);
    if (!g->cu || !g->lens || !g->table)
        return false;
    g->p.table = g->table;
    g->p.lens = g->lens;
    set_shape(g, s, width * s->block);
    return set_table(g, s, seed);
}

bool paging_new(paging *g, const msa_shape *s, const inputs *in, uint64_t seed, bool small)
{
    const size_t width = (size_t)s->n_kv_heads * (size_t)s->d_head, di = (size_t)s->d_index;
    if (!paging_layout(g, s, 3, seed))
        return false;
    const size_t rows = (size_t)(g->p.n_pages * s->block);
    g->k = malloc(rows * width * sizeof *g->k);
    g->v = malloc(rows * width * sizeof *g->v);
    g->ki = malloc(rows * di * sizeof *g->ki);
    g->decoded = malloc((size_t)s->n_kv * di * sizeof *g->decoded);
    g->p.ki8 = small ? malloc(rows * di) : NULL;
    g->p.scale = small ? malloc((size_t)g->p.n_pages * sizeof *g->p.scale) : NULL;
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
