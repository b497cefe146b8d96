/* Index Branch: a matrix product of a chunk of index queries with a chunk of index keys, block maxima of
 * the result, and the selection row by row. No score matrix is kept unless it is asked for. */
#include "fast.h"

#define QUERY_ROWS 128 /* rows (query, group) of one product: all groups share the one index key head */
#define KEY_TOKENS 2048

static int64_t queries_at_once(const msa_shape *s)
{
    return max_i64(1, QUERY_ROWS / s->n_kv_heads);
}

/* A whole number of blocks. */
static int64_t keys_at_once(const msa_shape *s)
{
    return max_i64(1, KEY_TOKENS / s->block) * s->block;
}

typedef struct room {
    float *logits; /* [queries, groups, keys] */
    double *m;     /* [queries, groups, blocks] */
    double *best;  /* [k] */
} room;

static size_t room_bytes(const msa_shape *s)
{
    int64_t rows = queries_at_once(s) * s->n_kv_heads, blocks = msa_n_blocks(s);
    return WORK_ALIGN + work_bytes(rows * min_i64(keys_at_once(s), longest_kv(s)), sizeof(float)) +
           work_bytes(rows * blocks, sizeof(double)) + work_bytes(min_i64(s->topk, blocks), sizeof(double));
}

static room room_take(const msa_shape *s, void *work)
{
    int64_t rows = queries_at_once(s) * s->n_kv_heads, blocks = msa_n_blocks(s);
    room m;
    m.logits = work_take(&work, rows * min_i64(keys_at_once(s), longest_kv(s)), sizeof(float));
    m.m = work_take(&work, rows * blocks, sizeof(double));
    m.best = work_take(&work, min_i64(s->topk, blocks), sizeof(double));
    return m;
}

static float row_max(const float *x, int64_t n)
{
    float max = -INFINITY;
#pragma omp simd reduction(max : max)
    for (int64_t a = 0; a < n; a++)
        max = x[a] > max ? x[a] : max;
    return max;
}

/* Raw block maxima of queries i0 .. i0+n-1, all groups, into room.m [n,groups,blocks]. */
static void score_chunk(const msa_shape *s, const msa_seq *seq, int64_t i0, int64_t n, const float *qi,
                        const float *ki, room *m)
{
    const int d = s->d_index, groups = s->n_kv_heads;
    const int64_t blocks = msa_n_blocks(s), visible = position(seq, i0 + n - 1) + 1, step = keys_at_once(s);
    const float *queries = qi + (seq->q0 + i0) * groups * d;
    for (int64_t j0 = 0; j0 < visible; j0 += step) {
        int64_t cols = min_i64(step, visible - j0);
        small_gemm(false, true, n * groups, cols, d, queries, d, ki + (seq->kv0 + j0) * d, d, 0, m->logits,
                   cols);
        for (int64_t a = 0; a < n * groups; a++) {
            int64_t end = position(seq, i0 + a / groups) + 1 - j0; /* this query sees columns < end */
            for (int64_t c = 0; c < cols; c += s->block)
                m->m[a * blocks + (j0 + c) / s->block] =
                    (double)row_max(m->logits + a * cols + c, min_i64(min_i64(s->block, cols - c), end - c));
        }
    }
}

static void select_chunk(const msa_shape *s, const msa_seq *seq, int64_t i0, int64_t n, room *m,
                         float *scores, int32_t *ids)
{
    const int groups = s->n_kv_heads;
    const int64_t blocks = msa_n_blocks(s);
    const double scale = 1 / sqrt(s->d_index);
    for (int64_t a = 0; a < n * groups; a++) {
        int64_t i = i0 + a / groups, local = position(seq, i) / s->block;
        int64_t row = (a % groups) * s->n_q + seq->q0 + i;
        const double *best = m->m + a * blocks;
        for (int64_t c = 0; scores && c < blocks; c++)
            scores[row * blocks + c] = c <= local ? (float)(best[c] * scale) : -INFINITY;
        if (ids)
            select_row(best, local, s->topk, m->best, ids + row * s->topk);
    }
}

size_t fast_index_workspace(const msa_shape *s)
{
    return (size_t)fast_max_threads() * room_bytes(s);
}

msa_status fast_index(const msa_shape *s, const float *qi, const float *ki, float *scores, int32_t *ids,
                      float *index_lse, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!qi || !ki || !work)
        return MSA_ERR_NULL;
    if (index_lse)
        return MSA_ERR_UNSUPPORTED;
    const int64_t step = queries_at_once(s);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const int64_t chunks = (seq.n_q + step - 1) / step;
#pragma omp parallel num_threads(fast_threads())
        {
            room m = room_take(s, (char *)work + (size_t)fast_thread() * room_bytes(s));
#pragma omp for schedule(dynamic)
            for (int64_t a = 0; a < chunks; a++) {
                int64_t i0 = (chunks - 1 - a) * step, n = min_i64(step, seq.n_q - i0);
                score_chunk(s, &seq, i0, n, qi, ki, &m);
                select_chunk(s, &seq, i0, n, &m, scores, ids);
            }
        }
    }
    return MSA_OK;
}
