/**
 * @file stream.cuh
 * @brief Index keys stream past resident index queries: TMA by a producer warp, wgmma by two consumer
 *        warpgroups. What the kernel does with the products is its own business.
 *
 * There is no setmaxnreg: it moves registers between warpgroups, and the producer is a single warp. On the
 * quarter of the SM where it sits three warps share 16384 registers, 168 a thread, which is what the
 * consumers of 4_fused.cu need.
 */
#ifndef MSA_INDEX_STREAM_CUH
#define MSA_INDEX_STREAM_CUH

#include "../kit/attend.cuh"
#include "../kit/uniform.cuh"
#include "rows.cuh"

constexpr int consumer_threads = 256, stream_threads = consumer_threads + 32;

/// Rows of Qi in parts of 64, one wgmma high, and a ring of tiles of one block of keys each, as many as fit
/// in `RingBytes`. Tile n uses stage n % stages for the n / stages-th time.
template <int D, int Block, int Rows, int RingBytes> struct Stream {
    static constexpr int block = Block, stages = RingBytes / (int)sizeof(Tile<Block, D>);
    Tile<64, D> q[Rows / 64];
    Tile<Block, D> k[stages];
    uint64_t full_q, full[stages], empty[stages];
};

/// The rows of this CTA, and the tiles of keys that some of them see, or a part of these where `splits` CTAs
/// share them. Late rows see the most: they start first.
struct Span {
    int row0, end;      ///< rows row0 .. end-1
    int first, n_tiles; ///< blocks first .. first+n_tiles-1
};
template <int Rows> PTX_INLINE Span span_of(const Shape &s, int splits = 1)
{
    Span span;
    const int split = (int)blockIdx.x % splits;
    span.row0 = (int)((gridDim.x - 1 - blockIdx.x) / splits) * Rows;
    span.end = span.row0 + Rows < n_rows(s) ? span.row0 + Rows : (int)n_rows(s);
    const int n = position_of(s, span.end - 1) / s.block + 1;
    span.first = (int)((int64_t)n * split / splits);
    span.n_tiles = (int)((int64_t)n * (split + 1) / splits) - span.first;
    return span;
}

/// Barriers of a ring, k of stages with full and empty; all threads of the CTA call it.
template <class M> PTX_INLINE void ring_init(M &m)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < m.stages; i++) {
            mbarrier_init(&m.full[i], 1);
            mbarrier_init(&m.empty[i], consumer_threads / 32);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
}
/// The same, and of the rows.
template <class M> PTX_INLINE void stream_init(M &m)
{
    if (threadIdx.x == 0)
        mbarrier_init(&m.full_q, 1);
    ring_init(m);
}

/// One thread's work: the CTA's tiles of keys, row `at` of the map being the first.
template <class M> PTX_INLINE void produce_keys(M &m, const CUtensorMap *keys, const Span &span, int at = 0)
{
    timeline_role("producer");
    for (int n = 0; n < span.n_tiles; n++) {
        const int stage = n % m.stages;
        mbarrier_wait(&m.empty[stage], n / m.stages % 2 ^ 1); // all consumer warps have released it
        mbarrier_arrive_expect(&m.full[stage], sizeof m.k[stage]);
        load_kv(m.k[stage], keys, &m.full[stage], 0, at + (span.first + n) * m.block);
    }
}
/// The same after the CTA's rows.
template <int D, int Block, int Rows, int RingBytes>
PTX_INLINE void produce(Stream<D, Block, Rows, RingBytes> &m, const CUtensorMap *rows,
                        const CUtensorMap *keys, const Span &span)
{
    timeline_role("producer");
    mbarrier_arrive_expect(&m.full_q, sizeof m.q); // resident: loaded once
    for (int part = 0; part < Rows / 64; part++)
        load_kv(m.q[part], rows, &m.full_q, 0, span.row0 + 64 * part);
    produce_keys(m, keys, span);
}

/// The CTA's tile n, once it is there.
template <class M> PTX_INLINE const auto &wait_stage(M &m, int n)
{
    mbarrier_wait(&m.full[n % m.stages], n / m.stages % 2);
    return m.k[n % m.stages];
}
/// A consumer warp has waited for its products of tile n.
template <class M> PTX_INLINE void release_stage(M &m, int n)
{
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(&m.empty[n % m.stages]);
}

/// Where a tile's rows begin. By a whole warp.
template <int rows, int D> PTX_INLINE uint64_t rows_at(const Tile<rows, D> &tile)
{
    return uniform(wgmma_descriptor(tile.slab[0], 16, 1024, Swizzle::b128));
}
/// issue_scores() of 64 rows and N keys that begin there. A descriptor counts 16 bytes.
template <int N, int D> PTX_INLINE void issue_resident(float (&x)[N / 2], uint64_t rows, uint64_t keys)
{
    wgmma_pin(x);
    wgmma_fence();
    for (int step = 0; step < D / 16; step++) {
        const unsigned slab = step / 4, column = step % 4 * 2;
        wgmma_ss<N>(x, rows + 64 * 8 * slab + column, keys + N * 8 * slab + column, step > 0);
    }
    wgmma_commit();
}

/// Column of a thread's accumulator i: the key's number in its block.
PTX_INLINE int column(int i)
{
    return fragment_d((int)threadIdx.x % 128, i).col;
}
/// The largest of this thread's products with the keys that one of its rows (the first or second) sees, columns
/// 0..last. Accumulators are only read, never masked in place, so that nothing here can make ptxas wait for other
/// products under way.
// [row_max]
template <int Block> PTX_INLINE float thread_max(const float (&x)[Block / 2], int half, int last)
{
    float maximum = minus_infinity();
    if (last >= Block - 1) // nearly always
        for (int i = 2 * half; i < Block / 2; i += 4)
            maximum = fmaxf(maximum, fmaxf(x[i], x[i + 1]));
    else
        // [diagonal]
        for (int i = 2 * half; i < Block / 2; i += 4) {
            maximum = column(i) <= last ? fmaxf(maximum, x[i]) : maximum;
            maximum = column(i + 1) <= last ? fmaxf(maximum, x[i + 1]) : maximum;
        }
    // [diagonal]
    return maximum;
}
/// The row's, in all four lanes that share it.
template <int Block> PTX_INLINE float row_max(const float (&x)[Block / 2], int half, int last)
{
    timeline_mark("maximum", Block / 2); // 8 Block comparisons, 16 a clock
    float maximum = thread_max<Block>(x, half, last);
    maximum = fmaxf(maximum, shfl_xor(maximum, 1));
    return fmaxf(maximum, shfl_xor(maximum, 2));
}
// [row_max]

/// Both maps of a call, whose rows a copy's coordinates must be able to count.
inline msa_status stream_maps(const Call &c, CUtensorMap *rows, CUtensorMap *keys)
{
    if (n_rows(c.s) > INT32_MAX / 2)
        return MSA_ERR_UNSUPPORTED;
    const msa_status status = rows_map(rows, c.a.qi, c.d_index, n_rows(c.s), 64);
    return status == MSA_OK ? rows_map(keys, c.a.ki, c.d_index, c.s.n_kv, c.s.block) : status;
}

#endif
