/**
 * @file ranks_device.h
 * @brief Calls on ranks whose kernels run on devices: cuda/parallel.
 */
#ifndef MSA_RANKS_DEVICE_H
#define MSA_RANKS_DEVICE_H

#include "ranks.h"

/** "simt", or "cuda" with NCCL, if that is where a call's keys lie and its attention runs: sparse, without gradients, all
 *  kernels of one device. NULL: the call is ref/parallel's, whose kernels take arrays of the host. */
const char *ranks_device(const msa_ops *ops, const cli_dealt *call);
traffic_call ranks_device_traffic(const parallel_call *c);
/** Runs it, and counts what was sent in t. *why: NULL, or one line on what was missing. */
msa_status ranks_device_attend(const char *device, transport *t, parallel_call *c, bool queries,
                               const char **why);

#endif
