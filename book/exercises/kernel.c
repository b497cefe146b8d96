/**
 * @file kernel.c
 * @brief Running a student's kernel on the engine and on a GPU: see kernel.h.
 */
#include "kernel.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../ref/judge/table.h"
#include "../../ref/bench/timing.h"
#include "access.h"

/* The student's kernel on both sides; the GPU's is there in builds by `make cuda`. */
extern const struct msa_entry simt_exercise_kernel;
extern const struct msa_entry cuda_exercise_kernel __attribute__((weak));

/* ---- Arrays on a device, bounds declared ----------------------------------------------------------- */

#define MOST_ARRAYS 9
#define MOST_WORKSPACE (1 << 30)

/* A case on a device. */
typedef struct kernel_run {
    const msa_device *device;
    const struct msa_entry *entry;
    const kernel_case *c;
    inputs in;    /* rounded to bf16 */
    int32_t *ids; /* of KERNEL_ATTEND and KERNEL_DQ */
    msa_arrays a;
    void *work;
    void *all[MOST_ARRAYS];
    int n;
} kernel_run;

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

/* What the forward pass leaves, from inputs that are rounded as the kernel's are. */
static void forward(const kernel_run *r, float *o, float *lse)
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
    forward(r, o, lse);
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

static kernel_run begin(const msa_device *device, const struct msa_entry *entry, const kernel_case *c)
{
    kernel_run r = {.device = device, .entry = entry, .c = c};
    const inputs raw = exercise_inputs(&c->shape, c->pattern);
    exercise_true(inputs_rounded(&r.in, &raw, &c->shape), "out of memory");
    give_arrays(&r);
    return r;
}

static msa_status launch(kernel_run *r)
{
    const msa_status status = r->device->run(r->entry, &r->c->shape, MSA_F32, &r->a, r->work, NULL);
    exercise_true(status == MSA_OK, "%s",
                  status == MSA_ERR_DEVICE ? r->device->trouble() : msa_strerror(status));
    return status;
}

static void end(kernel_run *r)
{
    r->device->declare(NULL, 0, NULL);
    for (int i = 0; i < r->n; i++)
        r->device->free(r->all[i]);
    inputs_free(&r->in);
}

/* ---- Verdict --------------------------------------------------------------------------------------- */

/* What the kernel wrote. */
static void *written(const kernel_run *r, const void *from, int64_t n)
{
    void *to = exercise_alloc(n * 4);
    exercise_true(r->device->download(to, from, (size_t)n * 4) == MSA_OK, "%s", r->device->trouble());
    return to;
}

static void judge_tensor(const kernel_run *r, array_id t, const float *expected, const float *found)
{
    const msa_shape *s = &r->c->shape;
    const verdict_dims n = verdict_dims_of(s, t);
    exercise_tensor(array_name(t), n, expected, written(r, found, n.d0 * n.d1 * n.d2),
                    verdict_float32(s, &r->in, t, 1));
}

static void judge_ids(const kernel_run *r, const int32_t *expected)
{
    bool ok;
    const msa_shape *s = &r->c->shape;
    const int32_t *found = written(r, r->a.ids, s->n_kv_heads * s->n_q * s->topk);
    const double tolerance = inputs_is_exact(r->in.pattern) ? 0 : 1;
    const verdict_selection v = verdict_ids(s, r->in.qi, r->in.ki, found, tolerance, 0.001, &ok);
    if (ok && !v.pass)
        exercise_ids(s, expected, found);
    exercise_true(ok && v.pass, "ids: too many ties swapped");
}

static void judge_gradient(const kernel_run *r)
{
    const msa_shape *s = &r->c->shape;
    const inputs *in = &r->in;
    const int64_t nk = s->n_kv * s->n_kv_heads * s->d_head;
    float *dq = exercise_floats(s->n_q * s->n_heads * s->d_head);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, s));
    exercise_true(msa_backward(s, in->q, in->k, in->v, r->ids, NULL, NULL, in->dout, dq, exercise_floats(nk),
                               exercise_floats(nk), work) == MSA_OK,
                  "the reference failed");
    judge_tensor(r, ARRAY_DQ, dq, r->a.dq);
}

static void judge_attention(const kernel_run *r)
{
    const msa_shape *s = &r->c->shape;
    float *o = exercise_floats(s->n_q * s->n_heads * s->d_head), *lse = exercise_floats(s->n_q * s->n_heads);
    forward(r, o, lse);
    judge_tensor(r, ARRAY_O, o, r->a.o);
    judge_tensor(r, ARRAY_LSE, lse, r->a.lse);
}

static void judge_index(const kernel_run *r)
{
    const msa_shape *s = &r->c->shape;
    float *scores = exercise_floats(s->n_kv_heads * s->n_q * msa_n_blocks(s));
    int32_t *ids = exercise_alloc(s->n_kv_heads * s->n_q * s->topk * (int64_t)sizeof *ids);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, s));
    exercise_true(msa_index(s, r->in.qi, r->in.ki, scores, ids, NULL, work) == MSA_OK,
                  "the reference failed");
    if (r->c->task == KERNEL_IDS)
        judge_ids(r, ids);
    else
        judge_tensor(r, ARRAY_SCORES, scores, r->a.scores);
}

static void judge(const kernel_run *r)
{
    if (r->c->task == KERNEL_ATTEND)
        judge_attention(r);
    else if (r->c->task == KERNEL_DQ)
        judge_gradient(r);
    else
        judge_index(r);
}

/* ---- On the engine --------------------------------------------------------------------------------- */

static bool wrong; /* found so far, bars aside */

typedef struct watching {
    kernel_view *view;
    kernel_watcher *see;
} watching;

static void pass_on(void *context, const simt_access *access)
{
    const watching *w = context;
    w->see(w->view, access);
}

static void look(kernel_view *view, kernel_watcher *see, watching *w, const kernel_run *r)
{
    if (!view)
        return;
    *w = (watching){view, see};
    view->k = (uint64_t)(uintptr_t)r->a.k;
    view->ki = (uint64_t)(uintptr_t)r->a.ki;
    view->ids = (uint64_t)(uintptr_t)r->a.ids;
    view->dq = (uint64_t)(uintptr_t)r->a.dq;
    view->work = (uint64_t)(uintptr_t)r->work;
    simt_watch(pass_on, w);
}

static double draw_timeline(touched *picture, double clocks_a_column)
{
    size_t n;
    double last = 0;
    const simt_event *e = simt_events(&n);
    for (size_t i = 0; i < n; i++, e++) {
        last = fmax(last, e->end);
        if (e->did < SIMT_WAIT_MBARRIER && e->did != SIMT_COPY)
            continue;
        const int64_t row = e->did == SIMT_COPY ? picture->rows - 1 : (int64_t)e->warp;
        for (int64_t c = (int64_t)(e->begin / clocks_a_column); (double)c * clocks_a_column < e->end; c++)
            touched_mark(picture, row, c);
    }
    return last;
}

/* In the answer's process. */
static void run_on_engine(kernel_run *r, kernel_result *found)
{
    access_begin();
    if (launch(r) != MSA_OK)
        return;
    found->n = *simt_counts();
    access_count(&found->n);
    found->clocks = r->c->timeline ? draw_timeline(r->c->timeline, r->c->column) : 0;
}

/* Lets the engine draw in the answer's process; the answer itself is no kernel's judge and does not see pictures. */
static float *lend(touched *picture)
{
    float *own = picture->count;
    picture->count = answer_shared(picture->rows * picture->columns * (int64_t)sizeof *own);
    return own;
}

static void take_back(touched *picture, float *own)
{
    memcpy(own, picture->count, (size_t)(picture->rows * picture->columns) * sizeof *own);
    picture->count = own;
}

/* What it left there. */
static kernel_result run_apart(kernel_run *r, touched *picture)
{
    static kernel_result *found;
    touched *timeline = r->c->timeline;
    float *own[2] = {picture ? lend(picture) : NULL, timeline ? lend(timeline) : NULL};
    if (!found)
        found = answer_shared(sizeof *found);
    memset(found, 0, sizeof *found);
    answer_progress(&simt_counts()->blocks);
    simt_record(timeline ? 0 : -1);
    ANSWER(run_on_engine(r, found));
    if (picture)
        take_back(picture, own[0]);
    if (timeline)
        take_back(timeline, own[1]);
    return *found;
}

kernel_result kernel_check(const kernel_case *c, kernel_view *view, kernel_watcher *see)
{
    const int before = exercise_failures();
    static const int mode[] = {[KERNEL_AT_RANDOM] = 2, [KERNEL_LATE] = 0, [KERNEL_EARLY] = 1};
    kernel_run r = begin(msa_engine(), &simt_exercise_kernel, c);
    watching w;
    look(view, see, &w, &r);
    msa_engine_mode(2, mode[c->timing], exercise_seed());
    const kernel_result found = run_apart(&r, view ? &view->picture : NULL);
    simt_watch(NULL, NULL);
    exercise_true(found.n.threads > 0, "no kernel was launched");
    if (found.n.threads > 0)
        judge(&r);
    end(&r);
    wrong = wrong || exercise_failures() > before;
    return found;
}

#define ORDERS 5
#define AT_ONCE 64 /* CTAs that run in turns */

/* How many elements of two arrays have different bits, and the first of these. */
static int64_t changed(const uint32_t *a, const uint32_t *b, int64_t n, int64_t *first)
{
    int64_t count = 0;
    for (int64_t i = n - 1; i >= 0; i--)
        if (a[i] != b[i])
            count++, *first = i;
    return count;
}

void kernel_repeat(const kernel_case *c)
{
    const int before = exercise_failures();
    const int64_t n = c->shape.n_q * c->shape.n_heads * c->shape.d_head;
    const float *found[ORDERS];
    for (int order = 0; order < ORDERS; order++) { /* forward, in reverse, at random */
        int64_t at = 0;
        kernel_run r = begin(msa_engine(), &simt_exercise_kernel, c);
        msa_engine_mode(order < 2 ? order : 2, 2, exercise_seed() + (uint64_t)order);
        msa_engine_resident(AT_ONCE);
        if (run_apart(&r, NULL).n.threads > 0)
            judge(&r);
        msa_engine_resident(1);
        found[order] = written(&r, r.a.dq, n);
        end(&r);
        const int64_t other = changed((const uint32_t *)found[0], (const uint32_t *)found[order], n, &at);
        exercise_true(
            other == 0,
            "dq in another order: %lld of %lld elements have other bits, first number %lld: %a, then %a",
            (long long)other, (long long)n, (long long)at, (double)found[0][at], (double)found[order][at]);
    }
    wrong = wrong || exercise_failures() > before;
}

uint64_t kernel_barriers(const simt_counters *n)
{
    return n->barriers + (n->mbarrier_waits + 31) / 32;
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
                {"bytes by bulk copies", n->bulk_bytes},
                {"shared-memory accesses", n->shared_accesses},
                {"bank conflicts", n->shared_conflicts},
                {"tensor multiply-adds", n->tensor_fma},
                {"barriers passed by warps", n->barriers}};
    for (size_t i = 0; i < sizeof line / sizeof *line; i++)
        printf("  %-28s %12llu\n", line[i].what, (unsigned long long)line[i].count);
    return true;
}

/* ---- On a GPU -------------------------------------------------------------------------------------- */

#define LAUNCHES 21
#define WARM_UP 3
#define LARGER 32 /* times as many queries and keys are timed */

static msa_status time_run(kernel_run *r, timing *found)
{
    double ms[LAUNCHES];
    msa_status status = MSA_OK;
    for (int i = 0; i < WARM_UP && status == MSA_OK; i++)
        status = launch(r);
    if (status == MSA_OK)
        status = r->device->mark(0, NULL);
    for (int i = 0; i < LAUNCHES && status == MSA_OK; i++) {
        status = launch(r);
        if (status == MSA_OK)
            status = r->device->mark(i + 1, NULL);
    }
    for (int i = 0; i < LAUNCHES && status == MSA_OK; i++)
        status = r->device->between(i, i + 1, &ms[i]);
    if (status == MSA_OK)
        *found = timing_summary(ms, LAUNCHES);
    return status;
}

/* What its process says in the end. */
typedef struct gpu_report {
    char line[256], failure[1024];
} gpu_report;

static void run_on(const msa_device *device, const struct msa_entry *entry, const kernel_case *c, gpu_report *report)
{
    msa_about about;
    timing t;
    const int before = exercise_failures();
    device->about(&about);
    kernel_run r = begin(device, entry, c);
    if (launch(&r) == MSA_OK)
        judge(&r);
    end(&r);
    if (exercise_failures() > before) {
        snprintf(report->line, sizeof report->line, "on %.100s: wrong", about.name);
        return;
    }
    kernel_case larger = *c;
    larger.shape.n_q *= LARGER;
    larger.shape.n_kv *= LARGER;
    r = begin(device, entry, &larger);
    if (time_run(&r, &t) == MSA_OK)
        snprintf(report->line, sizeof report->line,
                 "on %.100s: right; %lld queries and %lld keys take %.4f ms there, the median of %d launches",
                 about.name, (long long)larger.shape.n_q, (long long)larger.shape.n_kv, t.median, LAUNCHES);
    else
        exercise_true(false, "%s", device->trouble());
    end(&r);
}

/* In a process of its own too, though one with the rights that a driver needs. */
static void try_gpu(const msa_device *gpu, const kernel_case *c)
{
    gpu_report *report = answer_shared(sizeof *report);
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        exercise_place("on the GPU: ");
        if (gpu->missing())
            snprintf(report->line, sizeof report->line, "no GPU here: %s", gpu->missing());
        else
            run_on(gpu, &cuda_exercise_kernel, c, report);
        snprintf(report->failure, sizeof report->failure, "%s", exercise_failure());
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    if (report->line[0])
        printf("  %s\n", report->line);
    exercise_true(status == 0, "on the GPU: the answer ended the program");
    exercise_true(!report->failure[0], "%s", report->failure);
}

int kernel_end(const kernel_case *c, const touched *picture)
{
    const msa_device *gpu = table_device("cuda");
    if (!gpu || !&cuda_exercise_kernel)
        printf("  no GPU here: this build has no GPU side (make cuda)\n");
    else if (wrong)
        printf("  not tried on the GPU: wrong on the engine\n");
    else
        try_gpu(gpu, c);
    return exercise_end(picture);
}
