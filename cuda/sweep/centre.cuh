/**
 * @file centre.cuh
 * @brief What the keys that a query attends to have in common, and how it is kept out of dQ.
 *
 *     dQ_i = (sum_j dS_ij K_j - c sum_j dS_ij) / sqrt(dh)     off by sum_j e_j (K_j - c), e_j the error of dS_ij
 *
 * The second sum is 0 but for rounding, so any c is right, and bf16 will do for it. Without it dQ is off by c
 * sum e_j, which is large where a channel is about 100 in every key (chapter 16). sum e_j is known: the row's
 * excess, the sum of the dS that went into the product. dQi = sum_j (u - t)_j Ki_j is the same case. Here c is
 * the mean of up to 16 keys evenly spaced among those the query attends to (others must not matter), in the
 * channels where it is over twice their standard deviation; elsewhere, and so for most keys everywhere, 0, and
 * nothing is done.
 *
 * Bytes: of each query and group 2 d for each of its keys here; by each of d / 4 threads, 4 for each id, the
 * one after the last and that of each key; written 2 d + 4.
 */
#ifndef MSA_CENTRE_CUH
#define MSA_CENTRE_CUH

#include "../kit/bits.cuh"
#include "gradient.cuh"

namespace
{

constexpr int centre_threads = 128, centre_keys = 16;

/// Of each query and group.
struct Centres {
    bf16 *of;    ///< [T,Hkv,width]
    int *exists; ///< [T,Hkv]: whether any channel of it is not 0
};

inline Centres take_centres(Carve &carve, const Shape &s, int width)
{
    const int64_t rows = (int64_t)s.n_q * s.n_kv_heads;
    return {carve.take<bf16>(rows * width), carve.take<int>(rows)};
}

PTX_INLINE const bf16 *centre_of(const Shape &s, const Centres &centres, int64_t i, int r, int width)
{
    return centres.of + (i * s.n_kv_heads + r) * width;
}

PTX_INLINE int centre_exists(const Shape &s, const Centres &centres, int64_t i, int r)
{
    return ld_global(centres.exists + i * s.n_kv_heads + r);
}

/// How many keys query i of group r attends to. Its blocks are whole but for the local one, which comes last.
PTX_INLINE int attended(const Shape &s, const int32_t *ids, int i, int r)
{
    const int visible = s.prefix + i + 1;
    int n = ids ? 0 : visible;
    for (int slot = 0; ids && slot < s.topk; slot++) {
        const int b = ld_global(ids + row_at(s, i, r) * s.topk + slot);
        if (b < 0)
            break;
        n += visible < (b + 1) * s.block ? visible - b * s.block : s.block;
    }
    return n;
}

/// A thread has four channels. k [S,heads,width], where heads is Hkv or 1: then all groups share their keys.
template <int width>
__global__ void __launch_bounds__(centre_threads)
    find_centres(Shape s, const int32_t *ids, const bf16 *k, int heads, Centres centres)
{
    s = actual(s);
    constexpr int lanes = width / 4;
    const int64_t row = ((int64_t)blockIdx.x * centre_threads + threadIdx.x) / lanes;
    const int i = (int)(row / s.n_kv_heads), r = (int)(row % s.n_kv_heads),
              channel = (int)threadIdx.x % lanes * 4;
    const bool there = row < (int64_t)s.n_q * s.n_kv_heads;
    const int n = there ? attended(s, ids, i, r) : 0, step = ceil_div(n, centre_keys);
    float sum[4] = {}, square[4] = {}, count = 0;
    for (int a = step / 2; a < n; a += step, count++) {
        const int64_t j =
            ids ? (int64_t)ld_global(ids + row_at(s, i, r) * s.topk + a / s.block) * s.block + a % s.block
                : a;
        const float4 x = load_4(k + (j * heads + (heads > 1 ? r : 0)) * width + channel);
        add_4(sum, 1, x);
        add_4(square, 1, make_float4(x.x * x.x, x.y * x.y, x.z * x.z, x.w * x.w));
    }
    bf16x4 centre;
    int exists = 0;
    for (int c = 0; c < 4; c++) { // [mean^2 > 4 (mean of squares - mean^2)]; not where it is NaN
        const bool common = 5 * sum[c] * sum[c] > 4 * count * square[c];
        centre.x[c] = __float2bfloat16_rn(common ? sum[c] / count : 0);
        exists |= common;
    }
    for (int with = 1; with < lanes; with *= 2)
        exists |= shfl_xor(exists, with);
    if (!there)
        return;
    st_global((bf16x4 *)(centres.of + row * width + channel), centre);
    if (channel == 0)
        st_global(centres.exists + row, exists);
}

template <int width> void launch_centres(const Call &c, const bf16 *k, int heads, const Centres &centres)
{
    const int64_t threads = (int64_t)c.s.n_q * c.s.n_kv_heads * (width / 4);
    LAUNCH((find_centres<width>), dim3((unsigned)ceil_div(threads, (int64_t)centre_threads)),
           dim3(centre_threads), 0, c.stream, c.s, c.a.ids, k, heads, centres);
}

/* ---- Scratch of the kernels that own rows of dQ: backward/naive, backward/q_outer ---------------------- */

struct QueryScratch {
    float *delta; ///< [T,Hq]
    Centres centres;
    size_t bytes;
};

inline QueryScratch query_scratch(const Call &c)
{
    Carve carve = {(uintptr_t)c.work};
    QueryScratch w;
    w.delta = carve.take<float>((int64_t)c.s.n_q * c.s.n_heads);
    w.centres = take_centres(carve, c.s, c.d_head);
    w.bytes = carve.used;
    return w;
}

/* ---- The excess of rows that are the columns of fragments ---------------------------------------------- */

PTX_INLINE float2 unpack_bf16(uint32_t x)
{
    const uint32_t low = x << 16, high = x & 0xffff0000u;
    return make_float2(float_of(low), float_of(high));
}
/// Two neighbouring channels.
PTX_INLINE float2 load_2(const bf16 *p)
{
    return unpack_bf16(ld_global((const uint32_t *)p));
}

/// Adds what pack_weights() made of n accumulators of 16 rows, row upon row: sum[2 j + i] is of column 8 j +
/// 2 (lane % 4) + i, of this thread's two rows.
template <int n> PTX_INLINE void add_columns(float (&sum)[n / 2], const uint32_t (&x)[n / 8][4])
{
    for (int a = 0; a < n / 2; a++) { // the upper row's two columns, then the lower's
        const float2 y = unpack_bf16(x[a / 4][a % 4]);
        sum[a / 2 * 2] += y.x;
        sum[a / 2 * 2 + 1] += y.y;
    }
}

/// The sums over the 16 rows of a warp, dealt among its lanes: n are reduced to n / 8, but 1 at least. Where
/// of a lane's own two halves one goes to a neighbour and one is kept, no sum is made twice.
template <int n> PTX_INLINE void fold_columns(float (&sum)[n])
{
    const int lane = (int)threadIdx.x % 32;
    for (int with = 16, half = n / 2; with >= 4; with /= 2, half /= 2) {
        const bool upper = lane & with;
        if (half == 0)
            sum[0] += shfl_xor(sum[0], with);
        for (int a = 0; a < half; a++) {
            const float mine = upper ? sum[a + half] : sum[a], other = upper ? sum[a] : sum[a + half];
            sum[a] = mine + shfl_xor(other, with);
        }
    }
}

/// A warp's excess of 16 columns (n = 8 accumulators) or 64 (n = 32) to shared memory.
template <int n> PTX_INLINE void store_columns(float *to, float (&sum)[n / 2])
{
    const int lane = (int)threadIdx.x % 32;
    fold_columns(sum);
    if constexpr (n == 32)
        st_shared((float2 *)to + lane, make_float2(sum[0], sum[1]));
    else if (lane / 4 % 2 == 0)
        st_shared(to + lane / 16 * 8 + lane % 4 * 2 + lane / 8 % 2, sum[0]);
}

/// The same of u - t, where a thread has two queries' sums over its keys, and four lanes all 8 of them.
PTX_INLINE void store_index_excess(float *to, float2 sum)
{
    const int lane = (int)threadIdx.x % 32;
    for (int with = 4; with < 32; with *= 2)
        sum = make_float2(sum.x + shfl_xor(sum.x, with), sum.y + shfl_xor(sum.y, with));
    if (lane < 4)
        st_shared((float2 *)to + lane, sum);
}

/// What the warps left of a column.
template <int warps, int columns> PTX_INLINE float excess_of(const float (&warp)[warps][columns], int column)
{
    float sum = 0;
    for (int a = 0; a < warps; a++)
        sum += ld_shared(&warp[a][column]);
    return sum;
}

/// Takes the centre, of the columns that the accumulators have, out of a thread's row of dQ.
template <int n> PTX_INLINE void recentre(float (&dq)[n], int half, float excess, const bf16 *centre)
{
    for (int i = 2 * half; i < n; i += 4) {
        const float2 c = load_2(centre + fragment_d((int)threadIdx.x % 32, i).col);
        dq[i] -= excess * c.x;
        dq[i + 1] -= excess * c.y;
    }
}

} // namespace

#endif
