/* The table of implementations, gathered from the back ends. */
#include "table.h"

#include <stdio.h>
#include <string.h>

#include "../../cuda/host/host.h"
#include "../../cuda/host/plan.h"
#include "../fast/selectors.h"

#if !defined(HAVE_SIMT) && !defined(HAVE_CUDA)
const msa_kernel *host_kernels(const char *device)
{
    static const msa_kernel none = {.name = NULL};
    (void)device;
    return &none;
}
msa_status host_index8(const msa_device *device, const msa_shape *s, const msa_pages *p, const float *ki,
                       const msa_index8 *copy)
{
    (void)device, (void)s, (void)p, (void)ki, (void)copy;
    return MSA_ERR_DEVICE;
}
#endif

/* A back end has kernels of the ladder from naive to best, which a device tells; the reference has one a stage, and
 * selectors. */
static const struct {
    const char *name;
    const msa_ops *ops;
    const msa_kernel *ladder;
} backends[] = {{"ref", &msa_ref_ops, index_selectors},
                {"fast", &msa_fast_ops, msa_fast_kernels},
                {"simt", NULL, NULL},
                {"cuda", NULL, NULL}};
#define N_BACKENDS ((int)(sizeof backends / sizeof *backends))

static const msa_kernel *ladder_of(int backend)
{
    return backends[backend].ladder ? backends[backend].ladder : host_kernels(backends[backend].name);
}

const char *table_dropped(const char *name)
{
    static const struct {
        const char *name, *why;
    } dropped[] = {
#ifdef HAVE_CUDA
#define DROPPED(name, why) {name, why},
#include "cuda/dropped.inc"
#endif
        {NULL, NULL}};
    int i = 0;
    while (dropped[i].name && strcmp(dropped[i].name, name) != 0)
        i++;
    const msa_device *gpu = table_device("cuda");
    if (!dropped[i].name && gpu && !gpu->missing() && plan_sm(name) > gpu->sm())
        return "its instructions are Hopper's, and this GPU is another";
    return dropped[i].why;
}

static bool is_dropped(const msa_kernel *kernel)
{
    char name[KERNEL_NAME];
    return strcmp(kernel->backend, "cuda") == 0 && table_dropped(kernel_name(kernel, name));
}

/* Kernel i of one stage on one back end. */
static const msa_kernel *of_stage(int backend, int stage, int i)
{
    if (backends[backend].ops == &msa_ref_ops && i-- == 0)
        return msa_ref_ops.stage[stage];
    for (const msa_kernel *k = ladder_of(backend); k->name; k++)
        if ((int)k->stage == stage && !is_dropped(k) && i-- == 0)
            return k;
    return NULL;
}

const msa_kernel *table_at(int i)
{
    for (int stage = 0; i >= 0 && stage < MSA_N_STAGES; stage++)
        for (int b = 0; b < N_BACKENDS; b++) {
            const msa_kernel *kernel;
            for (int n = 0; (kernel = of_stage(b, stage, n)) != NULL; n++)
                if (i-- == 0)
                    return kernel;
        }
    return NULL;
}

static bool is_called(const msa_kernel *kernel, const char *name)
{
    const char *stage = msa_stage_name(kernel->stage);
    const size_t n = strlen(stage);
    return strncmp(name, stage, n) == 0 && name[n] == '/' && strcmp(name + n + 1, kernel->name) == 0;
}

const msa_kernel *table_find(const char *name, const char *backend)
{
    const msa_kernel *kernel, *first = NULL;
    for (int i = 0; (kernel = table_at(i)) != NULL; i++)
        if (is_called(kernel, name)) {
            if (backend && strcmp(kernel->backend, backend) == 0)
                return kernel;
            first = first ? first : kernel;
        }
    return first;
}

const msa_kernel *table_below(const msa_kernel *kernel, int n)
{
    const msa_kernel *other;
    int rung = -n; /* from 0 up, of the one that is wanted */
    for (int i = 0; (other = table_at(i)) != NULL && other != kernel; i++)
        rung += other->stage == kernel->stage && strcmp(other->backend, kernel->backend) == 0;
    for (int i = 0; rung >= 0 && (other = table_at(i)) != NULL; i++)
        if (other->stage == kernel->stage && strcmp(other->backend, kernel->backend) == 0 && rung-- == 0)
            return other;
    return NULL;
}

static int find_backend(const char *name)
{
    int b = 0;
    while (b < N_BACKENDS && strcmp(backends[b].name, name) != 0)
        b++;
    return b < N_BACKENDS && (backends[b].ops || ladder_of(b)->name) ? b : -1;
}

bool table_ops(const char *backend, msa_ops *ops)
{
    const int b = find_backend(backend);
    if (b < 0)
        return false;
    *ops = backends[b].ops ? *backends[b].ops : msa_ref_ops;
    for (int stage = 0; stage < MSA_N_STAGES; stage++) {
        const msa_kernel *kernel, *best = NULL;
        for (int i = 0; (kernel = of_stage(b, stage, i)) != NULL; i++)
            if (!best || kernel->best || !best->best)
                ops->stage[stage] = best = kernel; /* where it is dropped, the last of the others */
    }
    return true;
}

const char *table_precision(const msa_ops *ops)
{
    return ops->stage[MSA_STAGE_SPARSE]->precision == MSA_FLOAT32 ? "float32" : "bf16";
}

bool table_prefer_precision(const char *backend, const char *precision, msa_ops *ops)
{
    if (strcmp(precision, "bf16") == 0 && strcmp(backend, "fast") == 0)
        *ops = msa_fast_bf16_ops;
    return strcmp(precision, table_precision(ops)) == 0;
}

void table_prefer_same_bits(const char *backend, msa_ops *ops)
{
    const msa_kernel *kernel;
    char name[KERNEL_NAME];
    for (int i = 0; (kernel = table_at(i)) != NULL; i++) {
        if (strcmp(kernel->backend, backend) != 0 || !table_device(backend))
            continue;
        if (plan_takes(kernel_name(kernel, name)) & TAKES_SAME_BITS)
            ops->stage[kernel->stage] = kernel;
    }
}

bool table_screens(const msa_kernel *kernel)
{
    char name[KERNEL_NAME];
    return table_device(kernel->backend) && plan_takes(kernel_name(kernel, name)) & TAKES_CODES;
}

const char *table_backends(void)
{
    static const char *const names[] = {"ref or fast", "ref, fast or simt", "ref, fast or cuda",
                                        "ref, fast, simt or cuda"};
    return names[(host_kernels("simt")->name != NULL) + 2 * (host_kernels("cuda")->name != NULL)];
}

const msa_device *table_device(const char *backend)
{
#ifdef HAVE_SIMT
    if (strcmp(backend, "simt") == 0)
        return msa_engine();
#endif
#ifdef HAVE_CUDA
    if (strcmp(backend, "cuda") == 0)
        return msa_gpu();
#endif
    (void)backend;
    return NULL;
}

const char *table_missing(const char *backend)
{
    const msa_device *device = table_device(backend);
    return device ? device->missing() : NULL;
}

bool table_no_memory(const msa_kernel *kernel, msa_status status)
{
    return status == MSA_ERR_SIZE ||
           (status == MSA_ERR_DEVICE && (strcmp(table_trouble(kernel), "no memory") == 0 || /* the engine */
                                         strcmp(table_trouble(kernel), "out of memory") == 0)); /* CUDA */
}

const char *table_trouble(const msa_kernel *kernel)
{
    const msa_device *device = table_device(kernel->backend);
    return device ? device->trouble() : "";
}
