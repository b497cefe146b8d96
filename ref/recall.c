/* How good is a selection? Compare it with the blocks that the Main Branch itself would have weighted most.
 *
 *   P_b = mass of block b under the FULL causal softmax, averaged over the group's heads
 *   I*  = the min(k, local+1) blocks of largest P_b
 *   block recall = |I* & I| / |I*|       score recall = mass of (I* & I) / mass of I* */
#include "internal.h"

typedef struct scratch {
    double *p, *mass, *best;
    int32_t *best_ids;
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    const int64_t blocks = msa_n_blocks(s), kept = min_i64(s->topk, blocks);
    arena a = arena_over(work);
    w->p = arena_take(&a, longest_kv(s), sizeof *w->p);
    w->mass = arena_take(&a, blocks, sizeof *w->mass);
    w->best = arena_take(&a, kept, sizeof *w->best);
    w->best_ids = arena_take(&a, kept, sizeof *w->best_ids);
    return arena_bytes(&a);
}

size_t msa_recall_workspace(const msa_shape *s)
{
    scratch w;
    return msa_check_shape(s) == MSA_OK ? place(&w, s, NULL) + ARENA_ALIGN : 0;
}

/* P_b of one (query, group) for b = 0..local; `p` is scratch for one row of probabilities. */
static void mass_row(const msa_shape *s, const msa_seq *seq, int64_t i, int r, const float *q, const float *k,
                     double *p, double *mass)
{
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const double scale = 1 / sqrt(d);
    const int64_t last = position(seq, i);
    memset(mass, 0, (size_t)(last / s->block + 1) * sizeof *mass);
    for (int h = r * group; h < (r + 1) * group; h++) {
        const float *query = q + ((seq->q0 + i) * s->n_heads + h) * d;
        for (int64_t j = 0; j <= last; j++)
            p[j] = scale * dot(query, k + ((seq->kv0 + j) * s->n_kv_heads + r) * d, d);
        double denom;
        softmax_row(p, last + 1, false, &denom);
        for (int64_t j = 0; j <= last; j++)
            mass[j / s->block] += p[j] / denom / group;
    }
}

msa_status msa_block_mass(const msa_shape *s, const float *q, const float *k, float *mass, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!q || !k || !mass || !work)
        return MSA_ERR_NULL;
    const int64_t blocks = msa_n_blocks(s);
    scratch w;
    place(&w, s, work);
    pad_queries(s, s->n_kv_heads, blocks, 0, mass);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        for (int r = 0; r < s->n_kv_heads; r++)
            for (int64_t i = 0; i < seq.n_q; i++) {
                mass_row(s, &seq, i, r, q, k, w.p, w.mass);
                int64_t local = position(&seq, i) / s->block;
                float *out = mass + ((int64_t)r * s->n_q + seq.q0 + i) * blocks;
                for (int64_t c = 0; c < blocks; c++)
                    out[c] = c <= local ? (float)w.mass[c] : 0;
            }
    }
    return MSA_OK;
}

void recall_row(const double *mass, const int32_t *best, int64_t n, const int32_t *ids, int k,
                double *block_recall, double *score_recall)
{
    double hit_mass = 0, all_mass = 0;
    int64_t hits = 0;
    int at = 0;
    for (int64_t i = 0; i < n; i++) {
        all_mass += mass[best[i]];
        while (at < k && ids[at] >= 0 && ids[at] < best[i])
            at++;
        if (at < k && ids[at] == best[i]) {
            hits++;
            hit_mass += mass[best[i]];
        }
    }
    *block_recall = (double)hits / (double)n;
    *score_recall = hit_mass / all_mass;
}

msa_status msa_recall(const msa_shape *s, const float *q, const float *k, const int32_t *ids,
                      float *per_query, msa_recall_result *result, void *work)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!q || !k || !result || !work)
        return MSA_ERR_NULL;
    const int64_t rows = (int64_t)s->n_kv_heads * s->n_q;
    scratch w;
    place(&w, s, work);
    double *mass = w.mass;
    int32_t *best_ids = w.best_ids;

    msa_recall_result sum = {0, 0, 0};
    pad_queries(s, 2 * (int64_t)s->n_kv_heads, 1, 1, per_query);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        for (int r = 0; r < s->n_kv_heads; r++)
            for (int64_t i = 0; i < seq.n_q; i++) {
                int64_t local = position(&seq, i) / s->block, row = (int64_t)r * s->n_q + seq.q0 + i;
                double block_recall = 1, score_recall = 1;
                if (local + 1 > s->topk) {
                    mass_row(s, &seq, i, r, q, k, w.p, mass);
                    top_blocks(mass, local + 1, s->topk, w.best, best_ids);
                    recall_row(mass, best_ids, s->topk, ids_row(s, ids, r, seq.q0 + i), s->topk,
                               &block_recall, &score_recall);
                    sum.rows++;
                    sum.block_recall += block_recall;
                    sum.score_recall += score_recall;
                }
                if (per_query) {
                    per_query[row] = (float)block_recall;
                    per_query[rows + row] = (float)score_recall;
                }
            }
    }
    *result = (msa_recall_result){sum.rows, sum.block_recall / (double)sum.rows,
                                  sum.score_recall / (double)sum.rows};
    return MSA_OK;
}
