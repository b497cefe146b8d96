/* A device of one rank. */
#include "wire.h"

#include <pthread.h>

static pthread_mutex_t engine = PTHREAD_MUTEX_INITIALIZER;

void wire_enter(void)
{
    pthread_mutex_lock(&engine);
}

void wire_leave(void)
{
    pthread_mutex_unlock(&engine);
}

bool wire_engine(wire *w, transport *t)
{
#ifdef HAVE_SIMT
    *w = (wire){.device = msa_engine(), .kernels = &simt_parallel, .t = t};
    return true;
#else
    *w = (wire){.t = t};
    return false;
#endif
}

/* ---- What travels ------------------------------------------------------------------------------------- */

msa_status wire_exchange(wire *w, traffic_kind kind, const transport_part *to, const transport_part *from,
                         int *number)
{
    wire_leave();
    const bool ok = transport_exchange(w->t, kind, to, from);
    wire_enter();
    if (number)
        *number = w->done;
    w->done++;
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}

msa_status wire_wait(wire *w, int number)
{
    return w->wait ? w->wait(w, number) : MSA_OK;
}

msa_status wire_fetch(wire *w, void *host, const void *device, size_t bytes)
{
    return w->fetch ? w->fetch(w, host, device, bytes) : w->device->download(host, device, bytes);
}

/* ---- Memory and kernels ------------------------------------------------------------------------------- */

msa_status wire_grow(const wire *w, buffer *b, size_t bytes)
{
    if (b->p && b->bytes >= bytes)
        return MSA_OK;
    if (b->p)
        w->device->free(b->p);
    *b = (buffer){w->device->alloc(bytes), bytes};
    return b->p ? MSA_OK : MSA_ERR_DEVICE;
}

msa_status wire_put(const wire *w, buffer *b, const void *host, size_t bytes)
{
    const msa_status status = wire_grow(w, b, bytes);
    return status == MSA_OK && bytes ? w->device->upload(b->p, host, bytes) : status;
}

void wire_drop(const wire *w, buffer *b, int n)
{
    for (int i = 0; i < n; i++)
        if (b[i].p)
            w->device->free(b[i].p);
}

msa_status wire_run(const wire *w, const char *kernel, const msa_shape *s, msa_dtype out, const msa_arrays *a,
                    buffer *work)
{
    msa_plan plan;
    msa_status status = msa_plan_make(&plan, w->device, kernel, s, out);
    if (status == MSA_OK)
        status = wire_grow(w, work, plan.workspace);
    return status == MSA_OK ? msa_plan_run(&plan, a, work->p, NULL) : status;
}
