#include "sweeps.cuh"

namespace
{

size_t workspace(const Call &c)
{
    return ON_SIDE(backward, sweep_bytes)(c, true);
}
msa_status run(const Call &c)
{
    return ON_SIDE(backward, sweep)(c, true);
}

} // namespace

ENTRY(backward, deterministic, run, workspace);
