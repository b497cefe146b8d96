/* Index kernels that choose blocks by another rule than MSA's, to see what its choice is worth: another way to fill in the
 * block scores, which the reference's top-k then ranks. selectors.def has them. */
#include "selectors.h"

#include <string.h>

#include "../call.h"
#include "../internal.h"
#include "../random.h"

/* The index keys of a sequence, [n_kv,di], and their means over blocks, [B,di]. */
typedef struct index_keys {
    const float *ki, *means;
} index_keys;

/* Fills row [B] of the scores for a query whose local block is `local`. */
typedef void score_rule(const msa_shape *s, const float *qi, const index_keys *keys, int64_t local,
                        float *row);

static void score_mean(const msa_shape *s, const float *qi, const index_keys *keys, int64_t local, float *row)
{
    for (int64_t b = 0; b < local; b++)
        row[b] = (float)dot(qi, keys->means + b * s->d_index, s->d_index);
}

/* log of the sum of exponentials; the row comes with the largest logit of every block. */
static void score_sum(const msa_shape *s, const float *qi, const index_keys *keys, int64_t local, float *row)
{
    const double scale = 1 / sqrt(s->d_index);
    for (int64_t b = 0; b < local; b++) {
        double sum = 0;
        for (int64_t j = b * s->block; j < (b + 1) * s->block; j++)
            sum += exp(dot(qi, keys->ki + j * s->d_index, s->d_index) * scale - (double)row[b]);
        row[b] += (float)log(sum);
    }
}

static void score_forced(const msa_shape *s, const float *qi, const index_keys *keys, int64_t local,
                         float *row)
{
    (void)s, (void)qi, (void)keys;
    row[0] = INFINITY;
    if (local > 0)
        row[local - 1] = INFINITY;
}

static void score_window(const msa_shape *s, const float *qi, const index_keys *keys, int64_t local,
                         float *row)
{
    (void)s, (void)qi, (void)keys;
    for (int64_t b = 0; b < local; b++)
        row[b] = (float)b;
    row[0] = INFINITY;
}

static void score_random(const msa_shape *s, const float *qi, const index_keys *keys, int64_t local,
                         float *row)
{
    (void)keys;
    uint64_t seed = 0;
    for (int c = 0; c < s->d_index; c++) {
        uint32_t bits;
        memcpy(&bits, &qi[c], sizeof bits);
        seed = random_bits(seed, bits);
    }
    for (int64_t b = 0; b < local; b++)
        row[b] = (float)random_uniform(seed, (uint64_t)b);
}

/* Means of the index keys of a sequence, block by block. */
static void mean_keys(const msa_shape *s, const msa_seq *seq, const float *ki, float *means)
{
    const int d = s->d_index;
    for (int64_t j = 0; j < seq->n_kv; j++) {
        float *to = means + j / s->block * d;
        for (int c = 0; c < d; c++)
            to[c] = (j % s->block > 0 ? to[c] : 0) + ki[(seq->kv0 + j) * d + c] / (float)s->block;
    }
}

typedef struct scratch {
    float *scores, *means; /* [Hkv,T,B]; [B,di] of a sequence */
    int32_t *chosen;       /* [Hkv,T,k] */
    void *stage;           /* the index's, then top-k's */
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    const int64_t blocks = msa_n_blocks(s);
    arena a = arena_over(work);
    w->scores = arena_take(&a, s->n_kv_heads * s->n_q * blocks, sizeof *w->scores);
    w->means = arena_take(&a, blocks * s->d_index, sizeof *w->means);
    w->chosen = arena_take(&a, s->n_kv_heads * s->n_q * s->topk, sizeof *w->chosen);
    w->stage = arena_share(&a, msa_fast_ops.stage[MSA_STAGE_INDEX]->workspace(s));
    arena_share(&a, topk_workspace(s));
    return arena_bytes(&a);
}

static size_t choose_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, NULL);
}

CHECKED_WORKSPACE(choose)

/* Ranks what `rule` makes of the scores; with `learned`, they start as MSA's. */
static msa_status choose_by(score_rule *rule, bool learned, const msa_shape *s, const float *qi,
                            const float *ki, float *given_scores, int32_t *ids, float *index_lse, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!qi || !ki || !work)
        return MSA_ERR_NULL;
    const int64_t blocks = msa_n_blocks(s), rows = s->n_kv_heads * s->n_q;
    scratch w;
    place(&w, s, work);
    float *scores = w.scores;
    if (learned)
        MSA_TRY(msa_fast_ops.stage[MSA_STAGE_INDEX]->run(
            s, &(msa_arrays){.qi = qi, .ki = ki, .scores = scores}, w.stage));
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const index_keys keys = {ki + seq.kv0 * s->d_index, w.means};
        mean_keys(s, &seq, ki, w.means);
        for (int64_t at = 0; at < seq.n_q * s->n_kv_heads; at++) {
            const int64_t i = at / s->n_kv_heads, r = at % s->n_kv_heads;
            const int64_t local = position(&seq, i) / s->block;
            float *row = scores + (r * s->n_q + seq.q0 + i) * blocks;
            for (int64_t c = learned ? local + 1 : 0; c < blocks; c++)
                row[c] = c == local ? 0 : -INFINITY;
            rule(s, qi + ((seq.q0 + i) * s->n_kv_heads + r) * s->d_index, &keys, local, row);
        }
    }
    pad_queries(s, s->n_kv_heads, blocks, -INFINITY, scores);
    if (given_scores)
        memcpy(given_scores, scores, (size_t)(rows * blocks) * sizeof *scores);
    MSA_TRY(msa_topk(s, scores, w.chosen, w.stage));
    if (ids)
        memcpy(ids, w.chosen, (size_t)(rows * s->topk) * sizeof *ids);
    return index_lse ? msa_index_lse(s, qi, ki, w.chosen, index_lse) : MSA_OK;
}

#define SELECTOR(NAME, name, learned, words)                                                                 \
    static msa_status choose_##name(const msa_shape *s, const float *qi, const float *ki, float *scores,     \
                                    int32_t *ids, float *index_lse, void *work)                              \
    {                                                                                                        \
        return choose_by(score_##name, learned, s, qi, ki, scores, ids, index_lse, work);                    \
    }                                                                                                        \
    RUN(index, choose_##name)
#include "selectors.def"

const msa_kernel index_selectors[] = {
#define SELECTOR(NAME, rule, learned, words)                                                                 \
    {.stage = MSA_STAGE_INDEX,                                                                               \
     .name = #rule,                                                                                          \
     .backend = "ref",                                                                                       \
     .constraints = "any shape",                                                                             \
     .idea = words,                                                                                          \
     .own_rule = true,                                                                                       \
     .workspace = choose_checked,                                                                            \
     .run = choose_##rule##_run},
#include "selectors.def"
    {.name = NULL}};
