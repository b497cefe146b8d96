/**
 * @file replay.h
 * @brief A run that is recorded once and then replayed on whatever its buffers hold.
 */
#ifndef MSA_REPLAY_H
#define MSA_REPLAY_H

#include "cuda/msa_cuda.h"

#include <functional>

/// Records a run of the plan and replays it; before(i) and after(i) surround the i-th time. False if any of
/// it failed. On the GPU the record is a CUDA graph, and what waits for the device or allocates cannot be
/// recorded. The engine has none: it runs again.
using replay_function = bool(const msa_plan &plan, const msa_arrays &arrays, void *work, int times,
                             const std::function<void(int)> &before, const std::function<void(int)> &after);
replay_function simt_replay, cuda_replay;

#endif
