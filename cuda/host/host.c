/* From float32 arrays on the host to a kernel on a device and back. */
#include "host.h"

#include <stdlib.h>
#include <string.h>

#include "plan.h"

/* ---- One call -------------------------------------------------------------------------------------- */

/* Float32 here and bf16 there, or 4 bytes or 1 on both sides. */
typedef enum element { BF16, WORDS, BYTES } element;

/* An array of the call: host memory to read or to write, and where its device address goes. */
typedef struct port {
    const char *name;
    element type;
    int64_t n;
    const void *in;
    void *out;
    void *target; /* a member of msa_arrays */
    size_t at;    /* offset on the device */
} port;

#define MAX_PORTS 18
#define ALIGN 128
#define FENCE 256

typedef struct call {
    const msa_shape *s;
    const msa_pages *pages; /* NULL: keys are contiguous */
    int32_t status;         /* what the device says of lengths and pages */
    msa_arrays arrays;
    port port[MAX_PORTS];
    int n;
} call;

static void add(call *c, const char *name, element type, int64_t n, const void *in, void *out, void *target)
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

static msa_status run_on(const msa_device *device, const msa_plan *plan, call *c, unsigned char *base)
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
        status = msa_plan_run(plan, &c->arrays, work, NULL);
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

static msa_status run(const msa_device *device, const char *kernel, call *c)
{
    msa_plan plan;
    const msa_status status = msa_plan_make(&plan, device, kernel, c->s, MSA_F32);
    if (status != MSA_OK)
        return status;
    add_lengths(c);
    add(c, "workspace", WORDS, (int64_t)(plan.workspace + 3) / 4, NULL, c, NULL);
    const size_t bytes = lay_out(c);
    unsigned char *base = device->alloc(bytes);
    if (!base)
        return MSA_ERR_DEVICE;
    device->fill(base, 0xff, bytes);
    const msa_status ran = run_on(device, &plan, c, base);
    device->free(base);
    return ran;
}

/* ---- One function a stage: the arrays of its signature ------------------------------------------------ */

static call begin(const msa_shape *s)
{
    return (call){.s = s};
}

static int64_t page_tokens(const call *c)
{
    return c->pages->page ? c->pages->page : c->s->block;
}

/* Rows of K, V and index keys. */
static int64_t n_keys(const call *c)
{
    return c->pages ? c->pages->n_pages * page_tokens(c) : c->s->n_kv;
}

static void add_main(call *c, const float *q, const float *k, const float *v, float *o, float *lse)
{
    const msa_shape *s = c->s;
    add(c, "q", BF16, s->n_q * s->n_heads * s->d_head, q, NULL, &c->arrays.q);
    add(c, "k", BF16, n_keys(c) * s->n_kv_heads * s->d_head, k, NULL, &c->arrays.k);
    add(c, "v", BF16, n_keys(c) * s->n_kv_heads * s->d_head, v, NULL, &c->arrays.v);
    add(c, "o", WORDS, s->n_q * s->n_heads * s->d_head, NULL, o, &c->arrays.o);
    add(c, "lse", WORDS, s->n_q * s->n_heads, NULL, lse, &c->arrays.lse);
}

static void add_index(call *c, const float *qi, const float *ki)
{
    add(c, "qi", BF16, c->s->n_q * c->s->n_kv_heads * c->s->d_index, qi, NULL, &c->arrays.qi);
    add(c, "ki", BF16, n_keys(c) * c->s->d_index, ki, NULL, &c->arrays.ki);
}

static void add_ids(call *c, const int32_t *in, int32_t *out)
{
    add(c, "ids", WORDS, c->s->n_kv_heads * c->s->n_q * c->s->topk, in, out, &c->arrays.ids);
}

static void add_scores(call *c, const float *in, float *out)
{
    add(c, "scores", WORDS, c->s->n_kv_heads * c->s->n_q * msa_n_blocks(c->s), in, out, &c->arrays.scores);
}

static msa_status run_dense(const msa_device *d, const char *kernel, const msa_shape *s, const float *q,
                            const float *k, const float *v, float *o, float *lse)
{
    if (!s || !q || !k || !v || !o)
        return MSA_ERR_NULL;
    call c = begin(s);
    add_main(&c, q, k, v, o, lse);
    return run(d, kernel, &c);
}

static msa_status run_index(const msa_device *d, const char *kernel, const msa_shape *s, const float *qi,
                            const float *ki, float *scores, int32_t *ids, float *index_lse)
{
    if (!s || !qi || !ki)
        return MSA_ERR_NULL;
    call c = begin(s);
    add_index(&c, qi, ki);
    add_scores(&c, NULL, scores);
    add_ids(&c, NULL, ids);
    add(&c, "index_lse", WORDS, s->n_kv_heads * s->n_q, NULL, index_lse, &c.arrays.index_lse);
    return run(d, kernel, &c);
}

static msa_status run_topk(const msa_device *d, const char *kernel, const msa_shape *s, const float *scores,
                           int32_t *ids)
{
    if (!s || !scores || !ids)
        return MSA_ERR_NULL;
    call c = begin(s);
    const bool by_block = msa_takes_scores_by_block(kernel);
    const int64_t n_blocks = msa_n_blocks(s), n = s->n_kv_heads * s->n_q * n_blocks;
    float *turned = by_block ? malloc((size_t)n * sizeof *turned) : NULL;
    if (by_block && !turned)
        return MSA_ERR_SIZE;
    for (int r = 0; r < s->n_kv_heads && by_block; r++)
        msa_scores_turn(s, scores, r, 0, n_blocks, turned + r * n_blocks * s->n_q);
    if (by_block)
        add(&c, "scores_by_block", WORDS, n, turned, NULL, &c.arrays.scores_by_block);
    else
        add_scores(&c, scores, NULL);
    add_ids(&c, NULL, ids);
    const msa_status status = run(d, kernel, &c);
    free(turned);
    return status;
}

static msa_status run_reverse(const msa_device *d, const char *kernel, const msa_shape *s, const int32_t *ids,
                              int32_t *first, uint32_t *entries, msa_item *items)
{
    if (!first || !entries || !items)
        return MSA_ERR_NULL;
    const msa_status status = msa_check_ids(s, ids);
    if (status != MSA_OK)
        return status;
    call c = begin(s);
    const int64_t n_first = msa_n_seqs(s) * s->n_kv_heads * (msa_n_blocks(s) + 1);
    add_ids(&c, ids, NULL);
    add(&c, "first", WORDS, n_first, NULL, first, &c.arrays.first);
    add(&c, "entries", WORDS, s->n_kv_heads * s->n_q * s->topk, NULL, entries, &c.arrays.entries);
    add(&c, "items", WORDS, 4 * msa_first_item(s, msa_n_seqs(s)), NULL, items, &c.arrays.items);
    return run(d, kernel, &c);
}

static msa_status run_sparse(const msa_device *d, const char *kernel, const msa_shape *s, const float *q,
                             const float *k, const float *v, const int32_t *ids, float *o, float *lse)
{
    if (!q || !k || !v || !o)
        return MSA_ERR_NULL;
    const msa_status status = msa_check_ids(s, ids);
    if (status != MSA_OK)
        return status;
    call c = begin(s);
    add_main(&c, q, k, v, o, lse);
    add_ids(&c, ids, NULL);
    return run(d, kernel, &c);
}

static msa_status run_prefill(const msa_device *d, const char *kernel, const msa_shape *s, const float *q,
                              const float *k, const float *v, const float *qi, const float *ki, int32_t *ids,
                              float *o, float *lse)
{
    if (!s || !q || !k || !v || !qi || !ki || !ids || !o)
        return MSA_ERR_NULL;
    call c = begin(s);
    add_main(&c, q, k, v, o, lse);
    add_index(&c, qi, ki);
    add_ids(&c, NULL, ids);
    return run(d, kernel, &c);
}

/* Of a paged call the pages; the device tells whether it likes them too. */
static msa_status add_pages(call *c, const msa_pages *p)
{
    const msa_shape *s = c->s;
    const msa_status status = p ? msa_check_pages(s, p) : msa_check_shape(s);
    if (status != MSA_OK || !p)
        return status;
    msa_pages *on_device = &c->arrays.pages;
    c->pages = p;
    on_device->n_pages = p->n_pages;
    on_device->page = p->page;
    const int64_t page = page_tokens(c), piece = page < s->block ? page : s->block;
    add(c, "page table", WORDS, s->n_kv / page, p->table, NULL, &on_device->table);
    add(c, "lengths", WORDS, msa_n_seqs(s), p->lens, NULL, &on_device->lens);
    if (p->ki8) {
        add(c, "8-bit ki", BYTES, n_keys(c) * s->d_index, p->ki8, NULL, &on_device->ki8);
        add(c, "scale", WORDS, n_keys(c) / piece, p->scale, NULL, &on_device->scale);
    }
    return MSA_OK;
}

static msa_status run_decode(const msa_device *d, const char *kernel, const msa_shape *s, const msa_pages *p,
                             const float *q, const float *k, const float *v, const float *qi, const float *ki,
                             int32_t *ids, float *o, float *lse)
{
    if (!s || !q || !k || !v || !qi || !(ki || (p && p->ki8)) || !ids || !o)
        return MSA_ERR_NULL;
    call c = begin(s);
    const msa_status status = add_pages(&c, p);
    if (status != MSA_OK)
        return status;
    add_main(&c, q, k, v, o, lse);
    add_index(&c, qi, ki);
    add_ids(&c, NULL, ids);
    return run(d, kernel, &c);
}

static msa_status run_dense_decode(const msa_device *d, const char *kernel, const msa_shape *s,
                                   const msa_pages *p, const float *q, const float *k, const float *v,
                                   float *o, float *lse)
{
    if (!s || !q || !k || !v || !o)
        return MSA_ERR_NULL;
    call c = begin(s);
    const msa_status status = add_pages(&c, p);
    if (status != MSA_OK)
        return status;
    add_main(&c, q, k, v, o, lse);
    return run(d, kernel, &c);
}

/* Full support has no ids. */
static msa_status check_support(const msa_shape *s, const int32_t *ids)
{
    return ids ? msa_check_ids(s, ids) : msa_check_shape(s);
}

static msa_status run_backward(const msa_device *d, const char *kernel, const msa_shape *s, const float *q,
                               const float *k, const float *v, const int32_t *ids, const float *o,
                               const float *lse, const float *dout, float *dq, float *dk, float *dv)
{
    if (!q || !k || !v || !o || !lse || !dout || !dq || !dk || !dv)
        return MSA_ERR_NULL;
    const msa_status status = check_support(s, ids);
    if (status != MSA_OK)
        return status;
    call c = begin(s);
    const int64_t nq = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head;
    add_main(&c, q, k, v, NULL, NULL);
    add_ids(&c, ids, NULL);
    add(&c, "o", WORDS, nq, o, NULL, &c.arrays.o);
    add(&c, "lse", WORDS, s->n_q * s->n_heads, lse, NULL, &c.arrays.lse);
    add(&c, "dout", BF16, nq, dout, NULL, &c.arrays.dout);
    add(&c, "dq", WORDS, nq, NULL, dq, &c.arrays.dq);
    add(&c, "dk", WORDS, nk, NULL, dk, &c.arrays.dk);
    add(&c, "dv", WORDS, nk, NULL, dv, &c.arrays.dv);
    return run(d, kernel, &c);
}

static msa_status run_dense_backward(const msa_device *d, const char *kernel, const msa_shape *s,
                                     const float *q, const float *k, const float *v, const float *o,
                                     const float *lse, const float *dout, float *dq, float *dk, float *dv)
{
    return run_backward(d, kernel, s, q, k, v, NULL, o, lse, dout, dq, dk, dv);
}

static float *rounded(const float *x, int64_t n)
{
    float *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; y && i < n; i++)
        y[i] = msa_bf16(x[i]);
    return y;
}

/* The index's log-sum-exp over a selection as the device will see its inputs. */
static msa_status round_index_lse(const msa_shape *s, const float *qi, const float *ki, const int32_t *ids,
                                  float *index_lse)
{
    float *qi16 = rounded(qi, s->n_q * s->n_kv_heads * s->d_index), *ki16 = rounded(ki, s->n_kv * s->d_index);
    const msa_status status =
        qi16 && ki16 && index_lse ? msa_index_lse(s, qi16, ki16, ids, index_lse) : MSA_ERR_SIZE;
    free(qi16);
    free(ki16);
    return status;
}

static msa_status run_kl(const msa_device *d, const char *kernel, const msa_shape *s, const float *q,
                         const float *k, const float *qi, const float *ki, const int32_t *ids,
                         const float *lse, const float *index_lse, double weight, double *loss, float *dqi,
                         float *dki)
{
    if (!q || !k || !qi || !ki || !lse || !loss || !dqi != !dki)
        return MSA_ERR_NULL;
    msa_status status = check_support(s, ids);
    if (status != MSA_OK)
        return status;
    if (ids &&
        !index_lse) { /* a model that trains on the CPU keeps none; with full support the device makes it */
        float *made = malloc((size_t)(s->n_kv_heads * s->n_q) * sizeof *made);
        status = round_index_lse(s, qi, ki, ids, made);
        if (status == MSA_OK)
            status = run_kl(d, kernel, s, q, k, qi, ki, ids, lse, made, weight, loss, dqi, dki);
        free(made);
        return status;
    }
    call c = begin(s);
    add_main(&c, q, k, NULL, NULL, NULL);
    add_index(&c, qi, ki);
    add_ids(&c, ids, NULL);
    add(&c, "lse", WORDS, s->n_q * s->n_heads, lse, NULL, &c.arrays.lse);
    add(&c, "index_lse", WORDS, s->n_kv_heads * s->n_q, index_lse, NULL, &c.arrays.index_lse);
    add(&c, "loss", WORDS, sizeof *loss / 4, NULL, loss, &c.arrays.loss);
    add(&c, "dqi", WORDS, s->n_q * s->n_kv_heads * s->d_index, NULL, dqi, &c.arrays.dqi);
    add(&c, "dki", WORDS, s->n_kv * s->d_index, NULL, dki, &c.arrays.dki);
    c.arrays.weight = weight;
    return run(d, kernel, &c);
}

/* ---- The table: for each kernel of each side a function of its stage's signature --------------------------
 */

#define TAKES_dense                                                                                          \
    (const msa_shape *s, const float *q, const float *k, const float *v, float *o, float *lse, void *work)
#define GIVES_dense s, q, k, v, o, lse
#define TAKES_index                                                                                          \
    (const msa_shape *s, const float *qi, const float *ki, float *scores, int32_t *ids, float *index_lse,    \
     void *work)
#define GIVES_index s, qi, ki, scores, ids, index_lse
#define TAKES_topk (const msa_shape *s, const float *scores, int32_t *ids, void *work)
#define GIVES_topk s, scores, ids
#define TAKES_reverse                                                                                        \
    (const msa_shape *s, const int32_t *ids, int32_t *first, uint32_t *entries, msa_item *items, void *work)
#define GIVES_reverse s, ids, first, entries, items
#define TAKES_sparse                                                                                         \
    (const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids, float *o,       \
     float *lse, void *work)
#define GIVES_sparse s, q, k, v, ids, o, lse
#define TAKES_prefill                                                                                        \
    (const msa_shape *s, const float *q, const float *k, const float *v, const float *qi, const float *ki,   \
     int32_t *ids, float *o, float *lse, void *work)
#define GIVES_prefill s, q, k, v, qi, ki, ids, o, lse
#define TAKES_decode                                                                                         \
    (const msa_shape *s, const msa_pages *p, const float *q, const float *k, const float *v,                 \
     const float *qi, const float *ki, int32_t *ids, float *o, float *lse, void *work)
#define GIVES_decode s, p, q, k, v, qi, ki, ids, o, lse
#define TAKES_dense_decode                                                                                   \
    (const msa_shape *s, const msa_pages *p, const float *q, const float *k, const float *v, float *o,       \
     float *lse, void *work)
#define GIVES_dense_decode s, p, q, k, v, o, lse
#define TAKES_backward                                                                                       \
    (const msa_shape *s, const float *q, const float *k, const float *v, const int32_t *ids, const float *o, \
     const float *lse, const float *dout, float *dq, float *dk, float *dv, void *work)
#define GIVES_backward s, q, k, v, ids, o, lse, dout, dq, dk, dv
#define TAKES_dense_backward                                                                                 \
    (const msa_shape *s, const float *q, const float *k, const float *v, const float *o, const float *lse,   \
     const float *dout, float *dq, float *dk, float *dv, void *work)
#define GIVES_dense_backward s, q, k, v, o, lse, dout, dq, dk, dv
#define TAKES_kl                                                                                             \
    (const msa_shape *s, const float *q, const float *k, const float *qi, const float *ki,                   \
     const int32_t *ids, const float *lse, const float *index_lse, double weight, double *loss, float *dqi,  \
     float *dki, void *work)
#define GIVES_kl s, q, k, qi, ki, ids, lse, index_lse, weight, loss, dqi, dki

#define PRECISION_FLOAT32 MSA_BF16_INPUTS
#define PRECISION_BF16 MSA_BF16_WEIGHTS
#define PRECISION_PARTIALS MSA_BF16_PARTIALS

static size_t no_workspace(const msa_shape *s)
{
    (void)s;
    return 0;
}

#define FUNCTION(side, device, stage, name)                                                                  \
    static msa_status side##_##stage##_##name TAKES_##stage                                                  \
    {                                                                                                        \
        (void)work;                                                                                          \
        return run_##stage(device, #stage "/" #name, GIVES_##stage);                                         \
    }
#define ROW(side, stage_, name_, precision_, idea_)                                                          \
    {.stage = STAGE_##stage_,                                                                                \
     .name = #name_,                                                                                         \
     .backend = #side,                                                                                       \
     .constraints = TAKEN_##stage_,                                                                          \
     .idea = idea_,                                                                                          \
     .precision = PRECISION_##precision_,                                                                    \
     .workspace = no_workspace,                                                                              \
     .stage_ = side##_##stage_##_##name_},

#ifdef HAVE_SIMT
#define KERNEL(stage, name, sm, precision, idea) FUNCTION(simt, msa_engine(), stage, name)
#include "../kernels.def"
#undef KERNEL
#endif
#ifdef HAVE_CUDA
#define KERNEL(stage, name, sm, precision, idea) FUNCTION(cuda, msa_gpu(), stage, name)
#include "../kernels.def"
#undef KERNEL
#endif

const msa_kernel msa_simt_kernels[] = {
#ifdef HAVE_SIMT
#define KERNEL(stage, name, sm, precision, idea) ROW(simt, stage, name, precision, idea)
#include "../kernels.def"
#undef KERNEL
#endif
    {.name = NULL}};

const msa_kernel msa_cuda_kernels[] = {
#ifdef HAVE_CUDA
#define KERNEL(stage, name, sm, precision, idea) ROW(cuda, stage, name, precision, idea)
#include "../kernels.def"
#undef KERNEL
#endif
    {.name = NULL}};
