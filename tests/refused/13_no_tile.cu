/* wants: 32-byte sectors read|too much */
/* Block scores: four warps share a block of 32 keys, 32 channels at a time, and take a query each. */
#include "../../../cuda/index/rows.cuh"

namespace
{

constexpr int width = 64, warps = 4;

struct Smem {
    float tile[32][33]; // [key][channel]
};

__global__ void __launch_bounds__(32 * warps)
    shared_keys(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t b = blockIdx.x % s.n_scores, first = b * 32, row = blockIdx.x / s.n_scores * warps + warp;
    float dot = 0;
    for (int c = 0; c < width && row < n_rows(s) && first + lane < s.n_kv; c++)
        dot += to_float(ld_global(qi + row * width + c)) * to_float(ld_global(ki + (first + lane) * width + c));
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
