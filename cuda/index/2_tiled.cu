/**
 * @file 2_tiled.cu
 * @brief Block scores in tiles of 128 rows and one block of keys, on CUDA cores.
 *
 * Idea: a tile of rows and a block of keys go to shared memory once, 32 channels at a time, as float32 and
 * transposed. A thread keeps 8 rows x 8 keys of products in registers, so that 16 floats from shared memory
 * serve 64 multiply-adds. The maximum is taken where the products are: 8 keys in the thread, the rest by
 * shuffles among the Bk/8 threads of a row.
 * Bytes: 2 di for each of 128 rows and of Bk keys, a tile; 4 for each score.
 * Floor: that of 1_naive; shared memory (two float4 of each operand, one of them the same for half a warp)
 * takes about as long.
 * Waste: tensor cores, 16 times as fast; loads and arithmetic take turns; tiles on the diagonal are computed
 * whole.
 */
#include "rows.cuh"

namespace
{

constexpr int tile_rows = 128, depth = 32, micro = 8;
template <int Block> constexpr int threads = tile_rows / micro *(Block / micro);

/// depth channels, transposed.
template <int Block> struct Smem {
    alignas(16) float q[depth][tile_rows], k[depth][Block];
};

/// depth channels of N vectors; those from `n_vectors` on, which do not exist, are zeros.
template <int N> PTX_INLINE void load_tile(float (&to)[depth][N], const bf16 *from, int64_t n_vectors, int d)
{
    for (int i = (int)threadIdx.x; i < N * depth / 8; i += (int)blockDim.x) {
        const int vector = i % N, c = i / N * 8; // neighbours write neighbouring floats
        bf16x8 v = {};
        if (vector < n_vectors)
            v = ld_global((const bf16x8 *)(from + (int64_t)vector * d + c));
        for (int e = 0; e < 8; e++)
            st_shared(&to[c + e][vector], to_float(v.x[e]));
    }
}

/// Of N vectors a thread owns two runs of four, half the tile apart: a warp's float4 accesses are contiguous.
template <int N> PTX_INLINE int owned(int thread, int e)
{
    return e / 4 * (N / 2) + 4 * thread + e % 4;
}
template <int N> PTX_INLINE void load_owned(float (&x)[micro], const float (&from)[N], int thread)
{
    for (int e = 0; e < micro; e += 4) {
        const float4 v = ld_shared((const float4 *)&from[owned<N>(thread, e)]);
        x[e] = v.x, x[e + 1] = v.y, x[e + 2] = v.z, x[e + 3] = v.w;
    }
}

template <int D, int Block>
__global__ void __launch_bounds__(threads<Block>)
    tiled(Shape s, const bf16 *qi, const bf16 *ki, float *scores, unsigned row_tiles)
{
    s = actual(s);
    constexpr int across = Block / micro; // threads that share a row
    Smem<Block> &smem = shared<Smem<Block>>();
    const int tx = (int)threadIdx.x % across, ty = (int)threadIdx.x / across;
    const int64_t b = blockIdx.x / row_tiles, row0 = (int64_t)(blockIdx.x % row_tiles) * tile_rows;
    if (row0 >= n_rows(s))
        return;
    const int64_t key0 = b * Block, end = row0 + tile_rows < n_rows(s) ? row0 + tile_rows : n_rows(s);
    float acc[micro][micro] = {};
    if (key0 <= position_of(s, end - 1)) // else no row of the tile sees the block
        for (int c = 0; c < D; c += depth) {
            load_tile(smem.q, qi + row0 * D + c, end - row0, D);
            load_tile(smem.k, ki + key0 * D + c, s.n_kv - key0, D);
            __syncthreads();
            for (int e = 0; e < depth; e++) {
                float q[micro], k[micro];
                load_owned(q, smem.q[e], ty);
                load_owned(k, smem.k[e], tx);
                for (int m = 0; m < micro; m++)
                    for (int n = 0; n < micro; n++)
                        acc[m][n] += q[m] * k[n];
            }
            __syncthreads();
        }
    for (int m = 0; m < micro; m++) {
        const int64_t row = row0 + owned<tile_rows>(ty, m), visible = position_of(s, row) - key0;
        float maximum = minus_infinity();
        for (int n = 0; n < micro; n++)
            if (owned<Block>(tx, n) <= visible)
                maximum = fmaxf(maximum, acc[m][n]);
        for (int with = 1; with < across; with *= 2)
            maximum = fmaxf(maximum, shfl_xor(maximum, with));
        if (tx == 0 && row < end)
            st_global(scores + row_scores_at(s, row) + b, maximum * scale<D>);
    }
}

msa_status run(const Call &c)
{
    if (!only_scores(c))
        return MSA_ERR_UNSUPPORTED;
    const unsigned row_tiles = (unsigned)ceil_div(n_rows(c.s), (int64_t)tile_rows);
    const dim3 grid((unsigned)(row_tiles * c.s.n_scores));
    with_int<64, 128>(c.d_index, [&](auto d) {
        with_int<32, 64, 128>(c.s.block, [&](auto block) {
            LAUNCH((tiled<d.value, block.value>), grid, dim3(threads<block.value>), sizeof(Smem<block.value>),
                   c.stream, c.s, c.a.qi, c.a.ki, c.a.scores, row_tiles);
        });
    });
    return MSA_OK;
}

} // namespace

ENTRY(index, tiled, run, no_workspace);
