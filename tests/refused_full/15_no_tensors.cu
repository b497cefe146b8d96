/* wants: multiply-adds for one token: found 0, but no answer can do with less than 102400: .* write mma_m16n8k16.. */
/* Block scores, a warp per index query and block. The lanes share a key: two channels each. */
#include "../../../cuda/index/rows.cuh"

namespace
{

constexpr int width = 64; // channels of an index vector

struct alignas(4) Pair {
    bf16 x, y;
};

__global__ void __launch_bounds__(32) block_score(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    const int64_t row = blockIdx.x / s.n_scores, b = blockIdx.x % s.n_scores, first = b * s.block;
    const int64_t p = position_of(s, row), last = first + s.block - 1 < p ? first + s.block - 1 : p;
    const int lane = (int)threadIdx.x;
    const Pair q = ld_global((const Pair *)(qi + row * width) + lane);
    float maximum = minus_infinity();
    for (int64_t j = first; j <= last; j++) {
        const Pair k = ld_global((const Pair *)(ki + j * width) + lane);
        float dot = to_float(q.x) * to_float(k.x) + to_float(q.y) * to_float(k.y);
        for (int with = 1; with < 32; with *= 2)
            dot += shfl_xor(dot, with);
        maximum = fmaxf(maximum, dot);
    }
    if (lane == 0)
        st_global(scores + row_scores_at(s, row) + b, maximum * scale<width>);
}

msa_status run(const Call &c)
{
    if (!only_scores(c))
        return MSA_ERR_UNSUPPORTED;
    LAUNCH(block_score, dim3((unsigned)(n_rows(c.s) * c.s.n_scores)), dim3(32), 0, c.stream, c.s, c.a.qi,
           c.a.ki, c.a.scores);
    return MSA_OK;
}

} // namespace

ENTRY(exercise, kernel, run, no_workspace);
