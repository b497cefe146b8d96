/* Attention of new tokens, a CTA per query and head: four warps take turns with the keys, but share one
 * softmax. */
#include "../../../cuda/kit/kernel.cuh"

namespace
{

constexpr int width = 64, warps = 4;

struct alignas(4) Pair {
    bf16 x, y;
};
PTX_INLINE float2 floats(const Pair &p)
{
    return make_float2(to_float(p.x), to_float(p.y));
}

/// A query's softmax over keys seen so far, in base 2; a lane has two channels of the sum.
struct Softmax {
    float m, l;
    float2 sum;
};

struct Smem {
    float x[warps];        ///< logits of one round
    float2 sum[warps][32]; ///< each warp's part of the sum
};

/// Key number t of the selection, or -1 if there are not so many or the query does not see it.
PTX_INLINE int key_of(const Shape &s, const int32_t *ids, int i, int t)
{
    const int b = t / s.block < s.topk ? ld_global(ids + t / s.block) : -1, j = b * s.block + t % s.block;
    return b >= 0 && j <= s.prefix + i ? j : -1;
}

PTX_INLINE float logit(const float2 &q, const float2 &k)
{
    float dot = q.x * k.x + q.y * k.y;
    for (int with = 1; with < 32; with *= 2)
        dot += shfl_xor(dot, with);
    return dot * scale2<width>;
}

__global__ void __launch_bounds__(32 * warps)
    step_by_step(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *ids, float *o,
                 float *lse)
{
    Smem &m = shared<Smem>();
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int i = (int)blockIdx.x, h = (int)blockIdx.y, r = h / s.group;
    const int32_t *row = ids + row_at(s, i, r) * s.topk;
    const float2 my_q = floats(ld_global((const Pair *)(q + q_at(s, i, h, width)) + lane));
    Softmax a = {minus_infinity(), 0, {0, 0}}; // m and l of all warps, the sum of this one's keys
    for (int t0 = 0; key_of(s, row, i, t0) >= 0; t0 += warps) {
        const int j = key_of(s, row, i, t0 + warp);
        float2 value = make_float2(0, 0);
        float x = minus_infinity();
        if (j >= 0) {
            x = logit(my_q, floats(ld_global((const Pair *)(k + kv_at(s, j, r, width)) + lane)));
            value = floats(ld_global((const Pair *)(v + kv_at(s, j, r, width)) + lane));
        }
        if (lane == 0)
            st_shared(&m.x[warp], x);
        __syncthreads();
        float next = a.m;
        for (int w = 0; w < warps; w++)
            next = fmaxf(next, ld_shared(&m.x[w]));
        const float keep = ex2(a.m - next), p = ex2(x - next);
        a.l *= keep;
        for (int w = 0; w < warps; w++)
            a.l += ex2(ld_shared(&m.x[w]) - next);
        a.sum = make_float2(a.sum.x * keep + p * value.x, a.sum.y * keep + p * value.y);
        a.m = next;
        __syncthreads();
    }
    st_shared(&m.sum[warp][lane], a.sum);
    __syncthreads();
    if (warp > 0)
        return;
    float2 all = make_float2(0, 0);
    for (int w = 0; w < warps; w++) {
        const float2 part = ld_shared(&m.sum[w][lane]);
        all = make_float2(all.x + part.x, all.y + part.y);
    }
    st_global((float2 *)(o + q_at(s, i, h, width)) + lane, make_float2(all.x / a.l, all.y / a.l));
    if (lane == 0)
        st_global(lse + lse_at(s, i, h), a.m * ln_2 + logf(a.l));
}

msa_status run(const Call &c)
{
    if (c.out != MSA_F32 || c.d_head != width)
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(step_by_step, dim3((unsigned)c.s.n_q, (unsigned)c.s.n_heads), dim3(32 * warps), sizeof(Smem),
           c.stream, c.s, c.a.q, c.a.k, c.a.v, c.a.ids, (float *)c.a.o, c.a.lse);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
