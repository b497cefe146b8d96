/**
 * @file reverse.cuh
 * @brief Block -> queries for kernels that walk the key blocks: sizes, the worklist's items, and 2_scan.cu
 *        as a function. The arrays are those of msa_reverse_fn, for one sequence.
 */
#ifndef MSA_REVERSE_CUH
#define MSA_REVERSE_CUH

#include "../kit/kernel.cuh"

/// How many items there may be: each block's last, and the full ones before it.
MSA_BOTH_SIDES inline int64_t reverse_items(const Shape &s)
{
    return s.n_kv_heads * (s.n_scores + (int64_t)s.capacity * s.topk / s.item_limit);
}

/// An item is stored as 16 bytes: group, block, begin, end.
static_assert(sizeof(msa_item) == sizeof(int4), "group, block, begin, end");

/// Writes the items of entries begin..end-1 of block b of group r; returns where the next one goes.
PTX_INLINE int4 *list_items(const Shape &s, int r, int b, int begin, int end, int4 *out)
{
    const int limit = s.item_limit;
    for (int at = begin; at < end; at += limit)
        st_global(out++, int4{r, b, at, end - at < limit ? end : at + limit});
    return out;
}
PTX_INLINE int4 no_item()
{
    return int4{-1, -1, -1, -1};
}

/// Scratch that reverse/scan needs, in bytes.
size_t ON_SIDE(reverse, scratch)(const Shape &s);
/// Enqueues reverse/scan.
void ON_SIDE(reverse, launch)(const Shape &s, const int32_t *ids, int32_t *first, uint32_t *entries,
                              msa_item *items, void *scratch, cudaStream_t stream);

#endif
