/* wants: bank conflicts: expected at most 0, found [0-9]+ */
/* Block scores: four warps share a block of 32 keys in bf16, 16 bytes at a time, and take a query each. */
#include "../../../cuda/index/rows.cuh"

namespace
{

constexpr int width = 64, block = 32, warps = 4, chunks = width / 8; // a chunk: 8 channels, 16 bytes

struct Smem {
    bf16x8 tile[block][chunks]; // [key][place of a chunk]
};

/// Where in the row of a key its chunk number c lies.
PTX_INLINE int place(int key, int c)
{
    return c ^ key / chunks;
}

/// x . y over 8 channels.
PTX_INLINE float dot_8(const bf16x8 &x, const bf16x8 &y)
{
    float dot = 0;
    for (int i = 0; i < 8; i++)
        dot += to_float(x.x[i]) * to_float(y.x[i]);
    return dot;
}

__global__ void __launch_bounds__(32 * warps) shared_keys(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    Smem &m = shared<Smem>();
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t b = blockIdx.x % s.n_scores, first = b * block, row = blockIdx.x / s.n_scores * warps + warp;
    for (int i = (int)threadIdx.x; i < block * chunks; i += 32 * warps) { // the lanes of a warp: chunks in a row
        const int key = i / chunks, c = i % chunks;
        const bf16x8 zeros = {};
        st_shared(&m.tile[key][place(key, c)],
                  first + key < s.n_kv ? ld_global((const bf16x8 *)(ki + (first + key) * width) + c) : zeros);
    }
    __syncthreads();
    float dot = 0;
    for (int c = 0; c < chunks && row < n_rows(s); c++) // the lanes of a warp: a key each
        dot += dot_8(ld_global((const bf16x8 *)(qi + row * width) + c), ld_shared(&m.tile[lane][place(lane, c)]));
    if (row >= n_rows(s))
        return;
    float maximum = first + lane <= position_of(s, row) ? dot : minus_infinity();
    for (int with = 1; with < 32; with *= 2)
        maximum = fmaxf(maximum, shfl_xor(maximum, with));
    if (lane == 0)
        st_global(scores + row_scores_at(s, row) + b, maximum * scale<width>);
}

msa_status run(const Call &c)
{
    if (!only_scores(c) || c.s.block != block)
        return MSA_ERR_UNSUPPORTED;
    const int64_t row_tiles = ceil_div(n_rows(c.s), (int64_t)warps);
    LAUNCH(shared_keys, dim3((unsigned)(row_tiles * c.s.n_scores)), dim3(32 * warps), sizeof(Smem), c.stream, c.s, c.a.qi,
           c.a.ki, c.a.scores);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
