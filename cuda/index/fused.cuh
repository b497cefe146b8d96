/**
 * @file fused.cuh
 * @brief The best blocks of rows, kept in shared memory while all their keys stream past: what 4_fused.cu does for
 *        every row, and 5_screened.cu for those that screening does not spare.
 */
#ifndef MSA_INDEX_FUSED_CUH
#define MSA_INDEX_FUSED_CUH

#include "stream.cuh"

namespace
{

constexpr int rows = 256, max_topk = 32;

/// What is remembered of a block: its largest product, and the sum of 2^((product - score) * scale2).
struct Entry {
    float score;
    int32_t id;
    float sum;
};

/// The rows' lists, in shared memory: in the quad's registers they would cost 8 to 24 a row, times the four rows
/// of a thread, beside 128 accumulators. Slots 0..k-2 have the best blocks so far in ascending order,
/// free ones (id -1) first; slot k-1 the local block. The 8 rows x 4 slots that a warp touches at a time lie in 32
/// banks.
template <bool Lse> struct Lists {
    float score[max_topk / 4][rows][4];
    int32_t id[max_topk / 4][rows][4];
    float sum[Lse ? max_topk / 4 : 1][Lse ? rows : 1][4];
};
template <bool Lse> PTX_INLINE Entry load(const Lists<Lse> &m, int row, int slot)
{
    const int a = slot / 4, b = slot % 4;
    return {ld_shared(&m.score[a][row][b]), ld_shared(&m.id[a][row][b]),
            Lse ? ld_shared(&m.sum[Lse ? a : 0][Lse ? row : 0][b]) : 0};
}
template <bool Lse> PTX_INLINE void store(Lists<Lse> &m, int row, int slot, const Entry &e)
{
    const int a = slot / 4, b = slot % 4;
    st_shared(&m.score[a][row][b], e.score);
    st_shared(&m.id[a][row][b], e.id);
    if (Lse)
        st_shared(&m.sum[Lse ? a : 0][Lse ? row : 0][b], e.sum);
}

/// A thread's two rows of a 64-row part, which it shares with the other lanes of its quad.
struct Rows {
    int row[2];         ///< in the CTA
    int position[2];    ///< the last key that they see
    float threshold[2]; ///< what a block has to beat, the least score of slots 0..k-2, NaN if one is free...
    int at[2];          ///< ...and its slot: the first free one, else the last one where there are ties
};

/// Which row of the call the CTA's is: of all rows, or of some, which are listed.
PTX_INLINE int row_of(const Span &span, int row, const int32_t *listed)
{
    return !listed ? span.row0 + row : span.row0 + row < span.end ? ld_global(listed + span.row0 + row) : 0;
}

template <bool Lse>
PTX_INLINE Rows rows_init(Lists<Lse> &lists, const Shape &s, const Span &span, int first,
                          const int32_t *listed = nullptr)
{
    Rows own;
    for (int half = 0; half < 2; half++) {
        own.row[half] = first + fragment_d((int)threadIdx.x % 128, 2 * half).row;
        own.position[half] = position_of(s, row_of(span, own.row[half], listed));
        const bool takes = s.topk > 1 && span.row0 + own.row[half] < span.end; // else nothing beats infinity
        own.threshold[half] = takes ? not_a_number() : -minus_infinity();
        own.at[half] = 0;
        for (int slot = (int)threadIdx.x % 4; slot < s.topk; slot += 4)
            store(lists, own.row[half], slot, {minus_infinity(), -1, 0});
    }
    __syncwarp();
    return own;
}

/// Where `take`, removes the worst entry of a row, or a free one, and appends this one, the n-th block (from
/// 0) that the row saw. The whole warp calls it.
template <bool Lse>
PTX_INLINE void insert(Lists<Lse> &lists, Rows &own, int half, bool take, const Entry &added, int n, int topk)
{
    float worst = -minus_infinity();
    int at = -1;
    for (int first = 0; first < topk - 1; first += 4) {
        const int slot = first + (int)threadIdx.x % 4, from = slot + (slot >= own.at[half]);
        const bool mine = take && slot < topk - 1;
        const Entry e = mine && from < topk - 1 ? load(lists, own.row[half], from) : added;
        __syncwarp(); // a neighbour reads the slot that this lane is about to write
        if (mine)
            store(lists, own.row[half], slot, e);
        if (mine && e.score <= worst)
            worst = e.score, at = slot;
    }
    for (int with = 1; with < 4; with *= 2) {
        const float score = shfl_xor(worst, with);
        const int slot = shfl_xor(at, with);
        if (score < worst || (score == worst && slot > at))
            worst = score, at = slot;
    }
    const bool full = n + 1 >= topk - 1; // until then every block got in
    if (take)
        own.threshold[half] = full ? worst : not_a_number(), own.at[half] = full ? at : 0;
    __syncwarp();
}

/// The sum over a row's visible products, columns 0..last, of 2^((product - most) * scale2). Where products
/// are -inf, so may be their maximum.
template <int D, int Block>
PTX_INLINE float row_sum(const float (&x)[Block / 2], int half, int last, float maximum)
{
    float sum = 0;
    maximum = fmaxf(maximum, lowest);
    timeline_mark("exponentials", 2 * Block); // 8 Block of them, 4 a clock
    for (int i = 2 * half; i < Block / 2; i += 4) {
        sum += column(i) <= last ? ex2((x[i] - maximum) * scale2<D>) : 0;
        sum += column(i + 1) <= last ? ex2((x[i + 1] - maximum) * scale2<D>) : 0;
    }
    sum += shfl_xor(sum, 1);
    return sum + shfl_xor(sum, 2);
}

/// The epilogue of a part's products with the n-th block from `first` on: maxima, and what beats a row's threshold
/// enters its list. Blocks ascend, so an equal score is turned down: ties go to the lower id (chapter 13).
template <int D, int Block, bool Lse>
PTX_INLINE void epilogue(Lists<Lse> &lists, Rows &own, float (&x)[Block / 2], int first, int n, int topk)
{
    const int b = first + n;
    UNROLL // the body is long, but a loop would index x, which then has to lie in memory
        for (int half = 0; half < 2; half++)
    {
        // [reject]
        const int local = own.position[half] / Block, last = own.position[half] - b * Block;
        const float maximum = row_max<Block>(x, half, last);
        const bool better = b < local && !(maximum <= own.threshold[half]);
        if (!warp_ballot(better || b == local))
            continue; // nearly always
        const Entry e = {maximum, b, Lse ? row_sum<D, Block>(x, half, last, maximum) : 0};
        if (b == local && threadIdx.x % 4 == 0)
            store(lists, own.row[half], topk - 1, e);
        insert(lists, own, half, better, e, n, topk);
        // [reject]
    }
}

/// ids and LSE of a thread's rows.
template <int D, int Block, bool Lse>
PTX_INLINE void write(const Lists<Lse> &lists, const Rows &own, const Shape &s, const Span &span,
                      int32_t *ids, float *lse, const int32_t *listed = nullptr)
{
    const int lane = (int)threadIdx.x % 4;
    for (int half = 0; half < 2; half++) {
        const int row = row_of(span, own.row[half], listed), n_blocks = own.position[half] / Block + 1;
        const bool exists = span.row0 + own.row[half] < span.end;
        const int n = n_blocks < s.topk ? n_blocks : s.topk, empty = s.topk - n;
        const int64_t to = row_at(s, row / s.n_kv_heads, row % s.n_kv_heads);
        for (int slot = lane; slot < s.topk && exists; slot += 4)
            st_global(ids + to * s.topk + slot, slot < n ? load(lists, own.row[half], empty + slot).id : -1);
        if (!Lse)
            continue;
        float maximum = lowest, sum = 0;
        for (int slot = empty; slot < s.topk; slot++)
            maximum = fmaxf(maximum, load(lists, own.row[half], slot).score);
        for (int slot = empty; slot < s.topk; slot++) {
            const Entry e = load(lists, own.row[half], slot);
            sum += e.sum * ex2((e.score - maximum) * scale2<D>);
        }
        if (lane == 0 && exists)
            st_global(lse + to, lse_of(maximum * scale2<D>, sum));
    }
}

/// The ring takes what the lists spare of 227 KB (at D 128): three tiles of 128 keys, two with sums.
template <int D, int Block, bool Lse> struct Smem {
    Stream<D, Block, rows, (Lse ? 64 : 96) << 10> stream;
    Lists<Lse> lists;
};

/// The CTA's keys past a consumer's 128 rows.
template <int D, int Block, bool Lse>
PTX_INLINE void keep_best(const Shape &s, Smem<D, Block, Lse> &smem, const Span &span, Rows &a0, Rows &a1)
{
    auto &m = smem.stream;
    const int part = (int)threadIdx.x / 128 * 2;
    float x0[Block / 2], x1[Block / 2];
    for (int n = 0; n < span.n_tiles; n++) {
        const Tile<Block, D> &keys = wait_stage(m, n);
        // [halves]
        issue_scores<Block>(x0, m.q[part], keys);
        issue_scores<Block>(x1, m.q[part + 1], keys);
        wgmma_wait<1>(); // the first half; the second is multiplied while this one is looked at
        wgmma_pin(x0);
        epilogue<D, Block>(smem.lists, a0, x0, span.first, n, s.topk);
        wgmma_wait<0>(); // the second; now the other consumer's products cover this one's epilogue
        wgmma_pin(x1);
        release_stage(m, n); // no product reads the keys any more
        epilogue<D, Block>(smem.lists, a1, x1, span.first, n, s.topk);
        // [halves]
    }
}

} // namespace

#endif
