/* Sparse attention, a warp per query and head: eight queries fetch the union of their blocks together. */
#include "../../../cuda/kit/kernel.cuh"

namespace
{

constexpr int width = 64, queries = 8, block = 16; // channels; neighbouring queries of a CTA, a warp each

struct alignas(4) Pair {
    bf16 x, y;
};
PTX_INLINE float2 floats(const Pair &p)
{
    return make_float2(to_float(p.x), to_float(p.y));
}

/// Online softmax in base 2 of one query: a lane has two channels of the sum.
struct Softmax {
    float m, l;
    float2 sum;
};
PTX_INLINE void take(Softmax &a, const float2 &q, const float2 &k, const float2 &v)
{
    float dot = q.x * k.x + q.y * k.y;
    for (int with = 1; with < 32; with *= 2)
        dot += shfl_xor(dot, with);
    const float x = dot * scale2<width>, next = fmaxf(a.m, x), keep = ex2(a.m - next), p = ex2(x - next);
    a.sum = make_float2(a.sum.x * keep + p * v.x, a.sum.y * keep + p * v.y);
    a.l = a.l * keep + p;
    a.m = next;
}

struct Smem {
    Pair k[block][width / 2], v[block][width / 2];
};
/// The eight warps fetch the n keys and values from key j0 on, two of each a warp.
PTX_INLINE void fetch(Smem &m, const Shape &s, const bf16 *k, const bf16 *v, int r, int j0, int n)
{
    const int lane = (int)threadIdx.x % 32;
    for (int j = (int)threadIdx.x / 32; j < n; j += queries) {
        st_shared(&m.k[j][lane], ld_global((const Pair *)(k + kv_at(s, j0 + j, r, width)) + lane));
        st_shared(&m.v[j][lane], ld_global((const Pair *)(v + kv_at(s, j0 + j, r, width)) + lane));
    }
}

__global__ void __launch_bounds__(32 * queries)
    walk_union(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *ids, float *o, float *lse)
{
    Smem &m = shared<Smem>();
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, i0 = (int)blockIdx.x * queries;
    const int h = (int)blockIdx.y, r = h / s.group, i = i0 + warp;
    const float2 my_q =
        i < s.n_q ? floats(ld_global((const Pair *)(q + q_at(s, i, h, width)) + lane)) : make_float2(0, 0);
    Softmax a = {minus_infinity(), 0, {0, 0}};
    // Lane c < 8 walks the ids of query i0 + c; -1, the end of a row, is the largest of all as unsigned.
    const bool walks = lane < queries && i0 + lane < s.n_q;
    const int32_t *row = ids + row_at(s, walks ? i0 + lane : i0, r) * s.topk;
    int slot = 0, id = walks ? ld_global(row) : -1;
    for (uint32_t b = warp_min((uint32_t)id); b != ~0u; b = warp_min((uint32_t)id)) {
        const bool takes = (uint32_t)id == b;
        const uint32_t takers = warp_ballot(takes);
        if (takes)
            id = ++slot < s.topk ? ld_global(row + slot) : -1;
        const int j0 = (int)b * block, n = s.n_kv - j0 < block ? s.n_kv - j0 : block;
        fetch(m, s, k, v, r, j0, n);
        __syncthreads();
        for (int j = 0; j < n && j0 + j <= s.prefix + i && takers >> warp & 1; j++)
            take(a, my_q, floats(ld_shared(&m.k[j][lane])), floats(ld_shared(&m.v[j][lane])));
        __syncthreads();
    }
    if (i >= s.n_q)
        return;
    st_global((float2 *)(o + q_at(s, i, h, width)) + lane, make_float2(a.sum.x / a.l, a.sum.y / a.l));
    if (lane == 0)
        st_global(lse + lse_at(s, i, h), a.m * ln_2 + logf(a.l));
}

msa_status run(const Call &c)
{
    if (c.out != MSA_F32 || c.d_head != width || c.s.block != block)
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(walk_union, dim3((unsigned)ceil_div(c.s.n_q, queries), (unsigned)c.s.n_heads), dim3(32 * queries),
           sizeof(Smem), c.stream, c.s, c.a.q, c.a.k, c.a.v, c.a.ids, (float *)c.a.o, c.a.lse);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
