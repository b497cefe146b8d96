/**
 * @file task.cuh
 * @brief What a sweep over key blocks may be asked for, and the three there are as functions, for the entries
 * that share them: backward/3_kv_outer.cu, backward/4_hopper.cu, kl/2_kv_outer.cu.
 */
#ifndef MSA_TASK_CUH
#define MSA_TASK_CUH

#include "../kit/kernel.cuh"

/// What a sweep may be asked for. Scratch is planned, and queries are cut into chunks, by this alone and
/// never by what a run asks for in fact: else a run that asks for less takes longer chunks, and more than was
/// planned.
struct Task {
    bool main, kl;      ///< dQ, dK, dV; the loss and, if c.a.dqi, dQi, dKi
    bool deterministic; ///< dQ and dQi as parts that are summed in order, instead of by reductions in memory
    bool ids;           ///< whether there may be any; without, the support is full
};

/// The gradients of attention and, if c.a.loss, those of the index in the same sweep.
static inline Task backward_task(const Call &c, bool deterministic)
{
    return {true, c.d_index == c.d_head, deterministic, true};
}
size_t ON_SIDE(backward, sweep_bytes)(const Call &c, const Task &task);
msa_status ON_SIDE(backward, sweep)(const Call &c, const Task &task);
/// The same with the same scratch, by wgmma.
msa_status ON_SIDE(backward, hopper_sweep)(const Call &c, const Task &task);

/// The gradients of attention where there are never any ids.
constexpr Task dense_task = {true, false, false, false};
static inline size_t dense_sweep_bytes(const Call &c)
{
    return ON_SIDE(backward, sweep_bytes)(c, dense_task);
}
static inline msa_status sweep_all_keys(const Call &call, msa_status sweep(const Call &, const Task &))
{
    Call c = call;
    c.a.ids = nullptr;
    return c.a.loss ? MSA_ERR_UNSUPPORTED : sweep(c, dense_task);
}

/// Those of the index alone.
size_t ON_SIDE(kl, sweep_bytes)(const Call &c, bool deterministic);
msa_status ON_SIDE(kl, sweep)(const Call &c, bool deterministic);

#endif
