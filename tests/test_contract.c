/**
 * @file test_contract.c
 * @brief What the API promises besides numbers: error codes, the contract of ids, ties, the table.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../ref/call.h"
#include "../ref/judge/guard.h"
#include "../ref/msa_layer.h"
#include "../ref/table/table.h"
#include "support/check.h"

static const msa_shape good = {4, 10, 4, 2, 8, 6, 4, 2, 1, NULL, NULL, NULL, NULL};

/* ---- Shapes -------------------------------------------------------------------------------------- */

static void expect_status(check_case *c, const char *what, msa_status expected, msa_status found)
{
    check_true(c, expected == found, "%s: expected \"%s\", found \"%s\"", what, msa_strerror(expected),
               msa_strerror(found));
}

static void bad_sizes(void)
{
    check_case c = check_begin("msa_check_shape refuses sizes");
    expect_status(&c, "NULL", MSA_ERR_NULL, msa_check_shape(NULL));
    expect_status(&c, "a good shape", MSA_OK, msa_check_shape(&good));
    for (int field = 0; field < 8; field++)
        for (int value = -1; value <= 0; value++) {
            msa_shape s = good;
            int *width[] = {&s.n_heads, &s.n_kv_heads, &s.d_head, &s.d_index, &s.block, &s.topk};
            if (field < 6)
                *width[field] = value;
            else
                *(field == 6 ? &s.n_q : &s.n_kv) = value;
            msa_status status = msa_check_shape(&s);
            check_true(&c, status == MSA_ERR_SIZE, "field %d = %d: \"%s\"", field, value,
                       msa_strerror(status));
        }
    static const int64_t most = INT64_MAX / 4;
    msa_shape huge = good;
    huge.n_kv = most;
    expect_status(&c, "K beyond memory", MSA_ERR_SIZE, msa_check_shape(&huge));
    huge.n_q = most;
    expect_status(&c, "Q beyond memory", MSA_ERR_SIZE, msa_check_shape(&huge));
    msa_shape many_blocks = {1, (int64_t)1 << 32, 1, 1, 1, 1, 1, 1, 1, NULL, NULL, NULL, NULL};
    expect_status(&c, "more blocks than an id can name", MSA_ERR_SIZE, msa_check_shape(&many_blocks));
    check_end(&c);
}

static void bad_heads_and_order(void)
{
    check_case c = check_begin("msa_check_shape refuses head counts, causality, sequence lengths");
    msa_shape s = good;
    s.n_heads = 5;
    expect_status(&c, "5 query heads for 2", MSA_ERR_HEADS, msa_check_shape(&s));
    s = good;
    s.n_q = 11;
    expect_status(&c, "11 queries for 10 keys", MSA_ERR_CAUSAL, msa_check_shape(&s));

    int32_t cu_q[3] = {0, 1, 4}, cu_kv[3] = {0, 5, 10};
    s = good;
    s.n_seqs = 2;
    expect_status(&c, "no cu_seqlens", MSA_ERR_NULL, msa_check_shape(&s));
    s.cu_q = cu_q;
    expect_status(&c, "no cu_kv", MSA_ERR_NULL, msa_check_shape(&s));
    s.cu_kv = cu_kv;
    expect_status(&c, "two sequences", MSA_OK, msa_check_shape(&s));
    static const struct {
        int32_t q[3], kv[3];
        msa_status status;
    } lengths[] = {
        {{1, 1, 4}, {0, 5, 10}, MSA_ERR_SEQLENS}, {{0, 1, 3}, {0, 5, 10}, MSA_ERR_SEQLENS},
        {{0, 5, 4}, {0, 5, 10}, MSA_ERR_SEQLENS}, {{0, 1, 4}, {1, 5, 10}, MSA_ERR_SEQLENS},
        {{0, 1, 4}, {0, 5, 11}, MSA_ERR_SEQLENS}, {{0, 1, 4}, {0, 11, 10}, MSA_ERR_SEQLENS},
        {{0, 3, 4}, {0, 2, 10}, MSA_ERR_CAUSAL},  {{0, 1, 4}, {0, 8, 10}, MSA_ERR_CAUSAL},
    };
    for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++) {
        memcpy(cu_q, lengths[n].q, sizeof cu_q);
        memcpy(cu_kv, lengths[n].kv, sizeof cu_kv);
        msa_status status = msa_check_shape(&s);
        check_true(&c, status == lengths[n].status, "lengths %zu: \"%s\"", n, msa_strerror(status));
    }
    check_end(&c);
}

// n_q, n_kv, n_heads, n_kv_heads, d_head, d_index, block, topk; sequences of 1, 0, 0... tokens.
static msa_status of_sizes(const int64_t n[9])
{
    static const int32_t cu[] = {0, 1, 1, 1};
    const bool cut = n[8] > 1;
    const msa_shape s = {n[0],      n[1],      (int)n[2], (int)n[3],       (int)n[4],       (int)n[5],
                         (int)n[6], (int)n[7], (int)n[8], cut ? cu : NULL, cut ? cu : NULL, NULL,
                         NULL};
    return msa_check_shape(&s);
}

// Each size at its limit, and one beyond.
static void sizes_at_their_limits(void)
{
    check_case c = check_begin("msa_check_shape takes the largest sizes and no larger ones");
    enum { K = 1 << 10, M = 1 << 20 };
    static const int64_t G = 1 << 30, most = INT32_MAX;
    const int64_t limits[][2][9] = {
        {{1, most, 1, 1, 1, 1, 1, 1, 1}, {1, most + 1, 1, 1, 1, 1, 1, 1, 1}},
        {{M, most, 1, 1, 1, 1, M, 1, 1}, {most + 1, most + 1, 1, 1, 1, 1, M, 1, 1}},
        {{1, 1, 32 * K, 1, 32 * K, 1, 1, 1, 1}, {1, 1, 32 * K, 1, 32 * K + 1, 1, 1, 1, 1}},
        {{1, 1, 32 * K, 1, 1, 32 * K, 1, 1, 1}, {1, 1, 32 * K, 1, 1, 32 * K + 1, 1, 1, 1}},
        {{1, 1, 512 * M, 512 * M, 1, 1, 1, 1, 2}, {1, 1, 512 * M, 512 * M, 1, 1, 1, 1, 3}},
        {{1, G, 16 * K, 1, 1, 1, 1, 1, 1}, {1, G, 16 * K + 1, 1, 1, 1, 1, 1, 1}},
        {{G, G, 16, 1, K, 1, M, 1, 1}, {G, G, 16, 1, K + 1, 1, M, 1, 1}},
        {{M, M, K, K, 1, 1, M, 16 * K, 1}, {M, M, K, K, 1, 1, M, 16 * K + 1, 1}},
        {{1, 1, 1, 1, 16 * K, 1, G, 1, 1}, {1, 1, 1, 1, 16 * K + 1, 1, G, 1, 1}},
        {{G, G, 1, 1, 1, 1, 2, 1, 1}, {G, G, 1, 1, 1, 1, 1, 1, 1}},
    };
    for (size_t n = 0; n < sizeof limits / sizeof *limits; n++) {
        const msa_status fits = of_sizes(limits[n][0]), beyond = of_sizes(limits[n][1]);
        check_true(&c, fits == MSA_OK && beyond == MSA_ERR_SIZE, "limit %zu: \"%s\", \"%s\"", n,
                   msa_strerror(fits), msa_strerror(beyond));
    }
    check_end(&c);
}

static void lengths_have_room(void)
{
    check_case c = check_begin("msa_check_shape refuses lengths beyond their room");
    static const int32_t cu_q[] = {0, 1, 4}, cu_kv[] = {0, 5, 10};
    static const struct {
        int32_t q[2], kv[2];
        msa_status status;
    } lengths[] = {
        {{1, 3}, {5, 5}, MSA_OK},           {{0, 0}, {0, 0}, MSA_OK},
        {{1, 2}, {3, 2}, MSA_OK},           {{2, 3}, {5, 5}, MSA_ERR_SEQLENS},
        {{1, 4}, {5, 5}, MSA_ERR_SEQLENS},  {{1, 3}, {6, 5}, MSA_ERR_SEQLENS},
        {{1, 3}, {5, 6}, MSA_ERR_SEQLENS},  {{-1, 3}, {5, 5}, MSA_ERR_SEQLENS},
        {{1, -1}, {5, 5}, MSA_ERR_SEQLENS}, {{1, 3}, {-1, 5}, MSA_ERR_SEQLENS},
        {{1, 3}, {0, 5}, MSA_ERR_CAUSAL},   {{1, 3}, {5, 2}, MSA_ERR_CAUSAL},
    };
    for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++) {
        msa_shape s = good;
        s.n_seqs = 2, s.cu_q = cu_q, s.cu_kv = cu_kv, s.len_q = lengths[n].q, s.len_kv = lengths[n].kv;
        const msa_status status = msa_check_shape(&s);
        check_true(&c, status == lengths[n].status, "lengths %zu: \"%s\"", n, msa_strerror(status));
    }
    check_end(&c);
}

// cu_q, cu_kv and lengths count for one sequence as they do for two.
static void one_sequence(void)
{
    check_case c = check_begin("one sequence with cu_q, cu_kv and lengths");
    enum { T = 3, S = 6, HQ = 4, HKV = 2, D = 8 };
    static const struct {
        int32_t q[2], kv[2];
        msa_status status;
    } cuts[] = {
        {{0, 3}, {0, 6}, MSA_OK},           {{0, 3}, {0, 4}, MSA_ERR_SEQLENS},
        {{0, 2}, {0, 6}, MSA_ERR_SEQLENS},  {{1, 3}, {0, 6}, MSA_ERR_SEQLENS},
        {{0, 3}, {-1, 6}, MSA_ERR_SEQLENS}, {{0, 3}, {0, 7}, MSA_ERR_SEQLENS},
    };
    for (size_t n = 0; n < sizeof cuts / sizeof *cuts; n++)
        for (int seqs = 0; seqs < 2; seqs++) {
            const msa_shape s = {T, S, HQ, HKV, D, D, 4, 2, seqs, cuts[n].q, cuts[n].kv, NULL, NULL};
            expect_status(&c, "a cut", cuts[n].status, msa_check_shape(&s));
        }
    static const int32_t three = 3, four = 4;
    float q[T * HQ * D], k[S * HKV * D], v[S * HKV * D], o[2][T * HQ * D], lse[2][T * HQ];
    inputs_rng rng = {check_seed(7)};
    for (int i = 0; i < T * HQ * D; i++)
        q[i] = inputs_normal(&rng);
    for (int i = 0; i < S * HKV * D; i++)
        k[i] = inputs_normal(&rng), v[i] = inputs_normal(&rng);
    const msa_shape all = {T, S, HQ, HKV, D, D, 4, 2, 1, cuts[0].q, cuts[0].kv, NULL, NULL},
                    cut = {T, S, HQ, HKV, D, D, 4, 2, 1, cuts[1].q, cuts[1].kv, NULL, NULL},
                    shorter = {T, S, HQ, HKV, D, D, 4, 2, 1, NULL, NULL, &three, &four},
                    four_keys = {T, 4, HQ, HKV, D, D, 4, 2, 1, NULL, NULL, NULL, NULL},
                    plain = {T, S, HQ, HKV, D, D, 4, 2, 1, NULL, NULL, NULL, NULL};
    void *work =
        check_alloc((int64_t)msa_workspace(&msa_fast_ops, &all) + (int64_t)msa_workspace(NULL, &all), 1);
    for (int a = 0; a < 2; a++) {
        const msa_kernel *dense = (a ? &msa_fast_ops : &msa_ref_ops)->stage[MSA_STAGE_DENSE];
        const msa_arrays to[2] = {{.q = q, .k = k, .v = v, .o = o[0], .lse = lse[0]},
                                  {.q = q, .k = k, .v = v, .o = o[1], .lse = lse[1]}};
        expect_status(&c, "four of six keys", MSA_ERR_SEQLENS, dense->run(&cut, &to[0], work));
        expect_status(&c, "all", MSA_OK, dense->run(&all, &to[0], work));
        expect_status(&c, "plain", MSA_OK, dense->run(&plain, &to[1], work));
        check_same(&c, "o of all", o[1], o[0], sizeof *o);
        expect_status(&c, "a length of four", MSA_OK, dense->run(&shorter, &to[0], work));
        expect_status(&c, "four keys", MSA_OK, dense->run(&four_keys, &to[1], work));
        check_same(&c, "o of four", o[1], o[0], sizeof *o);
        check_same(&c, "lse of four", lse[1], lse[0], sizeof *lse);
    }
    check_end(&c);
    check_release(NULL);
}

static void geometry(void)
{
    check_case c = check_begin("sequences, blocks and positions");
    check_true(&c, msa_n_seqs(&good) == 1 && msa_n_blocks(&good) == 3, "one sequence of 3 blocks");
    int32_t cu_q[3] = {0, 1, 4}, cu_kv[3] = {0, 1, 10}, pos[4];
    msa_shape s = good;
    check_true(&c, msa_positions(&s, pos) == MSA_OK && pos[0] == 6 && pos[3] == 9,
               "positions after a prefix");
    s.n_seqs = 2;
    s.cu_q = cu_q;
    s.cu_kv = cu_kv;
    msa_seq seq = msa_get_seq(&s, 1);
    check_true(&c, seq.q0 == 1 && seq.n_q == 3 && seq.kv0 == 1 && seq.n_kv == 9, "the second sequence");
    check_true(&c, msa_n_seqs(&s) == 2 && msa_n_blocks(&s) == 3, "blocks of the longest sequence");
    check_true(&c, msa_positions(&s, pos) == MSA_OK && pos[0] == 0 && pos[1] == 6 && pos[3] == 8,
               "positions count within their sequence");
    expect_status(&c, "no room for positions", MSA_ERR_NULL, msa_positions(&s, NULL));
    check_end(&c);
}

/* ---- Ids ----------------------------------------------------------------------------------------- */

// T = 2 queries at positions 10 and 11 of 12 keys, blocks of 4: the local block is 2.
static void ids_contract(void)
{
    static const msa_shape s = {2, 12, 1, 1, 1, 1, 4, 3, 1, NULL, NULL, NULL, NULL};
    static const struct {
        int32_t row[3];
        msa_status status;
    } rows[] = {
        {{0, 1, 2}, MSA_OK},
        {{2, -1, -1}, MSA_OK},
        {{0, 2, -1}, MSA_OK},
        {{0, -1, -1}, MSA_OK},
        {{-1, -1, -1}, MSA_ERR_IDS},
        {{-1, 0, 1}, MSA_ERR_IDS},
        {{1, 0, 2}, MSA_ERR_IDS},
        {{1, 1, 2}, MSA_ERR_IDS},
        {{0, 2, 3}, MSA_ERR_IDS},
        {{0, 2, -2}, MSA_ERR_IDS},
        {{0, -1, 2}, MSA_ERR_IDS},
        {{-2, -1, -1}, MSA_ERR_IDS},
        {{INT32_MIN, 1, 2}, MSA_ERR_IDS},
        {{0, 1, INT32_MAX}, MSA_ERR_IDS},
    };
    check_case c = check_begin("msa_check_ids: ascending visible blocks, then -1");
    for (size_t n = 0; n < sizeof rows / sizeof *rows; n++)
        for (int at = 0; at < 2; at++) {
            int32_t ids[6] = {0, 1, 2, 0, 1, 2};
            memcpy(ids + 3 * at, rows[n].row, sizeof rows[n].row);
            msa_status status = msa_check_ids(&s, ids);
            check_true(&c, status == rows[n].status, "row {%d,%d,%d}: \"%s\"", rows[n].row[0], rows[n].row[1],
                       rows[n].row[2], msa_strerror(status));
        }
    expect_status(&c, "NULL", MSA_ERR_NULL, msa_check_ids(&s, NULL));
    msa_shape bad = s;
    bad.topk = 0;
    int32_t none[1] = {0};
    expect_status(&c, "a bad shape", MSA_ERR_SIZE, msa_check_ids(&bad, none));
    check_end(&c);
}

/* ---- Selection from float scores ----------------------------------------------------------------- */

static float rank_value(float score)
{
    return isnan(score) ? -INFINITY : score;
}

// The rule spelled out: a block before the local one is chosen if fewer than k-1 others precede it in the
// order (score descending, id ascending).
static void choose_by_counting(const float *score, int32_t local, int topk, int32_t *ids)
{
    int n = 0;
    for (int32_t b = 0; b < local; b++) {
        int before = 0;
        for (int32_t a = 0; a < local; a++) {
            float x = rank_value(score[a]), y = rank_value(score[b]);
            before += x > y || (x == y && a < b);
        }
        if (before < topk - 1)
            ids[n++] = b;
    }
    ids[n++] = local;
    while (n < topk)
        ids[n++] = -1;
}

static void topk_on_odd_scores(void)
{
    static const float values[] = {NAN, -INFINITY, INFINITY, -0.0f, 0.0f, 1.0f, 1.0000001f, -3.0f, 1e-45f};
    check_case c = check_begin("msa_topk: NaN, infinities, ties, signed zeros, scores past the diagonal");
    inputs_rng rng = {check_seed(1)};
    for (int round = 0; round < 2000; round++) {
        msa_shape s = {1,   1 + inputs_below(&rng, 40),      1, 1,    1,    1,
                       1,   1 + (int)inputs_below(&rng, 20), 1, NULL, NULL, NULL,
                       NULL};
        s.n_q = 1 + inputs_below(&rng, s.n_kv);
        int64_t blocks = msa_n_blocks(&s);
        float *scores = check_floats(s.n_q * blocks);
        int32_t *ids = check_ints(s.n_q * s.topk), *expected = check_ints(s.n_q * s.topk);
        for (int64_t i = 0; i < s.n_q * blocks; i++)
            scores[i] = values[inputs_below(&rng, (int64_t)(sizeof values / sizeof *values))];
        for (int64_t i = 0; i < s.n_q; i++)
            choose_by_counting(scores + i * blocks, (int32_t)(s.n_kv - s.n_q + i), s.topk,
                               expected + i * s.topk);
        msa_topk(&s, scores, ids, check_alloc((int64_t)msa_workspace(&msa_ref_ops, &s), 1));
        check_same(&c, "ids", expected, ids, (size_t)(s.n_q * s.topk) * sizeof *ids);
        check_release(NULL);
    }
    check_end(&c);
}

// Keys 0 .. 23 in blocks of 4 score by their first channel; the query is the last token.
static void one_selection(check_case *c, const char *what, const float keys[24], int topk,
                          const int32_t *expected)
{
    const msa_shape s = {1, 24, 1, 1, 1, 1, 4, topk, 1, NULL, NULL, NULL, NULL};
    const float qi = 1;
    int32_t ids[3];
    double work[256];
    check_true(c, msa_workspace(&msa_ref_ops, &s) <= sizeof work, "workspace fits");
    msa_status status = msa_index(&s, &qi, keys, NULL, ids, NULL, work);
    check_true(c, status == MSA_OK && memcmp(ids, expected, (size_t)topk * sizeof *ids) == 0,
               "%s: found {%d, %d, %d}", what, ids[0], ids[1], topk > 2 ? ids[2] : -1);
}

static void hand_made_selections(void)
{
    check_case c = check_begin("selections by hand: ties, the local block, NaN");
    float keys[24];
    for (int j = 0; j < 24; j++)
        keys[j] = 1;
    one_selection(&c, "all tie: the lowest ids", keys, 3, (const int32_t[]){0, 1, 5});
    keys[9] = 2;
    keys[18] = 2;
    one_selection(&c, "two best", keys, 3, (const int32_t[]){2, 4, 5});
    one_selection(&c, "two tie for one slot: the lower id", keys, 2, (const int32_t[]){2, 5});
    keys[15] = 1.5f;
    one_selection(&c, "a third does not matter", keys, 3, (const int32_t[]){2, 4, 5});
    keys[23] = -100;
    one_selection(&c, "the local block however bad", keys, 3, (const int32_t[]){2, 4, 5});
    for (int j = 8; j < 12; j++)
        keys[j] = NAN;
    one_selection(&c, "a block of NaN ranks as -infinity", keys, 3, (const int32_t[]){3, 4, 5});
    check_end(&c);
}

/* ---- The table and the whole forward pass -------------------------------------------------------- */

static void table(void)
{
    check_case c = check_begin("the table of implementations");
    const msa_kernel *k;
    int n = 0;
    for (; (k = table_at(n)) != NULL; n++) {
        char name[64];
        snprintf(name, sizeof name, "%s/%s", msa_stage_name(k->stage), k->name);
        check_true(&c, table_find(name, k->backend) == k, "%s on %s is found by its name", name, k->backend);
        check_true(&c, k->idea[0] && k->constraints[0] && k->backend[0], "%s is described", name);
    }
    check_true(&c, n >= MSA_N_STAGES, "%d kernels", n);
    for (int stage = 0; stage < MSA_N_STAGES; stage++) {
        check_true(&c, (int)msa_ref_ops.stage[stage]->stage == stage, "reference entry %d", stage);
        check_true(&c, (int)msa_fast_ops.stage[stage]->stage == stage, "fast entry %d", stage);
    }
    msa_ops ops;
    check_true(&c, table_ops("ref", &ops) && memcmp(&ops, &msa_ref_ops, sizeof ops) == 0, "the reference");
    check_true(&c, table_ops("fast", &ops) && ops.stage[0] == msa_fast_ops.stage[0], "the fast back end");
    check_true(&c,
               !table_ops("none", &ops) && !table_find("dense/none", NULL) && !table_find("dense", NULL) &&
                   !table_find("", NULL) && !table_at(-1),
               "what is not there is not found");
    for (int a = MSA_OK; a <= MSA_ERR_DEVICE; a++)
        for (int b = MSA_OK; b < a; b++)
            check_true(&c, strcmp(msa_strerror((msa_status)a), msa_strerror((msa_status)b)) != 0,
                       "statuses %d and %d read alike", a, b);
    check_end(&c);
}

// An index entry that can only produce scores, and one that cannot produce the LSE.
static bool refuse_ids;

static msa_status modest_index(const msa_shape *s, const float *qi, const float *ki, float *scores,
                               int32_t *ids, float *index_lse, void *work)
{
    return index_lse || (refuse_ids && ids) ? MSA_ERR_UNSUPPORTED
                                            : msa_index(s, qi, ki, scores, ids, NULL, work);
}
RUN(index, modest_index)

/** Outputs of one msa_forward. */
typedef struct outputs {
    float *scores, *o, *lse, *index_lse;
    int32_t *ids;
} outputs;

static outputs forward(check_case *c, const msa_ops *ops, const msa_shape *s, const inputs *in)
{
    outputs out = {check_floats(s->n_kv_heads * s->n_q * msa_n_blocks(s)),
                   check_floats(s->n_q * s->n_heads * s->d_head), check_floats(s->n_q * s->n_heads),
                   check_floats(s->n_kv_heads * s->n_q), check_ints(s->n_kv_heads * s->n_q * s->topk)};
    void *work = check_alloc((int64_t)msa_workspace(ops, s), 1);
    expect_status(c, "forward", MSA_OK,
                  msa_forward(ops, s, in->q, in->k, in->v, in->qi, in->ki, out.scores, out.ids, out.o,
                              out.lse, out.index_lse, work));
    return out;
}

static void compositions(void)
{
    check_case c = check_begin("msa_forward works with an index entry that does less");
    const msa_shape *s = &inputs_shapes[3];
    inputs in;
    if (!inputs_new(&in, s, INPUTS_DYADIC, check_seed(2)))
        return;
    msa_kernel modest = *msa_ref_ops.stage[MSA_STAGE_INDEX];
    modest.run = modest_index_run;
    msa_ops ops = msa_ref_ops;
    ops.stage[MSA_STAGE_INDEX] = &modest;
    outputs expected = forward(&c, NULL, s, &in);
    for (int n = 0; n < 2; n++) {
        refuse_ids = n == 1;
        outputs found = forward(&c, &ops, s, &in);
        size_t rows = (size_t)(s->n_kv_heads * s->n_q);
        check_same(&c, "ids", expected.ids, found.ids, rows * (size_t)s->topk * sizeof(int32_t));
        check_same(&c, "scores", expected.scores, found.scores,
                   rows * (size_t)msa_n_blocks(s) * sizeof(float));
        check_same(&c, "index_lse", expected.index_lse, found.index_lse, rows * sizeof(float));
        check_same(&c, "o", expected.o, found.o, (size_t)(s->n_q * s->n_heads * s->d_head) * sizeof(float));
        check_same(&c, "lse", expected.lse, found.lse, (size_t)(s->n_q * s->n_heads) * sizeof(float));
    }
    void *work = check_alloc((int64_t)msa_workspace(&ops, s), 1);
    expect_status(&c, "no room for the scores", MSA_ERR_UNSUPPORTED,
                  msa_forward(&ops, s, in.q, in.k, in.v, in.qi, in.ki, NULL, expected.ids, expected.o, NULL,
                              NULL, work));
    inputs_free(&in);
    check_end(&c);
    check_release(NULL);
}

// A caller that sizes its workspace for the largest call may make smaller ones with it.
static void workspaces_grow(const char *name, const msa_ops *ops)
{
    check_case c = check_begin("a workspace for many tokens suffices for fewer: %s", name);
    inputs_rng rng = {check_seed(5)};
    const msa_layer_config layer = {.d_model = 8, .rot = 4, .theta = 100, .eps = 1e-6};
    for (int round = 0; round < 500; round++) {
        msa_shape large = {.n_kv = 1 + inputs_below(&rng, 5000),
                           .n_heads = 4,
                           .n_kv_heads = 2,
                           .d_head = 8,
                           .d_index = 4,
                           .block = 1 + (int)inputs_below(&rng, 200),
                           .topk = 1 + (int)inputs_below(&rng, 20)};
        large.n_q = 1 + inputs_below(&rng, large.n_kv);
        msa_shape small = large;
        small.n_q = 1 + inputs_below(&rng, large.n_q);
        small.n_kv = small.n_q + inputs_below(&rng, large.n_kv - small.n_q + 1);
        check_true(&c, msa_workspace(ops, &small) <= msa_workspace(ops, &large),
                   "T=%lld S=%lld in T=%lld S=%lld", (long long)small.n_q, (long long)small.n_kv,
                   (long long)large.n_q, (long long)large.n_kv);
        check_true(&c, msa_layer_workspace(ops, &small, &layer) <= msa_layer_workspace(ops, &large, &layer),
                   "a layer's, T=%lld S=%lld in T=%lld S=%lld", (long long)small.n_q, (long long)small.n_kv,
                   (long long)large.n_q, (long long)large.n_kv);
    }
    check_end(&c);
}

/* ---- Absurd shapes ------------------------------------------------------------------------------- */

/** Any number: mostly of a size that its logarithm is drawn for, sometimes a border or a negative one. */
static int64_t any_number(inputs_rng *rng, int bits)
{
    static const int64_t borders[] = {
        0, -1, 1, 2, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, (int64_t)1 << 32};
    if (inputs_below(rng, 8) == 0)
        return borders[inputs_below(rng, (int64_t)(sizeof borders / sizeof *borders))];
    return (int64_t)(inputs_u64(rng) >> (64 - 1 - inputs_below(rng, bits)));
}

static msa_shape any_shape(inputs_rng *rng)
{
    int32_t x[7];
    for (int i = 0; i < 7; i++)
        x[i] = (int32_t)any_number(rng, 31);
    msa_shape s = {any_number(rng, 40),
                   any_number(rng, 63),
                   x[0],
                   x[1],
                   x[2],
                   x[3],
                   x[4],
                   x[5],
                   1,
                   NULL,
                   NULL,
                   NULL,
                   NULL};
    if (inputs_below(rng, 4) > 0 && s.n_kv_heads > 0) /* most others would be refused for this */
        s.n_heads = (int)((int64_t)s.n_kv_heads * (1 + inputs_below(rng, 16)) & INT32_MAX) / s.n_kv_heads *
                    s.n_kv_heads;
    if (inputs_below(rng, 4) > 0 && s.n_q > s.n_kv)
        s.n_q = s.n_kv;
    if (inputs_below(rng, 8) == 0)
        s.n_seqs = x[6];
    return s;
}

/** Halves sizes until the shape is not too large: those on the border are the worst. */
static void fit(msa_shape *s)
{
    for (int n = 0; n < 64 && msa_check_shape(s) == MSA_ERR_SIZE; n++)
        if (s->n_kv > (int64_t)s->n_heads * s->d_head) {
            s->n_kv -= s->n_kv / 2;
            s->n_q = s->n_q < s->n_kv ? s->n_q : s->n_kv;
        } else {
            s->d_head -= s->d_head / 2;
            s->d_index -= s->d_index / 2;
            s->topk -= s->topk / 2;
        }
}

/** Four sequences, of any lengths that may be. */
static void cut_up(msa_shape *s, inputs_rng *rng)
{
    static int32_t cu_q[5], cu_kv[5], len_q[4], len_kv[4];
    for (int r = 1; r <= 4; r++) {
        cu_q[r] = (int32_t)(r == 4 ? s->n_q : s->n_q / 8 * r);
        cu_kv[r] = (int32_t)(r == 4 ? s->n_kv : s->n_kv / 8 * r);
        len_kv[r - 1] = (int32_t)inputs_below(rng, (int64_t)cu_kv[r] - cu_kv[r - 1] + 1);
        len_q[r - 1] = (int32_t)inputs_below(
            rng, 1 + (len_kv[r - 1] < cu_q[r] - cu_q[r - 1] ? len_kv[r - 1] : cu_q[r] - cu_q[r - 1]));
    }
    s->n_seqs = 4;
    s->cu_q = cu_q, s->cu_kv = cu_kv, s->len_q = len_q, s->len_kv = len_kv;
    if (inputs_below(rng, 4) == 0)
        cu_kv[1 + inputs_below(rng, 4)] = (int32_t)any_number(rng, 31);
}

static void one_size(check_case *c, const char *what, const msa_shape *s, msa_status status, size_t bytes)
{
    check_true(c, status == MSA_OK ? bytes < (size_t)1 << 62 : bytes == 0,
               "%s, T=%lld S=%lld heads %d:%d widths %d:%d block %d k %d seqs %d, \"%s\": %zu", what,
               (long long)s->n_q, (long long)s->n_kv, s->n_heads, s->n_kv_heads, s->d_head, s->d_index,
               s->block, s->topk, s->n_seqs, msa_strerror(status), bytes);
}

// Every size that can be asked for, of every shape: 0 if it is refused, else one that cannot have overflowed.
static void absurd_shapes(void)
{
    check_case c = check_begin("sizes and workspaces of absurd shapes");
    inputs_rng rng = {check_seed(6)};
    int accepted = 0;
    for (int round = 0; round < 20000; round++) {
        msa_shape s = any_shape(&rng);
        if (round % 2)
            fit(&s);
        if (round % 4 == 1 && s.n_q > 0 && s.n_q <= s.n_kv && s.n_kv <= INT32_MAX)
            cut_up(&s, &rng);
        const msa_status status = msa_check_shape(&s);
        accepted += status == MSA_OK;
        const msa_kernel *k;
        char name[KERNEL_NAME];
        for (int n = 0; (k = table_at(n)) != NULL; n++)
            one_size(&c, kernel_name(k, name), &s, status, k->workspace(&s));
        for (int a = 0; a < 2; a++) {
            const msa_ops *ops = a ? &msa_fast_ops : &msa_ref_ops;
            const msa_layer_config layer = {
                .d_model = 8, .sink = round % 3 == 0, .value_head = round % 5 == 0};
            one_size(&c, "msa_workspace", &s, status, msa_workspace(ops, &s));
            one_size(&c, "msa_layer_workspace", &s, status, msa_layer_workspace(ops, &s, &layer));
        }
        one_size(&c, "msa_recall_workspace", &s, status, msa_recall_workspace(&s));
        one_size(&c, "msa_first_item", &s, status, (size_t)msa_first_item(&s, INT32_MAX));
        check_true(&c, msa_n_blocks(&s) >= 0 && msa_item_limit(&s) >= 0 && msa_n_seqs(&s) >= 1, "counts");
        check_true(&c, msa_get_seq(&s, -1).n_q == 0 && msa_get_seq(&s, msa_n_seqs(&s)).n_q == 0,
                   "no sequence");
    }
    check_true(&c, accepted > 1000, "%d accepted", accepted);
    check_true(&c,
               msa_n_blocks(NULL) == 0 && msa_item_limit(NULL) == 0 && msa_first_item(NULL, 1) == 0 &&
                   msa_n_seqs(NULL) == 1 && msa_get_seq(NULL, 0).n_q == 0 && msa_workspace(NULL, NULL) == 0 &&
                   msa_layer_workspace(NULL, &good, NULL) == 0 &&
                   msa_layer_workspace(NULL, NULL, NULL) == 0 && msa_recall_workspace(NULL) == 0 &&
                   msa_ref_ops.stage[0]->workspace(NULL) == 0,
               "NULL for a shape");
    check_end(&c);
}

/* ---- Errors touch nothing ------------------------------------------------------------------------ */

/** One guarded buffer that serves as every output. */
static bool untouched(const guard *g)
{
    const uint32_t *word = g->data;
    for (size_t i = 1; i < g->bytes / 4; i++)
        if (word[i] != word[0])
            return false;
    return guard_unwritten(g) == 0 && guard_intact(g);
}

// Of the pointers that a call must have, the one with this number is NULL; -1: none. `given` counts them.
static int missing = -1, given;
static bool next_is_missing(void)
{
    return given++ == missing;
}
#define GIVEN(x) (next_is_missing() ? NULL : (x))

// What the stage may do without, and this call may not.
static bool is_needed(msa_stage stage, array_id a)
{
    if (stage == MSA_STAGE_DECODE && a == ARRAY_KI)
        return true; // its index keys are not of 8 bits
    if (stage == MSA_STAGE_KL && (a == ARRAY_DQI || a == ARRAY_DKI))
        return true; // both gradients or neither
    return !HAS(arrays_of(stage).optional, a);
}

// Calls a stage of `ops` with one shape and one set of pointers; every output is `out`, with integers behind.
static msa_status call(const msa_ops *ops, int stage, const msa_shape *s, const float *in, const int32_t *ids,
                       float *out, void *work)
{
    const msa_kernel *k = ops->stage[stage];
    const stage_line of = arrays_of(k->stage);
    msa_arrays a = {.weight = 1};
    double loss;
    float *integers = out + 500;
    given = 0;
    for (array_id i = 0; i < ARRAY_N; i++) {
        const void *at = HAS(of.out, i) ? out : i == ARRAY_IDS && in ? (const void *)ids : in;
        if (!HAS(of.in | of.out, i) || (k->stage == MSA_STAGE_INDEX && HAS(of.out, i) && i != ARRAY_IDS))
            continue;
        if (HAS(of.out, i) && array_element(i) == ELEMENT_INTEGER)
            at = integers, integers += 100;
        array_set(&a, i, is_needed(k->stage, i) ? GIVEN(at) : at);
    }
    if (k->stage == MSA_STAGE_KL)
        a.loss = GIVEN(&loss);
    return k->run(s, &a, GIVEN(work));
}

// Shapes at which every part of a workspace is larger than what rounding leaves over: behind it is a fence.
static void workspaces_suffice(void)
{
    static const msa_shape s = {3, 200, 4, 2, 40, 36, 1, 32, 1, NULL, NULL, NULL, NULL};
    check_case c =
        check_begin("workspaces suffice where all parts of them are large; msa_reverse takes 32 blocks");
    float *in = check_floats(s.n_kv * s.n_kv_heads * s.d_head),
          *out = check_floats(4 * s.n_kv * s.n_kv_heads * s.d_head);
    int32_t *ids = check_ints(s.n_kv_heads * s.n_q * s.topk);
    inputs_rng rng = {check_seed(9)};
    for (int64_t i = 0; i < s.n_kv * s.n_kv_heads * s.d_head; i++)
        in[i] = inputs_normal(&rng);
    msa_index(&s, in, in, NULL, ids, NULL, check_alloc((int64_t)msa_workspace(NULL, &s), 1));
    const msa_kernel *k;
    for (int n = 0; (k = table_at(n)) != NULL; n++) {
        if (strcmp(k->backend, "ref") != 0 && strcmp(k->backend, "fast") != 0)
            continue;
        msa_ops ops = msa_ref_ops;
        ops.stage[k->stage] = k;
        const void *mark = check_mark();
        void *work = check_alloc((int64_t)k->workspace(&s), 1);
        if (k->stage == MSA_STAGE_REVERSE)
            expect_status(&c, k->name, MSA_OK,
                          k->run(&s,
                                 &(msa_arrays){.ids = ids,
                                               .first = check_ints(1000),
                                               .entries = check_alloc(1000, sizeof(uint32_t)),
                                               .items = check_alloc(1000, sizeof(msa_item))},
                                 work));
        else
            expect_status(&c, k->name, MSA_OK, call(&ops, (int)k->stage, &s, in, ids, out, work));
        check_release(mark);
    }
    msa_recall_result recall;
    const void *mark = check_mark();
    expect_status(
        &c, "recall", MSA_OK,
        msa_recall(&s, in, in, ids, NULL, &recall, check_alloc((int64_t)msa_recall_workspace(&s), 1)));
    check_release(mark);
    expect_status(&c, "mass", MSA_OK,
                  msa_block_mass(&s, in, in, out, check_alloc((int64_t)msa_recall_workspace(&s), 1)));
    msa_shape many = s;
    many.topk = 33;
    int32_t *more = check_ints(s.n_kv_heads * s.n_q * many.topk);
    for (int i = 0; i < s.n_kv_heads * s.n_q * many.topk; i++)
        more[i] = i % many.topk ? -1 : 0;
    expect_status(&c, "33 blocks", MSA_ERR_UNSUPPORTED,
                  msa_reverse(&many, more, ids, (uint32_t *)(void *)out, (msa_item *)(void *)out, out));
    check_end(&c);
    check_release(NULL);
}

/** What is public and no stage; with all of its pointers it is not called here. */
enum {
    INDEX_LSE,
    FORWARD,
    BLOCK_MASS,
    RECALL,
    POSITIONS,
    ROPE,
    RMSNORM,
    RMSNORM_BACKWARD,
    LAYER,
    LAYER_BACKWARD,
    APPEND,
    ROLLBACK,
    PAGED_DECODE,
    PAGED_DENSE_DECODE,
    N_PUBLIC
};

static msa_status call_public(int which, float *x, int32_t *ids)
{
    static const int32_t table[] = {0, 1, 2}, lens[] = {10};
    msa_shape s = good;
    msa_pages p = {.n_pages = 3, .table = table, .lens = lens};
    s.n_kv = which >= APPEND ? 12 : s.n_kv; // three pages
    const msa_layer_config config = {.d_model = 8};
    msa_layer_weights w = {0};
    msa_layer_state st = {0};
    msa_recall_result recall;
    double wide[16];
    given = 0;
    switch (which) {
    case INDEX_LSE:
        return msa_index_lse(&s, GIVEN(x), GIVEN(x), ids, GIVEN(x));
    case FORWARD:
        return msa_forward(&msa_ref_ops, &s, GIVEN(x), GIVEN(x), GIVEN(x), GIVEN(x), GIVEN(x), NULL,
                           GIVEN(ids), GIVEN(x), x, NULL, GIVEN((void *)x));
    case BLOCK_MASS:
        return msa_block_mass(&s, GIVEN(x), GIVEN(x), GIVEN(x), GIVEN((void *)x));
    case RECALL:
        return msa_recall(&s, GIVEN(x), GIVEN(x), GIVEN(ids), NULL, GIVEN(&recall), GIVEN((void *)x));
    case POSITIONS:
        return msa_positions(&s, GIVEN(ids));
    case ROPE:
        return msa_rope(1, 1, 8, 4, 1e4, GIVEN(ids), false, GIVEN(x));
    case RMSNORM:
        return msa_rmsnorm(1, 8, 1e-6, GIVEN(x), GIVEN(x), GIVEN(x));
    case RMSNORM_BACKWARD:
        return msa_rmsnorm_backward(1, 8, 1e-6, GIVEN(x), GIVEN(x), GIVEN(x), GIVEN(x), GIVEN(x),
                                    GIVEN(wide));
    case LAYER:
        return msa_layer_forward(GIVEN(&msa_ref_ops), &s, &config, MSA_ATTN_SPARSE, GIVEN(&w), GIVEN(x),
                                 GIVEN(&st), GIVEN(x), GIVEN((void *)x));
    case LAYER_BACKWARD:
        return msa_layer_backward(GIVEN(&msa_ref_ops), &s, &config, MSA_ATTN_SPARSE, GIVEN(&w), GIVEN(x),
                                  GIVEN(&st), GIVEN(x), 1, GIVEN(x), GIVEN(&w), GIVEN(wide),
                                  GIVEN((void *)x));
    case APPEND:
        return msa_append(&s, &p, GIVEN(x), GIVEN(x), x, GIVEN(x), GIVEN(x), GIVEN(x));
    case ROLLBACK:
        return msa_rollback(&s, &p, GIVEN(lens), GIVEN(x), GIVEN(x), NULL);
    case PAGED_DECODE:
        return msa_decode(&s, &p, GIVEN(x), GIVEN(x), GIVEN(x), GIVEN(x), GIVEN(x), GIVEN(ids), GIVEN(x),
                          NULL, GIVEN((void *)x));
    default:
        return msa_dense_decode(&s, &p, GIVEN(x), GIVEN(x), GIVEN(x), GIVEN(x), NULL, GIVEN((void *)x));
    }
}

static void no_pointer_may_be_missing(void)
{
    check_case c = check_begin("every pointer that a kernel needs is asked for");
    float *in = check_floats(1000);
    int32_t *ids = check_ints(1000);
    for (int i = 0; i < 1000; i += good.topk) // every row: block 0
        ids[i + 1] = -1;
    guard out;
    if (!guard_new(&out, 4000))
        return;
    const msa_kernel *k;
    for (int n = 0; (k = table_at(n)) != NULL; n++) {
        if (strcmp(k->backend, "ref") != 0 && strcmp(k->backend, "fast") != 0)
            continue;
        msa_ops ops = msa_ref_ops;
        ops.stage[k->stage] = k;
        void *work = check_alloc((int64_t)k->workspace(&good), 1);
        do {
            missing++;
            const msa_status status = call(&ops, (int)k->stage, &good, in, ids, out.data, work);
            const msa_status wanted = missing < given ? MSA_ERR_NULL : MSA_OK;
            check_true(&c, status == wanted, "%s/%s without pointer %d of %d: \"%s\"",
                       msa_stage_name(k->stage), k->name, missing, given, msa_strerror(status));
            check_true(&c, wanted == MSA_OK || untouched(&out), "%s/%s wrote before it failed",
                       msa_stage_name(k->stage), k->name);
        } while (missing < given);
        missing = -1;
        guard_poison(&out);
        const msa_arrays none = {0};
        if (k->run_half)
            check_true(&c,
                       k->run_half(NULL, &none, work) == MSA_ERR_NULL &&
                           k->run_half(&good, NULL, work) == MSA_ERR_NULL &&
                           k->run_half(&good, &none, work) == MSA_ERR_NULL,
                       "%s/%s of bf16 tensors without them", msa_stage_name(k->stage), k->name);
    }
    for (int which = 0; which < N_PUBLIC; which++)
        for (missing = 0; missing == 0 || missing < given; missing++) {
            const msa_status status = call_public(which, in, ids);
            check_true(&c, status == MSA_ERR_NULL, "function %d without pointer %d: \"%s\"", which, missing,
                       msa_strerror(status));
        }
    missing = -1;
    guard_free(&out);
    check_end(&c);
    check_release(NULL);
}

// A block that is longer than any sequence is one block, and takes no memory for keys that are not there.
static void long_blocks(void)
{
    check_case c = check_begin("blocks of 2^31 - 1 tokens are as good as whole sequences");
    float *in = check_floats(1000), *out = check_floats(1000),
          *o[2] = {check_floats(1000), check_floats(1000)};
    int32_t *ids = check_ints(1000);
    inputs_rng rng = {check_seed(8)};
    for (int i = 0; i < 1000; i++)
        in[i] = inputs_normal(&rng);
    msa_shape whole = good, longer = good;
    whole.block = (int)good.n_kv;
    longer.block = INT32_MAX;
    for (int i = 0; i < 1000; i += good.topk) // every row: block 0
        ids[i + 1] = -1;
    const msa_kernel *k;
    for (int n = 0; (k = table_at(n)) != NULL; n++) {
        if (strcmp(k->backend, "ref") != 0 && strcmp(k->backend, "fast") != 0)
            continue;
        msa_ops ops = msa_ref_ops;
        ops.stage[k->stage] = k;
        const size_t bytes = k->workspace(&longer);
        check_true(&c, bytes < 64 << 20, "%s/%s wants %zu bytes", msa_stage_name(k->stage), k->name, bytes);
        void *work = check_alloc((int64_t)(bytes > k->workspace(&whole) ? bytes : k->workspace(&whole)), 1);
        expect_status(&c, k->name, MSA_OK, call(&ops, (int)k->stage, &longer, in, ids, out, work));
        if (k->stage != MSA_STAGE_SPARSE)
            continue;
        for (int a = 0; a < 2; a++)
            k->run(a ? &longer : &whole, &(msa_arrays){.q = in, .k = in, .v = in, .ids = ids, .o = o[a]},
                   work);
        check_same(&c, k->name, o[0], o[1], 1000 * sizeof(float));
    }
    check_end(&c);
    check_release(NULL);
}

static void errors_touch_nothing(const char *name, const msa_ops *ops)
{
    check_case c = check_begin("errors leave the outputs alone: %s", name);
    float *in = check_floats(1000);
    int32_t *ids = check_ints(1000);
    for (int i = 0; i < 1000; i += good.topk) // every row: block 0
        ids[i + 1] = -1;
    msa_shape bad = good;
    bad.n_heads = 5;
    guard out, work;
    if (!guard_new(&out, 4000) || !guard_new(&work, msa_workspace(ops, &good)))
        return;
    for (int stage = 0; stage < MSA_N_STAGES; stage++) {
        const char *what = msa_stage_name((msa_stage)stage);
        expect_status(&c, what, MSA_ERR_HEADS, call(ops, stage, &bad, in, ids, out.data, work.data));
        expect_status(&c, what, MSA_ERR_NULL, call(ops, stage, NULL, in, ids, out.data, work.data));
        expect_status(&c, what, MSA_ERR_NULL, call(ops, stage, &good, NULL, ids, out.data, work.data));
        expect_status(&c, what, MSA_ERR_NULL, call(ops, stage, &good, in, ids, out.data, NULL));
        check_true(&c, untouched(&out), "%s wrote before it failed", what);
        if (HAS(arrays_of((msa_stage)stage).in, ARRAY_IDS)) {
            ids[0] = 77;
            expect_status(&c, what, MSA_ERR_IDS, call(ops, stage, &good, in, ids, out.data, work.data));
            ids[0] = 0;
            check_true(&c, untouched(&out), "%s wrote before it failed", what);
        }
        expect_status(&c, what, MSA_OK, call(ops, stage, &good, in, ids, out.data, work.data));
        guard_poison(&out);
    }
    guard_free(&out);
    guard_free(&work);
    check_end(&c);
    check_release(NULL);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    bad_sizes();
    bad_heads_and_order();
    sizes_at_their_limits();
    lengths_have_room();
    one_sequence();
    geometry();
    ids_contract();
    topk_on_odd_scores();
    hand_made_selections();
    table();
    compositions();
    workspaces_grow("reference", &msa_ref_ops);
    workspaces_grow("fast", &msa_fast_ops);
    absurd_shapes();
    long_blocks();
    workspaces_suffice();
    no_pointer_may_be_missing();
    errors_touch_nothing("reference", &msa_ref_ops);
    errors_touch_nothing("fast", &msa_fast_ops);
    return check_done();
}
