/* A case of kernel.h on a device, the engine or a GPU: its arrays, a launch, the verdict. */
#ifndef MSA_EXERCISE_KERNEL_RUN_H
#define MSA_EXERCISE_KERNEL_RUN_H

#include "kernel.h"

#define MOST_ARRAYS 9
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

/* Its inputs are there, bounds declared. */
kernel_run kernel_begin(const msa_device *device, const struct msa_entry *entry, const kernel_case *c);
msa_status kernel_launch(kernel_run *r);
void kernel_finish(kernel_run *r);

/* What the reference's forward pass leaves, from inputs that are rounded as the kernel's are. */
void kernel_forward(const kernel_run *r, float *o, float *lse);

/* n words that the kernel wrote, from an array of the run. */
void *kernel_wrote(const kernel_run *r, const void *from, int64_t n);
/* All that it wrote, against the reference. */
void kernel_judge(const kernel_run *r);

/* On a GPU, if there is one and the engine found nothing wrong: verdict and time. Prints the line about it. */
void kernel_on_gpu(const kernel_case *c, bool wrong);

#endif
