/**
 * @file 2_warp.cu
 * @brief Selection from given scores, a warp per row with its list spread over the lanes.
 *
 * Idea: the lanes read 32 neighbouring scores at a time, and a ballot says which of them beat the list's last
 * entry; mostly none. A lane holds a rank, so an insertion is a ballot that counts how many are better and a
 * shuffle that moves the rest down (offer() in selection.cuh). A row inserts only for itself, and few queries
 * still fill warps.
 * Bytes, a row of n = local blocks: 4 n of scores in n / 8 sectors (5 for 32 scores where a row starts inside
 * one); 4 k of ids. No shared memory.
 * Floor: those bytes. A ballot and about 12 instructions for 32 scores; an insertion, k (1 + ln(n / k)) times
 * a row in random order, is 6 shuffles of 32 bits and 2 ballots; 32 shuffles sort the ids.
 * Waste: while a warp inserts, its loads wait; a list shorter than 32 leaves lanes idle; a single query
 * occupies a single warp.
 */
#include "../kit/selection.cuh"

namespace
{

constexpr int warps = 4;

__global__ void __launch_bounds__(32 * warps) warp(Shape s, const float *scores, int32_t *ids)
{
    s = actual(s);
    const int64_t row = (int64_t)blockIdx.x * warps + threadIdx.x / 32;
    if (row >= (int64_t)s.n_q * s.n_kv_heads)
        return;
    const int r = (int)(row / s.n_q), i = (int)(row % s.n_q), local = local_block(s, i);
    const float *my_scores = scores + scores_at(s, i, r);
    WarpList list = warp_list(s.topk, local);
    offer_all(list, 0, 32, local, [&](int b) { return rank_key(ld_global(my_scores + b), b); });
    write_ids(ids + row_at(s, i, r) * s.topk, list.entry, s.topk);
}

msa_status run(const Call &c)
{
    const dim3 grid((unsigned)ceil_div((int64_t)c.s.n_q * c.s.n_kv_heads, (int64_t)warps));
    LAUNCH(warp, grid, dim3(32 * warps), 0, c.stream, c.s, c.a.scores, c.a.ids);
    return MSA_OK;
}

} // namespace

ENTRY(topk, warp, run, no_workspace);
