/* wants: 12_statics.cu:[0-9]+, in  */
/* Block scores: four warps share a block of 32 keys, 32 channels at a time, and take a query each. */
#include "../../../cuda/index/rows.cuh"

namespace
{

uint32_t board[32][33];


constexpr int width = 64, warps = 4;

uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

struct Smem {
    float tile[32][33]; // [key][channel]
};

__global__ void __launch_bounds__(32 * warps)
    shared_keys(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    Smem &smem = shared<Smem>();
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t b = blockIdx.x % s.n_scores, first = b * 32, row = blockIdx.x / s.n_scores * warps + warp;
    float dot = 0;
    for (int c0 = 0; c0 < width; c0 += 32) {
        for (int j = warp; j < 32; j += warps)
            __atomic_store_n(&board[j][lane], bits_of(
                      first + j < s.n_kv ? to_float(ld_global(ki + (first + j) * width + c0 + lane)) : 0.0f), __ATOMIC_RELAXED);
        __syncthreads();
        for (int c = 0; c < 32 && row < n_rows(s); c++)
            dot += to_float(ld_global(qi + row * width + c0 + c)) * float_of(board[lane][c]);
        __syncthreads();
    }
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
    if (!only_scores(c) || c.s.block != 32)
        return MSA_ERR_UNSUPPORTED;
    const int64_t row_tiles = ceil_div(n_rows(c.s), (int64_t)warps);
    LAUNCH(shared_keys, dim3((unsigned)(row_tiles * c.s.n_scores)), dim3(32 * warps), sizeof(Smem), c.stream,
           c.s, c.a.qi, c.a.ki, c.a.scores);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
