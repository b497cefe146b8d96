/**
 * @file timing.h
 * @brief How long a kernel takes, again and again on inputs that no cache holds; and what the machine can do.
 */
#ifndef MSA_TIMING_H
#define MSA_TIMING_H

#include "subject.h"

typedef struct timing {
    double median, min, max; /**< ms of a run */
    int repeats;
} timing;

/** Draws how far something is. */
typedef void timing_show(const char *what, int64_t done, int64_t total, const char *note);

/** Warms up, then runs at least 20 times and for a moment, but no longer than `seconds`, and never fewer than
 * 3 times. On a device by its own marks, else by the clock. @param show may be NULL */
msa_status timing_of(subject *t, double seconds, timing_show *show, timing *found);

/** Median, smallest and largest; sorts ms[n]. */
timing timing_summary(double *ms, int n);

/** Ceilings of the machine; 0 where they could not be measured, or are none of this machine's. */
typedef struct ceilings {
    double f32_tflops;      /**< float32 product of 2048 cubed; of a CPU */
    double bf16_tflops;     /**< bf16 product: of 8192 cubed on a GPU, of 2048 cubed by a CPU's tiles */
    double register_tflops; /**< tiles that are multiplied again and again, on all cores; of a CPU */
    bool tiles;             /**< a CPU's bf16 products run on tiles; if not, on their portable body */
    double copy_gbps;       /**< bytes read plus bytes written */
    double read_gbps;       /**< bytes that are only read; of a CPU */
} ceilings;

/** @param device  NULL: the CPU
 *  @param seconds for how long each is sustained */
ceilings ceilings_of(const msa_device *device, double seconds);

/** What a CPU is called, and the bytes of its last cache (32 MB where nothing tells). */
msa_about timing_about_cpu(void);

/** Seconds since some moment. */
double timing_now(void);

#endif
