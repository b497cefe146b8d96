/* Chapter 10: four tiny kernels, each for one count of the machine. */
#include "10_machine.h"

#include "../../cuda/kit/kernel.cuh"

/* [strided] */
template <class Word> __global__ void strided(const Word *in, Word *out, int stride) // a warp
{
    const int t = (int)threadIdx.x;
    st_global(out + t, ld_global(in + t * stride));
}
/* [strided] */

/* [banks] */
__global__ void banks(float *out, int stride) // a warp
{
    float *words = shared<float[32 * 33]>();
    const int t = (int)threadIdx.x;
    for (int i = t; i < 32 * 33; i += 32)
        st_shared(words + i, (float)i);
    __syncwarp();
    st_global(out + t, ld_shared(words + t * stride));
}
/* [banks] */

template <int n> struct Operands {
    alignas(1024) bf16 a[64 * 16], b[n * 16];
};
template <int n> __global__ void __launch_bounds__(128) product(float *out) // a warpgroup
{
    Operands<n> &s = shared<Operands<n>>();
    for (int i = (int)threadIdx.x; i < (64 + n) * 16; i += 128)
        st_shared(i < 64 * 16 ? s.a + i : s.b + (i - 64 * 16), __float2bfloat16_rn(1.0f));
    fence_proxy_async(); // what this thread wrote, for those who do not read by ordinary loads
    __syncthreads();
    /* [wgmma] */
    float d[n / 2]; // each of 128 threads holds n/2 of the 64 x n results
    const uint64_t a = wgmma_descriptor(s.a, 64 * 16, 128, Swizzle::none);
    const uint64_t b = wgmma_descriptor(s.b, n * 16, 128, Swizzle::none);
    wgmma_pin(d);
    wgmma_fence();
    wgmma_ss<n>(d, a, b, false); // issued: d = A B^T, 64 x 16 times 16 x n
    wgmma_commit();
    /* here the threads may do something else, but must not touch d */
    wgmma_wait<0>();
    wgmma_pin(d);
    /* [wgmma] */
    st_global(out + threadIdx.x, d[0]);
}

/* [stream] */
constexpr int tile = MACHINE_TILE_BYTES / sizeof(float); // 2048 numbers

template <int stages> struct Ring {
    alignas(128) float data[stages][tile];
    uint64_t full[stages];
};

/* Asks for tile i. */
template <int stages> PTX_INLINE void request(Ring<stages> &s, const float *in, int i)
{
    mbarrier_arrive_expect(&s.full[i % stages], sizeof s.data[0]);
    bulk_load(s.data[i % stages], in + i * tile, sizeof s.data[0], &s.full[i % stages]);
}

template <int stages> __global__ void __launch_bounds__(128) stream(const float *in, float *out, int tiles)
{
    Ring<stages> &s = shared<Ring<stages>>();
    const int t = (int)threadIdx.x;
    for (int i = 0; t == 0 && i < stages; i++)
        mbarrier_init(&s.full[i], 1);
    fence_mbarrier_init();
    __syncthreads();
    for (int i = 0; t == 0 && i < stages; i++)
        request(s, in, i);
    float sum = 0;
    for (int i = 0; i < tiles; i++) {
        mbarrier_wait(&s.full[i % stages], i / stages % 2); // tile i has come
        for (int c = t; c < tile; c += 128)
            sum += ld_shared(&s.data[i % stages][c]);
        fence_proxy_async(); // what ordinary loads read comes before what a copy writes
        __syncthreads();     // all have read it: its stage may be filled again
        if (t == 0 && i + stages < tiles)
            request(s, in, i + stages);
    }
    st_global(out + t, sum);
}
/* [stream] */

/* ---- For C -------------------------------------------------------------------------------------- */

template <class Word> static void one_warp(const void *in, void *out, int stride)
{
    LAUNCH((strided<Word>), dim3(1), dim3(32), 0, nullptr, (const Word *)in, (Word *)out, stride);
}
void machine_strided(int bytes, int stride, const void *in, void *out)
{
    CPU(simt::reset();)
    if (bytes == 2)
        one_warp<bf16>(in, out, stride);
    else if (bytes == 4)
        one_warp<float>(in, out, stride);
    else
        one_warp<float4>(in, out, stride);
}

void machine_banks(int stride, float *out)
{
    CPU(simt::reset();)
    LAUNCH(banks, dim3(1), dim3(32), 32 * 33 * sizeof(float), nullptr, out, stride);
}

void machine_product(int n, float *out)
{
    CPU(simt::reset();)
    with_int<8, 64, 128, 256>(n, [&](auto columns) {
        constexpr int c = columns.value;
        LAUNCH(product<c>, dim3(1), dim3(128), sizeof(Operands<c>), nullptr, out);
    });
}

void machine_stream(int stages, const float *in, float *out)
{
    CPU(simt::reset();)
    with_int<1, 2, 3, 4, 6>(stages, [&](auto count) {
        constexpr int p = count.value;
        LAUNCH(stream<p>, dim3(1), dim3(128), sizeof(Ring<p>), nullptr, in, out, MACHINE_TILES);
    });
}
