/**
 * @file every_instruction.cu
 * @brief Kernels that use every function of ptx.cuh once, for test_ptx.sh to compile. They compute nothing.
 */
#include "cuda/kit/fragment.cuh"
#include "cuda/kit/launch.cuh"
#include "cuda/kit/tensor_map.cuh"

struct Smem {
    alignas(1024) bf16 tile[64 * 64];
    alignas(16) float row[64];
    uint64_t full, empty;
};

__global__ void threads(float *x, uint32_t *flag)
{
    Smem &s = shared<Smem>();
    const unsigned t = threadIdx.x;
    st_shared(&s.row[t % 64], ld_global(&x[t]));
    bar_sync(0, blockDim.x);
    float v = ex2(ld_shared(&s.row[63 - t % 64])) + lg2(x[t]);
    v += (float)max3((int)t, (int)v, 7) + (float)min3(t, (uint32_t)v, 7);
    st_shared_if(v > 1, &s.full, (uint64_t)t);
    v = shfl_xor(v, 1) + shfl(v, 3) + shfl_up(v, 1) + (float)warp_ballot(v > 0);
    if (t % 32 < 16)
        v += shfl_xor(v, 1, 0xffff) + (float)warp_max(t, 0xffff);
    const uint32_t n = warp_max(t) + warp_min(t) + shared_u32(&s.row[0]) + pack_bf16(v, 1);
    if (t / 32 == 0)
        bar_arrive(1, 64);
    else if (t / 32 == 1)
        bar_sync(1, 64);
    if (elect_one())
        red_add(&x[0], v);
    while (ld_acquire(flag) != n) {
    }
    st_release(flag, n + 1);
    v += (float)atom_add_acq_rel(flag, 1);
    v += (float)mul_bf16x2(n, t) + (float)ld_global_if(v > 1, (const uint64_t *)x) +
         ld_global_if(v > 2, (const float4 *)x).w + ld_global_once((const float4 *)x).w;
    prefetch_l2(x + 32 * t);
    timeline_role("reader");
    timeline_mark("sum", 2);
    st_global(&x[t], v);
    grid_launch_dependents();
    grid_wait();
}

__global__ void clusters(float *x)
{
    Smem &s = shared<Smem>();
    float2 *const row = (float2 *)s.row;
    cluster_arrive();
    cluster_wait();
    st_remote(mapa(&row[threadIdx.x], blockIdx.x ^ 1), make_float2(x[threadIdx.x], 1));
    cluster_arrive();
    cluster_wait();
    x[threadIdx.x] = row[threadIdx.x].x;
}

__global__ void matrices(const bf16 *a, float *out)
{
    Smem &s = shared<Smem>();
    const unsigned t = threadIdx.x;
    cp_async_16(&s.tile[8 * t], a + 8 * t, 16);
    cp_async_4(&s.tile[1024 + 2 * t], a + 2 * t, t % 2 * 4);
    cp_async_commit();
    cp_async_wait<0>();
    uint32_t r2[2], r4[4];
    float d[4] = {};
    ldmatrix_x2(r2, &s.tile[8 * t]);
    ldmatrix_x4(r4, &s.tile[8 * t]);
    mma_m16n8k16(d, r4, r2);
    ldmatrix_x2_trans(r2, &s.tile[8 * t]);
    ldmatrix_x4_trans(r4, &s.tile[8 * t]);
    mma_m16n8k16(d, r4, r2);
    stmatrix_x4(&s.tile[8 * t], r4);
    stmatrix_x2_trans(&s.tile[8 * t], r2);
    for (int i = 0; i < 4; i++)
        out[4 * t + (unsigned)i] = d[i] + __bfloat162float(s.tile[t]);
}

__global__ void copies(const __grid_constant__ CUtensorMap map, float *x)
{
    Smem &s = shared<Smem>();
    if (threadIdx.x == 0) {
        tma_prefetch(&map);
        mbarrier_init(&s.full, 2);
        mbarrier_init(&s.empty, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&s.full, 4 * sizeof s.tile);
        mbarrier_arrive(&s.full);
        mbarrier_arrive(&s.empty, 1);
        tma_load_2d(s.tile, &map, &s.full, 0, 0);
        tma_load_3d(s.tile, &map, &s.full, 0, 0, 0);
        bulk_load(s.row, x, sizeof s.row, &s.full);
    }
    while (!mbarrier_try_wait(&s.empty, 0)) {
    }
    mbarrier_wait(&s.full, 1);
    fence_proxy_async();
    fence_proxy_async_global();
    __syncthreads();
    if (threadIdx.x == 0) {
        tma_store_2d(&map, s.tile, 0, 0);
        tma_store_once_2d(&map, s.tile, 0, 0);
        tma_reduce_add_2d(&map, s.tile, 0, 0);
        bulk_store(x, s.row, sizeof s.row);
        bulk_commit();
        bulk_wait_read<0>();
        bulk_wait<0>();
    }
}

template <int N> __global__ void __launch_bounds__(256, 1) products(float *out, const uint32_t *p)
{
    Smem &s = shared<Smem>();
    if (recomputed((int)threadIdx.x) < 128) {
        setmaxnreg_dec<40>();
        return;
    }
    setmaxnreg_inc<248>();
    float d[N / 2] = {};
    const uint32_t a[4] = {p[0], p[1], p[2], p[3]};
    const uint64_t k_major = wgmma_descriptor(s.tile, 16, 1024, Swizzle::b128),
                   mn_major = wgmma_descriptor(s.tile, 8192, 1024, Swizzle::b128);
    wgmma_pin(d);
    wgmma_fence();
    wgmma_ss<N>(d, k_major, wgmma_advanced(k_major, 32), true);
    wgmma_ss<N, 1, 1>(d, mn_major, mn_major, true);
    wgmma_rs<N, 0>(d, a, k_major, true);
    wgmma_rs<N, 1>(d, a, mn_major, true);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(d);
    for (int i = 0; i < N / 2; i++)
        out[128 * i + (int)threadIdx.x] = d[i];
}

template <int N> __global__ void __launch_bounds__(128, 1) integer_products(uint32_t *out)
{
    Smem &s = shared<Smem>();
    int32_t d[N / 2] = {};
    const uint64_t k_major = wgmma_descriptor(s.tile, 16, 1024, Swizzle::b128);
    wgmma_pin(d);
    wgmma_fence();
    wgmma_ss_int8<N>(d, k_major, k_major, true);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(d);
    for (int i = 0; i < N / 2; i++)
        out[128 * i + (int)threadIdx.x] = (uint32_t)d[i];
}

void launch_all(CUtensorMap &map, float *x, bf16 *a, uint32_t *flag)
{
    const uint64_t dim[] = {64, 64}, stride[] = {128};
    const uint32_t box[] = {64, 64};
    if (encode_tensor_map(&map, TensorType::bf16, 2, a, dim, stride, box, TensorSwizzle::b128))
        return;
    LAUNCH(threads, 1, 128, sizeof(Smem), nullptr, x, flag);
    LAUNCH_DEPENDENT(threads, 1, 128, sizeof(Smem), nullptr, x, flag);
    LAUNCH_CLUSTER(clusters, 2, 2, 32, sizeof(Smem), nullptr, x);
    LAUNCH(matrices, 1, 128, sizeof(Smem), nullptr, a, x);
    LAUNCH(copies, 1, 128, sizeof(Smem), nullptr, map, x);
    LAUNCH(products<8>, 1, 256, sizeof(Smem), nullptr, x, flag);
    LAUNCH(products<16>, 1, 256, sizeof(Smem), nullptr, x, flag);
    LAUNCH(products<32>, 1, 256, sizeof(Smem), nullptr, x, flag);
    LAUNCH(products<64>, 1, 256, sizeof(Smem), nullptr, x, flag);
    LAUNCH(products<128>, 1, 256, sizeof(Smem), nullptr, x, flag);
    LAUNCH(products<256>, 1, 256, sizeof(Smem), nullptr, x, flag);
    LAUNCH(integer_products<8>, 1, 128, sizeof(Smem), nullptr, flag);
    LAUNCH(integer_products<16>, 1, 128, sizeof(Smem), nullptr, flag);
    LAUNCH(integer_products<32>, 1, 128, sizeof(Smem), nullptr, flag);
    LAUNCH(integer_products<64>, 1, 128, sizeof(Smem), nullptr, flag);
    LAUNCH(integer_products<128>, 1, 128, sizeof(Smem), nullptr, flag);
}
