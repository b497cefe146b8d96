/**
 * @file subject.h
 * @brief What `msa bench` times: a kernel with several copies of its inputs and one set of outputs, in the
 *        memory where it runs.
 *
 * A kernel of cuda/ finds bf16 inputs on its device and leaves O there as bf16, so that nothing but the
 * kernel is timed; others take the float32 arrays themselves. Steps of generation find their keys there in
 * pages of random order, if all sequences have equally many queries.
 */
#ifndef MSA_SUBJECT_H
#define MSA_SUBJECT_H

#include "../../cuda/host/msa_cuda.h"
#include "../judge/inputs.h"
#include "../judge/paging.h"
#include "../judge/selections.h"
#include "../stages.h"

#define SUBJECT_MAX_COPIES MSA_RECORDINGS
#define SUBJECT_KL_WEIGHT 0.75

typedef struct subject {
    const msa_kernel *kernel;
    const msa_shape *s;
    bool lse;   /**< also the log-sum-exps, where they are optional */
    bool kl;    /**< the KL loss and its gradients in the sweep of backward; on a device */
    bool small; /**< 8-bit index keys for a step of generation; on a device */
    bool half;  /**< keys, values and index keys stored as bf16 for a step of generation; of fast */
    bool codes; /**< an 8-bit copy of the index keys beside them; of a kernel that may screen by it */
    uint64_t seed;
    selection_kind kind; /**< of the ids, for the stages that take some */
    size_t cache;        /**< bytes of the cache that the copies have to outgrow */

    const msa_device *device; /**< NULL: the kernel runs on the host's arrays */
    msa_plan plan;
    bool recorded;        /**< subject_run() replays */
    unsigned in, out;     /**< sets of arrays */
    void *given[ARRAY_N]; /**< inputs as the reference takes them, rounded to what the kernel reads */
    void *copy[SUBJECT_MAX_COPIES][ARRAY_N];
    int n_copies;
    msa_index8 index8[SUBJECT_MAX_COPIES]; /**< with `codes` */
    double copy_ms;          /**< what one took to make, on the device or on one thread of the host */
    msa_screening screening; /**< what the last run says that it did; on a device subject_screening() asks */
    void *found[ARRAY_N]; /**< outputs, where the kernel runs */
    void *work;
    double loss;         /**< of KL, once subject_fetch_loss() has been called for a kernel on a device */
    double *device_loss; /**< where it leaves it */

    bool paged;
    paging g;                   /**< the layout of the pages, and their sizes */
    void *table, *lens, *scale; /**< the same on the device */
} subject;

/** Makes the inputs and finds room for everything. ::MSA_ERR_UNSUPPORTED: the kernel does not take the
 *  shape; ::MSA_ERR_SIZE: no memory. Whatever it returns, subject_close() is due. */
msa_status subject_open(subject *t);
void subject_close(subject *t);

/** Plans a kernel of a device anew, for what msa_tune() has changed. ::MSA_ERR_SIZE: no memory for its workspace. */
msa_status subject_plan(subject *t);

/** Runs the kernel on one copy of the inputs. On a device it may still be running afterwards. */
msa_status subject_run(subject *t, int copy);

/** Has a step of generation on a device recorded with each copy, as a server has it, and subject_run() replay that: else
 *  what its launches take the host would be timed. Others that record end it: see `recorded`. */
msa_status subject_record(subject *t);

/** Bytes of an array where the kernel runs. */
size_t subject_bytes(const subject *t, array_id a);

/** Fills the outputs with what no kernel writes. */
void subject_poison(subject *t);
/** Elements first .. first+n-1 of an output: 4-byte words as they are, O as floats. */
msa_status subject_fetch(const subject *t, array_id a, int64_t first, int64_t n, void *to);
/** Brings the loss of KL from the device to `loss`. */
msa_status subject_fetch_loss(subject *t);

/** Learns what a run on a device screened, by another one: counting takes it time. */
msa_status subject_screening(subject *t);

/** Whether the kernel may screen by an 8-bit copy. */
bool subject_takes_codes(const subject *t);
/** The 8-bit copy of copy c: made, or copied from the first. ::MSA_ERR_SIZE: no memory. */
msa_status subject_code(subject *t, int c);
void subject_drop_code(subject *t, int c);

#endif
