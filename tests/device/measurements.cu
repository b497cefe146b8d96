/**
 * @file measurements.cu
 * @brief What the PTX ISA leaves open, asked of the hardware: a kernel or two for each question.
 *
 * Nothing of the project relies on an answer: the engine refuses most of it. The answers tell whether it may
 * become less strict, and are printed by `make test-cuda`.
 */
#include "cuda/kit/fragment.cuh"
#include "cuda/kit/tensor_map.cuh"
#include "side.cuh"

#include <algorithm>
#include <cmath>

namespace
{

struct Tiles {
    alignas(1024) uint32_t a[2048];
    alignas(1024) uint32_t b[2048 + 256];
    uint64_t full;
};

inline float number(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
inline uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
std::string count_of(const char *what, long n, long of)
{
    return std::string(what) + " " + std::to_string(n) + " of " + std::to_string(of);
}
/// Runs a kernel: `launch(in, out)`; `out` holds what it starts from, then the result.
std::string run_once(const words &in, words &out,
                     std::function<const char *(const uint32_t *, uint32_t *)> launch)
{
    return run_probe({"", "", in, out, std::move(launch), {}, nullptr}, out);
}

PTX_INLINE void stage_words(uint32_t *to, const uint32_t *from, unsigned n)
{
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x)
        st_shared(to + i, ld_global(from + i));
    fence_proxy_async();
    __syncthreads();
}
/// d = A B of 64 x 64 x 64, both K-major with the 128-byte swizzle.
PTX_INLINE void multiply(float (&d)[32], uint64_t a, uint64_t b)
{
    wgmma_pin(d);
    wgmma_fence();
    for (unsigned k = 0; k < 4; k++) // 32 bytes for 16 columns
        wgmma_ss<64>(d, a + 2 * k, b + 2 * k, k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(d);
}

/* ---- Matrices of small integers ---------------------------------------------------------------------- */

int small(unsigned row, unsigned k, unsigned salt)
{
    return (int)((row * 7 + k * 13 + row * k * salt) % 11) - 5;
}
/// [64][64] K-major, 128 bytes a row, from byte `shift` of a pattern; the XOR takes bits of the address or of
/// the offset from the start.
words swizzled_tile(unsigned salt, unsigned shift, bool by_address)
{
    words tile(2048 + 256, 0x7f7f7f7f);
    for (unsigned r = 0; r < 64; r++)
        for (unsigned k = 0; k < 64; k++) {
            const unsigned at = 128 * r + 2 * k, address = at + shift;
            const unsigned to =
                by_address ? address ^ (address >> 7 & 7) << 4 : (at ^ (at >> 7 & 7) << 4) + shift;
            const uint16_t v = (uint16_t)(bits_of((float)small(r, k, salt)) >> 16);
            memcpy((char *)tile.data() + to, &v, 2);
        }
    return tile;
}
float product_at(int i, int j)
{
    int sum = 0;
    for (unsigned k = 0; k < 64; k++)
        sum += small((unsigned)i, k, 3) * small((unsigned)j, k, 5);
    return (float)sum;
}

/* ---- Base offset --------------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(128, 1)
    shifted(const uint32_t *in, uint32_t *out, unsigned shift, unsigned base)
{
    Tiles &s = shared<Tiles>();
    const int t = (int)threadIdx.x;
    stage_words(s.a, in, 2048);
    stage_words(s.b, in + 2048, 2048 + 256);
    float d[32];
    multiply(d, wgmma_descriptor(s.a, 16, 1024, Swizzle::b128),
             wgmma_descriptor((char *)s.b + shift, 16, 1024, Swizzle::b128) | (uint64_t)base << 49);
    for (int i = 0; i < 32; i++) {
        const Element e = fragment_d(t, i);
        st_global((float *)out + e.row * 64 + e.col, d[i]);
    }
}
std::string ask_base_offset(std::string &answer)
{
    for (unsigned way = 0; way < 4; way++) {
        long right = 0;
        for (unsigned n = 1; n < 8; n++) {
            words in = swizzled_tile(3, 0, true), out(4096);
            const words b = swizzled_tile(5, 128 * n, way < 2);
            in.resize(2048);
            in.insert(in.end(), b.begin(), b.end());
            const std::string trouble = run_once(in, out, [=](const uint32_t *from, uint32_t *to) {
                LAUNCH(shifted, 1, 128, sizeof(Tiles), nullptr, from, to, 128 * n, way % 2 ? n : 0);
                return (const char *)nullptr;
            });
            if (!trouble.empty())
                return trouble;
            bool all = true;
            for (int i = 0; i < 4096; i++)
                all = all && number(out[(size_t)i]) == product_at(i / 64, i % 64);
            right += all;
        }
        static const char *const ways[] = {
            "pattern by address, base offset 0:", "; by address, base offset n:",
            "; from the start, base offset 0:", "; from the start, base offset n:"};
        answer += count_of(ways[way], right, 7);
    }
    answer += " starts n x 128 B give the right product";
    return "";
}

/* ---- cp.async, then wgmma, with no proxy fence between ------------------------------------------------- */

__global__ void __launch_bounds__(128, 1) unfenced(const uint32_t *in, uint32_t *out)
{
    Tiles &s = shared<Tiles>();
    const int t = (int)threadIdx.x;
    for (int i = t; i < 512; i += 128) {
        cp_async_16(&s.a[4 * i], in + 4 * i, 16);
        cp_async_16(&s.b[4 * i], in + 2048 + 4 * i, 16);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    float d[32];
    multiply(d, wgmma_descriptor(s.a, 16, 1024, Swizzle::b128),
             wgmma_descriptor(s.b, 16, 1024, Swizzle::b128));
    uint32_t wrong = 0;
    for (int i = 0; i < 32; i++) {
        const Element e = fragment_d(t, i);
        wrong += d[i] != ld_global((const float *)in + 4096 + e.row * 64 + e.col);
    }
    st_global(out + blockIdx.x * 128 + threadIdx.x, wrong);
}
std::string ask_cp_async(std::string &answer)
{
    const unsigned blocks = 2112;
    words in = swizzled_tile(3, 0, true), b = swizzled_tile(5, 0, true), out(128 * blocks);
    in.resize(2048);
    in.insert(in.end(), b.begin(), b.begin() + 2048);
    for (int i = 0; i < 4096; i++)
        in.push_back(bits_of(product_at(i / 64, i % 64)));
    const std::string trouble = run_once(in, out, [=](const uint32_t *from, uint32_t *to) {
        LAUNCH(unfenced, blocks, 128, sizeof(Tiles), nullptr, from, to);
        return (const char *)nullptr;
    });
    long wrong = 0;
    for (uint32_t n : out)
        wrong += n;
    answer = count_of("wrong elements:", wrong, 4096L * blocks);
    return trouble;
}

/* ---- Boxes outside the tensor, and smaller than the swizzle's span ------------------------------------- */

constexpr unsigned patience = 1 << 12; ///< polls before a barrier counts as stuck

__global__ void one_box(const __grid_constant__ CUtensorMap map, const uint32_t *in, uint32_t *out, int c0,
                        int c1, uint32_t bytes)
{
    Tiles &s = shared<Tiles>();
    stage_words(s.a, in, 512);
    if (threadIdx.x)
        return;
    mbarrier_init(&s.full, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(&s.full, bytes);
    tma_load_2d(s.a, &map, &s.full, c0, c1);
    unsigned polls = 0;
    while (polls < patience && !mbarrier_try_wait(&s.full, 0))
        polls++;
    st_global(out, (uint32_t)(polls < patience));
    for (unsigned i = 0; polls < patience && i < 512; i++)
        st_global(out + 1 + i, ld_shared(&s.a[i]));
}
/// Loads a box of {32, 8} bf16 of a tensor of {128, 64}, which holds 1, 2, 3...
std::string run_box(TensorSwizzle swizzle, int c0, int c1, words &out)
{
    words in(4096);
    for (uint32_t i = 0; i < 4096; i++)
        in[i] = (2 * i + 1) | (2 * i + 2) << 16;
    out.assign(513, 0x11111111);
    return run_once(in, out, [=](const uint32_t *from, uint32_t *to) {
        CUtensorMap map;
        const uint64_t dim[] = {128, 64}, stride[] = {256};
        const uint32_t box[] = {32, 8};
        const char *refused =
            encode_tensor_map(&map, TensorType::bf16, 2, (void *)from, dim, stride, box, swizzle);
        if (!refused)
            LAUNCH(one_box, 1, 32, sizeof(Tiles), nullptr, map, from, to, c0, c1, 512u);
        return refused;
    });
}
std::string ask_outside(std::string &answer)
{
    words out;
    const std::string trouble = run_box(TensorSwizzle::none, 4096, 4096, out);
    long zeros = 0;
    for (size_t i = 1; i <= 128; i++)
        zeros += out[i] == 0;
    answer = (out[0] == 1 ? "the barrier completes with the whole box's bytes; "
                          : "the barrier does not complete; ") +
             count_of("zero words:", zeros, 128);
    return trouble;
}
std::string ask_narrow_box(std::string &answer)
{
    words out;
    const std::string trouble = run_box(TensorSwizzle::b128, 0, 0, out);
    long dense = 0, spread = 0;
    for (unsigned row = 0; row < 8; row++)
        for (unsigned w = 0; w < 16; w++) {
            const uint32_t first = 128 * row + 2 * w, v = (first + 1) | (first + 2) << 16;
            const unsigned tight = 64 * row + 4 * w, wide = 128 * row + 4 * w;
            dense += out[1 + (tight ^ (tight >> 7 & 7) << 4) / 4] == v;
            spread += out[1 + (wide ^ (wide >> 7 & 7) << 4) / 4] == v;
        }
    answer = (out[0] == 1 ? "the barrier completes with the box's 512 bytes; "
                          : "the barrier does not complete; ") +
             count_of("words where rows of 64 B would lie:", dense, 128) +
             count_of(", rows of 128 B:", spread, 128);
    return trouble;
}

/* ---- Where a store is cut ------------------------------------------------------------------------------ */

__global__ void ragged_store(const __grid_constant__ CUtensorMap map, const uint32_t *in)
{
    Tiles &s = shared<Tiles>();
    stage_words(s.a, in, 64);
    if (threadIdx.x == 0) {
        tma_store_2d(&map, s.a, 0, 0);
        bulk_commit();
        bulk_wait<0>();
    }
}
std::string ask_clipping(std::string &answer)
{
    words in(64, 0x3f803f80), out(64, 0xffffffff);
    const std::string trouble = run_once(in, out, [](const uint32_t *from, uint32_t *to) {
        CUtensorMap map;
        const uint64_t dim[] = {10, 8}, stride[] = {32};
        const uint32_t box[] = {16, 8};
        const char *refused =
            encode_tensor_map(&map, TensorType::bf16, 2, to, dim, stride, box, TensorSwizzle::none);
        if (!refused)
            LAUNCH(ragged_store, 1, 32, sizeof(Tiles), nullptr, map, from);
        return refused;
    });
    long behind = 0;
    for (size_t i = 0; i < 64; i++)
        for (size_t half = 0; half < 2; half++)
            behind += i % 8 * 2 + half >= 10 && (out[i] >> 16 * half & 0xffff) == 0x3f80;
    answer =
        count_of("of rows of 10 bf16, in a box of 16, elements written behind the tensor's row:", behind, 48);
    return trouble;
}

/* ---- How wgmma and mma.sync add ------------------------------------------------------------------------ */

/// d = c + A B for k = 16: A [64][16], B [8][16], c [64][8].
__global__ void __launch_bounds__(128, 1) sums(const uint32_t *in, uint32_t *out)
{
    Tiles &s = shared<Tiles>();
    const int t = (int)threadIdx.x;
    stage_words(s.a, in, 512); // 32 bytes a row: groups of 8 rows are 8 x 2 chunks
    stage_words(s.b, in + 512, 64);
    float d[4];
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(t, i);
        d[i] = ld_global((const float *)in + 576 + e.row * 8 + e.col);
    }
    wgmma_pin(d);
    wgmma_fence();
    wgmma_ss<8>(d, wgmma_descriptor(s.a, 16, 256, Swizzle::b32), wgmma_descriptor(s.b, 16, 256, Swizzle::b32),
                true);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(d);
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_d(t, i);
        st_global((float *)out + e.row * 8 + e.col, d[i]);
    }
}

float chopped(double v) ///< to float32, towards zero
{
    const float f = (float)v;
    return std::fabs((double)f) > std::fabs(v) ? std::nextafter(f, 0.0f) : f;
}
/// All terms are cut to `bits` bits after the largest one's leading bit, added exactly, and cut again.
float aligned_sum(const float *a, const float *b, float c, int bits)
{
    int top = c != 0 ? std::ilogb(c) : -300;
    for (int k = 0; k < 16; k++)
        if (a[k] != 0 && b[k] != 0)
            top = std::max(top, std::ilogb(a[k]) + std::ilogb(b[k]));
    double sum = std::trunc(std::ldexp((double)c, bits - top));
    for (int k = 0; k < 16; k++)
        sum += std::trunc(std::ldexp((double)a[k] * (double)b[k], bits - top));
    return chopped(std::ldexp(sum, top - bits));
}
float in_turn(const float *a, const float *b, float c)
{
    for (int k = 0; k < 16; k++)
        c = std::fma(a[k], b[k], c);
    return c;
}
float rounded_once(const float *a, const float *b, float c)
{
    long double sum = (long double)c;
    for (int k = 0; k < 16; k++)
        sum += (long double)a[k] * (long double)b[k];
    return (float)sum;
}

/// Mixed magnitudes: 8 bits of a number times 2^-8 to 2^8.
float mixed(uint64_t &state)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    const int mantissa = (int)(state >> 33 & 0xff) + 256, exponent = (int)(state >> 44) % 17 - 8;
    return std::ldexp((float)(state >> 63 ? -mantissa : mantissa) / 512.0f, exponent);
}
void put_bf16(words &to, size_t byte, float v)
{
    const uint16_t half = (uint16_t)(bits_of(v) >> 16);
    memcpy((char *)to.data() + byte, &half, 2);
}
std::string ask_sums(std::string &answer)
{
    float a[64][16], b[8][16], c[64][8];
    words in(576 + 512), out(512);
    uint64_t state = 5;
    for (unsigned r = 0; r < 72; r++)
        for (unsigned k = 0; k < 16; k++) {
            float &x = r < 64 ? a[r][k] : b[r - 64][k];
            x = number(bits_of(mixed(state)) & 0xffff0000);
            const unsigned at = 32 * (r % 64) + 2 * k;
            put_bf16(in, (r < 64 ? 0 : 2048) + (at ^ (at >> 7 & 1) << 4), x);
        }
    for (size_t i = 0; i < 512; i++) {
        c[i / 8][i % 8] = mixed(state);
        in[576 + i] = bits_of(c[i / 8][i % 8]);
    }
    const std::string trouble = run_once(in, out, [](const uint32_t *from, uint32_t *to) {
        LAUNCH(sums, 1, 128, sizeof(Tiles), nullptr, from, to);
        return (const char *)nullptr;
    });
    long once = 0, turn = 0, cut[5] = {};
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 8; j++) {
            const float found = number(out[(size_t)(i * 8 + j)]);
            once += found == rounded_once(a[i], b[j], c[i][j]);
            turn += found == in_turn(a[i], b[j], c[i][j]);
            for (int n = 0; n < 5; n++)
                cut[n] += found == aligned_sum(a[i], b[j], c[i][j], 23 + n);
        }
    answer = "of 512 sums of 16 products equal: one rounding " + std::to_string(once) + ", fma in turn " +
             std::to_string(turn);
    for (int n = 0; n < 5; n++)
        answer += ", cut at " + std::to_string(23 + n) + " bits " + std::to_string(cut[n]);
    return trouble;
}

std::vector<measurement> make_measurements()
{
    return {{"bytes of a box wholly outside the tensor", false, ask_outside},
            {"accumulation of wgmma", false, ask_sums},
            {"cp.async, then wgmma without a proxy fence", true, ask_cp_async},
            {"a tile inside the swizzle's pattern", true, ask_base_offset},
            {"a store to rows that are no multiple of 16 bytes", true, ask_clipping},
            {"a box narrower than the swizzle", true, ask_narrow_box}};
}

} // namespace

#ifdef __CUDACC__
std::vector<measurement> cuda_measurements()
{
    return make_measurements();
}
#else
std::vector<measurement> simt_measurements()
{
    return make_measurements();
}
#endif
