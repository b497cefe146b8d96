/* The Index Branch: score every visible key, keep the best score of each block, choose blocks.
 *
 *   s[r,i,j] = Qi[i,r] . Ki[j] / sqrt(di)           one index query head per group, ONE key head for all
 *   m[r,i,b] = max over visible j in block b of s   the mask acts per token, BEFORE the pool
 *
 * The choice needs no exp: softmax keeps order, so the raw dot products are ranked. */
#include <float.h>

#include "internal.h"

typedef struct scratch {
    double *m, *best;
    int32_t *ids;
} scratch;

static size_t place(scratch *w, const msa_shape *s, void *work)
{
    const int64_t blocks = msa_n_blocks(s);
    arena a = arena_over(work);
    w->m = arena_take(&a, blocks, sizeof *w->m);
    w->best = arena_take(&a, min_i64(s->topk, blocks), sizeof *w->best);
    w->ids = arena_take(&a, s->topk, sizeof *w->ids);
    return arena_bytes(&a);
}

size_t index_workspace(const msa_shape *s)
{
    scratch w;
    return place(&w, s, NULL);
}

/* [score_blocks] */
/* Block maxima of the raw dot products of one index query; returns the local block. */
static int64_t score_blocks(const msa_shape *s, const float *qi, const float *ki, int64_t p, double *m)
{
    int64_t local = p / s->block;
    for (int64_t b = 0; b <= local; b++) {
        m[b] = -INFINITY;
        int64_t last = min_i64((b + 1) * s->block - 1, p);
        for (int64_t j = b * s->block; j <= last; j++) {
            double x = dot(qi, ki + j * s->d_index, s->d_index);
            m[b] = x > m[b] ? x : m[b];
        }
    }
    return local;
}
/* [score_blocks] */

/* log sum exp of the scaled index logits over a support, in one pass (online softmax). */
static double support_lse(const msa_shape *s, const float *qi, const float *ki, const int32_t *ids, int64_t p)
{
    const double scale = 1 / sqrt(s->d_index);
    double max = -DBL_MAX, sum = 0; /* a logit may be -inf, and -inf minus -inf is not a number */
    int64_t spans = ids ? s->topk : 1;
    for (int64_t slot = 0; slot < spans && (!ids || ids[slot] >= 0); slot++) {
        int64_t first = ids ? (int64_t)ids[slot] * s->block : 0;
        int64_t last = ids ? min_i64(first + s->block - 1, p) : p;
        /* [online_lse] */
        for (int64_t j = first; j <= last; j++) {
            double x = scale * dot(qi, ki + j * s->d_index, s->d_index);
            if (x > max) {
                sum *= exp(max - x);
                max = x;
            }
            sum += exp(x - max);
        }
        /* [online_lse] */
    }
    return sum == 0 ? NAN : max + log(sum); /* -inf is of no token */
}

msa_status msa_index(const msa_shape *s, const float *qi, const float *ki, float *scores, int32_t *ids,
                     float *index_lse, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!qi || !ki || !work)
        return MSA_ERR_NULL;
    const int d = s->d_index, k = s->topk;
    const int64_t blocks = msa_n_blocks(s);
    const double scale = 1 / sqrt(d);
    scratch w;
    place(&w, s, work);
    double *m = w.m;

    pad_queries(s, s->n_kv_heads, blocks, -INFINITY, scores);
    pad_queries(s, s->n_kv_heads, 1, -INFINITY, index_lse);
    pad_outputs(s, ids, NULL, NULL);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        const float *keys = ki + seq.kv0 * d;
        for (int r = 0; r < s->n_kv_heads; r++) {
            for (int64_t i = 0; i < seq.n_q; i++) {
                int64_t row = (int64_t)r * s->n_q + seq.q0 + i, p = position(&seq, i);
                const float *query = qi + ((seq.q0 + i) * s->n_kv_heads + r) * d;
                int64_t local = score_blocks(s, query, keys, p, m);
                for (int64_t c = 0; scores && c < blocks; c++)
                    scores[row * blocks + c] = c <= local ? (float)(m[c] * scale) : -INFINITY;
                int32_t *chosen = ids ? ids + row * k : w.ids;
                if (ids || index_lse)
                    topk_row(m, local, k, w.best, chosen);
                if (index_lse)
                    index_lse[row] = (float)support_lse(s, query, keys, chosen, p);
            }
        }
    }
    return MSA_OK;
}

msa_status msa_index_lse(const msa_shape *s, const float *qi, const float *ki, const int32_t *ids,
                         float *index_lse)
{
    MSA_TRY(ids ? msa_check_ids(s, ids) : msa_check_shape(s));
    if (!qi || !ki || !index_lse)
        return MSA_ERR_NULL;
    pad_queries(s, s->n_kv_heads, 1, -INFINITY, index_lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
#pragma omp parallel for collapse(2) schedule(dynamic, 64)
        for (int r = 0; r < s->n_kv_heads; r++)
            for (int64_t i = 0; i < seq.n_q; i++) {
                int64_t q = seq.q0 + i;
                index_lse[(int64_t)r * s->n_q + q] =
                    (float)support_lse(s, qi + (q * s->n_kv_heads + r) * s->d_index,
                                       ki + seq.kv0 * s->d_index, ids_row(s, ids, r, q), position(&seq, i));
            }
    }
    return MSA_OK;
}
