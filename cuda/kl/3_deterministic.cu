#include "../backward/sweeps.cuh"

namespace
{

size_t workspace(const Call &c)
{
    return ON_SIDE(kl, sweep_bytes)(c, true);
}
msa_status run(const Call &c)
{
    return ON_SIDE(kl, sweep)(c, true);
}

} // namespace

ENTRY(kl, deterministic, run, workspace);
