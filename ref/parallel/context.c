/* Attention where sequences are cut over ranks (context parallel). A rank's tokens are those of its slices, deal.h; their
 * projections, norms and the MLP need no other token. The rest is here, behind the table of kernels that a layer is given:
 *
 *   forward    everyone's K, V and Ki go to everyone; each range of neighbours at home is a call: the last queries of a prefix
 *   backward   the same, and what each rank's queries leave for a key goes to its home, which adds up in the order of ranks:
 *
 *     dK_j = sum over ranks of dK_j(queries at home)                       so dV and dKi
 *     L_KL = sum over ranges of (tokens of the range / all tokens) L_KL(range)
 *
 * What a layer gathers it forgets: between forward and backward a rank keeps its own tokens, or it would save nothing. */
#include "context.h"

#include <stdlib.h>

#include "../arena.h"
#include "../stages.h"
#include "whole.h"

/* A kernel is told nothing but its arrays. A rank that is a thread has its own. */
static _Thread_local parallel_context *cut;

/* ---- Keys and their gradients ---------------------------------------------------------------------------- */

/* CONTEXT_K and so on; CONTEXT_N for what belongs to queries. */
static int slot_of(array_id a)
{
    switch (a) {
    case ARRAY_K:
    case ARRAY_DK:
        return CONTEXT_K;
    case ARRAY_V:
    case ARRAY_DV:
        return CONTEXT_V;
    case ARRAY_KI:
    case ARRAY_DKI:
        return CONTEXT_KI;
    default:
        return CONTEXT_N;
    }
}

/* Floats of a token. */
static int64_t width_of(const parallel_context *c, int slot)
{
    return slot == CONTEXT_KI ? c->s.d_index : (int64_t)c->s.n_kv_heads * c->s.d_head;
}

static msa_status gather(parallel_context *c, int slot, const void *own)
{
    const size_t row = (size_t)width_of(c, slot) * sizeof(float);
    const int64_t *first = c->rows.first;
    for (int r = 0; r < c->t->ranks; r++)
        c->part[r] = (transport_part){(char *)c->homes + (size_t)first[r] * row,
                                      (size_t)(first[r + 1] - first[r]) * row};
    const transport_part mine = {(void *)(uintptr_t)own, (size_t)c->own * row};
    if (!transport_gather(c->t, slot == CONTEXT_KI ? TRAFFIC_INDEX_KEYS : TRAFFIC_KEYS, mine, c->part))
        return MSA_ERR_DEVICE;
    deal_give(&c->rows, row, c->homes, c->whole[slot]);
    return MSA_OK;
}

static msa_status add_up(parallel_context *c, int slot, float *to)
{
    const int64_t width = width_of(c, slot), *first = c->rows.first, own = c->own * width;
    const int ranks = c->t->ranks;
    for (int64_t x = 0; x < c->rows.n; x++)
        for (int64_t i = 0; i < width; i++)
            c->homes[x * width + i] = (float)c->sum[slot][c->rows.row[x] * width + i];
    for (int r = 0; r < ranks; r++) {
        c->part[r] = (transport_part){c->homes + first[r] * width,
                                      (size_t)((first[r + 1] - first[r]) * width) * sizeof(float)};
        c->part[ranks + r] = (transport_part){c->parts + r * own, (size_t)own * sizeof(float)};
    }
    memcpy(c->parts + c->t->rank * own, c->part[c->t->rank].data, (size_t)own * sizeof(float));
    if (!transport_exchange(c->t, TRAFFIC_GRADIENTS, c->part, c->part + ranks))
        return MSA_ERR_DEVICE;
    for (int64_t i = 0; i < own; i++) {
        double sum = 0;
        for (int r = 0; r < ranks; r++)
            sum += (double)c->parts[r * own + i];
        to[i] = (float)sum;
    }
    return MSA_OK;
}

/* ---- A call, range by range ---------------------------------------------------------------------------- */

typedef struct call {
    msa_stage stage;
    stage_line line;
    const msa_arrays *a; /* of the tokens here */
    double loss;
    void *work;
} call;

/* Rows x.. of [heads,own,d] and all of [heads,n,d], of 4 bytes; ids and the index's LSE have the heads outside. */
static void turn(const msa_shape *s, int64_t x, int64_t d, char *all, char *part, bool out)
{
    const size_t bytes = (size_t)(s->n_q * d) * 4;
    for (int64_t r = 0; r < s->n_kv_heads; r++) {
        char *const row = all + (r * cut->own + x) * d * 4;
        memcpy(out ? row : part + (size_t)r * bytes, out ? part + (size_t)r * bytes : row, bytes);
    }
}

/* Where the range that begins with token x here, and with key kv0 of all, has its part of an array. */
static void *part_of(const call *j, const msa_shape *s, int64_t x, int64_t kv0, array_id a)
{
    char *const all = array_get(j->a, a);
    const int slot = slot_of(a);
    if (slot < CONTEXT_N)
        return HAS(j->line.out, a) ? cut->range[slot] : cut->whole[slot] + kv0 * width_of(cut, slot);
    if (array_sizes(a)[0] == 'T')
        return all + array_count(s, NULL, a) / s->n_q * x * 4;
    int32_t *const part = a == ARRAY_IDS ? cut->ids : cut->lse;
    if (HAS(j->line.in, a))
        turn(s, x, array_count(s, NULL, a) / (s->n_kv_heads * s->n_q), all, (char *)part, false);
    return part;
}

static void keep(const call *j, const msa_shape *s, int64_t x, int64_t kv0, array_id a)
{
    const int slot = slot_of(a);
    if (slot < CONTEXT_N) {
        const int64_t width = width_of(cut, slot);
        for (int64_t i = 0; i < s->n_kv * width; i++)
            cut->sum[slot][kv0 * width + i] += (double)cut->range[slot][i];
    } else if (array_sizes(a)[0] == 'G')
        turn(s, x, array_count(s, NULL, a) / (s->n_kv_heads * s->n_q), array_get(j->a, a),
             (char *)(a == ARRAY_IDS ? cut->ids : cut->lse), true);
}

static msa_status run_range(void *of, const msa_shape *s, int64_t x, int seq)
{
    call *j = of;
    const int64_t kv0 = cut->cu[seq];
    const double part = (double)s->n_q / (double)cut->rows.n;
    double loss = 0;
    msa_arrays a = {.loss = &loss, .weight = j->a->weight * part};
    for (array_id i = 0; i < ARRAY_N; i++)
        if (HAS(j->line.in | j->line.out, i) && array_get(j->a, i))
            array_set(&a, i, part_of(j, s, x, kv0, i));
    MSA_TRY(cut->ops.stage[j->stage]->run(s, &a, j->work));
    for (array_id i = 0; i < ARRAY_N; i++)
        if (HAS(j->line.out, i) && array_get(j->a, i))
            keep(j, s, x, kv0, i);
    j->loss += loss * part;
    return MSA_OK;
}

/* kl follows the backward of its layer, whose K is there. */
static bool is_there(const call *j, array_id a)
{
    return j->stage == MSA_STAGE_KL && a == ARRAY_K && cut->k == j->a->k;
}

static msa_status run_stage(msa_stage stage, const msa_arrays *a, void *work)
{
    call j = {.stage = stage, .line = arrays_of(stage), .a = a, .work = work};
    if (a->scores)
        return MSA_ERR_UNSUPPORTED; /* [Hkv,T,B], and ranges have blocks of their own */
    for (array_id i = 0; i < ARRAY_N; i++) {
        const int slot = slot_of(i);
        if (slot == CONTEXT_N || !array_get(a, i))
            continue;
        if (HAS(j.line.in, i) && !is_there(&j, i))
            MSA_TRY(gather(cut, slot, array_get(a, i)));
        if (HAS(j.line.out, i))
            memset(cut->sum[slot], 0, (size_t)(cut->s.n_kv * width_of(cut, slot)) * sizeof(double));
    }
    cut->k = a->k;
    MSA_TRY(walk_ranges(&cut->rows, cut->t->rank, &cut->s, run_range, &j));
    for (array_id i = 0; i < ARRAY_N; i++)
        if (HAS(j.line.out, i) && slot_of(i) < CONTEXT_N && array_get(a, i))
            MSA_TRY(add_up(cut, slot_of(i), array_get(a, i)));
    if (a->loss)
        *a->loss = j.loss;
    return MSA_OK;
}

/* ---- The table ------------------------------------------------------------------------------------------- */

typedef struct need {
    msa_stage stage;
    size_t bytes;
} need;

static msa_status measure(void *of, const msa_shape *s, int64_t x, int seq)
{
    need *n = of;
    const size_t bytes = cut->ops.stage[n->stage]->workspace(s);
    (void)x, (void)seq;
    n->bytes = bytes > n->bytes ? bytes : n->bytes;
    return MSA_OK;
}

/* The shape of the tokens here says their number, which is known. */
#define DEALT(NAME)                                                                                          \
    static size_t workspace_##NAME(const msa_shape *s)                                                       \
    {                                                                                                        \
        need n = {MSA_STAGE_##NAME, 0};                                                                      \
        (void)s;                                                                                             \
        walk_ranges(&cut->rows, cut->t->rank, &cut->s, measure, &n);                                      \
        return n.bytes;                                                                                      \
    }                                                                                                        \
    static msa_status run_##NAME(const msa_shape *s, const msa_arrays *a, void *work)                        \
    {                                                                                                        \
        (void)s;                                                                                             \
        return run_stage(MSA_STAGE_##NAME, a, work);                                                         \
    }
DEALT(DENSE)
DEALT(INDEX)
DEALT(SPARSE)
DEALT(BACKWARD)
DEALT(KL)

msa_ops parallel_context_ops(parallel_context *c, const msa_ops *ops)
{
    static const struct {
        msa_stage stage;
        size_t (*workspace)(const msa_shape *);
        msa_status (*run)(const msa_shape *, const msa_arrays *, void *);
    } dealt[] = {
#define ENTRY(NAME) {MSA_STAGE_##NAME, workspace_##NAME, run_##NAME}
        ENTRY(DENSE), ENTRY(INDEX), ENTRY(SPARSE), ENTRY(BACKWARD), ENTRY(KL)};
    msa_ops to = *ops;
    cut = c;
    c->ops = *ops;
    for (size_t i = 0; i < sizeof dealt / sizeof *dealt; i++) {
        msa_kernel *const entry = &c->entry[dealt[i].stage];
        *entry = *ops->stage[dealt[i].stage];
        entry->workspace = dealt[i].workspace;
        entry->run = dealt[i].run;
        entry->run_half = NULL;
        to.stage[dealt[i].stage] = entry;
    }
    return to;
}

/* ---- Memory ------------------------------------------------------------------------------------------------ */

static size_t place(parallel_context *c, void *memory)
{
    const msa_shape *s = &c->s;
    const int ranks = c->t->ranks;
    const int64_t kv = width_of(c, CONTEXT_K), most = max_i64(kv, s->d_index);
    arena a = arena_over(memory);
    c->part = arena_take(&a, 2 * ranks, sizeof *c->part);
    c->homes = arena_take(&a, s->n_kv * most, sizeof *c->homes);
    c->parts = arena_take(&a, ranks * c->own * most, sizeof *c->parts);
    for (int slot = 0; slot < CONTEXT_N; slot++) {
        c->whole[slot] = arena_take(&a, s->n_kv * width_of(c, slot), sizeof *c->whole[slot]);
        c->range[slot] = arena_take(&a, longest_kv(s) * width_of(c, slot), sizeof *c->range[slot]);
        c->sum[slot] = arena_take(&a, s->n_kv * width_of(c, slot), sizeof *c->sum[slot]);
    }
    c->ids = arena_take(&a, c->own * s->n_kv_heads * s->topk, sizeof *c->ids);
    c->lse = arena_take(&a, c->own * s->n_kv_heads, sizeof *c->lse);
    return arena_bytes(&a);
}

bool parallel_new_context(parallel_context *c, transport *t, const msa_shape *heads, int n, int length)
{
    *c = (parallel_context){.t = t, .s = *heads, .cu = malloc(((size_t)n + 1) * sizeof *c->cu)};
    if (!c->cu)
        return false;
    for (int seq = 0; seq <= n; seq++)
        c->cu[seq] = seq * length;
    c->s.n_q = c->s.n_kv = (int64_t)n * length;
    c->s.n_seqs = n;
    c->s.cu_q = c->s.cu_kv = c->cu;
    if (!deal_new_rows(&c->rows, t->ranks, &c->s))
        return false;
    const int64_t first = c->rows.first[t->rank];
    c->own = c->rows.first[t->rank + 1] - first;
    c->at = malloc((size_t)c->own * sizeof *c->at);
    c->memory = malloc(place(c, NULL) + ARENA_ALIGN);
    if (!c->at || !c->memory)
        return false;
    for (int64_t x = 0; x < c->own; x++)
        c->at[x] = (int32_t)c->rows.at[first + x];
    place(c, c->memory);
    return true;
}

void parallel_free_context(parallel_context *c)
{
    deal_free_rows(&c->rows);
    free(c->cu), free(c->at), free(c->memory);
}
