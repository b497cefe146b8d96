/**
 * @file rows.cuh
 * @brief The index queries as ONE matrix: since all groups share the key, Qi [T, Hkv, di] is T * Hkv rows
 * that are multiplied by the same keys, whatever Hkv is. Row = query * Hkv + group.
 */
#ifndef MSA_INDEX_ROWS_CUH
#define MSA_INDEX_ROWS_CUH

#include "../kit/kernel.cuh"

MSA_BOTH_SIDES inline int64_t n_rows(const Shape &s)
{
    return (int64_t)s.n_q * s.n_kv_heads;
}
/// The last key that a row sees.
// [position]
PTX_INLINE int position_of(const Shape &s, int64_t row)
{
    return s.prefix + (int)(row / s.n_kv_heads);
}
// [position]
/// Where a row's first score lies.
PTX_INLINE int64_t row_scores_at(const Shape &s, int64_t row)
{
    return scores_at(s, row / s.n_kv_heads, (int)(row % s.n_kv_heads));
}

/// Whether the call asks for scores and nothing else.
inline bool only_scores(const Call &c)
{
    return c.a.scores && !c.a.ids && !c.a.index_lse;
}

#endif
