/**
 * @file roofline.h
 * @brief What a stage has to do at least, and how long that and what a kernel does would take a GPU.
 */
#ifndef MSA_ROOFLINE_H
#define MSA_ROOFLINE_H

#include "../../cuda/host/msa_cuda.h"

/** The least work of a stage on a shape. */
typedef struct roofline_need {
    double fma;   /**< as roofline_fma() */
    double bytes; /**< every array once, of K and V the blocks that some query chose */
    double order_bytes; /**< what its loop order moves (chapters 7 and 14), 0: it has no such formula */
    const char *order;  /**< which */
} roofline_need;

/** Multiply-adds of the visible pairs that are attended or scored; ids NULL: of all. */
double roofline_fma(msa_stage stage, const msa_shape *s, const int32_t *ids);

/** @param a the arrays that the kernel read and wrote, on the engine */
roofline_need roofline_of(const msa_kernel *kernel, const msa_shape *s, msa_dtype out, const msa_arrays *a);

/** A GPU's dense bf16 rate and its memory. */
typedef struct roofline_gpu {
    const char *name;
    double flops, bytes; /**< a second */
} roofline_gpu;

#define ROOFLINE_GPUS 2
extern const roofline_gpu roofline_gpus[ROOFLINE_GPUS];

#endif
