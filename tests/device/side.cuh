/**
 * @file side.cuh
 * @brief What instructions.cu and measurements.cu need of the side that they are compiled for: memory, and
 *        whether a launch went well.
 */
#ifndef MSA_TESTS_SIDE_CUH
#define MSA_TESTS_SIDE_CUH

#include "cuda/kit/launch.cuh"
#include "instructions.h"

#include <cstdlib>
#include <cstring>

// Nothing here may have a name that the linker sees: the other side has the same.
namespace
{

#ifdef __CUDACC__
uint32_t *device_new(size_t n)
{
    void *p = nullptr;
    return cudaMalloc(&p, 4 * n + 128) == cudaSuccess ? (uint32_t *)p : nullptr;
}
void device_delete(uint32_t *p)
{
    cudaFree(p);
}
void to_device(uint32_t *device, const words &host)
{
    cudaMemcpy(device, host.data(), 4 * host.size(), cudaMemcpyHostToDevice);
}
void from_device(words &host, const uint32_t *device)
{
    cudaMemcpy(host.data(), device, 4 * host.size(), cudaMemcpyDeviceToHost);
}
std::string finish()
{
    const cudaError_t launched = cudaGetLastError(), ran = cudaDeviceSynchronize();
    return launched != cudaSuccess ? cudaGetErrorString(launched)
           : ran != cudaSuccess    ? cudaGetErrorString(ran)
                                   : "";
}
[[maybe_unused]] void resident(int)
{
}
#else
uint32_t *device_new(size_t n)
{
    uint32_t *p = (uint32_t *)aligned_alloc(128, (4 * n + 255) / 128 * 128);
    simt::declare_global(p, 4 * n, "probe");
    return p;
}
void device_delete(uint32_t *p)
{
    simt::forget_globals();
    free(p);
}
void to_device(uint32_t *device, const words &host)
{
    memcpy(device, host.data(), 4 * host.size());
}
void from_device(words &host, const uint32_t *device)
{
    memcpy(host.data(), device, 4 * host.size());
}
std::string finish()
{
    simt::options.resident = 1;
    return simt::report();
}
/// Blocks that wait for each other have to be on the device together.
[[maybe_unused]] void resident(int blocks)
{
    simt::options.resident = blocks;
}
#endif

void begin()
{
#ifndef __CUDACC__
    simt::options.keep_going = true;
    simt::reset();
#endif
}

constexpr size_t fence_words = 64;
constexpr uint32_t fence_word = 0xfe17ce55;

/// Runs a probe in fresh memory, with a fence after its output.
std::string run_probe(const probe &p, words &out)
{
    begin();
    words fenced = p.start;
    fenced.resize(p.start.size() + fence_words, fence_word);
    uint32_t *in = device_new(p.in.size()), *result = device_new(fenced.size());
    if (!in || !result)
        return "no device memory";
    to_device(in, p.in);
    to_device(result, fenced);
    const char *refused = p.launch(in, result);
    const std::string trouble = finish();
    from_device(fenced, result);
    device_delete(result);
    device_delete(in);
    for (size_t i = p.start.size(); i < fenced.size(); i++)
        if (fenced[i] != fence_word)
            return "written " + std::to_string(i - p.start.size()) + " words behind its output";
    out.assign(fenced.begin(), fenced.begin() + (ptrdiff_t)p.start.size());
    return refused ? refused : trouble;
}

} // namespace
#endif
