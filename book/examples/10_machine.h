/* What 10_machine.cu offers to C. Each call runs one CTA on the engine, and leaves its counts. Weak: a build
 * without the engine has none of them, and its program ends before it calls one. */
#ifndef MACHINE_H
#define MACHINE_H

#pragma weak machine_strided
#pragma weak machine_banks
#pragma weak machine_product
#pragma weak machine_stream

#ifdef __cplusplus
extern "C" {
#endif

/* A warp loads 32 words of 2, 4 or 16 bytes, `stride` words apart. */
void machine_strided(int bytes, int stride, const void *in, void *out);
/* A warp reads 32 words of shared memory, `stride` words apart. */
void machine_banks(int stride, float *out);
/* A warpgroup multiplies 64 x 16 by 16 x n: n is 8, 64, 128 or 256. */
void machine_product(int n, float *out);
/* Four warps add up tiles that copies bring into a ring of 1, 2, 3, 4 or 6 stages. */
#define MACHINE_TILES 48
#define MACHINE_TILE_BYTES 8192
void machine_stream(int stages, const float *in, float *out);

#ifdef __cplusplus
}
#endif
#endif
