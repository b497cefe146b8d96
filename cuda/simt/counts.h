/**
 * @file counts.h
 * @brief What the engine counted and recorded, for programs in C: see Counters and timeline() in simt.h.
 */
#ifndef MSA_SIMT_COUNTS_H
#define MSA_SIMT_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Exact work of all launches since the last reset, the same on every machine. Only mbarrier_stalls depends
 *  on the order and timing that the engine was told to use. */
typedef struct simt_counters {
    uint64_t launches;
    uint64_t blocks, threads;            /**< CUDA's blocks (CTAs), and threads of all of them */
    uint64_t shared_bytes;               /**< dynamic shared memory of a CTA, the most of any launch */
    uint64_t load_bytes, load_sectors;   /**< global memory: bytes asked for, 32-byte sectors moved */
    uint64_t store_bytes, store_sectors; /**< reductions included */
    uint64_t shared_accesses;            /**< warp-wide shared loads and stores, by named helpers */
    uint64_t shared_conflicts;           /**< extra passes over the banks that these took */
    uint64_t tensor_fma;                 /**< multiply-adds of mma.sync and wgmma in bf16... */
    uint64_t tensor_int8;                /**< ... and of wgmma in 8-bit integers, which take half the time */
    uint64_t bulk_copies, bulk_bytes;    /**< TMA, either direction; whole boxes, as barriers count them */
    uint64_t barriers;                   /**< warps that passed a CTA or named barrier */
    uint64_t mbarrier_waits;             /**< threads that waited for an mbarrier phase... */
    uint64_t mbarrier_stalls;            /**< ...and did not find it complete */
} simt_counters;

/** Of the last run of a kernel. */
const simt_counters *simt_counts(void);

/** One load or store by a named helper. */
typedef struct simt_access {
    uint64_t address; /**< in global memory, or in the CTA's shared window, which starts at bank 0 */
    unsigned bytes;
    bool shared, write;
    uint64_t block; /**< of the grid, counted along x first */
    unsigned thread;
    unsigned line;         /**< of the kernel's source */
    uint32_t stamp;        /**< how many releases its warp counts; who comes after knows of more */
    const uint32_t *clock; /**< [32] how many releases of each warp the thread knows of */
} simt_access;

/** Shows every access from now on to see(context, access), a shared one that is refused too; NULL: to nobody.
 *  CTAs of one launch may call it at the same time. Bulk copies and products are not shown. */
void simt_watch(void (*see)(void *context, const simt_access *access), void *context);

/** simt::Did, in its order. */
typedef enum simt_did {
    SIMT_WORK,
    SIMT_COPY,
    SIMT_PRODUCT,
    SIMT_WAIT_MBARRIER,
    SIMT_WAIT_BARRIER,
    SIMT_WAIT_PRODUCT,
    SIMT_WAIT_COPY,
    SIMT_WAIT_LANES
} simt_did;

/** simt::Event, member by member. */
typedef struct simt_event {
    const char *kernel;
    uint64_t launch, block;
    unsigned warp;
    const char *role, *name;
    simt_did did;
    uint32_t object;
    uint64_t bytes;
    double busy, served, begin, end;
} simt_event;

/** Records a timeline of this CTA of every launch from now on; a negative one: of none. */
void simt_record(int64_t block);
/** The record of the last run, ordered by launch, CTA, warp and begin; valid until the next run. NULL: no
 *  memory for it. */
const simt_event *simt_events(size_t *n);

/** The nominal costs of the model that a picture has to name: see Costs in simt.h. */
typedef struct simt_model {
    double copy_latency, copy_bytes, tensor_fma;
} simt_model;
simt_model simt_costs(void);

#ifdef __cplusplus
}
#endif
#endif
