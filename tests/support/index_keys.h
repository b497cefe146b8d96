/**
 * @file index_keys.h
 * @brief Index keys and queries of every kind, for tests of the selection from 8 bits.
 */
#ifndef MSA_INDEX_KEYS_H
#define MSA_INDEX_KEYS_H

#include <math.h>
#include <string.h>

#include "../../ref/judge/inputs.h"
#include "../../ref/msa_index8.h"
#include "check.h"

typedef enum kind {
    NORMAL,
    TIED,      // few distinct keys
    CONSTANT,  // all the same
    DYADIC,    // small integers: codes may be exact
    HUGE_ONES, // 1e30
    EXTREME,   // near the largest float: a score overflows
    DENORMAL,  // 1e-40
    SPREAD,    // magnitudes from 2^-60 to 2^60, row by row
    OUTLIERS,  // four channels a hundred times the others
    LOW_RANK,  // all rows in a plane
    CLOSE,     // keys that differ by less than a code: all are candidates
    HALFWAY,   // each channel half a code from the next, on the side that the query's sign says
    ALONE,     // one channel of a row is not 0: a scale for the others
    ZEROS,     // and some blocks of nothing
    NOT_FINITE,
    N_KINDS
} kind;

static const char *const kind_name[N_KINDS] = {"normal",  "tied",    "constant", "dyadic",   "1e30",
                                               "extreme", "tiny",    "spread",   "outliers", "low rank",
                                               "close",   "halfway", "alone",    "zeros",    "not finite"};

static inline float element(kind k, int64_t c, inputs_rng *rng)
{
    const float x = inputs_normal(rng);
    switch (k) {
    case CONSTANT:
        return 0.7f;
    case DYADIC:
        return (float)(inputs_below(rng, 7) - 3);
    case HUGE_ONES:
        return 1e30f * x;
    case EXTREME:
        return 5e37f * x;
    case DENORMAL:
        return 1e-40f * x;
    case OUTLIERS:
        return c % 32 == 5 ? 100 * x : x;
    case CLOSE:
        return 1 + 0.0005f * x;
    case HALFWAY:
        return (x > 0 ? 63.5f : 62.5f) / 127;
    default:
        return x;
    }
}

static inline void fill_row(kind k, float *row, int64_t d, inputs_rng *rng)
{
    const float unit = k == SPREAD ? ldexpf(1, (int)inputs_below(rng, 121) - 60) : 1;
    const float a = inputs_normal(rng), b = inputs_normal(rng);
    const int64_t only = inputs_below(rng, d);
    for (int64_t c = 0; c < d; c++) {
        row[c] = unit * element(k, c, rng);
        if (k == LOW_RANK)
            row[c] = a * (float)cos((double)c) + b * (float)sin(3 * (double)c);
        if (k == ALONE && c != only)
            row[c] = 0;
        if (k == NOT_FINITE && inputs_below(rng, 40 * d) == 0)
            row[c] = (float[]){NAN, INFINITY, -INFINITY}[inputs_below(rng, 3)];
    }
    row[0] = k == HALFWAY ? 1 : row[0];
}

/** `rows` of them, [rows,d], in blocks of `block`. */
static inline void fill(kind k, float *x, int64_t rows, int64_t d, int64_t block, inputs_rng *rng)
{
    for (int64_t j = 0; j < rows; j++) {
        fill_row(k, x + j * d, d, rng);
        if (k == TIED && j > 3)
            memcpy(x + j * d, x + inputs_below(rng, 3) * d, (size_t)d * sizeof *x);
        if (k == ZEROS && j / block % 3 == 1)
            memset(x + j * d, 0, (size_t)d * sizeof *x);
    }
}

/** Which of n <= 64 blocks have no k - 1 better ones, by the largest integer product of a query's codes with those of their
 *  keys, as float32 has it: what an exact copy leaves open. Returns how many. Needs d <= 128. */
static inline int64_t open_by_integers(const msa_shape *s, const float *q, int n_codes, const int8_t *keys,
                                       int64_t n, bool *open)
{
    int8_t code[2 * 128];
    double room[128];
    float best[64];
    int64_t count = 0;
    msa_index8_round(q, s->d_index, n_codes, code, room);
    for (int64_t b = 0; b < n; b++) {
        best[b] = -INFINITY;
        for (const int8_t *key = keys + b * s->block * s->d_index, *end = key + s->block * s->d_index;
             key < end; key += s->d_index) {
            int32_t x = 0;
            for (int c = 0; c < s->d_index; c++)
                x += (n_codes == 2 ? 128 * code[c] + code[s->d_index + c] : code[c]) * key[c];
            best[b] = (float)x > best[b] ? (float)x : best[b];
        }
    }
    for (int64_t b = 0; b < n; b++) {
        int better = 0;
        for (int64_t o = 0; o < n; o++)
            better += best[o] > best[b];
        open[b] = better < s->topk - 1;
        count += open[b];
    }
    return count;
}

/** What a call says that it did: all rows that have to choose, the blocks before their own, of which each settles as many
 *  as it takes at least; and where all blocks were, all rows fell back. */
static inline void check_counts(check_case *c, const msa_shape *s, const msa_screening *done)
{
    int64_t rows = 0, blocks = 0;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        for (int64_t i = 0; i < seq.n_q; i++) {
            const int64_t local = (seq.n_kv - seq.n_q + i) / s->block;
            const bool chooses = s->topk > 1 && local > s->topk - 1;
            rows += chooses * s->n_kv_heads, blocks += chooses * local * s->n_kv_heads;
        }
    }
    check_true(c,
               done->rows == rows && done->blocks == blocks && done->settled <= blocks &&
                   done->settled >= rows * (s->topk - 1) && done->fell_back >= 0 && done->fell_back <= rows &&
                   (done->fell_back == rows) == (done->settled == blocks),
               "%lld rows, %lld blocks, %lld settled, %lld fell back; expected %lld rows and %lld blocks",
               (long long)done->rows, (long long)done->blocks, (long long)done->settled,
               (long long)done->fell_back, (long long)rows, (long long)blocks);
}

#endif
