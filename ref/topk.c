/* Selection: the local block always, then the best of the blocks before it.
 *
 * The rule is a total order, (score descending, block id ascending), so that every correct
 * implementation chooses the same blocks. Ids leave in ascending order, which puts the local block last. */
#include "internal.h"

/* [top_blocks] */
void top_blocks(const double *m, int64_t n, int64_t keep, double *best, int32_t *ids)
{
    /* best/ids: the winners so far, best first. Candidates come in ascending id, so an equal score never
     * displaces an earlier one: ties go to the lower id. */
    int64_t kept = 0;
    for (int64_t b = 0; b < n && keep > 0; b++) {
        double x = isnan(m[b]) ? -INFINITY : m[b];
        if (kept == keep && !(x > best[keep - 1]))
            continue;
        int64_t at = kept < keep ? kept++ : keep - 1;
        for (; at > 0 && x > best[at - 1]; at--) {
            best[at] = best[at - 1];
            ids[at] = ids[at - 1];
        }
        best[at] = x;
        ids[at] = (int32_t)b;
    }
/* [top_blocks] */
    for (int64_t i = 1; i < kept; i++) { /* ascending ids; k is small */
        int32_t id = ids[i];
        int64_t at = i;
        for (; at > 0 && ids[at - 1] > id; at--)
            ids[at] = ids[at - 1];
        ids[at] = id;
    }
}

/* [topk_row] */
void topk_row(const double *m, int64_t local, int64_t k, double *best, int32_t *ids)
{
    int64_t others = min_i64(k - 1, local);
    top_blocks(m, local, others, best, ids);
    ids[others] = (int32_t)local;
    for (int64_t slot = others + 1; slot < k; slot++)
        ids[slot] = -1;
}
/* [topk_row] */

typedef struct scratch {
    double *m, *best;
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    const int64_t blocks = msa_n_blocks(s);
    arena a = arena_over(work);
    w->m = arena_take(&a, blocks, sizeof *w->m);
    w->best = arena_take(&a, min_i64(s->topk, blocks), sizeof *w->best);
    return arena_bytes(&a);
}

size_t topk_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, NULL);
}

msa_status msa_topk(const msa_shape *s, const float *scores, int32_t *ids, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!scores || !ids || !work)
        return MSA_ERR_NULL;
    const int64_t blocks = msa_n_blocks(s);
    scratch w;
    place(&w, s, work);
    pad_outputs(s, ids, NULL, NULL);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        for (int r = 0; r < s->n_kv_heads; r++)
            for (int64_t i = 0; i < seq.n_q; i++) {
                int64_t row = (int64_t)r * s->n_q + seq.q0 + i, local = position(&seq, i) / s->block;
                for (int64_t c = 0; c <= local; c++)
                    w.m[c] = (double)scores[row * blocks + c];
                topk_row(w.m, local, s->topk, w.best, ids + row * s->topk);
            }
    }
    return MSA_OK;
}
