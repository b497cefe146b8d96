/**
 * @file 1_naive.cu
 * @brief Dense causal GQA, a thread per row of Q.
 *
 * Idea: the thread of query i, head h walks the keys it sees and keeps the online softmax of chapter 3 in
 * registers: the maximum m, the denominator l, and the row of O scaled to m.
 * Bytes: 6 dh for each visible pair and head; O and the LSE once.
 * Floor: 4 dh operations for each visible pair and head, on the CUDA cores' 128 multiply-adds a clock and SM.
 * Waste: nearly everything. Each thread reads all of K and V for itself, two bytes at a time (heads of a group
 * sit in neighbouring threads, so a warp's reads coincide and the cache serves them); its own row of Q it
 * reads again for every key, since 2 dh registers for Q and O do not fit; tensor cores stay idle.
 */
#include "../kit/kernel.cuh"

namespace
{

constexpr int threads = 128;

template <int D, class Out>
__global__ void __launch_bounds__(threads)
    naive(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, Out *o, float *lse)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * threads + threadIdx.x;
    if (row >= (int64_t)s.n_q * s.n_heads)
        return;
    const int i = (int)(row / s.n_heads), h = (int)(row % s.n_heads), r = h / s.group;
    const bf16 *my_q = q + q_at(s, i, h, D);
    float m = lowest, l = 0, acc[D];
    for (int c = 0; c < D; c++)
        acc[c] = 0;
    // [naive]
    for (int j = 0; j <= s.prefix + i; j++) {
        const bf16 *key = k + kv_at(s, j, r, D), *value = v + kv_at(s, j, r, D);
        float dot = 0;
        for (int c = 0; c < D; c++)
            dot += to_float(ld_global(my_q + c)) * to_float(ld_global(key + c));
        const float x = dot * scale2<D>, next = fmaxf(m, x), keep = ex2(m - next), p = ex2(x - next);
        for (int c = 0; c < D; c++)
            acc[c] = acc[c] * keep + p * to_float(ld_global(value + c));
        l = l * keep + p;
        m = next;
    }
    // [naive]
    for (int c = 0; c < D; c++)
        store(o + q_at(s, i, h, D) + c, acc[c] / l);
    if (lse)
        st_global(lse + lse_at(s, i, h), lse_of(m, l));
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div((int64_t)c.s.n_q * c.s.n_heads, (int64_t)threads));
    with_int<64, 128>(c.d_head, [&](auto d) {
        with_output(c, [&](auto *o) {
            LAUNCH((naive<d.value, std::remove_pointer_t<decltype(o)>>), grid, dim3(threads), 0, c.stream,
                   c.s, c.a.q, c.a.k, c.a.v, o, c.a.lse);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(dense, naive, run, no_workspace);
