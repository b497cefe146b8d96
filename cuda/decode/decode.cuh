/**
 * @file decode.cuh
 * @brief What the rungs of decode share: their limits, where a request's keys lie, the tokens of a selection,
 *        float32 dot products, and the merge of partial attention.
 *
 * One step of generation has T <= 16 queries a request, the newest tokens. A row of selection is (query i,
 * group r), number i Hkv + r as index queries lie in memory. Only blocks before the local one compete and all
 * of their tokens are visible, so that no rung masks a score; and the local block is the last of its row, so
 * that the visible tokens of a selection are the first selected() of its blocks' tokens.
 *
 * A paged call is a batch of requests that the last dimension of a grid counts. Grids depend on the largest
 * shape only: how long a request is, every block of threads reads on the device, so that a CUDA graph of the
 * step stays right as requests grow. A call without pages is one request whose page table is b -> b.
 */
#ifndef MSA_DECODE_CUH
#define MSA_DECODE_CUH

#include "../selection.cuh"

constexpr int most_queries = 16, most_group = 16, most_blocks = 32, most_requests = 128, most_sms = 132;

MSA_BOTH_SIDES constexpr int smaller(int a, int b)
{
    return a < b ? a : b;
}

inline bool supported(const Call &c)
{
    const Shape &s = c.s;
    return s.n_q <= most_queries && s.group <= most_group && s.block <= 128 && c.batch <= most_requests;
}

/// Streaming multiprocessors of the device: what work is shared out among.
inline int sms()
{
    PTX(int device = 0, n = 0; cudaGetDevice(&device);
        cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device);)
    CPU(const int n = simt::options.sms;)
    return n > 0 ? smaller(n, most_sms) : most_sms;
}

/* ---- Requests ---------------------------------------------------------------------------------------- */

/// Request n as a sequence.
PTX_INLINE Shape request(Shape s, const Pages &p, int n SITE)
{
    if (p.lens) {
        PTX(s.n_kv = ld_global(p.lens + n);)
        CPU(s.n_kv = ld_global(p.lens + n, site);
            simt::require(s.n_kv >= s.n_q && s.n_kv <= p.max_pages * s.block,
                          "a length is at least T and has room in a row of the page table", site);)
        s.prefix = s.n_kv - s.n_q;
    }
    return s;
}
/// The page that is block b of request n.
PTX_INLINE int page_of(const Pages &p, int n, int b SITE)
{
    if (!p.table)
        return b;
    PTX(return ld_global(p.table + (int64_t)n * p.max_pages + b);)
    CPU(const int page = ld_global(p.table + (int64_t)n * p.max_pages + b, site);
        simt::require(page >= 0 && page < p.n_pages, "a page id is one of P", site); return page;)
}

/// Blocks that compete for the last query, and so all whose scores are needed: none if k = 1.
MSA_BOTH_SIDES constexpr int competing_blocks(const Shape &s)
{
    return s.topk > 1 ? (s.n_kv - 1) / s.block : 0;
}

/// Visible tokens of the blocks that query i selects.
MSA_BOTH_SIDES constexpr int selected(const Shape &s, int i)
{
    const int p = s.prefix + i, local = p / s.block, before = smaller(local, s.topk - 1);
    return before * s.block + p % s.block + 1;
}

/* ---- Float32 arithmetic on bf16 ------------------------------------------------------------------- */

/// Eight neighbouring channels: 16 bytes.
PTX_INLINE void unpack_8(float (&x)[8], uint4 v)
{
    const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
    for (int a = 0; a < 8; a++) {
        const uint32_t bits = a % 2 ? pair[a / 2] & 0xffff0000u : pair[a / 2] << 16;
        PTX(x[a] = __uint_as_float(bits);)
        CPU(memcpy(&x[a], &bits, 4);)
    }
}
/// dot + eight products; q is shared memory.
PTX_INLINE float dot_8(float dot, const float *q, const float (&x)[8] SITE)
{
    for (int half = 0; half < 2; half++) {
        PTX(const float4 y = ld_shared((const float4 *)q + half);)
        CPU(const float4 y = ld_shared((const float4 *)q + half, site);)
        dot += y.x * x[4 * half] + y.y * x[4 * half + 1] + y.z * x[4 * half + 2] + y.w * x[4 * half + 3];
    }
    return dot;
}
/// n channels, 8 a thread, from global memory to float32 in shared memory.
PTX_INLINE void load_floats(float *to, const bf16 *from, int n, int threads)
{
    for (int c = 8 * (int)threadIdx.x; c < n; c += 8 * threads) {
        float x[8];
        unpack_8(x, ld_global((const uint4 *)(from + c)));
        st_shared((float4 *)(to + c), make_float4(x[0], x[1], x[2], x[3]));
        st_shared((float4 *)(to + c + 4), make_float4(x[4], x[5], x[6], x[7]));
    }
}

PTX_INLINE float warp_top(float x)
{
    for (int with = 16; with > 0; with /= 2)
        x = fmaxf(x, shfl_xor(x, with));
    return x;
}
PTX_INLINE float warp_sum(float x)
{
    for (int with = 16; with > 0; with /= 2)
        x += shfl_xor(x, with);
    return x;
}

/* ---- Partial attention ------------------------------------------------------------------------------- */

/// Softmax over a part of a row's tokens, not divided: the maximum m and sum l of its weights 2^(x - m), and
/// the values so weighted. Part a of head row i Hq + h is number (i Hq + h) count + a.
struct Parts {
    float2 *ml;
    float *o;
    int count; ///< parts that a row may have
};
constexpr int most_parts = 2 * most_sms;

/// O and LSE of a head row from its n parts, by a warp, which has `weight` in shared memory for itself.
template <int D, class Out>
PTX_INLINE void merge_row(const Parts &parts, int64_t row, int n, float (&weight)[most_parts], Out *o,
                          float *lse)
{
    const int lane = (int)threadIdx.x % 32;
    const float2 *ml = parts.ml + row * parts.count;
    // [merge_parts]
    float m = minus_infinity(), l = 0;
    for (int a = lane; a < n; a += 32)
        m = fmaxf(m, ld_global(ml + a).x);
    m = warp_top(m);
    for (int a = lane; a < n; a += 32) {
        const float2 part = ld_global(ml + a);
        const float w = ex2(part.x - m);
        st_shared(weight + a, w);
        l += w * part.y;
    }
    l = warp_sum(l);
    __syncwarp();

    float acc[D / 32] = {};
    for (int a = 0; a < n; a++) {
        const float w = ld_shared(weight + a), *part = parts.o + (row * parts.count + a) * D;
        for (int c = 0; c < D / 32; c++)
            acc[c] += w * ld_global(part + 32 * c + lane);
    }
    for (int c = 0; c < D / 32; c++)
        store(o + row * D + 32 * c + lane, acc[c] / l);
    if (lse && lane == 0)
        st_global(lse + row, m * ln_2 + logf(l));
    // [merge_parts]
    __syncwarp();
}

#endif
