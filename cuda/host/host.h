/**
 * @file host.h
 * @brief The kernels of kernels.def as implementations of the stages: float32 arrays on the host in and out.
 *
 * Float tensors are rounded to bf16 on the way in and O leaves as float32. The device buffers are made for
 * the call and filled with NaNs, with fences between them, so that a kernel that leaves something unwritten
 * or writes outside is found out; for speed and for buffers that stay on the device there is msa_cuda.h.
 */
#ifndef MSA_HOST_H
#define MSA_HOST_H

#include "msa_cuda.h"

/** The kernels on the device "simt" or "cuda", in the order of kernels.def; the name of the last is NULL. Empty for
 *  a device that this build does not have. A kernel whose device is missing, or that failed there, returns
 *  ::MSA_ERR_DEVICE. */
const msa_kernel *host_kernels(const char *device);

/** msa_index8_make() of keys that lie here, for a copy here: what is in it goes along, and comes back where no complete
 *  block is. */
msa_status host_index8(const msa_device *device, const msa_shape *s, const msa_pages *p, const float *ki,
                       const msa_index8 *copy);

#endif
