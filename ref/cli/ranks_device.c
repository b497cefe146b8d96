/* Calls on ranks whose kernels run on devices. */
#include "ranks_device.h"

#include <string.h>

#if defined(HAVE_SIMT) || defined(HAVE_CUDA)
#include "../../cuda/parallel/device.h"

const char *ranks_device(const msa_ops *ops, const cli_dealt *call)
{
    const char *device = ops->stage[MSA_STAGE_INDEX]->backend;
    const bool one = strcmp(ops->stage[MSA_STAGE_SPARSE]->backend, device) == 0 &&
                     strcmp(ops->stage[MSA_STAGE_DENSE_DECODE]->backend, device) == 0;
    const bool is_device = strcmp(device, "simt") == 0 || (strcmp(device, "cuda") == 0 && wire_has_nccl);
    return is_device && one && !call->dense && !call->gradients ? device : NULL;
}

traffic_call ranks_device_traffic(const parallel_call *c)
{
    return device_traffic(c);
}

msa_status ranks_device_attend(const char *device, transport *t, parallel_call *c, bool queries,
                               const char **why)
{
    const bool gpu = strcmp(device, "cuda") == 0;
    wire w;
    *why = NULL;
    if (gpu)
        *why = wire_open_nccl(&w, t);
    else if (!wire_engine(&w, t))
        *why = "this build has no engine";
    const msa_status status = *why ? MSA_ERR_DEVICE : device_attend(&w, c, queries, DEVICE_CHUNK);
    for (int kind = 0; !*why && gpu && kind < TRAFFIC_N_KINDS; kind++)
        t->sent[kind] += w.t->sent[kind];
    if (!*why && status == MSA_ERR_DEVICE && w.device->trouble()[0])
        *why = w.device->trouble();
    if (gpu)
        wire_close_nccl(&w);
    return status;
}
#else
const char *ranks_device(const msa_ops *ops, const cli_dealt *call)
{
    (void)ops, (void)call;
    return NULL;
}

traffic_call ranks_device_traffic(const parallel_call *c)
{
    return parallel_traffic(c);
}

msa_status ranks_device_attend(const char *device, transport *t, parallel_call *c, bool queries,
                               const char **why)
{
    (void)device, (void)t, (void)c, (void)queries;
    *why = "this build has no device";
    return MSA_ERR_DEVICE;
}
#endif
