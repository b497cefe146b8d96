/* Index Branch: a matrix product of a chunk of index queries with a chunk of index keys, block maxima of
 * the result, and a running selection row by row. No score is kept unless it is asked for. */
#include "exact.h"

#define QUERY_ROWS 512 /* rows (query, group) of one product: all groups share the one index key head */
#define KEY_TOKENS 512

static int64_t queries_at_once(const msa_shape *s)
{
    return max_i64(1, QUERY_ROWS / s->n_kv_heads);
}

/* A whole number of blocks. */
static int64_t keys_at_once(const msa_shape *s)
{
    return max_i64(1, KEY_TOKENS / s->block) * s->block;
}

/* ---- A running selection ---------------------------------------------------------------------------- */

/* Blocks a list can hold besides the local one. */
static int64_t places(const msa_shape *s)
{
    return min_i64(s->topk, msa_n_blocks(s)) - 1;
}

best_list *best_take(const msa_shape *s, int64_t rows, arena *a)
{
    best_list *lists = arena_take(a, rows, sizeof *lists);
    float *scores = arena_take(a, rows * places(s), sizeof *scores);
    int32_t *ids = arena_take(a, rows * places(s), sizeof *ids);
    for (int64_t i = 0; lists && i < rows; i++)
        lists[i] = (best_list){0, scores + i * places(s), ids + i * places(s)};
    return lists;
}

void best_insert(best_list *list, int64_t most, float score, int32_t block)
{
    const float rank = score == score ? score : -INFINITY; /* NaN ranks as -inf */
    int64_t at = list->n < most ? list->n++ : most;
    if (at == most && (most == 0 || !(rank > list->score[--at])))
        return;
    for (; at > 0 && rank > list->score[at - 1]; at--) {
        list->score[at] = list->score[at - 1];
        list->id[at] = list->id[at - 1];
    }
    list->score[at] = rank;
    list->id[at] = block;
}

void best_write(const msa_shape *s, const best_list *list, int64_t local, int32_t *ids)
{
    int64_t n = 0;
    for (; n < list->n; n++) {
        int64_t at = n;
        for (; at > 0 && ids[at - 1] > list->id[n]; at--)
            ids[at] = ids[at - 1];
        ids[at] = list->id[n];
    }
    ids[n++] = (int32_t)local;
    for (; n < s->topk; n++)
        ids[n] = -1;
}

/* ---- A chunk of queries ------------------------------------------------------------------------------ */

typedef struct scratch {
    float *q;        /* [queries, groups, d] */
    fitted *fit;     /* [queries, groups] */
    float *logits;   /* [queries, groups, keys] */
    best_list *best; /* [queries, groups] */
    chooser again;
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int64_t rows = queries_at_once(s) * s->n_kv_heads;
    arena a = arena_over(work);
    m->q = arena_take(&a, rows * s->d_index, sizeof *m->q);
    m->fit = arena_take(&a, rows, sizeof *m->fit);
    m->logits = arena_take(&a, rows * min_i64(keys_at_once(s), longest_kv(s)), sizeof *m->logits);
    m->best = best_take(s, rows, &a);
    m->again = chooser_take(s, &a);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

/* Block maxima of one row of logits, of the keys j0 .. j0+cols-1, go into its list; `scores` may be NULL. */
static void pool_row(const msa_shape *s, const float *x, int64_t at, int64_t j0, int64_t cols,
                     best_list *best, fitted *fit, float *scores)
{
    const int64_t local = at / s->block, most = min_i64(s->topk - 1, local);
    const double scale = fit->unit / sqrt(s->d_index);
    for (int64_t c = 0; c < cols && j0 + c <= at; c += s->block) {
        const int64_t block = (j0 + c) / s->block;
        if (block == local && !scores)
            continue;
        const float max = row_max(x + c, min_i64(min_i64(s->block, cols - c), at + 1 - j0 - c), -INFINITY);
        fit_count(fit, max);
        if (block < local)
            best_insert(best, most, max, (int32_t)block);
        if (scores)
            scores[block] = (float)((double)max * scale);
    }
}

void end_row(const msa_shape *s, const msa_seq *seq, int64_t row, const float *q, const best_list *best,
             const fitted *fit, met_keys *keys, chooser again, float *scores, int32_t *ids)
{
    const int64_t i = row / s->n_kv_heads, at = row % s->n_kv_heads * s->n_q + seq->q0 + i;
    const int64_t blocks = msa_n_blocks(s), local = position(seq, i) / s->block;
    for (int64_t b = local + 1; scores && b < blocks; b++)
        scores[at * blocks + b] = -INFINITY;
    if (ids)
        best_write(s, best, local, ids + at * s->topk);
    if (fit_doubtful(fit, scores ? 0 : 1, keys, s->d_index, again.room))
        choose_again(s, keys->at, position(seq, i), q, keys->ki, again, scores ? scores + at * blocks : NULL,
                     ids ? ids + at * s->topk : NULL);
}

/* Queries i0 .. i0+n-1 of all groups. */
static void index_chunk(const msa_shape *s, const msa_seq *seq, int64_t i0, int64_t n, const float *qi,
                        const float *ki, scratch *m, float *scores, int32_t *ids)
{
    const int d = s->d_index, groups = s->n_kv_heads;
    const int64_t blocks = msa_n_blocks(s), visible = position(seq, i0 + n - 1) + 1, step = keys_at_once(s);
    const request whole = {.seq = *seq};
    met_keys keys = {.ki = floats(ki), .at = &whole, .n = visible};
    const float *queries = qi + (seq->q0 + i0) * groups * d;
    for (int64_t r = 0; r < n * groups; r++) {
        m->best[r].n = 0;
        m->fit[r] = fit_query(queries + r * d, d, m->q + r * d);
    }
    for (int64_t j0 = 0; j0 < visible; j0 += step) {
        const int64_t cols = min_i64(step, visible - j0);
        small_gemm(false, true, n * groups, cols, d, m->q, d, ki + (seq->kv0 + j0) * d, d, 0, m->logits,
                   cols);
        for (int64_t r = 0; r < n * groups; r++) {
            const int64_t i = i0 + r / groups, row = r % groups * s->n_q + seq->q0 + i;
            pool_row(s, m->logits + r * cols, position(seq, i), j0, cols, &m->best[r], &m->fit[r],
                     scores ? scores + row * blocks : NULL);
        }
    }
    for (int64_t r = 0; r < n * groups; r++)
        end_row(s, seq, i0 * groups + r, queries + r * d, &m->best[r], &m->fit[r], &keys, m->again, scores,
                ids);
}

size_t fast_index_workspace(const msa_shape *s)
{
    return (size_t)fast_max_threads() * scratch_bytes(s);
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
    pad_queries(s, s->n_kv_heads, msa_n_blocks(s), -INFINITY, scores);
    pad_outputs(s, ids, NULL, NULL);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const int64_t chunks = (seq.n_q + step - 1) / step;
        const int threads = products_begin();
#pragma omp parallel num_threads(threads)
        {
            scratch m;
            place(&m, s, own_part(work, scratch_bytes(s)));
#pragma omp for schedule(dynamic)
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                const int64_t i0 = (chunks - 1 - chunk) * step;
                index_chunk(s, &seq, i0, min_i64(step, seq.n_q - i0), qi, ki, &m, scores, ids);
            }
        }
        products_end();
    }
    return MSA_OK;
}
