/**
 * @file gpu.cu
 * @brief The GPU as a device of msa_cuda.h: memory, time, and a call that is recorded as a graph.
 */
#include "sequences.cuh"

#include <cstdio>

static msa_status ok(cudaError_t error)
{
    if (error == cudaSuccess)
        return MSA_OK;
    last_trouble = cudaGetErrorString(error);
    return MSA_ERR_DEVICE;
}
/// The first number of the current device's compute capability; 0: none is told.
static int generation()
{
    int device = 0, major = 0;
    if (cudaGetDevice(&device) == cudaSuccess)
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major;
}
static int sm()
{
    return generation() == 9 ? 90 : 80; // code for sm_90a runs on Hopper only, before and after it
}
static const char *missing()
{
    static std::string why;
    int n = 0;
    const cudaError_t error = cudaGetDeviceCount(&n);
    if (error != cudaSuccess || n == 0)
        why = std::string("no CUDA device: ") +
              (error != cudaSuccess ? cudaGetErrorString(error) : "none is visible");
    else if (generation() < 8)
        why = "the CUDA device has compute capability " + std::to_string(generation()) +
              ".x, not 8.0 (Ampere) or more";
    else
        why.clear();
    return why.empty() ? nullptr : why.c_str();
}
static void *device_alloc(size_t bytes)
{
    void *p = nullptr;
    return ok(cudaMalloc(&p, bytes ? bytes : 1)) == MSA_OK ? p : nullptr;
}
static void device_free(void *p)
{
    cudaFree(p);
}
static msa_status upload(void *device, const void *host, size_t bytes)
{
    return ok(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
}
static msa_status download(void *host, const void *device, size_t bytes)
{
    return ok(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}
static void device_fill(void *p, int byte, size_t bytes)
{
    cudaMemset(p, byte, bytes);
}
static void clear(void *p, size_t bytes, cudaStream_t stream)
{
    cudaMemsetAsync(p, 0, bytes, stream);
}
static void declare(const void *, size_t, const char *)
{
}
static void start()
{
}
static void spoil(void *, size_t)
{
}
static msa_status launched()
{
    return ok(cudaGetLastError());
}
static msa_status copy(void *to, const void *from, size_t bytes)
{
    return ok(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, nullptr));
}
static cudaEvent_t events[MSA_MARKS]; // made when first used
static msa_status mark(int i, void *stream)
{
    const msa_status status = events[i] ? MSA_OK : ok(cudaEventCreate(&events[i]));
    return status == MSA_OK ? ok(cudaEventRecord(events[i], (cudaStream_t)stream)) : status;
}
static msa_status between(int i, int j, double *ms)
{
    float elapsed = 0;
    msa_status status = ok(cudaEventSynchronize(events[j]));
    if (status == MSA_OK)
        status = ok(cudaEventElapsedTime(&elapsed, events[i], events[j]));
    *ms = (double)elapsed;
    return status;
}
/// The driver's version, which the kernel module tells: its first word that begins with a digit.
static void driver_version(char *text, size_t size)
{
    char word[64];
    FILE *f = fopen("/proc/driver/nvidia/version", "r");
    while (f && fscanf(f, "%63s", word) == 1)
        if (word[0] >= '0' && word[0] <= '9') {
            snprintf(text, size, "%.31s", word);
            break;
        }
    if (f)
        fclose(f);
}
static void about(msa_about *a)
{
    int device = 0, version = 0, cache = 0;
    cudaDeviceProp properties;
    *a = msa_about();
    cudaGetDevice(&device);
    if (cudaGetDeviceProperties(&properties, device) == cudaSuccess)
        snprintf(a->name, sizeof a->name, "%.*s", (int)sizeof a->name - 1, properties.name);
    if (cudaRuntimeGetVersion(&version) == cudaSuccess)
        snprintf(a->cuda, sizeof a->cuda, "%d.%d", version / 1000, version % 1000 / 10);
    if (cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device) == cudaSuccess)
        a->cache = (size_t)cache;
    driver_version(a->driver, sizeof a->driver);
}

/* ---- A call that is repeated: a graph ------------------------------------------------------------------ */

static cudaGraphExec_t recorded[MSA_RECORDINGS];
static msa_status capture(int i, const msa_plan *plan, const msa_arrays *a, void *work, cudaStream_t stream)
{
    cudaGraph_t graph = nullptr;
    msa_status status = ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    if (status != MSA_OK)
        return status;
    status = msa_plan_run(plan, a, work, stream);
    const msa_status ended = ok(cudaStreamEndCapture(stream, &graph)); // in any case
    status = status == MSA_OK ? ended : status;
    if (status == MSA_OK)
        status = ok(cudaGraphInstantiate(&recorded[i], graph, 0));
    if (graph)
        cudaGraphDestroy(graph);
    return status;
}
static msa_status record(int i, const msa_plan *plan, const msa_arrays *a, void *work)
{
    cudaStream_t stream;
    if (recorded[i])
        cudaGraphExecDestroy(recorded[i]);
    recorded[i] = nullptr;
    if (ok(cudaStreamCreate(&stream)) != MSA_OK)
        return MSA_ERR_DEVICE;
    msa_status status = msa_plan_run(plan, a, work, stream); // what is recorded must have been loaded
    if (status == MSA_OK)
        status = ok(cudaStreamSynchronize(stream));
    if (status == MSA_OK)
        status = capture(i, plan, a, work, stream);
    cudaStreamDestroy(stream);
    return status;
}
static msa_status replay(int i)
{
    return recorded[i] ? ok(cudaGraphLaunch(recorded[i], nullptr)) : MSA_ERR_NULL;
}

extern "C" const msa_device *msa_gpu(void)
{
    static const msa_device device = make_device("cuda");
    return &device;
}
