/* Blocks, not tokens, are summed: within a block every token has the same number of whole blocks. */
#include "task.h"

int64_t pairs_dense(int64_t n)
{
    return n * (n + 1) / 2;
}

int64_t pairs_main(const msa_shape *s, int64_t n)
{
    const int64_t all_kept = (int64_t)s->topk * s->block; // the first tokens see everything
    if (n <= all_kept)
        return pairs_dense(n);
    const int64_t full = n / s->block, rest = n % s->block; // the part within a token's own block
    return full * pairs_dense(s->block) + pairs_dense(rest) + (n - all_kept) * (s->topk - 1) * s->block +
           (int64_t)s->topk * (s->topk - 1) / 2 * s->block * s->block;
}

int64_t pairs_index(const msa_shape *s, int64_t n)
{
    const int64_t full = n / s->block, rest = n % s->block, area = (int64_t)s->block * s->block;
    if (full < s->topk)
        return 0;
    return (full * (full - 1) - (int64_t)s->topk * (s->topk - 1)) / 2 * area + rest * full * s->block;
}

/* Multiply-adds that MSA saves. */
static int64_t saved(const msa_shape *s, int64_t n)
{
    return 2 * (int64_t)s->n_heads * s->d_head * (pairs_dense(n) - pairs_main(s, n)) -
           (int64_t)s->n_kv_heads * s->d_index * pairs_index(s, n);
}

/* A token of block b saves 2 Hq d (b - k + 1) Bk and pays Hkv di b Bk: its gain grows with b, if at all. So `saved`
 * falls first, if at all, and then rises for good: where it is above 0, it stays so. */
int64_t pays_from(const msa_shape *s)
{
    if (2 * (int64_t)s->n_heads * s->d_head <= (int64_t)s->n_kv_heads * s->d_index)
        return -1;
    int64_t no = 0, yes = 1 << 24;
    while (yes - no > 1) {
        const int64_t n = no + (yes - no) / 2;
        if (saved(s, n) > 0)
            yes = n;
        else
            no = n;
    }
    return yes;
}
