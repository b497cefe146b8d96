/**
 * @file kernel_gpu.c
 * @brief Running a student's kernel on a GPU: verdict and time.
 */
#include "kernel_run.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../ref/bench/timing.h"
#include "../../ref/table/table.h"

/* The student's kernel there, in builds by `make cuda`. */
extern const struct msa_entry cuda_exercise_kernel __attribute__((weak));

#define LAUNCHES 21
#define WARM_UP 3
#define LARGER 32 /* times as many queries and keys are timed */

static msa_status time_run(kernel_run *r, timing *found)
{
    double ms[LAUNCHES];
    msa_status status = MSA_OK;
    for (int i = 0; i < WARM_UP && status == MSA_OK; i++)
        status = kernel_launch(r);
    if (status == MSA_OK)
        status = r->device->mark(0, NULL);
    for (int i = 0; i < LAUNCHES && status == MSA_OK; i++) {
        status = kernel_launch(r);
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

static void run_on(const msa_device *device, const struct msa_entry *entry, const kernel_case *c,
                   gpu_report *report)
{
    msa_about about;
    timing t;
    const int before = exercise_failures();
    device->about(&about);
    kernel_run r = kernel_begin(device, entry, c);
    if (kernel_launch(&r) == MSA_OK)
        kernel_judge(&r);
    kernel_finish(&r);
    if (exercise_failures() > before) {
        snprintf(report->line, sizeof report->line, "on %.100s: wrong", about.name);
        return;
    }
    kernel_case larger = *c;
    larger.shape.n_q *= LARGER;
    larger.shape.n_kv *= LARGER;
    r = kernel_begin(device, entry, &larger);
    if (time_run(&r, &t) == MSA_OK)
        snprintf(report->line, sizeof report->line,
                 "on %.100s: right; %lld queries and %lld keys take %.4f ms there, the median of %d launches",
                 about.name, (long long)larger.shape.n_q, (long long)larger.shape.n_kv, t.median, LAUNCHES);
    else
        exercise_true(false, "%s", device->trouble());
    kernel_finish(&r);
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

void kernel_on_gpu(const kernel_case *c, bool wrong)
{
    const msa_device *gpu = table_device("cuda");
    if (!gpu || !&cuda_exercise_kernel)
        printf("  no GPU here: this build has no GPU side (make cuda)\n");
    else if (wrong)
        printf("  not tried on the GPU: wrong on the engine\n");
    else
        try_gpu(gpu, c);
}
