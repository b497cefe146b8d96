/**
 * @file warp_attend.cuh
 * @brief A warp's attention on any tensor core since Ampere, in pieces that the kernels put together: tiles
 * by cp.async, S = Q K^T and O += P V by mma.sync, 16 rows of Q a warp. The softmax between: softmax.cuh.
 */
#ifndef MSA_WARP_ATTEND_CUH
#define MSA_WARP_ATTEND_CUH

#include "softmax.cuh"

/// Rows of Q, K or V in shared memory. The 16-byte chunks of a row are permuted, chunk c of row r lying at
/// place c ^ r % 8: so the 8 rows that one matrix of ldmatrix takes lie in different banks, at no cost of
/// memory. A row of 32 columns has but 4 chunks, and two rows share their banks.
template <int rows, int D> struct alignas(128) WarpTile {
    bf16 element[rows * D];
};

/// Where columns column..column+7 of a row are; `column` is a multiple of 8.
template <int rows, int D> PTX_INLINE bf16 *chunk(WarpTile<rows, D> &tile, int row, int column)
{
    return &tile.element[row * D + (column ^ (row & (D < 64 ? 3 : 7)) * 8)];
}

/// A left operand, 16 rows by 16 columns, of the transpose of a tile: its rows are the tile's columns from `row` on,
/// its columns the tile's rows from `column` on.
template <int rows, int D>
PTX_INLINE void load_transposed(uint32_t (&a)[4], WarpTile<rows, D> &tile, int row, int column)
{
    const int lane = (int)threadIdx.x % 32;
    ldmatrix_x4_trans(a, chunk(tile, column + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8));
}

/// Starts copying a tile, by `threads` threads t. source(row) is where the row is in global memory, NULL for
/// a row of zeros. Then cp_async_commit(), cp_async_wait<>() and a barrier.
template <int threads, int rows, int D, class Source>
PTX_INLINE void copy_rows(WarpTile<rows, D> &tile, int t, Source source)
{
    constexpr int per_row = D / 8, at_once = threads / per_row; // chunks, rows
    static_assert(threads % per_row == 0, "a thread copies from one column");
    const int column = t % per_row * 8;
    for (int first = 0; first < rows; first += at_once) {
        const int row = first + t / per_row;
        if (rows % at_once && row >= rows)
            return;
        const bf16 *const from = source(row);
        cp_async_16(chunk(tile, row, column), from ? from + column : nullptr, from ? 16 : 0);
    }
}

/// `count` elements of a flat array of accumulators or operands, as mma.sync takes them.
template <int count, class T, int n> PTX_INLINE T (&part(T (&x)[n], int first))[count]
{
    return reinterpret_cast<T(&)[count]>(x[first]);
}

/// Rows row..row+15 of Q as left operands: q[step] are the columns 16 step .. 16 step + 15.
template <int rows, int D>
PTX_INLINE void load_queries(uint32_t (&q)[D / 16][4], WarpTile<rows, D> &tile, int row)
{
    const int lane = (int)threadIdx.x % 32;
    for (int step = 0; step < D / 16; step++)
        ldmatrix_x4(q[step], chunk(tile, row + lane % 16, 16 * step + lane / 16 * 8));
}

/// S = Q K^T for the 2n keys of the tile from row `key` on, a multiple of 16.
template <int n, int rows, int D>
PTX_INLINE void warp_scores(float (&s)[n], const uint32_t (&q)[D / 16][4], WarpTile<rows, D> &k, int key = 0)
{
    const int lane = (int)threadIdx.x % 32;
    for (int i = 0; i < n; i++)
        s[i] = 0;
    for (int step = 0; step < D / 16; step++)
        for (int j = 0; j < n / 8; j++) { // 16 keys: the right operands of two products
            uint32_t b[4];
            ldmatrix_x4(b, chunk(k, key + 16 * j + lane / 16 * 8 + lane % 8, 16 * step + lane / 8 % 2 * 8));
            mma_m16n8k16(part<4>(s, 8 * j), q[step], part<2>(b, 0));
            mma_m16n8k16(part<4>(s, 8 * j + 4), q[step], part<2>(b, 2));
        }
}

/// The product of 16 rows of one tile with 2n rows of another, S = A B^T, A read from shared memory as it is needed:
/// for who has no registers to hold it.
template <int D, int n, int rows_a, int rows_b>
PTX_INLINE void warp_product(float (&s)[n], WarpTile<rows_a, D> &a, int row_a, WarpTile<rows_b, D> &b, int row_b)
{
    const int lane = (int)threadIdx.x % 32;
    for (int i = 0; i < n; i++)
        s[i] = 0;
    for (int step = 0; step < D / 16; step++) {
        uint32_t left[4], right[4];
        ldmatrix_x4(left, chunk(a, row_a + lane % 16, 16 * step + lane / 16 * 8));
        for (int j = 0; j < n / 8; j++) {
            ldmatrix_x4(right,
                        chunk(b, row_b + 16 * j + lane / 16 * 8 + lane % 8, 16 * step + lane / 8 % 2 * 8));
            mma_m16n8k16(part<4>(s, 8 * j), left, part<2>(right, 0));
            mma_m16n8k16(part<4>(s, 8 * j + 4), left, part<2>(right, 2));
        }
    }
}

/// O += P V for the 16 `steps` keys of the tile from row `key` on.
template <int steps, int rows, int D>
PTX_INLINE void warp_values(float (&o)[D / 2], const uint32_t (&p)[steps][4], WarpTile<rows, D> &v,
                            int key = 0)
{
    const int lane = (int)threadIdx.x % 32;
    for (int step = 0; step < steps; step++)
        for (int j = 0; j < D / 16; j++) { // 16 columns of V
            uint32_t b[4];
            ldmatrix_x4_trans(b, chunk(v, key + 16 * step + lane % 16, 16 * j + lane / 16 * 8));
            mma_m16n8k16(part<4>(o, 8 * j), p[step], part<2>(b, 0));
            mma_m16n8k16(part<4>(o, 8 * j + 4), p[step], part<2>(b, 2));
        }
}

#endif
