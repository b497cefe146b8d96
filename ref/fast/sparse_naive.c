/* The rungs below: sparse attention as one would first write it, a query and a head at a time; then on all cores. No
 * library is used, here and in sparse_blocked.c, so that a class can see what each step is worth. */
#include "../stages.h"
#include "exact.h"
#include "vector.h"

/* Weights of a query's tokens: floats of a row, in whole cache lines, and the rows of all threads. */
static int64_t row_floats(const msa_shape *s)
{
    return (max_support(s, false) + LANES - 1) / LANES * LANES;
}

static size_t place_rows(float **rows, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    *rows = arena_take(&a, fast_max_threads() * row_floats(s), sizeof **rows);
    return arena_bytes(&a);
}

/* The query at `row`, head h: logits, softmax, sum of values; p has room for k blocks of weights. */
static void attend_head(const msa_shape *s, const msa_seq *seq, int64_t i, int h, const msa_arrays *a,
                        float *p)
{
    const float *q = a->q, *k = a->k, *v = a->v;
    float *o = array_get(a, ARRAY_O), *lse = array_get(a, ARRAY_LSE);
    const int d = s->d_head, groups = s->n_kv_heads, r = h / (s->n_heads / groups);
    const int64_t at = position(seq, i), row = (seq->q0 + i) * s->n_heads + h;
    const int32_t *id = ids_row(s, a->ids, r, seq->q0 + i);
    int64_t n = 0;
    double sum = 0;
    for (int slot = 0; slot < s->topk && id[slot] >= 0; slot++)
        for (int64_t j = (int64_t)id[slot] * s->block; j <= at && j < (id[slot] + 1ll) * s->block; j++, n++) {
            p[n] = 0;
            for (int c = 0; c < d; c++)
                p[n] += q[row * d + c] * k[((seq->kv0 + j) * groups + r) * d + c];
            p[n] *= (float)(1 / sqrt(d));
        }
    const float max = row_top(p, n, -INFINITY);
    for (int64_t t = 0; t < n; t++)
        sum += (double)(p[t] = expf(p[t] - max));
    for (int c = 0; c < d; c++)
        o[row * d + c] = 0;
    n = 0;
    for (int slot = 0; slot < s->topk && id[slot] >= 0; slot++)
        for (int64_t j = (int64_t)id[slot] * s->block; j <= at && j < (id[slot] + 1ll) * s->block; j++, n++)
            for (int c = 0; c < d; c++)
                o[row * d + c] += p[n] * v[((seq->kv0 + j) * groups + r) * d + c];
    for (int c = 0; c < d; c++)
        o[row * d + c] *= (float)(1 / sum);
    if (lse)
        lse[row] = (float)((double)max + log(sum));
}

size_t fast_sparse_threaded_workspace(const msa_shape *s)
{
    float *rows;
    return max_size(place_rows(&rows, s, NULL), attend_again_workspace(s));
}

size_t fast_sparse_naive_workspace(const msa_shape *s)
{
    return fast_sparse_threaded_workspace(s);
}

static msa_status attend_heads(const msa_shape *s, const float *q, const float *k, const float *v,
                               const int32_t *ids, float *o, float *lse, void *work, int threads)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    (void)threads; /* without OpenMP */
    const msa_arrays a = {.q = q, .k = k, .v = v, .ids = ids, .o = o, .lse = lse};
    float *rows;
    place_rows(&rows, s, work);
    pad_outputs(s, NULL, o, lse);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (int64_t i = 0; i < seq.n_q; i++)
            for (int h = 0; h < s->n_heads; h++)
                attend_head(s, &seq, i, h, &a, rows + fast_thread() * row_floats(s));
    }
    attend_again(s, NULL, floats(q), floats(k), floats(v), ids, o, lse, work);
    return MSA_OK;
}

msa_status fast_sparse_naive(const msa_shape *s, const float *q, const float *k, const float *v,
                             const int32_t *ids, float *o, float *lse, void *work)
{
    return attend_heads(s, q, k, v, ids, o, lse, work, 1);
}

msa_status fast_sparse_threaded(const msa_shape *s, const float *q, const float *k, const float *v,
                                const int32_t *ids, float *o, float *lse, void *work)
{
    return attend_heads(s, q, k, v, ids, o, lse, work, fast_threads());
}
