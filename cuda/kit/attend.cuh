/**
 * @file attend.cuh
 * @brief A warpgroup's attention on Hopper, in pieces that the kernels put together: tiles of Q, K and V by
 *        TMA, S = Q K^T and O += P V by wgmma. The softmax between them: softmax.cuh.
 *
 * A tile of Q is 64 rows: 64 / G neighbouring queries times the G heads of a group, which share their keys
 * (GQA packing); row = query * G + head. Where G does not divide 64, rows are left over; they are zero.
 */
#ifndef MSA_ATTEND_CUH
#define MSA_ATTEND_CUH

#include "softmax.cuh"
#include "tensor_map.cuh"

/// Rows of Q, K or V in shared memory as TMA writes them and wgmma reads them: columns in slabs of 64, each
/// 128 bytes a row, swizzled.
template <int rows, int D> struct alignas(1024) Tile {
    bf16 slab[D / 64][rows * 64];
};

/// Where 16 bytes of a row begin in a slab of 128 bytes a row: the swizzle that TMA and wgmma know.
template <class T> PTX_INLINE T *swizzled(T *slab, int row, int chunk)
{
    return slab + (row * 8 + (chunk ^ row % 8)) * (16 / (int)sizeof(T));
}

/* ---- Tensor maps (host) ------------------------------------------------------------------------------ */

/// `rows` rows of `columns` elements that lie one after the other; a copy takes `box_rows` of them, 128 bytes wide.
template <class T>
msa_status rows_map(CUtensorMap *map, const T *x, int64_t columns, int64_t rows, int box_rows)
{
    const uint64_t dim[] = {(uint64_t)columns, (uint64_t)rows}, stride[] = {columns * sizeof(T)};
    const uint32_t box[] = {128 / sizeof(T), (uint32_t)box_rows};
    const TensorType type = sizeof(T) == 2 ? TensorType::bf16 : TensorType::float32;
    return encode_tensor_map(map, type, 2, (void *)x, dim, stride, box, TensorSwizzle::b128) ? MSA_ERR_DEVICE
                                                                                             : MSA_OK;
}

/// K or V of one sequence, [n_kv][Hkv D]: a copy takes 64 columns of `rows` keys.
inline msa_status kv_map(CUtensorMap *map, const Shape &s, const bf16 *kv, int d, int rows)
{
    return rows_map(map, kv, (int64_t)s.n_kv_heads * d, s.n_kv, rows);
}

/// Q of one sequence, [n_q][Hq][D]: a copy takes 64 columns of a group's heads of `queries` queries.
inline msa_status q_map(CUtensorMap *map, const Shape &s, const bf16 *q, int d, int queries)
{
    const uint64_t dim[] = {(uint64_t)d, (uint64_t)s.n_heads, (uint64_t)s.n_q},
                   stride[] = {d * sizeof(bf16), s.n_heads * d * sizeof(bf16)};
    const uint32_t box[] = {64, (uint32_t)s.group, (uint32_t)queries};
    return encode_tensor_map(map, TensorType::bf16, 3, (void *)q, dim, stride, box, TensorSwizzle::b128)
               ? MSA_ERR_DEVICE
               : MSA_OK;
}

/// Queries of a 64-row tile.
MSA_BOTH_SIDES constexpr int queries_per_tile(int group)
{
    return 64 / group;
}

/* ---- Loading: one thread issues; the barrier is to expect the bytes ----------------------------------- */

/// At a kernel's start: its first copies will find their maps there.
template <class... Map> PTX_INLINE void prefetch_maps(const Map &...map)
{
    if (threadIdx.x == 0)
        (tma_prefetch(&map), ...);
}

/// K or V from key `key` on; keys past the last are zero. Always sizeof tile bytes.
template <int rows, int D>
PTX_INLINE void load_kv(Tile<rows, D> &tile, const CUtensorMap *map, uint64_t *full, int group, int key)
{
    for (int slab = 0; slab < D / 64; slab++)
        tma_load_2d(tile.slab[slab], map, full, group * D + 64 * slab, key);
}

/// Zeros to the rows from `first` on, which no copy writes. All `threads` threads t call it, and meet at a
/// barrier before the tile is used.
template <int threads = 128, int rows, int D>
PTX_INLINE void clear_rows(Tile<rows, D> &tile, int first, int t)
{
    for (int slab = 0; slab < D / 64; slab++)
        for (int i = 8 * first + t; i < 8 * rows; i += threads) // 8 chunks of 16 bytes a row
            st_shared((uint4 *)tile.slab[slab] + i, make_uint4(0, 0, 0, 0));
    fence_proxy_async();
}

/// Whether a tile of `rows` keys from `key` on ends in padding, which a copy does not know and brings along. Of K
/// that is masked as any hidden key is; of V it must become zeros, since a weight of 0 times NaN is NaN.
PTX_INLINE bool ends_in_padding(const Shape &s, int key, int rows)
{
    return (s.padding.len_q || s.padding.len_kv) && key + rows > s.n_kv;
}
/// V of such a tile, by a whole warp: when it returns the tile is complete but for a barrier that tells the
/// consumers. `landed` is a barrier of its own for this one copy; n_kv keys there are in all.
template <int rows, int D>
PTX_INLINE void load_last_values(Tile<rows, D> &tile, const CUtensorMap *map, uint64_t *landed, int group,
                                 int key, int n_kv)
{
    const int lane = (int)threadIdx.x % 32;
    if (lane == 0) {
        mbarrier_arrive_expect(landed, sizeof tile);
        load_kv(tile, map, landed, group, key);
    }
    mbarrier_wait(landed, 0);
    clear_rows<32>(tile, n_kv - key, lane);
    __syncwarp();
}

/// Q from query `query` on, from row `row` of the tile on; queries past the last are zero. q_bytes() bytes.
template <int D>
PTX_INLINE void load_q(Tile<64, D> &tile, const CUtensorMap *map, uint64_t *full, const Shape &s, int group,
                       int query, int row = 0)
{
    for (int slab = 0; slab < D / 64; slab++)
        tma_load_3d(tile.slab[slab] + 64 * row, map, full, 64 * slab, group * s.group, query);
}
template <int D> PTX_INLINE uint32_t q_bytes(const Shape &s, int queries)
{
    return (uint32_t)(queries * s.group * D * sizeof(bf16));
}

/* ---- Products: each issues one group of wgmma. Then wgmma_wait<>() and wgmma_pin(accumulators) --------- */

/// Of such a group: x = A B^T for 64 rows of A and N rows of B, from rows `a_row` and `b_row` of their tiles
/// on (multiples of 8).
template <int N, int rows_a, int rows_b, int D>
PTX_INLINE void add_rows_by_rows(float (&x)[N / 2], const Tile<rows_a, D> &a, int a_row,
                                 const Tile<rows_b, D> &b, int b_row)
{
    const uint64_t first_a = wgmma_descriptor(&a.slab[0][64 * a_row], 16, 1024, Swizzle::b128),
                   first_b = wgmma_descriptor(&b.slab[0][64 * b_row], 16, 1024, Swizzle::b128);
    for (int step = 0; step < D / 16; step++) { // 16 columns are 32 bytes of a slab's row
        const int slab = step / 4, bytes = step % 4 * 32;
        wgmma_ss<N>(x, wgmma_advanced(first_a, slab * (int)sizeof a.slab[0] + bytes),
                    wgmma_advanced(first_b, slab * (int)sizeof b.slab[0] + bytes), step > 0);
    }
}

/// S = Q K^T for the N keys from row `key` of the tile on (a multiple of 8).
template <int N, int rows, int D>
PTX_INLINE void issue_scores(float (&s)[N / 2], const Tile<64, D> &q, const Tile<rows, D> &k, int key = 0)
{
    wgmma_pin(s);
    wgmma_fence();
    add_rows_by_rows<N>(s, q, 0, k, key);
    wgmma_commit();
}

/// O += P V for the 16 `steps` keys from row `key` of the tile on (a multiple of 16); O = P V if not
/// `accumulate`. p belongs to the hardware until the wait, as O does.
template <int steps, int rows, int D>
PTX_INLINE void issue_values(float (&o)[D / 2], uint32_t (&p)[steps][4], const Tile<rows, D> &v,
                             bool accumulate, int key = 0)
{
    wgmma_pin(o);
    wgmma_pin(p);
    wgmma_fence();
    const uint64_t first = wgmma_descriptor(&v.slab[0][64 * key], rows * 128, 1024, Swizzle::b128);
    for (int step = 0; step < steps; step++)
        wgmma_rs<D, 1>(o, p[step], wgmma_advanced(first, 16 * 128 * step), accumulate || step > 0);
    wgmma_commit();
}

/* ---- Two consumers that take turns ------------------------------------------------------------------ */

/// Named barriers: consumer c waits for turn(c) before it issues products; the other arrives there after its
/// own.
PTX_INLINE unsigned turn(int c)
{
    return 1 + (unsigned)c;
}

#endif
