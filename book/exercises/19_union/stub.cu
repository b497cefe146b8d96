/* Sparse attention, a warp per query and head: each warp fetches the keys and values of its own blocks. */
#include "../../../cuda/kit/kernel.cuh"

namespace
{

constexpr int width = 64, queries = 8; // channels; neighbouring queries of a CTA, a warp each

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

__global__ void __launch_bounds__(32 * queries)
    each_its_own(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *ids, float *o,
                 float *lse)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int h = (int)blockIdx.y, r = h / s.group, i = (int)blockIdx.x * queries + warp;
    if (i >= s.n_q)
        return;
    const float2 my_q = floats(ld_global((const Pair *)(q + q_at(s, i, h, width)) + lane));
    Softmax a = {minus_infinity(), 0, {0, 0}};
    for (int slot = 0; slot < s.topk; slot++) {
        const int b = ld_global(ids + row_at(s, i, r) * s.topk + slot);
        if (b < 0)
            break;
        for (int j = b * s.block; j < (b + 1) * s.block && j <= s.prefix + i; j++)
            take(a, my_q, floats(ld_global((const Pair *)(k + kv_at(s, j, r, width)) + lane)),
                 floats(ld_global((const Pair *)(v + kv_at(s, j, r, width)) + lane)));
    }
    st_global((float2 *)(o + q_at(s, i, h, width)) + lane, make_float2(a.sum.x / a.l, a.sum.y / a.l));
    if (lane == 0)
        st_global(lse + lse_at(s, i, h), a.m * ln_2 + logf(a.l));
}

msa_status run(const Call &c)
{
    if (c.out != MSA_F32 || c.d_head != width)
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(each_its_own, dim3((unsigned)ceil_div(c.s.n_q, queries), (unsigned)c.s.n_heads),
           dim3(32 * queries), 0, c.stream, c.s, c.a.q, c.a.k, c.a.v, c.a.ids, (float *)c.a.o, c.a.lse);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
