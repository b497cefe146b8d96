/**
 * @file test_simt.cpp
 * @brief The CPU engine of cuda/simt: small right kernels give the right result in every order and timing,
 *        small wrong ones are reported at the right file and line.
 *
 * The line to blame in a wrong kernel ends with a comment "// BLAME: name"; the test looks it up in this
 * file.
 */
extern "C" {
#include "support/tap.h"
}

#include "cuda/kit/fragment.cuh"
#include "cuda/kit/launch.cuh"
#include "cuda/kit/tensor_map.cuh"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

using simt::options;
using simt::Order;
using simt::Timing;
using std::string;
using std::vector;

/* ---- Running ------------------------------------------------------------------------------------- */

/// Most wrong kernels have one line to blame.
static vector<int> lines_of(const string &name)
{
    std::ifstream source(__FILE__);
    vector<int> lines;
    string line;
    for (int n = 1; getline(source, line); n++)
        if (line.find("// BLAME: " + name) != string::npos && line.find("lines_of") == string::npos)
            lines.push_back(n);
    return lines;
}

static int line_of(const string &name)
{
    const vector<int> lines = lines_of(name);
    return lines.empty() ? -1 : lines[0];
}

/// Calls f in every thread order and timing; stops at the first that it rejects.
static bool in_all_modes(const std::function<bool()> &f)
{
    for (Order order : {Order::forward, Order::reverse, Order::random, Order::unfair})
        for (Timing timing : {Timing::late, Timing::early, Timing::random})
            for (uint64_t seed = 1; seed <= (order == Order::random || timing == Timing::random ? 3 : 1);
                 seed++) {
                options.order = order;
                options.timing = timing;
                options.seed = seed;
                simt::reset();
                if (!f()) {
                    tap_note("order %d, timing %d, seed %d: %s", (int)order, (int)timing, (int)seed,
                             simt::report().c_str());
                    return false;
                }
            }
    return true;
}

static void right(const char *name, const std::function<bool()> &f)
{
    tap(in_all_modes([&] { return f() && simt::report().empty(); }), "%s", name);
    options = simt::Options();
    options.keep_going = true;
}

/// The kernel must be reported at the line marked with `name`, with a text that holds `words`.
static void wrong(const char *name, const char *words, const std::function<void()> &launch,
                  bool every_timing = true)
{
    const vector<int> lines = lines_of(name);
    const string place = string(__FILE__) + ":" + std::to_string(line_of(name)) + ": ";
    auto blamed = [&] {
        launch();
        bool there = false;
        for (int line : lines)
            there |= simt::report().rfind(string(__FILE__) + ":" + std::to_string(line) + ": ", 0) == 0;
        return there && simt::report().find(words) != string::npos;
    };
    simt::reset();
    const bool ok = every_timing ? in_all_modes(blamed) : blamed();
    tap(ok, "reported: %s", name);
    if (!ok)
        tap_note("expected %s...%s, found: %s", place.c_str(), words, simt::report().c_str());
    options = simt::Options();
    options.keep_going = true;
}

/// A launch that is refused before any block runs.
static void refused(const char *name, const char *words, const std::function<void()> &launch)
{
    simt::reset();
    launch();
    tap(simt::report().find(words) != string::npos, "%s", name);
}

static bf16 to_bf16(float x)
{
    return __float2bfloat16_rn(x);
}

static vector<bf16> small_integers(size_t n, unsigned seed)
{
    vector<bf16> v(n);
    for (bf16 &x : v)
        x = to_bf16((float)((seed = seed * 1664525u + 1013904223u) >> 29) - 3.5f);
    return v;
}

static float *aligned(vector<float> &v) ///< 128-byte aligned start in a vector with 32 spare floats
{
    return (float *)(((uintptr_t)v.data() + 127) / 128 * 128);
}

struct Tensor { ///< bf16 matrix at a 128-byte boundary
    int rows, cols;
    vector<float> memory;
    bf16 *data;
    Tensor(int r, int c) : rows(r), cols(c), memory((size_t)r * c / 2 + 64), data((bf16 *)aligned(memory))
    {
    }
    Tensor(int r, int c, unsigned seed) : Tensor(r, c)
    {
        const vector<bf16> v = small_integers((size_t)r * c, seed);
        memcpy((void *)data, v.data(), v.size() * 2);
    }
    float at(int r, int c) const
    {
        return __bfloat162float(data[(size_t)r * cols + c]);
    }
    CUtensorMap map(uint32_t box_rows, uint32_t box_cols, TensorSwizzle swizzle) const
    {
        CUtensorMap m;
        const uint64_t dim[] = {(uint64_t)cols, (uint64_t)rows}, stride[] = {(uint64_t)cols * 2};
        const uint32_t box[] = {box_cols, box_rows};
        if (const char *error = encode_tensor_map(&m, TensorType::bf16, 2, data, dim, stride, box, swizzle)) {
            tap(false, "%s", error);
            exit(1);
        }
        return m;
    }
};

/* ---- Right kernels ------------------------------------------------------------------------------- */

struct ReduceSmem {
    float part[256];
};

__global__ void reduce_kernel(const float *x, float *sum)
{
    ReduceSmem &s = shared<ReduceSmem>();
    const unsigned t = threadIdx.x;
    st_shared(&s.part[t], ld_global(x + blockIdx.x * 256 + t));
    __syncthreads();
    for (unsigned half = 128; half >= 32; half /= 2) {
        if (t < half)
            st_shared(&s.part[t], ld_shared(&s.part[t]) + ld_shared(&s.part[t + half]));
        __syncthreads();
    }
    if (t < 32) {
        float v = ld_shared(&s.part[t]);
        for (int w = 16; w; w /= 2)
            v += shfl_xor(v, w);
        if (elect_one())
            red_add(sum, v);
    }
}

static bool reduction()
{
    vector<float> x(256 * 7);
    float expected = 0, sum = 0;
    for (size_t i = 0; i < x.size(); i++)
        expected += x[i] = (float)(i % 13);
    LAUNCH(reduce_kernel, 7, 256, sizeof(ReduceSmem), nullptr, x.data(), &sum);
    return sum == expected;
}

/// C[m,n] = A[m,k] B[n,k]^T, one warp a 16 x 8 tile, A and B through cp.async, ldmatrix and mma.sync.
struct MmaSmem {
    alignas(16) bf16 a[2][16][16], b[2][8][16];
};

__global__ void mma_kernel(const bf16 *a, const bf16 *b, float *c, int n, int k)
{
    MmaSmem &s = shared<MmaSmem>();
    const int lane = (int)threadIdx.x, m0 = 16 * (int)blockIdx.y, n0 = 8 * (int)blockIdx.x;
    auto fetch = [&](int step) {
        cp_async_16(&s.a[step % 2][lane / 2][lane % 2 * 8],
                    a + (m0 + lane / 2) * k + step * 16 + lane % 2 * 8, 16);
        if (lane < 16)
            cp_async_16(&s.b[step % 2][lane / 2][lane % 2 * 8],
                        b + (n0 + lane / 2) * k + step * 16 + lane % 2 * 8, 16);
        cp_async_commit();
    };
    float d[4] = {};
    fetch(0);
    for (int step = 0; step < k / 16; step++) {
        if (step + 1 < k / 16)
            fetch(step + 1);
        else
            cp_async_commit();
        cp_async_wait<1>();
        __syncwarp();
        uint32_t fa[4], fb[2];
        ldmatrix_x4(fa, &s.a[step % 2][lane % 16][lane / 16 * 8]);
        ldmatrix_x2(fb, &s.b[step % 2][lane % 8][lane / 8 % 2 * 8]);
        mma_m16n8k16(d, fa, fb);
        __syncwarp();
    }
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(lane, i);
        st_global(&c[(m0 + e.row) * n + n0 + e.col], d[i]);
    }
}

static bool equals_product(const Tensor &a, const Tensor &b, const float *c)
{
    for (int i = 0; i < a.rows; i++)
        for (int j = 0; j < b.rows; j++) {
            float sum = 0;
            for (int k = 0; k < a.cols; k++)
                sum += a.at(i, k) * b.at(j, k);
            if (!(sum == c[i * b.rows + j])) {
                tap_note("(%d,%d): %g instead of %g", i, j, c[i * b.rows + j], sum);
                return false;
            }
        }
    return true;
}

static bool mma_product()
{
    const Tensor a(32, 64, 1), b(24, 64, 2);
    vector<float> c(32 * 24, NAN);
    LAUNCH(mma_kernel, dim3(3, 2), 32, sizeof(MmaSmem), nullptr, a.data, b.data, c.data(), 24, 64);
    return equals_product(a, b, c.data());
}

/// The same product as Hopper does it: a producer warpgroup fills a ring by TMA, two consumer warpgroups
/// multiply.
constexpr int ring = 2, tile_m = 128, tile_n = 64, tile_k = 64;

struct GemmSmem {
    alignas(1024) bf16 a[ring][tile_m * tile_k];
    alignas(1024) bf16 b[ring][tile_n * tile_k];
    uint64_t full[ring], empty[ring];
};

__global__ void __launch_bounds__(384, 1)
    gemm_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                float *c, int n, int k)
{
    GemmSmem &s = shared<GemmSmem>();
    const int group = (int)threadIdx.x / 128, t = (int)threadIdx.x % 128;
    const int m0 = tile_m * (int)blockIdx.y, n0 = tile_n * (int)blockIdx.x;
    if (threadIdx.x == 0) {
        for (int i = 0; i < ring; i++) {
            mbarrier_init(&s.full[i], 1);
            mbarrier_init(&s.empty[i], 2);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (group == 0) {
        setmaxnreg_dec<40>();
        if (t == 0)
            for (int i = 0; i < k / tile_k; i++) {
                const int stage = i % ring;
                mbarrier_wait(&s.empty[stage], i / ring % 2 ^ 1);
                mbarrier_arrive_expect(&s.full[stage], sizeof s.a[0] + sizeof s.b[0]);
                tma_load_2d(s.a[stage], &map_a, &s.full[stage], i * tile_k, m0);
                tma_load_2d(s.b[stage], &map_b, &s.full[stage], i * tile_k, n0);
            }
    } else {
        setmaxnreg_inc<232>();
        float d[tile_n / 2];
        for (int i = 0; i < k / tile_k; i++) {
            const int stage = i % ring;
            mbarrier_wait(&s.full[stage], i / ring % 2);
            wgmma_pin(d);
            wgmma_fence();
            for (int step = 0; step < tile_k / 16; step++)
                wgmma_ss<tile_n>(d,
                                 wgmma_descriptor(&s.a[stage][(group - 1) * 64 * tile_k + step * 16], 16,
                                                  1024, Swizzle::b128),
                                 wgmma_descriptor(&s.b[stage][step * 16], 16, 1024, Swizzle::b128),
                                 i + step > 0);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_pin(d);
            if (t == 0)
                mbarrier_arrive(&s.empty[stage]);
        }
        for (int i = 0; i < tile_n / 2; i++) {
            const Element e = fragment_d(t, i);
            st_global(&c[(m0 + (group - 1) * 64 + e.row) * n + n0 + e.col], d[i]);
        }
    }
}

static bool wgmma_product()
{
    const Tensor a(256, 320, 3), b(128, 320, 4);
    const CUtensorMap map_a = a.map(tile_m, tile_k, TensorSwizzle::b128),
                      map_b = b.map(tile_n, tile_k, TensorSwizzle::b128);
    vector<float> c(256 * 128, NAN);
    simt::reset();
    LAUNCH(gemm_kernel, dim3(2, 2), 384, sizeof(GemmSmem), nullptr, map_a, map_b, c.data(), 128, 320);
    return equals_product(a, b, c.data()) && simt::counters.tensor_fma == 256 * 128 * 320 &&
           simt::counters.load_bytes == 2 * (256 * 320 + 128 * 320) * 2 &&
           simt::counters.store_bytes == 256 * 128 * 4;
}

/// O = P V as attention does it: P in registers, V[key][channel] MN-major in slabs of `slab` channels.
template <int slab> struct PvSmem {
    alignas(1024) bf16 v[128 / slab][64 * slab];
    uint64_t full;
};

template <int slab>
__global__ void pv_kernel(const __grid_constant__ CUtensorMap map_v, const bf16 *p, float *o)
{
    PvSmem<slab> &s = shared<PvSmem<slab>>();
    constexpr Swizzle swizzle = slab == 64 ? Swizzle::b128 : slab == 32 ? Swizzle::b64 : Swizzle::b32;
    const int t = (int)threadIdx.x;
    if (t == 0) {
        mbarrier_init(&s.full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (t == 0) {
        mbarrier_arrive_expect(&s.full, sizeof s.v);
        for (int i = 0; i < 128 / slab; i++)
            tma_load_2d(s.v[i], &map_v, &s.full, i * slab, 0);
    }
    mbarrier_wait(&s.full, 0);
    float d[64];
    uint32_t a[4][4];
    for (int step = 0; step < 4; step++)
        for (int e = 0; e < 8; e += 2) {
            const Element x = fragment_a(t, e);
            a[step][e / 2] = ld_global((const uint32_t *)&p[x.row * 64 + 16 * step + x.col]);
        }
    wgmma_pin(d);
    wgmma_fence();
    for (int step = 0; step < 4; step++)
        wgmma_rs<128, 1>(d, a[step],
                         wgmma_descriptor(&s.v[0][16 * step * slab], 64 * slab * 2, 16 * slab, swizzle),
                         step > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(d);
    for (int i = 0; i < 64; i++) {
        const Element e = fragment_d(t, i);
        st_global(&o[e.row * 128 + e.col], d[i]);
    }
}

template <int slab> static bool pv_product(TensorSwizzle swizzle)
{
    const Tensor p(64, 64, 5), v(64, 128, 6);
    vector<float> o(64 * 128, NAN);
    LAUNCH((pv_kernel<slab>), 1, 128, sizeof(PvSmem<slab>), nullptr, v.map(64, slab, swizzle), p.data,
           o.data());
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 128; j++) {
            float sum = 0;
            for (int k = 0; k < 64; k++)
                sum += p.at(i, k) * v.at(k, j);
            if (!(sum == o[(size_t)i * 128 + j]))
                return false;
        }
    return true;
}

/// Loads a 64 x 64 tile without a swizzle, reads it by columns of 8 x 16-byte cores: descriptor mode "none".
struct CoreSmem {
    alignas(1024) bf16 a[8][64 * 8], b[8][64 * 8]; ///< [k / 8][row][8]
};

__global__ void core_kernel(const bf16 *a, const bf16 *b, float *c)
{
    CoreSmem &s = shared<CoreSmem>();
    const int t = (int)threadIdx.x;
    for (int i = t; i < 64 * 8; i += 128) { // 8 chunks a row
        st_shared((uint4 *)&s.a[i % 8][i / 8 * 8], ld_global((const uint4 *)a + i));
        st_shared((uint4 *)&s.b[i % 8][i / 8 * 8], ld_global((const uint4 *)b + i));
    }
    fence_proxy_async();
    __syncthreads();
    float d[32];
    wgmma_pin(d);
    wgmma_fence();
    for (int step = 0; step < 4; step++)
        wgmma_ss<64>(d, wgmma_descriptor(s.a[2 * step], 1024, 128, Swizzle::none),
                     wgmma_descriptor(s.b[2 * step], 1024, 128, Swizzle::none), step > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(d);
    for (int i = 0; i < 32; i++)
        st_global(&c[fragment_d(t, i).row * 64 + fragment_d(t, i).col], d[i]);
}

static bool core_product()
{
    const Tensor a(64, 64, 7), b(64, 64, 8);
    vector<float> c(64 * 64, NAN);
    LAUNCH(core_kernel, 1, 128, sizeof(CoreSmem), nullptr, a.data, b.data, c.data());
    return equals_product(a, b, c.data());
}

/// A tile goes through shared memory: in by TMA with a swizzle, out by TMA. Every element has its own value;
/// the threads compare the image in between with the formula of the swizzle.
struct TripSmem {
    alignas(1024) bf16 tile[64 * 64];
    uint64_t full;
};

__global__ void trip_kernel(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out,
                            int cols, int x, int y, int *misplaced)
{
    TripSmem &s = shared<TripSmem>();
    const int t = (int)threadIdx.x, pitch = cols * 2;
    if (t == 0) {
        mbarrier_init(&s.full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&s.full, (uint32_t)(64 * pitch));
        tma_load_2d(s.tile, &in, &s.full, x, y);
    }
    __syncthreads();
    mbarrier_wait(&s.full, 0);
    for (int i = t; i < 64 * cols; i += 64) {
        const int row = i / cols, col = i % cols, linear = row * pitch + col * 2;
        const int physical = linear ^ ((linear >> 7 & (pitch / 16 - 1)) << 4);
        const int value = x + col < 0 || y + row < 0 ? 0 : ((y + row) * cols + x + col + 1);
        const bf16 found = ld_shared((const bf16 *)((const char *)s.tile + physical));
        if (found.bits != (uint16_t)value)
            atomicAdd(misplaced, 1);
    }
    __syncthreads();
    if (t == 0) {
        fence_proxy_async();
        tma_store_2d(&out, s.tile, 0, 0);
        bulk_commit();
        bulk_wait<0>();
    }
}

static bool round_trip(int cols, TensorSwizzle swizzle, int x, int y)
{
    Tensor in(64, cols), out(64, cols);
    for (int i = 0; i < 64 * cols; i++)
        in.data[i].bits = (uint16_t)(i + 1);
    int misplaced = 0;
    LAUNCH(trip_kernel, 1, 64, sizeof(TripSmem), nullptr, in.map(64, (uint32_t)cols, swizzle),
           out.map(64, (uint32_t)cols, swizzle), cols, x, y, &misplaced);
    for (int r = 0; r < 64; r++)
        for (int c = 0; c < cols; c++) {
            const bool inside = y + r >= 0 && x + c >= 0 && y + r < 64 && x + c < cols;
            misplaced += out.data[r * cols + c].bits != (inside ? in.data[(y + r) * cols + x + c].bits : 0);
        }
    return misplaced == 0;
}

/// 3D load, a box that sticks out everywhere, and a float32 reduction on the way out.
struct DeepSmem {
    alignas(128) float tile[3 * 4 * 8];
    alignas(128) float sum[32];
    uint64_t full;
};

__global__ void deep_kernel(const __grid_constant__ CUtensorMap map, const __grid_constant__ CUtensorMap sum,
                            float *tile)
{
    DeepSmem &s = shared<DeepSmem>();
    const unsigned t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&s.full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&s.full, sizeof s.tile);
        tma_load_3d(s.tile, &map, &s.full, 4, -1, 1);
    }
    st_shared(&s.sum[t], (float)t);
    fence_proxy_async();
    __syncthreads();
    mbarrier_wait(&s.full, 0);
    for (unsigned i = t; i < sizeof s.tile / 4; i += 32)
        st_global(&tile[i], ld_shared(&s.tile[i]));
    if (t == 0) {
        tma_reduce_add_2d(&sum, s.sum, 0, 0);
        bulk_commit();
        bulk_wait_read<0>();
    }
}

static bool three_dimensions()
{
    vector<float> x(3 * 3 * 8 + 32), tile(96, NAN), sum_memory(64, 1.0f);
    float *const base = aligned(x), *const sum = aligned(sum_memory);
    for (int i = 0; i < 72; i++)
        base[i] = (float)i + 1;
    CUtensorMap map, sums;
    const uint64_t dim[] = {8, 3, 3}, stride[] = {32, 96}, sum_dim[] = {32, 1}, sum_stride[] = {128};
    const uint32_t box[] = {8, 4, 3}, sum_box[] = {32, 1};
    if (encode_tensor_map(&map, TensorType::float32, 3, base, dim, stride, box, TensorSwizzle::none) ||
        encode_tensor_map(&sums, TensorType::float32, 2, sum, sum_dim, sum_stride, sum_box,
                          TensorSwizzle::none))
        return false;
    LAUNCH(deep_kernel, 2, 32, sizeof(DeepSmem), nullptr, map, sums, tile.data());
    for (int i = 0; i < 96; i++) {
        const int c[] = {4 + i % 8, -1 + i / 8 % 4, 1 + i / 32};
        const bool inside = c[0] < 8 && c[1] >= 0 && c[1] < 3 && c[2] < 3;
        if (!(tile[i] == (inside ? base[c[0] + 8 * c[1] + 24 * c[2]] : 0.0f)))
            return false;
    }
    for (int i = 0; i < 32; i++)
        if (!(sum[i] == 1.0f + 2.0f * (float)i))
            return false;
    return true;
}

/// stmatrix puts accumulator pairs where ldmatrix and fragment_a find them.
struct MatrixSmem {
    alignas(16) bf16 m[16][16];
};

__global__ void matrix_kernel(int *bad)
{
    MatrixSmem &s = shared<MatrixSmem>();
    const int lane = (int)threadIdx.x;
    uint32_t r[4], back[4], trans[4];
    for (int i = 0; i < 4; i++) {
        const Element lo = fragment_a(lane, 2 * i), hi = fragment_a(lane, 2 * i + 1);
        r[i] = (uint32_t)(lo.row * 16 + lo.col) | (uint32_t)(hi.row * 16 + hi.col) << 16;
    }
    stmatrix_x4(&s.m[lane % 16][lane / 16 * 8], r);
    __syncwarp();
    ldmatrix_x4(back, &s.m[lane % 16][lane / 16 * 8]);
    ldmatrix_x4_trans(trans, &s.m[lane % 16][lane / 16 * 8]);
    for (int i = 0; i < 4; i++) {
        const int row = i % 2 * 8,
                  col = i / 2 * 8; // of matrix i; transposed, a lane holds rows 2q and 2q+1 of column g
        const uint32_t lo = (uint32_t)((row + 2 * (lane % 4)) * 16 + col + lane / 4);
        if (back[i] != r[i] || trans[i] != (lo | (lo + 16) << 16))
            atomicAdd(bad, 1);
    }
    for (int i = lane; i < 256; i += 32)
        if (ld_shared(&s.m[i / 16][i % 16]).bits != i)
            atomicAdd(bad, 1);
}

static bool matrices()
{
    int bad = 0;
    LAUNCH(matrix_kernel, 1, 32, sizeof(MatrixSmem), nullptr, &bad);
    return bad == 0;
}

/// -1 looks like shared memory that nobody has written; it may be stored and loaded all the same.
__global__ void minus_one_kernel(const int *x, int *sum)
{
    ReduceSmem &s = shared<ReduceSmem>();
    const unsigned t = threadIdx.x;
    st_shared((int *)&s.part[t], ld_global(&x[t]));
    __syncthreads();
    atomicAdd(sum, ld_shared((const int *)&s.part[255 - t]));
}

static bool minus_one()
{
    const vector<int> x(256, -1);
    int sum = 0;
    LAUNCH(minus_one_kernel, 1, 256, sizeof(ReduceSmem), nullptr, x.data(), &sum);
    return sum == -256;
}

/// Whether a fragment map takes each element of a rows x cols matrix exactly once.
static bool covers(Element (*map)(int, int), int threads, int per_thread, int rows, int cols)
{
    vector<int> seen((size_t)rows * cols);
    for (int t = 0; t < threads; t++)
        for (int i = 0; i < per_thread; i++) {
            const Element e = map(t, i);
            if (e.row < 0 || e.row >= rows || e.col < 0 || e.col >= cols ||
                seen[(size_t)e.row * cols + e.col]++)
                return false;
        }
    return threads * per_thread == rows * cols;
}

/// Block i waits for block i - 1: only resident blocks can.
__global__ void chain_kernel(uint32_t *ticket)
{
    if (threadIdx.x == 0) {
        while (ld_acquire(ticket) != gridDim.x - 1 - blockIdx.x) {
        }
        st_release(ticket, gridDim.x - blockIdx.x);
    }
}

static void chained_blocks()
{
    right("blocks that wait for later blocks, all resident", [] {
        options.resident = 3;
        uint32_t ticket = 0;
        LAUNCH(chain_kernel, 3, 32, 0, nullptr, &ticket);
        return ticket == 3;
    });
    uint32_t ticket = 0;
    options.resident = 2;
    refused("the same with too few of them", "more blocks must be resident",
            [&] { LAUNCH(chain_kernel, 3, 32, 0, nullptr, &ticket); });
    options.resident = 1;
}

__global__ void mark_kernel(uint32_t *ran)
{
    if (threadIdx.x == 0)
        atomicAdd(ran + (blockIdx.x == gridDim.x - 1), 1u);
}

/// options.only: the last of ten million blocks, of the second launch.
static void filtered_blocks()
{
    simt::reset();
    options.only = [](const char *kernel, uint64_t launch, uint64_t block, dim3) {
        return launch == 1 && block == 9999999 && string(kernel) == "mark_kernel";
    };
    uint32_t ran[2] = {0, 0};
    LAUNCH(mark_kernel, 10000000, 32, 0, nullptr, &ran[0]);
    const bool none = ran[0] + ran[1] == 0;
    LAUNCH(mark_kernel, 10000000, 32, 0, nullptr, &ran[0]);
    options.only = nullptr;
    tap(none && ran[0] == 0 && ran[1] == 1, "only the last block of the second launch runs");
    LAUNCH(mark_kernel, 3, 32, 0, nullptr, &ran[0]);
    tap(ran[0] == 2 && ran[1] == 2, "... and all without a filter");
}

/// As on a GPU: what a failed launch should have written is not there for the next one to read.
static void after_a_failure()
{
    uint32_t ran[2] = {0, 0};
    refused("a grid of no blocks", "a grid has 1 to",
            [&] { LAUNCH(mark_kernel, 0, 32, 0, nullptr, &ran[0]); });
    LAUNCH(mark_kernel, 1, 32, 0, nullptr, &ran[0]);
    tap(ran[1] == 0 && simt::report().find("a grid has 1 to") != string::npos,
        "... and no kernel runs after a failure");
    simt::reset();
    LAUNCH(mark_kernel, 1, 32, 0, nullptr, &ran[0]);
    tap(ran[1] == 1 && simt::report().empty(), "... until reset()");
}

/* ---- Dependent launches -------------------------------------------------------------------------- */

__global__ void store_squares(float *x)
{
    st_global(&x[threadIdx.x], (float)(threadIdx.x * threadIdx.x));
}

/// Warp 0 waits for the grid before and fetches; the others wait for warp 0.
__global__ void right_dependent(float *x, float *y)
{
    ReduceSmem &s = shared<ReduceSmem>();
    const unsigned t = threadIdx.x;
    if (t < 32) {
        grid_wait();
        for (unsigned i = t; i < 64; i += 32)
            st_shared(&s.part[i], ld_global(&x[i]));
    }
    __syncthreads();
    st_global(&y[64 * blockIdx.x + t], ld_shared(&s.part[63 - t]));
    if (t == 0)
        st_global(&x[0], ld_global(&x[0]) + 1); // in place
}

__global__ void reads_early(const float *x, float *y)
{
    const float v = x[threadIdx.x];
    grid_wait();
    y[threadIdx.x] = v;
}

__global__ void stores_early(float *x, int)
{
    st_global(&x[threadIdx.x], 1.0f); // BLAME: early store
    grid_wait();
}

__global__ void stores_early_plainly(float *x, int)
{
    x[threadIdx.x] = 1;
    grid_wait(); // BLAME: early plain store
}

__global__ void never_waits(const float *x, float *y)
{
    y[threadIdx.x] = x[threadIdx.x];
}

static void dependent_launches()
{
    vector<float> x(64), y(128);
    simt::declare_global(x.data(), 64 * 4, "x");
    simt::declare_global(y.data(), 128 * 4, "y");
    auto squares = [&] {
        x.assign(64, -1.0f);
        LAUNCH(store_squares, 1, 64, 0, nullptr, x.data());
    };
    right("a dependent launch that waits sees the output of the grid before", [&] {
        squares();
        LAUNCH_DEPENDENT(right_dependent, 1, 64, sizeof(ReduceSmem), nullptr, x.data(), y.data());
        for (int i = 0; i < 63; i++)
            if (y[(size_t)i] != (float)((63 - i) * (63 - i)))
                return false;
        return y[63] == 0 && x[0] == 1;
    });
    right("... and poison before it waits", [&] {
        squares();
        LAUNCH_DEPENDENT(reads_early, 1, 64, 0, nullptr, x.data(), y.data());
        return std::isnan(y[0]) && std::isnan(y[63]) && x[63] == 63 * 63;
    });
    wrong("early store", "a store to `x`", [&] {
        squares();
        LAUNCH_DEPENDENT(stores_early, 1, 64, 0, nullptr, x.data(), 0);
    });
    wrong("early plain store", "a store to `x`", [&] {
        squares();
        LAUNCH_DEPENDENT(stores_early_plainly, 1, 64, 0, nullptr, x.data(), 0);
    });
    wrong("no grid_wait", "calls grid_wait", [&] {
        squares();
        LAUNCH_DEPENDENT(never_waits, 1, 64, 0, nullptr, x.data(), y.data()); // BLAME: no grid_wait
    });
    simt::forget_globals();
}

/* ---- Masks --------------------------------------------------------------------------------------- */

__global__ void mask_kernel(uint32_t *out)
{
    const unsigned t = threadIdx.x;
    out[t] = shfl_up(t, 1);
    if (t < 24)
        out[t] +=
            warp_max(t, 0xffffff) + shfl_xor(t, 1, 0xffffff) + (warp_ballot(t % 2, 0xffffff) == 0xaaaaaa);
    else
        out[t] += warp_min(t, 0xff000000) - shfl(t, 31, 0xff000000);
}

static bool masks()
{
    uint32_t out[32];
    LAUNCH(mask_kernel, 1, 32, 0, nullptr, &out[0]);
    for (uint32_t t = 0; t < 32; t++)
        if (out[t] != (t ? t - 1 : 0) + (t < 24 ? 23 + (t ^ 1) + 1 : 24 - 31))
            return false;
    return true;
}

/* ---- Counters ------------------------------------------------------------------------------------------ */

struct StrideSmem {
    float x[32 * 33];
};

__global__ void stride_kernel(const float *x, float *y, int stride)
{
    StrideSmem &s = shared<StrideSmem>();
    const unsigned t = threadIdx.x;
    st_shared(&s.x[t * (unsigned)stride], ld_global(&x[t]));
    st_global(&y[8 * t], ld_shared(&s.x[t * (unsigned)stride]));
}

static void counters()
{
    vector<float> memory(64 + 32), y_memory(256 + 32);
    float *const x = aligned(memory), *const y = aligned(y_memory);
    const struct {
        int stride;
        uint64_t conflicts;
    } cases[] = {{1, 0}, {2, 2}, {32, 62}, {33, 0}};
    for (const auto &c : cases) {
        simt::reset();
        LAUNCH(stride_kernel, 1, 32, sizeof(StrideSmem), nullptr, x, y, c.stride);
        const simt::Counters &n = simt::counters;
        tap(n.load_bytes == 128 && n.load_sectors == 4 && n.store_bytes == 128 && n.store_sectors == 32 &&
                n.shared_accesses == 2 && n.shared_conflicts == c.conflicts,
            "counts of a copy through shared memory with stride %d: %d conflicts", c.stride,
            (int)n.shared_conflicts);
    }
}

/* ---- The timeline -------------------------------------------------------------------------------- */

struct TimelineSmem {
    alignas(1024) bf16 tile[64 * 64];
    uint64_t full;
};

/// A warp loads 8 KB; two warpgroups wait for it, multiply four times 64 x 64 x 16, and do something.
__global__ void timeline_kernel(const __grid_constant__ CUtensorMap map)
{
    TimelineSmem &s = shared<TimelineSmem>();
    if (threadIdx.x == 0) {
        mbarrier_init(&s.full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x >= 256) {
        timeline_role("producer");
        if (threadIdx.x == 256) {
            mbarrier_arrive_expect(&s.full, sizeof s.tile);
            tma_load_2d(s.tile, &map, &s.full, 0, 0);
        }
        return;
    }
    timeline_role("consumer");
    mbarrier_wait(&s.full, 0);
    float d[32];
    const uint64_t tile = wgmma_descriptor(s.tile, 16, 1024, Swizzle::b128);
    wgmma_fence();
    for (int i = 0; i < 4; i++)
        wgmma_ss<64>(d, tile, tile, i > 0);
    wgmma_commit();
    wgmma_wait<0>();
    timeline_mark("softmax", 100);
    bar_sync(1, 256);
}

static vector<simt::Event> of(simt::Did did, unsigned warp)
{
    vector<simt::Event> found;
    for (const simt::Event &e : simt::timeline())
        if (e.did == did && e.warp == warp)
            found.push_back(e);
    return found;
}

static string as_text(const vector<simt::Event> &events)
{
    string all;
    for (const simt::Event &e : events)
        all += std::to_string(e.launch) + " " + std::to_string(e.block) + " " + std::to_string(e.warp) + " " +
               std::to_string(e.lanes) + " " + e.role + e.name + std::to_string((int)e.did) + " " +
               std::to_string(e.object) + " " + std::to_string(e.at.line) + " " + std::to_string(e.begin) +
               " " + std::to_string(e.end) + "\n";
    return all;
}

static void timeline()
{
    const Tensor t(64, 64, 11);
    const CUtensorMap map = t.map(64, 64, TensorSwizzle::b128);
    string first;
    right("the timeline is the same in every order and timing", [&] {
        simt::reset();
        options.timeline = true;
        LAUNCH(timeline_kernel, 2, 288, sizeof(TimelineSmem), nullptr, map);
        if (first.empty())
            first = as_text(simt::timeline());
        return as_text(simt::timeline()) == first;
    });
    options.timeline = true;
    simt::reset();
    LAUNCH(timeline_kernel, 1, 288, sizeof(TimelineSmem), nullptr, map);
    options.timeline = false;
    const simt::Costs cost;
    const auto copy = of(simt::Did::copy, 8), wait = of(simt::Did::wait_mbarrier, 4);
    tap(copy.size() == 1 && copy[0].bytes == 8192 && copy[0].lanes == 1 &&
            string(copy[0].role) == "producer" &&
            fabs(copy[0].end - copy[0].begin - cost.copy_latency - 8192 / cost.copy_bytes) < 1e-6,
        "a copy takes its latency and its bytes");
    tap(wait.size() == 1 && wait[0].lanes == ~0u && wait[0].end == copy[0].end &&
            wait[0].object == sizeof t.data[0] * 64 * 64 && string(wait[0].role) == "consumer",
        "... and those who wait for it go on when it lands");
    const auto one = of(simt::Did::product, 0), other = of(simt::Did::product, 4);
    tap(one.size() == 1 && other.size() == 1 && one[0].busy == 128 && other[0].busy == 128 &&
            std::max(one[0].end, other[0].end) - one[0].begin >= 256 &&
            std::max(one[0].end, other[0].end) - one[0].begin < 256 + 8 * cost.issue,
        "two warpgroups share the tensor cores");
    const auto softmax = of(simt::Did::work, 3), after = of(simt::Did::work, 7);
    tap(softmax.size() == 1 && string(softmax[0].name) == "softmax" && softmax[0].lanes == ~0u &&
            softmax[0].end - softmax[0].begin == 100 && after.size() == 1 &&
            (after[0].begin >= softmax[0].end || softmax[0].begin >= after[0].end),
        "declared work has its quarter of the SM for itself");
}

/* ---- Wrong kernels ------------------------------------------------------------------------------------- */

struct WordSmem {
    float x[64];
    float y[64];
};

__global__ void missing_barrier(float *out)
{
    WordSmem &s = shared<WordSmem>();
    const unsigned t = threadIdx.x;
    if (t >= 32)
        st_shared(&s.x[t], (float)t);
    if (t < 32)
        out[t] = ld_shared(&s.x[t + 32]); // BLAME: missing barrier
}

__global__ void missing_second_barrier(float *out)
{
    WordSmem &s = shared<WordSmem>();
    const unsigned t = threadIdx.x;
    for (int i = 0; i < 3; i++) {
        if (t == 0)
            st_shared(&s.x[0], (float)i); // BLAME: missing second barrier, writer last
        __syncthreads();
        out[t] = ld_shared(&s.x[0]); // BLAME: missing second barrier, reader last
    }
}

__global__ void divergent_barrier(int *out)
{
    if (threadIdx.x < 32)
        __syncthreads(); // BLAME: divergent barrier, low half last
    else
        __syncthreads(); // BLAME: divergent barrier, high half last
    *out = 1;
}

__global__ void exited_thread(int *out)
{
    if (threadIdx.x == 5)
        return;
    __syncthreads(); // BLAME: barrier after an exit
    *out = 1;
}

__global__ void partial_shuffle(int *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_xor_sync(0xffff, (int)threadIdx.x, 16); // BLAME: partial-mask shuffle
}

__global__ void full_mask_half_warp(int *out)
{
    if (threadIdx.x < 16)
        out[threadIdx.x] = shfl_xor((int)threadIdx.x, 1); // BLAME: full mask, half a warp
}

struct BarrierSmem {
    alignas(1024) bf16 tile[2][64 * 64];
    uint64_t full, empty;
};

__global__ void over_arrival(int)
{
    BarrierSmem &s = shared<BarrierSmem>();
    if (threadIdx.x == 0)
        mbarrier_init(&s.full, 16);
    __syncthreads();
    if (threadIdx.x == 0)
        mbarrier_arrive(&s.full, 17); // BLAME: over-arrival
}

__global__ void uninitialised(int)
{
    mbarrier_arrive(&shared<BarrierSmem>().full); // BLAME: uninitialised mbarrier
}

/// Thread 0 sets up the barriers and begins one load of a tile; the others go on.
__device__ static void begin(BarrierSmem &s, const CUtensorMap *map, uint32_t expected,
                             simt::Site site = simt::Site())
{
    if (threadIdx.x == 0) {
        mbarrier_init(&s.full, 1);
        mbarrier_init(&s.empty, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.full, expected, site);
        tma_load_2d(s.tile[0], map, &s.full, 0, 0, site);
    }
}
constexpr uint32_t tile_bytes = 64 * 64 * 2;

__global__ void too_many_bytes(const __grid_constant__ CUtensorMap map)
{
    begin(shared<BarrierSmem>(), &map, tile_bytes - 16); // BLAME: more bytes than expected
    mbarrier_wait(&shared<BarrierSmem>().full, 0);
}

__global__ void prefetches_none(const __grid_constant__ CUtensorMap map)
{
    if (threadIdx.x == 0)
        tma_prefetch(&map); // BLAME: prefetch of no map
}

__global__ void too_few_bytes(const __grid_constant__ CUtensorMap map)
{
    begin(shared<BarrierSmem>(), &map, tile_bytes + 16);
    mbarrier_wait(&shared<BarrierSmem>().full, 0); // BLAME: fewer bytes than expected
}

__global__ void read_before_wait(const __grid_constant__ CUtensorMap map, uint16_t *out)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    if (threadIdx.x == 0)
        *out = ld_shared(&s.tile[0][0]).bits; // BLAME: read before wait
    mbarrier_wait(&s.full, 0);
}

/// Multiplies tile 0 by itself without waiting for the result.
__device__ static void multiply(BarrierSmem &s, float (&d)[32], Swizzle swizzle = Swizzle::b128,
                                int offset = 0, simt::Site site = simt::Site())
{
    wgmma_pin(d);
    wgmma_fence();
    const uint64_t tile = wgmma_descriptor(s.tile[0], 16, 1024, swizzle);
    wgmma_ss<64>(d, tile, tile + (uint64_t)(offset / 16), false, site);
    wgmma_commit();
}

__global__ void refill_in_use(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    float d[32];
    multiply(s, d);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.full, tile_bytes);
        tma_load_2d(s.tile[0], &map, &s.full, 0, 0); // BLAME: refill of a stage that wgmma reads
    }
    wgmma_wait<0>();
}

/// The first warpgroup multiplies and gives the tile back before it waits; the second refills it.
__global__ void given_back_early(const __grid_constant__ CUtensorMap map, bool early)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    if (threadIdx.x < 128) {
        mbarrier_wait(&s.full, 0);
        float d[32];
        multiply(s, d);
        if (!early)
            wgmma_wait<0>();
        bar_arrive(1, 256);
        wgmma_wait<0>();
        mbarrier_wait(&s.full, 1);
    } else {
        bar_sync(1, 256);
        if (threadIdx.x == 128) {
            mbarrier_arrive_expect(&s.full, tile_bytes);
            tma_load_2d(s.tile[0], &map, &s.full, 0, 0); // BLAME: refill of a stage given back early
        }
        mbarrier_wait(&s.full, 1);
    }
}

__global__ void refill_too_early(const __grid_constant__ CUtensorMap map, uint16_t *out)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    if (threadIdx.x == 64)
        *out = ld_shared(&s.tile[0][0]).bits; // BLAME: refill, reader last
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.full, tile_bytes);
        tma_load_2d(s.tile[0], &map, &s.full, 0, 0); // BLAME: refill, producer last
    }
    mbarrier_wait(&s.full, 1);
}

__global__ void wrong_swizzle(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    float d[32];
    multiply(s, d, Swizzle::b64); // BLAME: wrong swizzle
    wgmma_wait<0>();
}

__global__ void wrong_offset(const __grid_constant__ CUtensorMap map, int offset)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    float d[32];
    multiply(s, d, Swizzle::b128, offset); // BLAME: wrong descriptor offset
    wgmma_wait<0>();
}

__global__ void touched_accumulators(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    float d[32];
    multiply(s, d);
    d[7] *= 0.5f;
    wgmma_wait<0>(); // BLAME: accumulators written before the wait
}

__global__ void stored_accumulators(const __grid_constant__ CUtensorMap map, float *out)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    float d[32];
    multiply(s, d);
    st_global(&out[threadIdx.x], d[7]); // BLAME: accumulators read before the wait
    wgmma_wait<0>();
}

__global__ void never_waited(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    float d[32];
    multiply(s, d); // BLAME: wgmma never waited for
}

__global__ void missing_wgmma_fence(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    float d[32] = {};
    const uint64_t tile = wgmma_descriptor(s.tile[0], 16, 1024, Swizzle::b128);
    wgmma_ss<64>(d, tile, tile, true); // BLAME: missing wgmma.fence
    wgmma_commit();
    wgmma_wait<0>();
}

__global__ void partial_commit(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    float d[32];
    multiply(s, d);
    if (threadIdx.x < 96)
        wgmma_commit();
    wgmma_wait<0>(); // BLAME: commit by three warps
}

__global__ void missing_proxy_fence(int)
{
    BarrierSmem &s = shared<BarrierSmem>();
    for (unsigned i = threadIdx.x; i < 64 * 64; i += 128)
        st_shared(&s.tile[0][i], to_bf16(1));
    __syncthreads();
    float d[32];
    multiply(s, d); // BLAME: missing proxy fence
    wgmma_wait<0>();
}

/// Ones in bf16 to the first tile, by thread t of n.
static void write_ones(BarrierSmem &s, unsigned t, unsigned n)
{
    for (unsigned i = t; i < 64 * 32; i += n)
        st_shared((uint32_t *)s.tile[0] + i, 0x3f803f80u);
}

__global__ void fence_after_barrier(int)
{
    BarrierSmem &s = shared<BarrierSmem>();
    write_ones(s, threadIdx.x, 128);
    __syncthreads();
    if (threadIdx.x == 0)
        fence_proxy_async(); // the reader's, not the writers'
    float d[32];
    multiply(s, d); // BLAME: fence by the reader
    wgmma_wait<0>();
}

/// The second warpgroup fills the tile and fences; the first multiplies it by itself.
__global__ void multiplies_what_others_wrote(bool ordered)
{
    BarrierSmem &s = shared<BarrierSmem>();
    if (threadIdx.x >= 128) {
        write_ones(s, threadIdx.x - 128, 128);
        fence_proxy_async();
    }
    if (ordered)
        __syncthreads();
    if (threadIdx.x < 128) {
        float d[32];
        multiply(s, d); // BLAME: wgmma before the writers' barrier
        wgmma_wait<0>();
    }
}

__global__ void stores_what_others_wrote(const __grid_constant__ CUtensorMap map, bool ordered)
{
    BarrierSmem &s = shared<BarrierSmem>();
    if (threadIdx.x >= 32) {
        write_ones(s, threadIdx.x - 32, 32);
        fence_proxy_async();
    }
    if (ordered)
        __syncthreads();
    if (threadIdx.x == 0) {
        tma_store_2d(&map, s.tile[0], 0, 0); // BLAME: store before the writers' barrier
        bulk_commit();
        bulk_wait<0>();
    }
}

__global__ void overwritten_source(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    if (threadIdx.x == 0) {
        tma_store_2d(&map, s.tile[0], 0, 0);
        bulk_commit();
        st_shared((uint32_t *)s.tile[0], 0u); // BLAME: overwritten source of a store
        bulk_wait_read<0>();
    }
}

__global__ void store_outlives_block(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    mbarrier_wait(&s.full, 0);
    if (threadIdx.x == 0) {
        tma_store_2d(&map, s.tile[0], 0, 0); // BLAME: store never waited for
        bulk_commit();
    }
}

__global__ void outside_shared(int n)
{
    WordSmem &s = shared<WordSmem>();
    st_shared(&s.y[(int)threadIdx.x + n], 0.0f); // BLAME: outside shared memory
}

__global__ void outside_shared_plainly(int n)
{
    WordSmem &s = shared<WordSmem>();
    __syncthreads();
    volatile float *y = s.y;
    if (threadIdx.x == 40)
        y[threadIdx.x + (unsigned)n] = 0;
    __syncthreads(); // BLAME: outside shared memory, plain store
}

__global__ void load_below(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    if (threadIdx.x == 0) {
        mbarrier_init(&s.full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(&s.full, tile_bytes);
        tma_load_2d(s.tile[0], &map, &s.full, 0, -24);
        mbarrier_wait(&s.full, 0);
        mbarrier_arrive_expect(&s.full, tile_bytes);
        tma_load_2d(s.tile[0], &map, &s.full, 0, -23); // BLAME: tensor copy outside global memory
    }
}

__global__ void store_below(const __grid_constant__ CUtensorMap map)
{
    BarrierSmem &s = shared<BarrierSmem>();
    if (threadIdx.x == 0)
        tma_store_2d(&map, s.tile[0], 0, 0); // BLAME: tensor store outside global memory
}

__global__ void outside_global(float *x, int n)
{
    st_global(&x[(int)threadIdx.x + n], 0.0f); // BLAME: outside global memory
}

__global__ void deadlock_kernel(int)
{
    BarrierSmem &s = shared<BarrierSmem>();
    if (threadIdx.x == 0) {
        mbarrier_init(&s.full, 32);
        mbarrier_init(&s.empty, 32);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        mbarrier_wait(&s.empty, 0); // BLAME: deadlock of two barriers
        mbarrier_arrive(&s.full);
    } else {
        mbarrier_wait(&s.full, 0); // BLAME: other side
        mbarrier_arrive(&s.empty);
    }
}

/// Thread 32 first waits when three phases are over. With `told` it knows that they are.
__global__ void late_wait(bool told)
{
    BarrierSmem &s = shared<BarrierSmem>();
    if (threadIdx.x == 0)
        mbarrier_init(&s.full, 1);
    __syncthreads();
    for (unsigned i = 0; i < 3 && threadIdx.x == 0; i++) {
        mbarrier_arrive(&s.full);
        mbarrier_wait(&s.full, i % 2);
    }
    if (told)
        __syncthreads();
    if (threadIdx.x == 32)
        mbarrier_wait(&s.full, 0); // BLAME: wait that comes late
}

__global__ void two_named_barriers(int)
{
    if (threadIdx.x < 32)
        bar_sync(1, 64); // BLAME: two named barriers
    else
        bar_sync(2, 64);
}

__global__ void unpublished_barrier(int)
{
    BarrierSmem &s = shared<BarrierSmem>();
    if (threadIdx.x == 0)
        mbarrier_init(&s.full, 2);
    if (threadIdx.x == 1)
        mbarrier_arrive(&s.full); // BLAME: mbarrier used before a barrier published it
}

__global__ void greedy_registers(int)
{
    if (threadIdx.x < 128)
        setmaxnreg_inc<240>(); // BLAME: setmaxnreg beyond the pool
    else
        setmaxnreg_inc<232>();
}

static void wrong_kernels()
{
    float out_memory[256], *const out = out_memory;
    int word = 0;
    uint16_t half = 0;
    Tensor t(64, 64, 9);
    const CUtensorMap map = t.map(64, 64, TensorSwizzle::b128);
    const size_t bytes = sizeof(BarrierSmem);
    auto only = [](Order order) { options.order = order; };

    wrong("missing barrier", "", [&] { LAUNCH(missing_barrier, 1, 64, sizeof(WordSmem), nullptr, out); });
    auto loop = [&] { LAUNCH(missing_second_barrier, 1, 64, sizeof(WordSmem), nullptr, out); };
    wrong("missing second barrier, writer last", "race", loop, false);
    only(Order::reverse);
    wrong("missing second barrier, reader last", "race", loop, false);
    wrong(
        "divergent barrier, high half last", "divergent",
        [&] { LAUNCH(divergent_barrier, 1, 64, 0, nullptr, &word); }, false);
    only(Order::reverse);
    wrong(
        "divergent barrier, low half last", "divergent",
        [&] { LAUNCH(divergent_barrier, 1, 64, 0, nullptr, &word); }, false);
    wrong("barrier after an exit", "exited", [&] { LAUNCH(exited_thread, 1, 64, 0, nullptr, &word); });
    wrong("partial-mask shuffle", "not in its mask",
          [&] { LAUNCH(partial_shuffle, 1, 32, 0, nullptr, (int *)out); });
    wrong("full mask, half a warp", "shfl",
          [&] { LAUNCH(full_mask_half_warp, 1, 32, 0, nullptr, (int *)out); });
    wrong("over-arrival", "over-arrival", [&] { LAUNCH(over_arrival, 1, 32, bytes, nullptr, 0); });
    wrong("uninitialised mbarrier", "no mbarrier", [&] { LAUNCH(uninitialised, 1, 32, bytes, nullptr, 0); });
    wrong("prefetch of no map", "no tensor map",
          [&] { LAUNCH(prefetches_none, 1, 32, 0, nullptr, CUtensorMap()); });
    wrong("more bytes than expected", "byte-count mismatch: 16",
          [&] { LAUNCH(too_many_bytes, 1, 128, bytes, nullptr, map); });
    wrong("fewer bytes than expected", "16 bytes missing",
          [&] { LAUNCH(too_few_bytes, 1, 128, bytes, nullptr, map); });
    wrong(
        "read before wait", "has not been waited for",
        [&] { LAUNCH(read_before_wait, 1, 128, bytes, nullptr, map, &half); }, false);
    wrong("refill of a stage that wgmma reads", "refill",
          [&] { LAUNCH(refill_in_use, 1, 128, bytes, nullptr, map); });
    right("a stage given back after the wait", [&] {
        LAUNCH(given_back_early, 1, 256, bytes, nullptr, map, false);
        return true;
    });
    wrong("refill of a stage given back early", "refill",
          [&] { LAUNCH(given_back_early, 1, 256, bytes, nullptr, map, true); });
    wrong(
        "refill, reader last", "has not been waited for",
        [&] { LAUNCH(refill_too_early, 1, 128, bytes, nullptr, map, &half); }, false);
    only(Order::reverse);
    wrong(
        "refill, producer last", "refill",
        [&] { LAUNCH(refill_too_early, 1, 128, bytes, nullptr, map, &half); }, false);
    wrong("wrong swizzle", "says 64 bytes", [&] { LAUNCH(wrong_swizzle, 1, 128, bytes, nullptr, map); });
    wrong("wrong descriptor offset", "outside the",
          [&] { LAUNCH(wrong_offset, 1, 128, bytes, nullptr, map, 12288); });
    wrong(
        "wrong descriptor offset", "nobody has written",
        [&] { LAUNCH(wrong_offset, 1, 128, bytes, nullptr, map, 8192); }, false);
    wrong("wrong descriptor offset", "inside the",
          [&] { LAUNCH(wrong_offset, 1, 128, bytes, nullptr, map, 128); });
    wrong("accumulators written before the wait", "thread 0 changed register 7",
          [&] { LAUNCH(touched_accumulators, 1, 128, bytes, nullptr, map); });
    wrong("accumulators read before the wait", "accumulators",
          [&] { LAUNCH(stored_accumulators, 1, 128, bytes, nullptr, map, out); });
    wrong("wgmma never waited for", "before this wgmma was waited for",
          [&] { LAUNCH(never_waited, 1, 128, bytes, nullptr, map); });
    wrong("missing wgmma.fence", "wgmma.fence",
          [&] { LAUNCH(missing_wgmma_fence, 1, 128, bytes, nullptr, map); });
    wrong("commit by three warps", "executed 2 times by thread 0, but 1 times by thread 96",
          [&] { LAUNCH(partial_commit, 1, 128, bytes, nullptr, map); });
    wrong("missing proxy fence", "missing proxy fence",
          [&] { LAUNCH(missing_proxy_fence, 1, 128, bytes, nullptr, 0); });
    wrong("fence by the reader", "missing proxy fence",
          [&] { LAUNCH(fence_after_barrier, 1, 128, bytes, nullptr, 0); });
    right("wgmma and a store after the writers' barrier", [&] {
        LAUNCH(multiplies_what_others_wrote, 1, 256, bytes, nullptr, true);
        LAUNCH(stores_what_others_wrote, 1, 64, bytes, nullptr, map, true);
        return true;
    });
    only(Order::reverse);
    wrong(
        "wgmma before the writers' barrier", "race",
        [&] { LAUNCH(multiplies_what_others_wrote, 1, 256, bytes, nullptr, false); }, false);
    only(Order::reverse);
    wrong(
        "store before the writers' barrier", "race",
        [&] { LAUNCH(stores_what_others_wrote, 1, 64, bytes, nullptr, map, false); }, false);
    wrong("overwritten source of a store", "has not been waited for",
          [&] { LAUNCH(overwritten_source, 1, 128, bytes, nullptr, map); });
    wrong("store never waited for", "block ended",
          [&] { LAUNCH(store_outlives_block, 1, 128, bytes, nullptr, map); });
    wrong("outside shared memory", "not inside the 512 bytes",
          [&] { LAUNCH(outside_shared, 1, 64, sizeof(WordSmem), nullptr, 1); });
    wrong("outside shared memory, plain store", "thread 40",
          [&] { LAUNCH(outside_shared_plainly, 1, 64, sizeof(WordSmem), nullptr, 30); });
    simt::declare_global(out, sizeof out_memory, "out");
    wrong("outside global memory", "`out`, which has 1024",
          [&] { LAUNCH(outside_global, 1, 64, 0, nullptr, out, 200); });
    simt::declare_global(t.data, 40 * 128, "t");
    wrong("tensor copy outside global memory", "`t`, which has 5120",
          [&] { LAUNCH(load_below, 1, 128, bytes, nullptr, map); });
    wrong("tensor store outside global memory", "`t`, which has 5120",
          [&] { LAUNCH(store_below, 1, 128, bytes, nullptr, map); });
    simt::forget_globals();
    wrong(
        "wait that comes late", "too late", [&] { LAUNCH(late_wait, 1, 64, bytes, nullptr, false); }, false);
    simt::reset();
    LAUNCH(late_wait, 1, 64, bytes, nullptr, true);
    tap(simt::report().empty(), "... but not of a thread that knows how many phases are over");
    wrong("deadlock of two barriers", "threads 32-63: mbarrier",
          [&] { LAUNCH(deadlock_kernel, 1, 64, bytes, nullptr, 0); });
    tap(simt::report().find(std::to_string(line_of("other side"))) != string::npos,
        "...with the line of the other side");
    wrong("two named barriers", "barrier 2, where 32 of 64",
          [&] { LAUNCH(two_named_barriers, 1, 64, 0, nullptr, 0); });
    wrong(
        "mbarrier used before a barrier published it", "initialised this mbarrier",
        [&] { LAUNCH(unpublished_barrier, 1, 32, bytes, nullptr, 0); }, false);
    wrong(
        "setmaxnreg beyond the pool", "setmaxnreg", [&] { LAUNCH(greedy_registers, 1, 384, 0, nullptr, 0); },
        false);

    refused("more than 227 KB of shared memory is refused", "227 KB",
            [&] { LAUNCH(over_arrival, 1, 32, 232449, nullptr, 0); });
    refused("less than the kernel's struct too", "the launch gave 64",
            [&] { LAUNCH(over_arrival, 1, 32, 64, nullptr, 0); });
}

/* ---- What order alone is wrong with -------------------------------------------------------------------
 * The right kernel and the wrong one differ by one flag. Whoever comes last is blamed, so some have two
 * lines. */

/// Two tiles come, each on a barrier of its own. Without `both` only the last one is waited for.
__global__ void waits_on_another(const __grid_constant__ CUtensorMap map, uint32_t *out, bool both)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.empty, tile_bytes);
        tma_load_2d(s.tile[1], &map, &s.empty, 0, 0);
    }
    if (both)
        mbarrier_wait(&s.full, 0);
    mbarrier_wait(&s.empty, 0);
    if (!both && threadIdx.x > 0)
        mbarrier_wait(&s.full, 0);
    out[threadIdx.x] = ld_shared((uint32_t *)s.tile[0] + threadIdx.x) + // BLAME: data of another mbarrier
                       ld_shared((uint32_t *)s.tile[1] + threadIdx.x);
}

__global__ void warps_wait_for_themselves(const __grid_constant__ CUtensorMap map, bool all)
{
    BarrierSmem &s = shared<BarrierSmem>();
    begin(s, &map, tile_bytes);
    if (all || threadIdx.x < 96)
        mbarrier_wait(&s.full, 0);
    float d[32];
    multiply(s, d); // BLAME: operand for which a warp has not waited
    wgmma_wait<0>();
    mbarrier_wait(&s.full, 0);
}

/// The second warpgroup overwrites what the first one has multiplied.
__global__ void stores_over_operand(bool ordered)
{
    BarrierSmem &s = shared<BarrierSmem>();
    write_ones(s, threadIdx.x, 256);
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x < 128) {
        float d[32];
        multiply(s, d); // BLAME: store over an operand
        wgmma_wait<0>();
    }
    if (ordered)
        bar_sync(1, 256);
    if (threadIdx.x == 200)
        st_shared((uint32_t *)s.tile[0] + 77, 0u); // BLAME: store over an operand
}

/// Block 1 hands data to block 0.
enum class Hand { right, relaxed, half_fenced, early, plain };
__global__ void handed_over(float *data, uint32_t *flag, float *out, Hand how)
{
    const unsigned t = threadIdx.x;
    if (blockIdx.x == 1) {
        st_global(&data[t], 1.0f + (float)t); // BLAME: handed over
        if (how == Hand::early && t == 0)
            st_release(flag, 1); // before the barrier of those who wrote
        __syncthreads();
        if (how != Hand::early && t == 0) {
            if (how == Hand::right || how == Hand::half_fenced)
                __threadfence();
            if (how == Hand::plain)
                st_global(flag, 1u); // BLAME: handed over
            else
                atomicExch(flag, 1u);
        }
    } else {
        if (t == 0) {
            if (how == Hand::early || how == Hand::plain)
                while (ld_acquire(flag) == 0) { // BLAME: handed over
                }
            else
                while (atomicAdd(flag, 0u) == 0) {
                }
            if (how == Hand::right)
                __threadfence();
        }
        __syncthreads();
        st_global(&out[t], ld_global(&data[t])); // BLAME: handed over
    }
}

/// The last block of a row: a barrier, and an atomic by one thread that releases and acquires; or a fence by each thread
/// and a relaxed one.
enum class Ticket { acq_rel, fences, early, relaxed };
__global__ void last_block_adds(float *part, uint32_t *ticket, float *sum, Ticket how)
{
    ReduceSmem &s = shared<ReduceSmem>();
    const unsigned t = threadIdx.x;
    uint32_t drawn = 0;
    st_global(&part[blockIdx.x * 64 + t], (float)t); // BLAME: ticket of the last block
    if (how == Ticket::fences)
        __threadfence();
    if (how == Ticket::early && t == 0)
        drawn = atom_add_acq_rel(ticket, 1); // before the barrier of those who stored
    __syncthreads();
    if (how == Ticket::acq_rel && t == 0)
        drawn = atom_add_acq_rel(ticket, 1);
    else if (how != Ticket::early && t == 0)
        drawn = atomicAdd(ticket, 1u);
    if (t == 0)
        st_shared((uint32_t *)&s.part[0], drawn);
    __syncthreads();
    if (ld_shared((uint32_t *)&s.part[0]) + 1 < gridDim.x)
        return;
    if (how == Ticket::fences)
        __threadfence();
    float all = 0;
    for (unsigned b = 0; b < gridDim.x; b++)
        all += ld_global(&part[b * 64 + t]); // BLAME: ticket of the last block
    st_global(&sum[t], all);
}

__global__ void lost_update(float *sum, bool atomic)
{
    if (threadIdx.x)
        return;
    if (atomic)
        red_add(sum, 1.0f);
    else
        st_global(sum, ld_global(sum) + 1); // BLAME: lost update
}

struct StoreSmem {
    alignas(128) float x[64];
    uint64_t full;
};

__global__ void reads_its_store(float *out, float *copy, bool all)
{
    StoreSmem &s = shared<StoreSmem>();
    st_shared(&s.x[threadIdx.x], (float)threadIdx.x);
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        bulk_store(out, s.x, sizeof s.x);
        bulk_commit();
        if (all)
            bulk_wait<0>();
        else
            bulk_wait_read<0>();
    }
    __syncthreads();
    st_global(&copy[threadIdx.x], ld_global(&out[threadIdx.x])); // BLAME: bulk store not over
}

/// Ordinary writes or reads, then a copy over the same bytes.
__global__ void copies_over(const float *x, float *out, bool fence, bool read)
{
    StoreSmem &s = shared<StoreSmem>();
    const unsigned t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&s.full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (read) {
        if (t == 0) {
            mbarrier_arrive_expect(&s.full, sizeof s.x);
            bulk_load(s.x, x, sizeof s.x, &s.full);
        }
        mbarrier_wait(&s.full, 0);
        out[t] = ld_shared(&s.x[t]);
    } else {
        st_shared(&s.x[t], 0.0f);
    }
    if (fence)
        fence_proxy_async();
    __syncthreads();
    if (!fence)
        fence_proxy_async(); // too late
    if (t == 0) {
        mbarrier_arrive_expect(&s.full, sizeof s.x);
        bulk_load(s.x, x, sizeof s.x, &s.full); // BLAME: copy over ordinary accesses
    }
    mbarrier_wait(&s.full, read);
    out[t] = ld_shared(&s.x[t]);
}

__global__ void copies_what_it_stored(float *x, float *out, bool fence)
{
    StoreSmem &s = shared<StoreSmem>();
    const unsigned t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&s.full, 1);
        fence_mbarrier_init();
    }
    st_global(&x[t], (float)t);
    if (fence)
        fence_proxy_async_global();
    __syncthreads();
    if (t == 0) {
        mbarrier_arrive_expect(&s.full, sizeof s.x);
        bulk_load(s.x, x, sizeof s.x, &s.full); // BLAME: copy of ordinary stores
    }
    mbarrier_wait(&s.full, 0);
    out[t] = ld_shared(&s.x[t]);
}

__global__ void half_warps(int)
{
    if (threadIdx.x % 32 < 16)
        bar_sync(1, 32); // BLAME: half a warp at a barrier
}

__global__ void two_places(int)
{
    if (threadIdx.x % 32 < 16)
        bar_sync(1, 64); // BLAME: a warp at two barriers
    else
        bar_sync(1, 64); // BLAME: a warp at two barriers
}

/// All blocks wait for all others.
__global__ void grid_barrier(uint32_t *arrived, bool moves_registers)
{
    if (moves_registers)
        setmaxnreg_dec<32>();
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicAdd(arrived, 1u);
        while (ld_acquire(arrived) < gridDim.x) { // BLAME: more blocks than fit
        }
    }
}

/// The launch got 384 times 168 registers.
template <int few> __global__ void three_groups(int)
{
    if (threadIdx.x < 128)
        setmaxnreg_dec<few>();
    else
        setmaxnreg_inc<240>(); // BLAME: registers that the launch did not get
}

__global__ void unaligned_operand(int)
{
    BarrierSmem &s = shared<BarrierSmem>();
    wgmma_descriptor(&s.tile[0][4], 16, 1024, Swizzle::b128); // BLAME: unaligned descriptor
}

__global__ void unset_accumulators(bool clear)
{
    BarrierSmem &s = shared<BarrierSmem>();
    write_ones(s, threadIdx.x, 128);
    fence_proxy_async();
    __syncthreads();
    const uint64_t tile = wgmma_descriptor(s.tile[0], 16, 1024, Swizzle::b128);
    float d[32];
    for (int i = 0; clear && i < 32; i++)
        d[i] = 0;
    wgmma_pin(d);
    wgmma_fence();
    wgmma_ss<64>(d, tile, tile, true); // BLAME: unset accumulators
    wgmma_commit();
    wgmma_wait<0>();
}

__global__ void stores_nothing(float *out)
{
    StoreSmem &s = shared<StoreSmem>();
    if (threadIdx.x == 0) {
        bulk_store(out, s.x, sizeof s.x); // BLAME: store of what nobody wrote
        bulk_commit();
        bulk_wait<0>();
    }
}

__global__ void unwritten_half(uint16_t *out)
{
    out[threadIdx.x] =
        ld_shared((uint16_t *)shared<StoreSmem>().x + threadIdx.x); // BLAME: half a word unwritten
}

/// Of 16 threads the last one is past the end of x, where y lies.
__global__ void into_neighbour(const float *from, bool inside, bool copy)
{
    WordSmem &s = shared<WordSmem>();
    float *const place = &s.x[4 * threadIdx.x + (inside ? 0 : 4)];
    if (copy)
        cp_async_16(place, from, 16); // BLAME: store into a neighbouring array
    else
        st_shared((float4 *)place, make_float4(0, 0, 0, 0)); // BLAME: store into a neighbouring array
}

struct RingSmem {
    uint64_t full[2], empty[2];
};

__global__ void one_stage_too_many(int stages)
{
    RingSmem &s = shared<RingSmem>();
    for (int i = 0; i < stages; i++)
        mbarrier_init(&s.full[i], 1); // BLAME: mbarrier of a neighbouring array
}

__global__ void unset_register(int n, float *out)
{
    float x[4];
    for (int i = 0; i < n; i++)
        x[i] = (float)i;
    for (int i = 0; i < 4; i++)
        st_global(&out[i], x[i]); // BLAME: unset register stored
}

/// Of A from shared memory, and without a swizzle or a transposition.
__global__ void rows_over_each_other(uint32_t leading, uint32_t stride, Swizzle swizzle, bool across)
{
    BarrierSmem &s = shared<BarrierSmem>();
    write_ones(s, threadIdx.x, 128);
    fence_proxy_async();
    __syncthreads();
    const uint64_t a = wgmma_descriptor(s.tile[0], leading, stride, swizzle),
                   b = wgmma_descriptor(s.tile[0], 16, 1024, Swizzle::b128);
    float d[4];
    wgmma_fence();
    if (across)
        wgmma_ss<8, 1>(d, a, b, false); // BLAME: descriptor that puts rows over each other
    else
        wgmma_ss<8>(d, a, b, false); // BLAME: descriptor that puts rows over each other
    wgmma_commit();
    wgmma_wait<0>();
}

__global__ void forgets_to_commit(bool commits)
{
    BarrierSmem &s = shared<BarrierSmem>();
    write_ones(s, threadIdx.x, 128);
    fence_proxy_async();
    __syncthreads();
    const uint64_t tile = wgmma_descriptor(s.tile[0], 16, 1024, Swizzle::b128);
    float d[32];
    wgmma_fence();
    wgmma_ss<64>(d, tile, tile, false);
    if (commits)
        wgmma_commit();
    wgmma_wait<0>(); // BLAME: wgmma that was not committed
}

/// Warps that wait for the same product have told each other nothing.
__global__ void tells_by_a_product(float *out, bool barrier)
{
    BarrierSmem &s = shared<BarrierSmem>();
    write_ones(s, threadIdx.x, 128);
    fence_proxy_async();
    __syncthreads();
    float d[32];
    multiply(s, d);
    if (threadIdx.x == 0)
        st_shared((float *)s.tile[1], 1.0f);
    wgmma_wait<0>();
    if (barrier)
        __syncthreads();
    if (threadIdx.x == 127)
        *out = ld_shared((float *)s.tile[1]); // BLAME: word told by a product
}

/// What lanes do together moves values, and tells nothing of memory.
enum class Together { barrier, vote, shuffle, reduction, election };
__global__ void tells_by_a_value(float *out, Together how)
{
    WordSmem &s = shared<WordSmem>();
    if (threadIdx.x == 0)
        st_shared(&s.x[0], 1.0f);
    if (how == Together::barrier)
        __syncwarp();
    else if (how == Together::vote)
        warp_ballot(true);
    else if (how == Together::shuffle)
        shfl_xor(1, 1);
    else if (how == Together::reduction)
        warp_max(threadIdx.x);
    else
        elect_one();
    if (threadIdx.x == 31)
        *out = ld_shared(&s.x[0]); // BLAME: word told by a value
}

/// Two pairs of warps meet: a barrier that both use may take one from each.
__global__ void pairs(bool apart)
{
    WordSmem &s = shared<WordSmem>();
    const unsigned t = threadIdx.x % 32, pair = threadIdx.x / 64, id = apart ? 1 + pair : 1;
    if (threadIdx.x / 32 % 2) {
        bar_sync(id, 64); // BLAME: barrier of two pairs
        ld_shared(&s.x[32 * pair + t]);
    } else {
        st_shared(&s.x[32 * pair + t], 1.0f);
        bar_arrive(id, 64); // BLAME: barrier of two pairs
    }
}

__global__ void some_at_barrier_0(bool another)
{
    if (threadIdx.x < 64)
        bar_sync(another, 64); // BLAME: barrier 0 of some
    __syncthreads();           // BLAME: barrier 0 of some
}

/// One warp hands words to the other, which only with `told` says when it has read them.
__global__ void hands_on(float *out, bool told)
{
    BarrierSmem &s = shared<BarrierSmem>();
    const unsigned t = threadIdx.x % 32;
    float *const word = (float *)s.tile[0] + t;
    if (threadIdx.x == 0) {
        mbarrier_init(&s.full, 32);
        mbarrier_init(&s.empty, 32);
    }
    __syncthreads();
    for (unsigned i = 0; i < 3; i++)
        if (threadIdx.x < 32) {
            if (told)
                mbarrier_wait(&s.empty, i % 2 ^ 1);
            st_shared(word, (float)i);
            mbarrier_arrive(&s.full); // BLAME: arrival of whom nobody has told
        } else {
            mbarrier_wait(&s.full, i % 2); // BLAME: arrival of whom nobody has told
            st_global(&out[t], ld_shared(word));
            mbarrier_arrive(&s.empty);
        }
}

/// How far one warp is ahead of the other, at most.
__global__ void lead_kernel(int *turns, int *lead)
{
    const unsigned w = threadIdx.x / 32;
    for (int i = 0; i < 100; i++) {
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
            turns[w]++;
            *lead = std::max(*lead, abs(turns[0] - turns[1]));
        }
    }
}

/// What a kernel with a flag does: right with it, reported without.
static void twins(const char *name, const char *words, const std::function<void(bool)> &launch)
{
    right(("right: " + string(name)).c_str(), [&] {
        launch(true);
        return true;
    });
    wrong(name, words, [&] { launch(false); });
}

static void order_in_a_block()
{
    vector<float> memory(3 * 64 + 32);
    float *const x = aligned(memory), *const out = x + 64;
    const Tensor t(64, 64, 21);
    const CUtensorMap map = t.map(64, 64, TensorSwizzle::b128);
    const size_t tiles = sizeof(BarrierSmem), bytes = sizeof(StoreSmem);
    uint32_t words[128];
    uint16_t halves[32];

    twins("data of another mbarrier", "waited for",
          [&](bool ok) { LAUNCH(waits_on_another, 1, 128, tiles, nullptr, map, &words[0], ok); });
    twins("operand for which a warp has not waited", "waited for",
          [&](bool ok) { LAUNCH(warps_wait_for_themselves, 1, 128, tiles, nullptr, map, ok); });
    twins("store over an operand", "",
          [&](bool ok) { LAUNCH(stores_over_operand, 1, 256, tiles, nullptr, ok); });
    twins("bulk store not over", "source only",
          [&](bool ok) { LAUNCH(reads_its_store, 1, 64, bytes, nullptr, x, out, ok); });
    for (bool read : {false, true})
        twins("copy over ordinary accesses", read ? "read at" : "wrote at",
              [&](bool ok) { LAUNCH(copies_over, 1, 64, bytes, nullptr, x, out, ok, read); });
    twins("copy of ordinary stores", "fence.proxy.async.global",
          [&](bool ok) { LAUNCH(copies_what_it_stored, 1, 64, bytes, nullptr, x, out, ok); });
    wrong("half a warp at a barrier", "whole warps", [&] { LAUNCH(half_warps, 1, 64, 0, nullptr, 0); });
    wrong("a warp at two barriers", "arrives as one", [&] { LAUNCH(two_places, 1, 64, 0, nullptr, 0); });
    right("24, 240 and 240 registers", [&] {
        LAUNCH(three_groups<24>, 1, 384, 0, nullptr, 0);
        return true;
    });
    wrong("registers that the launch did not get", "3 times 168",
          [&] { LAUNCH(three_groups<32>, 1, 384, 0, nullptr, 0); });
    wrong("unaligned descriptor", "offset 8", [&] { LAUNCH(unaligned_operand, 1, 1, tiles, nullptr, 0); });
#if defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
    twins("unset accumulators", "nobody has set",
          [&](bool ok) { LAUNCH(unset_accumulators, 1, 128, tiles, nullptr, ok); });
    twins("unset register stored", "nobody has set",
          [&](bool ok) { LAUNCH(unset_register, 1, 32, 0, nullptr, ok ? 4 : 3, out); });
    for (bool copy : {false, true})
        twins("store into a neighbouring array", "past the end of their array",
              [&](bool ok) { LAUNCH(into_neighbour, 1, 16, sizeof(WordSmem), nullptr, x, ok, copy); });
    twins("mbarrier of a neighbouring array", "past the end of their array",
          [&](bool ok) { LAUNCH(one_stage_too_many, 1, 1, sizeof(RingSmem), nullptr, ok ? 2 : 3); });
#else
    tap_skip("reported: unset accumulators and registers, neighbouring arrays",
             "this compiler fills no automatic variables and does not know the ends of arrays");
#endif
    twins("descriptor that puts rows over each other", "over each other", [&](bool ok) {
        LAUNCH(rows_over_each_other, 1, 128, tiles, nullptr, 16, ok ? 1024 : 512, Swizzle::b128, false);
    });
    twins("descriptor that puts rows over each other", "over each other", [&](bool ok) {
        LAUNCH(rows_over_each_other, 1, 128, tiles, nullptr, 128, ok ? 256 : 128, Swizzle::none, false);
    });
    twins("descriptor that puts rows over each other", "over each other", [&](bool ok) {
        LAUNCH(rows_over_each_other, 1, 128, tiles, nullptr, ok ? 512 : 256, ok ? 1024 : 256, Swizzle::b64,
               true);
    });
    twins("wgmma that was not committed", "no wgmma.commit_group",
          [&](bool ok) { LAUNCH(forgets_to_commit, 1, 128, tiles, nullptr, ok); });
    twins("word told by a product", "race",
          [&](bool ok) { LAUNCH(tells_by_a_product, 1, 128, tiles, nullptr, out, ok); });
    for (Together how : {Together::vote, Together::shuffle, Together::reduction, Together::election})
        twins("word told by a value", "race", [&](bool ok) {
            LAUNCH(tells_by_a_value, 1, 32, sizeof(WordSmem), nullptr, out, ok ? Together::barrier : how);
        });
    twins("barrier of two pairs", "barrier 1",
          [&](bool ok) { LAUNCH(pairs, 1, 128, sizeof(WordSmem), nullptr, ok); });
    twins("barrier 0 of some", "barrier", [&](bool ok) { LAUNCH(some_at_barrier_0, 1, 96, 0, nullptr, ok); });
    twins("arrival of whom nobody has told", "",
          [&](bool ok) { LAUNCH(hands_on, 1, 64, tiles, nullptr, out, ok); });
    wrong("store of what nobody wrote", "nobody has written",
          [&] { LAUNCH(stores_nothing, 1, 32, bytes, nullptr, x); });
    wrong("half a word unwritten", "nobody has written",
          [&] { LAUNCH(unwritten_half, 1, 32, bytes, nullptr, &halves[0]); });
    int lead[2];
    simt::reset();
    for (bool unfair : {false, true}) {
        int turns[2] = {0, 0};
        options.order = unfair ? Order::unfair : Order::forward;
        lead[unfair] = 0;
        LAUNCH(lead_kernel, 1, 64, 0, nullptr, &turns[0], &lead[unfair]);
    }
    options.order = Order::forward;
    tap(lead[0] <= 2 && lead[1] > 20, "in the unfair order a warp is %d turns ahead, else %d", lead[1],
        lead[0]);
}

/* ---- Clusters ------------------------------------------------------------------------------------ */

struct ClusterSmem {
    float2 part[2][128];
};
constexpr int in_cluster = 4;

PTX_INLINE void cluster_sync()
{
    cluster_arrive();
    cluster_wait(); // BLAME: cluster barrier without a warp
}

/// Every CTA adds up what all CTAs of its cluster have stored there, twice, with other numbers.
__global__ void cluster_sum(const float *x, float *sum)
{
    ClusterSmem &s = shared<ClusterSmem>();
    const unsigned t = threadIdx.x, n = blockDim.x;
    grid_wait();
    for (unsigned turn = 0; turn < 2; turn++) {
        cluster_sync();
        const float v = ld_global(&x[blockIdx.x * n + t]) + (float)turn;
        for (unsigned i = 0; i < in_cluster && t / in_cluster * in_cluster + i < n; i++)
            if (t % in_cluster == blockIdx.x % in_cluster)
                st_remote(mapa(&s.part[turn][t], i), make_float2(v, 1));
        cluster_sync();
        st_global(&sum[(2 * blockIdx.x + turn) * n + t], ld_shared(&s.part[turn][t]).x);
    }
}

/// n threads: the last warp may not be full.
static bool cluster_reduction(unsigned n)
{
    vector<float> x(12 * n), sum(2 * 12 * n, NAN);
    for (size_t i = 0; i < x.size(); i++)
        x[i] = (float)(i * i % 101);
    LAUNCH_CLUSTER(cluster_sum, in_cluster, 12, n, sizeof(ClusterSmem), nullptr, x.data(), sum.data());
    for (size_t i = 0; i < sum.size(); i++) {
        const size_t block = i / n / 2, turn = i / n % 2, t = i % n;
        if (!(sum[i] == x[(block / in_cluster * in_cluster + t % in_cluster) * n + t] + (float)turn))
            return false;
    }
    return true;
}

/// Warps may exit before the others meet, and a thread that has arrived may exit without waiting.
__global__ void leavers(uint32_t *met)
{
    if (threadIdx.x < 32 && blockIdx.x == 0)
        return;
    cluster_arrive();
    if (threadIdx.x < 64 && blockIdx.x == 1)
        return;
    cluster_wait();
    atomicAdd(met, 1u);
}

enum class Neighbour { right, may_not_have_started, may_have_exited, reads_early, still_reads, wrote };

/// Each of two CTAs stores in the other, which reads it.
__global__ void neighbours(float *out, Neighbour how)
{
    ClusterSmem &s = shared<ClusterSmem>();
    const unsigned t = threadIdx.x;
    const Remote<float2> there = mapa(&s.part[0][t], blockIdx.x ^ 1);
    grid_wait();
    st_shared(&s.part[0][t], make_float2(0, 0));
    if (how != Neighbour::may_not_have_started)
        cluster_sync();
    if (how == Neighbour::wrote)
        st_shared(&s.part[0][t], make_float2(0, 0)); // BLAME: neighbour that writes
    if (how != Neighbour::may_have_exited || blockIdx.x == 0)
        st_remote(there, make_float2(1, 2)); // BLAME: neighbour
    if (how == Neighbour::may_have_exited)
        return;
    if (how != Neighbour::reads_early)
        cluster_sync();
    out[t] = ld_shared(&s.part[0][t]).y; // BLAME: neighbour that reads
    if (how == Neighbour::still_reads)
        st_remote(there, make_float2(3, 4)); // BLAME: neighbour
    if (how == Neighbour::still_reads || how == Neighbour::reads_early)
        cluster_sync();
}

__global__ void divergent_cluster_barrier(int)
{
    if (threadIdx.x % 2)
        cluster_arrive(); // BLAME: divergent cluster barrier
}
__global__ void partial_cluster_barrier(int)
{
    if (threadIdx.x < 32 || blockIdx.x == 0)
        cluster_sync();
    __syncthreads();
    cluster_sync();
}
__global__ void second_arrival(int)
{
    cluster_arrive();
    cluster_arrive(); // BLAME: second arrival of the cluster
    cluster_wait();
}
__global__ void wait_before_arrival(int)
{
    cluster_wait(); // BLAME: wait before the arrival
}

static void clusters()
{
    right("sums over the CTAs of a cluster", [] { return cluster_reduction(128) && cluster_reduction(80); });
    right("... some of which have left", [] {
        uint32_t met = 0;
        LAUNCH_CLUSTER(leavers, 2, 2, 96, 0, nullptr, &met);
        return met == 64 + 32;
    });
    right("a cluster runs whole if one of its CTAs is asked for", [] {
        options.only = [](const char *, uint64_t, uint64_t block, dim3) { return block == 2; };
        uint32_t met = 0;
        LAUNCH_CLUSTER(leavers, 2, 6, 96, 0, nullptr, &met);
        options.only = nullptr;
        return met == 2 * 96;
    });
    vector<float> out(64);
    const auto meet = [&](Neighbour how) {
        LAUNCH_CLUSTER(neighbours, 2, 2, 64, sizeof(ClusterSmem), nullptr, out.data(), how);
    };
    right("two CTAs store in each other", [&] {
        meet(Neighbour::right);
        return out[63] == 2;
    });
    wrong("neighbour", "may not have started", [&] { meet(Neighbour::may_not_have_started); });
    wrong("neighbour", "exited", [&] { meet(Neighbour::may_have_exited); });
    wrong("neighbour", "race", [&] { meet(Neighbour::reads_early); });
    wrong("neighbour", "race", [&] { meet(Neighbour::still_reads); });
    wrong("neighbour", "race", [&] { meet(Neighbour::wrote); });
    wrong("divergent cluster barrier", "barrier.cluster.arrive waits for thread",
          [] { LAUNCH_CLUSTER(divergent_cluster_barrier, 2, 2, 32, 0, nullptr, 0); });
    wrong("cluster barrier without a warp", "barrier.cluster",
          [] { LAUNCH_CLUSTER(partial_cluster_barrier, 2, 2, 64, 0, nullptr, 0); });
    wrong("second arrival of the cluster", "second time",
          [] { LAUNCH_CLUSTER(second_arrival, 2, 2, 32, 0, nullptr, 0); });
    wrong("wait before the arrival", "no barrier.cluster.arrive",
          [] { LAUNCH_CLUSTER(wait_before_arrival, 2, 2, 32, 0, nullptr, 0); });
    const auto size = [](unsigned n, unsigned grid) {
        LAUNCH_CLUSTER(second_arrival, n, grid, 32, 0, nullptr, 0);
    };
    refused("a cluster of 9", "1 to 8 blocks", [&] { size(9, 9); });
    refused("a cluster that does not divide the grid", "1 to 8 blocks", [&] { size(4, 6); });
    options.sms = 1;
    refused("a cluster for which there is no room", "do not fit",
            [] { LAUNCH_CLUSTER(second_arrival, 4, 4, 1024, 0, nullptr, 0); });
    options = simt::Options();
    options.keep_going = true;
}

static void order_of_blocks()
{
    vector<float> data(64), out(64), parts(4 * 64);
    uint32_t flag = 0;
    auto hand = [&](Hand how) {
        options.resident = 2;
        flag = 0;
        LAUNCH(handed_over, 2, 64, 0, nullptr, data.data(), &flag, out.data(), how);
    };
    right("data handed from block to block", [&] {
        hand(Hand::right);
        return out[63] == 64;
    });
    for (Hand how : {Hand::relaxed, Hand::half_fenced, Hand::early, Hand::plain})
        wrong("handed over", "race", [&] { hand(how); });
    auto last = [&](Ticket how) {
        flag = 0;
        LAUNCH(last_block_adds, 4, 64, sizeof(ReduceSmem), nullptr, parts.data(), &flag, out.data(), how);
    };
    for (Ticket how : {Ticket::acq_rel, Ticket::fences})
        right("the last block adds up", [&] {
            last(how);
            return out[63] == 4 * 63;
        });
    for (Ticket how : {Ticket::early, Ticket::relaxed})
        wrong("ticket of the last block", "race", [&] { last(how); });
    twins("lost update", "race", [&](bool ok) { LAUNCH(lost_update, 4, 32, 0, nullptr, out.data(), ok); });
    auto together = [&](unsigned blocks, unsigned threads, size_t bytes, bool moves) {
        options.resident = (int)blocks;
        options.sms = 2;
        flag = 0;
        LAUNCH(grid_barrier, blocks, threads, bytes, nullptr, &flag, moves);
    };
    right("as many blocks as fit wait for each other", [&] {
        together(2, 128, 120 << 10, false);
        together(4, 128, 110 << 10, false);
        together(4, 1024, 0, false);
        together(2, 384, 0, true);
        return flag == 2;
    });
    wrong(
        "more blocks than fit", "2 fit on 2 SMs", [&] { together(3, 128, 120 << 10, false); }, false);
    wrong(
        "more blocks than fit", "4 fit on 2 SMs", [&] { together(5, 1024, 0, false); }, false);
    wrong(
        "more blocks than fit", "2 fit on 2 SMs", [&] { together(3, 384, 0, true); }, false);
}

/* ---- Grids that overlap ---------------------------------------------------------------------------- */

__global__ void store_one(float *x, int)
{
    st_global(&x[threadIdx.x], 1.0f);
}

__global__ void reads_x(const float *x, float *y)
{
    grid_wait();
    st_global(&y[threadIdx.x], ld_global(&x[threadIdx.x]));
}

__global__ void overwrites_x(float *x, bool waits)
{
    if (waits)
        grid_wait();
    st_global(&x[threadIdx.x], 2.0f); // BLAME: store of what the grid before reads
    grid_wait();
}

/// Lets the next grid begin before or after it knows that the one before has ended.
__global__ void in_between(float *y, bool late)
{
    if (!late)
        grid_launch_dependents();
    grid_wait();
    st_global(&y[threadIdx.x], 3.0f);
    if (late)
        grid_launch_dependents();
}

__global__ void reads_grandparent(const float *x, float *z)
{
    st_global(&z[threadIdx.x], ld_global(&x[threadIdx.x])); // BLAME: output of the grid before the one before
    grid_wait();
}

__global__ void does_not_wait(float *y, int)
{
    if (threadIdx.x == 1000) // nobody
        grid_wait();
    st_global(&y[threadIdx.x], 3.0f);
}

__global__ void waits_for_the_parent(const float *x, float *z)
{
    grid_wait();
    st_global(&z[threadIdx.x], ld_global(&x[threadIdx.x])); // BLAME: grandparent that nobody has waited for
}

/// A workspace holds nothing at first.
__global__ void uses_workspace(float *work, bool flag)
{
    if (flag)
        ld_acquire((uint32_t *)work); // BLAME: workspace where nobody has stored
    else
        red_add(&work[1], 1); // BLAME: workspace where nobody has stored
}

__global__ void takes_over(uint32_t *work)
{
    atomicExch(&work[0], 1u);
    atomicAdd(&work[0], 1u);
}

static void workspaces()
{
    vector<float> memory(64 + 32);
    float *const work = aligned(memory);
    for (bool flag : {false, true})
        twins("workspace where nobody has stored", "nobody has stored", [&](bool ok) {
            simt::spoil(work, 256);
            if (ok)
                LAUNCH(store_one, 1, 64, 0, nullptr, work, 0);
            LAUNCH(uses_workspace, 1, 1, 0, nullptr, work, flag);
        });
    right("an exchange needs nothing there", [&] {
        simt::spoil(work, 256);
        LAUNCH(takes_over, 1, 1, 0, nullptr, (uint32_t *)work);
        return true;
    });
    simt::spoil(nullptr, 0);
}

static void order_of_grids()
{
    vector<float> x(64), y(64), z(64);
    twins("store of what the grid before reads", "before grid_wait", [&](bool ok) {
        LAUNCH(store_one, 1, 64, 0, nullptr, x.data(), 0);
        LAUNCH(reads_x, 1, 64, 0, nullptr, x.data(), y.data());
        LAUNCH_DEPENDENT(overwrites_x, 1, 64, 0, nullptr, x.data(), ok);
    });
    twins("output of the grid before the one before", "before grid_wait", [&](bool ok) {
        LAUNCH(store_one, 1, 64, 0, nullptr, x.data(), 0);
        LAUNCH_DEPENDENT(in_between, 1, 64, 0, nullptr, y.data(), ok);
        LAUNCH_DEPENDENT(reads_grandparent, 1, 64, 0, nullptr, x.data(), z.data());
    });
    twins("grandparent that nobody has waited for", "may still run", [&](bool ok) {
        LAUNCH(store_one, 1, 64, 0, nullptr, x.data(), 0);
        if (ok)
            LAUNCH_DEPENDENT(in_between, 1, 64, 0, nullptr, y.data(), true);
        else
            LAUNCH_DEPENDENT(does_not_wait, 1, 64, 0, nullptr, y.data(), 0);
        LAUNCH_DEPENDENT(waits_for_the_parent, 1, 64, 0, nullptr, x.data(), z.data());
    });
}

static void tensor_map_rules()
{
    vector<float> memory(64 * 64 + 32);
    float *const base = aligned(memory);
    CUtensorMap m;
    const struct {
        const char *words;
        int rank, offset;
        uint64_t dim[2], stride;
        uint32_t box[2];
        TensorSwizzle swizzle;
    } cases[] = {
        {"multiple of 16 bytes (128", 2, 4, {64, 64}, 256, {8, 8}, TensorSwizzle::none},
        {"rank", 6, 0, {64, 64}, 256, {8, 8}, TensorSwizzle::none},
        {"dimensions must be 1", 2, 0, {0, 64}, 256, {8, 8}, TensorSwizzle::none},
        {"strides must be", 2, 0, {64, 64}, 8, {8, 8}, TensorSwizzle::none},
        {"box dimensions", 2, 0, {64, 64}, 256, {8, 257}, TensorSwizzle::none},
        {"inner box dimension must be", 2, 0, {64, 64}, 256, {5, 8}, TensorSwizzle::none},
        {"exceeds the swizzle span", 2, 0, {64, 64}, 256, {64, 8}, TensorSwizzle::b128},
        {"smaller than the swizzle span", 2, 0, {64, 64}, 256, {8, 8}, TensorSwizzle::b64},
    };
    for (const auto &c : cases) {
        const char *error = encode_tensor_map(&m, TensorType::float32, c.rank, base + c.offset / 4, c.dim,
                                              &c.stride, c.box, c.swizzle);
        tap(error && string(error).find(c.words) != string::npos, "tensor map refused: %s", c.words);
    }
}

int main()
{
    options.keep_going = true;
#ifdef _OPENMP
    omp_set_num_threads(2); // blocks on several cores, wherever this runs
#endif
    if (line_of("missing barrier") < 0) {
        fprintf(stderr, "test_simt: run it in the project's root: it looks for %s\n", __FILE__);
        return 2;
    }
    tap(covers(fragment_d, 128, 32, 64, 64) && covers(fragment_d, 32, 4, 16, 8) &&
            covers(fragment_a, 128, 8, 64, 16) && covers(fragment_b, 32, 4, 16, 8),
        "fragment maps take every element once");
    right("block reduction", reduction);
    right("-1 in shared memory", minus_one);
    right("stmatrix, ldmatrix, transposed", matrices);
    right("product by cp.async, ldmatrix, mma.sync", mma_product);
    right("product by a TMA ring, mbarriers, wgmma of two warpgroups", wgmma_product);
    right("P in registers times MN-major V, 128-byte swizzle",
          [] { return pv_product<64>(TensorSwizzle::b128); });
    right("... 64-byte swizzle", [] { return pv_product<32>(TensorSwizzle::b64); });
    right("... 32-byte swizzle", [] { return pv_product<16>(TensorSwizzle::b32); });
    right("product of unswizzled core matrices", core_product);
    right("round trip of a tile, 128-byte swizzle", [] { return round_trip(64, TensorSwizzle::b128, 0, 0); });
    right("... 64-byte swizzle", [] { return round_trip(32, TensorSwizzle::b64, 0, 0); });
    right("... 32-byte swizzle", [] { return round_trip(16, TensorSwizzle::b32, 0, 0); });
    right("... zeros for what lies before the tensor",
          [] { return round_trip(64, TensorSwizzle::b128, -5, -3); });
    right("3D load that sticks out, float32 reduction", three_dimensions);
    right("shuffles and reductions of part of a warp", masks);
    chained_blocks();
    filtered_blocks();
    after_a_failure();
    dependent_launches();
    counters();
    timeline();
    wrong_kernels();
    order_in_a_block();
    order_of_blocks();
    clusters();
    order_of_grids();
    workspaces();
    tensor_map_rules();
    return tap_done();
}
