/* GPUs of several processes over NCCL. Kernels run in the default stream, exchanges in one of their own; events order the
 * two. What an exchange sends and receives is one group, so that no rank waits for another's order of calls. */
#include "../wire.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdlib.h>

const bool wire_has_nccl = true;

#define EVENTS 16 /* exchanges that kernels may still wait for: two chunks have ten */

typedef struct body {
    transport t;
    ncclComm_t comm;
    cudaStream_t stream;
    cudaEvent_t ready, over[EVENTS];
    int n; /* exchanges so far */
} body;

static bool exchange(transport *t, const transport_part *to, const transport_part *from)
{
    body *b = t->body;
    if (cudaEventRecord(b->ready, NULL) != cudaSuccess ||
        cudaStreamWaitEvent(b->stream, b->ready, 0) != cudaSuccess || ncclGroupStart() != ncclSuccess)
        return false;
    bool ok = true;
    for (int r = 0; r < t->ranks; r++) {
        if (r != t->rank && to[r].bytes)
            ok = ncclSend(to[r].data, to[r].bytes, ncclUint8, r, b->comm, b->stream) == ncclSuccess && ok;
        if (r != t->rank && from[r].bytes)
            ok = ncclRecv(from[r].data, from[r].bytes, ncclUint8, r, b->comm, b->stream) == ncclSuccess && ok;
    }
    ok = ncclGroupEnd() == ncclSuccess && ok;
    return cudaEventRecord(b->over[b->n++ % EVENTS], b->stream) == cudaSuccess && ok;
}

static msa_status wait(wire *w, int i)
{
    const body *b = w->t->body;
    return cudaStreamWaitEvent(NULL, b->over[i % EVENTS], 0) == cudaSuccess ? MSA_OK : MSA_ERR_DEVICE;
}

static msa_status fetch(wire *w, void *host, const void *device, size_t bytes)
{
    const body *b = w->t->body;
    const bool ok = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, b->stream) == cudaSuccess &&
                    cudaStreamSynchronize(b->stream) == cudaSuccess;
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}

/* The first rank's id, for all. */
static bool share_id(transport *world, ncclUniqueId *id)
{
    ncclUniqueId *all = calloc((size_t)world->ranks, sizeof *all);
    transport_part *part = malloc((size_t)world->ranks * sizeof *part);
    bool ok = all && part && (world->rank > 0 || ncclGetUniqueId(id) == ncclSuccess);
    for (int r = 0; ok && r < world->ranks; r++)
        part[r] = (transport_part){&all[r], sizeof *all};
    ok = ok && transport_gather(world, TRAFFIC_OTHER, (transport_part){id, sizeof *id}, part);
    if (ok)
        *id = all[0];
    free(all), free(part);
    return ok;
}

const char *wire_open_nccl(wire *w, transport *world)
{
    ncclUniqueId id = {{0}};
    int devices = 0;
    body *b = calloc(1, sizeof *b);
    *w = (wire){.t = b ? &b->t : NULL};
    if (!b)
        return "expected memory for a communicator";
    b->t = (transport){
        .rank = world->rank, .ranks = world->ranks, .exchange = exchange, .end = world->end, .body = b};
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0 ||
        cudaSetDevice(world->rank % devices) != cudaSuccess)
        return "no CUDA device";
    if (!share_id(world, &id) || ncclCommInitRank(&b->comm, world->ranks, id, world->rank) != ncclSuccess)
        return ncclGetLastError(NULL);
    bool ok = cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking) == cudaSuccess &&
              cudaEventCreateWithFlags(&b->ready, cudaEventDisableTiming) == cudaSuccess;
    for (int i = 0; ok && i < EVENTS; i++)
        ok = cudaEventCreateWithFlags(&b->over[i], cudaEventDisableTiming) == cudaSuccess;
    w->device = msa_gpu(), w->kernels = &cuda_parallel, w->wait = wait, w->fetch = fetch;
    return ok ? NULL : cudaGetErrorString(cudaGetLastError());
}

void wire_close_nccl(wire *w)
{
    body *b = w->t ? w->t->body : NULL;
    if (b && b->comm) {
        cudaDeviceSynchronize();
        ncclCommDestroy(b->comm);
    }
    for (int i = 0; b && i < EVENTS; i++)
        if (b->over[i])
            cudaEventDestroy(b->over[i]);
    if (b && b->ready)
        cudaEventDestroy(b->ready);
    if (b && b->stream)
        cudaStreamDestroy(b->stream);
    free(b);
}
