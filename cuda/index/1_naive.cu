/**
 * @file 1_naive.cu
 * @brief Block scores, a thread per query, group and block.
 *
 * Idea: the thread multiplies its index query by the block's visible keys, one after the other, and keeps the
 * largest product. Blocks that the query does not see get -inf, up to the width of the array.
 * Bytes: 4 di for each visible key, query and group; 4 for each score.
 * Floor: 2 di operations a visible key, query and group, on the CUDA cores' 128 multiply-adds a clock and SM.
 * Waste: nearly everything. Each product reads both its vectors again, two bytes at a time. (A warp's threads
 * share their block, so their reads of a key coincide and the cache serves them.) Tensor cores stay idle. The
 * scores are only there to be read back by the top-k.
 */
#include "rows.cuh"

namespace
{

constexpr int threads = 128;

template <int D>
__global__ void __launch_bounds__(threads) naive(Shape s, const bf16 *qi, const bf16 *ki, float *scores)
{
    s = actual(s);
    const int64_t item = (int64_t)blockIdx.x * threads + threadIdx.x;
    if (item >= n_rows(s) * s.n_scores) // of lengths of 0 too
        return;
    const int64_t row = item % n_rows(s), b = item / n_rows(s), first = b * s.block, p = position_of(s, row);
    const int64_t last = first + s.block - 1 < p ? first + s.block - 1 : p;
    const bf16 *query = qi + row * D;
    // [block_score]
    float maximum = minus_infinity();
    for (int64_t j = first; j <= last; j++) {
        const bf16 *key = ki + j * D;
        float dot = 0;
        for (int c = 0; c < D; c++)
            dot += to_float(ld_global(query + c)) * to_float(ld_global(key + c));
        maximum = fmaxf(maximum, dot);
    }
    // [block_score]
    st_global(scores + row_scores_at(s, row) + b, maximum * scale<D>);
}

msa_status run(const Call &c)
{
    if (!only_scores(c))
        return MSA_ERR_UNSUPPORTED;
    const dim3 grid((unsigned)ceil_div(n_rows(c.s) * c.s.n_scores, (int64_t)threads));
    with_int<64, 128>(c.d_index, [&](auto d) {
        LAUNCH(naive<d.value>, grid, dim3(threads), 0, c.stream, c.s, c.a.qi, c.a.ki, c.a.scores);
    });
    return MSA_OK;
}

} // namespace

ENTRY(index, naive, run, no_workspace);
