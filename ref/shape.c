/* Shapes, sequences, supports: everything about a call that is not arithmetic. */
#include "internal.h"

const char *msa_strerror(msa_status status)
{
    switch (status) {
    case MSA_OK:
        return "success";
    case MSA_ERR_NULL:
        return "a required pointer is NULL";
    case MSA_ERR_SIZE:
        return "a size is below 1, or a tensor, a row of heads or the number of tokens is too large";
    case MSA_ERR_HEADS:
        return "the number of query heads is not a multiple of the number of key-value heads";
    case MSA_ERR_CAUSAL:
        return "there are more queries than keys";
    case MSA_ERR_SEQLENS:
        return "the cumulative sequence lengths do not rise from 0 to the number of queries or keys, or a "
               "length is more than they have room for";
    case MSA_ERR_IDS:
        return "a row of block ids is not strictly ascending visible blocks followed by -1";
    case MSA_ERR_PAGES:
        return "a page id or a length is out of range";
    case MSA_ERR_ROTARY:
        return "the rotated width is odd, negative or wider than the head";
    case MSA_ERR_UNSUPPORTED:
        return "this implementation does not support this shape or output";
    case MSA_ERR_DEVICE:
        return "the device is missing, has no memory left or reported an error";
    }
    return "unknown status";
}

/* Whether a b c <= most, all being >= 1. */
static bool within(int64_t most, int64_t a, int64_t b, int64_t c)
{
    return a <= most && b <= most / a && c <= most / a / b;
}

/* Elements of the largest tensor. Every size that a workspace is made of, a few rows of logits or the pieces
 * of a gradient for each thread, is then far below 2^63 bytes: nobody needs to look out for overflow again.
 */
#define MOST_ELEMENTS ((int64_t)1 << 44)
/* And of what is counted in int, with room to round up: heads, channels of all heads, pairs of sequence and
 * group. */
#define MOST_IN_A_ROW ((int64_t)1 << 30)

static bool sizes_fit(const msa_shape *s)
{
    const int64_t wide = max_i64(s->d_head, s->d_index);
    return s->n_q <= INT32_MAX && s->n_kv <= INT32_MAX && within(MOST_IN_A_ROW, s->n_heads, wide, 1) &&
           within(MOST_IN_A_ROW, s->n_kv_heads, msa_n_seqs(s), 1) &&
           within(MOST_ELEMENTS, max_i64(s->n_q, s->n_kv), s->n_heads, wide) &&
           within(MOST_ELEMENTS, s->n_q, s->n_kv_heads, s->topk) && within(MOST_ELEMENTS, s->block, wide, 1);
}

msa_seq padded_seq(const msa_shape *s, int r)
{
    if (!s->cu_q || !s->cu_kv)
        return (msa_seq){0, s->n_q, 0, s->n_kv};
    return (msa_seq){s->cu_q[r], (int64_t)s->cu_q[r + 1] - s->cu_q[r], s->cu_kv[r],
                     (int64_t)s->cu_kv[r + 1] - s->cu_kv[r]};
}

static msa_status check_seqlens(const msa_shape *s)
{
    const int n = msa_n_seqs(s);
    if (!s->cu_q != !s->cu_kv || (n > 1 && !s->cu_q))
        return MSA_ERR_NULL;
    if (s->cu_q && (s->cu_q[0] != 0 || s->cu_kv[0] != 0 || s->cu_q[n] != s->n_q || s->cu_kv[n] != s->n_kv))
        return MSA_ERR_SEQLENS;
    for (int r = 0; r < n; r++) {
        const msa_seq padded = padded_seq(s, r), seq = msa_get_seq(s, r);
        if (padded.n_q < 0 || padded.n_kv < 0 || seq.n_q < 0 || seq.n_kv < 0 || seq.n_q > padded.n_q ||
            seq.n_kv > padded.n_kv)
            return MSA_ERR_SEQLENS;
        if (seq.n_q > seq.n_kv)
            return MSA_ERR_CAUSAL;
    }
    return MSA_OK;
}

msa_status msa_check_shape(const msa_shape *s)
{
    if (!s)
        return MSA_ERR_NULL;
    if (s->n_q < 1 || s->n_kv < 1 || s->n_heads < 1 || s->n_kv_heads < 1 || s->d_head < 1 || s->d_index < 1 ||
        s->block < 1 || s->topk < 1)
        return MSA_ERR_SIZE;
    if (s->n_heads % s->n_kv_heads != 0)
        return MSA_ERR_HEADS;
    if (!sizes_fit(s))
        return MSA_ERR_SIZE;
    MSA_TRY(check_seqlens(s));
    return within(PTRDIFF_MAX / 8, s->n_q, s->n_kv_heads, msa_n_blocks(s)) ? MSA_OK : MSA_ERR_SIZE;
}

int msa_n_seqs(const msa_shape *s)
{
    return s && s->n_seqs > 1 ? s->n_seqs : 1;
}

msa_seq msa_get_seq(const msa_shape *s, int r)
{
    if (!s || r < 0 || r >= msa_n_seqs(s))
        return (msa_seq){0};
    msa_seq seq = padded_seq(s, r);
    seq.n_q = s->len_q ? s->len_q[r] : seq.n_q;
    seq.n_kv = s->len_kv ? s->len_kv[r] : seq.n_kv;
    return seq;
}

msa_shape query_shape(const msa_shape *s, int64_t i, msa_seq *seq)
{
    msa_shape own = *s;
    int r = 0;
    while (r + 1 < msa_n_seqs(s) && msa_get_seq(s, r).q0 + msa_get_seq(s, r).n_q <= i)
        r++;
    *seq = msa_get_seq(s, r);
    own.n_q = own.n_seqs = 1;
    own.n_kv = position(seq, i - seq->q0) + 1;
    own.cu_q = own.cu_kv = own.len_q = own.len_kv = NULL;
    return own;
}

int64_t longest_kv(const msa_shape *s)
{
    int64_t longest = 0;
    for (int r = 0; r < (s->cu_kv ? msa_n_seqs(s) : 1); r++)
        longest = max_i64(longest, padded_seq(s, r).n_kv);
    return longest;
}

int64_t msa_n_blocks(const msa_shape *s)
{
    if (!s || s->block < 1)
        return 0;
    int64_t longest = longest_kv(s);
    return longest / s->block + (longest % s->block != 0);
}

bool valid_row(const int32_t *ids, int k, int64_t local)
{
    int n = 0;
    while (n < k && ids[n] >= 0) {
        if (ids[n] > local || (n > 0 && ids[n] <= ids[n - 1]))
            return false;
        n++;
    }
    for (int slot = n; slot < k; slot++)
        if (ids[slot] != -1)
            return false;
    return (n > 0) == (local >= 0);
}

msa_status msa_check_ids(const msa_shape *s, const int32_t *ids)
{
    MSA_TRY(msa_check_shape(s));
    if (!ids)
        return MSA_ERR_NULL;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b), padded = padded_seq(s, b);
        for (int r = 0; r < s->n_kv_heads; r++)
            for (int64_t i = 0; i < padded.n_q; i++) {
                const int64_t local = i < seq.n_q ? position(&seq, i) / s->block : -1;
                if (!valid_row(ids_row(s, ids, r, seq.q0 + i), s->topk, local))
                    return MSA_ERR_IDS;
            }
    }
    return MSA_OK;
}

int64_t max_support(const msa_shape *s, bool full)
{
    int64_t all = longest_kv(s);
    return full || s->topk >= msa_n_blocks(s) ? all : min_i64(all, (int64_t)s->topk * s->block);
}

/* [list_support] */
int64_t list_support(const msa_shape *s, const int32_t *ids, int64_t p, int64_t *tokens)
{
    int64_t n = 0;
    if (!ids) {
        for (int64_t j = 0; j <= p; j++)
            tokens[n++] = j;
        return n;
    }
    for (int slot = 0; slot < s->topk && ids[slot] >= 0; slot++) {
        int64_t first = (int64_t)ids[slot] * s->block;
        int64_t last = min_i64(first + s->block - 1, p);
        for (int64_t j = first; j <= last; j++)
            tokens[n++] = j;
    }
    return n;
}
/* [list_support] */

msa_status msa_positions(const msa_shape *s, int32_t *pos)
{
    MSA_TRY(msa_check_shape(s));
    if (!pos)
        return MSA_ERR_NULL;
    if (s->n_kv > INT32_MAX)
        return MSA_ERR_SIZE;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b), padded = padded_seq(s, b);
        for (int64_t i = 0; i < padded.n_q; i++)
            pos[seq.q0 + i] = i < seq.n_q ? (int32_t)position(&seq, i) : 0;
    }
    return MSA_OK;
}
