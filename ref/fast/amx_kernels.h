/* The kernels on tiles, twice: see amx.h. They take bf16 tensors, have been given what the stage needs, and leave
 * padding, and rows that float32 cannot hold, to amx.c. */
#ifndef MSA_AMX_KERNELS_H
#define MSA_AMX_KERNELS_H

#include "fast.h"

/* Whether this machine has tiles, and the system lets us use them. */
bool amx_at_hand(void);
/* Whether it has the vectors that the body for tiles is compiled for. */
bool amx_vectors(void);
/* For tests: which body is to run from now on. */
void amx_choose(bool tiles);

#define AMX_KERNEL(name)                                                                                     \
    msa_status name##_plain(const msa_shape *s, const msa_arrays *a, void *work);                            \
    size_t name##_plain_workspace(const msa_shape *s);                                                       \
    msa_status name##_tiles(const msa_shape *s, const msa_arrays *a, void *work);                            \
    size_t name##_tiles_workspace(const msa_shape *s);

AMX_KERNEL(dense)
AMX_KERNEL(index)

/* An output of a call. */
static inline void *writable(const void *x)
{
    return (void *)(uintptr_t)x;
}

#endif
