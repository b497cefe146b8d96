/* From float32 arrays on the host to a kernel on a device and back. */
#include "host.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../../ref/bf16.h"
#include "plan.h"

/* ---- One call -------------------------------------------------------------------------------------- */

/* Float32 here and bf16 there, or 4 bytes or 1 in both places. */
typedef enum element_type { BF16, WORDS, BYTES } element_type;

/* An array of the call: host memory to read or to write, and where its device address goes. */
typedef struct port {
    const char *name;
    element_type type;
    int64_t n;
    const void *in;
    void *out;
    void *target; /* a member of msa_arrays */
    size_t at;    /* offset on the device */
} port;

#define MAX_PORTS (ARRAY_N + 16) /* and of pages, lengths, loss, 8-bit copy, screening, workspace */
#define ALIGN 128
#define FENCE 256

typedef struct call {
    const msa_shape *s;
    const msa_pages *pages; /* NULL: keys are contiguous */
    int32_t status;         /* what the device says of lengths and pages */
    msa_arrays arrays;
    msa_index8 copy; /* on the device */
    port port[MAX_PORTS];
    int n;
} call;

static void add(call *c, const char *name, element_type type, int64_t n, const void *in, void *out,
                void *target)
{
    if (in || out)
        c->port[c->n++] = (port){name, type, n, in, out, target, 0};
}

static size_t bytes_of(const port *p)
{
    return (size_t)p->n * (p->type == BF16 ? 2 : p->type == WORDS ? 4 : 1);
}

/* Places the arrays and the workspace (the last port, which nobody reads back), a fence after each. */
static size_t lay_out(call *c)
{
    size_t at = FENCE;
    for (int i = 0; i < c->n; i++) {
        c->port[i].at = at;
        at += (bytes_of(&c->port[i]) + FENCE + ALIGN - 1) / ALIGN * ALIGN;
    }
    return at;
}

static msa_status send(const msa_device *device, const port *p, unsigned char *base)
{
    if (p->type != BF16)
        return device->upload(base + p->at, p->in, bytes_of(p));
    uint16_t *rounded = malloc(bytes_of(p));
    if (!rounded)
        return MSA_ERR_SIZE;
    for (int64_t i = 0; i < p->n; i++)
        rounded[i] = msa_bf16_bits(((const float *)p->in)[i]);
    const msa_status status = device->upload(base + p->at, rounded, bytes_of(p));
    free(rounded);
    return status;
}

/* Whether the fence after this array still holds what device->fill() put there. */
static bool fence_holds(const msa_device *device, const port *p, const unsigned char *base)
{
    unsigned char fence[FENCE];
    if (device->download(fence, base + p->at + bytes_of(p), FENCE) != MSA_OK)
        return false;
    for (int i = 0; i < FENCE; i++)
        if (fence[i] != 0xff)
            return false;
    return true;
}

/* Sends what is read, runs the kernel, or without one makes an 8-bit copy, fetches what is written, and looks at the
 * fences. */
static msa_status call_with_buffers(const msa_device *device, const msa_plan *plan, call *c,
                                    unsigned char *base)
{
    msa_status status = MSA_OK;
    void *work = NULL;
    for (int i = 0; i < c->n && status == MSA_OK; i++) {
        const port *p = &c->port[i];
        void *address = base + p->at;
        memcpy(p->target ? p->target : &work, &address, sizeof address);
        device->declare(address, bytes_of(p), p->name);
        if (p->in)
            status = send(device, p, base);
    }
    if (status == MSA_OK)
        status = plan ? msa_plan_run(plan, &c->arrays, work, NULL)
                      : msa_index8_make(device, c->s, &c->arrays, NULL);
    if (status == MSA_OK && c->arrays.status)
        status = device->download(&c->status, c->arrays.status, sizeof c->status);
    status = status == MSA_OK ? (msa_status)c->status : status;
    for (int i = 0; i < c->n && status == MSA_OK; i++)
        if (c->port[i].out && c->port[i].target)
            status = device->download(c->port[i].out, base + c->port[i].at, bytes_of(&c->port[i]));
    for (int i = 0; i < c->n && status == MSA_OK; i++)
        if (!fence_holds(device, &c->port[i], base))
            status = device->blame(c->port[i].name);
    device->declare(NULL, 0, NULL);
    return status;
}

/* Lengths are read on the device, and checked there as well as here. */
static void add_lengths(call *c)
{
    const int n = msa_n_seqs(c->s);
    add(c, "lengths of queries", WORDS, n, c->s->len_q, NULL, &c->arrays.len_q);
    add(c, "lengths of keys", WORDS, n, c->s->len_kv, NULL, &c->arrays.len_kv);
    if (c->s->len_q || c->s->len_kv || c->pages)
        add(c, "status", WORDS, 1, &c->status, NULL, &c->arrays.status);
}

/* ---- The arrays of a stage ------------------------------------------------------------------------ */

/* A page, or the blocks of one, have numbers of their own. */
static int64_t pieces_of_page(const msa_shape *s, const msa_pages *p)
{
    return p->page > s->block ? p->page / s->block : 1;
}

/* Of a paged call the pages; the device tells whether it likes them too. */
static void add_pages(call *c, const msa_pages *p)
{
    const msa_shape *s = c->s;
    msa_pages *on_device = &c->arrays.pages;
    c->pages = p;
    on_device->n_pages = p->n_pages;
    on_device->page = p->page;
    const int64_t page = p->page ? p->page : s->block;
    add(c, "page table", WORDS, s->n_kv / page, p->table, NULL, &on_device->table);
    add(c, "lengths", WORDS, msa_n_seqs(s), p->lens, NULL, &on_device->lens);
    if (p->ki8) {
        add(c, "8-bit ki", BYTES, array_count(s, p, ARRAY_KI), p->ki8, NULL, &on_device->ki8);
        add(c, "scale", WORDS, p->n_pages * pieces_of_page(s, p), p->scale, NULL, &on_device->scale);
    }
}

/* An 8-bit copy, to read or, if it is `made`, to write what is in it then. */
static void add_copy(call *c, const msa_index8 *copy, bool made)
{
    const msa_pages *p = c->pages;
    const int64_t n = p ? p->n_pages * pieces_of_page(c->s, p) : msa_n_seqs(c->s) * msa_n_blocks(c->s);
    c->arrays.index8 = &c->copy;
#define PART(name, type, n, part) add(c, name, type, n, copy->part, made ? copy->part : NULL, &c->copy.part)
    PART("8-bit copy", BYTES, array_count(c->s, p, ARRAY_KI), codes);
    PART("its scales", WORDS, n, scale);
    PART("its reach", WORDS, n, reach);
    PART("its error", WORDS, n, error);
    if (made)
        PART("its least", WORDS, n, least);
#undef PART
}

/* What a kernel that screens reads beside its keys, and what it did. */
static void add_screening(call *c, const msa_arrays *given)
{
    if (given->index8)
        add_copy(c, given->index8, false);
    add(c, "screening", WORDS, sizeof *given->screening / 4, NULL, given->screening, &c->arrays.screening);
}

/* What the stage reads and writes, as stages.def has it. O is float32 here. */
static void add_arrays(call *c, msa_stage stage, const msa_arrays *given)
{
    const stage_line of = arrays_of(stage);
    for (array_id a = 0; a < ARRAY_N; a++) {
        void *at = array_get(given, a);
        if (!HAS(of.in | of.out, a))
            continue;
        add(c, array_name(a), array_element(a) == ELEMENT_HALF && a != ARRAY_O ? BF16 : WORDS,
            array_count(c->s, c->pages, a), HAS(of.in, a) ? at : NULL, HAS(of.out, a) ? at : NULL,
            array_place(&c->arrays, a));
    }
    if (HAS(of.in, ARRAY_KI) && HAS(of.out, ARRAY_IDS))
        add_screening(c, given);
    if (stage == MSA_STAGE_KL)
        add(c, "loss", WORDS, sizeof *given->loss / 4, NULL, given->loss, &c->arrays.loss);
    c->arrays.weight = given->weight;
}

/* Whether something is missing. Kernels recompute nothing of what the forward pass leaves, but for the
 * index's log-sum-exp. */
static bool is_missing(msa_stage stage, const msa_arrays *a)
{
    const bool gradient = stage == MSA_STAGE_BACKWARD || stage == MSA_STAGE_DENSE_BACKWARD;
    return arrays_missing(stage, a) || (gradient && (!a->o || !a->lse)) ||
           (stage == MSA_STAGE_KL && (!a->lse || !a->loss || !a->dqi != !a->dki)) ||
           (stage == MSA_STAGE_DECODE && !a->ki && !a->pages.ki8);
}

static msa_status check(msa_stage stage, const msa_shape *s, const msa_arrays *a)
{
    if (!s || !a || is_missing(stage, a))
        return MSA_ERR_NULL;
    if (HAS(arrays_of(stage).in, ARRAY_IDS) && a->ids)
        return msa_check_ids(s, a->ids);
    return stage_is_step(stage) && has_pages(a) ? msa_check_pages(s, &a->pages) : msa_check_shape(s);
}

/* Makes room on the device for all that the call takes, and calls the kernel there. Threads of a process, such as ranks,
 * take turns. */
static msa_status call_there(const msa_device *device, const msa_plan *plan, call *c)
{
    static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
    const size_t bytes = lay_out(c);
    msa_status called = MSA_ERR_DEVICE;
    pthread_mutex_lock(&turn);
    unsigned char *base = device->alloc(bytes);
    if (base) {
        device->fill(base, 0xff, bytes);
        called = call_with_buffers(device, plan, c, base);
        device->free(base);
    }
    pthread_mutex_unlock(&turn);
    return called;
}

msa_status host_index8(const msa_device *device, const msa_shape *s, const msa_pages *p, const float *ki,
                       const msa_index8 *copy)
{
    call c = {.s = s};
    if (p)
        add_pages(&c, p);
    add(&c, "ki", BF16, array_count(s, p, ARRAY_KI), ki, NULL, &c.arrays.ki);
    add_copy(&c, copy, true);
    add_lengths(&c);
    return call_there(device, NULL, &c);
}

static msa_status call_kernel(const msa_device *device, msa_stage stage, const char *kernel,
                              const msa_shape *s, const msa_arrays *given)
{
    call c = {.s = s};
    msa_plan plan;
    const msa_status status = msa_plan_make(&plan, device, kernel, s, MSA_F32);
    if (status != MSA_OK)
        return status;
    if (stage_is_step(stage) && has_pages(given))
        add_pages(&c, &given->pages);
    add_arrays(&c, stage, given);
    add_lengths(&c);
    add(&c, "workspace", WORDS, (int64_t)(plan.workspace + 3) / 4, NULL, &c, NULL);
    return call_there(device, &plan, &c);
}

/* ---- What a kernel takes otherwise than its stage is given -------------------------------------------- */

static msa_status call_by_block(const msa_device *device, const char *kernel, const msa_shape *s,
                                const msa_arrays *given)
{
    const int64_t n_blocks = msa_n_blocks(s), n = array_count(s, NULL, ARRAY_SCORES);
    msa_arrays own = *given;
    float *turned = malloc((size_t)n * sizeof *turned);
    if (!turned)
        return MSA_ERR_SIZE;
    for (int r = 0; r < s->n_kv_heads; r++)
        msa_scores_turn(s, given->scores, r, 0, n_blocks, turned + r * n_blocks * s->n_q);
    own.scores = turned;
    const msa_status status = call_kernel(device, MSA_STAGE_TOPK, kernel, s, &own);
    free(turned);
    return status;
}

/* With an index LSE of the selection, which a model that trains on the CPU does not keep, as the device will
 * see its inputs. With full support the device makes it. */
static msa_status call_with_index_lse(const msa_device *device, const char *kernel, const msa_shape *s,
                                      const msa_arrays *given)
{
    msa_arrays own = *given;
    float *made = malloc((size_t)array_count(s, NULL, ARRAY_INDEX_LSE) * sizeof *made);
    float *qi = bf16_copy(given->qi, array_count(s, NULL, ARRAY_QI)),
          *ki = bf16_copy(given->ki, array_count(s, NULL, ARRAY_KI));
    own.index_lse = made;
    msa_status status = made && qi && ki ? msa_index_lse(s, qi, ki, given->ids, made) : MSA_ERR_SIZE;
    free(qi);
    free(ki);
    if (status == MSA_OK)
        status = call_kernel(device, MSA_STAGE_KL, kernel, s, &own);
    free(made);
    return status;
}

static msa_status call_stage(const msa_device *device, msa_stage stage, const char *kernel,
                             const msa_shape *s, const msa_arrays *given)
{
    const msa_status status = check(stage, s, given);
    if (status != MSA_OK)
        return status;
    if (plan_takes(kernel) & TAKES_BY_BLOCK)
        return call_by_block(device, kernel, s, given);
    if (stage == MSA_STAGE_KL && given->ids && !given->index_lse)
        return call_with_index_lse(device, kernel, s, given);
    return call_kernel(device, stage, kernel, s, given);
}

/* ---- The table: a function for each kernel of each device --------------------------------------------- */

#define PRECISION_FLOAT32 MSA_BF16_INPUTS
#define PRECISION_BF16 MSA_BF16_WEIGHTS
#define PRECISION_PARTIALS MSA_BF16_PARTIALS

static size_t no_workspace(const msa_shape *s)
{
    (void)s;
    return 0;
}

/* Such as call_simt_index_fused(), for simt_index_fused of kit/kernel.cuh. */
#define FUNCTION(device, get, stage, name)                                                                   \
    static msa_status call_##device##_##stage##_##name(const msa_shape *s, const msa_arrays *a, void *work)  \
    {                                                                                                        \
        (void)work;                                                                                          \
        return call_stage(get, (msa_stage)STAGE_##stage, #stage "/" #name, s, a);                            \
    }
#ifdef HAVE_SIMT
#define KERNEL(stage, name, sm, precision, takes, idea) FUNCTION(simt, msa_engine(), stage, name)
#include "../kernels.def"
#endif
#ifdef HAVE_CUDA
#define KERNEL(stage, name, sm, precision, takes, idea) FUNCTION(cuda, msa_gpu(), stage, name)
#include "../kernels.def"
#endif

#define ROW(device, stage_, name_, precision_, idea_, best_)                                                 \
    {.stage = (msa_stage)STAGE_##stage_,                                                                     \
     .name = #name_,                                                                                         \
     .backend = #device,                                                                                     \
     .idea = idea_,                                                                                          \
     .precision = PRECISION_##precision_,                                                                    \
     .best = best_,                                                                                          \
     .workspace = no_workspace,                                                                              \
     .run = call_##device##_##stage_##_##name_},

static msa_kernel simt_kernels[] = {
#ifdef HAVE_SIMT
#define KERNEL(stage, name, sm, precision, takes, idea) ROW(simt, stage, name, precision, idea, false)
#define BEST(stage, name, sm, precision, takes, idea) ROW(simt, stage, name, precision, idea, true)
#include "../kernels.def"
#endif
    {.name = NULL}};

static msa_kernel cuda_kernels[] = {
#ifdef HAVE_CUDA
#define KERNEL(stage, name, sm, precision, takes, idea) ROW(cuda, stage, name, precision, idea, false)
#define BEST(stage, name, sm, precision, takes, idea) ROW(cuda, stage, name, precision, idea, true)
#include "../kernels.def"
#endif
    {.name = NULL}};

const msa_kernel *host_kernels(const char *device)
{
    char name[KERNEL_NAME];
    msa_kernel *const kernels = strcmp(device, "simt") == 0 ? simt_kernels : cuda_kernels;
    for (msa_kernel *k = kernels; k->name && !k->constraints; k++)
        k->constraints = plan_text(kernel_name(k, name));
    return kernels;
}
