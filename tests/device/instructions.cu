/**
 * @file instructions.cu
 * @brief Every instruction of ptx.cuh, a tiny kernel each, and what plain C++ says that it must leave behind.
 *
 * Sums are exact in float32 (small integers, multiples of 1/8), so that results are equal bit for bit however
 * the hardware orders its additions.
 */
#include "cuda/kit/fragment.cuh"
#include "cuda/kit/tensor_map.cuh"
#include "side.cuh"

#include <algorithm>
#include <cmath>

namespace
{

/* ---- Small things -------------------------------------------------------------------------------- */

struct Random {
    uint64_t state;
    uint32_t next()
    {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return (uint32_t)(z >> 32);
    }
    int between(int low, int high)
    {
        return low + (int)(next() % (uint32_t)(high - low + 1));
    }
};
words draw(size_t n, Random &rng)
{
    words w(n);
    for (uint32_t &x : w)
        x = rng.next();
    return w;
}

constexpr uint32_t poison = 0xffffffff;
template <class T> MSA_BOTH_SIDES inline uint32_t raw(T v)
{
    uint32_t u = 0;
    memcpy(&u, &v, sizeof v);
    return u;
}
MSA_BOTH_SIDES inline float number(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
/// A small integer in bf16: exact.
uint32_t small_bf16(int v)
{
    return raw((float)v) >> 16;
}
/// Eighths from -8 to 8: sums of thousands are exact.
words draw_eighths(size_t n, Random &rng)
{
    words w(n);
    for (uint32_t &x : w)
        x = raw((float)rng.between(-64, 64) / 8);
    return w;
}

using Kernel = void (*)(const uint32_t *, uint32_t *);
struct Made {
    std::vector<probe> all;
    Random rng;
    probe &add(const char *group, const std::string &name, words in, size_t n_out)
    {
        all.push_back({group, name, in, words(n_out, poison), nullptr, words(n_out, poison), nullptr});
        return all.back();
    }
    /// A kernel of one block without shared memory worth mentioning.
    probe &add(const char *group, const std::string &name, words in, size_t n_out, Kernel kernel,
               unsigned threads, size_t bytes = 0, unsigned blocks = 1)
    {
        probe &p = add(group, name, in, n_out);
        p.launch = [=](const uint32_t *from, uint32_t *to) {
            LAUNCH(kernel, blocks, threads, bytes, nullptr, from, to);
            return (const char *)nullptr;
        };
        return p;
    }
};

struct Row {
    alignas(1024) uint32_t word[512];
    uint64_t barrier;
};

/* ---- Addresses, loads, stores -------------------------------------------------------------------- */

template <class T> __global__ void widths(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    const unsigned t = threadIdx.x;
    st_shared((T *)s.word + t, ld_global((const T *)in + t));
    __syncthreads();
    st_global((T *)out + t, ld_shared((const T *)s.word + (t ^ 1)));
}

template <class T> void add_width(Made &m)
{
    const size_t n = 128 * sizeof(T) / 4;
    probe &p = m.add("loads and stores", std::to_string(sizeof(T)) + " bytes", draw(n, m.rng), n, widths<T>,
                     128, sizeof(Row));
    for (size_t t = 0; t < 128; t++)
        memcpy((char *)p.expected.data() + t * sizeof(T), (const char *)p.in.data() + (t ^ 1) * sizeof(T),
               sizeof(T));
}

/// Loads of what nobody reads again.
__global__ void last_loads(const uint32_t *in, uint32_t *out)
{
    const unsigned t = threadIdx.x;
    st_global((uint4 *)out + t, ld_global_once((const uint4 *)in + (t ^ 1)));
}

/// Some threads store 8 bytes, the others leave what is there.
__global__ void chosen_stores(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    const unsigned t = threadIdx.x;
    uint64_t *const to = (uint64_t *)s.word + t;
    st_shared(to, (uint64_t)ld_global(in + 2 * t) << 32 | t);
    st_shared_if(ld_global(in + 2 * t + 1) % 3 == 1, to, (uint64_t)ld_global(in + 2 * t + 1) << 32 | (1000 + t));
    st_global((uint64_t *)out + t, ld_shared(to));
}

__global__ void addresses(const uint32_t *, uint32_t *out)
{
    Row &s = shared<Row>();
    st_global(out + threadIdx.x, shared_u32(&s.word[threadIdx.x]) - shared_u32(&s));
    if (threadIdx.x == 0) // what swizzles rely on
        st_global(out + 128, shared_u32(&s) % 1024);
}

void add_memory(Made &m)
{
    add_width<uint8_t>(m);
    add_width<uint16_t>(m);
    add_width<uint32_t>(m);
    add_width<uint2>(m);
    add_width<uint4>(m);
    probe &last = m.add("loads and stores", "read once", draw(512, m.rng), 512, last_loads, 128, 0);
    for (uint32_t i = 0; i < 512; i++)
        last.expected[i] = last.in[i ^ 4];
    probe &c = m.add("st_shared_if", "a third of the threads", draw(256, m.rng), 256, chosen_stores, 128, sizeof(Row));
    for (uint32_t t = 0; t < 128; t++) {
        const bool takes = c.in[2 * t + 1] % 3 == 1;
        c.expected[2 * t] = takes ? 1000 + t : t;
        c.expected[2 * t + 1] = c.in[2 * t + takes];
    }
    probe &p = m.add("shared_u32", "offsets, alignment", words(1), 129, addresses, 128, sizeof(Row));
    for (uint32_t t = 0; t < 128; t++)
        p.expected[t] = 4 * t;
    p.expected[128] = 0;
}

constexpr unsigned chain_length = 8;

/// Block b waits for flag b, set by the block before, and reads what that one stored.
__global__ void chain(const uint32_t *in, uint32_t *out)
{
    const unsigned b = blockIdx.x;
    if (threadIdx.x)
        return;
    while (b && !ld_acquire(out + b)) {
    }
    uint32_t *data = out + chain_length + 1;
    st_global(data + b, (b ? ld_global(data + b - 1) : 1) * 3 + ld_global(in + b));
    st_release(out + b + 1, 1);
}

__global__ void chosen_loads(const uint32_t *in, uint32_t *out)
{
    const unsigned t = threadIdx.x;
    const uint64_t two = ld_global_if(ld_global(in + 2 * t) % 3 == 1, (const uint64_t *)in + t);
    const float4 four = ld_global_if(ld_global(in + 2 * t) % 3 == 2, (const float4 *)in + t / 2);
    st_global(out + 2 * t, (uint32_t)two + raw(four.x) + raw(four.z));
    st_global(out + 2 * t + 1, (uint32_t)(two >> 32) + raw(four.y) + raw(four.w));
}

/// Who draws the last ticket adds up what all have stored.
__global__ void last_adds(const uint32_t *in, uint32_t *out)
{
    const unsigned b = blockIdx.x;
    if (threadIdx.x)
        return;
    st_global(out + 2 + b, ld_global(in + b) * 3);
    if (atom_add_acq_rel(out, 1) + 1 < gridDim.x)
        return;
    uint32_t sum = 0;
    for (unsigned other = 0; other < gridDim.x; other++)
        sum += ld_global(out + 2 + other);
    st_global(out + 1, sum);
}

__global__ void reduce_to_memory(const uint32_t *in, uint32_t *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    red_add((float *)out + i % 16, number(ld_global(in + i)));
}

__global__ void writes_late(const uint32_t *in, uint32_t *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    grid_launch_dependents(); // the next grid may run now, and has nothing to read yet
    __nanosleep(2000);
    st_global(out + i, ld_global(in + i) * 3 + 1);
}
__global__ void waits(uint32_t *out, unsigned n)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    grid_wait();
    st_global(out + n + i, ld_global(out + (i ^ 257)) ^ 0x55);
}

/// Half of each CTA's words go to the next one of its cluster of four, the other half to itself.
__global__ void hand_on(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    const unsigned t = threadIdx.x, first = 128 * blockIdx.x + 2 * t;
    const float2 *const from = (const float2 *)(in + first);
    prefetch_l2(from);
    grid_wait();
    cluster_arrive();
    cluster_wait();
    st_remote(mapa((const float2 *)&s.word[2 * t], (blockIdx.x + (t < 32)) % 4), ld_global(from));
    cluster_arrive();
    cluster_wait();
    st_global((float2 *)(out + first), ld_shared((const float2 *)&s.word[2 * t]));
}

void add_grids(Made &m)
{
    probe &flags =
        m.add("ld_acquire, st_release", "a chain of blocks", draw(chain_length, m.rng), 2 * chain_length + 1);
    flags.launch = [](const uint32_t *in, uint32_t *out) {
        resident((int)chain_length);
        LAUNCH(chain, chain_length, 32, 0, nullptr, in, out);
        return (const char *)nullptr;
    };
    flags.start.assign(flags.start.size(), 0);
    flags.expected[0] = 0;
    for (uint32_t b = 0, v = 1; b < chain_length; b++) {
        v = v * 3 + flags.in[b];
        flags.expected[b + 1] = 1;
        flags.expected[chain_length + 1 + b] = v;
    }
    probe &some =
        m.add("ld_global_if", "a third of the threads each", draw(256, m.rng), 256, chosen_loads, 128);
    for (uint32_t t = 0; t < 128; t++) {
        const uint32_t of = some.in[2 * t] % 3, *const four = &some.in[t / 2 * 4];
        for (uint32_t half = 0; half < 2; half++)
            some.expected[2 * t + half] = of == 1   ? some.in[2 * t + half]
                                          : of == 2 ? four[half] + four[half + 2]
                                                    : 0;
    }
    probe &tickets =
        m.add("atom_add_acq_rel", "the last block adds up", draw(chain_length, m.rng), chain_length + 2);
    tickets.launch = [](const uint32_t *in, uint32_t *out) {
        LAUNCH(last_adds, chain_length, 32, 0, nullptr, in, out);
        return (const char *)nullptr;
    };
    tickets.start.assign(tickets.start.size(), 0);
    tickets.expected[0] = chain_length;
    tickets.expected[1] = 0;
    for (uint32_t b = 0; b < chain_length; b++)
        tickets.expected[1] += tickets.expected[2 + b] = tickets.in[b] * 3;
    probe &sums =
        m.add("red_add", "16 sums of eighths", draw_eighths(1024, m.rng), 16, reduce_to_memory, 128, 0, 8);
    sums.start = draw_eighths(16, m.rng);
    sums.expected = sums.start;
    for (size_t i = 0; i < 1024; i++)
        sums.expected[i % 16] = raw(number(sums.expected[i % 16]) + number(sums.in[i]));

    probe &handed = m.add("clusters", "st_remote", draw(1024, m.rng), 1024);
    handed.launch = [=](const uint32_t *in, uint32_t *out) {
        LAUNCH_CLUSTER(hand_on, 4, 8, 64, sizeof(Row), nullptr, in, out);
        return (const char *)nullptr;
    };
    for (size_t i = 0; i < 1024; i++) // of the CTA before in its cluster, and of its own
        handed.expected[i] = handed.in[i % 128 < 64 ? i / 512 * 512 + (i + 384) % 512 : i];

    const unsigned n = 16 * 128;
    probe &dependent = m.add("grid_wait, grid_launch_dependents", "two grids", draw(n, m.rng), 2 * n);
    dependent.launch = [=](const uint32_t *in, uint32_t *out) {
        LAUNCH(writes_late, 16, 128, 0, nullptr, in, out);
        LAUNCH_DEPENDENT(waits, 16, 128, 0, nullptr, out, n);
        return (const char *)nullptr;
    };
    for (uint32_t i = 0; i < n; i++) {
        dependent.expected[i] = dependent.in[i] * 3 + 1;
        dependent.expected[n + i] = (dependent.in[i ^ 257] * 3 + 1) ^ 0x55;
    }
}

/* ---- Arithmetic ---------------------------------------------------------------------------------- */

__global__ void powers(const uint32_t *in, uint32_t *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    st_global(out + i, raw(ex2(number(ld_global(in + i)))));
}
__global__ void logarithms(const uint32_t *in, uint32_t *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    st_global(out + i, raw(lg2(number(ld_global(in + i)))));
}
__global__ void roundings(const uint32_t *in, uint32_t *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    st_global(out + i, pack_bf16(number(ld_global(in + 2 * i)), number(ld_global(in + 2 * i + 1))));
}
__global__ void pair_products(const uint32_t *in, uint32_t *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    st_global(out + i, mul_bf16x2(ld_global(in + 2 * i), ld_global(in + 2 * i + 1)));
}
__global__ void maxima_of_three(const uint32_t *in, uint32_t *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    st_global(out + i, (uint32_t)max3((int)ld_global(in + 3 * i), (int)ld_global(in + 3 * i + 1),
                                      (int)ld_global(in + 3 * i + 2)));
}
__global__ void minima_of_three(const uint32_t *in, uint32_t *out)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    st_global(out + i, min3(ld_global(in + 3 * i), ld_global(in + 3 * i + 1), ld_global(in + 3 * i + 2)));
}

constexpr double smallest_normal = 0x1p-126;

/// PTX ISA, ex2.approx.ftz.f32: at most 2 ulp from the correctly rounded result; subnormal results become +0.
bool is_power(double x, float y)
{
    const double exact = exp2(x);
    if (x != x)
        return y != y;
    if (exact > (double)0x1.fffff8p127f)
        return std::isinf(y) ? y > 0 : std::isinf(exact) == false && y > 0x1.fffff0p127f;
    if (exact < smallest_normal * (1 + 0x1p-21) && raw(y) == 0)
        return true;
    const int exponent = exact < smallest_normal ? -126 : std::ilogb(exact);
    return (double)y >= smallest_normal &&
           std::fabs((double)y - (double)(float)exact) <= 2 * std::ldexp(1.0, exponent - 23);
}
/// lg2.approx.ftz.f32: 2^-22 absolutely in (0.5, 2), else relatively; subnormals are zeros.
bool is_logarithm(double x, float y)
{
    if (std::fabs(x) < smallest_normal)
        return std::isinf(y) && y < 0;
    if (x != x || x < 0)
        return y != y;
    if (std::isinf(x))
        return std::isinf(y) && y > 0;
    const double exact = log2(x), error = std::fabs((double)y - exact);
    return error <= 0x1p-22 * (x > 0.5 && x < 2 ? 1 : std::fabs(exact));
}
std::string check_each(const words &in, const words &out, bool (*right)(double, float))
{
    for (size_t i = 0; i < in.size(); i++) {
        const float x = number(in[i]), y = number(out[i]);
        if (!right((double)x, y)) {
            char text[128];
            snprintf(text, sizeof text, "index %zu: of %a (%08x) found %a (%08x)", i, (double)x, in[i],
                     (double)y, out[i]);
            return text;
        }
    }
    return "";
}

const float specials[] = {
    0.0f,       -0.0f,       INFINITY,    -INFINITY,  NAN,         1e-40f,          -1e-40f,     0x1p-126f,
    -0x1p-126f, 0.5f,        1.0f,        2.0f,       -1.0f,       127.0f,          128.0f,      129.0f,
    -125.0f,    -126.0f,     -127.0f,     -149.0f,    -150.0f,     -1000.0f,        1000.0f,     0x1p-149f,
    127.99999f, -125.99999f, 0.99999994f, 1.0000001f, -126.00001f, 0x1.fffffep127f, 0.50000006f, 1.9999999f};

void add_functions(Made &m)
{
    const size_t n = 8192;
    words x(n), any = draw(n, m.rng);
    for (size_t i = 0; i < n; i++)
        x[i] = raw(-160 + 320 * (float)i / (float)n + (float)m.rng.between(-1000, 1000) * 1e-5f);
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
        x[i] = any[i] = raw(specials[i]);
    for (size_t i = n / 2; i < n; i++) // where logarithms are near 0
        any[i] = raw(0.25f + 2 * (float)(i - n / 2) / (float)(n / 2));
    probe &p = m.add("ex2", "from -160 to 160", x, n, powers, 128, 0, n / 128);
    p.fault = [x](const words &out) { return check_each(x, out, is_power); };
    probe &l = m.add("lg2", "any bits, then near 1", any, n, logarithms, 128, 0, n / 128);
    l.fault = [any](const words &out) { return check_each(any, out, is_logarithm); };
    words three = draw(3 * 2048, m.rng);
    for (size_t i = 0; i < 1536; i++) // equal ones, and neighbours
        three[i] = (uint32_t)m.rng.between(-2, 2);
    probe &t = m.add("max3", "any bits, and small numbers", three, 2048, maxima_of_three, 128, 0, 16);
    for (size_t i = 0; i < 2048; i++)
        t.expected[i] =
            (uint32_t)std::max({(int)three[3 * i], (int)three[3 * i + 1], (int)three[3 * i + 2]});
    probe &u = m.add("min3", "any bits, and small numbers", three, 2048, minima_of_three, 128, 0, 16);
    for (size_t i = 0; i < 2048; i++)
        u.expected[i] = std::min({three[3 * i], three[3 * i + 1], three[3 * i + 2]});
}

/// Nearest, ties to even, by comparing distances.
uint32_t nearest_bf16(uint32_t bits)
{
    if ((bits & 0x7fffffff) > 0x7f800000)
        return 0x7fff; // the canonical NaN
    const uint32_t low = bits & 0xffff, high = bits >> 16;
    return high + (low > 0x8000 || (low == 0x8000 && (high & 1)));
}

void add_rounding(Made &m)
{
    words x = draw(4096, m.rng);
    for (size_t i = 0; i < 1024; i++) // ties, and their neighbours
        x[i] = (x[i] & 0xffff0000) | (uint32_t)(0x7fff + m.rng.between(0, 2));
    const uint32_t hard[] = {0,          0x80000000, 0x7f800000, 0xff800000, 0x7f7fffff, 0xff7fffff,
                             0x7f7f8000, 0x7f7f7fff, 0x7f800001, 0x7fffffff, 0xffc00000, 0xffffffff,
                             1,          0x80000001, 0x00008000, 0x00018000, 0x007fffff, 0x7fa00000};
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++)
        x[1024 + i] = hard[i];
    probe &p = m.add("pack_bf16", "ties, NaNs, infinities, subnormals", x, 2048, roundings, 128, 0, 16);
    for (size_t i = 0; i < 2048; i++)
        p.expected[i] = nearest_bf16(x[2 * i]) | nearest_bf16(x[2 * i + 1]) << 16;

    words pairs = draw(4096, m.rng);
    for (size_t i = 0; i < 4096; i += 2) { // below 2^-111, down to the smallest subnormal, times about 2^120
        pairs[i] &= 0x87f787f7;
        pairs[i + 1] = (pairs[i + 1] & 0x807f807f) | 0x7b007b00;
    }
    probe &products = m.add("mul_bf16x2", "rounding, subnormals", pairs, 2048, pair_products, 128, 0, 16);
    for (size_t i = 0; i < 2048; i++) {
        uint32_t both[2];
        for (uint32_t half = 0; half < 2; half++)
            both[half] = nearest_bf16(
                raw(number(pairs[2 * i] >> 16 * half << 16) * number(pairs[2 * i + 1] >> 16 * half << 16)));
        products.expected[i] = both[0] | both[1] << 16;
    }
}

/* ---- Warps --------------------------------------------------------------------------------------- */

/// What the `n` lanes from `first` on do together, a row of 64 results each.
PTX_INLINE void gather_lanes(const uint32_t *in, uint32_t *out, unsigned first, unsigned n)
{
    const unsigned t = threadIdx.x;
    const uint32_t v = ld_global(in + t), mask = n == 32 ? ~0u : 0xffffu << first;
    for (unsigned i = 0; i < n; i++) {
        st_global(out + 64 * (3 * i) + t, shfl_xor(v, (int)i, mask));
        st_global(out + 64 * (3 * i + 1) + t, shfl(v, (int)(first + i), mask));
        st_global(out + 64 * (3 * i + 2) + t, warp_ballot(v >> i & 1, mask));
    }
    out += 64 * 3 * n;
    st_global(out + t, warp_max(v, mask));
    st_global(out + 64 + t, warp_min(v, mask));
}
__global__ void whole_warps(const uint32_t *in, uint32_t *out)
{
    gather_lanes(in, out, 0, 32);
}
__global__ void half_warps(const uint32_t *in, uint32_t *out)
{
    if (threadIdx.x % 32 < 16)
        gather_lanes(in, out, 0, 16);
    else
        gather_lanes(in, out, 16, 16);
}
template <class T> __global__ void shifts(const uint32_t *in, uint32_t *out)
{
    const unsigned t = threadIdx.x;
    const T v = (T)(int)ld_global(in + t);
    for (unsigned i = 0; i < 32; i++)
        st_global(out + 64 * i + t, raw(shfl_up(v, i)));
}
__global__ void elections(const uint32_t *, uint32_t *out)
{
    const unsigned t = threadIdx.x;
    for (unsigned i = 0; i < 4; i++) {
        const bool leads = elect_one();
        st_global(out + 64 * i + t, (uint32_t)leads);
        if (leads)
            __nanosleep(100); // the next election finds the lanes apart
        __syncwarp();
    }
}

void expect_lanes(probe &p, unsigned n)
{
    for (unsigned t = 0; t < 64; t++) {
        const uint32_t *warp = p.in.data() + t / 32 * 32;
        const unsigned first = t % 32 / n * n;
        uint32_t most = 0, least = ~0u;
        for (unsigned i = 0; i < n; i++) {
            uint32_t ballot = 0;
            for (unsigned l = first; l < first + n; l++)
                ballot |= (warp[l] >> i & 1) << l;
            p.expected[64 * (3 * i) + t] = warp[t % 32 ^ i];
            p.expected[64 * (3 * i + 1) + t] = warp[first + i];
            p.expected[64 * (3 * i + 2) + t] = ballot;
            const uint32_t v = warp[first + i];
            most = v > most ? v : most, least = v < least ? v : least;
        }
        p.expected[64 * 3 * n + t] = most;
        p.expected[64 * 3 * n + 64 + t] = least;
    }
}
template <class T> void add_shifts(Made &m, const char *name)
{
    words in(64);
    for (uint32_t &v : in)
        v = (uint32_t)m.rng.between(-9999, 9999);
    probe &p = m.add("shfl_up", name, in, 64 * 32, shifts<T>, 64);
    for (uint32_t t = 0; t < 64; t++)
        for (uint32_t i = 0; i < 32; i++)
            p.expected[64 * i + t] = raw((T)(int)in[t % 32 >= i ? t - i : t]);
}
/// One leader a warp, the same each time; which one is not promised.
std::string check_leaders(const words &out)
{
    for (size_t w = 0; w < 2; w++) {
        int leaders = 0;
        for (size_t t = 32 * w; t < 32 * w + 32; t++) {
            leaders += out[t] == 1;
            for (size_t i = 0; i < 4; i++)
                if (out[64 * i + t] > 1 || out[64 * i + t] != out[t])
                    return "lane " + std::to_string(t) + " is not elected each time, or not never";
        }
        if (leaders != 1)
            return std::to_string(leaders) + " leaders in a warp";
    }
    return "";
}

void add_warps(Made &m)
{
    expect_lanes(
        m.add("shfl_xor, shfl, ballot, redux", "whole warps", draw(64, m.rng), 64 * 98, whole_warps, 64), 32);
    expect_lanes(
        m.add("shfl_xor, shfl, ballot, redux", "half warps", draw(64, m.rng), 64 * 50, half_warps, 64), 16);
    add_shifts<uint32_t>(m, "integers");
    add_shifts<float>(m, "floats");
    m.add("elect_one", "two warps", words(1), 256, elections, 64).fault = check_leaders;
}

/* ---- Barriers ------------------------------------------------------------------------------------ */

__global__ void named_barriers(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    const unsigned t = threadIdx.x;
    for (unsigned i = 0; i < 4; i++) {
        st_shared(&s.word[t], ld_global(in + 128 * i + t));
        bar_sync(1 + t / 64, 64);
        st_global(out + 128 * i + t, ld_shared(&s.word[t ^ 63]));
        bar_sync(1 + t / 64, 64);
    }
    bar_sync(0, 128);
}
/// Two warps give, two take, and each pair only ever waits for the other.
__global__ void give_and_take(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    const unsigned t = threadIdx.x;
    for (unsigned i = 0; i < 4; i++)
        if (t < 64) {
            if (i > 0)
                bar_sync(4, 128);
            st_shared(&s.word[t], ld_global(in + 64 * i + t));
            bar_arrive(3, 128);
        } else {
            bar_sync(3, 128);
            st_global(out + 64 * i + t - 64, ld_shared(&s.word[127 - t]));
            if (i < 3)
                bar_arrive(4, 128);
        }
}

/// Counts of more than one, and what parity a fresh barrier has passed.
__global__ void counted(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    if (threadIdx.x)
        return;
    mbarrier_init(&s.barrier, 5);
    fence_mbarrier_init();
    mbarrier_wait(&s.barrier, 1);
    mbarrier_arrive(&s.barrier, 3);
    mbarrier_arrive(&s.barrier, 2);
    mbarrier_wait(&s.barrier, 0);
    st_global(out, ld_global(in));
}

PTX_INLINE void start_barrier(uint64_t *b, unsigned arrivals)
{
    if (threadIdx.x == 0) {
        mbarrier_init(b, arrivals);
        fence_mbarrier_init();
    }
    __syncthreads();
}
/// The bytes are on their way, or there, before anybody expects them.
__global__ void bytes_first(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    start_barrier(&s.barrier, 1);
    if (threadIdx.x == 0) {
        bulk_load(s.word, in, 2048, &s.barrier);
        mbarrier_arrive_expect(&s.barrier, 2048);
    }
    mbarrier_wait(&s.barrier, 0);
    for (unsigned i = threadIdx.x; i < 512; i += 128)
        st_global(out + i, ld_shared(&s.word[i]));
}
/// The other arrivals come when the bytes may be there.
__global__ void arrivals_last(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    start_barrier(&s.barrier, 129);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.barrier, 2048);
        bulk_load(s.word, in, 1024, &s.barrier);
        bulk_load(s.word + 256, in + 256, 1024, &s.barrier);
    }
    mbarrier_arrive(&s.barrier);
    while (!mbarrier_try_wait(&s.barrier, 0)) {
    }
    for (unsigned i = threadIdx.x; i < 512; i += 128)
        st_global(out + i, ld_shared(&s.word[i]));
}

constexpr unsigned stages = 3, tiles = 11;
struct Ring {
    alignas(1024) uint32_t word[stages][128];
    uint64_t full[stages], empty[stages];
};
PTX_INLINE void produce(Ring &s, const uint32_t *in)
{
    for (unsigned i = 0; i < tiles; i++) {
        mbarrier_wait(&s.empty[i % stages], (i / stages & 1) ^ 1);
        mbarrier_arrive_expect(&s.full[i % stages], 512);
        bulk_load(s.word[i % stages], in + 128 * i, 512, &s.full[i % stages]);
    }
}
__global__ void ring(const uint32_t *in, uint32_t *out)
{
    Ring &s = shared<Ring>();
    const unsigned t = threadIdx.x;
    if (t == 0) {
        for (unsigned i = 0; i < stages; i++) {
            mbarrier_init(&s.full[i], 1);
            mbarrier_init(&s.empty[i], 128);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (t == 128)
        produce(s, in);
    for (unsigned i = 0; t < 128 && i < tiles; i++) {
        mbarrier_wait(&s.full[i % stages], i / stages & 1);
        st_global(out + 128 * i + t, ld_shared(&s.word[i % stages][127 - t]) + i);
        fence_proxy_async(); // before the next copy into this stage
        mbarrier_arrive(&s.empty[i % stages]);
    }
}

void add_barriers(Made &m)
{
    probe &named = m.add("bar_sync, bar_arrive", "pairs of warps", draw(512, m.rng), 512, named_barriers, 128,
                         sizeof(Row));
    for (size_t i = 0; i < 512; i++)
        named.expected[i] = named.in[i ^ 63];
    probe &given = m.add("bar_sync, bar_arrive", "arrive and go on", draw(256, m.rng), 256, give_and_take,
                         128, sizeof(Row));
    for (size_t i = 0; i < 256; i++)
        given.expected[i] = given.in[i ^ 63];
    m.add("mbarrier", "counts", words{7}, 1, counted, 32, sizeof(Row)).expected = words{7};
    probe &late = m.add("mbarrier", "bytes before they are expected", draw(512, m.rng), 512, bytes_first, 128,
                        sizeof(Row));
    late.expected = late.in;
    probe &last = m.add("mbarrier", "bytes before the arrivals", draw(512, m.rng), 512, arrivals_last, 128,
                        sizeof(Row));
    last.expected = last.in;
    probe &turns = m.add("mbarrier", "a ring of three stages", draw(128 * tiles, m.rng), 128 * tiles, ring,
                         160, sizeof(Ring));
    for (uint32_t i = 0; i < 128 * tiles; i++)
        turns.expected[i] = turns.in[i ^ 127] + i / 128;
}

/* ---- Bulk copies --------------------------------------------------------------------------------- */

PTX_INLINE void stage_words(uint32_t *to, const uint32_t *from, unsigned n)
{
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x)
        st_shared(to + i, ld_global(from + i));
    fence_proxy_async();
    __syncthreads();
}
__global__ void bulk_stores(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    stage_words(s.word, in, 256);
    if (threadIdx.x)
        return;
    bulk_store(out, s.word, 1024);
    bulk_commit();
    bulk_wait_read<0>();
    bulk_wait<0>();
    for (unsigned i = 0; i < 4; i++) // visible to this thread now
        st_global(out + 256 + i, ld_global(out + i));
}
/// Two buffers in turn: each is filled again when at most one group may still read.
__global__ void bulk_turns(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    for (unsigned i = 0; i < 6; i++) {
        uint32_t *buffer = s.word + 4 * (i % 2);
        bulk_wait_read<1>();
        for (unsigned e = 0; e < 4; e++)
            st_shared(buffer + e, ld_global(in + 4 * i + e));
        fence_proxy_async();
        bulk_store(out + 4 * i, buffer, 16);
        bulk_commit();
    }
    bulk_wait<0>();
}
/// Ordinary stores to global memory, then a copy of what they left there.
__global__ void bulk_after_stores(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    const unsigned t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(&s.barrier, 1);
        fence_mbarrier_init();
    }
    st_global(out + t, ld_global(in + t) + 1);
    fence_proxy_async_global();
    __syncthreads();
    if (t == 0) {
        mbarrier_arrive_expect(&s.barrier, 256);
        bulk_load(s.word, out, 256, &s.barrier);
    }
    mbarrier_wait(&s.barrier, 0);
    st_global(out + 64 + t, ld_shared(&s.word[63 - t]));
}

void add_bulk(Made &m)
{
    probe &p = m.add("bulk copies", "store", draw(256, m.rng), 260, bulk_stores, 64, sizeof(Row));
    for (size_t i = 0; i < 260; i++)
        p.expected[i] = p.in[i % 256];
    probe &again =
        m.add("bulk copies", "of ordinary stores", draw(64, m.rng), 128, bulk_after_stores, 64, sizeof(Row));
    for (size_t i = 0; i < 64; i++) {
        again.expected[i] = again.in[i] + 1;
        again.expected[64 + i] = again.in[63 - i] + 1;
    }
    probe &turns = m.add("bulk copies", "groups in turn", draw(24, m.rng), 24, bulk_turns, 1, sizeof(Row));
    turns.expected = turns.in;
}

/* ---- Tensor copies --------------------------------------------------------------------------------- */

struct Corner {
    int c[3];
};
/// A tensor without gaps between its rows, and a box in it.
struct Tensor {
    TensorType type;
    int rank;
    uint64_t dim[3];
    uint32_t box[3];
    TensorSwizzle swizzle;
    Corner at;
    uint32_t offset; ///< bytes from a multiple of 1024 to the box in shared memory

    uint32_t element() const
    {
        return type == TensorType::bf16 ? 2 : 4;
    }
    uint32_t elements(bool of_box) const
    {
        uint32_t n = 1;
        for (int i = 0; i < rank; i++)
            n *= of_box ? box[i] : (uint32_t)dim[i];
        return n;
    }
    const char *encode(CUtensorMap *map, const uint32_t *base) const
    {
        const uint64_t row = dim[0] * element(), stride[] = {row, row * dim[1]};
        return encode_tensor_map(map, type, rank, (void *)base, dim, stride, box, swizzle);
    }
    /// Where element i of the box lies in the tensor: -1 outside.
    int64_t in_tensor(uint32_t i) const
    {
        int64_t index = 0, pitch = 1;
        for (int d = 0; d < rank; d++) {
            const int64_t c = at.c[d] + (int64_t)(i % box[d]);
            if (c < 0 || c >= (int64_t)dim[d])
                return -1;
            index += c * pitch;
            pitch *= (int64_t)dim[d];
            i /= box[d];
        }
        return index;
    }
    /// Its byte in shared memory, from the start of the box: PTX ISA, "Swizzling modes".
    uint32_t in_shared(uint32_t i) const
    {
        const uint32_t a = offset + i * element();
        static const uint32_t bits[] = {0, 1, 3, 7};
        return (a ^ (a >> 7 & bits[(int)swizzle]) << 4) - offset;
    }
};

struct Box {
    alignas(1024) uint32_t word[4096 + 256];
    uint64_t full;
};

template <int rank> PTX_INLINE void load(void *to, const CUtensorMap *map, uint64_t *b, Corner at)
{
    if constexpr (rank == 2)
        tma_load_2d(to, map, b, at.c[0], at.c[1]);
    else
        tma_load_3d(to, map, b, at.c[0], at.c[1], at.c[2]);
}
enum class Way { copy, copy_once, add };
template <Way way> PTX_INLINE void store(const CUtensorMap *map, const void *from, Corner at)
{
    if constexpr (way == Way::add)
        tma_reduce_add_2d(map, from, at.c[0], at.c[1]);
    else if constexpr (way == Way::copy_once)
        tma_store_once_2d(map, from, at.c[0], at.c[1]);
    else
        tma_store_2d(map, from, at.c[0], at.c[1]);
}
/// Loads a box and hands out shared memory as it lies there.
template <int rank>
__global__ void load_box(const __grid_constant__ CUtensorMap map, uint32_t *out, Corner at, uint32_t offset,
                         uint32_t bytes)
{
    Box &s = shared<Box>();
    uint32_t *tile = s.word + offset / 4;
    if (threadIdx.x == 0)
        tma_prefetch(&map);
    start_barrier(&s.full, 1);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&s.full, bytes);
        load<rank>(tile, &map, &s.full, at);
    }
    mbarrier_wait(&s.full, 0);
    for (unsigned i = threadIdx.x; i < bytes / 4; i += 128)
        st_global(out + i, ld_shared(tile + i));
}
/// Stores shared memory, filled word for word from `in`, as a box; or adds it.
template <Way way>
__global__ void store_box(const __grid_constant__ CUtensorMap map, const uint32_t *in, Corner at,
                          uint32_t offset, uint32_t bytes)
{
    Box &s = shared<Box>();
    uint32_t *tile = s.word + offset / 4;
    stage_words(tile, in, bytes / 4);
    if (threadIdx.x == 0) {
        store<way>(&map, tile, at);
        bulk_commit();
        bulk_wait<0>();
    }
}

template <int rank> void add_load(Made &m, const char *group, const std::string &name, const Tensor &x)
{
    const uint32_t bytes = x.elements(true) * x.element();
    probe &p = m.add(group, name, draw((x.elements(false) * x.element() + 3) / 4, m.rng), bytes / 4);
    p.launch = [=](const uint32_t *in, uint32_t *out) {
        CUtensorMap map;
        const char *refused = x.encode(&map, in);
        if (!refused)
            LAUNCH(load_box<rank>, 1, 128, sizeof(Box), nullptr, map, out, x.at, x.offset, bytes);
        return refused;
    };
    p.expected.assign(p.expected.size(), 0); // what lies outside
    for (uint32_t i = 0; i < x.elements(true); i++)
        if (x.in_tensor(i) >= 0)
            memcpy((char *)p.expected.data() + x.in_shared(i),
                   (const char *)p.in.data() + x.in_tensor(i) * x.element(), x.element());
}

/// Multiples of 1/8 in the tensor's type: sums of two are exact.
words draw_elements(const Tensor &x, size_t bytes, Random &rng)
{
    if (x.element() == 4)
        return draw_eighths(bytes / 4, rng);
    words w((bytes + 3) / 4);
    for (uint32_t &v : w)
        v = small_bf16(rng.between(-64, 64)) | small_bf16(rng.between(-64, 64)) << 16;
    return w;
}
float element_at(const words &w, size_t byte, uint32_t bytes)
{
    uint32_t bits = 0;
    memcpy(&bits, (const char *)w.data() + byte, bytes);
    return number(bytes == 2 ? bits << 16 : bits);
}
template <Way way> void add_store(Made &m, const char *group, const std::string &name, const Tensor &x)
{
    const uint32_t es = x.element(), bytes = x.elements(true) * es;
    probe &p = m.add(group, name, draw_elements(x, bytes, m.rng), x.elements(false) * es / 4);
    p.launch = [=](const uint32_t *in, uint32_t *out) {
        CUtensorMap map;
        const char *refused = x.encode(&map, out);
        if (!refused)
            LAUNCH(store_box<way>, 1, 128, sizeof(Box), nullptr, map, in, x.at, x.offset, bytes);
        return refused;
    };
    p.expected = p.start = draw_elements(x, x.elements(false) * es, m.rng);
    for (uint32_t i = 0; i < x.elements(true); i++) {
        const int64_t to = x.in_tensor(i) * es;
        if (to < 0)
            continue;
        const float old = way == Way::add ? element_at(p.start, (size_t)to, es) : 0;
        const uint32_t bits = raw(old + element_at(p.in, x.in_shared(i), es)) >> (es == 2 ? 16 : 0);
        memcpy((char *)p.expected.data() + to, &bits, es);
    }
}

struct Mode {
    const char *name;
    TensorSwizzle swizzle;
    uint32_t inner; ///< elements of bf16 in a row of the box
};
const Mode modes[] = {{"no swizzle", TensorSwizzle::none, 24},
                      {"32 B", TensorSwizzle::b32, 16},
                      {"64 B", TensorSwizzle::b64, 32},
                      {"128 B", TensorSwizzle::b128, 64}};

void add_loads(Made &m)
{
    struct Place {
        const char *name;
        int c0, c1;
        uint32_t offset;
    };
    const Place places[] = {{"inside", 8, 3, 0},
                            {"past both ends", 70, 30, 0},
                            {"before both starts", -5, -3, 0},
                            {"odd corner", 1, 1, 0},
                            {"128 B into the pattern", 8, 3, 128},
                            {"640 B into the pattern", 16, 0, 640}};
    for (const Mode &mode : modes)
        for (const Place &at : places) {
            const std::string name = std::string(mode.name) + ", " + at.name;
            const Tensor narrow = {TensorType::bf16, 2,        {88, 40}, {mode.inner, 32}, mode.swizzle,
                                   {{at.c0, at.c1}}, at.offset};
            Tensor wide = narrow;
            wide.type = TensorType::float32;
            wide.box[0] = mode.inner / 2;
            add_load<2>(m, "tensor loads, 2D", "bf16, " + name, narrow);
            add_load<2>(m, "tensor loads, 2D", "float32, " + name, wide);
        }
    for (const Mode &mode : modes)
        for (int c = -1; c < 3; c += 3) {
            const std::string name =
                std::string(mode.name) + (c < 0 ? ", before the start" : ", past the end");
            const Tensor cube = {TensorType::bf16, 3, {72, 9, 5}, {mode.inner, 8, 4}, mode.swizzle,
                                 {{c * 16, c, c}}, 0};
            add_load<3>(m, "tensor loads, 3D", name, cube);
        }
}

void add_stores(Made &m)
{
    for (const Mode &mode : modes)
        for (int c = 0; c < 3; c += 2) {
            const std::string name = std::string(mode.name) + (c ? ", past the end" : ", inside");
            Tensor x = {TensorType::bf16, 2, {88, 40}, {mode.inner, 32}, mode.swizzle, {{c * 34, c * 6}}, 0};
            add_store<Way::copy>(m, "tensor stores", "2D, " + name, x);
            add_store<Way::copy_once>(m, "tensor stores", "read once, " + name, x);
            add_store<Way::add>(m, "tensor reductions", "bf16, " + name, x);
            x.offset = 384;
            add_store<Way::copy>(m, "tensor stores", "2D, 384 B into the pattern, " + name, x);
            x.type = TensorType::float32;
            x.box[0] = mode.inner / 2;
            add_store<Way::add>(m, "tensor reductions", "float32, " + name, x);
        }
}

/* ---- cp.async -------------------------------------------------------------------------------------- */

constexpr unsigned cp_threads = 96;

/// Thread t copies t % 17 of 16 bytes, then 4 bytes or none.
__global__ void cp_async_groups(const uint32_t *in, uint32_t *out)
{
    Row &s = shared<Row>();
    const unsigned t = threadIdx.x;
    cp_async_16(&s.word[4 * t], in + 4 * t, t % 17);
    cp_async_commit();
    cp_async_4(&s.word[4 * cp_threads + t], in + 4 * cp_threads + t, t % 3 ? 4 : 0);
    cp_async_commit();
    cp_async_wait<1>(); // the first group is there, for this thread
    for (unsigned i = 0; i < 4; i++)
        st_global(out + 4 * t + i, ld_shared(&s.word[4 * t + i]));
    cp_async_wait<0>();
    __syncthreads();
    st_global(out + 4 * cp_threads + t, ld_shared(&s.word[4 * cp_threads + (t ^ 1)]));
}
void add_cp_async(Made &m)
{
    const size_t n = 5 * cp_threads;
    probe &p = m.add("cp.async", "groups", draw(n, m.rng), n, cp_async_groups, cp_threads, sizeof(Row));
    p.expected.assign(n, 0);
    for (size_t t = 0; t < cp_threads; t++) {
        memcpy(&p.expected[4 * t], &p.in[4 * t], t % 17);
        if ((t ^ 1) % 3)
            p.expected[4 * cp_threads + t] = p.in[4 * cp_threads + (t ^ 1)];
    }
}

/* ---- Matrix fragments ------------------------------------------------------------------------------ */

constexpr unsigned pitch = 20; ///< words between rows of 8 elements
struct Rows {
    alignas(1024) uint32_t word[32 * pitch];
};

template <int n, bool trans> PTX_INLINE void ldmatrix(uint32_t (&r)[n], const void *row)
{
    if constexpr (n == 2 && trans)
        ldmatrix_x2_trans(r, row);
    else if constexpr (n == 2)
        ldmatrix_x2(r, row);
    else if constexpr (trans)
        ldmatrix_x4_trans(r, row);
    else
        ldmatrix_x4(r, row);
}
template <int n, bool trans> __global__ void load_matrices(const uint32_t *in, uint32_t *out)
{
    Rows &s = shared<Rows>();
    const unsigned t = threadIdx.x;
    uint32_t r[n];
    stage_words(s.word, in, 32 * pitch);
    ldmatrix<n, trans>(r, &s.word[t % (8 * n) * pitch]);
    for (unsigned i = 0; i < n; i++)
        st_global(out + 32 * i + t, r[i]);
}
template <int n> __global__ void store_matrices(const uint32_t *in, uint32_t *out)
{
    Rows &s = shared<Rows>();
    const unsigned t = threadIdx.x;
    uint32_t r[n];
    stage_words(s.word, in, 32 * pitch);
    for (unsigned i = 0; i < n; i++)
        r[i] = ld_global(in + 32 * pitch + 32 * i + t);
    if constexpr (n == 2)
        stmatrix_x2_trans(&s.word[t % 16 * pitch], r);
    else
        stmatrix_x4(&s.word[t * pitch], r);
    __syncwarp();
    for (unsigned i = t; i < 32 * pitch; i += 32)
        st_global(out + i, ld_shared(&s.word[i]));
}

/// Element (row, col) of matrix i, in halves of words from the start of the rows.
size_t half_of_row(int i, int row, int col)
{
    return (size_t)(8 * i + row) * pitch * 2 + (size_t)col;
}
template <int n, bool trans, class F> void each_half(F f) ///< f(half in the registers, half in the rows)
{
    for (int i = 0; i < n; i++)
        for (int lane = 0; lane < 32; lane++)
            for (int h = 0; h < 2; h++) {
                const int major = lane / 4, minor = 2 * (lane % 4) + h;
                f((size_t)(2 * (32 * i + lane) + h),
                  trans ? half_of_row(i, minor, major) : half_of_row(i, major, minor));
            }
}
std::string form(int n, bool trans)
{
    return "x" + std::to_string(n) + (trans ? ".trans" : "");
}
template <int n, bool trans> void add_ldmatrix(Made &m)
{
    probe &p = m.add("ldmatrix", form(n, trans), draw(32 * pitch, m.rng), 32 * n, load_matrices<n, trans>, 32,
                     sizeof(Rows));
    each_half<n, trans>([&](size_t reg, size_t row) {
        memcpy((char *)p.expected.data() + 2 * reg, (char *)p.in.data() + 2 * row, 2);
    });
}
template <int n, bool trans> void add_stmatrix(Made &m)
{
    const size_t rows = 32 * pitch;
    probe &p = m.add("stmatrix", form(n, trans), draw(rows + 32 * n, m.rng), rows, store_matrices<n>, 32,
                     sizeof(Rows));
    p.expected.assign(p.in.begin(), p.in.begin() + (ptrdiff_t)rows);
    each_half<n, trans>([&](size_t reg, size_t row) {
        memcpy((char *)p.expected.data() + 2 * row, (char *)p.in.data() + 4 * rows + 2 * reg, 2);
    });
}

/// d += a b, a [16][16] and b transposed [8][16] in bf16, two to a word; d [16][8] in float32.
__global__ void mma_product(const uint32_t *in, uint32_t *out)
{
    const int t = (int)threadIdx.x;
    uint32_t a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; i++) {
        const Element e = fragment_a(t, 2 * i), x = fragment_d(t, i);
        a[i] = ld_global(in + (e.row * 16 + e.col) / 2);
        d[i] = number(ld_global(in + 192 + x.row * 8 + x.col));
    }
    for (int i = 0; i < 2; i++) {
        const Element e = fragment_b(t, 2 * i);
        b[i] = ld_global(in + 128 + (e.col * 16 + e.row) / 2);
    }
    mma_m16n8k16(d, a, b);
    for (int i = 0; i < 4; i++) {
        const Element x = fragment_d(t, i);
        st_global(out + x.row * 8 + x.col, raw(d[i]));
    }
}

/// [rows][k] small integers.
std::vector<int> draw_matrix(int rows, int k, Random &rng)
{
    std::vector<int> x((size_t)(rows * k));
    for (int &v : x)
        v = rng.between(-8, 8);
    return x;
}
void append_pairs(words &to, const std::vector<int> &x)
{
    for (size_t i = 0; i < x.size(); i += 2)
        to.push_back(small_bf16(x[i]) | small_bf16(x[i + 1]) << 16);
}
/// Row i of a times row j of b.
int dot(const std::vector<int> &a, int i, const std::vector<int> &b, int j, int k)
{
    int sum = 0;
    for (int e = 0; e < k; e++)
        sum += a[(size_t)(i * k + e)] * b[(size_t)(j * k + e)];
    return sum;
}

void add_fragments(Made &m)
{
    add_ldmatrix<2, false>(m);
    add_ldmatrix<2, true>(m);
    add_ldmatrix<4, false>(m);
    add_ldmatrix<4, true>(m);
    add_stmatrix<2, true>(m);
    add_stmatrix<4, false>(m);
    const std::vector<int> a = draw_matrix(16, 16, m.rng), b = draw_matrix(8, 16, m.rng);
    words in;
    append_pairs(in, a);
    append_pairs(in, b);
    const words d = draw_eighths(128, m.rng);
    in.insert(in.end(), d.begin(), d.end());
    probe &p = m.add("mma_m16n8k16", "small integers", in, 128, mma_product, 32);
    for (int i = 0; i < 128; i++)
        p.expected[(size_t)i] = raw(number(d[(size_t)i]) + (float)dot(a, i / 8, b, i % 8, 16));
}

/* ---- wgmma ------------------------------------------------------------------------------------------- */

struct Layout {
    uint32_t leading, stride; ///< bytes, as the descriptor names them
    uint32_t step;            ///< from k = 0 to k = 16
    uint32_t size;            ///< of the operand, gaps included
    Swizzle swizzle;
};
struct Operands {
    alignas(1024) uint32_t a[2048];
    alignas(1024) uint32_t b[8192];
};

/// Bits 16 and up of a descriptor say nothing of where shared memory starts.
__global__ void descriptors(const uint32_t *in, uint32_t *out)
{
    Operands &s = shared<Operands>();
    const unsigned t = threadIdx.x;
    const uint64_t first = wgmma_descriptor(&s.a[4 * (t & ~3u)], ld_global(in + 2 * t),
                                            ld_global(in + 2 * t + 1), (Swizzle)(t % 4)),
                   d = wgmma_advanced(first, (int)(t & 3) * 16);
    st_global(out + 2 * t, (uint32_t)(d >> 16));
    st_global(out + 2 * t + 1, (uint32_t)(d >> 48) << 16 | (((uint32_t)d - (shared_u32(&s) >> 4)) & 0x3fff));
}

template <int N, int trans_a, int trans_b>
__global__ void __launch_bounds__(128, 1)
    product_ss(const uint32_t *in, uint32_t *out, Layout a, Layout b, int steps, int keep)
{
    Operands &s = shared<Operands>();
    const int t = (int)threadIdx.x;
    stage_words(s.a, in, a.size / 4);
    stage_words(s.b, in + a.size / 4, b.size / 4);
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) {
        const Element e = fragment_d(t, i);
        d[i] = (float)((e.row * 3 + e.col * 5) % 17 - 8);
    }
    const uint64_t at = wgmma_descriptor(s.a, a.leading, a.stride, a.swizzle),
                   bt = wgmma_descriptor(s.b, b.leading, b.stride, b.swizzle);
    for (int k = 0; k < steps; k++) {
        wgmma_pin(d);
        wgmma_fence();
        wgmma_ss<N, trans_a, trans_b>(d, at + (uint64_t)((uint32_t)k * a.step >> 4),
                                      bt + (uint64_t)((uint32_t)k * b.step >> 4), keep || k > 0);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(d);
    }
    for (int i = 0; i < N / 2; i++) {
        const Element e = fragment_d(t, i);
        st_global(out + e.row * N + e.col, raw(d[i]));
    }
}
/// A lies in `in` as [64][16 steps].
template <int N, int trans_b>
__global__ void __launch_bounds__(128, 1)
    product_rs(const uint32_t *in, uint32_t *out, Layout b, int steps, int keep)
{
    Operands &s = shared<Operands>();
    const int t = (int)threadIdx.x;
    stage_words(s.b, in + 512 * steps, b.size / 4);
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) {
        const Element e = fragment_d(t, i);
        d[i] = (float)((e.row * 3 + e.col * 5) % 17 - 8);
    }
    const uint64_t bt = wgmma_descriptor(s.b, b.leading, b.stride, b.swizzle);
    for (int k = 0; k < steps; k++) {
        uint32_t a[1][4];
        for (int r = 0; r < 4; r++) {
            const Element e = fragment_a(t, 2 * r);
            a[0][r] = ld_global(in + (e.row * 16 * steps + 16 * k + e.col) / 2);
        }
        wgmma_pin(d);
        wgmma_pin(a);
        wgmma_fence();
        wgmma_rs<N, trans_b>(d, a[0], bt + (uint64_t)((uint32_t)k * b.step >> 4), keep || k > 0);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(d);
    }
    for (int i = 0; i < N / 2; i++) {
        const Element e = fragment_d(t, i);
        st_global(out + e.row * N + e.col, raw(d[i]));
    }
}

template <int N>
__global__ void __launch_bounds__(128, 1)
    product_int8(const uint32_t *in, uint32_t *out, Layout a, Layout b, int steps, int keep)
{
    Operands &s = shared<Operands>();
    const int t = (int)threadIdx.x;
    stage_words(s.a, in, a.size / 4);
    stage_words(s.b, in + a.size / 4, b.size / 4);
    int32_t d[N / 2];
    for (int i = 0; i < N / 2; i++) {
        const Element e = fragment_d(t, i);
        d[i] = (e.row * 3 + e.col * 5) % 17 - 8;
    }
    const uint64_t at = wgmma_descriptor(s.a, a.leading, a.stride, a.swizzle),
                   bt = wgmma_descriptor(s.b, b.leading, b.stride, b.swizzle);
    for (int k = 0; k < steps; k++) {
        wgmma_pin(d);
        wgmma_fence();
        wgmma_ss_int8<N>(d, at + (uint64_t)((uint32_t)k * a.step >> 4),
                         bt + (uint64_t)((uint32_t)k * b.step >> 4), keep || k > 0);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(d);
    }
    for (int i = 0; i < N / 2; i++) {
        const Element e = fragment_d(t, i);
        st_global(out + e.row * N + e.col, (uint32_t)d[i]);
    }
}

/// How an operand of `rows` rows (M or N) lies in shared memory. PTX ISA, "Strides".
struct Arrangement {
    const char *name;
    int mn_major;
    Swizzle swizzle;
    uint32_t w;    ///< 16-byte chunks in a row of the pattern
    int k;         ///< columns that a tile has
    bool far_rows; ///< without swizzle: groups of 8 rows (columns) lie side by side, or those of 8 columns
};
const Arrangement arrangements[] = {{"K-major", 0, Swizzle::none, 1, 32, false},
                                    {"K-major, groups of rows far apart", 0, Swizzle::none, 1, 32, true},
                                    {"K-major 32 B", 0, Swizzle::b32, 2, 16, false},
                                    {"K-major 64 B", 0, Swizzle::b64, 4, 32, false},
                                    {"K-major 128 B", 0, Swizzle::b128, 8, 64, false},
                                    {"MN-major", 1, Swizzle::none, 1, 32, false},
                                    {"MN-major, groups of rows far apart", 1, Swizzle::none, 1, 32, true},
                                    {"MN-major 32 B", 1, Swizzle::b32, 2, 32, false},
                                    {"MN-major 64 B", 1, Swizzle::b64, 4, 32, false},
                                    {"MN-major 128 B", 1, Swizzle::b128, 8, 32, false}};

/// Strides between groups of 8 rows and of 8 columns.
struct Strides {
    uint32_t rows, columns;
};
Strides strides_of(const Arrangement &x, uint32_t rows)
{
    if (x.w == 1)
        return x.far_rows ? Strides{128 * (uint32_t)x.k / 8, 128} : Strides{128, 128 * rows / 8};
    return x.mn_major ? Strides{0, 128 * x.w} : Strides{128 * x.w, 16};
}
uint32_t byte_of(const Arrangement &x, uint32_t rows, uint32_t mn, uint32_t k)
{
    const Strides s = strides_of(x, rows);
    uint32_t at;
    if (!x.mn_major)
        at = mn % 8 * 16 * x.w + mn / 8 * s.rows + k / 8 * s.columns + k % 8 * 2;
    else if (x.w == 1)
        at = mn % 8 * 2 + mn / 8 * s.rows + k % 8 * 16 + k / 8 * s.columns;
    else // slabs of the pattern's width, all of k in each
        at = mn % 8 * 2 + mn / 8 % x.w * 16 + mn / 8 / x.w * ((uint32_t)x.k / 8 * s.columns) +
             k % 8 * 16 * x.w + k / 8 * s.columns;
    return at ^ (at >> 7 & (x.w - 1)) << 4;
}
Layout layout_of(const Arrangement &x, uint32_t rows)
{
    const Strides s = strides_of(x, rows);
    const uint32_t slabs = (rows / 8 + x.w - 1) / x.w;
    Layout l = {16, s.rows, 2 * s.columns, rows * (uint32_t)x.k * 2, x.swizzle};
    if (x.w == 1 && !x.mn_major)
        l.leading = s.columns;
    else if (x.w == 1) // MN-major without swizzle: the two change roles
        l.leading = s.columns, l.stride = s.rows;
    else if (x.mn_major)
        l.leading = (uint32_t)x.k / 8 * s.columns, l.stride = s.columns, l.size = slabs * l.leading;
    return l;
}
/// Puts [rows][k] halves of words (k columns of the tile's x.k) where the layout wants them. Gaps are huge numbers.
void append_halves(words &to, const Arrangement &x, const std::vector<uint16_t> &half, int rows, int k)
{
    words tile(layout_of(x, (uint32_t)rows).size / 4, 0x7f7f7f7f);
    for (int mn = 0; mn < rows; mn++)
        for (int e = 0; e < k; e++)
            memcpy((char *)tile.data() + byte_of(x, (uint32_t)rows, (uint32_t)mn, (uint32_t)e),
                   &half[(size_t)(mn * k + e)], 2);
    to.insert(to.end(), tile.begin(), tile.end());
}
void append_tile(words &to, const Arrangement &x, const std::vector<int> &matrix, int rows, int k)
{
    std::vector<uint16_t> half;
    for (const int v : matrix)
        half.push_back((uint16_t)small_bf16(v));
    append_halves(to, x, half, rows, k);
}
/// Of 8-bit integers two lie where one bf16 would.
void append_int8(words &to, const Arrangement &x, const std::vector<int> &matrix, int rows, int k)
{
    std::vector<uint16_t> half;
    for (size_t i = 0; i < matrix.size(); i += 2)
        half.push_back((uint16_t)((matrix[i] & 255) | (matrix[i + 1] & 255) << 8));
    append_halves(to, x, half, rows, k / 2);
}
void expect_product(probe &p, const std::vector<int> &a, const std::vector<int> &b, int n, int k, bool keep)
{
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < n; j++)
            p.expected[(size_t)(i * n + j)] =
                raw((float)(dot(a, i, b, j, k) + (keep ? (i * 3 + j * 5) % 17 - 8 : 0)));
}

template <int N, int ta, int tb>
void launch_ss(const uint32_t *in, uint32_t *out, Layout a, Layout b, int steps, int keep)
{
    LAUNCH((product_ss<N, ta, tb>), 1, 128, sizeof(Operands), nullptr, in, out, a, b, steps, keep);
}
template <int N>
void add_ss(Made &m, const char *group, const Arrangement &xa, const Arrangement &xb, int keep)
{
    const int k = xa.k < xb.k ? xa.k : xb.k;
    const std::vector<int> a = draw_matrix(64, k, m.rng), b = draw_matrix(N, k, m.rng);
    words in;
    append_tile(in, xa, a, 64, k);
    append_tile(in, xb, b, N, k);
    const Layout la = layout_of(xa, 64), lb = layout_of(xb, N);
    probe &p =
        m.add(group, std::string("A ") + xa.name + ", B " + xb.name + (keep ? ", added" : ""), in, 64 * N);
    const auto start = xa.mn_major   ? xb.mn_major ? launch_ss<N, 1, 1> : launch_ss<N, 1, 0>
                         : xb.mn_major ? launch_ss<N, 0, 1>
                                     : launch_ss<N, 0, 0>;
    p.launch = [=](const uint32_t *from, uint32_t *to) {
        start(from, to, la, lb, k / 16, keep);
        return (const char *)nullptr;
    };
    expect_product(p, a, b, N, k, keep);
}
/// The largest codes there are, and any.
template <int N>
void add_int8(Made &m, const char *group, const Arrangement &xa, const Arrangement &xb, int keep)
{
    const int k = 2 * (xa.k < xb.k ? xa.k : xb.k);
    std::vector<int> a((size_t)(64 * k)), b((size_t)(N * k));
    for (int &v : a)
        v = m.rng.between(-128, 127);
    for (int &v : b)
        v = m.rng.between(0, 3) ? m.rng.between(-128, 127) : -128;
    words in;
    append_int8(in, xa, a, 64, k);
    append_int8(in, xb, b, N, k);
    const Layout la = layout_of(xa, 64), lb = layout_of(xb, N);
    probe &p =
        m.add(group, std::string("A ") + xa.name + ", B " + xb.name + (keep ? ", added" : ""), in, 64 * N);
    p.launch = [=](const uint32_t *from, uint32_t *to) {
        LAUNCH((product_int8<N>), 1, 128, sizeof(Operands), nullptr, from, to, la, lb, k / 32, keep);
        return (const char *)nullptr;
    };
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < N; j++)
            p.expected[(size_t)(i * N + j)] =
                (uint32_t)(dot(a, i, b, j, k) + (keep ? (i * 3 + j * 5) % 17 - 8 : 0));
}
template <int N> void add_rs(Made &m, const char *group, const Arrangement &x, int keep)
{
    const std::vector<int> a = draw_matrix(64, x.k, m.rng), b = draw_matrix(N, x.k, m.rng);
    words in;
    append_pairs(in, a);
    append_tile(in, x, b, N, x.k);
    const Layout l = layout_of(x, N);
    const int steps = x.k / 16;
    const bool trans = x.mn_major;
    probe &p = m.add(group, std::string("B ") + x.name + (keep ? ", added" : ""), in, 64 * N);
    p.launch = [=](const uint32_t *from, uint32_t *to) {
        if (trans)
            LAUNCH((product_rs<N, 1>), 1, 128, sizeof(Operands), nullptr, from, to, l, steps, keep);
        else
            LAUNCH((product_rs<N, 0>), 1, 128, sizeof(Operands), nullptr, from, to, l, steps, keep);
        return (const char *)nullptr;
    };
    expect_product(p, a, b, N, x.k, keep);
}

/// Every arrangement of B, with the same one for A and with another.
template <int N> void add_products(Made &m, const char *ss, const char *rs)
{
    const size_t n = sizeof arrangements / sizeof *arrangements;
    for (size_t i = 0; i < n; i++) {
        add_ss<N>(m, ss, arrangements[i], arrangements[i], i % 2);
        add_ss<N>(m, ss, arrangements[(3 * i + 4) % n], arrangements[i], (i + 1) % 2);
        add_rs<N>(m, rs, arrangements[i], i % 2);
    }
}

/// Every K-major arrangement, which is all that integers may have.
template <int N> void add_int8_products(Made &m, const char *group)
{
    const size_t n = 5;
    for (size_t i = 0; i < n; i++) {
        add_int8<N>(m, group, arrangements[i], arrangements[i], i % 2);
        add_int8<N>(m, group, arrangements[(i + 3) % n], arrangements[i], (i + 1) % 2);
    }
}

/// Registers move from one warpgroup to two others, which then multiply.
__global__ void __launch_bounds__(384, 1) register_pool(const uint32_t *in, uint32_t *out, Layout b)
{
    Operands &s = shared<Operands>();
    const int t = recomputed((int)threadIdx.x), group = t / 128;
    stage_words(s.a, in, b.size / 4);
    if (group == 0) {
        setmaxnreg_dec<24>();
        st_global(out + 2 * 4096 + t, (uint32_t)t);
        return;
    }
    setmaxnreg_inc<240>();
    float d[32];
    const uint64_t tile = wgmma_descriptor(s.a, b.leading, b.stride, b.swizzle);
    wgmma_pin(d);
    wgmma_fence();
    for (int k = 0; k < 4; k++)
        wgmma_ss<64>(d, tile + (uint64_t)((uint32_t)k * b.step >> 4),
                     tile + (uint64_t)((uint32_t)k * b.step >> 4), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(d);
    for (int i = 0; i < 32; i++) {
        const Element e = fragment_d(t % 128, i);
        st_global(out + (group - 1) * 4096 + e.row * 64 + e.col, raw(d[i]));
    }
}

void add_wgmma(Made &m)
{
    words strides(256);
    for (uint32_t &v : strides)
        v = m.rng.next() % 0x4000 * 16;
    probe &p = m.add("wgmma_descriptor, wgmma_advanced", "all swizzles", strides, 256, descriptors, 128,
                     sizeof(Operands));
    for (uint32_t t = 0; t < 128; t++) {
        p.expected[2 * t] = strides[2 * t] >> 4 | strides[2 * t + 1] >> 4 << 16;
        p.expected[2 * t + 1] = t % 4 << 30 | t;
    }
    add_products<8>(m, "wgmma_ss, N = 8", "wgmma_rs, N = 8");
    add_products<16>(m, "wgmma_ss, N = 16", "wgmma_rs, N = 16");
    add_products<32>(m, "wgmma_ss, N = 32", "wgmma_rs, N = 32");
    add_products<64>(m, "wgmma_ss, N = 64", "wgmma_rs, N = 64");
    add_products<128>(m, "wgmma_ss, N = 128", "wgmma_rs, N = 128");
    add_products<256>(m, "wgmma_ss, N = 256", "wgmma_rs, N = 256");
    add_int8_products<8>(m, "wgmma_ss_int8, N = 8");
    add_int8_products<16>(m, "wgmma_ss_int8, N = 16");
    add_int8_products<32>(m, "wgmma_ss_int8, N = 32");
    add_int8_products<64>(m, "wgmma_ss_int8, N = 64");
    add_int8_products<128>(m, "wgmma_ss_int8, N = 128");

    const Arrangement &x = arrangements[4];
    const std::vector<int> a = draw_matrix(64, 64, m.rng);
    const Layout l = layout_of(x, 64);
    words in;
    append_tile(in, x, a, 64, 64);
    probe &moved = m.add("setmaxnreg", "24, 240, 240", in, 2 * 4096 + 128);
    moved.launch = [=](const uint32_t *from, uint32_t *to) {
        LAUNCH(register_pool, 1, 384, sizeof(Operands), nullptr, from, to, l);
        return (const char *)nullptr;
    };
    for (int i = 0; i < 4096; i++)
        moved.expected[(size_t)i] = moved.expected[4096 + (size_t)i] =
            raw((float)dot(a, i / 64, a, i % 64, 64));
    for (uint32_t t = 0; t < 128; t++)
        moved.expected[8192 + t] = t;
}

/// Brings the probes of a group together, groups in the order of their first probe.
void gather_groups(std::vector<probe> &all)
{
    std::vector<std::string> order;
    const auto place = [&](const probe &p) {
        return std::find(order.begin(), order.end(), p.group) - order.begin();
    };
    for (const probe &p : all)
        if ((size_t)place(p) == order.size())
            order.push_back(p.group);
    std::stable_sort(all.begin(), all.end(),
                     [&](const probe &a, const probe &b) { return place(a) < place(b); });
}

std::vector<probe> make_probes(uint64_t seed)
{
    Made m = {{}, {seed}};
    add_memory(m);
    add_grids(m);
    add_functions(m);
    add_rounding(m);
    add_warps(m);
    add_barriers(m);
    add_bulk(m);
    add_loads(m);
    add_stores(m);
    add_cp_async(m);
    add_fragments(m);
    add_wgmma(m);
    gather_groups(m.all);
    return std::move(m.all);
}

} // namespace

#ifdef __CUDACC__
extern const instruction_side cuda_instructions;
const instruction_side cuda_instructions = {make_probes, cuda_measurements, run_probe};
#else
extern const instruction_side simt_instructions;
const instruction_side simt_instructions = {make_probes, simt_measurements, run_probe};
#endif
