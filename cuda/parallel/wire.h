/**
 * @file wire.h
 * @brief A device of one rank, and how its memory travels.
 */
#ifndef MSA_WIRE_H
#define MSA_WIRE_H

#include "../../ref/parallel/transport.h"
#include "../host/msa_cuda.h"
#include "kernels.h"

/** Exchanges happen one after the other, each after the kernels that were enqueued before it. Kernels that are enqueued
 *  after it run meanwhile, until they wait for it. */
typedef struct wire {
    const msa_device *device;
    const parallel_kernels *kernels;
    transport *t; /**< its parts are device memory; it counts */
    int done;     /**< exchanges so far */
    /** Kernels enqueued from here on start when exchange number `i` is over. NULL: it is over when it returns. */
    msa_status (*wait)(struct wire *w, int i);
    /** To the host, once all exchanges so far are over; kernels go on. NULL: device->download(). */
    msa_status (*fetch)(struct wire *w, void *host, const void *device, size_t bytes);
} wire;

/** The engine, whose memory is the host's: with any transport. False: it is not in this build. */
bool wire_engine(wire *w, transport *t);
extern const bool wire_has_nccl; /**< whether this program was linked with it */
/** This process's GPU, over NCCL, which the ranks of `world` join together: NULL, or one line why not. A process that
 *  fails alone ends all. wire_close_nccl() is due. */
const char *wire_open_nccl(wire *w, transport *world);
void wire_close_nccl(wire *w);

/** Ranks that are threads have one engine: between these two it is this one's, but for the time of its exchanges. */
void wire_enter(void);
void wire_leave(void);

/** An exchange; *number is its own, for wire_wait(), unless NULL. */
msa_status wire_exchange(wire *w, traffic_kind kind, const transport_part *to, const transport_part *from,
                         int *number);
msa_status wire_wait(wire *w, int number);
msa_status wire_fetch(wire *w, void *host, const void *device, size_t bytes);

/** Device memory that grows as it has to. */
typedef struct buffer {
    void *p;
    size_t bytes;
} buffer;
/** At least so many bytes; what was in it is lost. */
msa_status wire_grow(const wire *w, buffer *b, size_t bytes);
/** The same, with bytes of the host in it. */
msa_status wire_put(const wire *w, buffer *b, const void *host, size_t bytes);
void wire_drop(const wire *w, buffer *b, int n);

/** Enqueues kernel "STAGE/NAME". @param out type of O @param work grows to what it takes */
msa_status wire_run(const wire *w, const char *kernel, const msa_shape *s, msa_dtype out, const msa_arrays *a,
                    buffer *work);

#endif
