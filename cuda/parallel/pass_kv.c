/* Keys travel to the queries, on devices: own blocks leave their pages and go to everyone, what comes is laid into whole
 * sequences. Then each of a home's slices is a call of index and sparse, as in ref/parallel/pass_kv.c. */
#include <stdlib.h>

#include "../../ref/parallel/whole.h"
#include "device.h"

enum { MOVES, LAID, OUT, IN, K, V, KI, IDS, LIST, INDEX_WORK, SPARSE_WORK, BUFFERS };

typedef struct whole_keys {
    wire *w;
    device_call *c;
    const msa_shape *s;
    int64_t *kv0;    /* [sequences+1] first token of each */
    int64_t *tokens; /* [R+1] of the ranks before */
    int own, others; /* blocks */
    transport_part *to, *from;
    buffer b[BUFFERS];
} whole_keys;

/* ---- Where tokens go ---------------------------------------------------------------------------------- */

/* Rank after rank: how its tokens lie in a message, and in whole sequences. Own ones come from their pages. */
static msa_status lay_out(whole_keys *a)
{
    const msa_shape *s = a->s;
    const int seqs = msa_n_seqs(s), rank = a->w->t->rank, ranks = a->w->t->ranks;
    int64_t blocks = 0, n = 0;
    for (int q = 0; q < seqs; q++) {
        const msa_seq seq = msa_get_seq(s, q);
        a->kv0[q + 1] = a->kv0[q] + (seq.n_q ? seq.n_kv : 0);
        blocks += seq.n_q ? (seq.n_kv + s->block - 1) / s->block : 0;
    }
    parallel_move *moves = malloc((size_t)(2 * blocks + 1) * sizeof *moves), *laid = moves + blocks;
    if (!moves)
        return MSA_ERR_DEVICE;
    a->tokens[0] = a->own = a->others = 0;
    for (int r = 0; r < ranks; r++) {
        for (int q = 0; q < seqs; q++)
            for (int64_t j = 0, b; (b = deal_block(r, ranks, q, j)) * s->block < a->kv0[q + 1] - a->kv0[q];
                 j++) {
                const int32_t tokens = (int32_t)min_i64(s->block, a->kv0[q + 1] - a->kv0[q] - b * s->block),
                              to = (int32_t)(a->kv0[q] + b * s->block);
                if (r == rank)
                    moves[a->own++] = (parallel_move){a->c->keys->page[a->c->keys->first[q] + j],
                                                      (int32_t)(n - a->tokens[r]), tokens};
                laid[a->others++] = (parallel_move){(int32_t)n, to, tokens};
                n += tokens;
            }
        a->tokens[r + 1] = n;
    }
    msa_status status = wire_put(a->w, &a->b[MOVES], moves, (size_t)a->own * sizeof *moves);
    if (status == MSA_OK)
        status = wire_put(a->w, &a->b[LAID], laid, (size_t)a->others * sizeof *laid);
    free(moves);
    return status;
}

/* One array, of `heads` heads of d numbers a token. Own tokens wait in their place among those that come. */
static msa_status gather(whole_keys *a, traffic_kind kind, const uint16_t *pages, int heads, int d, int which)
{
    const parallel_kernels *run = a->w->kernels;
    const int rank = a->w->t->rank, ranks = a->w->t->ranks;
    const size_t width = (size_t)(heads * d) * sizeof(uint16_t), all = (size_t)a->tokens[ranks] * width;
    int number;
    MSA_TRY(wire_grow(a->w, &a->b[IN], all));
    MSA_TRY(wire_grow(a->w, &a->b[which], all));
    for (int r = 0; r < ranks; r++)
        a->from[r] = (transport_part){(char *)a->b[IN].p + (size_t)a->tokens[r] * width,
                                      (size_t)(a->tokens[r + 1] - a->tokens[r]) * width};
    for (int r = 0; r < ranks; r++)
        a->to[r] = a->from[rank];
    MSA_TRY(run->move(a->own, a->b[MOVES].p, heads, d, a->s->block, pages, a->from[rank].data));
    MSA_TRY(wire_exchange(a->w, kind, a->to, a->from, &number));
    MSA_TRY(wire_wait(a->w, number));
    return run->move(a->others, a->b[LAID].p, heads, d, 0, a->b[IN].p, a->b[which].p);
}

/* ---- Queries at home ---------------------------------------------------------------------------------- */

/* [Hkv,n,k] to [n,Hkv,k]. */
static msa_status turn_ids(whole_keys *a, int64_t n, int32_t *to)
{
    const int64_t heads = a->s->n_kv_heads;
    int32_t *list = malloc((size_t)(n * heads) * sizeof *list);
    for (int64_t row = 0; list && row < n * heads; row++)
        list[row] = (int32_t)(row % heads * n + row / heads);
    msa_status status =
        list ? wire_put(a->w, &a->b[LIST], list, (size_t)(n * heads) * sizeof *list) : MSA_ERR_DEVICE;
    free(list);
    return status == MSA_OK ? a->w->kernels->gather(n * heads, a->s->topk, a->b[LIST].p, a->b[IDS].p, to)
                            : status;
}

static msa_status attend_range(void *context, const msa_shape *s, int64_t x, int seq)
{
    whole_keys *a = context;
    const device_call *c = a->c;
    const int64_t kv_heads = s->n_kv_heads, width = kv_heads * s->d_head;
    MSA_TRY(wire_grow(a->w, &a->b[IDS], (size_t)(s->n_q * kv_heads * s->topk) * sizeof(int32_t)));
    const uint16_t *q = c->q + x * s->n_heads * s->d_head, *qi = c->qi + x * kv_heads * s->d_index,
                   *k = (uint16_t *)a->b[K].p + a->kv0[seq] * width,
                   *v = (uint16_t *)a->b[V].p + a->kv0[seq] * width,
                   *ki = (uint16_t *)a->b[KI].p + a->kv0[seq] * s->d_index;
    MSA_TRY(wire_run(a->w, c->index, s, MSA_F32,
                     &(msa_arrays){.qi = (const float *)qi, .ki = (const float *)ki, .ids = a->b[IDS].p},
                     &a->b[INDEX_WORK]));
    MSA_TRY(wire_run(a->w, c->sparse, s, MSA_F32,
                     &(msa_arrays){.q = (const float *)q,
                                   .k = (const float *)k,
                                   .v = (const float *)v,
                                   .ids = a->b[IDS].p,
                                   .o = c->o + x * s->n_heads * s->d_head,
                                   .lse = c->lse + x * s->n_heads},
                     &a->b[SPARSE_WORK]));
    return turn_ids(a, s->n_q, c->ids + x * kv_heads * s->topk);
}

static msa_status run(whole_keys *a)
{
    const msa_shape *s = a->s;
    MSA_TRY(lay_out(a));
    MSA_TRY(gather(a, TRAFFIC_INDEX_KEYS, a->c->ki, 1, s->d_index, KI));
    MSA_TRY(gather(a, TRAFFIC_KEYS, a->c->k, s->n_kv_heads, s->d_head, K));
    MSA_TRY(gather(a, TRAFFIC_KEYS, a->c->v, s->n_kv_heads, s->d_head, V));
    return walk_ranges(a->c->rows, a->w->t->rank, s, attend_range, a);
}

msa_status device_pass_kv(wire *w, device_call *c)
{
    const size_t ranks = (size_t)w->t->ranks;
    whole_keys a = {.w = w,
                    .c = c,
                    .s = &c->keys->s,
                    .kv0 = calloc((size_t)msa_n_seqs(&c->keys->s) + 1, sizeof *a.kv0),
                    .tokens = malloc((ranks + 1) * sizeof *a.tokens),
                    .to = malloc(ranks * sizeof *a.to),
                    .from = malloc(ranks * sizeof *a.from)};
    wire_enter();
    const msa_status status = a.kv0 && a.tokens && a.to && a.from ? run(&a) : MSA_ERR_DEVICE;
    wire_drop(w, a.b, BUFFERS);
    wire_leave();
    free(a.kv0), free(a.tokens), free(a.to), free(a.from);
    return status;
}
