/**
 * @file side.cu
 * @brief One side of msa_cuda.h: memory, the entries of kernels.def, and a run of one over the sequences of a
 *        call. Compiled by nvcc this is the GPU, compiled by a C++ compiler the engine.
 */
#include "../kit/kernel.cuh"

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>
#include <string>

#include "../kit/padding.cuh"
#include "../kit/product.cuh"

#define KERNEL(stage, name, sm, precision, takes, idea) extern const msa_entry ON_SIDE(stage, name);
#include "../kernels.def"

static const msa_entry *const entries[] = {
#define KERNEL(stage, name, sm, precision, takes, idea) &ON_SIDE(stage, name),
#include "../kernels.def"
};

/* ---- Memory ---------------------------------------------------------------------------------------- */

static std::string last_trouble;

#ifdef __CUDACC__
static msa_status ok(cudaError_t error)
{
    if (error == cudaSuccess)
        return MSA_OK;
    last_trouble = cudaGetErrorString(error);
    return MSA_ERR_DEVICE;
}
static const char *missing()
{
    static std::string why;
    int n = 0, major = 0, device = 0;
    const cudaError_t error = cudaGetDeviceCount(&n);
    if (error != cudaSuccess || n == 0)
        why = std::string("no CUDA device: ") +
              (error != cudaSuccess ? cudaGetErrorString(error) : "none is visible");
    else if (cudaGetDevice(&device) == cudaSuccess &&
             cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
             major != 9)
        why = "the CUDA device has compute capability " + std::to_string(major) + ".x, not 9.0 (Hopper)";
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
#else
static const char *missing()
{
    return nullptr;
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
/// A workspace must not happen to be zero, unless blocks are left out whose parts lie in it. Of a huge one the
/// begin will do, where small things lie.
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
#endif
static const char *trouble()
{
    return last_trouble.c_str();
}
static msa_status blame(const char *name)
{
    last_trouble = std::string("written outside ") + name;
    return MSA_ERR_DEVICE;
}

/* ---- A call that is repeated ------------------------------------------------------------------------- */

#ifdef __CUDACC__
static cudaGraphExec_t recorded;
static msa_status capture(const msa_plan *plan, const msa_arrays *a, void *work, cudaStream_t stream)
{
    cudaGraph_t graph = nullptr;
    msa_status status = ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    if (status != MSA_OK)
        return status;
    status = msa_plan_run(plan, a, work, stream);
    const msa_status ended = ok(cudaStreamEndCapture(stream, &graph)); // in any case
    status = status == MSA_OK ? ended : status;
    if (status == MSA_OK)
        status = ok(cudaGraphInstantiate(&recorded, graph, 0));
    if (graph)
        cudaGraphDestroy(graph);
    return status;
}
static msa_status record(const msa_plan *plan, const msa_arrays *a, void *work)
{
    cudaStream_t stream;
    if (recorded)
        cudaGraphExecDestroy(recorded);
    recorded = nullptr;
    if (ok(cudaStreamCreate(&stream)) != MSA_OK)
        return MSA_ERR_DEVICE;
    msa_status status = msa_plan_run(plan, a, work, stream); // what is recorded must have been loaded
    if (status == MSA_OK)
        status = ok(cudaStreamSynchronize(stream));
    if (status == MSA_OK)
        status = capture(plan, a, work, stream);
    cudaStreamDestroy(stream);
    return status;
}
static msa_status replay(void)
{
    return recorded ? ok(cudaGraphLaunch(recorded, nullptr)) : MSA_ERR_NULL;
}
#else
static struct {
    msa_plan plan;
    msa_arrays a;
    void *work;
} recorded;
static msa_status record(const msa_plan *plan, const msa_arrays *a, void *work)
{
    recorded = {*plan, *a, work};
    return MSA_OK;
}
static msa_status replay(void)
{
    return recorded.plan.device ? msa_plan_run(&recorded.plan, &recorded.a, recorded.work, nullptr)
                                : MSA_ERR_NULL;
}
#endif

/* ---- A run: sequence after sequence ------------------------------------------------------------------ */

template <class T> static T *shifted(T *p, int64_t elements)
{
    return p ? p + elements : nullptr;
}

/// Sequence r of the call, its sizes and its part of every array. How much of it is padding only a kernel knows.
static Call part(const msa_shape *shape, msa_dtype out, const msa_arrays *a, int r)
{
    msa_shape room = *shape, *const s = &room;
    room.len_q = room.len_kv = nullptr;
    const msa_seq seq = msa_get_seq(s, r);
    const int64_t q = seq.q0, kv = seq.kv0, n_blocks = msa_n_blocks(shape);
    Call c = {};
    c.s = {(int)seq.n_q, (int)seq.n_kv, (int)(seq.n_kv - seq.n_q),
           s->n_heads,   s->n_kv_heads, s->n_heads / s->n_kv_heads,
           s->block,     s->topk,       (int)ceil_div(seq.n_kv, (int64_t)s->block),
           s->n_q,       n_blocks,      {},
           (int)seq.n_q, {shifted(a->len_q, r), shifted(a->len_kv, r), (int)seq.n_q, (int)seq.n_kv, 0}};
    c.d_head = s->d_head;
    c.d_index = s->d_index;
    c.out = out;
    c.a.q = shifted((const bf16 *)a->q, q * s->n_heads * s->d_head);
    c.a.k = shifted((const bf16 *)a->k, kv * s->n_kv_heads * s->d_head);
    c.a.v = shifted((const bf16 *)a->v, kv * s->n_kv_heads * s->d_head);
    c.a.qi = shifted((const bf16 *)a->qi, q * s->n_kv_heads * s->d_index);
    c.a.ki = shifted((const bf16 *)a->ki, kv * s->d_index);
    c.a.scores = shifted((float *)a->scores, q * n_blocks);
    c.a.scores_by_block = shifted((const float *)a->scores, q);
    c.a.ids = shifted((int32_t *)a->ids, q * s->topk);
    c.a.forced_ids = shifted(a->forced_ids, q * s->topk);
    c.a.index_lse = shifted((float *)a->index_lse, q);
    c.a.o = shifted((char *)a->o, q * s->n_heads * s->d_head * (out == MSA_BF16 ? 2 : 4));
    c.a.lse = shifted((float *)a->lse, q * s->n_heads);
    c.a.first = shifted((int32_t *)a->first, r * s->n_kv_heads * (n_blocks + 1));
    c.a.entries = shifted((uint32_t *)a->entries, q * s->n_kv_heads * s->topk);
    c.a.items = shifted((msa_item *)a->items, msa_first_item(shape, r));
    c.a.dout = shifted((const bf16 *)a->dout, q * s->n_heads * s->d_head);
    c.a.dq = shifted((float *)a->dq, q * s->n_heads * s->d_head);
    c.a.dk = shifted((float *)a->dk, kv * s->n_kv_heads * s->d_head);
    c.a.dv = shifted((float *)a->dv, kv * s->n_kv_heads * s->d_head);
    c.a.dqi = shifted((float *)a->dqi, q * s->n_kv_heads * s->d_index);
    c.a.dki = shifted((float *)a->dki, kv * s->d_index);
    c.a.loss = a->loss; // to which every sequence adds
    c.a.weight = a->weight;
    c.batch = 1;
    return c;
}

/// A step of generation, which has its own way with lengths.
static bool is_step(const msa_entry *entry)
{
    return entry->stage == MSA_STAGE_DECODE || entry->stage == MSA_STAGE_DENSE_DECODE;
}

/// Sequence r of a step.
static Call step_part(const msa_shape *s, msa_dtype out, const msa_arrays *a, int r)
{
    Call c = part(s, out, a, r);
    c.pages.lens = shifted(a->len_kv, r);
    c.pages.len_q = shifted(a->len_q, r);
    c.pages.piece = s->block;
    c.pages.pieces = 1;
    c.pages.status = a->status;
    return c;
}

/// All requests of a paged step, which are alike in shape.
static Call paged(const msa_shape *s, msa_dtype out, const msa_arrays *a)
{
    const msa_pages &p = a->pages;
    const int page = p.page ? p.page : s->block, piece = page < s->block ? page : s->block;
    Call c = step_part(s, out, a, 0);
    c.batch = msa_n_seqs(s);
    c.pages = {p.table, p.lens,       a->len_q, (int)p.n_pages, c.s.n_kv / page,
               piece,   page / piece, p.ki8,    p.scale,        a->status};
    c.fresh = {(const bf16 *)a->new_k, (const bf16 *)a->new_v, (const bf16 *)a->new_ki, a->rejected};
    return c;
}

static size_t workspace(const msa_entry *entry, const msa_shape *s, msa_dtype out)
{
    const msa_arrays none = {};
    if (msa_check_shape(s) != MSA_OK)
        return 0;
    size_t most = is_step(entry) ? entry->workspace(paged(s, out, &none)) : 0;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const size_t bytes =
            entry->workspace(is_step(entry) ? step_part(s, out, &none, r) : part(s, out, &none, r));
        most = bytes > most ? bytes : most;
    }
    return most;
}

static msa_status run_parts(const msa_entry *entry, const msa_shape *s, msa_dtype out, const msa_arrays *a,
                            void *work, void *stream)
{
    start();
    spoil(work, workspace(entry, s, out));
    if (a->loss)
        clear(a->loss, sizeof *a->loss, (cudaStream_t)stream);
    const bool step = is_step(entry), in_pages = a->pages.table != nullptr;
    for (int r = 0; r < (in_pages ? 1 : msa_n_seqs(s)); r++) {
        Call c = in_pages ? paged(s, out, a) : step ? step_part(s, out, a, r) : part(s, out, a, r);
        c.work = work;
        c.stream = (cudaStream_t)stream;
        if (!step && (c.s.padding.len_q || c.s.padding.len_kv))
            launch_padding(c, entry->stage, a->status);
        // Without queries there is nothing to do, but for reverse, which says that they chose no block, and
        // for the gradients of keys, which are 0.
        const bool idle = c.s.n_q == 0 && !c.a.first && !c.a.dk && !c.a.dki;
        msa_status status = idle ? MSA_OK : entry->run(c);
        if (status == MSA_OK)
            status = launched();
        if (status != MSA_OK)
            return status;
    }
    if (a->loss && a->len_q)
        launch_mean(s, a, (cudaStream_t)stream);
    return launched();
}

static msa_status run(const msa_entry *entry, const msa_shape *s, msa_dtype out, const msa_arrays *a,
                      void *work, void *stream)
{
    try {
        return run_parts(entry, s, out, a, work, stream);
    } catch (const std::bad_alloc &) { // no exception passes through C
        last_trouble = "no memory";
        return MSA_ERR_DEVICE;
    }
}

#ifndef __CUDACC__
extern "C" void msa_engine_mode(int order, int timing, uint64_t seed)
{
    simt::options.order = (simt::Order)order;
    simt::options.timing = (simt::Timing)timing;
    simt::options.seed = seed;
}
extern "C" void msa_engine_chunk(int queries)
{
    simt::options.chunk = queries;
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
#endif

#ifdef __CUDACC__
#define THIS_SIDE msa_gpu
#define SIDE_NAME "cuda"
#else
#define THIS_SIDE msa_engine
#define SIDE_NAME "simt"
#endif
extern "C" const msa_device *THIS_SIDE(void)
{
    static const msa_device device = {SIDE_NAME, missing, device_alloc, device_free, device_fill,
                                      declare,   upload,  download,     trouble,     blame,
                                      entries,   run,     workspace,    mark,        copy,
                                      product,   between, about,        record,      replay};
    return &device;
}
