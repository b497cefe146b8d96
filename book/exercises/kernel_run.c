/**
 * @file kernel_run.c
 * @brief The arrays of a student's kernel on a device, bounds declared, and its launch: see kernel_run.h.
 */
#include "kernel_run.h"

#include <stdio.h>

#define MOST_WORKSPACE (1 << 30)

static void *declared(kernel_run *r, void *p, int64_t bytes, const char *name)
{
    r->device->declare(p, (size_t)bytes, name);
    if (r->device != msa_engine())
        r->all[r->n++] = p;
    return p;
}

static void *on_gpu(const kernel_run *r, int64_t bytes)
{
    void *p = r->device->alloc((size_t)bytes);
    if (!p) {
        fprintf(stderr, "exercise: out of memory\n");
        exit(2);
    }
    r->device->fill(p, 0xff, (size_t)bytes);
    return p;
}

/* As cudaMalloc aligns. */
static int64_t whole(int64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static void *fresh(kernel_run *r, int64_t bytes, const char *name)
{
    void *p = r->device == msa_engine() ? answer_wanted(whole(bytes), name) : on_gpu(r, bytes);
    return declared(r, p, bytes, name);
}

static void *sent(kernel_run *r, const void *from, int64_t bytes, const char *name)
{
    void *p = r->device == msa_engine() ? answer_given(whole(bytes), name) : on_gpu(r, bytes);
    declared(r, p, bytes, name);
    exercise_true(r->device->upload(p, from, (size_t)bytes) == MSA_OK, "%s", r->device->trouble());
    return p;
}

static const uint16_t *as_bf16(kernel_run *r, const float *x, int64_t n, const char *name)
{
    uint16_t *y = exercise_alloc(n * 2);
    for (int64_t i = 0; i < n; i++)
        y[i] = msa_bf16_bits(x[i]);
    return sent(r, y, n * 2, name);
}

void kernel_forward(const kernel_run *r, float *o, float *lse)
{
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &r->c->shape));
    exercise_true(msa_sparse(&r->c->shape, r->in.q, r->in.k, r->in.v, r->ids, o, lse, work) == MSA_OK,
                  "the reference failed");
}

/* Beside those of KERNEL_ATTEND; there O and LSE are the kernel's to write. */
static void give_gradients(kernel_run *r)
{
    const msa_shape *s = &r->c->shape;
    const int64_t rows = s->n_q * s->n_heads, n = rows * s->d_head;
    float *o = exercise_floats(n), *lse = exercise_floats(rows);
    kernel_forward(r, o, lse);
    r->device->upload(array_get(&r->a, ARRAY_O), o, (size_t)n * 4);
    r->device->upload(array_get(&r->a, ARRAY_LSE), lse, (size_t)rows * 4);
    r->a.dout = as_bf16(r, r->in.dout, n, "dout");
    r->a.dq = fresh(r, n * 4, "dq");
}

/* What the answer asks for, in its process: that function is its own too. On a GPU all of this is in one. */
static int64_t workspace(const kernel_run *r)
{
    static int64_t *bytes;
    if (r->device != msa_engine())
        return (int64_t)r->device->workspace(r->entry, &r->c->shape, MSA_F32);
    if (!bytes)
        bytes = answer_shared(sizeof *bytes);
    *bytes = 0;
    ANSWER(*bytes = (int64_t)r->device->workspace(r->entry, &r->c->shape, MSA_F32));
    const bool ok = *bytes >= 0 && *bytes <= MOST_WORKSPACE;
    exercise_true(ok, "a workspace of %lld bytes: expected at most %d", (long long)*bytes, MOST_WORKSPACE);
    return ok ? *bytes : 0;
}

static void give_arrays(kernel_run *r)
{
    const msa_shape *s = &r->c->shape;
    const int64_t rows = s->n_q * s->n_kv_heads, n_ids = rows * s->topk;
    if (r->c->task == KERNEL_ATTEND || r->c->task == KERNEL_DQ) {
        r->ids = exercise_alloc(n_ids * (int64_t)sizeof *r->ids);
        selection_draw(s, r->c->selection, exercise_seed(), r->ids);
        r->a = (msa_arrays){.q = as_bf16(r, r->in.q, s->n_q * s->n_heads * s->d_head, "q"),
                            .k = as_bf16(r, r->in.k, s->n_kv * s->n_kv_heads * s->d_head, "k"),
                            .v = as_bf16(r, r->in.v, s->n_kv * s->n_kv_heads * s->d_head, "v"),
                            .ids = sent(r, r->ids, n_ids * 4, "ids"),
                            .o = fresh(r, s->n_q * s->n_heads * s->d_head * 4, "o"),
                            .lse = fresh(r, s->n_q * s->n_heads * 4, "lse")};
        if (r->c->task == KERNEL_DQ)
            give_gradients(r);
    } else {
        r->a = (msa_arrays){.qi = as_bf16(r, r->in.qi, rows * s->d_index, "qi"),
                            .ki = as_bf16(r, r->in.ki, s->n_kv * s->d_index, "ki")};
        if (r->c->task == KERNEL_IDS)
            r->a.ids = fresh(r, n_ids * 4, "ids");
        else
            r->a.scores = fresh(r, rows * msa_n_blocks(s) * 4, "scores");
    }
    r->work = fresh(r, workspace(r), "work");
}

kernel_run kernel_begin(const msa_device *device, const struct msa_entry *entry, const kernel_case *c)
{
    kernel_run r = {.device = device, .entry = entry, .c = c};
    const inputs raw = exercise_inputs(&c->shape, c->pattern);
    exercise_true(inputs_rounded(&r.in, &raw, &c->shape), "out of memory");
    give_arrays(&r);
    return r;
}

/* The engine ends with ", seed N)". That seed is made of the run's, which the verdict names and grade.sh does not. */
static void tell_trouble(const char *text)
{
    const char *seed = strstr(text, ", seed ");
    const size_t n = seed ? (size_t)(seed - text) : strlen(text);
    exercise_true(false, "%.*s%s", (int)n, text, seed ? ")" : "");
}

msa_status kernel_launch(kernel_run *r)
{
    const msa_status status = r->device->run(r->entry, &r->c->shape, MSA_F32, &r->a, r->work, NULL);
    if (status != MSA_OK)
        tell_trouble(status == MSA_ERR_DEVICE ? r->device->trouble() : msa_strerror(status));
    return status;
}

void kernel_finish(kernel_run *r)
{
    r->device->declare(NULL, 0, NULL);
    for (int i = 0; i < r->n; i++)
        r->device->free(r->all[i]);
    inputs_free(&r->in);
}
