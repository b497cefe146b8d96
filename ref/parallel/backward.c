/* Gradients where keys are dealt to ranks. Every rank has all keys for the time of the call, and the ranges of queries that are
 * at home with it; what these leave for a key is a part of its gradient.
 *
 *   dK_j = sum over ranks of dK_j(rows at home)          so dV and dKi
 *   L_KL = sum over ranges of (rows of the range / rows of the call) L_KL(range)
 *
 * A range's call divides its KL gradients by its own rows; the weight that it is given makes up for that. */
#include <stdlib.h>
#include <string.h>

#include "whole.h"

typedef struct job {
    const parallel_call *c;
    parallel_gradients *g;
    const whole *w;
    double *dk, *dv, *dki; /* of whole sequences, this rank's part */
    double loss;
} job;

static void accumulate(int64_t n, const float *from, double *to)
{
    for (int64_t i = 0; i < n; i++)
        to[i] += (double)from[i];
}

/* What a range's calls write: ids that they read, and gradients of the keys that it sees. */
typedef struct range {
    int32_t *ids;
    float *dk, *dv, *dki;
    void *work;
} range;

static bool new_range(range *r, const job *j, const msa_shape *s)
{
    const size_t kv = (size_t)s->n_kv_heads, keys = (size_t)s->n_kv;
    *r = (range){.ids = malloc((size_t)s->n_q * kv * (size_t)s->topk * sizeof *r->ids),
                 .dk = malloc(keys * kv * (size_t)s->d_head * sizeof *r->dk),
                 .dv = malloc(keys * kv * (size_t)s->d_head * sizeof *r->dv),
                 .dki = malloc(keys * (size_t)s->d_index * sizeof *r->dki),
                 .work = malloc(msa_workspace(j->c->ops, s) + 1)};
    return r->ids && r->dk && r->dv && r->dki && r->work;
}

static void free_range(range *r)
{
    free(r->ids), free(r->dk), free(r->dv), free(r->dki), free(r->work);
}

/* Rows x .. of the call at home, and the keys of the sequence that begins with kv0. */
static msa_arrays arrays_of(const job *j, const range *r, const msa_shape *s, int64_t x, int64_t kv0,
                            double *loss)
{
    const parallel_call *c = j->c;
    const int64_t heads = s->n_heads, kv = s->n_kv_heads, d = s->d_head, di = s->d_index;
    const double part = (double)s->n_q / (double)c->rows->n;
    return (msa_arrays){.q = c->q + x * heads * d,
                        .k = j->w->k + kv0 * kv * d,
                        .v = j->w->v + kv0 * kv * d,
                        .qi = c->qi + x * kv * di,
                        .ki = j->w->ki + kv0 * di,
                        .ids = j->g->full ? NULL : r->ids,
                        .o = c->o + x * heads * d,
                        .lse = c->lse + x * heads,
                        .dout = j->g->dout + x * heads * d,
                        .dq = j->g->dq + x * heads * d,
                        .dk = r->dk,
                        .dv = r->dv,
                        .dqi = j->g->dqi + x * kv * di,
                        .dki = r->dki,
                        .loss = loss,
                        .weight = j->g->weight * part};
}

static msa_status differentiate(void *context, const msa_shape *s, int64_t x, int seq)
{
    job *j = context;
    const msa_ops *ops = j->c->ops;
    const int64_t kv = s->n_kv_heads, n = s->n_q, kv0 = j->w->kv0[seq], width = kv * s->d_head;
    range r;
    double loss = 0;
    msa_status status = new_range(&r, j, s) ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK) {
        for (int64_t row = 0; row < n * kv && !j->g->full; row++)
            memcpy(r.ids + (row % kv * n + row / kv) * s->topk, j->c->ids + (x * kv + row) * s->topk,
                   (size_t)s->topk * sizeof *r.ids);
        const msa_arrays a = arrays_of(j, &r, s, x, kv0, &loss);
        status = ops->stage[MSA_STAGE_BACKWARD]->run(s, &a, r.work);
        if (status == MSA_OK)
            status = ops->stage[MSA_STAGE_KL]->run(s, &a, r.work);
    }
    if (status == MSA_OK) {
        accumulate(s->n_kv * width, r.dk, j->dk + kv0 * width);
        accumulate(s->n_kv * width, r.dv, j->dv + kv0 * width);
        accumulate(s->n_kv * s->d_index, r.dki, j->dki + kv0 * s->d_index);
        j->loss += loss * (double)n / (double)j->c->rows->n;
    }
    free_range(&r);
    return status;
}

static msa_status add_up(transport *t, const job *j)
{
    const deal_shard *keys = j->c->keys;
    const msa_shape *s = &keys->s;
    double *losses = malloc((size_t)t->ranks * sizeof *losses), mine = j->loss;
    transport_part *part = malloc((size_t)t->ranks * sizeof *part);
    bool ok = losses && part;
    for (int r = 0; ok && r < t->ranks; r++)
        part[r] = (transport_part){&losses[r], sizeof mine};
    ok = ok && transport_gather(t, TRAFFIC_OTHER, (transport_part){&mine, sizeof mine}, part);
    j->g->loss = 0;
    for (int r = 0; ok && r < t->ranks; r++)
        j->g->loss += losses[r];
    free(losses), free(part);
    if (!ok)
        return MSA_ERR_DEVICE;
    MSA_TRY(add_up_whole(t, keys, j->w, s->n_kv_heads, s->d_head, j->dk, j->g->dk));
    MSA_TRY(add_up_whole(t, keys, j->w, s->n_kv_heads, s->d_head, j->dv, j->g->dv));
    return add_up_whole(t, keys, j->w, 1, s->d_index, j->dki, j->g->dki);
}

msa_status parallel_backward(transport *t, parallel_call *c, parallel_gradients *g)
{
    const msa_shape *s = &c->keys->s;
    whole w;
    job j = {.c = c, .g = g, .w = &w};
    msa_status status = new_whole(&w, s, false) ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK) {
        const size_t keys = (size_t)w.kv0[msa_n_seqs(s)] + 1,
                     width = (size_t)s->n_kv_heads * (size_t)s->d_head;
        j.dk = calloc(keys * width, sizeof *j.dk);
        j.dv = calloc(keys * width, sizeof *j.dv);
        j.dki = calloc(keys * (size_t)s->d_index, sizeof *j.dki);
        status = j.dk && j.dv && j.dki ? gather_whole(t, c->keys, &w) : MSA_ERR_DEVICE;
    }
    if (status == MSA_OK)
        status = walk_ranges(c->rows, t->rank, s, differentiate, &j);
    if (status == MSA_OK)
        status = add_up(t, &j);
    free(j.dk), free(j.dv), free(j.dki);
    free_whole(&w);
    return status;
}

/* Rows of whole sequences to where they lie in the call. */
static void place_tokens(const msa_shape *s, const whole *w, size_t width, const float *from, float *to)
{
    memset(to, 0, (size_t)s->n_kv * width * sizeof *to);
    for (int n = 0; n < msa_n_seqs(s); n++)
        memcpy(to + (size_t)msa_get_seq(s, n).kv0 * width, from + (size_t)w->kv0[n] * width,
               (size_t)(w->kv0[n + 1] - w->kv0[n]) * width * sizeof *to);
}

msa_status parallel_collect_keys(transport *t, const deal_shard *keys, const parallel_gradients *g, float *dk,
                                 float *dv, float *dki)
{
    const msa_shape *s = &keys->s;
    whole w;
    msa_status status = new_whole(&w, s, false) ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK)
        status = gather_pages(t, keys, TRAFFIC_OTHER, g->dk, s->n_kv_heads, s->d_head, &w, w.k);
    if (status == MSA_OK)
        status = gather_pages(t, keys, TRAFFIC_OTHER, g->dv, s->n_kv_heads, s->d_head, &w, w.v);
    if (status == MSA_OK)
        status = gather_pages(t, keys, TRAFFIC_OTHER, g->dki, 1, s->d_index, &w, w.ki);
    if (status == MSA_OK && t->rank == 0) {
        const size_t width = (size_t)s->n_kv_heads * (size_t)s->d_head;
        place_tokens(s, &w, width, w.k, dk);
        place_tokens(s, &w, width, w.v, dv);
        place_tokens(s, &w, (size_t)s->d_index, w.ki, dki);
    }
    free_whole(&w);
    return status;
}
