/* Keys travel to the queries: everyone sends its blocks to all others and lays what comes into whole sequences. Then each
 * of a home's slices, of which a sequence has two, is a call of its own: the last queries of a prefix. */
#include <stdlib.h>

#include "parallel.h"

/* Whole sequences, those with queries one after the other. */
typedef struct whole {
    int64_t *kv0;      /* [sequences+1] */
    float *k, *v, *ki; /* [S,Hkv,dh], [S,di] */
} whole;

static bool new_whole(whole *w, const msa_shape *s, bool dense)
{
    const int seqs = msa_n_seqs(s);
    *w = (whole){.kv0 = malloc((size_t)(seqs + 1) * sizeof *w->kv0)};
    if (!w->kv0)
        return false;
    w->kv0[0] = 0;
    for (int n = 0; n < seqs; n++)
        w->kv0[n + 1] = w->kv0[n] + (msa_get_seq(s, n).n_q ? msa_get_seq(s, n).n_kv : 0);
    const size_t tokens = (size_t)w->kv0[seqs] + 1, width = (size_t)s->n_kv_heads * (size_t)s->d_head;
    w->k = malloc(tokens * width * sizeof *w->k);
    w->v = malloc(tokens * width * sizeof *w->v);
    w->ki = dense ? NULL : malloc(tokens * (size_t)s->d_index * sizeof *w->ki);
    return w->k && w->v && (dense || w->ki);
}

static void free_whole(whole *w)
{
    free(w->kv0), free(w->k), free(w->v), free(w->ki);
}

/* ---- What travels ----------------------------------------------------------------------------------- */

/* Tokens of a rank's blocks, of all sequences with queries. */
static int64_t tokens_of(const msa_shape *s, int rank, int ranks)
{
    int64_t tokens = 0;
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int64_t j = 0, b; seq.n_q && (b = deal_block(rank, ranks, n, j)) * s->block < seq.n_kv; j++)
            tokens += min_i64(s->block, seq.n_kv - b * s->block);
    }
    return tokens;
}

/* Own tokens, one after the other, from pages with the heads outside. */
static void pack(const deal_shard *keys, const float *pages, int heads, int d, float *to)
{
    const msa_shape *s = &keys->s;
    for (int n = 0; n < msa_n_seqs(s); n++)
        for (int64_t j = 0; j < keys->first[n + 1] - keys->first[n]; j++) {
            const int64_t b = deal_block(keys->rank, keys->ranks, n, j);
            const float *page = pages + keys->page[keys->first[n] + j] * heads * s->block * d;
            const int64_t end = min_i64(s->block, msa_get_seq(s, n).n_kv - b * s->block);
            for (int64_t t = 0; t < end; t++)
                for (int r = 0; r < heads; r++, to += d)
                    memcpy(to, page + (r * s->block + t) * d, (size_t)d * sizeof *to);
        }
}

/* A rank's tokens to their places in whole sequences. */
static void unpack(const msa_shape *s, const whole *w, int rank, int ranks, int64_t width, const float *from,
                   float *to)
{
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int64_t j = 0, b; seq.n_q && (b = deal_block(rank, ranks, n, j)) * s->block < seq.n_kv; j++) {
            const int64_t tokens = min_i64(s->block, seq.n_kv - b * s->block);
            memcpy(to + (w->kv0[n] + b * s->block) * width, from, (size_t)(tokens * width) * sizeof *to);
            from += tokens * width;
        }
    }
}

/* All ranks' tokens of K, V or index keys, `heads` vectors of d floats each. */
static msa_status gather(transport *t, const deal_shard *keys, traffic_kind kind, const float *pages,
                         int heads, int d, const whole *w, float *to)
{
    const msa_shape *s = &keys->s;
    const int ranks = t->ranks;
    const size_t width = (size_t)heads * (size_t)d, tokens = (size_t)w->kv0[msa_n_seqs(s)];
    float *all = malloc((tokens * width + 1) * sizeof *all), *own = NULL, *at = all;
    transport_part *part = malloc((size_t)ranks * sizeof *part);
    for (int r = 0; all && part && r < ranks; r++) {
        part[r] = (transport_part){at, (size_t)tokens_of(s, r, ranks) * width * sizeof *all};
        at += part[r].bytes / sizeof *all;
    }
    if (all && part)
        own = malloc(part[t->rank].bytes + 1);
    bool ok = own;
    if (ok) {
        pack(keys, pages, heads, d, own);
        ok = transport_gather(t, kind, (transport_part){own, part[t->rank].bytes}, part);
    }
    for (int r = 0; ok && r < ranks; r++)
        unpack(s, w, r, ranks, (int64_t)width, part[r].data, to);
    free(all), free(own), free(part);
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}

static msa_status gather_all(transport *t, const parallel_call *c, const whole *w)
{
    const deal_shard *keys = c->keys;
    const msa_shape *s = &keys->s;
    MSA_TRY(gather(t, keys, TRAFFIC_KEYS, keys->k, s->n_kv_heads, s->d_head, w, w->k));
    MSA_TRY(gather(t, keys, TRAFFIC_KEYS, keys->v, s->n_kv_heads, s->d_head, w, w->v));
    return c->dense ? MSA_OK : gather(t, keys, TRAFFIC_INDEX_KEYS, keys->ki, 1, s->d_index, w, w->ki);
}

/* ---- The slices at home -------------------------------------------------------------------------------- */

/* Rows x .. x+n-1, counted from the first at home: neighbours, the last of which sees `visible` keys. */
static msa_status attend_slice(const parallel_call *c, const whole *w, int64_t x, int64_t n, int seq,
                               int64_t visible)
{
    msa_shape s = c->keys->s;
    s.n_q = n, s.n_kv = visible, s.n_seqs = 1;
    s.cu_q = s.cu_kv = s.len_q = s.len_kv = NULL;
    const int64_t heads = s.n_heads, kv_heads = s.n_kv_heads, kv0 = w->kv0[seq];
    const float *q = c->q + x * heads * s.d_head, *k = w->k + kv0 * kv_heads * s.d_head,
                *v = w->v + kv0 * kv_heads * s.d_head;
    float *o = c->o + x * heads * s.d_head, *lse = c->lse + x * heads;
    void *work = malloc(msa_workspace(c->ops, &s) + 1);
    int32_t *ids = c->dense ? NULL : malloc((size_t)(n * kv_heads * s.topk) * sizeof *ids);
    msa_status status = work && (c->dense || ids) ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK && c->dense)
        status = c->ops->stage[MSA_STAGE_DENSE]->run(
            &s, &(msa_arrays){.q = q, .k = k, .v = v, .o = o, .lse = lse}, work);
    else if (status == MSA_OK)
        status = msa_forward(c->ops, &s, q, k, v, c->qi + x * kv_heads * s.d_index, w->ki + kv0 * s.d_index,
                             NULL, ids, o, lse, NULL, work);
    for (int64_t row = 0; status == MSA_OK && ids && row < n * kv_heads; row++)
        memcpy(c->ids + (x * kv_heads + row) * s.topk, ids + (row % kv_heads * n + row / kv_heads) * s.topk,
               (size_t)s.topk * sizeof *ids);
    free(work), free(ids);
    return status;
}

msa_status parallel_pass_kv(transport *t, parallel_call *c)
{
    const deal_rows *rows = c->rows;
    const int64_t first = rows->first[t->rank], end = rows->first[t->rank + 1];
    whole w;
    msa_status status = new_whole(&w, &c->keys->s, c->dense) ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK)
        status = gather_all(t, c, &w);
    for (int64_t x = first, next; status == MSA_OK && x < end; x = next) {
        for (next = x + 1;
             next < end && rows->seq[next] == rows->seq[x] && rows->at[next] == rows->at[next - 1] + 1;)
            next++;
        status = attend_slice(c, &w, x - first, next - x, rows->seq[x], rows->at[next - 1] + 1);
    }
    free_whole(&w);
    return status;
}
