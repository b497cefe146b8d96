/**
 * @file sha256.h
 * @brief The sums by which a set of files says that it is whole (FIPS 180-4).
 */
#ifndef MSA_SHA256_H
#define MSA_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_TEXT 65 /* digits and a NUL */

typedef struct sha256 {
    uint32_t h[8];
    uint64_t bytes;
    unsigned char block[64];
} sha256;

void sha256_begin(sha256 *s);
void sha256_add(sha256 *s, const void *data, size_t bytes);
/** Writes 64 hexadecimal digits. */
void sha256_end(sha256 *s, char text[SHA256_TEXT]);

#endif
