/* Block -> queries: the selection turned around, for whoever walks the key blocks and wants their queries.
 *
 * A counting sort. Queries are visited in ascending order, so every block's entries ascend too. */
#include "internal.h"

int64_t msa_item_limit(const msa_shape *s)
{
    return s && s->topk > 0 && s->block > 0 ? 2 * (int64_t)s->topk * s->block : 0;
}

int64_t msa_first_item(const msa_shape *s, int r)
{
    int64_t n = 0;
    if (msa_check_shape(s) != MSA_OK)
        return 0;
    for (int before = 0; before < r && before < msa_n_seqs(s); before++)
        n += s->n_kv_heads * (msa_n_blocks(s) + padded_seq(s, before).n_q * s->topk / msa_item_limit(s));
    return n;
}

static size_t place(int32_t **next, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    *next = arena_take(&a, msa_n_blocks(s), sizeof **next);
    return arena_bytes(&a);
}

size_t reverse_workspace(const msa_shape *s)
{
    int32_t *next;
    return place(&next, s, NULL);
}

/* One group of one sequence: rows of ids in, first[B+1] and entries[n_q*k] out. */
static void turn_around(const int32_t *ids, int64_t n_q, int topk, int64_t n_blocks, int32_t *first,
                        uint32_t *entries, int32_t *next)
{
    /* [turn_around] */
    memset(next, 0, (size_t)n_blocks * sizeof *next);
    for (int64_t i = 0; i < n_q * topk; i++)
        if (ids[i] >= 0)
            next[ids[i]]++;
    first[0] = 0;
    for (int64_t b = 0; b < n_blocks; b++) {
        first[b + 1] = first[b] + next[b];
        next[b] = first[b];
    }
    for (int64_t i = 0; i < n_q; i++)
        for (int slot = 0; slot < topk; slot++) {
            const int32_t block = ids[i * topk + slot];
            if (block >= 0)
                entries[next[block]++] = (uint32_t)i << 5 | (uint32_t)slot;
        }
    /* [turn_around] */
    for (int64_t e = first[n_blocks]; e < n_q * topk; e++)
        entries[e] = ~UINT32_C(0);
}

static msa_item *list_items(const msa_shape *s, int group, const int32_t *first, msa_item *item)
{
    const int64_t limit = msa_item_limit(s);
    for (int64_t b = 0; b < msa_n_blocks(s); b++)
        for (int64_t at = first[b]; at < first[b + 1]; at += limit)
            *item++ = (msa_item){group, (int32_t)b, (int32_t)at, (int32_t)min_i64(at + limit, first[b + 1])};
    return item;
}

msa_status msa_reverse(const msa_shape *s, const int32_t *ids, int32_t *first, uint32_t *entries,
                       msa_item *items, void *work)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!first || !entries || !items || !work)
        return MSA_ERR_NULL;
    if (s->topk > 32 || s->n_q > INT64_C(1) << 27 || s->n_q * s->topk > INT32_MAX)
        return MSA_ERR_UNSUPPORTED;
    const int64_t n_blocks = msa_n_blocks(s);
    int32_t *next;
    place(&next, s, work);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = padded_seq(s, n); /* rows of padding hold no block */
        msa_item *item = items + msa_first_item(s, n), *end = items + msa_first_item(s, n + 1);
        for (int r = 0; r < s->n_kv_heads; r++) {
            turn_around(ids_row(s, ids, r, seq.q0), seq.n_q, s->topk, n_blocks, first, entries, next);
            item = list_items(s, r, first, item);
            first += n_blocks + 1;
            entries += seq.n_q * s->topk;
        }
        for (; item < end; item++)
            *item = (msa_item){-1, -1, -1, -1};
    }
    return MSA_OK;
}
