/* Sparse attention in which loop order:
 *
 * Where the heads of a group fill at least half a vector they are its lanes, key blocks outside: no product
 * has to be filled, whatever the queries choose. Smaller groups need rows from many queries. A tile
 * multiplies with the union of its queries' blocks, of which a query wants but k; key blocks outside have no
 * such waste, but bring queries and outputs to every block. So: tiles where all rows are short and a union of
 * all blocks is small anyway, as in the shipped model, and where a sample shows that neighbours agree; else
 * key blocks. */
#include "exact.h"

#define FEW_BLOCKS 4 /* all blocks together are at most so many selections */
#define AGREEMENT 1.25
#define SAMPLE 16 /* tiles of each group of a sequence */

static bool neighbours_agree(const msa_shape *s, const int32_t *ids, void *work)
{
    tile t;
    int64_t unions = 0, selections = 0;
    arena a = arena_over(work);
    tile_take(&t, s, false, &a);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const int64_t tiles = tile_count(s, &seq), step = max_i64(1, tiles / SAMPLE);
        for (int r = 0; r < s->n_kv_heads; r++) {
            for (int64_t i = tiles - 1; i >= 0; i -= step) {
                tile_open(&t, s, &seq, r, i, ids);
                unions += t.n_blocks;
                selections += min_i64(s->topk, position(&seq, t.i0) / s->block + 1);
            }
        }
    }
    return (double)unions <= AGREEMENT * (double)selections;
}

static bool blocks_are_few(const msa_shape *s)
{
    return longest_kv(s) <= SHORT && msa_n_blocks(s) <= (int64_t)FEW_BLOCKS * s->topk;
}

static bool lanes_fill(const msa_shape *s)
{
    return 2 * (s->n_heads / s->n_kv_heads) >= LANES * slabs_of(s);
}

size_t fast_sparse_workspace(const msa_shape *s)
{
    if (lanes_fill(s))
        return fast_sparse_lanes_workspace(s);
    const size_t tiles = fast_sparse_tiles_workspace(s), blocks = fast_sparse_blocks_workspace(s);
    return blocks_are_few(s) || tiles > blocks ? tiles : blocks;
}

msa_status fast_sparse(const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids,
                       float *o, float *lse, void *work)
{
    MSA_TRY(msa_check_ids(s, ids));
    if (!work)
        return MSA_ERR_NULL;
    if (lanes_fill(s))
        return fast_sparse_lanes(s, q, k, v, ids, o, lse, work);
    if (blocks_are_few(s) || neighbours_agree(s, ids, work))
        return fast_sparse_tiles(s, q, k, v, ids, o, lse, work);
    return fast_sparse_blocks(s, q, k, v, ids, o, lse, work);
}
