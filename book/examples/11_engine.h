/* What 11_engine.cu offers to C: its kernels as entries that msa_device.run takes. Weak: a build without the
 * engine has none of them, and its program ends before it asks. */
#ifndef CHAPTER_ENGINE_H
#define CHAPTER_ENGINE_H

enum { KEYS = 128, WIDTH = 64 }; /* of a block; channels */
enum version {
    NAIVE,
    COPIED,
    SKEWED,
    NO_WAIT, /* from here on: COPIED, with a mistake */
    NO_BARRIER,
    EARLY_RETURN,
    TOO_MANY_BYTES
};

#ifdef __cplusplus
extern "C"
#else
#pragma weak engine_entry
#endif
const struct msa_entry *engine_entry(enum version v);

#endif
