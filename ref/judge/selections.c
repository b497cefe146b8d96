/* Seeded selections, and what is counted of a selection. */
#include "selections.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "inputs.h"

#define HOT 4
#define HOT_SHARE 0.9
#define OFFSETS 6
#define OFFSET_SHARE 0.8
#define SINK_SHARE 0.9
#define PIECE 32 /* tokens that share their random blocks */

const char *selection_name(selection_kind kind)
{
    static const char *const name[] = {"random", "hot", "local", "structured", "any", "ends"};
    return name[kind];
}

bool selection_named(const char *name, selection_kind *kind)
{
    int n = 0;
    while (n < SELECTION_N && strcmp(name, selection_name((selection_kind)n)) != 0)
        n++;
    if (n < SELECTION_N)
        *kind = (selection_kind)n;
    return n < SELECTION_N;
}

/* ---- Random numbers that depend on where they are used ------------------------------------------ */

static inputs_rng rng_at(uint64_t seed, int64_t group, int64_t query)
{
    inputs_rng rng = {seed};
    rng.state = inputs_u64(&rng) + (uint64_t)group;
    rng.state = inputs_u64(&rng) + (uint64_t)query;
    return rng;
}

static double uniform(inputs_rng *rng) /* in [0, 1) */
{
    return (double)(inputs_u64(rng) >> 11) * 0x1p-53;
}

/* ---- One row ------------------------------------------------------------------------------------ */

typedef struct row {
    int32_t *ids;
    int n, most; /* taken so far, and to take */
    int64_t local;
} row;

static bool has(const row *r, int64_t block)
{
    for (int i = 0; i < r->n; i++)
        if (r->ids[i] == block)
            return true;
    return false;
}

/* Rows ascend at any time: most are so short that to sort them would take longest of all. */
static void take(row *r, int64_t block)
{
    if (r->n == r->most || block < 0 || block > r->local || has(r, block))
        return;
    int at = r->n++;
    for (; at > 0 && r->ids[at - 1] > block; at--)
        r->ids[at] = r->ids[at - 1];
    r->ids[at] = (int32_t)block;
}

/* Random blocks until the row is full; where most are taken it would be long until a free one comes, so the
 * row then starts over from a random place and takes what follows. */
static void fill(row *r, inputs_rng *rng)
{
    for (int tries = 0; r->n < r->most && tries < 4 * r->most; tries++)
        take(r, inputs_below(rng, r->local + 1));
    for (int64_t i = 0, start = inputs_below(rng, r->local + 1); r->n < r->most; i++)
        take(r, (start + i) % (r->local + 1));
}

/* ---- What a group's rows have in common ----------------------------------------------------------- */

typedef struct group {
    int64_t hot[HOT], offset[OFFSETS];
} group;

/* Hot blocks lie in the first tenth, where nearly every query sees them, dealt to the groups in turn. */
static void draw_hot(group *g, int64_t n_blocks, int r, int n_groups, inputs_rng *rng)
{
    const int64_t wanted = (int64_t)HOT * n_groups, tenth = max_i64(n_blocks / 10, wanted);
    const int64_t span = max_i64(1, min_i64(tenth, n_blocks) / wanted);
    for (int i = 0; i < HOT; i++)
        g->hot[i] = (int64_t)(i * n_groups + r) * span % n_blocks + inputs_below(rng, span);
}

static group draw_group(uint64_t seed, const msa_shape *s, int64_t n_blocks, int r)
{
    group g;
    inputs_rng rng = rng_at(seed, r, -1);
    draw_hot(&g, n_blocks, r, s->n_kv_heads, &rng);
    for (int i = 0; i < OFFSETS; i++)
        g.offset[i] = (int64_t)exp(uniform(&rng) * log((double)n_blocks));
    return g;
}

static void take_structured(row *r, const group *g, inputs_rng *rng)
{
    if (uniform(rng) < SINK_SHARE)
        take(r, 0);
    for (int i = 0; i < OFFSETS; i++)
        if (uniform(rng) < OFFSET_SHARE)
            take(r, r->local - g->offset[i]);
}

/* Query i at position p of its sequence, whose first query is q0. */
static void draw_row(row *r, selection_kind kind, const group *g, uint64_t seed, int which, int64_t q0,
                     int64_t i)
{
    inputs_rng rng = rng_at(seed, which, q0 + i), shared = rng_at(~seed, which, q0 + i / PIECE * PIECE);
    if (kind == SELECTION_ANY)
        r->most = 1 + (int)inputs_below(&rng, r->most);
    if (kind == SELECTION_ENDS) {
        r->most = (int)min_i64(r->most, 2);
        take(r, 0);
    }
    if (kind != SELECTION_ANY)
        take(r, r->local);
    switch (kind) {
    case SELECTION_HOT:
        for (int j = 0; j < HOT; j++)
            if (uniform(&rng) < HOT_SHARE)
                take(r, g->hot[j]);
        break;
    case SELECTION_LOCAL:
        for (int64_t b = r->local - 1; r->n < r->most; b--)
            take(r, b);
        break;
    case SELECTION_STRUCTURED:
        take_structured(r, g, &rng);
        fill(r, &shared);
        break;
    default:
        break;
    }
    fill(r, &rng);
}

void selection_draw(const msa_shape *s, selection_kind kind, uint64_t seed, int32_t *ids)
{
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n), padded = padded_seq(s, n);
        write_padding(s, padded.q0 + seq.n_q, padded.q0 + padded.n_q, ids, NULL, NULL);
        for (int r = 0; r < s->n_kv_heads && seq.n_q > 0; r++) {
            const group g = draw_group(seed, s, (seq.n_kv + s->block - 1) / s->block, r);
#pragma omp parallel for schedule(static)
            for (int64_t i = 0; i < seq.n_q; i++) {
                row a = {.ids = ids + (r * s->n_q + seq.q0 + i) * s->topk,
                         .local = position(&seq, i) / s->block};
                a.most = (int)min_i64(s->topk, a.local + 1);
                draw_row(&a, kind, &g, seed, r, seq.q0, i);
                for (int slot = a.n; slot < s->topk; slot++)
                    a.ids[slot] = -1;
            }
        }
    }
}

/* ---- Counting ----------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Different blocks in n rows of ids, copied to `sorted` first. */
static int64_t distinct(const int32_t *ids, int64_t n, int32_t *sorted)
{
    int64_t count = 0;
    memcpy(sorted, ids, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_id);
    for (int64_t i = 0; i < n; i++)
        count += sorted[i] >= 0 && (i == 0 || sorted[i] != sorted[i - 1]);
    return count;
}

double selection_union8(const msa_shape *s, const int32_t *ids)
{
    double sum = 0, n_unions = 0;
    int32_t *sorted = malloc(8 * (size_t)s->topk * sizeof *sorted);
    for (int n = 0; sorted && n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int r = 0; r < s->n_kv_heads; r++)
            for (int64_t i = 0; i < seq.n_q && (i == 0 || i + 8 <= seq.n_q); i += 8, n_unions++)
                sum += (double)distinct(ids_row(s, ids, r, seq.q0 + i), min_i64(8, seq.n_q - i) * s->topk,
                                        sorted);
    }
    free(sorted);
    return n_unions > 0 ? sum / n_unions : 0;
}

static int64_t pairs_of_row(const msa_shape *s, const int32_t *ids, int64_t p)
{
    int64_t pairs = 0;
    for (int entry = 0; entry < s->topk && ids[entry] >= 0; entry++)
        pairs += min_i64(s->block, p + 1 - (int64_t)ids[entry] * s->block);
    return pairs;
}

double selection_pairs(const msa_shape *s, const int32_t *ids)
{
    double pairs = 0;
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int r = 0; r < s->n_kv_heads; r++)
            for (int64_t i = 0; i < seq.n_q; i++) {
                const int64_t p = position(&seq, i);
                pairs += (double)(ids ? pairs_of_row(s, ids_row(s, ids, r, seq.q0 + i), p) : p + 1);
            }
    }
    return pairs;
}

static int64_t blocks_of_group(const msa_shape *s, const int32_t *ids, const msa_seq *seq, int r, bool *seen)
{
    const int64_t n_blocks = (seq->n_kv + s->block - 1) / s->block;
    int64_t count = 0;
    if (!ids)
        return n_blocks;
    memset(seen, 0, (size_t)n_blocks * sizeof *seen);
    for (int64_t i = 0; i < seq->n_q; i++) {
        const int32_t *row_ids = ids_row(s, ids, r, seq->q0 + i);
        for (int entry = 0; entry < s->topk && row_ids[entry] >= 0; entry++) {
            count += !seen[row_ids[entry]];
            seen[row_ids[entry]] = true;
        }
    }
    return count;
}

int64_t selection_blocks(const msa_shape *s, const int32_t *ids)
{
    int64_t count = 0;
    bool *seen = malloc((size_t)msa_n_blocks(s) * sizeof *seen);
    if (!seen)
        return -1;
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int r = 0; r < s->n_kv_heads; r++)
            count += blocks_of_group(s, ids, &seq, r, seen);
    }
    free(seen);
    return count;
}
