/**
 * @file kernel.h
 * @brief The check of a kernel: on the CPU engine verdict, exact counts, and its accesses for a picture; on a
 * GPU, where there is one, verdict and time.
 */
#ifndef MSA_EXERCISE_KERNEL_H
#define MSA_EXERCISE_KERNEL_H

#include "../../cuda/msa_cuda.h"
#include "../../cuda/simt/counts.h"
#include "exercise.h"

/** What a kernel is asked for. */
typedef enum kernel_task {
    KERNEL_SCORES, /**< of blocks, from index queries and index keys */
    KERNEL_IDS,    /**< of the chosen blocks, from the same */
    KERNEL_ATTEND, /**< O and LSE, from queries, keys, values and ids */
    KERNEL_DQ      /**< dQ, from the same, O, LSE and dO */
} kernel_task;

/** When bulk copies land: a right kernel cannot tell. */
typedef enum kernel_timing { KERNEL_AT_RANDOM, KERNEL_LATE, KERNEL_EARLY } kernel_timing;

/** One run of the kernel. */
typedef struct kernel_case {
    msa_shape shape;
    inputs_pattern pattern;
    kernel_task task;
    inputs_selection selection; /**< of KERNEL_ATTEND and KERNEL_DQ */
    kernel_timing timing;
} kernel_case;

/** What a watcher of accesses knows. */
typedef struct kernel_view {
    touched picture;
    uint64_t k, ki, ids, dq, work; /**< where these arrays lie */
    int64_t nth[1024];             /**< of each thread, for the watcher to count in */
} kernel_view;

typedef void kernel_watcher(kernel_view *view, const simt_access *access);

/** Runs the student's kernel, `ENTRY(exercise, kernel, run, ...)`, on the engine and judges what it writes.
 *  The picture of the view is filled by `see`; both may be NULL. Returns the exact counts. */
simt_counters kernel_check(const kernel_case *c, kernel_view *view, kernel_watcher *see);

/** Runs the kernel in several orders of CTAs and threads, and demands equal bits of dQ. */
void kernel_repeat(const kernel_case *c);

/** Prints the counts; false, with a line that says so, where the engine stopped the run before there were
 * any. */
bool kernel_counts(const simt_counters *n);

/** Draws the timeline of the first CTA of the last run, which simt_record(0) asked for: a row of the picture
 * a warp, marked where it waits, and in the last row the copies under way. Returns when its last event ended,
 * in the model's clocks: see timeline() in simt.h. */
double kernel_timeline(touched *picture, double clocks_a_column);

/** exercise_end(), after a run of this case on a GPU: its verdict there, and its time on larger inputs; or
 * one line that says why there is none. */
int kernel_end(const kernel_case *c, const touched *picture);

#endif
