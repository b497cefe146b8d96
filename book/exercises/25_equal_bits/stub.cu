/* dQ with the key blocks outside: a CTA per block and group keeps the block's keys and values, and adds what
 * they give to the queries that chose it, in memory. */
#include "../../../cuda/kit/kernel.cuh"

namespace
{

constexpr int width = 64, max_keys = 16, warps = 4; // channels; keys of a block; of a CTA

struct alignas(4) Pair {
    bf16 x, y;
};
PTX_INLINE float2 floats(const Pair &p)
{
    return make_float2(to_float(p.x), to_float(p.y));
}

struct Smem {
    Pair k[max_keys][32], v[max_keys][32];
};

PTX_INLINE float dot(const float2 &x, const float2 &y)
{
    float sum = x.x * y.x + x.y * y.y;
    for (int with = 1; with < 32; with *= 2)
        sum += shfl_xor(sum, with);
    return sum;
}

/// What a query and head stored, and the gradient of its output: two channels a lane.
struct Row {
    float2 q, dout;
    float lse, delta;
};
PTX_INLINE Row load_row(const Shape &s, const Arrays &a, int i, int h)
{
    const int64_t at = q_at(s, i, h, width);
    const int lane = (int)threadIdx.x % 32;
    const float2 q = floats(ld_global((const Pair *)(a.q + at) + lane));
    const float2 dout = floats(ld_global((const Pair *)(a.dout + at) + lane));
    const float2 o = ld_global((const float2 *)((const float *)a.o + at) + lane);
    return {q, dout, ld_global(a.lse + lse_at(s, i, h)) * log2_e, dot(dout, o)};
}

/// The sum of dS K / sqrt(width) over the first n keys of the block.
PTX_INLINE float2 part_of(Smem &m, const Row &row, int n)
{
    const int lane = (int)threadIdx.x % 32;
    float2 sum = make_float2(0, 0);
    for (int j = 0; j < n; j++) {
        const float2 k = floats(ld_shared(&m.k[j][lane])), v = floats(ld_shared(&m.v[j][lane]));
        const float p = ex2(dot(row.q, k) * scale2<width> - row.lse);
        const float ds = p * (dot(row.dout, v) - row.delta) * scale<width>;
        sum = make_float2(sum.x + ds * k.x, sum.y + ds * k.y);
    }
    return sum;
}

__global__ void __launch_bounds__(32 * warps) clear(float *x, int64_t n)
{
    const int64_t at = (int64_t)blockIdx.x * 32 * warps + threadIdx.x;
    if (at < n)
        st_global(x + at, 0.0f);
}

__global__ void __launch_bounds__(32 * warps) sweep(Shape s, Arrays a)
{
    Smem &m = shared<Smem>();
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int b = (int)blockIdx.x, r = (int)blockIdx.y, first = b * s.block;
    for (int j = warp; j < s.block && first + j < s.n_kv; j += warps) {
        const int64_t at = kv_at(s, first + j, r, width);
        st_shared(&m.k[j][lane], ld_global((const Pair *)(a.k + at) + lane));
        st_shared(&m.v[j][lane], ld_global((const Pair *)(a.v + at) + lane));
    }
    __syncthreads();
    for (int i = warp; i < s.n_q; i += warps) {
        const int id = lane < s.topk ? ld_global(a.ids + row_at(s, i, r) * s.topk + lane) : -1;
        const int sees = s.prefix + i - first + 1;
        if (!warp_ballot(id == b))
            continue;
        for (int h = r * s.group; h < (r + 1) * s.group; h++) {
            const float2 part = part_of(m, load_row(s, a, i, h), sees < s.block ? sees : s.block);
            float *const to = a.dq + q_at(s, i, h, width) + 2 * lane;
            red_add(to, part.x);
            red_add(to + 1, part.y);
        }
    }
}

size_t workspace(const Call &)
{
    return 0; // bytes, for c.work
}

msa_status run(const Call &c)
{
    const int64_t n = (int64_t)c.s.n_q * c.s.n_heads * width;
    if (c.d_head != width || c.s.block > max_keys)
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(clear, dim3((unsigned)ceil_div(n, (int64_t)32 * warps)), dim3(32 * warps), 0, c.stream, c.a.dq, n);
    LAUNCH(sweep, dim3((unsigned)c.s.n_blocks, (unsigned)c.s.n_kv_heads), dim3(32 * warps), sizeof(Smem),
           c.stream, c.s, c.a);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, workspace);
