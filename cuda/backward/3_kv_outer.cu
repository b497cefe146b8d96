#include "sweep.cuh"

namespace
{

template <bool kl> msa_status sweep_main(const Call &c, const Task &task)
{
    return sweep_all(c, task, [&](const Call &chunk, bool full) {
        with_int<64, 128>(c.d_head, [&](auto d) {
            with_int<32, 64, 128>(c.s.block, [&](auto n) {
                sweep_chunk<d.value, d.value, n.value, true, kl>(chunk, task, full);
            });
        });
    });
}

size_t workspace(const Call &c)
{
    return ON_SIDE(backward, sweep_bytes)(c, false);
}
msa_status run(const Call &c)
{
    return ON_SIDE(backward, sweep)(c, false);
}

} // namespace

size_t ON_SIDE(backward, sweep_bytes)(const Call &c, bool deterministic)
{
    return sweep_workspace(c, {true, c.d_index == c.d_head, deterministic});
}

msa_status ON_SIDE(backward, sweep)(const Call &c, bool deterministic)
{
    if (!c.a.loss)
        return sweep_main<false>(c, {true, false, deterministic});
    return c.d_index == c.d_head ? sweep_main<true>(c, {true, true, deterministic}) : MSA_ERR_UNSUPPORTED;
}

ENTRY(backward, kv_outer, run, workspace);
