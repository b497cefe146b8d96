/* Running a kernel again and again. */
#include "timing.h"

#include <stdlib.h>
#include <time.h>

#define LEAST 3
#define ENOUGH 20
#define MOST 10000
#define MOMENT 1.0 /* seconds that short kernels are repeated for */
#define WARM_UP 0.2
#define BATCH_SECONDS 0.02

double timing_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Enqueues `n` runs on a device without waiting in between, so that a short kernel is not timed together with
 * the way to it; first .. first + n - 1 choose the copies. */
static msa_status run_marked(subject *t, int first, int n, double *ms)
{
    msa_status status = t->device->mark(0, NULL);
    for (int i = 0; i < n && status == MSA_OK; i++) {
        status = subject_run(t, (first + i) % t->n_copies);
        if (status == MSA_OK)
            status = t->device->mark(i + 1, NULL);
    }
    for (int i = 0; i < n && status == MSA_OK; i++)
        status = t->device->between(i, i + 1, &ms[i]);
    return status;
}

static msa_status run_clocked(subject *t, int first, int n, double *ms)
{
    msa_status status = MSA_OK;
    for (int i = 0; i < n && status == MSA_OK; i++) {
        const double start = timing_now();
        status = subject_run(t, (first + i) % t->n_copies);
        ms[i] = 1e3 * (timing_now() - start);
    }
    return status;
}

static msa_status run_some(subject *t, int first, int n, double *ms)
{
    return t->device ? run_marked(t, first, n, ms) : run_clocked(t, first, n, ms);
}

static int batch_of(double ms)
{
    const double n = BATCH_SECONDS * 1e3 / (ms + 1e-6);
    return n < 1 ? 1 : n < MSA_MARKS - 1 ? (int)n : MSA_MARKS - 1;
}

/* Whether n runs that took so many seconds say enough. */
static bool is_enough(int n, double elapsed, double seconds)
{
    return n >= LEAST && (elapsed >= seconds || (n >= ENOUGH && elapsed >= MOMENT));
}

static void tell(const subject *t, int n, double elapsed, double seconds, timing_show *show)
{
    const double by_time = elapsed / seconds, by_count = (double)n / ENOUGH,
                 share = by_time > by_count ? by_time : by_count;
    if (show)
        show(t->kernel->name, (int64_t)(1000 * (share < 1 ? share : 1)), 1000, "timing");
}

msa_status timing_of(subject *t, double seconds, timing_show *show, timing *found)
{
    double *ms = malloc((MOST + MSA_MARKS) * sizeof *ms), start = timing_now();
    msa_status status = ms ? subject_record(t) : MSA_ERR_SIZE;
    int n = 0;
    for (int i = 0;
         status == MSA_OK && (i == 0 || timing_now() - start < (seconds < WARM_UP ? seconds : WARM_UP)); i++)
        status = run_some(t, i, 1, ms);
    const int batch = status == MSA_OK ? batch_of(ms[0]) : 1;
    for (start = timing_now();
         status == MSA_OK && n < MOST && !is_enough(n, timing_now() - start, seconds);) {
        status = run_some(t, n, batch, ms + n);
        n += batch;
        tell(t, n, timing_now() - start, seconds, show);
    }
    if (status == MSA_OK)
        *found = timing_summary(ms, n);
    t->recorded = false;
    free(ms);
    return status;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

timing timing_summary(double *ms, int n)
{
    qsort(ms, (size_t)n, sizeof *ms, by_size);
    return (timing){(ms[(n - 1) / 2] + ms[n / 2]) / 2, ms[0], ms[n - 1], n};
}
