/* wants: 11_huge_grid.cu:[0-9]+, in run: a grid of 2147483647 CTAs: expected at most 1048576 */
/* Block scores, a warp per index query and block. Each lane owns a key and walks its channels. */
#include "../../../cuda/index/rows.cuh"

namespace
{

constexpr int width = 64; // channels of an index vector

__global__ void __launch_bounds__(32) block_score(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    const int64_t row = blockIdx.x / s.n_scores, b = blockIdx.x % s.n_scores, first = b * s.block;
    const int64_t p = position_of(s, row), last = first + s.block - 1 < p ? first + s.block - 1 : p;
    const int lane = (int)threadIdx.x;
    float maximum = minus_infinity();
    for (int64_t j = first + lane; j <= last; j += 32) {
        float dot = 0;
        for (int c = 0; c < width; c++)
            dot += to_float(ld_global(qi + row * width + c)) * to_float(ld_global(ki + j * width + c));
        maximum = fmaxf(maximum, dot);
    }
    for (int with = 1; with < 32; with *= 2)
        maximum = fmaxf(maximum, shfl_xor(maximum, with));
    if (lane == 0)
        st_global(scores + row_scores_at(s, row) + b, maximum * scale<width>);
}

msa_status run(const Call &c)
{
    if (!only_scores(c))
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(block_score, dim3(0x7fffffff), dim3(32), 0, c.stream, c.s, c.a.qi,
           c.a.ki, c.a.scores);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
