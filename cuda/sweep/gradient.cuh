/**
 * @file gradient.cuh
 * @brief What the kernels of backward and kl share: the support of a query, zeros to start from, and the rows
 * of dO that are multiplied with O.
 */
#ifndef MSA_GRADIENT_CUH
#define MSA_GRADIENT_CUH

#include "../kit/kernel.cuh"

namespace
{

/// Calls f(j) for every key that query i of group r sees: those of its blocks, or all without ids.
template <class F> PTX_INLINE void for_each_key(const Shape &s, const int32_t *ids, int i, int r, const F &f)
{
    const int last = s.prefix + i;
    for (int slot = 0; slot < (ids ? s.topk : 1); slot++) {
        const int b = ids ? ld_global(ids + row_at(s, i, r) * s.topk + slot) : 0;
        if (b < 0)
            return;
        const int end = ids ? (b + 1) * s.block : s.n_kv;
        for (int j = b * s.block; j < end && j <= last; j++)
            f(j);
    }
}

/* ---- Zeros ----------------------------------------------------------------------------------------- */

constexpr int clear_threads = 256, clear_each = 8; ///< float4 a thread

__global__ void __launch_bounds__(clear_threads) clear(float4 *x, int64_t n)
{
    const int64_t first = (int64_t)blockIdx.x * clear_threads * clear_each + threadIdx.x;
    for (int a = 0; a < clear_each; a++)
        if (first + a * clear_threads < n)
            st_global(x + first + a * clear_threads, make_float4(0, 0, 0, 0));
}

/// Zeros to n floats, a multiple of 4; nothing to do where x is NULL.
inline void launch_clear(float *x, int64_t n, cudaStream_t stream)
{
    const int64_t blocks = ceil_div(n / 4, (int64_t)clear_threads * clear_each);
    if (x && n > 0)
        LAUNCH(clear, dim3((unsigned)blocks), dim3(clear_threads), 0, stream, (float4 *)x, n / 4);
}

/// Zeros to the gradients that are asked for.
inline void clear_gradients(const Call &c)
{
    const Shape &s = c.s;
    launch_clear(c.a.dq, (int64_t)s.n_q * s.n_heads * c.d_head, c.stream);
    launch_clear(c.a.dk, (int64_t)s.n_kv * s.n_kv_heads * c.d_head, c.stream);
    launch_clear(c.a.dv, (int64_t)s.n_kv * s.n_kv_heads * c.d_head, c.stream);
    launch_clear(c.a.dqi, (int64_t)s.n_q * s.n_kv_heads * c.d_index, c.stream);
    launch_clear(c.a.dki, (int64_t)s.n_kv * c.d_index, c.stream);
}

/* ---- Four channels at a time --------------------------------------------------------------------------- */

PTX_INLINE float dot_4(float4 a, float4 b)
{
    return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}
/// acc += w x, in registers...
PTX_INLINE void add_4(float *acc, float w, float4 x)
{
    acc[0] += w * x.x, acc[1] += w * x.y, acc[2] += w * x.z, acc[3] += w * x.w;
}
/// ...and in memory.
PTX_INLINE void red_4(float *p, float w, float4 x)
{
    red_add(p, w * x.x);
    red_add(p + 1, w * x.y);
    red_add(p + 2, w * x.z);
    red_add(p + 3, w * x.w);
}

/* ---- delta = rowsum(dP * P) = dO . O ------------------------------------------------------------------- */

constexpr int delta_threads = 128;

/// A quarter or half of a warp a row of O: delta[T,Hq]. The grid is full, so that whole warps shuffle.
template <int D, class Out>
__global__ void __launch_bounds__(delta_threads)
    deltas(int64_t rows, const bf16 *dout, const Out *o, float *delta)
{
    constexpr int lanes = D / 8; // a lane holds two pieces of 4 channels
    const int64_t row = ((int64_t)blockIdx.x * delta_threads + threadIdx.x) / lanes;
    const int lane = (int)threadIdx.x % lanes;
    float sum = 0;
    for (int c = 4 * lane; c < D && row < rows; c += 4 * lanes)
        sum += dot_4(load_4(dout + row * D + c), load_4(o + row * D + c));
    for (int with = 1; with < lanes; with *= 2)
        sum += shfl_xor(sum, with);
    if (lane == 0 && row < rows)
        st_global(delta + row, sum);
}

template <int D> void launch_deltas(const Call &c, float *delta)
{
    const int64_t rows = (int64_t)c.s.n_q * c.s.n_heads;
    with_output(c, [&](auto *o) {
        LAUNCH((deltas<D, std::remove_pointer_t<decltype(o)>>),
               dim3((unsigned)ceil_div(rows * (D / 8), (int64_t)delta_threads)), dim3(delta_threads), 0,
               c.stream, rows, c.a.dout, o, delta);
    });
}

/* ---- The loss: the sum of what each CTA stores, in a fixed order --------------------------------------- */

constexpr int sum_threads = 256;

struct Sums {
    double of[sum_threads];
};

/// L_KL is a mean over the queries of all sequences and their groups; ../kit/padding.cuh corrects it for padding.
inline double loss_share(const Shape &s)
{
    return 1 / ((double)s.rows * s.n_kv_heads);
}
/// One CTA. *loss += factor * sum.
__global__ void __launch_bounds__(sum_threads)
    add_up(int64_t n, const double *part, double factor, double *loss)
{
    Sums &m = shared<Sums>();
    const int t = (int)threadIdx.x;
    double sum = 0;
    for (int64_t a = t; a < n; a += sum_threads)
        sum += ld_global(part + a);
    st_shared(&m.of[t], sum);
    for (int with = sum_threads / 2; with > 0; with /= 2) {
        __syncthreads();
        if (t < with)
            st_shared(&m.of[t], ld_shared(&m.of[t]) + ld_shared(&m.of[t + with]));
    }
    if (t == 0)
        st_global(loss, ld_global(loss) + factor * ld_shared(&m.of[0]));
}

inline void launch_add_up(const Call &c, int64_t n, const double *part)
{
    LAUNCH(add_up, dim3(1), dim3(sum_threads), sizeof(Sums), c.stream, n, part, loss_share(c.s), c.a.loss);
}

} // namespace

#endif
