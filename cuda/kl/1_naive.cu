/**
 * @file 1_naive.cu
 * @brief The selector's loss and its gradient, a thread per query and group.
 *
 * Idea: the thread of query i, group r walks the keys it sees. For each it recomputes the group's P from the
 * log-sum-exp of the forward pass and averages them: the teacher t. The student u comes from the index's
 * log-sum-exp alone, so that neither needs a second pass:
 *
 *     loss += t (log t - log u)    dQi += (u - t) Ki    dKi += (u - t) Qi
 *
 * Floor: 2 G dh + 6 di operations for each visible pair and group, on the CUDA cores.
 * Waste: G dot products one after the other in a single thread; a reduction for every multiplication of dKi.
 * Estimate: at M3's sizes and 128K tokens 0.55 TB of reductions, 0.16 s at 3.35 TB/s.
 */
#include "../sweep/centre.cuh"
#include "../sweep/index_lse.cuh"

namespace
{

constexpr int threads = 64;

template <int D, int DI>
__global__ void __launch_bounds__(threads)
    naive(Shape s, const bf16 *q, const bf16 *k, const bf16 *qi, const bf16 *ki, const int32_t *ids,
          const float *lse, const float *index_lse, Centres centres, float factor, float *dqi, float *dki,
          double *part)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * threads + threadIdx.x;
    if (row >= (int64_t)s.n_q * s.n_kv_heads) {
        if (row < (int64_t)s.capacity * s.n_kv_heads) // padding
            st_global(part + row, 0.0);
        return;
    }
    const int i = (int)(row / s.n_kv_heads), r = (int)(row % s.n_kv_heads);
    const bf16 *my_qi = qi + row * DI;
    const float my_lse = ld_global(index_lse + row_at(s, i, r)) * log2_e;
    float acc[DI], excess = 0;
    double loss = 0;
    for (int c = 0; c < DI; c++)
        acc[c] = 0;
    for_each_key(s, ids, i, r, [&](int j) {
        float t = 0, x = 0;
        for (int h = r * s.group; h < (r + 1) * s.group; h++) {
            const bf16 *my_q = q + q_at(s, i, h, D), *key = k + kv_at(s, j, r, D);
            float dot = 0;
            UNROLL_BY_4 // or loads take the registers that acc needs
            for (int c = 0; c < D; c += 4)
                dot += dot_4(load_4(my_q + c), load_4(key + c));
            t += ex2(dot * scale2<D> - ld_global(lse + lse_at(s, i, h)) * log2_e);
        }
        t /= (float)s.group;
        const bf16 *index_key = ki + (int64_t)j * DI;
        UNROLL_BY_4
        for (int c = 0; c < DI; c += 4)
            x += dot_4(load_4(my_qi + c), load_4(index_key + c));
        const float log2_u = x * scale2<DI> - my_lse, g = factor * (ex2(log2_u) - t);
        if (t >= 0x1p-126f) // 0 log 0 = 0, and lg2 of a subnormal number is -inf
            loss += (double)(t * (lg2(t) - log2_u) * ln_2);
        excess += g;
        for (int c = 0; c < DI && dqi; c += 4) {
            add_4(acc + c, g, load_4(index_key + c));
            red_4(dki + (int64_t)j * DI + c, g, load_4(my_qi + c));
        }
    });
    const bf16 *centre = centre_of(s, centres, i, r, DI);
    for (int c = 0; c < DI && dqi; c++)
        st_global(dqi + row * DI + c, acc[c] - excess * to_float(ld_global(centre + c)));
    st_global(part + row, loss);
}

struct Scratch {
    double *part;     ///< [T,Hkv]: of the loss
    float *index_lse; ///< where none is given
    Centres centres;
    size_t bytes;
};

Scratch layout(const Call &c)
{
    Carve carve = {(uintptr_t)c.work};
    Scratch w;
    w.part = carve.take<double>((int64_t)c.s.n_q * c.s.n_kv_heads);
    w.index_lse = carve.take<float>(index_lse_floats(c.s));
    w.centres = take_centres(carve, c.s, c.d_index);
    w.bytes = carve.used;
    return w;
}

size_t workspace(const Call &c)
{
    return layout(c).bytes;
}

msa_status run(const Call &call)
{
    const int64_t rows = (int64_t)call.s.n_q * call.s.n_kv_heads;
    const Scratch w = layout(call);
    Call c = call;
    clear_gradients(c);
    if (rows == 0)
        return MSA_OK;
    with_int<64, 128>(c.d_index, [&](auto di) {
        if (!c.a.index_lse)
            c.a.index_lse = launch_index_lse<di.value>(c, w.index_lse);
        if (c.a.dqi)
            launch_centres<di.value>(c, c.a.ki, 1, w.centres);
        with_int<64, 128>(c.d_head, [&](auto d) {
            LAUNCH((naive<d.value, di.value>), dim3((unsigned)ceil_div(rows, (int64_t)threads)),
                   dim3(threads), 0, c.stream, c.s, c.a.q, c.a.k, c.a.qi, c.a.ki, c.a.ids, c.a.lse,
                   c.a.index_lse, w.centres, (float)(c.a.weight * loss_share(c.s)) * scale<di.value>, c.a.dqi,
                   c.a.dki, w.part);
        });
    });
    launch_add_up(c, rows, w.part);
    return MSA_OK;
}

} // namespace

ENTRY(kl, naive, run, workspace);
