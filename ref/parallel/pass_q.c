/* Queries travel to the owners of the keys.
 *
 *   1 every index query goes to everyone                4 the winners go to everyone
 *   2 owners score their own blocks: the best k - 1     5 the heads of a group go to those who own a winner
 *   3 candidates go home, where the best k - 1 win      6 owners attend, 7 homes merge
 *
 * Whatever is among the best k - 1 of all blocks is among the best k - 1 of its owner, since the order is total. So 2 and 3
 * choose what one process would. Nobody needs the score of the local block, and of no other block is a part hidden.
 *
 * With c counting the owners, each of which has a log-sum-exp L_c over its part of the support and an output O_c:
 *
 *   LSE = log sum_c exp(L_c),   O = sum_c exp(L_c - LSE) O_c
 */
#include <stdlib.h>

#include "pass_q.h"

/* ---- Pairs of a row and a group ------------------------------------------------------------------------ */

int64_t list_blocks(const step *p, int owner, int64_t x, int r, int32_t *pages)
{
    const msa_shape *s = p->s;
    const deal_shard *keys = p->c->keys;
    const int n = p->c->rows->seq[x], ranks = p->t->ranks;
    const int64_t at = p->c->rows->at[x], local = at / s->block;
    const int32_t *ids = p->ids ? p->ids + (x * s->n_kv_heads + r) * s->topk : NULL;
    const int64_t most = ids ? s->topk : deal_blocks_before(owner, ranks, n, local + 1);
    int64_t tokens = 0;
    for (int64_t i = 0; i < most && (!ids || ids[i] >= 0); i++) {
        const int64_t b = ids ? ids[i] : deal_block(owner, ranks, n, i);
        if (deal_owner(ranks, n, b) != owner)
            continue;
        if (pages)
            *pages++ =
                keys->page[keys->first[n] + deal_blocks_before(owner, ranks, n, b)] * s->n_kv_heads + r;
        tokens += min_i64(s->block, at + 1 - b * s->block);
    }
    return tokens;
}

void count_pairs(const step *p)
{
    const int ranks = p->t->ranks, rank = p->t->rank;
    const int64_t *first = p->c->rows->first;
    for (int other = 0; other < ranks; other++) {
        p->served[other + 1] = p->served[other];
        p->asked[other + 1] = p->asked[other];
        for (int r = 0; r < p->s->n_kv_heads; r++) {
            for (int64_t x = first[other]; x < first[other + 1]; x++)
                p->served[other + 1] += list_blocks(p, rank, x, r, NULL) > 0;
            for (int64_t x = p->first; x < p->first + p->own; x++)
                p->asked[other + 1] += list_blocks(p, other, x, r, NULL) > 0;
        }
    }
}

void by_pairs(const step *p, const int64_t *sum, transport_part *part, void *base, size_t width)
{
    for (int r = 0; r < p->t->ranks; r++)
        part[r] =
            (transport_part){(char *)base + (size_t)sum[r] * width, (size_t)(sum[r + 1] - sum[r]) * width};
}

static bool exchange_pairs(const step *p, traffic_kind kind, const int64_t *out, void *from,
                           const int64_t *in, void *to, size_t width)
{
    const int rank = p->t->rank;
    by_pairs(p, out, p->to, from, width);
    by_pairs(p, in, p->from, to, width);
    if (p->to[rank].bytes)
        memcpy(p->from[rank].data, p->to[rank].data, p->to[rank].bytes);
    return transport_exchange(p->t, kind, p->to, p->from);
}

/* ---- Attention of owners --------------------------------------------------------------------------------- */

/* Pairs as requests of a step of dense attention, one query each, with one KV head: their chosen blocks are their
 * pages. */
typedef struct batch {
    int n, most;   /* requests, at most so many */
    int64_t width; /* pages of a request */
    int64_t done;  /* pairs of the batches before */
    int32_t *table, *lens, *cu_q, *cu_kv;
    void *work;
} batch;

#define BATCH 128 /* requests that kernels of a device take at a time */

static msa_shape batch_shape(const step *p, const batch *b, int n)
{
    const msa_shape *s = p->s;
    return (msa_shape){.n_q = n,
                       .n_kv = n * b->width * s->block,
                       .n_heads = p->group,
                       .n_kv_heads = 1,
                       .d_head = s->d_head,
                       .d_index = 1,
                       .block = s->block,
                       .topk = 1,
                       .n_seqs = n,
                       .cu_q = b->cu_q,
                       .cu_kv = b->cu_kv};
}

static msa_status attend_batch(const step *p, batch *b)
{
    const msa_shape s = batch_shape(p, b, b->n);
    const deal_shard *keys = p->c->keys;
    const int64_t pages = keys->n_pages * p->s->n_kv_heads;
    if (b->n == 0)
        return MSA_OK;
    const msa_arrays a = {.q = p->q + b->done * p->group * s.d_head,
                          .k = keys->k,
                          .v = keys->v,
                          .o = p->o + b->done * p->group * s.d_head,
                          .lse = p->lse + b->done * p->group,
                          .pages = {.n_pages = pages, .table = b->table, .lens = b->lens, .page = s.block}};
    b->done += b->n;
    b->n = 0;
    return p->c->ops->stage[MSA_STAGE_DENSE_DECODE]->run(&s, &a, b->work);
}

static msa_status attend_pairs(const step *p, batch *b)
{
    for (int home = 0; home < p->t->ranks; home++)
        for (int64_t x = p->c->rows->first[home]; x < p->c->rows->first[home + 1]; x++)
            for (int r = 0; r < p->s->n_kv_heads; r++) {
                const int64_t tokens = list_blocks(p, p->t->rank, x, r, b->table + b->n * b->width);
                if (tokens == 0)
                    continue;
                b->lens[b->n++] = (int32_t)tokens;
                if (b->n == b->most)
                    MSA_TRY(attend_batch(p, b));
            }
    return attend_batch(p, b);
}

static msa_status attend_here(const step *p)
{
    const deal_shard *keys = p->c->keys;
    batch b = {.width = p->ids ? p->s->topk : 1};
    for (int n = 0; n < msa_n_seqs(p->s); n++)
        if (!p->ids)
            b.width = max_i64(b.width, keys->first[n + 1] - keys->first[n]);
    b.most = (int)min_i64(BATCH, max_i64(1, INT32_MAX / (b.width * p->s->block)));
    b.table = malloc((size_t)(b.most * b.width) * sizeof *b.table);
    b.lens = malloc((size_t)b.most * sizeof *b.lens);
    b.cu_q = malloc(2 * (size_t)(b.most + 1) * sizeof *b.cu_q);
    msa_status status = b.table && b.lens && b.cu_q ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK) {
        b.cu_kv = b.cu_q + b.most + 1;
        for (int n = 0; n <= b.most; n++) {
            b.cu_q[n] = n;
            b.cu_kv[n] = (int32_t)(n * b.width * p->s->block);
        }
        const msa_shape s = batch_shape(p, &b, b.most);
        b.work = malloc(p->c->ops->stage[MSA_STAGE_DENSE_DECODE]->workspace(&s) + 1);
        status = b.work ? attend_pairs(p, &b) : MSA_ERR_DEVICE;
    }
    free(b.table), free(b.lens), free(b.cu_q), free(b.work);
    return status;
}

/* ---- Home again -------------------------------------------------------------------------------------------- */

/* The heads of the rows at home, in the order in which their owners expect them. */
static void pack_queries(const step *p)
{
    const size_t width = (size_t)p->group * (size_t)p->s->d_head;
    float *to = p->q_out;
    for (int owner = 0; owner < p->t->ranks; owner++)
        for (int64_t x = p->first; x < p->first + p->own; x++)
            for (int r = 0; r < p->s->n_kv_heads; r++)
                if (list_blocks(p, owner, x, r, NULL) > 0) {
                    memcpy(to, p->c->q + (size_t)((x - p->first) * p->s->n_kv_heads + r) * width,
                           width * sizeof *to);
                    to += width;
                }
}

/* [merge] */
/* One head, from parts o[n] of d floats and their LSE. */
static float merge_head(int n, const float *const *o, const float *lse, int d, float *out)
{
    double max = -INFINITY, sum = 0;
    for (int c = 0; c < n; c++)
        max = (double)lse[c] > max ? (double)lse[c] : max;
    for (int c = 0; c < n; c++)
        sum += exp((double)lse[c] - max);
    for (int i = 0; i < d; i++) {
        double x = 0;
        for (int c = 0; c < n; c++)
            x += exp((double)lse[c] - max) * (double)o[c][i];
        out[i] = (float)(x / sum);
    }
    return (float)(max + log(sum));
}
/* [merge] */

/* The parts of one owner after the other lie in the order of rows and groups. */
static msa_status merge(const step *p)
{
    const int ranks = p->t->ranks, heads = p->s->n_kv_heads, d = p->s->d_head;
    const float **part = malloc((size_t)ranks * sizeof *part);
    float *lse = malloc((size_t)ranks * sizeof *lse);
    int64_t *next = malloc((size_t)ranks * sizeof *next);
    int *who = malloc((size_t)ranks * sizeof *who);
    const bool ok = part && lse && next && who;
    if (ok)
        memcpy(next, p->asked, (size_t)ranks * sizeof *next);
    for (int64_t row = 0; ok && row < p->own * heads; row++) {
        int n = 0;
        for (int owner = 0; owner < ranks; owner++)
            if (list_blocks(p, owner, p->first + row / heads, (int)(row % heads), NULL) > 0)
                who[n++] = owner;
        for (int h = 0; h < p->group; h++) {
            const int64_t head = row * p->group + h;
            for (int c = 0; c < n; c++) {
                part[c] = p->o_in + (next[who[c]] * p->group + h) * d;
                lse[c] = p->lse_in[next[who[c]] * p->group + h];
            }
            if (n == 1) { /* as it was */
                memcpy(p->c->o + head * d, part[0], (size_t)d * sizeof(float));
                p->c->lse[head] = lse[0];
            } else {
                p->c->lse[head] = merge_head(n, part, lse, d, p->c->o + head * d);
            }
        }
        for (int c = 0; c < n; c++)
            next[who[c]]++;
    }
    free(part), free(lse), free(next), free(who);
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}

static msa_status attend(step *p)
{
    const size_t width = (size_t)p->group * (size_t)p->s->d_head, group = (size_t)p->group;
    count_pairs(p);
    const size_t served = (size_t)p->served[p->t->ranks] + 1, asked = (size_t)p->asked[p->t->ranks] + 1;
    p->q = malloc(served * width * sizeof *p->q);
    p->o = malloc(served * width * sizeof *p->o);
    p->lse = malloc(served * group * sizeof *p->lse);
    p->q_out = malloc(asked * width * sizeof *p->q_out);
    p->o_in = malloc(asked * width * sizeof *p->o_in);
    p->lse_in = malloc(asked * group * sizeof *p->lse_in);
    if (!p->q || !p->o || !p->lse || !p->q_out || !p->o_in || !p->lse_in)
        return MSA_ERR_DEVICE;
    pack_queries(p);
    if (!exchange_pairs(p, TRAFFIC_QUERIES, p->asked, p->q_out, p->served, p->q, width * sizeof(float)))
        return MSA_ERR_DEVICE;
    MSA_TRY(attend_here(p));
    if (!exchange_pairs(p, TRAFFIC_PARTIALS, p->served, p->o, p->asked, p->o_in, width * sizeof(float)) ||
        !exchange_pairs(p, TRAFFIC_PARTIALS, p->served, p->lse, p->asked, p->lse_in, group * sizeof(float)))
        return MSA_ERR_DEVICE;
    return merge(p);
}

msa_status parallel_pass_q(transport *t, parallel_call *c)
{
    const size_t ranks = (size_t)t->ranks;
    const msa_shape *s = &c->keys->s;
    step p = {.t = t,
              .c = c,
              .s = s,
              .rows = c->rows->n,
              .first = c->rows->first[t->rank],
              .own = c->rows->first[t->rank + 1] - c->rows->first[t->rank],
              .group = s->n_heads / s->n_kv_heads,
              .served = calloc(2 * (ranks + 1), sizeof *p.served),
              .to = malloc(2 * ranks * sizeof *p.to)};
    msa_status status = p.served && p.to ? MSA_OK : MSA_ERR_DEVICE;
    c->screening = (msa_screening){0};
    if (status == MSA_OK) {
        p.asked = p.served + ranks + 1;
        p.from = p.to + ranks;
        status = c->dense ? MSA_OK : select_blocks(&p);
    }
    if (status == MSA_OK)
        status = attend(&p);
    if (status == MSA_OK)
        c->pairs = (double)(p.served[ranks] - (p.served[t->rank + 1] - p.served[t->rank]));
    void *const all[] = {p.qi, p.score, p.candidate, p.ids,  p.served, p.q,
                         p.o,  p.lse,   p.q_out,     p.o_in, p.lse_in, p.to};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    return status;
}
