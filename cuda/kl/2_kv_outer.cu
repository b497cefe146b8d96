#include "../backward/sweep.cuh"

namespace
{

size_t workspace(const Call &c)
{
    return ON_SIDE(kl, sweep_bytes)(c, false);
}
msa_status run(const Call &c)
{
    return ON_SIDE(kl, sweep)(c, false);
}

} // namespace

size_t ON_SIDE(kl, sweep_bytes)(const Call &c, bool deterministic)
{
    return sweep_workspace(c, {false, true, deterministic});
}

msa_status ON_SIDE(kl, sweep)(const Call &c, bool deterministic)
{
    const Task task = {false, true, deterministic};
    return sweep_all(c, task, [&](const Call &chunk, bool full) {
        with_int<64, 128>(c.d_head, [&](auto d) {
            with_int<64, 128>(c.d_index, [&](auto di) {
                with_int<32, 64, 128>(c.s.block, [&](auto n) {
                    sweep_chunk<d.value, di.value, n.value, false, true>(chunk, task, full);
                });
            });
        });
    });
}

ENTRY(kl, kv_outer, run, workspace);
