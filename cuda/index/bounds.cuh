/**
 * @file bounds.cuh
 * @brief Between which two numbers a block's score lies, by the integer products of its codes.
 *
 * A block's score is within eps of t s X (ref/index8.c), so above or below what the row has to beat, or neither. That is
 * of the score as it is computed. Hopper's wgmma, as it was measured (MMA-Sim), cuts 16 products and the sum so far to
 * 2^-25 of the largest of them, and their sum to a float: for every 16 channels it is off by (17 / 2 + 2) 2^-24 |q| |k|,
 * where index8_slack() allows 16. What vanishes below 2^-126, in inputs, products or sums, is in `vanished` and `tiny`.
 * What may overflow in a product of full keys has no bound, and is a candidate.
 */
#ifndef MSA_INDEX_BOUNDS_CUH
#define MSA_INDEX_BOUNDS_CUH

#include "codes.cuh"

namespace
{

constexpr float slack = 1.00001f, vanished = 0x1p-120f, tiny = 0x1p-117f, may_overflow = 0x1p126f;

/// A row, as its bounds need it: t, |q|, |q - t a|.
struct alignas(16) RowNumbers {
    float step, norm, rest, unused;
};
/// A block: s, N, E.
struct Numbers {
    float scale, reach, error;
};
struct Bounds {
    float lower, upper;
};

/// Of a block whose best product of codes is x; without one where something is infinite, or NaN.
template <int D> PTX_INLINE Bounds bounds(const RowNumbers &q, const Numbers &block, int x)
{
    constexpr float rounding = (1.01f * D + 16) * 0x1p-24f; // index8_slack()
    const float size = block.reach + block.error, score = (float)x * (q.step * block.scale);
    float eps = q.rest * block.reach + q.norm * (block.error + rounding * size + vanished) + tiny;
    eps = q.norm * size < may_overflow ? eps : -minus_infinity();
    return {score - eps, score + eps};
}

/// A query's codes, by a warp, and its numbers; a second code a channel is the tile's next row.
template <int n_codes = 1, int rows, int D>
PTX_INLINE RowNumbers make_query(CodeTile<rows, D> &tile, int row, const bf16 *query)
{
    double y[D / 32];
    load_channels<D>(y, query);
    rotate<D>(y);
    const double most = most_of<D>(y);
    const bool finite = most < infinite();
    const float step = finite ? scale_of<n_codes>(most) : 0;
    const Rounded rounded = round_row<D, n_codes>(y, (double)step);
    for (int n = 0; n < n_codes; n++)
        store_codes(tile, row + n, finite ? rounded.codes[n] : 0);
    return {step, finite ? above(rounded.norm) * slack + vanished : -minus_infinity(),
            finite ? above(rounded.rest) * slack + vanished : -minus_infinity(), 0};
}

/// What the call did, for who asks: a row with `local` blocks before its own, of which n were settled; negative: all.
PTX_INLINE void count_row(const Shape &s, int local, int n, msa_screening *done)
{
    if (s.topk == 1 || local <= s.topk - 1)
        return;
    using Sum = unsigned long long;
    atomicAdd((Sum *)&done->rows, (Sum)1);
    atomicAdd((Sum *)&done->blocks, (Sum)local);
    atomicAdd((Sum *)&done->settled, (Sum)(n < 0 ? local : n));
    atomicAdd((Sum *)&done->fell_back, (Sum)(n < 0 || n == local));
}

} // namespace

#endif
