/**
 * @file codes.cuh
 * @brief Index keys and queries in 8 bits, as ref/index8.c makes them: rotated, then rounded to multiples of a scale.
 *        A warp has a row, D / 32 neighbouring channels a lane.
 *
 * The codes and scales are those of index8.c, bit for bit: sums of the rotation in double in its order, the same
 * quotients. Norms add squares in another order: that is covered as what it rounds itself is, by rounding up.
 */
#ifndef MSA_INDEX_CODES_CUH
#define MSA_INDEX_CODES_CUH

#include "../kit/attend.cuh"
#include "../kit/bits.cuh"
#include "../kit/uniform.cuh"

PTX_INLINE double infinite()
{
    return (double)-minus_infinity();
}

template <int D> PTX_INLINE void load_channels(double (&y)[D / 32], const bf16 *row)
{
    const uint32_t *mine = (const uint32_t *)row + D / 64 * (threadIdx.x % 32);
    for (int n = 0; n < D / 64; n++) {
        const uint32_t two = ld_global(mine + n);
        y[2 * n] = (double)float_of(two << 16);
        y[2 * n + 1] = (double)float_of(two & 0xffff0000u);
    }
}

/// The butterflies of index8.c: first those within a lane.
template <int D> PTX_INLINE void rotate(double (&y)[D / 32])
{
    UNROLL
    for (int half = 1; half < D / 32; half *= 2)
        UNROLL
    for (int c = 0; c < D / 32; c++)
        if ((c & half) == 0) {
            const double sum = y[c] + y[c + half];
            y[c + half] = y[c] - y[c + half];
            y[c] = sum;
        }
    for (int with = 1; with < 32; with *= 2)
        for (int c = 0; c < D / 32; c++) {
            const double other = shfl_xor(y[c], with);
            y[c] = threadIdx.x & (unsigned)with ? other - y[c] : y[c] + other;
        }
    for (int c = 0; c < D / 32; c++)
        y[c] *= D == 64 ? 0x1p-3 : 0x1p-4;
}

/// The largest |y| of the row; infinity if one is NaN.
template <int D> PTX_INLINE double most_of(const double (&y)[D / 32])
{
    double most = 0;
    bool finite = true;
    for (int c = 0; c < D / 32; c++) {
        finite = finite && fabs(y[c]) < infinite();
        most = fabs(y[c]) > most ? fabs(y[c]) : most;
    }
    if (warp_ballot(!finite))
        return infinite();
    for (int with = 1; with < 32; with *= 2) {
        const double other = shfl_xor(most, with);
        most = other > most ? other : most;
    }
    return most;
}

/// The largest multiple of a step that so many codes can say: the first of two counts 128 of the second.
template <int n_codes> constexpr int most_in = n_codes == 2 ? 127 * 128 : 127;

/// A scale: what that stands for is `most`. Infinite if that is.
template <int n_codes = 1> PTX_INLINE float scale_of(double most)
{
    return (float)(most / most_in<n_codes>);
}

/// A float above x >= 0, by more than what sums of squares in double lose.
PTX_INLINE float above(double x)
{
    const float nearest = (float)x;
    return x > 0 && nearest < -minus_infinity() ? float_of(bits_of(nearest) + 1) : nearest;
}

PTX_INLINE double warp_sum(double x)
{
    for (int with = 1; with < 32; with *= 2)
        x += shfl_xor(x, with);
    return x;
}

/// x / y, correctly rounded, 1 / y being so: without the call that a division is on a GPU. Two steps of Newton's method,
/// the second from less than an ulp away (Markstein).
PTX_INLINE double quotient(double x, double y, double one_over_y)
{
    const double about = x * one_over_y, near = fma(fma(-about, y, x), one_over_y, about);
    return fma(fma(-near, y, x), one_over_y, near);
}

/// The nearest integer, of equally near ones the even one: a double of 2^52 has no fraction.
PTX_INLINE double nearest(double x)
{
    return x + 0x1.8p52 - 0x1.8p52;
}

/// A row as multiples of a step, and how long it is, as its codes say, and how far it is from that.
struct Rounded {
    uint32_t codes[2]; ///< this lane's, the first channel lowest; the second codes
    double norm, reach, rest;
};
template <int D, int n_codes = 1> PTX_INLINE Rounded round_row(const double (&y)[D / 32], double step)
{
    constexpr double most = most_in<n_codes>;
    Rounded row = {{0, 0}, 0, 0, 0};
    const double inverse = 1 / step;
    for (int c = 0; c < D / 32; c++) {
        const double times = step > 0 ? quotient(y[c], step, inverse) : 0;
        const double code = nearest(times > most ? most : times < -most ? -most : times);
        const double first = n_codes == 2 ? nearest(code / 128) : code;
        row.codes[0] |= ((uint32_t)(int)first & 255u) << 8 * c;
        if (n_codes == 2)
            row.codes[1] |= ((uint32_t)(int)(code - 128 * first) & 255u) << 8 * c;
        row.norm += y[c] * y[c];
        row.reach += step * code * (step * code);
        row.rest += (y[c] - step * code) * (y[c] - step * code);
    }
    row.norm = sqrt(warp_sum(row.norm));
    row.reach = sqrt(warp_sum(row.reach));
    row.rest = sqrt(warp_sum(row.rest)) + (D == 64 ? 6 : 7) * 0x1p-52 * row.norm;
    return row;
}
/// The lane's codes, to its place in a row; two at a time, since the engine takes four that are -2 for a register
/// that nobody has set.
template <int D> PTX_INLINE void store_codes(int8_t *to, uint32_t codes)
{
    for (int n = 0; n < D / 64; n++)
        st_global((uint16_t *)to + n, (uint16_t)(codes >> 16 * n));
}

/* ---- In shared memory ------------------------------------------------------------------------------- */

/// Rows of codes as TMA writes them and wgmma reads them, swizzled over their length.
template <int rows, int D> struct alignas(1024) CodeTile {
    int8_t x[rows * D];
};
template <int D> constexpr Swizzle code_swizzle = D == 128 ? Swizzle::b128 : Swizzle::b64;

template <int rows, int D>
PTX_INLINE void load_kv(CodeTile<rows, D> &tile, const CUtensorMap *map, uint64_t *full, int, int key)
{
    tma_load_2d(tile.x, map, full, 0, key);
}

/// The lane's codes of a row, in ordinary stores: then fence_proxy_async() and a barrier.
template <int rows, int D> PTX_INLINE void store_codes(CodeTile<rows, D> &tile, int row, uint32_t codes)
{
    const int at = row * D + D / 32 * (int)(threadIdx.x % 32), to = at ^ (at >> 7 & (D / 16 - 1)) << 4;
    for (int n = 0; n < D / 64; n++)
        st_shared((uint16_t *)&tile.x[to] + n, (uint16_t)(codes >> 16 * n));
}

/// Where rows of codes begin in a tile.
template <int D> PTX_INLINE uint64_t codes_at(const int8_t *x)
{
    return wgmma_descriptor(x, 16, 8 * D, code_swizzle<D>);
}
/// x = A B^T of 64 and N rows of codes that begin there, issued as one group. A descriptor counts 16 bytes.
template <int N, int D> PTX_INLINE void issue_codes(int32_t (&x)[N / 2], uint64_t a, uint64_t b)
{
    wgmma_pin(x);
    wgmma_fence();
    for (int step = 0; step < D / 32; step++)
        wgmma_ss_int8<N>(x, a + 2 * (unsigned)step, b + 2 * (unsigned)step, step > 0);
    wgmma_commit();
}
template <int N, int D> PTX_INLINE void issue_codes(int32_t (&x)[N / 2], const int8_t *a, const int8_t *b)
{
    issue_codes<N, D>(x, codes_at<D>(a), codes_at<D>(b));
}

/// Codes of n keys, of which a copy takes those of `box_rows`. The array may start inside the 128 bytes that a map needs:
/// its first row is the map's row *at (host).
template <int D> msa_status codes_map(CUtensorMap *map, int *at, const int8_t *codes, int64_t n, int box_rows)
{
    *at = (int)((uintptr_t)codes % 128 / D);
    const uint64_t dim[] = {(uint64_t)D, (uint64_t)(n + *at)}, stride[] = {D};
    const uint32_t box[] = {D, (uint32_t)box_rows};
    return encode_tensor_map(map, TensorType::int8, 2, (void *)(codes - *at * D), dim, stride, box,
                             D == 128 ? TensorSwizzle::b128 : TensorSwizzle::b64)
               ? MSA_ERR_DEVICE
               : MSA_OK;
}

/* ---- A block's keys ----------------------------------------------------------------------------------- */

constexpr int code_warps = 8; ///< of a CTA that makes them for a whole prompt

template <int warps> struct BlockNumbers {
    double most[warps], reach[warps], error[warps], least[warps];
};
template <int warps> PTX_INLINE double most_of_warps(const double (&x)[warps])
{
    double most = 0;
    for (int warp = 0; warp < warps; warp++)
        most = ld_shared(&x[warp]) > most ? ld_shared(&x[warp]) : most;
    return most;
}

template <int warps> PTX_INLINE double least_of_warps(const double (&x)[warps])
{
    double least = infinite();
    for (int warp = 0; warp < warps; warp++)
        least = ld_shared(&x[warp]) < least ? ld_shared(&x[warp]) : least;
    return least;
}

/// The smallest |y| of the row that is not 0, this lane's, or `least`. NaN is none.
template <int D> PTX_INLINE double least_of(const double (&y)[D / 32], double least)
{
    for (int c = 0; c < D / 32; c++)
        least = y[c] != 0 && fabs(y[c]) < least ? fabs(y[c]) : least;
    return least;
}

/// The copy of a block of n keys, or of a piece of one, by a whole CTA: its codes, and its numbers in place b.
/// [msa_index8_block]
template <int D, int warps>
PTX_INLINE void make_codes(BlockNumbers<warps> &m, const bf16 *keys, int n, int8_t *to, const Copy8 &copy,
                           int64_t b)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int8_t *codes = to + D / 32 * lane;
    double y[D / 32], most = 0, reach = 0, error = 0, least = infinite();
    for (int row = warp; row < n; row += warps) {
        load_channels<D>(y, keys + row * D);
        least = least_of<D>(y, least);
        rotate<D>(y);
        const double own = most_of<D>(y);
        most = own > most ? own : most;
    }
    for (int with = 1; with < 32; with *= 2) {
        const double other = shfl_xor(least, with);
        least = other < least ? other : least;
    }
    if (lane == 0) {
        st_shared(&m.most[warp], most);
        st_shared(&m.least[warp], least);
    }
    __syncthreads();
    most = most_of_warps(m.most);
    const bool finite = most < infinite();
    const float scale = finite ? scale_of(most) : 0;
    for (int row = warp; row < n; row += warps) {
        load_channels<D>(y, keys + row * D);
        rotate<D>(y);
        const Rounded rounded = round_row<D>(y, (double)scale);
        store_codes<D>(codes + row * D, finite ? rounded.codes[0] : 0);
        reach = rounded.reach > reach ? rounded.reach : reach;
        error = rounded.rest > error ? rounded.rest : error;
    }
    if (lane == 0) {
        st_shared(&m.reach[warp], reach);
        st_shared(&m.error[warp], error);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        st_global(copy.scale + b, scale);
        st_global(copy.reach + b, finite ? above(most_of_warps(m.reach)) : 0);
        st_global(copy.error + b, finite ? above(most_of_warps(m.error)) : -minus_infinity());
        if (copy.least)
            st_global(copy.least + b, (float)least_of_warps(m.least));
    }
}

#endif
