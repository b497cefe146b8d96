/* Queries travel to the owners of the keys, on devices: the steps of ref/parallel/pass_q.c, chunk by chunk, in two lines that
 * overlap. The wire has one exchange after the other, kernels run beside it and wait for what they need:
 *
 *   wire      index queries of c+1 | queries of c | candidates of c+1 | outputs of c | winners of c+1
 *   kernels                          score c+1      attend c            choose c+1     merge c
 *
 * The host waits once a chunk, for the winners: who sends how much follows from them, and NCCL wants to be told by the host.
 * A step of decode is one chunk, in which nothing overlaps. */
#include <stdlib.h>

#include "../../ref/parallel/pass_q.h"
#include "device.h"

enum {
    QI,
    TILES,
    LIMITS,
    LOCAL,
    SCORES,
    BOUNDS,
    TAU,
    ASKED,
    KEYS,
    ALL_KEYS,
    IDS,
    PACK,
    Q_OUT,
    Q_IN,
    TABLE,
    LENS,
    O_OUT,
    LSE_OUT,
    O_IN,
    LSE_IN,
    FIRST,
    PART,
    WORK,
    BUFFERS
};

/* Some queries of every home. */
typedef struct chunk {
    wire *w;
    device_call *c;
    parallel_call of; /* its rows, for what the host computes: */
    deal_rows rows;
    step p;                              /* ids, pairs, parts of messages */
    int64_t at;                          /* own queries of the chunks before */
    int asked, answered, sent, returned; /* exchanges: of what the kernels wait for */
    parallel_score score;
    buffer b[BUFFERS];
} chunk;

static msa_status put(chunk *k, int which, const void *host, int64_t n, size_t each)
{
    return wire_put(k->w, &k->b[which], host, (size_t)n * each);
}

static msa_status grow(chunk *k, int which, int64_t n, size_t each)
{
    return wire_grow(k->w, &k->b[which], (size_t)n * each);
}

/* ---- A chunk ------------------------------------------------------------------------------------------ */

static bool new_chunk(chunk *k, wire *w, device_call *c)
{
    const size_t ranks = (size_t)w->t->ranks, rows = (size_t)c->rows->n + 1;
    const msa_shape *s = &c->keys->s;
    k->w = w, k->c = c;
    k->rows = (deal_rows){.first = malloc((ranks + 1) * sizeof(int64_t)),
                          .seq = malloc(rows * sizeof(int32_t)),
                          .at = malloc(rows * sizeof(int64_t))};
    k->of = (parallel_call){.keys = c->keys, .rows = &k->rows};
    k->p = (step){.t = w->t,
                  .c = &k->of,
                  .s = s,
                  .group = s->n_heads / s->n_kv_heads,
                  .ids = malloc(rows * (size_t)(s->n_kv_heads * s->topk) * sizeof(int32_t)),
                  .served = calloc(2 * (ranks + 1), sizeof(int64_t)),
                  .to = malloc(2 * ranks * sizeof(transport_part))};
    k->p.asked = k->p.served + ranks + 1;
    k->p.from = k->p.to + ranks;
    return k->rows.first && k->rows.seq && k->rows.at && k->p.ids && k->p.served && k->p.to;
}

static void free_chunk(chunk *k)
{
    if (!k->w)
        return;
    deal_free_rows(&k->rows);
    free(k->p.ids), free(k->p.served), free(k->p.to);
    wire_drop(k->w, k->b, BUFFERS);
}

/* Queries i chunk .. of every home. */
static void fill_chunk(chunk *k, int64_t i)
{
    const deal_rows *all = k->c->rows;
    deal_rows *rows = &k->rows;
    rows->n = rows->first[0] = 0;
    for (int home = 0; home < k->p.t->ranks; home++) {
        const int64_t first = min_i64(all->first[home] + i * k->c->chunk, all->first[home + 1]),
                      n = min_i64(k->c->chunk, all->first[home + 1] - first);
        memcpy(rows->seq + rows->n, all->seq + first, (size_t)n * sizeof *rows->seq);
        memcpy(rows->at + rows->n, all->at + first, (size_t)n * sizeof *rows->at);
        rows->first[home + 1] = rows->n += n;
    }
    k->at = i * k->c->chunk;
    k->p.rows = rows->n;
    k->p.first = rows->first[k->p.t->rank];
    k->p.own = rows->first[k->p.t->rank + 1] - k->p.first;
}

/* ---- Which blocks ------------------------------------------------------------------------------------- */

/* Own rows to all, and all others' here: in place, in an array of all rows. */
static msa_status share(chunk *k, traffic_kind kind, void *all, size_t width, int *number)
{
    step *p = &k->p;
    by_home(p, p->from, all, width);
    for (int r = 0; r < p->t->ranks; r++)
        p->to[r] = p->from[p->t->rank];
    return wire_exchange(k->w, kind, p->to, p->from, number);
}

/* Index queries to everyone. */
static msa_status ask(chunk *k)
{
    const step *p = &k->p;
    const size_t width = (size_t)(p->s->n_kv_heads * p->s->d_index) * sizeof(uint16_t);
    MSA_TRY(grow(k, QI, p->rows, width));
    if (p->own)
        MSA_TRY(k->w->device->copy((char *)k->b[QI].p + (size_t)p->first * width,
                                   (const char *)k->c->qi + (size_t)k->at * width, (size_t)p->own * width));
    return share(k, TRAFFIC_INDEX_QUERIES, k->b[QI].p, width, &k->asked);
}

/* Tiles of rows that follow each other at one home, of one sequence; they ascend, and so does what they see. */
static void lay_tiles(chunk *k, const parallel_limit *limits, parallel_tile *tiles)
{
    const step *p = &k->p;
    const int heads = p->s->n_kv_heads;
    parallel_score *a = &k->score;
    a->n_tiles = 0, a->stride = 1;
    for (int home = 0; home < p->t->ranks; home++)
        for (int64_t x = k->rows.first[home], end; x < k->rows.first[home + 1]; x = end) {
            const int n = k->rows.seq[x];
            for (end = x + 1; end < k->rows.first[home + 1] && k->rows.seq[end] == n;)
                end++;
            for (int64_t row = x * heads; row < end * heads; row += PARALLEL_TILE) {
                const int64_t rows = min_i64(PARALLEL_TILE, end * heads - row);
                const int32_t blocks = limits[(row + rows - 1) / heads].blocks;
                if (blocks > 0)
                    tiles[a->n_tiles++] =
                        (parallel_tile){(int32_t)row, (int32_t)rows, (int32_t)k->c->keys->first[n], blocks};
                a->stride = max_i64(a->stride, blocks);
            }
        }
}

/* What this rank is asked for: tiles of rows, blocks that they may choose, the local block of its own. */
static msa_status lay_out(chunk *k)
{
    const step *p = &k->p;
    const msa_shape *s = p->s;
    const deal_shard *keys = k->c->keys;
    const size_t rows = (size_t)p->rows + 1;
    parallel_limit *limits = malloc(rows * sizeof *limits);
    int32_t *local = malloc(rows * sizeof *local);
    parallel_tile *tiles = malloc((rows * (size_t)s->n_kv_heads + 1) * sizeof *tiles);
    msa_status status = limits && local && tiles ? MSA_OK : MSA_ERR_DEVICE;
    for (int64_t x = 0; status == MSA_OK && x < p->rows; x++) {
        const int n = k->rows.seq[x];
        const int64_t b = k->rows.at[x] / s->block;
        local[x] = (int32_t)b;
        limits[x] =
            (parallel_limit){s->topk > 1 ? (int32_t)deal_blocks_before(keys->rank, keys->ranks, n, b) : 0,
                             (int32_t)deal_block(keys->rank, keys->ranks, n, 0)};
    }
    if (status == MSA_OK) {
        lay_tiles(k, limits, tiles);
        status = put(k, LIMITS, limits, p->rows, sizeof *limits);
    }
    if (status == MSA_OK)
        status = put(k, LOCAL, local + p->first, p->own, sizeof *local);
    if (status == MSA_OK)
        status = put(k, TILES, tiles, k->score.n_tiles, sizeof *tiles);
    free(limits), free(local), free(tiles);
    return status;
}

/* Where codes rule blocks out. */
static msa_status screen(chunk *k)
{
    const device_call *c = k->c;
    parallel_score *a = &k->score;
    MSA_TRY(grow(k, BOUNDS, a->rows * a->stride, 2 * sizeof(float)));
    MSA_TRY(grow(k, TAU, a->rows, sizeof(float)));
    MSA_TRY(grow(k, ASKED, a->n_tiles * a->stride, sizeof(uint32_t)));
    a->codes = c->codes, a->scale = c->scale, a->reach = c->reach, a->error = c->error;
    a->n_own = c->keys->first[msa_n_seqs(k->p.s)];
    a->bounds = k->b[BOUNDS].p, a->tau = k->b[TAU].p, a->asked = k->b[ASKED].p;
    return k->w->kernels->screen(a, k->b[LIMITS].p, c->done);
}

/* Own blocks are scored, and the best of them go to the homes. */
static msa_status answer(chunk *k)
{
    step *p = &k->p;
    const device_call *c = k->c;
    const int ranks = p->t->ranks, rank = p->t->rank;
    const int64_t heads = p->s->n_kv_heads, others = p->s->topk - 1;
    const size_t width = (size_t)(heads * others) * sizeof(uint64_t), own = (size_t)p->own * width;
    parallel_score *a = &k->score;
    MSA_TRY(lay_out(k));
    MSA_TRY(grow(k, SCORES, p->rows * heads * a->stride, sizeof(float)));
    MSA_TRY(grow(k, KEYS, p->rows, width));
    MSA_TRY(grow(k, ALL_KEYS, ranks, own));
    a->s = p->s, a->tiles = k->b[TILES].p, a->rows = p->rows * heads, a->qi = k->b[QI].p;
    a->ki = c->ki, a->n_pages = c->keys->n_pages, a->page = c->page, a->scores = k->b[SCORES].p;
    MSA_TRY(wire_wait(k->w, k->asked));
    if (c->codes)
        MSA_TRY(screen(k));
    MSA_TRY(k->w->kernels->score(a));
    MSA_TRY(k->w->kernels->find_candidates(a, ranks, k->b[LIMITS].p, k->b[KEYS].p));
    by_home(p, p->to, k->b[KEYS].p, width);
    for (int r = 0; r < ranks; r++)
        p->from[r] = (transport_part){(char *)k->b[ALL_KEYS].p + (size_t)r * own, own};
    if (own)
        MSA_TRY(k->w->device->copy(p->from[rank].data, p->to[rank].data, own));
    return wire_exchange(k->w, TRAFFIC_CANDIDATES, p->to, p->from, &k->answered);
}

/* The winners, at home, and to everyone. */
static msa_status choose(chunk *k)
{
    const step *p = &k->p;
    const size_t width = (size_t)(p->s->n_kv_heads * p->s->topk) * sizeof(int32_t);
    MSA_TRY(grow(k, IDS, p->rows, width));
    int32_t *own = (int32_t *)((char *)k->b[IDS].p + (size_t)p->first * width);
    MSA_TRY(wire_wait(k->w, k->answered));
    MSA_TRY(k->w->kernels->choose(p->s, p->t->ranks, p->own, k->b[ALL_KEYS].p, k->b[LOCAL].p, own));
    if (p->own)
        MSA_TRY(k->w->device->copy((char *)k->c->ids + (size_t)k->at * width, own, (size_t)p->own * width));
    return share(k, TRAFFIC_WINNERS, k->b[IDS].p, width, NULL);
}

/* ---- Attention ---------------------------------------------------------------------------------------- */

/* A message for each rank of pairs, those of this rank among them. */
static msa_status exchange_pairs(chunk *k, traffic_kind kind, const int64_t *out, int from, const int64_t *in,
                                 int to, size_t width, int *number)
{
    step *p = &k->p;
    const int rank = p->t->rank;
    by_pairs(p, out, p->to, k->b[from].p, width);
    by_pairs(p, in, p->from, k->b[to].p, width);
    if (p->to[rank].bytes)
        MSA_TRY(k->w->device->copy(p->from[rank].data, p->to[rank].data, p->to[rank].bytes));
    return wire_exchange(k->w, kind, p->to, p->from, number);
}

/* Row (query, group) of each pair that goes out, and the pairs of each row at home, in the order of owners. */
static msa_status list_own(chunk *k)
{
    const step *p = &k->p;
    const int ranks = p->t->ranks, heads = p->s->n_kv_heads;
    const size_t asked = (size_t)p->asked[ranks] + 1, rows = (size_t)(p->own * heads) + 1;
    int32_t *pack = malloc(asked * sizeof *pack), *part = malloc(asked * sizeof *part),
            *first = calloc(rows, sizeof *first);
    int64_t *next = malloc((size_t)ranks * sizeof *next);
    msa_status status = pack && part && first && next ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK)
        memcpy(next, p->asked, (size_t)ranks * sizeof *next);
    for (int64_t row = 0; status == MSA_OK && row < p->own * heads; row++) {
        int32_t n = first[row];
        for (int owner = 0; owner < ranks; owner++)
            if (list_blocks(p, owner, p->first + row / heads, (int)(row % heads), NULL) > 0) {
                pack[next[owner]] = (int32_t)(k->at * heads + row);
                part[n++] = (int32_t)next[owner]++;
            }
        first[row + 1] = n;
    }
    if (status == MSA_OK)
        status = put(k, PACK, pack, p->asked[ranks], sizeof *pack);
    if (status == MSA_OK)
        status = put(k, PART, part, p->asked[ranks], sizeof *part);
    if (status == MSA_OK)
        status = put(k, FIRST, first, (int64_t)rows, sizeof *first);
    free(pack), free(part), free(first), free(next);
    return status;
}

/* The pages and visible tokens of each pair that is served here. */
static msa_status list_served(chunk *k)
{
    const step *p = &k->p;
    const int64_t n = p->served[p->t->ranks], width = p->s->topk;
    int32_t *table = calloc((size_t)(n * width) + 1, sizeof *table),
            *lens = malloc((size_t)(n + 1) * sizeof *lens);
    msa_status status = table && lens ? MSA_OK : MSA_ERR_DEVICE;
    int64_t pair = 0;
    for (int64_t row = 0; status == MSA_OK && row < p->rows * p->s->n_kv_heads; row++) {
        const int64_t tokens = list_blocks(p, p->t->rank, row / p->s->n_kv_heads,
                                           (int)(row % p->s->n_kv_heads), table + pair * width);
        if (tokens > 0)
            lens[pair++] = (int32_t)tokens;
    }
    if (status == MSA_OK)
        status = put(k, TABLE, table, n * width, sizeof *table);
    if (status == MSA_OK)
        status = put(k, LENS, lens, n, sizeof *lens);
    free(table), free(lens);
    return status;
}

/* Once the winners are here: queries to those who own them. */
static msa_status send(chunk *k)
{
    step *p = &k->p;
    const int ranks = p->t->ranks;
    const int words = p->group * p->s->d_head / 2;
    MSA_TRY(wire_fetch(k->w, p->ids, k->b[IDS].p,
                       (size_t)(p->rows * p->s->n_kv_heads * p->s->topk) * sizeof *p->ids));
    count_pairs(p);
    k->c->pairs += (double)(p->served[ranks] - (p->served[p->t->rank + 1] - p->served[p->t->rank]));
    MSA_TRY(list_own(k));
    MSA_TRY(list_served(k));
    MSA_TRY(grow(k, Q_OUT, p->asked[ranks], (size_t)words * 4));
    MSA_TRY(grow(k, Q_IN, p->served[ranks], (size_t)words * 4));
    MSA_TRY(k->w->kernels->gather(p->asked[ranks], words, k->b[PACK].p, k->c->q, k->b[Q_OUT].p));
    return exchange_pairs(k, TRAFFIC_QUERIES, p->asked, Q_OUT, p->served, Q_IN, (size_t)words * 4, &k->sent);
}

/* Pairs first .. first + n - 1 as requests of a step of dense attention, with one query and KV head each: their chosen
 * blocks are their pages. */
static msa_status attend_some(chunk *k, int64_t first, int n)
{
    const step *p = &k->p;
    const int64_t width = (int64_t)p->group * p->s->d_head, most = p->s->topk;
    int32_t cu_q[MSA_STEP_REQUESTS + 1], cu_kv[MSA_STEP_REQUESTS + 1];
    for (int i = 0; i <= n; i++)
        cu_q[i] = i, cu_kv[i] = (int32_t)(i * most * p->s->block);
    const msa_shape s = {.n_q = n,
                         .n_kv = cu_kv[n],
                         .n_heads = p->group,
                         .n_kv_heads = 1,
                         .d_head = p->s->d_head,
                         .d_index = p->s->d_index,
                         .block = p->s->block,
                         .topk = 1,
                         .n_seqs = n,
                         .cu_q = cu_q,
                         .cu_kv = cu_kv};
    const msa_arrays a = {.q = (const float *)((const uint16_t *)k->b[Q_IN].p + first * width),
                          .k = (const float *)k->c->k,
                          .v = (const float *)k->c->v,
                          .o = (float *)((uint16_t *)k->b[O_OUT].p + first * width),
                          .lse = (float *)k->b[LSE_OUT].p + first * p->group,
                          .pages = {.n_pages = k->c->keys->n_pages * p->s->n_kv_heads,
                                    .table = (const int32_t *)k->b[TABLE].p + first * most,
                                    .lens = (const int32_t *)k->b[LENS].p + first,
                                    .page = s.block}};
    return wire_run(k->w, k->c->dense_decode, &s, MSA_BF16, &a, &k->b[WORK]);
}

/* What is asked of this rank, and home with it. */
static msa_status attend(chunk *k)
{
    const step *p = &k->p;
    const int64_t n = p->served[p->t->ranks], asked = p->asked[p->t->ranks];
    const size_t lse = (size_t)p->group * sizeof(float),
                 o = (size_t)(p->group * p->s->d_head) * sizeof(uint16_t);
    MSA_TRY(grow(k, O_OUT, n, o));
    MSA_TRY(grow(k, LSE_OUT, n, lse));
    MSA_TRY(grow(k, O_IN, asked, o));
    MSA_TRY(grow(k, LSE_IN, asked, lse));
    MSA_TRY(wire_wait(k->w, k->sent));
    for (int64_t at = 0; at < n; at += MSA_STEP_REQUESTS)
        MSA_TRY(attend_some(k, at, (int)min_i64(MSA_STEP_REQUESTS, n - at)));
    MSA_TRY(exchange_pairs(k, TRAFFIC_PARTIALS, p->served, O_OUT, p->asked, O_IN, o, NULL));
    return exchange_pairs(k, TRAFFIC_PARTIALS, p->served, LSE_OUT, p->asked, LSE_IN, lse, &k->returned);
}

static msa_status merge(chunk *k)
{
    const step *p = &k->p;
    const int64_t heads = p->s->n_heads;
    MSA_TRY(wire_wait(k->w, k->returned));
    return k->w->kernels->merge(p->s, p->own * p->s->n_kv_heads, k->b[FIRST].p, k->b[PART].p, k->b[O_IN].p,
                                k->b[LSE_IN].p, k->c->o + k->at * heads * p->s->d_head,
                                k->c->lse + k->at * heads);
}

/* ---- All ---------------------------------------------------------------------------------------------- */

static msa_status begin(chunk *k)
{
    MSA_TRY(ask(k));
    MSA_TRY(answer(k));
    return choose(k);
}

/* [overlap] */
/* `next` is NULL for the last one. */
static msa_status finish(chunk *k, chunk *next)
{
    if (next)
        MSA_TRY(ask(next));
    MSA_TRY(send(k));
    if (next)
        MSA_TRY(answer(next));
    MSA_TRY(attend(k));
    if (next)
        MSA_TRY(choose(next));
    return merge(k);
}
/* [overlap] */

msa_status device_pass_q(wire *w, device_call *c)
{
    chunk two[2] = {{.w = NULL}, {.w = NULL}};
    int64_t most = 1;
    for (int home = 0; home < w->t->ranks; home++)
        most = max_i64(most, c->rows->first[home + 1] - c->rows->first[home]);
    const int64_t n = (most + c->chunk - 1) / c->chunk;
    c->pairs = 0;
    wire_enter();
    msa_status status = MSA_OK;
    for (int i = 0; i < 2; i++)
        if (!new_chunk(&two[i], w, c))
            status = MSA_ERR_DEVICE;
    if (status == MSA_OK) {
        fill_chunk(&two[0], 0);
        status = begin(&two[0]);
    }
    for (int64_t i = 0; i < n && status == MSA_OK; i++) {
        chunk *next = i + 1 < n ? &two[(i + 1) % 2] : NULL;
        if (next)
            fill_chunk(next, i + 1);
        status = finish(&two[i % 2], next);
    }
    free_chunk(&two[0]), free_chunk(&two[1]);
    wire_leave();
    return status;
}
