/**
 * @file verdict_ids.c
 * @brief The verdict on a selection: the oracle's own, or one that differs by no more than rounding can.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "../internal.h"
#include "verdict.h"

/** What the oracle knows of the blocks of one query and group. */
typedef struct ranking {
    double *score;    // max over the visible keys of qi . ki
    double *rounding; // how far float32 may move that score
    bool *best;       // in the oracle's selection
    bool *chosen;     // in the selection that is judged
    int64_t local;
} ranking;

void verdict_score_blocks(const msa_shape *s, const float *qi, const float *ki, int64_t position,
                          double *score, double *rounding)
{
    for (int64_t b = 0; b <= position / s->block; b++) {
        score[b] = -HUGE_VAL;
        rounding[b] = 0;
    }
    for (int64_t j = 0; j <= position; j++) {
        double dot = 0, size = 0;
        for (int c = 0; c < s->d_index; c++) {
            double term = (double)qi[c] * (double)ki[j * s->d_index + c];
            dot += term;
            size += fabs(term);
        }
        const int64_t b = j / s->block;
        score[b] = fmax(score[b], dot);
        rounding[b] = fmax(rounding[b], s->d_index * (FLT_EPSILON / 2.0) * size);
    }
}

static void score_row(const msa_shape *s, const float *qi, const float *ki, int64_t position, ranking *k)
{
    k->local = position / s->block;
    verdict_score_blocks(s, qi, ki, position, k->score, k->rounding);
    for (int64_t b = 0; b <= k->local; b++)
        k->best[b] = k->chosen[b] = false;
}

// Marks the local block and the topk-1 best before it; returns how many that are.
static int64_t rank_blocks(const msa_shape *s, ranking *k)
{
    int64_t count = 1;
    k->best[k->local] = true;
    for (; count < s->topk && count <= k->local; count++) {
        int64_t winner = -1;
        for (int64_t b = 0; b < k->local; b++)
            if (!k->best[b] && (winner < 0 || k->score[b] > k->score[winner]))
                winner = b;
        k->best[winner] = true;
    }
    return count;
}

// The ids contract: `count` ascending visible blocks, the local one last, then -1.
static bool read_row(const msa_shape *s, const int32_t *row, int64_t count, ranking *k)
{
    for (int64_t slot = 0; slot < s->topk; slot++) {
        if (slot >= count ? row[slot] != -1 : row[slot] < 0 || row[slot] > k->local)
            return false;
        if (slot > 0 && slot < count && row[slot] <= row[slot - 1])
            return false;
        if (slot < count)
            k->chosen[row[slot]] = true;
    }
    return k->chosen[k->local];
}

static int64_t count_chosen_instead(const ranking *k)
{
    int64_t n = 0;
    for (int64_t b = 0; b < k->local; b++)
        n += k->chosen[b] && !k->best[b];
    return n;
}

// A rounded score may overtake another only if the exact ones are closer than the rounding of both; and
// every block chosen in error must have overtaken every block left out in error.
static bool swaps_are_ties(const ranking *k, double tolerance)
{
    for (int64_t in = 0; in < k->local; in++)
        for (int64_t out = 0; out < k->local; out++)
            if (k->chosen[in] && !k->best[in] && k->best[out] && !k->chosen[out]) {
                double allowed = tolerance * 2 * fmax(k->rounding[in], k->rounding[out]);
                if (!(tolerance > 0 && k->score[out] - k->score[in] <= allowed))
                    return false;
            }
    return true;
}

// How many swaps rounding makes in this row on average: of each two blocks whose scores differ by less than that,
// with normal errors. Each of di additions rounds by u sum |q||k| / sqrt(3) at most, in root mean square. Equal
// scores are not counted: which of those is chosen is no accident.
static double expected_swaps(const msa_shape *s, const ranking *k, double tolerance)
{
    double sum = 0;
    for (int64_t out = 0; out < k->local; out++)
        for (int64_t in = 0; k->best[out] && in < k->local; in++) {
            const double gap = k->score[out] - k->score[in], a = k->rounding[out], b = k->rounding[in];
            if (!k->best[in] && gap > 0 && gap < tolerance * 2 * fmax(a, b))
                sum += erfc(gap * sqrt(1.5 * s->d_index) / hypot(a, b)) / 2;
        }
    return sum;
}

static void judge_row(const msa_shape *s, const int32_t *row, double tolerance, ranking *k,
                      verdict_selection *v)
{
    int64_t count = rank_blocks(s, k);
    v->n_ids += count;
    v->expected_ties += expected_swaps(s, k, tolerance);
    if (!read_row(s, row, count, k))
        v->n_wrong += count;
    else if (swaps_are_ties(k, tolerance))
        v->n_ties += count_chosen_instead(k);
    else
        v->n_wrong += count_chosen_instead(k);
}

static void judge_rows(const msa_shape *s, const float *qi, const float *ki, const int32_t *ids,
                       double tolerance, ranking *k, verdict_selection *v)
{
    for (int n = 0; n < msa_n_seqs(s); n++) {
        msa_seq seq = msa_get_seq(s, n);
        for (int64_t i = 0; i < seq.n_q; i++)
            for (int r = 0; r < s->n_kv_heads; r++) {
                int64_t query = seq.q0 + i, wrong_before = v->n_wrong;
                score_row(s, qi + (query * s->n_kv_heads + r) * s->d_index, ki + seq.kv0 * s->d_index,
                          seq.n_kv - seq.n_q + i, k);
                judge_row(s, ids + (r * s->n_q + query) * s->topk, tolerance, k, v);
                if (v->n_wrong > wrong_before && v->query < 0) {
                    v->query = query;
                    v->group = r;
                }
            }
    }
}

// The share that is allowed, and what else chance may add to what rounding makes on average: five standard
// deviations of a number of rare events.
static bool few_ties(const verdict_selection *v, double max_ties)
{
    const double expected = v->expected_ties;
    return (double)v->n_ties <= ceil(max_ties * (double)v->n_ids + expected + 5 * sqrt(expected));
}

verdict_selection verdict_ids(const msa_shape *s, const float *qi, const float *ki, const int32_t *ids,
                              double tolerance, double max_ties, bool *ok)
{
    verdict_selection v = {.query = -1, .group = -1};
    size_t n = (size_t)msa_n_blocks(s);
    ranking k = {malloc(n * sizeof(double)), malloc(n * sizeof(double)), malloc(n), malloc(n), 0};
    *ok = k.score && k.rounding && k.best && k.chosen;
    if (*ok) {
        judge_rows(s, qi, ki, ids, tolerance, &k, &v);
        v.pass = v.n_wrong == 0 && few_ties(&v, max_ties);
    }
    free(k.score);
    free(k.rounding);
    free(k.best);
    free(k.chosen);
    return v;
}
