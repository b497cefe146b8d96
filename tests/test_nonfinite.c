/**
 * @file test_nonfinite.c
 * @brief What NaN and infinity may do, for every kernel of every back end: the contract at the top of msa.h.
 *
 * Inputs are small integers, so that scores are exact and ids have to be the reference's; some are poisoned.
 * Where the reference is not finite a kernel must not be, elsewhere it is held to its ordinary budget, but
 * for one excuse: where a value of the query's own sequence is not finite, that channel of O may be NaN.
 * Gradients are left to their own tests. `test_nonfinite SEED STAGE/NAME` is one kernel alone.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ref/judge/noise.h"
#include "../ref/judge/paging.h"
#include "../ref/table/table.h"
#include "support/check.h"

static const int32_t steps_q[] = {0, 2, 4, 6}, steps_kv[] = {0, 70, 103, 173};
static const int32_t prompts_q[] = {0, 20, 41}, prompts_kv[] = {0, 33, 90};
static const msa_shape shapes[] = {
    {37, 37, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL},            // a prompt with a partial block
    {5, 140, 5, 1, 64, 128, 64, 2, 1, NULL, NULL, NULL, NULL},           // a prefix, a group of 5
    {6, 173, 16, 1, 128, 64, 32, 3, 3, steps_q, steps_kv, NULL, NULL},   // steps of three requests
    {41, 90, 3, 3, 64, 64, 32, 2, 2, prompts_q, prompts_kv, NULL, NULL}, // two prompts, no grouping
    {1, 545, 2, 1, 64, 64, 32, 5, 1, NULL, NULL, NULL, NULL},            // keys in several parts
    {3, 100, 2, 2, 64, 64, 32, 1, 1, NULL, NULL, NULL, NULL},            // the local block only
};
#define N_SHAPES (int)(sizeof shapes / sizeof *shapes)

/* ---- Poison ------------------------------------------------------------------------------------------ */

/** A query of a sequence, its own key, a group, one of the group's heads and a channel. */
typedef struct victim {
    msa_seq seq;
    int64_t query, key;
    int group, head, channel;
} victim;

static victim draw(const msa_shape *s, uint64_t seed)
{
    inputs_rng rng = {seed};
    victim a = {.seq = msa_get_seq(s, (int)inputs_below(&rng, msa_n_seqs(s)))};
    const int64_t i = inputs_below(&rng, a.seq.n_q);
    a.query = a.seq.q0 + i;
    a.key = a.seq.kv0 + a.seq.n_kv - a.seq.n_q + i;
    a.group = (int)inputs_below(&rng, s->n_kv_heads);
    a.head = a.group * (s->n_heads / s->n_kv_heads) + (int)inputs_below(&rng, s->n_heads / s->n_kv_heads);
    a.channel = (int)inputs_below(&rng, s->d_head);
    return a;
}

static void fill(float *x, int64_t n, float value)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = value;
}
static float *row_of_keys(const msa_shape *s, float *kv, int64_t j, int group)
{
    return kv + (j * s->n_kv_heads + group) * s->d_head;
}
/* Sets channel 0 of every query and of keys first..end-1 of all groups: what their products depend on. */
static void steer(const msa_shape *s, inputs *in, int64_t first, int64_t end, float query, float key)
{
    for (int64_t a = 0; a < s->n_q * s->n_heads; a++)
        in->q[a * s->d_head] = query;
    for (int64_t a = first * s->n_kv_heads; a < end * s->n_kv_heads; a++)
        in->k[a * s->d_head] = key;
}

typedef void poison_fn(const msa_shape *s, inputs *in, const victim *a, float x);

static void a_key(const msa_shape *s, inputs *in, const victim *a, float x)
{
    row_of_keys(s, in->k, a->key, a->group)[a->channel] = x;
}
static void a_block_of_keys(const msa_shape *s, inputs *in, const victim *a, float x)
{
    const int64_t n = a->seq.n_kv < s->block ? a->seq.n_kv : s->block;
    fill(row_of_keys(s, in->k, a->seq.kv0, 0), n * s->n_kv_heads * s->d_head, x);
}
static void the_last_key(const msa_shape *s, inputs *in, const victim *a, float x)
{
    row_of_keys(s, in->k, a->seq.kv0 + a->seq.n_kv - 1, a->group)[a->channel] = x;
}
static void a_query(const msa_shape *s, inputs *in, const victim *a, float x)
{
    in->q[(a->query * s->n_heads + a->head) * s->d_head + a->channel] = x;
}
static void a_silent_block(const msa_shape *s, inputs *in, const victim *a, float x)
{
    const int64_t n = a->seq.n_kv < s->block ? a->seq.n_kv : s->block;
    (void)x;
    steer(s, in, a->seq.kv0, a->seq.kv0 + n, 1, -INFINITY);
}
static void all_keys_silent(const msa_shape *s, inputs *in, const victim *a, float x)
{
    (void)x;
    steer(s, in, a->seq.kv0, a->seq.kv0 + a->seq.n_kv, 1, -INFINITY);
}
/* So many that a kernel's first turn has no other, however long it is. */
static void all_keys_but_the_last_silent(const msa_shape *s, inputs *in, const victim *a, float x)
{
    (void)x;
    steer(s, in, a->seq.kv0, a->seq.kv0 + a->seq.n_kv - 1, 1, -INFINITY);
}
static void a_value(const msa_shape *s, inputs *in, const victim *a, float x)
{
    row_of_keys(s, in->v, a->key, a->group)[a->channel] = x;
}
static void the_last_value(const msa_shape *s, inputs *in, const victim *a, float x)
{
    row_of_keys(s, in->v, a->seq.kv0 + a->seq.n_kv - 1, a->group)[a->channel] = x;
}
static void the_first_value(const msa_shape *s, inputs *in, const victim *a, float x)
{
    row_of_keys(s, in->v, a->seq.kv0, a->group)[a->channel] = x;
}
/* exp(-512), or exp(-362) at a width of 128, is 0 in float32 only. */
static void a_value_of_no_weight(const msa_shape *s, inputs *in, const victim *a, float x)
{
    const int64_t n = a->seq.n_kv < s->block ? a->seq.n_kv : s->block;
    steer(s, in, a->seq.kv0, a->seq.kv0 + n, 1, -4096);
    the_first_value(s, in, a, x);
}
static void a_whole_sequence(const msa_shape *s, inputs *in, const victim *a, float x)
{
    const int64_t nq = s->n_heads * s->d_head, nk = s->n_kv_heads * s->d_head,
                  ni = s->n_kv_heads * s->d_index;
    fill(in->q + a->seq.q0 * nq, a->seq.n_q * nq, x);
    fill(in->k + a->seq.kv0 * nk, a->seq.n_kv * nk, x);
    fill(in->v + a->seq.kv0 * nk, a->seq.n_kv * nk, x);
    fill(in->qi + a->seq.q0 * ni, a->seq.n_q * ni, x);
    fill(in->ki + a->seq.kv0 * s->d_index, a->seq.n_kv * s->d_index, x);
}
static void an_index_query(const msa_shape *s, inputs *in, const victim *a, float x)
{
    fill(in->qi + (a->query * s->n_kv_heads + a->group) * s->d_index, s->d_index, x);
}
static void an_index_key(const msa_shape *s, inputs *in, const victim *a, float x)
{
    fill(in->ki + a->seq.kv0 * s->d_index, 1, x);
    fill(in->ki + a->key * s->d_index, s->d_index, x);
}
static void a_block_of_index_keys(const msa_shape *s, inputs *in, const victim *a, float x)
{
    const int64_t n = a->seq.n_kv < s->block ? a->seq.n_kv : s->block;
    fill(in->ki + a->seq.kv0 * s->d_index, n * s->d_index, x);
}
static void all_index_keys(const msa_shape *s, inputs *in, const victim *a, float x)
{
    fill(in->ki + a->seq.kv0 * s->d_index, a->seq.n_kv * s->d_index, x);
}
/* Sets channel 0 of every index query and of the keys of a block; elsewhere keys have 0 there. */
static void steer_index(const msa_shape *s, inputs *in, const victim *a, float query, float key)
{
    const int64_t n = a->seq.n_kv < s->block ? a->seq.n_kv : s->block;
    for (int64_t i = 0; i < s->n_q * s->n_kv_heads; i++)
        in->qi[i * s->d_index] = query;
    for (int64_t j = 0; j < s->n_kv; j++)
        in->ki[j * s->d_index] = 0;
    for (int64_t j = 0; j < n; j++)
        in->ki[(a->seq.kv0 + j) * s->d_index] = key;
}
static void a_silent_index_block(const msa_shape *s, inputs *in, const victim *a, float x)
{
    (void)x;
    steer_index(s, in, a, 1, -INFINITY);
}
/* In float32 these products are -inf, in double the least of all: the same order. */
static void overflowing_index_products(const msa_shape *s, inputs *in, const victim *a, float x)
{
    (void)x;
    steer_index(s, in, a, 0x1.cp127f, -0x1.cp127f);
}

/* What budgets are made of: 0 instead of all that is not finite, or will not be. */
static void wash(const msa_shape *s, inputs *in)
{
    const int64_t q = s->n_q * s->n_heads * s->d_head, k = s->n_kv * s->n_kv_heads * s->d_head;
    float *const x[] = {in->q, in->k, in->v, in->qi, in->ki};
    const int64_t n[] = {q, k, k, s->n_q * s->n_kv_heads * s->d_index, s->n_kv * s->d_index};
    for (int t = 0; t < 5; t++)
        for (int64_t a = 0; a < n[t]; a++)
            x[t][a] = fabsf(x[t][a]) < 0x1p100f ? x[t][a] : 0;
}

static const struct {
    const char *name;
    poison_fn *apply;
    bool main, index; /* which branch reads it */
} poisons[] = {
    {"a key", a_key, true, false},
    {"a block of keys", a_block_of_keys, true, false},
    {"the last key", the_last_key, true, false},
    {"a query", a_query, true, false},
    {"a block of logits -inf", a_silent_block, true, false},
    {"all logits -inf", all_keys_silent, true, false},
    {"all logits but one -inf", all_keys_but_the_last_silent, true, false},
    {"a value", a_value, true, false},
    {"the last value", the_last_value, true, false},
    {"the first value", the_first_value, true, false},
    {"a value of no weight", a_value_of_no_weight, true, false},
    {"a whole sequence", a_whole_sequence, true, true},
    {"an index query", an_index_query, false, true},
    {"two index keys", an_index_key, false, true},
    {"a block of index keys", a_block_of_index_keys, false, true},
    {"all index keys", all_index_keys, false, true},
    {"a block of index logits -inf", a_silent_index_block, false, true},
    {"index products that overflow", overflowing_index_products, false, true},
};
#define N_POISONS (int)(sizeof poisons / sizeof *poisons)

/* ---- One run ----------------------------------------------------------------------------------------- */

/** What a call is given. */
typedef struct given {
    const msa_shape *s;
    const msa_pages *p; /* NULL: keys are contiguous */
    const inputs *in;
    const float *k, *v, *ki, *scores;
    const int32_t *ids;
} given;

/** What it writes. */
typedef struct results {
    float *o, *lse, *scores, *index_lse;
    int32_t *ids;
} results;

#define UNWRITTEN 12345.0f

static results room_for(const msa_shape *s)
{
    const int64_t rows = s->n_kv_heads * s->n_q, n_o = s->n_q * s->n_heads * s->d_head;
    results r = {check_floats(n_o), check_floats(s->n_q * s->n_heads), check_floats(rows * msa_n_blocks(s)),
                 check_floats(rows), check_ints(rows * s->topk)};
    fill(r.o, n_o, UNWRITTEN);
    fill(r.lse, s->n_q * s->n_heads, UNWRITTEN);
    fill(r.scores, rows * msa_n_blocks(s), UNWRITTEN);
    fill(r.index_lse, rows, UNWRITTEN);
    return r;
}

/* The wanted results of an index kernel: NULL those that it is not to write. */
static msa_status run(const msa_kernel *k, const given *g, const results *r)
{
    const inputs *in = g->in;
    void *work = check_alloc((int64_t)k->workspace(g->s), 1);
    const bool chosen = HAS(arrays_of(k->stage).in, ARRAY_IDS);
    msa_arrays a = inputs_arrays(in);
    a.k = g->k, a.v = g->v, a.ki = g->ki, a.pages = pages_of(g->p);
    a.scores = k->stage == MSA_STAGE_TOPK ? g->scores : r->scores;
    a.ids = chosen ? g->ids : r->ids, a.index_lse = r->index_lse, a.o = r->o, a.lse = r->lse;
    return k->run(g->s, &a, work);
}

/* ---- Judgement --------------------------------------------------------------------------------------- */

/** A case, the kernel, its inputs without the poison, and what the failure of a verdict names. */
typedef struct judge {
    check_case *c;
    const msa_kernel *k;
    const msa_shape *s;
    const inputs *clean;
    const char *what;
} judge;

static void judge_ids(const judge *j, const int32_t *expected, const int32_t *found)
{
    const msa_shape *s = j->s;
    const int64_t rows = s->n_kv_heads * s->n_q;
    check_true(j->c, msa_check_ids(s, found) == MSA_OK, "%s: ids are well formed", j->what);
    for (int64_t row = 0; row < rows; row++)
        if (memcmp(expected + row * s->topk, found + row * s->topk, (size_t)s->topk * sizeof *found) != 0) {
            check_true(j->c, false, "%s: ids of group %lld, query %lld", j->what, (long long)(row / s->n_q),
                       (long long)(row % s->n_q));
            return;
        }
}

/* O [T,Hq,dh]: whether a value of the query's own sequence in that channel is not finite. */
static bool *excuses(const msa_shape *s, const float *v)
{
    const int64_t group = s->n_heads / s->n_kv_heads, d = s->d_head;
    bool *excused = check_alloc(s->n_q * s->n_heads * d, sizeof *excused);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int64_t at = seq.kv0 * s->n_kv_heads * d; at < (seq.kv0 + seq.n_kv) * s->n_kv_heads * d; at++)
            for (int64_t row = seq.q0 * s->n_heads; row < (seq.q0 + seq.n_q) * s->n_heads && !isfinite(v[at]);
                 row++)
                if (row % s->n_heads / group == at / d % s->n_kv_heads)
                    excused[row * d + at % d] = true;
    }
    return excused;
}

/* Of NaN and infinity a score must be the one that the reference has. An LSE of -inf says that a query sees
 * nothing, or that float32 holds no such number. */
static void judge_tensor(const judge *j, array_id t, const double *noise, const float *expected, float *found,
                         const bool *excused)
{
    char what[160];
    const verdict_dims n = verdict_dims_of(j->s, t);
    const int64_t count = n.d0 * n.d1 * n.d2;
    double *oracle = check_widen(expected, count);
    for (int64_t a = 0; a < count && (t == ARRAY_LSE || t == ARRAY_INDEX_LSE); a++)
        check_true(j->c, found[a] != -INFINITY || expected[a] == -INFINITY,
                   "%s: LSE %lld is that of no token", j->what, (long long)a);
    for (int64_t a = 0; a < count && t != ARRAY_SCORES; a++)
        if (isfinite(expected[a]) ? excused && excused[a] && isnan(found[a]) : !isfinite(found[a]))
            oracle[a] = found[a] = 0;
    verdict_budget budget = verdict_float32(j->s, j->clean, t, 1);
    budget.noise = noise;
    snprintf(what, sizeof what, "%s (%s)", array_name(t), j->what);
    check_tensor(j->c, what, n, oracle, found, budget);
}

/* O and LSE, which the reference makes of the same inputs; ids NULL: dense attention. */
static void judge_attention(const judge *j, const inputs *in, const int32_t *ids, results *found)
{
    const msa_shape *s = j->s;
    const int64_t count = s->n_q * s->n_heads * s->d_head;
    results expected = room_for(s);
    void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, s), 1);
    if (ids)
        msa_sparse(s, in->q, in->k, in->v, ids, expected.o, expected.lse, work);
    else
        msa_dense(s, in->q, in->k, in->v, expected.o, expected.lse, work);
    double *noise = j->k->precision >= MSA_BF16_WEIGHTS ? check_doubles(count) : NULL;
    if (noise)
        noise_of_rounding(s, in->q, in->k, in->v, ids, j->k->precision >= MSA_BF16_PARTIALS, noise);
    for (int64_t a = 0; a < count && noise; a++)
        noise[a] = isfinite(noise[a]) ? noise[a] : 0;
    judge_tensor(j, ARRAY_O, noise, expected.o, found->o, excuses(s, in->v));
    judge_tensor(j, ARRAY_LSE, NULL, expected.lse, found->lse, NULL);
}

/* Scores alone, and ids with their LSE or alone: whatever the kernel writes. */
static void judge_index(const judge *j, const given *g)
{
    results expected = room_for(j->s);
    void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, j->s), 1);
    msa_index(j->s, g->in->qi, g->in->ki, expected.scores, expected.ids, expected.index_lse, work);
    for (int wanted = 0; wanted < 3; wanted++) {
        results found = room_for(j->s), asked = found;
        asked.scores = wanted == 0 ? found.scores : NULL;
        asked.ids = wanted > 0 ? found.ids : NULL;
        asked.index_lse = wanted == 2 ? found.index_lse : NULL;
        if (run(j->k, g, &asked) != MSA_OK)
            continue;
        if (asked.scores)
            judge_tensor(j, ARRAY_SCORES, NULL, expected.scores, found.scores, NULL);
        if (asked.ids)
            judge_ids(j, expected.ids, found.ids);
        if (asked.index_lse)
            judge_tensor(j, ARRAY_INDEX_LSE, NULL, expected.index_lse, found.index_lse, NULL);
    }
}

/* A stage that attends: the ids that it chose, or was given, then O and LSE. */
static void judge_step(const judge *j, const given *g)
{
    const msa_stage stage = j->k->stage;
    const bool dense = stage == MSA_STAGE_DENSE || stage == MSA_STAGE_DENSE_DECODE;
    results found = room_for(j->s), expected = room_for(j->s);
    const msa_status status = run(j->k, g, &found);
    if (status == MSA_ERR_UNSUPPORTED)
        return;
    check_true(j->c, status == MSA_OK, "%s: %s", j->what,
               status == MSA_ERR_DEVICE ? table_trouble(j->k) : msa_strerror(status));
    if (!dense && stage != MSA_STAGE_SPARSE) {
        void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, j->s), 1);
        msa_index(j->s, g->in->qi, g->in->ki, NULL, expected.ids, NULL, work);
        judge_ids(j, expected.ids, found.ids);
        judge_attention(j, g->in, expected.ids, &found);
    } else
        judge_attention(j, g->in, dense ? NULL : g->ids, &found);
}

/* The same step over pages, whose unwritten rest is NaN. */
static void judge_pages(const judge *j, const given *contiguous, uint64_t seed, bool small)
{
    paging g;
    if (!paging_possible(j->s) ||
        !paging_new(&g, j->s, contiguous->in, j->s->block / (1 + (int)(seed % 2)), seed, small))
        return;
    const inputs *in = contiguous->in;
    inputs said = *in;
    said.ki = small ? g.decoded : in->ki;
    const given paged = {.s = &g.s, .p = &g.p, .in = &said, .k = g.k, .v = g.v, .ki = small ? NULL : g.ki};
    judge_step(j, &paged);
    paging_free(&g);
}

/* The reference by itself: it sees a token, whose weight is 0. */
static void silent_row(void)
{
    static const msa_shape s = {1, 1, 1, 1, 4, 4, 1, 1, 1, NULL, NULL, NULL, NULL};
    static const float q[] = {1, 1, 1, 1}, k[] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    check_case c = check_begin("a query whose logits are all -inf has no LSE");
    void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, &s), 1);
    float o[4], lse = 0, index_lse = 0;
    int32_t id = -1;
    check_true(&c, msa_dense(&s, q, k, q, o, &lse, work) == MSA_OK && isnan(lse) && isnan(o[0]), "%g",
               (double)lse);
    check_true(&c, msa_index(&s, q, k, NULL, &id, &index_lse, work) == MSA_OK && id == 0 && isnan(index_lse),
               "%g", (double)index_lse);
    check_end(&c);
    check_release(NULL);
}

/* ---- The walk ---------------------------------------------------------------------------------------- */

static bool reads(msa_stage stage, int poison)
{
    const bool main = stage != MSA_STAGE_INDEX,
               index = stage == MSA_STAGE_INDEX || stage == MSA_STAGE_PREFILL || stage == MSA_STAGE_DECODE;
    return (main && poisons[poison].main) || (index && poisons[poison].index);
}

static void one_poison(check_case *c, const msa_kernel *k, int shape, int poison, float x)
{
    const void *mark = check_mark();
    const msa_shape *s = &shapes[shape];
    const uint64_t seed = check_seed((uint64_t)(shape * N_POISONS + poison));
    char what[128], name[INPUTS_NAME];
    inputs in, clean;
    if (!inputs_new(&in, s, INPUTS_DYADIC, seed))
        return;
    const victim a = draw(s, seed);
    poisons[poison].apply(s, &in, &a, x);
    if (!inputs_rounded(&clean, &in, s))
        return;
    wash(s, &clean);
    inputs_shape_name(s, name);
    snprintf(what, sizeof what, "%s %g, %s", poisons[poison].name, (double)x, name);
    int32_t *ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
    selection_draw(s, SELECTION_ANY, seed, ids);
    const judge j = {c, k, s, &clean, what};
    const given g = {.s = s, .in = &in, .k = in.k, .v = in.v, .ki = in.ki, .ids = ids};
    if (k->stage == MSA_STAGE_INDEX)
        judge_index(&j, &g);
    else
        judge_step(&j, &g);
    if (k->stage == MSA_STAGE_DECODE || k->stage == MSA_STAGE_DENSE_DECODE)
        judge_pages(&j, &g, seed, false);
    if (k->stage == MSA_STAGE_DECODE)
        judge_pages(&j, &g, seed, true);
    inputs_free(&clean);
    inputs_free(&in);
    check_release(mark);
}

/* Selection from scores among which NaN, infinities and ties are common. */
static void odd_scores(check_case *c, const msa_kernel *k, int shape)
{
    static const float values[] = {NAN, -INFINITY, -INFINITY, INFINITY, 0, -1};
    const void *mark = check_mark();
    const msa_shape *s = &shapes[shape];
    inputs_rng rng = {check_seed((uint64_t)shape)};
    const int64_t n = s->n_kv_heads * s->n_q * msa_n_blocks(s);
    float *scores = check_floats(n);
    for (int64_t a = 0; a < n; a++)
        scores[a] = values[inputs_below(&rng, a % 2 ? 2 : 6)];
    results expected = room_for(s), found = room_for(s);
    msa_topk(s, scores, expected.ids, check_alloc((int64_t)msa_workspace(&msa_ref_ops, s), 1));
    const inputs none = {0};
    const given g = {.s = s, .in = &none, .scores = scores};
    const judge j = {c, k, s, &none, "odd scores"};
    check_true(c, run(k, &g, &found) == MSA_OK, "runs");
    judge_ids(&j, expected.ids, found.ids);
    check_release(mark);
}

/* Every poison at one shape, for other kernels and with other seeds at another; at all if the kernel is
 * alone. */
static void holds(const msa_kernel *k, int number, bool alone)
{
    static const float values[] = {NAN, -INFINITY, INFINITY};
    check_case c = check_begin("%s/%s (%s)", msa_stage_name(k->stage), k->name, k->backend);
    for (int shape = 0; shape < N_SHAPES; shape++)
        if (k->stage == MSA_STAGE_TOPK)
            odd_scores(&c, k, shape);
        else
            for (int n = 0; n < N_POISONS; n++)
                if (reads(k->stage, n) && (alone || (shape + n + number) % N_SHAPES == 0))
                    one_poison(&c, k, shape, n, values[(shape + n) % 3]);
    check_end(&c);
}

/* ---- Ids of others ------------------------------------------------------------------------------------- */

/* On a device nobody has looked at the ids that a caller of a plan brings. Those that break the contract
 * promise no result, but no kernel may touch what is not an array of the call, which the engine would see. */
static void foreign_ids(const msa_kernel *k, const msa_device *device)
{
    static const msa_shape s = {9, 140, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL};
    static const int32_t rows[][3] = {{-1, -1, 3}, {INT32_MAX, 0, 1}, {0, INT32_MIN, 1}, {5, 6, 7},
                                      {1, 1, 1},   {4, 2, 0},         {0, 1 << 26, 4},   {-9, -9, -9}};
    const size_t n_ids = (size_t)(s.n_kv_heads * s.n_q * s.topk), q = (size_t)(s.n_q * s.n_heads * s.d_head),
                 kv = (size_t)(s.n_kv * s.n_kv_heads * s.d_head);
    char name[64];
    msa_plan plan;
    msa_arrays a = {0};
    void *work;
    snprintf(name, sizeof name, "%s/%s", msa_stage_name(k->stage), k->name);
    if (msa_plan_make(&plan, device, name, &s, MSA_F32) != MSA_OK)
        return;
    const struct {
        const char *name;
        void *target;
        size_t bytes;
    } buffer[] = {{"q", &a.q, 2 * q},
                  {"k", &a.k, 2 * kv},
                  {"v", &a.v, 2 * kv},
                  {"o", &a.o, 4 * q},
                  {"lse", &a.lse, (size_t)(4 * s.n_q * s.n_heads)},
                  {"ids", &a.ids, 4 * n_ids},
                  {"first", &a.first, (size_t)(4 * s.n_kv_heads * (msa_n_blocks(&s) + 1))},
                  {"entries", &a.entries, 4 * n_ids},
                  {"items", &a.items, 16 * (size_t)msa_first_item(&s, 1)},
                  {"workspace", &work, plan.workspace}};
    check_case c =
        check_begin("%s (%s): ids that break the contract lead nowhere outside the arrays", name, k->backend);
    for (size_t n = 0; n < sizeof buffer / sizeof *buffer; n++) {
        void *p = device->alloc(buffer[n].bytes);
        device->fill(p, 0xff, buffer[n].bytes);
        device->declare(p, buffer[n].bytes, buffer[n].name);
        memcpy(buffer[n].target, &p, sizeof p);
    }
    int32_t *ids = check_ints((int64_t)n_ids);
    for (size_t kind = 0; kind < sizeof rows / sizeof *rows; kind++) {
        for (size_t at = 0; at < n_ids; at++)
            ids[at] = rows[(kind + at / 3 % 2) % 8][at % 3]; // neighbours differ
        device->upload(array_get(&a, ARRAY_IDS), ids, n_ids * sizeof *ids);
        const msa_status status = msa_plan_run(&plan, &a, work, NULL);
        check_true(&c, status == MSA_OK, "{%d, %d, %d}: %s", rows[kind][0], rows[kind][1], rows[kind][2],
                   device->trouble());
    }
    device->declare(NULL, 0, NULL);
    for (size_t n = 0; n < sizeof buffer / sizeof *buffer; n++) {
        void *p;
        memcpy(&p, buffer[n].target, sizeof p);
        device->free(p);
    }
    check_end(&c);
}

static bool is_wanted(const msa_kernel *k, const char *only)
{
    char name[64];
    snprintf(name, sizeof name, "%s/%s", msa_stage_name(k->stage), k->name);
    return k->stage <= MSA_STAGE_DENSE_DECODE && !k->own_rule && !table_missing(k->backend) &&
           (!only || strcmp(only, name) == 0);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    const char *only = argc > 2 ? argv[2] : NULL;
    const msa_kernel *k;
    if (!only)
        silent_row();
    for (int i = 0; (k = table_at(i)) != NULL; i++)
        if (is_wanted(k, only)) {
            const msa_device *device = table_device(k->backend);
            if (k->stage != MSA_STAGE_REVERSE)
                holds(k, i + (int)(check_seed(0) % N_SHAPES), only != NULL);
            if (device && (k->stage == MSA_STAGE_REVERSE || k->stage == MSA_STAGE_SPARSE))
                foreign_ids(k, device);
        }
    return check_done();
}
