/**
 * @file prefill.cuh
 * @brief A layer's attention for a prompt or a chunk of one, in one call: the fused index, or the screened one, whose ids
 *        are the same, where the call brings an 8-bit copy of the index keys and is long enough; then a kernel of the
 *        Main Branch. Everything that a caller pays for a layer; nothing waits for the host.
 */
#ifndef MSA_PREFILL_CUH
#define MSA_PREFILL_CUH

#include "../kit/kernel.cuh"

#include <algorithm>

extern const msa_entry ON_SIDE(index, fused), ON_SIDE(index, screened), ON_SIDE(sparse, union),
    ON_SIDE(sparse, kv_outer);

/// Where prefill/auto goes over from the union to KV-outer, auto_crossing of tunables.def, is an estimate. For 8
/// queries of a group at G = 16, dh 128 and blocks of 128 the union brings union8, the mean size of the union of
/// their blocks, times 64 KB. At the 32 bytes a clock that L2 delivers to an SM at best each takes 2048 clocks, and as
/// long take the products of its two tiles; from memory it would be 3300 (H200: 20 bytes a clock and SM) or
/// 4700 (H800: 14). KV-outer multiplies 2 k full tiles, 2048 k clocks, while 98 KB k of Q and partials come
/// from memory or go there: 4900 k or 7000 k. So they meet at 1.5 k if no cache holds K and V, and at 2.4 k
/// (H200) or 3.4 k (H800) if L2 holds all. Chunks of 4096 queries, below 256K tokens, have their Q from L2: of the 98 KB
/// 66 remain, and they meet earlier, at 1.0 k, and at 1.6 k (H200) or 2.3 k (H800). Of the selections of
/// ref/judge/selections.h none comes near at M3's sizes and 2^20 tokens: local and structured have 1.0 k and 1.2 k, hot
/// and random 6.0 k and 7.5 k.
///
/// For other sizes than M3's it is only a guess: in bytes alone they meet at 12 k G / Bk.
///
/// What settles it: `msa tune`, and the runs crossing-* of data/bench/cuda.sh, random selections over prefixes so short
/// that union8 goes from 1.0 k to 4.3 k. It belongs where sparse/union and sparse/kv_outer take equally long.

/// Both pieces use the same workspace, one after the other.
inline size_t layer_workspace(const Call &c, const msa_entry &sparse)
{
    size_t most = sparse.workspace(c);
    const auto also = [&](const msa_entry &index) { most = std::max(most, index.workspace(c)); };
    also(ON_SIDE(index, fused));
    if (may_screen(c))
        also(ON_SIDE(index, screened));
    return most;
}
inline msa_status choose_blocks(Call c)
{
    c.a.scores = nullptr; // are not asked for
    return (screens(c) ? ON_SIDE(index, screened) : ON_SIDE(index, fused)).run(c);
}
/// The call of the Main Branch, which only reads ids.
inline Call main_branch(Call c)
{
    if (c.a.forced_ids)
        c.a.ids = (int32_t *)c.a.forced_ids;
    return c;
}
inline msa_status layer(const Call &c, const msa_entry &sparse)
{
    const msa_status status = choose_blocks(c);
    return status == MSA_OK ? sparse.run(main_branch(c)) : status;
}

#endif
