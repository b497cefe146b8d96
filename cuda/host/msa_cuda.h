/**
 * @file msa_cuda.h
 * @brief The kernels as a C library: plan once, run often, on device pointers and a stream.
 *
 * The same kernels run on two devices: a GPU, and the CPU engine of simt/, whose device pointers are plain
 * ones. A caller asks msa_plan_make() for a kernel by the name that `msa kernels` lists, allocates the
 * workspace that the plan names, and calls msa_plan_run() as often as it likes: a run allocates nothing,
 * returns before the GPU has finished, and may be captured into a CUDA graph.
 *
 * Layouts are those of msa.h; queries, keys, values and index tensors are bf16, O is float32 or bf16, the
 * rest float32 or int32. Every array starts at a multiple of 128 bytes.
 */
#ifndef MSA_CUDA_H
#define MSA_CUDA_H

#include "../../ref/msa.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The arrays of a run are msa_arrays (msa.h) with addresses on the device. backward/kv_outer, hopper and
 * deterministic that are given `loss` too do the work of kl in the same sweep, from its inputs; others refuse
 * it. */

/** What kernels of decode and dense_decode take at most: queries of a sequence, and paged requests. */
#define MSA_STEP_QUERIES 16
#define MSA_STEP_REQUESTS 128

/** Element type of O. */
typedef enum msa_dtype { MSA_F32, MSA_BF16 } msa_dtype;

/** What a device is. */
typedef struct msa_about {
    char name[128];
    char driver[32], cuda[32]; /**< versions; empty where there is none */
    size_t cache;              /**< bytes of the last cache before memory; 0 if unknown */
} msa_about;

/** The parameters of tunables.def: MSA_TUNE_kv_outer_chunk and so on. */
enum {
#define TUNABLE(name, ...) MSA_TUNE_##name,
#include "../tunables.def"
    MSA_N_TUNABLES
};

/** A parameter that the time of a call depends on and its results do not. */
typedef struct msa_tunable {
    const char *name, *reason;
    int preset, on_engine, least, most;
    int tries[8]; /**< other values that are worth a look; 0 past the last */
} msa_tunable;
extern const msa_tunable msa_tunables[MSA_N_TUNABLES];

/** What a parameter is measured by. */
typedef struct msa_trial {
    int parameter;
    const char *kernel, *also, *ids; /**< "STAGE/NAME"; "kl", "int8" or ""; the distribution */
    const char *shape, *small;       /**< words as `msa bench` takes them; for the engine */
} msa_trial;
extern const msa_trial msa_trials[]; /**< parameter by parameter; the last has no kernel */

struct msa_plan;
#define MSA_MARKS 64       /* moments that a device remembers */
#define MSA_RECORDINGS 128 /* calls */

/** A place where the kernels run. */
typedef struct msa_device {
    const char *name;             /**< "simt" or "cuda" */
    const char *(*missing)(void); /**< NULL, or one line: why it cannot run */
    int (*sm)(void); /**< what it runs of kernels.def: up to 90 on Hopper and the engine, else 80 */
    void *(*alloc)(size_t bytes); /**< NULL if there is not that much */
    void (*free)(void *p);
    void (*fill)(void *p, int byte, size_t bytes);
    void (*declare)(const void *p, size_t bytes, const char *name); /**< NULL forgets all; see simt.h */
    msa_status (*upload)(void *device, const void *host, size_t bytes);
    msa_status (*download)(void *host, const void *device, size_t bytes); /**< after all runs before it */
    const char *(*trouble)(void);           /**< what went wrong in the last ::MSA_ERR_DEVICE */
    msa_status (*blame)(const char *name);  /**< makes that trouble "written outside NAME" */
    const struct msa_entry *const *entries; /**< in the order of kernels.def */
    msa_status (*run)(const struct msa_entry *entry, const msa_shape *s, msa_dtype out, const msa_arrays *a,
                      void *work, void *stream);
    size_t (*workspace)(const struct msa_entry *entry, const msa_shape *s, msa_dtype out);
    msa_status (*index8)(const msa_shape *s, const msa_arrays *a, void *stream); /**< msa_index8_make() */
    /* For benchmarks; the first three take their turn in the stream, or in the default one. */
    msa_status (*mark)(int i, void *stream); /**< remembers when the work before it is done */
    msa_status (*copy)(void *to, const void *from, size_t bytes); /**< from device to device */
    /** C = A B, bf16 matrices [n,n], by the vendor's library; ::MSA_ERR_UNSUPPORTED where there is none. */
    msa_status (*product)(int n, const uint16_t *a, const uint16_t *b, uint16_t *c);
    msa_status (*between)(int i, int j,
                          double *ms); /**< from mark i to mark j, once both have been reached */
    void (*about)(msa_about *about);
    /* A call that is repeated, what its arrays hold having changed: on a GPU a CUDA graph, captured once, after
     * a run that loads the kernels; on the engine a run. There is room for MSA_RECORDINGS of them. */
    msa_status (*record)(int i, const struct msa_plan *plan, const msa_arrays *a, void *work);
    msa_status (*replay)(int i);
    int *tuned; /**< the values of msa_tunables; msa_tune() sets them */
} msa_device;

/** Sets a parameter of a device: MSA_TUNE_kv_outer_chunk, for example. A plan is good for the values at which it was
 * made. @return ::MSA_ERR_SIZE for a value out of its range, or no such parameter */
msa_status msa_tune(const msa_device *device, int parameter, int value);
/** The value that it begins with there. */
int msa_tune_preset(const msa_device *device, int parameter);

/** The CPU engine; NULL in a build that found no C++ compiler. */
const msa_device *msa_engine(void);
/** How the engine runs what follows: threads of a block forward, in reverse, at random, or a warp as far
 *  ahead of the others as it can (0, 1, 2, 3), copies and products as late as allowed, at once or at random
 *  (0, 1, 2). A right kernel cannot tell. */
void msa_engine_mode(int order, int timing, uint64_t seed);
/** How many SMs it pretends to have, at most 132, as before the first call: with few, a small
 *  problem gives each a long piece of work. A plan is good for the number at which it was made. */
void msa_engine_sms(int n);
/** Dry, it runs no CTA: only what a call does on the host, so that arrays may be addresses of nothing. */
void msa_engine_dry(bool dry);
/** The furthest address that kernels have carved out of a workspace since this was last asked. */
uintptr_t msa_engine_reach(void);
/** How many CTAs of a launch it runs in turns, as those on a GPU's SMs do: which one reaches
 * memory first then follows from order and seed alone. 1, as before the first call: each by itself, and which
 * comes first is left to the host's threads. */
void msa_engine_resident(int n);
/** The current CUDA device, Ampere or newer; NULL but in builds by `make cuda`. */
const msa_device *msa_gpu(void);

/** One kernel bound to a device, a shape and an output type. */
typedef struct msa_plan {
    const msa_device *device;
    const struct msa_entry *entry;
    msa_shape shape; /**< cu_q and cu_kv have to outlive the plan; its len_q and len_kv only say that a run needs
                        those of msa_arrays */
    msa_dtype out;
    size_t workspace; /**< bytes of device memory that msa_plan_run() needs */
} msa_plan;

/** @param kernel "STAGE/NAME".
 *  @return ::MSA_ERR_UNSUPPORTED for a shape that it does not take, a name that is not in the table or one
 *  whose instructions the device lacks, ::MSA_ERR_DEVICE where the device is missing. */
msa_status msa_plan_make(msa_plan *plan, const msa_device *device, const char *kernel, const msa_shape *s,
                         msa_dtype out);

/** Scores [Hkv,T,B] of group r, blocks first..end-1, as [B,T]. */
void msa_scores_turn(const msa_shape *s, const float *scores, int r, int64_t first, int64_t end,
                     float *by_block);

/** Whether a kernel of topk takes its scores as [Hkv,B,T], group by group what msa_scores_turn() makes of
 * them. */
bool msa_takes_scores_by_block(const char *kernel);

/** Enqueues the kernel. @param work plan->workspace bytes on the device, 128-byte aligned
 *  @param stream a cudaStream_t, NULL for the default one; ignored by the engine */
msa_status msa_plan_run(const msa_plan *plan, const msa_arrays *arrays, void *work, void *stream);

/** Enqueues the making of an 8-bit copy of all complete blocks of index keys: msa_index8_keys() for a prompt whose keys
 *  are on a device. A step of decode keeps such a copy up to date; prefill, index/screened and decode/swapped screen by
 *  it. What is no complete block's is left alone. Of a prompt that comes in chunks the blocks that a chunk completes can
 *  be made alone: a shape of these keys, and addresses that start at their first.
 *  @param s      d_index 64 or 128, at most 65535 sequences; of its queries only that keys in pages have some
 *  @param arrays `ki` and where the copy goes, `index8`, both on the device; `len_kv` where the shape has it, and for
 *                keys in pages `pages` and `status`. Codes, scales and `least`, which may be NULL, are those of
 *                msa_index8_keys(), bit for bit; `reach` and `error` add squares in another order before they are
 *                rounded up, and may be the next float
 *  @return ::MSA_OK; ::MSA_ERR_NULL; what msa_check_shape() finds; ::MSA_ERR_UNSUPPORTED; ::MSA_ERR_DEVICE */
msa_status msa_index8_make(const msa_device *device, const msa_shape *s, const msa_arrays *arrays,
                           void *stream);

#ifdef __cplusplus
}
#endif
#endif
