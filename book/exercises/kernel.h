/**
 * @file kernel.h
 * @brief The check of an index kernel on the CPU engine: verdict, exact counts, and its accesses for a
 * picture.
 */
#ifndef MSA_EXERCISE_KERNEL_H
#define MSA_EXERCISE_KERNEL_H

#include "../../cuda/msa_cuda.h"
#include "../../cuda/simt/counts.h"
#include "exercise.h"

/** The student's kernel: `ENTRY(exercise, kernel, run, ...)`. */
extern const struct msa_entry simt_exercise_kernel;

/** What a watcher of accesses knows. */
typedef struct kernel_view {
    touched picture;
    uint64_t ki, ids, work; /**< where these arrays lie */
    int64_t nth[1024];      /**< of each thread, for the watcher to count in */
} kernel_view;

typedef void kernel_watcher(kernel_view *view, const simt_access *access);

/** Runs the kernel and judges what it writes: block scores, or ids where `ids` is set. The picture of the
 *  view is filled by `see`; both may be NULL. Returns the exact counts. */
simt_counters kernel_check(const msa_shape *s, inputs_pattern pattern, bool ids, kernel_view *view,
                           kernel_watcher *see);

/** Prints the counts; false, with a line that says so, where the engine stopped the run before there were
 * any. */
bool kernel_counts(const simt_counters *n);

#endif
