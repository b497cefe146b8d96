/**
 * @file prefill.cuh
 * @brief A layer's attention for a prompt or a chunk of one, in one call: the fused index, then a kernel of
 * the Main Branch. Everything that a caller pays for a layer; nothing waits for the host.
 */
#ifndef MSA_PREFILL_CUH
#define MSA_PREFILL_CUH

#include "../kernel.cuh"

extern const msa_entry ON_SIDE(index, fused), ON_SIDE(sparse, union), ON_SIDE(sparse, kv_outer);

/// Both pieces use the same workspace, one after the other.
inline size_t layer_workspace(const Call &c, const msa_entry &sparse)
{
    const size_t first = ON_SIDE(index, fused).workspace(c), second = sparse.workspace(c);
    return first > second ? first : second;
}
inline msa_status choose_blocks(Call c)
{
    c.a.scores = nullptr; // are not asked for
    return ON_SIDE(index, fused).run(c);
}
/// The call of the Main Branch, which only reads ids.
inline Call main_branch(Call c)
{
    if (c.a.instead)
        c.a.ids = (int32_t *)c.a.instead;
    return c;
}
inline msa_status layer(const Call &c, const msa_entry &sparse)
{
    const msa_status status = choose_blocks(c);
    return status == MSA_OK ? sparse.run(main_branch(c)) : status;
}

#endif
