/**
 * @file race.cu
 * @brief Kernels with plain accesses for test_race.sh: `race NAME` runs one in several orders and timings.
 *
 * ThreadSanitizer has to be silent about those called right_..., and to name one of the lines marked
 * "// BLAME: NAME" for the others.
 */
#include "cuda/kit/launch.cuh"
#include "cuda/kit/tensor_map.cuh"

#include <functional>
#include <map>
#include <string>
#include <vector>

using simt::options;

struct Smem {
    alignas(1024) bf16 tile[2][64 * 64];
    float x[128];
    uint64_t full[2], empty[2];
};
constexpr uint32_t tile_bytes = 64 * 64 * 2;

/* ---- Clusters ------------------------------------------------------------------------------------ */

PTX_INLINE void cluster_sync()
{
    cluster_arrive();
    cluster_wait();
}

__global__ void missing_cluster_barrier(float *out)
{
    Smem &s = shared<Smem>();
    const unsigned t = threadIdx.x;
    for (int i = 0; i < 3; i++) {
        cluster_sync();
        st_remote(mapa((const float2 *)&s.x[2 * t], ~blockIdx.x % 2), // BLAME: missing_cluster_barrier
                  make_float2((float)t, 1));
        out[64 * blockIdx.x + t] += s.x[2 * t]; // BLAME: missing_cluster_barrier
    }
    cluster_sync();
}

__global__ void right_cluster(float *out)
{
    Smem &s = shared<Smem>();
    const unsigned t = threadIdx.x;
    for (int i = 0; i < 3; i++) {
        cluster_sync();
        st_remote(mapa((const float2 *)&s.x[2 * t], ~blockIdx.x % 2), make_float2((float)t, 1));
        cluster_sync();
        out[64 * blockIdx.x + t] += s.x[2 * t];
    }
}

/* ---- Block barriers ------------------------------------------------------------------------------ */

__global__ void missing_barrier(float *out)
{
    Smem &s = shared<Smem>();
    const unsigned t = threadIdx.x;
    s.x[t] = (float)t;           // BLAME: missing_barrier
    out[t] = s.x[(t + 32) % 64]; // BLAME: missing_barrier
}

__global__ void missing_second_barrier(float *out)
{
    Smem &s = shared<Smem>();
    const unsigned t = threadIdx.x;
    for (int i = 0; i < 3; i++) {
        s.x[t] = (float)t; // BLAME: missing_second_barrier
        __syncthreads();
        out[t] += s.x[(t + 32) % 64]; // BLAME: missing_second_barrier
    }
}

__global__ void right_barriers(float *out)
{
    Smem &s = shared<Smem>();
    const unsigned t = threadIdx.x;
    for (int i = 0; i < 3; i++) {
        s.x[t] = (float)t;
        __syncthreads();
        out[t] += s.x[(t + 32) % 64];
        bar_sync(1, 64);
    }
    s.x[t] = out[t];
    __syncwarp();
    out[t] = s.x[t ^ 1] + shfl_xor(s.x[t], 2);
}

__global__ void same_global_word(float *out)
{
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        out[7] = (float)threadIdx.x; // BLAME: same_global_word
}

/* ---- Copies -------------------------------------------------------------------------------------- */

__device__ static void init(Smem &s, uint32_t readers)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&s.full[i], 1);
            mbarrier_init(&s.empty[i], readers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
}

__global__ void read_before_wait(const __grid_constant__ CUtensorMap map, float *out)
{
    Smem &s = shared<Smem>();
    init(s, 1);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.full[0], tile_bytes);
        tma_load_2d(s.tile[0], &map, &s.full[0], 0, 0); // BLAME: read_before_wait
    }
    __syncthreads();
    out[threadIdx.x] = __bfloat162float(s.tile[0][threadIdx.x]); // BLAME: read_before_wait
    mbarrier_wait(&s.full[0], 0);
}

/// A ring of two stages that thread 0 fills and three warps read.
__global__ void right_ring(const __grid_constant__ CUtensorMap map, float *out)
{
    Smem &s = shared<Smem>();
    init(s, 96);
    for (unsigned i = 0; i < 6 && threadIdx.x == 0; i++) {
        mbarrier_wait(&s.empty[i % 2], i / 2 % 2 ^ 1);
        mbarrier_arrive_expect(&s.full[i % 2], tile_bytes);
        tma_load_2d(s.tile[i % 2], &map, &s.full[i % 2], 0, 0);
    }
    if (threadIdx.x < 32)
        return;
    for (unsigned i = 0; i < 6; i++) {
        mbarrier_wait(&s.full[i % 2], i / 2 % 2);
        out[threadIdx.x] += __bfloat162float(s.tile[i % 2][threadIdx.x]);
        fence_proxy_async();
        mbarrier_arrive(&s.empty[i % 2]);
    }
}

__global__ void refill_too_early(const __grid_constant__ CUtensorMap map, float *out)
{
    Smem &s = shared<Smem>();
    init(s, 1);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.full[0], tile_bytes);
        tma_load_2d(s.tile[0], &map, &s.full[0], 0, 0);
    }
    mbarrier_wait(&s.full[0], 0);
    if (threadIdx.x >= 32)
        out[threadIdx.x] = __bfloat162float(s.tile[0][threadIdx.x]); // BLAME: refill_too_early
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.full[0], tile_bytes);
        tma_load_2d(s.tile[0], &map, &s.full[0], 0, 0); // BLAME: refill_too_early
    }
    mbarrier_wait(&s.full[0], 1);
}

__global__ void right_copies(const __grid_constant__ CUtensorMap map, float *out)
{
    Smem &s = shared<Smem>();
    const unsigned t = threadIdx.x;
    init(s, 1);
    cp_async_16(&s.tile[0][8 * t], out + 4 * t, 16);
    cp_async_commit();
    cp_async_wait<0>();
    s.tile[0][8 * t].bits++;
    __syncthreads();
    for (unsigned i = t; i < 64 * 64; i += 128)
        s.tile[1][i].bits = s.tile[0][8 * (t ^ 64)].bits;
    fence_proxy_async();
    __syncthreads();
    if (t == 0 && blockIdx.x == 0) {
        tma_store_2d(&map, s.tile[1], 0, 0);
        bulk_commit();
        bulk_wait<0>();
    }
    __syncthreads();
    s.tile[1][t].bits = 0;
}

/* ---- Products ------------------------------------------------------------------------------------ */

/// `early`: the operand changes before the wait.
__device__ static void multiply(Smem &s, bool early)
{
    for (unsigned i = threadIdx.x; i < 64 * 64; i += 128)
        s.tile[0][i].bits = 0x3f80;
    fence_proxy_async();
    __syncthreads();
    float d[32];
    const uint64_t tile = wgmma_descriptor(s.tile[0], 16, 1024, Swizzle::b128);
    wgmma_pin(d);
    wgmma_fence();
    wgmma_ss<64>(d, tile, tile, false);
    wgmma_commit();
    if (early)
        s.tile[0][threadIdx.x].bits = 0; // BLAME: operand_in_use
    wgmma_wait<0>();
    wgmma_pin(d);
    s.tile[0][32 * 64 + threadIdx.x].bits = 0;
}

__global__ void operand_in_use(int)
{
    multiply(shared<Smem>(), true);
}

__global__ void right_product(int)
{
    multiply(shared<Smem>(), false);
}

/* ---- Running ------------------------------------------------------------------------------------- */

static bool run(const std::string &name, const CUtensorMap &map, float *out)
{
    const std::map<std::string, std::function<void()>> kernels = {
        {"missing_cluster_barrier",
         [&] { LAUNCH_CLUSTER(missing_cluster_barrier, 2, 2, 64, sizeof(Smem), nullptr, out); }},
        {"right_cluster", [&] { LAUNCH_CLUSTER(right_cluster, 2, 4, 64, sizeof(Smem), nullptr, out); }},
        {"missing_barrier", [&] { LAUNCH(missing_barrier, 1, 64, sizeof(Smem), nullptr, out); }},
        {"missing_second_barrier",
         [&] { LAUNCH(missing_second_barrier, 1, 64, sizeof(Smem), nullptr, out); }},
        {"right_barriers", [&] { LAUNCH(right_barriers, 3, 64, sizeof(Smem), nullptr, out); }},
        {"same_global_word", [&] { LAUNCH(same_global_word, 1, 64, sizeof(Smem), nullptr, out); }},
        {"read_before_wait", [&] { LAUNCH(read_before_wait, 1, 128, sizeof(Smem), nullptr, map, out); }},
        {"refill_too_early", [&] { LAUNCH(refill_too_early, 1, 128, sizeof(Smem), nullptr, map, out); }},
        {"right_ring", [&] { LAUNCH(right_ring, 2, 128, sizeof(Smem), nullptr, map, out); }},
        {"right_copies", [&] { LAUNCH(right_copies, 2, 128, sizeof(Smem), nullptr, map, out); }},
        {"operand_in_use", [&] { LAUNCH(operand_in_use, 1, 128, sizeof(Smem), nullptr, 0); }},
        {"right_product", [&] { LAUNCH(right_product, 2, 128, sizeof(Smem), nullptr, 0); }},
    };
    const auto found = kernels.find(name);
    if (found != kernels.end())
        found->second();
    return found != kernels.end();
}

int main(int argc, char **argv)
{
    std::vector<float> tensor(64 * 32 + 32), out(512);
    CUtensorMap map;
    const uint64_t dim[] = {64, 64}, stride[] = {128};
    const uint32_t box[] = {64, 64};
    void *const base = (void *)(((uintptr_t)tensor.data() + 127) / 128 * 128);
    if (argc != 2 ||
        encode_tensor_map(&map, TensorType::bf16, 2, base, dim, stride, box, TensorSwizzle::b128))
        return 2;
    for (simt::Order order : {simt::Order::forward, simt::Order::reverse, simt::Order::random})
        for (simt::Timing timing : {simt::Timing::late, simt::Timing::early, simt::Timing::random}) {
            options.order = order;
            options.timing = timing;
            options.unwritten = true;
            if (!run(argv[1], map, out.data()))
                return 2;
        }
    return 0;
}
