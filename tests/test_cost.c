/**
 * @file test_cost.c
 * @brief The cost model against the paper's table, block mass and recall against the twin and by hand.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../ref/parallel/deal.h"
#include "../ref/parallel/traffic.h"
#include "support/check.h"
#include "support/twin.h"

/* ---- Cost ---------------------------------------------------------------------------------------- */

// MiniMax-M3: 64 query and 4 KV heads of 128, index heads of 128, 16 blocks of 128.
static const msa_shape m3 = {1, 1, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};

static void table_row(check_case *c, int64_t n, const char *expected)
{
    msa_cost_row row;
    char found[96];
    check_true(c, msa_cost(&m3, n, &row) == MSA_OK, "status");
    snprintf(found, sizeof found, "%.2f %.0f%% %.2f %.1f, exact %.2f %.2f %.1f", row.flop_ratio,
             100 * row.index_share, row.bytes_ratio, row.bytes_ratio_8, row.flop_ratio_8,
             row.flop_ratio_exact8, row.bytes_ratio_exact8);
    check_true(c, strcmp(expected, found) == 0, "n = %lld: expected \"%s\", found \"%s\"", (long long)n,
               expected, found);
}

static void cost_table(void)
{
    check_case c = check_begin("the cost model gives the paper's table to the printed digits");
    table_row(&c, 32768, "6.40 20% 5.33 8.0, exact 7.11 6.19 4.8");
    table_row(&c, 65536, "10.67 33% 6.40 10.7, exact 12.80 11.28 7.4");
    table_row(&c, 131072, "16.00 50% 7.11 12.8, exact 21.33 19.19 10.1");
    table_row(&c, 262144, "21.33 67% 7.53 14.2, exact 32.00 29.52 12.4");
    table_row(&c, 524288, "25.60 80% 7.76 15.1, exact 42.67 40.40 14.0");
    table_row(&c, 1048576, "28.44 89% 7.88 15.5, exact 51.20 49.54 14.9");
    msa_cost_row row;
    msa_cost(&m3, 1000, &row);
    check_true(&c, row.flop_gqa == 2.0 * 64 * 128 * 1e6 && row.bytes_gqa == 2.0 * 4 * 128 * 2 * 1000,
               "absolute numbers of GQA");
    check_true(&c,
               row.flop_msa == 4.0 * 128 * 1e6 + 4.0 * 64 * 128 * 1000 * 2048 &&
                   row.bytes_msa == 2.0 * 128 * 1000 + 2.0 * 4 * 128 * 2 * 2048,
               "absolute numbers of MSA");
    msa_cost(&m3, 1 << 20, &row);
    check_true(&c, fabs(row.flop_settle / (2.0 * 4 * 128 * 128 * 86 * (1 << 20)) - 1) < 1e-12,
               "settled: 86 of 8192 blocks");
    check_true(&c, fabs(row.bytes_settle / (2.0 * 4 * 128 * 128 * 43) - 1) < 1e-12, "in decode 43");
    msa_cost(&m3, 4096, &row);
    check_true(&c,
               row.flop_settle == 2.0 * 4 * 128 * 128 * 32 * 4096 &&
                   row.bytes_settle == 2.0 * 4 * 128 * 128 * 32,
               "settled: no more than there are, 32");
    msa_shape bad = m3;
    bad.topk = 1;
    msa_cost(&bad, 1 << 20, &row);
    check_true(&c, row.flop_settle == 0 && row.bytes_settle == 0,
               "with k = 1 nothing is chosen, nothing settled");
    bad.topk = 0;
    check_true(&c, msa_cost(&bad, 1000, &row) == MSA_ERR_SIZE && msa_cost(&m3, 0, &row) == MSA_ERR_SIZE,
               "sizes below 1 are refused");
    check_true(&c, msa_cost(NULL, 1, &row) == MSA_ERR_NULL && msa_cost(&m3, 1, NULL) == MSA_ERR_NULL,
               "NULL is refused");
    check_end(&c);
}

/* ---- Between machines ------------------------------------------------------------------------------- */

// Pairs by trying: k blocks that fall on R ranks with equal chance, the home being rank 0.
static double tried_pairs(int ranks, int k, int tries)
{
    inputs_rng rng = {check_seed(77)};
    double pairs = 0;
    for (int t = 0; t < tries; t++) {
        bool asked[64] = {false};
        for (int b = 0; b < k; b++)
            asked[inputs_below(&rng, ranks)] = true;
        for (int r = 1; r < ranks; r++)
            pairs += asked[r];
    }
    return pairs / tries;
}

static void machines(void)
{
    check_case c =
        check_begin("the model of what moves between machines: by hand, by trying, at its crossing");
    double bytes[TRAFFIC_N_KINDS];
    const traffic_call one = {&m3, 4, 1, 1 << 20, 4, 4, false, 0}; // a token at 1M, float32, 4 ranks
    traffic_pass_q(&one, 4 * 3, bytes);
    check_true(&c, bytes[TRAFFIC_INDEX_QUERIES] == 3 * 4 * 128 * 4, "index queries");
    check_true(&c, bytes[TRAFFIC_CANDIDATES] == 3 * 4 * 15 * 12, "candidates");
    check_true(&c, bytes[TRAFFIC_WINNERS] == 3 * 4 * 16 * 4, "winners");
    check_true(&c, bytes[TRAFFIC_QUERIES] == 3 * 64 * 128 * 4, "queries");
    check_true(&c, bytes[TRAFFIC_PARTIALS] == 3 * 64 * 129 * 4, "partials");
    check_true(&c, traffic_most_q(&one) > 100e3 && traffic_most_q(&one) < 200e3, "a token at 1M: %.0f",
               traffic_most_q(&one));
    traffic_pass_kv(&one, bytes);
    check_true(&c, bytes[TRAFFIC_KEYS] == 3.0 * 2 * 4 * 128 * 4 * (1 << 20), "keys");
    check_true(&c, bytes[TRAFFIC_INDEX_KEYS] == 3.0 * 128 * 4 * (1 << 20), "index keys");
    check_true(&c, traffic_held(&one) == (2.0 * 512 + 128 + 512) * 4 * (1 << 20), "held where keys travel");
    traffic_call small = one;
    small.index_key = 1;
    traffic_pass_kv(&small, bytes);
    check_true(&c, bytes[TRAFFIC_INDEX_KEYS] == 3.0 * (128 * (1 << 20) + 4 * 8192),
               "8-bit index keys, scales");

    for (int ranks = 2; ranks <= 64; ranks *= 2) {
        traffic_call at = {&m3, ranks, 1, 1 << 20, 2, 2, false, 0};
        const double expected = traffic_expected_pairs(&at) / 4, tried = tried_pairs(ranks, 16, 20000);
        check_true(&c, fabs(expected - tried) < 0.1, "%d ranks: %g pairs, by trying %g", ranks, expected,
                   tried);
        at.rows = floor(traffic_crossing(&at));
        check_true(&c, traffic_moves_queries(&at), "%d ranks: queries below the crossing", ranks);
        at.rows += 1;
        check_true(&c, !traffic_moves_queries(&at), "%d ranks: keys above it", ranks);
    }
    traffic_call alone = {&m3, 1, 1, 1 << 20, 2, 2, false, 0};
    check_true(&c, traffic_moves_queries(&alone), "one rank, a token: no key is copied");
    alone.rows = 1 << 20;
    check_true(&c, !traffic_moves_queries(&alone), "one rank, a whole prompt");
    const traffic_call dense = {&m3, 8192, 1, 1 << 20, 2, 2, true, 0};
    check_true(&c, fabs(traffic_crossing(&dense) / (1 << 20) - 2048.0 / (64 * 516)) < 1e-9,
               "dense, many ranks");
    check_end(&c);
}

/* Ranks other than a row's home that own one of the blocks it sees, over the last rows of a sequence and its groups. */
static double counted_pairs(int ranks, int64_t n_q, int64_t n_kv)
{
    double pairs = 0;
    for (int64_t i = 0; i < n_q; i++) {
        const int64_t blocks = (n_kv - n_q + i) / m3.block + 1;
        const int home = deal_home(ranks, 0, i, n_q);
        for (int r = 0; r < ranks; r++)
            pairs += r != home && deal_blocks_before(r, ranks, 0, blocks) > 0 ? m3.n_kv_heads : 0;
    }
    return pairs;
}

static void few_blocks(void)
{
    static const struct {
        int ranks;
        int64_t n_q, n_kv;
        bool dense;
    } cases[] = {{100, 200, 1280, true},
                 {7, 32, 256, true},
                 {4, 16, 128, false},
                 {7, 1000, 1500, false},
                 {1000, 4000, 130000, true}};
    check_case c = check_begin(
        "where all blocks are attended to: their owners are asked, and the fullest rank sends most keys");
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        const int ranks = cases[i].ranks;
        const int64_t n_q = cases[i].n_q, n_kv = cases[i].n_kv;
        const traffic_call at = {&m3, ranks, (double)n_q, (double)n_kv, 4, 4, cases[i].dense, 0};
        const double expected = traffic_expected_pairs(&at), counted = counted_pairs(ranks, n_q, n_kv);
        check_true(&c, fabs(expected - counted) <= 0.05 * counted,
                   "%d ranks, %lld keys: %g pairs, counted %g", ranks, (long long)n_kv, expected, counted);
        double bytes[TRAFFIC_N_KINDS];
        traffic_pass_kv(&at, bytes);
        const double keys =
            fmin((double)(deal_blocks_before(0, ranks, 0, (n_kv + m3.block - 1) / m3.block) * m3.block),
                 (double)n_kv);
        check_true(&c, fabs(traffic_most_kv(&at) - traffic_sum(bytes) / (double)n_kv * keys) < 1,
                   "%d ranks, %lld keys: the most", ranks, (long long)n_kv);
    }
    const traffic_call many = {&m3, 100, 200, 1280, 4, 4, true, 0};
    check_true(&c, traffic_moves_queries(&many), "ten blocks, a hundred ranks: queries travel");
    check_end(&c);
}

/* ---- Recall by hand ------------------------------------------------------------------------------
 * Two heads of width 1 share one KV head; 6 keys in blocks of 2, one query at position 5, k = 2. With q = 1
 * and keys log(8, 4, 1, 1, 1, 1) the first head gives the blocks 12/16, 2/16, 2/16; with q = 0 the second
 * gives a third to each. Their mean is 13/24, 5.5/24, 5.5/24: I* is {0, 1}, the tie going to the lower id
 * and the local block (2) competing like any other.
 */
static void one_recall(check_case *c, int32_t a, int32_t b, double block_recall, double score_recall)
{
    static const msa_shape s = {1, 6, 2, 1, 1, 1, 2, 2, 1, NULL, NULL, NULL, NULL};
    const float q[2] = {1, 0}, k[6] = {logf(8), logf(4), 0, 0, 0, 0};
    const int32_t ids[2] = {a, b};
    double work[64];
    float per_query[2];
    msa_recall_result r;
    check_true(c, msa_recall_workspace(&s) <= sizeof work, "workspace fits");
    check_true(c, msa_recall(&s, q, k, ids, per_query, &r, work) == MSA_OK, "status");
    check_true(c, r.rows == 1 && r.block_recall == block_recall && (double)per_query[0] == block_recall,
               "block recall of {%d,%d}: expected %g, found %g", a, b, block_recall, r.block_recall);
    check_true(c,
               fabs(r.score_recall - score_recall) < 1e-6 && fabs((double)per_query[1] - score_recall) < 1e-6,
               "score recall of {%d,%d}: expected %g, found %g", a, b, score_recall, r.score_recall);
}

static void recall_by_hand(void)
{
    check_case c = check_begin("recall by hand");
    one_recall(&c, 0, 1, 1, 1);
    one_recall(&c, 0, 2, 0.5, 13 / 18.5);
    one_recall(&c, 1, 2, 0.5, 5.5 / 18.5);
    one_recall(&c, 2, -1, 0, 0);
    one_recall(&c, 0, -1, 0.5, 13 / 18.5);
    check_end(&c);
}

// Queries whose blocks are all selected do not count; without any other there is no average.
static void nothing_to_average(void)
{
    static const msa_shape s = {4, 4, 1, 1, 1, 1, 2, 2, 1, NULL, NULL, NULL, NULL};
    const float x[4] = {1, 2, 3, 4};
    const int32_t ids[8] = {0, -1, 0, -1, 0, 1, 0, 1};
    double work[64];
    float per_query[8];
    msa_recall_result r;
    check_case c = check_begin("recall where everything is selected");
    check_true(&c, msa_recall(&s, x, x, ids, per_query, &r, work) == MSA_OK, "status");
    check_true(&c, r.rows == 0 && isnan(r.block_recall) && isnan(r.score_recall), "no rows, NaN");
    for (int i = 0; i < 8; i++)
        check_true(&c, per_query[i] == 1, "1 for every query");
    check_true(&c, msa_recall(&s, x, x, NULL, NULL, &r, work) == MSA_ERR_NULL, "NULL ids are refused");
    check_true(&c, msa_recall(&s, x, x, ids, NULL, &r, work) == MSA_OK, "per_query may be NULL");
    check_end(&c);
}

/* ---- Mass and recall against the twin ------------------------------------------------------------ */

// Whether block b is in I*: fewer than k visible blocks precede it by (mass descending, id ascending).
static bool is_best(const double *mass, int64_t local, int k, int64_t b)
{
    int before = 0;
    for (int64_t a = 0; a <= local; a++)
        before += mass[a] > mass[b] || (mass[a] == mass[b] && a < b);
    return before < k;
}

static void expect_row(const msa_shape *s, const double *mass, const int32_t *ids, int64_t local,
                       double *block, double *score)
{
    double hits = 0, best = 0, hit_mass = 0, best_mass = 0;
    for (int64_t b = 0; b <= local; b++) {
        bool chosen = false;
        for (int slot = 0; slot < s->topk; slot++)
            chosen |= ids[slot] == b;
        if (is_best(mass, local, s->topk, b)) {
            best++;
            best_mass += mass[b];
            hits += chosen;
            hit_mass += chosen ? mass[b] : 0;
        }
    }
    *block = hits / best;
    *score = hit_mass / best_mass;
}

static void expect_recall(const msa_shape *s, const double *mass, const int32_t *ids, double *per_query,
                          double mean[2], int64_t *n)
{
    int64_t rows = s->n_kv_heads * s->n_q, blocks = msa_n_blocks(s);
    *n = 0;
    mean[0] = mean[1] = 0;
    int32_t *pos = check_ints(s->n_q);
    msa_positions(s, pos);
    for (int64_t row = 0; row < rows; row++) {
        int64_t local = pos[row % s->n_q] / s->block;
        double *block = per_query + row, *score = per_query + rows + row;
        expect_row(s, mass + row * blocks, ids + row * s->topk, local, block, score);
        if (local + 1 > s->topk) {
            ++*n;
            mean[0] += *block;
            mean[1] += *score;
        } else {
            *block = *score = 1;
        }
    }
    mean[0] /= (double)*n;
    mean[1] /= (double)*n;
}

static void against_twin(const msa_shape *s, inputs_pattern pattern, uint64_t salt, check_case *c)
{
    inputs in;
    int64_t rows = s->n_kv_heads * s->n_q, blocks = msa_n_blocks(s), n;
    if (!inputs_new(&in, s, pattern, check_seed(salt)))
        return;
    double *mass = check_doubles(rows * blocks), *per_query = check_doubles(2 * rows), mean[2];
    float *found = check_floats(rows * blocks), *found_per_query = check_floats(2 * rows);
    int32_t *ids = check_ints(rows * s->topk);
    void *work = check_alloc((int64_t)msa_recall_workspace(s), 1);
    twin_block_mass(s, check_widen(in.q, s->n_q * s->n_heads * s->d_head),
                    check_widen(in.k, s->n_kv * s->n_kv_heads * s->d_head), mass);
    check_true(c, msa_block_mass(s, in.q, in.k, found, work) == MSA_OK, "status of mass");
    check_tensor(c, "mass", (verdict_dims){1, rows, blocks}, mass, found, (verdict_budget){1e-6, 0, NULL});

    selection_draw(s, SELECTION_ANY, check_seed(salt), ids);
    expect_recall(s, mass, ids, per_query, mean, &n);
    msa_recall_result r;
    check_true(c, msa_recall(s, in.q, in.k, ids, found_per_query, &r, work) == MSA_OK, "status of recall");
    check_true(c, r.rows == n, "%lld rows, expected %lld", (long long)r.rows, (long long)n);
    if (n > 0)
        check_true(c, fabs(r.block_recall - mean[0]) < 1e-12 && fabs(r.score_recall - mean[1]) < 1e-9,
                   "recall %.9g and %.9g, expected %.9g and %.9g", r.block_recall, r.score_recall, mean[0],
                   mean[1]);
    check_tensor(c, "recall per query", (verdict_dims){1, 2, rows}, per_query, found_per_query,
                 (verdict_budget){1e-6, 0, NULL});
    inputs_free(&in);
    check_release(NULL);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    cost_table();
    machines();
    few_blocks();
    recall_by_hand();
    nothing_to_average();
    for (int n = 0; n < inputs_n_shapes; n++) {
        char name[INPUTS_NAME];
        inputs_shape_name(&inputs_shapes[n], name);
        check_case c = check_begin("block mass and recall equal the twin's: %s", name);
        // Not the tied patterns: there the order of additions decides between equal masses.
        against_twin(&inputs_shapes[n], INPUTS_NORMAL, (uint64_t)n, &c);
        against_twin(&inputs_shapes[n], INPUTS_PEAKED, (uint64_t)n, &c);
        check_end(&c);
    }
    return check_done();
}
