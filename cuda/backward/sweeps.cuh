/**
 * @file sweeps.cuh
 * @brief The sweeps of 3_kv_outer.cu, 4_hopper.cu and ../kl/2_kv_outer.cu as functions, for the entries that
 * share them. With `deterministic` dQ and dQi are left in parts that a second kernel sums in order, else they
 * are added up by reductions in memory.
 */
#ifndef MSA_SWEEPS_CUH
#define MSA_SWEEPS_CUH

#include "../kernel.cuh"

/// The gradients of attention and, if c.a.loss, those of the index in the same sweep.
size_t ON_SIDE(backward, sweep_bytes)(const Call &c, bool deterministic);
msa_status ON_SIDE(backward, sweep)(const Call &c, bool deterministic);
/// The same with the same scratch, by wgmma.
msa_status ON_SIDE(backward, hopper_sweep)(const Call &c, bool deterministic);
/// The bytes for the gradients of attention where there are never any ids, and one of these sweeps without.
size_t ON_SIDE(backward, dense_bytes)(const Call &c);
static inline msa_status sweep_all_keys(const Call &call, msa_status sweep(const Call &, bool))
{
    Call c = call;
    c.a.ids = nullptr;
    return c.a.loss ? MSA_ERR_UNSUPPORTED : sweep(c, false);
}

/// Those of the index alone.
size_t ON_SIDE(kl, sweep_bytes)(const Call &c, bool deterministic);
msa_status ON_SIDE(kl, sweep)(const Call &c, bool deterministic);

#endif
