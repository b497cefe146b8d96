/* One kernel for the Main Branch with switchable mistakes, and what a verdict on it needs: chapter 17's program
 * and figure share this. */
#ifndef EXAMPLE_MISTAKES_H
#define EXAMPLE_MISTAKES_H

#include "../../ref/judge/noise.h"
#include "../../ref/judge/verdict.h"
#include "../../ref/internal.h"
#include "example.h"

enum { QUERIES = 64, KEYS = 1500, HEADS = 4, D = 64, BLOCK = 64, TOPK = 16 };
enum { ROWS = QUERIES * HEADS, SIZE = ROWS * D };

static const msa_shape mistakes_shape = {QUERIES, KEYS, HEADS, 1, D, D, BLOCK, TOPK, 1, NULL, NULL, NULL, NULL};

typedef enum mistake {
    NO_MISTAKE,
    LOST_ITEM,    /* two queries miss a block that they chose */
    LOST_RESCALE, /* the ragged last tile raises the maximum, and the sums are not rescaled */
    SHORT_SUM,    /* the denominator misses the last tile */
    MASK_PLUS_1,  /* each query sees the token after it */
    MEAN_OF_V,    /* all weights are equal */
    N_MISTAKES,
    SKIPPED_QUERY = N_MISTAKES, /* the last query is not computed */
    OLD_TICKET                  /* the counter of finished rows is cleared only when memory is allocated */
} mistake;

static const char *const mistake_name[N_MISTAKES] = {"none",
                                                     "a lost work item",
                                                     "no rescale in the last tile",
                                                     "sum without the last tile",
                                                     "mask off by one",
                                                     "plain mean of V"};

/* What the kernel keeps between its steps; the caller clears it once. */
typedef struct workspace {
    int ticket; /* rows that are finished */
    double acc[ROWS][D], sum[ROWS], max[ROWS];
} workspace;

/* [tile] */
/* Takes tokens first..last-1 into a row: online softmax, weights rounded to bf16. */
static void take_tile(const inputs *in, int row, int64_t first, int64_t last, bool is_last,
                      mistake m, workspace *w)
{
    double x[BLOCK + 1], max = w->max[row];
    for (int64_t j = first; j < last; j++) {
        x[j - first] = m == MEAN_OF_V ? 0 : dot(in->q + row * D, in->k + j * D, D) / sqrt(D);
        max = fmax(max, x[j - first]);
    }
    const double keep = m == LOST_RESCALE && is_last ? 1 : exp(w->max[row] - max);
    w->sum[row] *= keep;
    for (int c = 0; c < D; c++)
        w->acc[row][c] *= keep;
    for (int64_t j = first; j < last; j++) {
        const double p = exp(x[j - first] - max);
        w->sum[row] += m == SHORT_SUM && is_last ? 0 : p;
        axpy((double)msa_bf16((float)p), in->v + j * D, D, w->acc[row]);
    }
    w->max[row] = max;
}
/* [tile] */

static void take_row(const inputs *in, const int32_t *ids, int row, mistake m, workspace *w)
{
    const int i = row / HEADS;
    const int64_t p = KEYS - QUERIES + i, seen = m == MASK_PLUS_1 ? min_i64(p + 2, KEYS) : p + 1;
    w->max[row] = -INFINITY;
    w->sum[row] = 0;
    memset(w->acc[row], 0, sizeof w->acc[row]);
    for (int slot = 0; slot < TOPK; slot++) {
        const int64_t b = ids[i * TOPK + slot];
        if (m == LOST_ITEM && slot == 3 && i < 2)
            continue;
        take_tile(in, row, b * BLOCK, min_i64((b + 1) * BLOCK, seen), slot == TOPK - 1, m, w);
    }
}

/* [ticket] */
/* Each row adds one to the ticket. Whoever finishes last divides all rows by their sums. */
static void kernel(const inputs *in, const int32_t *ids, mistake m, workspace *w, float *o)
{
    for (int row = 0; row < ROWS; row++) {
        take_row(in, ids, row, m, w);
        if (++w->ticket != ROWS)
            continue;
        for (int a = 0; a < (m == SKIPPED_QUERY ? ROWS - HEADS : ROWS); a++)
            for (int c = 0; c < D; c++)
                o[a * D + c] = (float)(w->acc[a][c] / w->sum[a]);
        w->ticket = m == OLD_TICKET ? w->ticket : 0;
    }
}
/* [ticket] */

/* ---- What a verdict needs ------------------------------------------------------------------------------ */

typedef struct trial_case {
    inputs in; /* rounded to bf16 */
    int32_t ids[QUERIES * TOPK];
    float exact[SIZE];
    double wide[SIZE], noise[SIZE]; /* the oracle again, and what rounding may do to it */
} trial_case;

/* Numbers in [0.5, 1]. */
static void fill_flat(float *x, long n, inputs_rng *rng)
{
    for (long i = 0; i < n; i++)
        x[i] = 0.5f + (float)inputs_below(rng, 65537) / 131072;
}

/* The oracle's answer and the noise of bf16 weights, for normal inputs or for flat ones. */
static void make_case(trial_case *t, bool flat)
{
    const msa_shape *s = &mistakes_shape;
    inputs_rng rng = {2};
    inputs drawn;
    bool ok = inputs_new(&drawn, s, INPUTS_NORMAL, 1);
    if (ok && flat) {
        float *const tensor[] = {drawn.q, drawn.k, drawn.v, drawn.qi, drawn.ki};
        const long n[] = {SIZE, (long)KEYS * D, (long)KEYS * D, (long)QUERIES * D, (long)KEYS * D};
        for (int a = 0; a < 5; a++)
            fill_flat(tensor[a], n[a], &rng);
    }
    ok = ok && inputs_rounded(&t->in, &drawn, s);
    if (!ok)
        must(MSA_ERR_SIZE);
    inputs_free(&drawn);
    void *work = room(1, msa_workspace(NULL, s));
    must(msa_index(s, t->in.qi, t->in.ki, NULL, t->ids, NULL, work));
    must(msa_sparse(s, t->in.q, t->in.k, t->in.v, t->ids, t->exact, NULL, work));
    free(work);
    for (int a = 0; a < SIZE; a++)
        t->wide[a] = (double)t->exact[a];
    if (!noise_of_rounding(s, t->in.q, t->in.k, t->in.v, t->ids, false, t->noise))
        must(MSA_ERR_SIZE);
}

/* [judge] */
/* The verdict on O. Stored as bf16 it may be off by 2^-8 of its row's largest value more. */
static verdict judge(const trial_case *t, const float *o, bool as_bf16)
{
    verdict_budget budget = verdict_float32(&mistakes_shape, &t->in, ARRAY_O, 0);
    budget.noise = t->noise;
    if (as_bf16)
        budget.relative = 0x1p-8;
    return verdict_compare((verdict_dims){QUERIES, HEADS, D}, t->wide, o, budget);
}
/* [judge] */

/* [cosine] */
static inline double one_minus_cosine(const float *a, const float *b, long n)
{
    double ab = 0, aa = 0, bb = 0;
    for (long i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return 1 - ab / sqrt(aa * bb);
}
/* [cosine] */

#endif
