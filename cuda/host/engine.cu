/**
 * @file engine.cu
 * @brief The CPU engine (cuda/simt) as a device of msa_cuda.h, and its options for callers in C.
 */
#include "sequences.cuh"

#include <cstdio>
#include <cstdlib>
#include <ctime>

static const char *missing()
{
    return nullptr;
}
static int sm()
{
    return 90;
}
static void *device_alloc(size_t bytes)
{
    return aligned_alloc(128, (bytes + 255) / 128 * 128); // never 0 bytes; cleared by nobody, as on a GPU
}
static void device_free(void *p)
{
    free(p);
}
static msa_status upload(void *device, const void *host, size_t bytes)
{
    memcpy(device, host, bytes);
    return MSA_OK;
}
static msa_status download(void *host, const void *device, size_t bytes)
{
    memcpy(host, device, bytes);
    return MSA_OK;
}
static void device_fill(void *p, int byte, size_t bytes)
{
    memset(p, byte, bytes);
}
static void clear(void *p, size_t bytes, cudaStream_t)
{
    memset(p, 0, bytes);
}
static bool undeclared; // there was no memory to note a buffer
static void declare(const void *p, size_t bytes, const char *name)
{
    try {
        if (p)
            simt::declare_global(p, bytes, name);
        else
            simt::forget_globals();
    } catch (const std::bad_alloc &) {
        undeclared = true; // launched() says so
    }
}
static void start()
{
    simt::options.keep_going = true; // a failure is the caller's to report
    simt::reset();
}
/// A workspace must not happen to be zero, unless blocks are left out whose parts lie in it. Of a huge one
/// the begin will do, where small things lie.
static void spoil(void *work, size_t bytes)
{
    const bool whole = work && !simt::options.only && !simt::options.dry;
    simt::spoil(work, !whole ? 0 : bytes < (16u << 20) ? bytes : 16u << 20);
}
static msa_status launched()
{
    last_trouble = undeclared ? "no memory" : simt::report();
    undeclared = false;
    return last_trouble.empty() ? MSA_OK : MSA_ERR_DEVICE;
}
static msa_status copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    return MSA_OK;
}
static double marks[MSA_MARKS]; // the engine has no clock: how long it took to say what a GPU would do
static msa_status mark(int i, void *)
{
    timespec t;
    timespec_get(&t, TIME_UTC);
    marks[i] = 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
    return MSA_OK;
}
static msa_status between(int i, int j, double *ms)
{
    *ms = marks[j] - marks[i];
    return MSA_OK;
}
static void about(msa_about *a)
{
    *a = msa_about();
    snprintf(a->name, sizeof a->name, "CPU engine");
}

/* ---- A call that is repeated --------------------------------------------------------------------------- */

static struct {
    msa_plan plan;
    msa_arrays a;
    void *work;
} recorded[MSA_RECORDINGS];
static msa_status record(int i, const msa_plan *plan, const msa_arrays *a, void *work)
{
    recorded[i] = {*plan, *a, work};
    return MSA_OK;
}
static msa_status replay(int i)
{
    return recorded[i].plan.device
               ? msa_plan_run(&recorded[i].plan, &recorded[i].a, recorded[i].work, nullptr)
               : MSA_ERR_NULL;
}

extern "C" void msa_engine_mode(int order, int timing, uint64_t seed)
{
    simt::options.order = (simt::Order)order;
    simt::options.timing = (simt::Timing)timing;
    simt::options.seed = seed;
}
extern "C" void msa_engine_dry(bool dry)
{
    simt::options.dry = dry;
}
extern "C" uintptr_t msa_engine_reach(void)
{
    const uintptr_t reach = simt::reach;
    simt::reach = 0;
    return reach;
}
extern "C" void msa_engine_sms(int n)
{
    simt::options.sms = n;
}
extern "C" void msa_engine_resident(int n)
{
    simt::options.resident = n;
}

extern "C" const msa_device *msa_engine(void)
{
    static const msa_device device = make_device("simt");
    return &device;
}
