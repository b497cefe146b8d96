/**
 * @file kernel.h
 * @brief The check of a kernel: on the CPU engine verdict, exact counts, and its accesses for a picture; on a
 * GPU, where there is one, verdict and time.
 */
#ifndef MSA_EXERCISE_KERNEL_H
#define MSA_EXERCISE_KERNEL_H

#include "../../cuda/host/msa_cuda.h"
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
    selection_kind selection; /**< of KERNEL_ATTEND and KERNEL_DQ */
    kernel_timing timing;
    touched *timeline; /**< NULL, or where the first CTA's is drawn: a row a warp, marked where it waits, and in the
                            last row the copies under way, */
    double column;     /**< so many of the model's clocks a column */
} kernel_case;

/** What a run took. */
typedef struct kernel_result {
    simt_counters n; /**< no threads: the engine stopped it, or it never came to that */
    double clocks;   /**< when the last event of the timeline ended: see timeline() in simt.h */
} kernel_result;

/** What a watcher of accesses knows. */
typedef struct kernel_view {
    touched picture;
    uint64_t k, ki, ids, dq, work; /**< where these arrays lie */
    int64_t nth[1024];             /**< of each thread, for the watcher to count in */
} kernel_view;

typedef void kernel_watcher(kernel_view *view, const simt_access *access);

/** Runs the student's kernel, `ENTRY(exercise, kernel, run, ...)`, on the engine and in a process of its own, and
 *  judges what it writes. The picture of the view is filled by `see`; both may be NULL. */
kernel_result kernel_check(const kernel_case *c, kernel_view *view, kernel_watcher *see);

/** Runs the kernel in several orders of CTAs and threads, and demands equal bits of dQ. */
void kernel_repeat(const kernel_case *c);

/** Barriers that warps passed, mbarriers among them: a wait of a warp is one. */
uint64_t kernel_barriers(const simt_counters *n);

/** Prints the counts; false, with a line that says so, where the engine stopped the run before there were
 * any. */
bool kernel_counts(const simt_counters *n);

/** exercise_end(), after a run of this case on a GPU: its verdict there, and its time on larger inputs; or
 * one line that says why there is none. */
int kernel_end(const kernel_case *c, const touched *picture);

#endif
