/* The Main Branch: exact softmax attention over the visible tokens of the selected blocks.
 *
 *   O[i,h] = sum_{j in A(i,r)} softmax_j(Q[i,h] . K[j,r] / sqrt(dh)) V[j,r]
 *
 * Nothing is approximated once the blocks are chosen. All heads of a group share one support A. */
#include "internal.h"

/* How the rows are computed: exactly, or with the roundings of a kernel. */
typedef enum rounding { EXACT, ROUND_WEIGHTS, ROUND_PARTIALS } rounding;

/* Buffers for one row; `weight` and `partial` for its blocks. */
typedef struct scratch {
    int64_t *tokens;
    double *p, *acc, *weight;
    float *partial;
} scratch;

static scratch take_scratch(const msa_shape *s, void *work)
{
    const int64_t n = max_support(s, false), blocks = min_i64(s->topk, n);
    scratch b;
    b.tokens = work_take(&work, n, sizeof *b.tokens);
    b.p = work_take(&work, n, sizeof *b.p);
    b.acc = work_take(&work, s->d_head, sizeof *b.acc);
    b.weight = work_take(&work, blocks, sizeof *b.weight);
    b.partial = work_take(&work, blocks * s->d_head, sizeof *b.partial);
    return b;
}

size_t sparse_workspace(const msa_shape *s)
{
    const int64_t n = max_support(s, false), blocks = min_i64(s->topk, n);
    return WORK_ALIGN + work_bytes(n, sizeof(int64_t)) + work_bytes(n, sizeof(double)) +
           work_bytes(s->d_head, sizeof(double)) + work_bytes(blocks, sizeof(double)) +
           work_bytes(blocks * s->d_head, sizeof(float));
}

/* Attention of one query row to n tokens; k and v start at key 0 of its head. Returns the LSE. */
static float attend(const msa_shape *s, const float *q, const float *k, const float *v, const int64_t *tokens,
                    int64_t n, bool bf16, const scratch *b, float *o)
{
    const int d = s->d_head;
    const int64_t pitch = (int64_t)s->n_kv_heads * d;
    const double scale = 1 / sqrt(d);
    for (int64_t a = 0; a < n; a++)
        b->p[a] = scale * dot(q, k + tokens[a] * pitch, d);
    double denom, lse = softmax_row(b->p, n, bf16, &denom);

    memset(b->acc, 0, (size_t)d * sizeof *b->acc);
    for (int64_t a = 0; a < n; a++)
        axpy(b->p[a], v + tokens[a] * pitch, d, b->acc);
    for (int c = 0; c < d; c++)
        o[c] = (float)(b->acc[c] / denom);
    return (float)lse;
}

/* The same by a kernel whose outer loop runs over blocks: each block's output, of unit denominator, is stored
 * in bf16, and then they are averaged with weights exp(LSE of the block). */
static float attend_by_blocks(const msa_shape *s, const float *q, const float *k, const float *v,
                              const int64_t *tokens, int64_t n, const scratch *b, float *o)
{
    const int d = s->d_head;
    int64_t blocks = 0;
    for (int64_t a = 0, next; a < n; a = next, blocks++) {
        for (next = a + 1; next < n && tokens[next] / s->block == tokens[a] / s->block;)
            next++;
        float *partial = b->partial + blocks * d;
        b->weight[blocks] = (double)attend(s, q, k, v, tokens + a, next - a, true, b, partial);
        for (int c = 0; c < d; c++)
            partial[c] = msa_bf16(partial[c]);
    }
    double denom, lse = softmax_row(b->weight, blocks, false, &denom);
    memset(b->acc, 0, (size_t)d * sizeof *b->acc);
    for (int64_t a = 0; a < blocks; a++)
        axpy(b->weight[a], b->partial + a * d, d, b->acc);
    for (int c = 0; c < d; c++)
        o[c] = (float)(b->acc[c] / denom);
    return (float)lse;
}

static msa_status sparse(const msa_shape *s, const float *q, const float *k, const float *v,
                         const int32_t *ids, float *o, float *lse, void *work, rounding how)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!q || !k || !v || !o || !work)
        return MSA_ERR_NULL;
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    const scratch buf = take_scratch(s, work);

    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        for (int64_t i = 0; i < seq.n_q; i++) {
            for (int r = 0; r < s->n_kv_heads; r++) {
                int64_t n = list_support(s, ids_row(s, ids, r, seq.q0 + i), position(&seq, i), buf.tokens);
                int64_t kv = (seq.kv0 * s->n_kv_heads + r) * d; /* key 0 of this group */
                for (int h = r * group; h < (r + 1) * group; h++) {
                    int64_t row = (seq.q0 + i) * s->n_heads + h;
                    const float *my_q = q + row * d;
                    float *my_o = o + row * d;
                    float row_lse =
                        how == ROUND_PARTIALS
                            ? attend_by_blocks(s, my_q, k + kv, v + kv, buf.tokens, n, &buf, my_o)
                            : attend(s, my_q, k + kv, v + kv, buf.tokens, n, how == ROUND_WEIGHTS, &buf, my_o);
                    if (lse)
                        lse[row] = row_lse;
                }
            }
        }
    }
    return MSA_OK;
}

msa_status msa_sparse(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                      float *o, float *lse, void *work)
{
    return sparse(s, q, k, v, ids, o, lse, work, EXACT);
}

msa_status msa_sparse_bf16(const msa_shape *s, const float *q, const float *k, const float *v,
                           const int32_t *ids, float *o, float *lse, void *work)
{
    return sparse(s, q, k, v, ids, o, lse, work, ROUND_WEIGHTS);
}

msa_status msa_sparse_partials_bf16(const msa_shape *s, const float *q, const float *k, const float *v,
                                    const int32_t *ids, float *o, float *lse, void *work)
{
    return sparse(s, q, k, v, ids, o, lse, work, ROUND_PARTIALS);
}

/* ---- One step of generation ----------------------------------------------------------------------------- */

size_t decode_workspace(const msa_shape *s)
{
    return (size_t)max_i64((int64_t)index_workspace(s), (int64_t)sparse_workspace(s));
}

msa_status msa_decode(const msa_shape *s, const float *q, const float *k, const float *v, const float *qi,
                      const float *ki, int32_t *ids, float *o, float *lse, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!q || !k || !v || !qi || !ki || !ids || !o || !work)
        return MSA_ERR_NULL;
    MSA_TRY(msa_index(s, qi, ki, NULL, ids, NULL, work));
    return msa_sparse(s, q, k, v, ids, o, lse, work);
}
