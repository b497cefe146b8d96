/**
 * @file 1_naive.cu
 * @brief The gradient of attention, a thread per row of Q.
 *
 * Idea: the thread of query i, head h recomputes P from the forward pass's log-sum-exp, key after key, keeps
 * its row of dQ in registers and adds what its query gives to dK and dV by reductions in memory (chapter 16):
 *
 *     P = exp(S - LSE)   dS = P (dO . V - delta)   delta = dO . O   dQ += dS K   dK += dS Q   dV += P dO
 *
 * Bytes, with P pairs (visible key, query, head): 28 dh P (K twice, Q twice, dO twice, V, and 8 dh of
 * reductions, each counted once); the rows of dQ, and once more for zeros; zeros in dK and dV; delta there and
 * back.
 * Floor: 10 dh operations for each visible pair and head, on the CUDA cores.
 * Waste: a reduction of 4 bytes for every multiplication of dK and dV, which neighbours send to the same rows,
 * in no order: their last bits differ from run to run.
 * Estimate: at M3's sizes and 128K tokens 18 TB of reductions, 5 s.
 */
#include "../sweep/centre.cuh"

namespace
{

constexpr int threads = 128;

template <int D>
__global__ void __launch_bounds__(threads)
    naive(Shape s, const bf16 *q, const bf16 *k, const bf16 *v, const int32_t *ids, const bf16 *dout,
          const float *lse, const float *delta, Centres centres, float *dq, float *dk, float *dv)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * threads + threadIdx.x;
    if (row >= (int64_t)s.n_q * s.n_heads)
        return;
    const int i = (int)(row / s.n_heads), h = (int)(row % s.n_heads), r = h / s.group;
    const bf16 *my_q = q + row * D, *my_dout = dout + row * D;
    const float my_lse = ld_global(lse + row) * log2_e, my_delta = ld_global(delta + row);
    float acc[D], excess = 0;
    for (int c = 0; c < D; c++)
        acc[c] = 0;
    for_each_key(s, ids, i, r, [&](int j) {
        const int64_t at = kv_at(s, j, r, D);
        float x = 0, dp = 0;
        UNROLL_BY_4 // or loads take the registers that acc needs
        for (int c = 0; c < D; c += 4) {
            x += dot_4(load_4(my_q + c), load_4(k + at + c));
            dp += dot_4(load_4(my_dout + c), load_4(v + at + c));
        }
        const float p = ex2(x * scale2<D> - my_lse), ds = p * (dp - my_delta) * scale<D>;
        excess += ds;
        for (int c = 0; c < D; c += 4) {
            add_4(acc + c, ds, load_4(k + at + c));
            red_4(dk + at + c, ds, load_4(my_q + c));
            red_4(dv + at + c, p, load_4(my_dout + c));
        }
    });
    const bf16 *centre = centre_of(s, centres, i, r, D);
    for (int c = 0; c < D; c++)
        st_global(dq + row * D + c, acc[c] - excess * to_float(ld_global(centre + c)));
}

size_t workspace(const Call &c)
{
    return query_scratch(c).bytes;
}

msa_status run(const Call &c)
{
    const int64_t rows = (int64_t)c.s.n_q * c.s.n_heads;
    if (c.a.loss)
        return MSA_ERR_UNSUPPORTED;
    clear_gradients(c);
    if (rows > 0)
        with_int<64, 128>(c.d_head, [&](auto d) {
            const QueryScratch w = query_scratch(c);
            launch_deltas<d.value>(c, w.delta);
            launch_centres<d.value>(c, c.a.k, c.s.n_kv_heads, w.centres);
            LAUNCH((naive<d.value>), dim3((unsigned)ceil_div(rows, (int64_t)threads)), dim3(threads), 0,
                   c.stream, c.s, c.a.q, c.a.k, c.a.v, c.a.ids, c.a.dout, c.a.lse, w.delta, w.centres, c.a.dq,
                   c.a.dk, c.a.dv);
        });
    return MSA_OK;
}

} // namespace

ENTRY(backward, naive, run, workspace);
