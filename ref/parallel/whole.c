/* Keys of all ranks, laid into whole sequences, and gradients on their way back. */
#include "whole.h"

#include <stdlib.h>

bool new_whole(whole *w, const msa_shape *s, bool dense)
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

void free_whole(whole *w)
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

msa_status gather_pages(transport *t, const deal_shard *keys, traffic_kind kind, const float *pages,
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
        ok = (kind == TRAFFIC_OTHER ? transport_collect : transport_gather)(
            t, kind, (transport_part){own, part[t->rank].bytes}, part);
    }
    for (int r = 0; ok && (t->rank == 0 || kind != TRAFFIC_OTHER) && r < ranks; r++)
        unpack(s, w, r, ranks, (int64_t)width, part[r].data, to);
    free(all), free(own), free(part);
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}

msa_status gather_whole(transport *t, const deal_shard *keys, const whole *w)
{
    const msa_shape *s = &keys->s;
    MSA_TRY(gather_pages(t, keys, TRAFFIC_KEYS, keys->k, s->n_kv_heads, s->d_head, w, w->k));
    MSA_TRY(gather_pages(t, keys, TRAFFIC_KEYS, keys->v, s->n_kv_heads, s->d_head, w, w->v));
    return w->ki ? gather_pages(t, keys, TRAFFIC_INDEX_KEYS, keys->ki, 1, s->d_index, w, w->ki) : MSA_OK;
}

/* ---- What comes back -------------------------------------------------------------------------------- */

/* A rank's tokens out of whole sequences, one after the other; returns behind the last. */
static float *pack_for(const msa_shape *s, const whole *w, int rank, int ranks, int64_t width,
                       const double *from, float *to)
{
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int64_t j = 0, b; seq.n_q && (b = deal_block(rank, ranks, n, j)) * s->block < seq.n_kv; j++) {
            const int64_t count = min_i64(s->block, seq.n_kv - b * s->block) * width;
            for (int64_t i = 0; i < count; i++)
                *to++ = (float)from[(w->kv0[n] + b * s->block) * width + i];
        }
    }
    return to;
}

/* parts [R][own tokens,heads,d] added up into pages. */
static void add_parts(const deal_shard *keys, int64_t tokens, const float *parts, int heads, int d,
                      float *pages)
{
    const msa_shape *s = &keys->s;
    const int64_t stride = tokens * heads * d;
    for (int n = 0; n < msa_n_seqs(s); n++)
        for (int64_t at = keys->first[n]; at < keys->first[n + 1]; at++) {
            const int64_t b = deal_block(keys->rank, keys->ranks, n, at - keys->first[n]);
            const int64_t end = min_i64(s->block, msa_get_seq(s, n).n_kv - b * s->block);
            for (int64_t t = 0; t < end; t++)
                for (int64_t c = 0; c < heads * d; c++, parts++) {
                    double sum = 0;
                    for (int r = 0; r < keys->ranks; r++)
                        sum += (double)parts[r * stride];
                    pages[((keys->page[at] * heads + c / d) * s->block + t) * d + c % d] = (float)sum;
                }
        }
}

msa_status add_up_whole(transport *t, const deal_shard *keys, const whole *w, int heads, int d,
                        const double *from, float *pages)
{
    const msa_shape *s = &keys->s;
    const size_t ranks = (size_t)t->ranks, width = (size_t)heads * (size_t)d;
    const int64_t tokens = tokens_of(s, t->rank, t->ranks);
    const size_t own = (size_t)tokens * width;
    float *out = malloc(((size_t)w->kv0[msa_n_seqs(s)] * width + 1) * sizeof *out), *at = out;
    float *in = malloc((ranks * own + 1) * sizeof *in);
    transport_part *part = malloc(2 * ranks * sizeof *part);
    bool ok = out && in && part;
    for (int r = 0; ok && r < t->ranks; r++) {
        float *const end = pack_for(s, w, r, t->ranks, (int64_t)width, from, at);
        part[r] = (transport_part){at, (size_t)(end - at) * sizeof *at};
        part[t->ranks + r] = (transport_part){in + (size_t)r * own, own * sizeof *in};
        at = end;
    }
    if (ok && own)
        memcpy(in + (size_t)t->rank * own, part[t->rank].data, own * sizeof *in);
    ok = ok && transport_exchange(t, TRAFFIC_GRADIENTS, part, part + ranks);
    if (ok)
        add_parts(keys, tokens, in, heads, d, pages);
    free(out), free(in), free(part);
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}

/* ---- Ranges of queries ------------------------------------------------------------------------------ */

msa_status walk_ranges(const deal_rows *rows, int home, const msa_shape *all, whole_range_fn *run,
                       void *context)
{
    const int64_t first = rows->first[home], end = rows->first[home + 1];
    for (int64_t x = first, next; x < end; x = next) {
        msa_shape s = *all;
        for (next = x + 1;
             next < end && rows->seq[next] == rows->seq[x] && rows->at[next] == rows->at[next - 1] + 1;)
            next++;
        s.n_q = next - x, s.n_kv = rows->at[next - 1] + 1, s.n_seqs = 1;
        s.cu_q = s.cu_kv = s.len_q = s.len_kv = NULL;
        MSA_TRY(run(context, &s, x - first, rows->seq[x]));
    }
    return MSA_OK;
}
