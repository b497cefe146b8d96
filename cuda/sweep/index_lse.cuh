/**
 * @file index_lse.cuh
 * @brief The index's log-sum-exp over full support, which the warmup's KL needs and no selection leaves: the
 * keys stream past, tile after tile, and nothing of size N x N is ever stored.
 *
 * All groups share one index key, so the rows of the product are query * Hkv + group; a warp owns 16 of them.
 * Bytes: 2 di for each row; 2 di for each key and CTA up to the last that its rows see, in whole tiles; 4 a
 * row.
 */
#ifndef MSA_INDEX_LSE_CUH
#define MSA_INDEX_LSE_CUH

#include "../kit/warp_attend.cuh"

namespace
{

constexpr int lse_warps = 4, lse_threads = 32 * lse_warps, lse_rows = 16 * lse_warps, lse_keys = 64;

template <int DI> struct LseSmem {
    WarpTile<lse_rows, DI> q;
    WarpTile<lse_keys, DI> k[2];
};

/// lse[Hkv, rows of the call], as msa_arrays has it.
template <int DI>
__global__ void __launch_bounds__(lse_threads)
    index_lse_kernel(Shape s, const bf16 *qi, const bf16 *ki, float *lse)
{
    s = actual(s);
    LseSmem<DI> &m = shared<LseSmem<DI>>();
    const int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    const int64_t rows = (int64_t)s.n_q * s.n_kv_heads, first = (int64_t)blockIdx.x * lse_rows;
    const int64_t last = first + lse_rows < rows ? first + lse_rows - 1 : rows - 1;
    const int n_keys = s.prefix + (int)(last / s.n_kv_heads) + 1;
    auto fetch = [&](int tile) {
        copy_rows<lse_threads>(m.k[tile % 2], t, [&](int row) {
            const int64_t j = (int64_t)tile * lse_keys + row;
            return j < s.n_kv ? ki + j * DI : nullptr;
        });
        cp_async_commit();
    };
    copy_rows<lse_threads>(m.q, t,
                           [&](int row) { return first + row < rows ? qi + (first + row) * DI : nullptr; });
    fetch(0);
    int position[2];
    for (int half = 0; half < 2; half++)
        position[half] = s.prefix + (int)((first + 16 * warp + fragment_row(lane, half)) / s.n_kv_heads);
    Softmax sum = softmax_init();
    float x[lse_keys / 2], keep[2];
    for (int tile = 0; tile * lse_keys < n_keys; tile++) {
        cp_async_wait<0>();
        __syncthreads(); // the tile is there, and all are done with the one before
        if ((tile + 1) * lse_keys < n_keys)
            fetch(tile + 1);
        warp_product<DI>(x, m.q, 16 * warp, m.k[tile % 2], 0);
        softmax_step<true>(sum, x, keep, scale2<DI>,
                           [&](int half, int column) { return tile * lse_keys + column <= position[half]; });
    }
    float inverse[2], z[2];
    softmax_finish(sum, inverse, z);
    for (int half = 0; half < 2; half++) {
        const int64_t row = first + 16 * warp + fragment_row(lane, half);
        if (lane % 4 == 0 && row < rows)
            st_global(lse + row_at(s, row / s.n_kv_heads, (int)(row % s.n_kv_heads)), z[half]);
    }
}

/// Room for them: rows of this sequence lie as far apart as those of the call.
inline int64_t index_lse_floats(const Shape &s)
{
    return s.n_kv_heads * s.rows;
}
template <int DI> float *launch_index_lse(const Call &c, float *lse)
{
    const int64_t rows = (int64_t)c.s.n_q * c.s.n_kv_heads;
    LAUNCH((index_lse_kernel<DI>), dim3((unsigned)ceil_div(rows, (int64_t)lse_rows)), dim3(lse_threads),
           sizeof(LseSmem<DI>), c.stream, c.s, c.a.qi, c.a.ki, lse);
    return lse;
}

} // namespace

#endif
