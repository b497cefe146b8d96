/**
 * @file kernel.c
 * @brief Running a student's kernel on the engine: see kernel.h.
 */
#include "kernel_run.h"

#include <stdio.h>

#include "access.h"

/* The student's kernel. */
extern const struct msa_entry simt_exercise_kernel;

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
    if (kernel_launch(r) != MSA_OK)
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
    kernel_run r = kernel_begin(msa_engine(), &simt_exercise_kernel, c);
    watching w;
    look(view, see, &w, &r);
    msa_engine_mode(2, mode[c->timing], exercise_seed());
    const kernel_result found = run_apart(&r, view ? &view->picture : NULL);
    simt_watch(NULL, NULL);
    exercise_true(found.n.threads > 0, "no kernel was launched");
    if (found.n.threads > 0)
        kernel_judge(&r);
    kernel_finish(&r);
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
        kernel_run r = kernel_begin(msa_engine(), &simt_exercise_kernel, c);
        msa_engine_mode(order < 2 ? order : 2, 2, exercise_seed() + (uint64_t)order);
        msa_engine_resident(AT_ONCE);
        if (run_apart(&r, NULL).n.threads > 0)
            kernel_judge(&r);
        msa_engine_resident(1);
        found[order] = kernel_wrote(&r, r.a.dq, n);
        kernel_finish(&r);
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

int kernel_end(const kernel_case *c, const touched *picture)
{
    kernel_on_gpu(c, wrong);
    return exercise_end(picture);
}
