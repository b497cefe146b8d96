/**
 * @file replay.cu
 * @brief replay.h for the engine and, compiled by nvcc, for the GPU.
 */
#include "replay.h"

#ifdef __CUDACC__
bool cuda_replay(const msa_plan &plan, const msa_arrays &arrays, void *work, int times,
                 const std::function<void(int)> &before, const std::function<void(int)> &after)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t record;
    before(0);
    bool ok = cudaStreamCreate(&stream) == cudaSuccess &&
              msa_plan_run(&plan, &arrays, work, stream) == MSA_OK && // loads the kernels
              cudaStreamSynchronize(stream) == cudaSuccess &&
              cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess;
    ok = ok && msa_plan_run(&plan, &arrays, work, stream) == MSA_OK;
    ok = ok && cudaStreamEndCapture(stream, &graph) == cudaSuccess &&
         cudaGraphInstantiate(&record, graph, 0) == cudaSuccess;
    for (int i = 0; i < times && ok; i++) {
        before(i);
        ok = cudaGraphLaunch(record, stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess;
        after(i);
    }
    return ok;
}
#else
bool simt_replay(const msa_plan &plan, const msa_arrays &arrays, void *work, int times,
                 const std::function<void(int)> &before, const std::function<void(int)> &after)
{
    bool ok = true;
    for (int i = 0; i < times && ok; i++) {
        before(i);
        ok = msa_plan_run(&plan, &arrays, work, nullptr) == MSA_OK;
        after(i);
    }
    return ok;
}
#endif
