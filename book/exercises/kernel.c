/**
 * @file kernel.c
 * @brief Running a student's index kernel on the engine: see kernel.h.
 */
#include "kernel.h"

#include <stdio.h>

/* ---- Arrays on the engine, bounds declared --------------------------------------------------------- */

static void *fresh(const msa_device *device, int64_t bytes, const char *name)
{
    void *p = device->alloc((size_t)bytes);
    if (!p) {
        fprintf(stderr, "exercise: out of memory\n");
        exit(2);
    }
    device->fill(p, 0xff, (size_t)bytes);
    device->declare(p, (size_t)bytes, name);
    return p;
}

static uint16_t *as_bf16(const msa_device *device, const float *x, int64_t n, const char *name)
{
    uint16_t *y = fresh(device, n * 2, name);
    for (int64_t i = 0; i < n; i++)
        y[i] = msa_bf16_bits(x[i]);
    return y;
}

/* ---- Verdict --------------------------------------------------------------------------------------- */

static void judge_scores(const msa_shape *s, const inputs *in, const float *found)
{
    float *scores = exercise_floats(s->n_kv_heads * s->n_q * msa_n_blocks(s));
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, s));
    exercise_true(msa_index(s, in->qi, in->ki, scores, NULL, NULL, work) == MSA_OK, "the reference failed");
    exercise_tensor("scores", (verdict_dims){s->n_kv_heads, s->n_q, msa_n_blocks(s)}, scores, found,
                    verdict_float32(s, in, VERDICT_SCORES, 1));
}

static void judge_ids(const msa_shape *s, const inputs *in, const int32_t *found)
{
    bool ok;
    const double tolerance = inputs_is_exact(in->pattern) ? 0 : 1;
    const verdict_selection v = verdict_ids(s, in->qi, in->ki, found, tolerance, 0.001, &ok);
    int32_t *ids = exercise_alloc(s->n_kv_heads * s->n_q * s->topk * (int64_t)sizeof *ids);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, s));
    exercise_true(msa_index(s, in->qi, in->ki, NULL, ids, NULL, work) == MSA_OK, "the reference failed");
    if (ok && !v.pass)
        exercise_ids(s, ids, found);
    exercise_true(ok && v.pass, "ids: too many ties swapped");
}

/* ---- A run ----------------------------------------------------------------------------------------- */

typedef struct watching {
    kernel_view *view;
    kernel_watcher *see;
} watching;

static void pass_on(void *context, const simt_access *access)
{
    const watching *w = context;
    w->see(w->view, access);
}

static void look(kernel_view *view, kernel_watcher *see, watching *w, const msa_arrays *a, const void *work)
{
    if (!view)
        return;
    *w = (watching){view, see};
    view->ki = (uint64_t)(uintptr_t)a->ki;
    view->ids = (uint64_t)(uintptr_t)a->ids;
    view->work = (uint64_t)(uintptr_t)work;
    simt_watch(pass_on, w);
}

simt_counters kernel_check(const msa_shape *s, inputs_pattern pattern, bool ids, kernel_view *view,
                           kernel_watcher *see)
{
    const msa_device *engine = msa_engine();
    const inputs raw = exercise_inputs(s, pattern);
    inputs in;
    const int64_t rows = s->n_q * s->n_kv_heads;
    exercise_true(inputs_rounded(&in, &raw, s), "out of memory");
    msa_arrays a = {.qi = as_bf16(engine, in.qi, rows * s->d_index, "qi"),
                    .ki = as_bf16(engine, in.ki, s->n_kv * s->d_index, "ki")};
    if (ids)
        a.ids = fresh(engine, rows * s->topk * 4, "ids");
    else
        a.scores = fresh(engine, rows * msa_n_blocks(s) * 4, "scores");
    const size_t bytes = engine->workspace(&simt_exercise_kernel, s, MSA_F32);
    void *work = fresh(engine, (int64_t)bytes, "work");
    watching w;
    look(view, see, &w, &a, work);
    msa_engine_mode(2, 2, exercise_seed());
    const msa_status status = engine->run(&simt_exercise_kernel, s, MSA_F32, &a, work, NULL);
    simt_watch(NULL, NULL);
    exercise_true(status == MSA_OK, "%s",
                  status == MSA_ERR_DEVICE ? engine->trouble() : msa_strerror(status));
    if (ids)
        judge_ids(s, &in, a.ids);
    else
        judge_scores(s, &in, a.scores);
    engine->declare(NULL, 0, NULL);
    void *const all[] = {(void *)a.qi, (void *)a.ki, a.ids, a.scores, work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        engine->free(all[i]);
    inputs_free(&in);
    return *simt_counts();
}

bool kernel_counts(const simt_counters *n)
{
    if (n->threads == 0) {
        printf("  the engine stopped the run: no counts\n");
        return false;
    }
    const struct {
        const char *what;
        uint64_t count;
    } line[] = {{"bytes read", n->load_bytes},
                {"32-byte sectors read", n->load_sectors},
                {"bytes written", n->store_bytes},
                {"32-byte sectors written", n->store_sectors},
                {"shared-memory accesses", n->shared_accesses},
                {"bank conflicts", n->shared_conflicts},
                {"tensor multiply-adds", n->tensor_fma},
                {"barriers passed by warps", n->barriers}};
    for (size_t i = 0; i < sizeof line / sizeof *line; i++)
        printf("  %-28s %12llu\n", line[i].what, (unsigned long long)line[i].count);
    return true;
}
