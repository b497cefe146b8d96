/**
 * @file fused.cuh
 * @brief The best blocks of rows, kept in shared memory while all their keys stream past: what 4_fused.cu does for
 *        every row, and 5_screened.cu for those that screening does not spare.
 */
#ifndef MSA_INDEX_FUSED_CUH
#define MSA_INDEX_FUSED_CUH

#include "../kit/selection.cuh"
#include "stream.cuh"

namespace
{

constexpr int rows = 256, max_topk = 32;

/// Lanes 0 and 1 of a quad own the upper of the two rows that it shares, lanes 2 and 3 the lower one, each of the two
/// half of the row's list, and each its own bytes of shared memory: 128 for 16 slots, lane next to lane. In
/// registers they would not fit beside 128 accumulators. Slots 0..k-2, in no order, have the best blocks so far. A
/// key is rank_key(score, block << 5 | slot), so that the worst one says where it lies, and equal scores are ordered
/// by block; that of a free slot is below all of them, that of one past k-2 above.
struct alignas(16) Pair {
    uint64_t key[2];
};
/// Of the local block, which competes with none: its largest product, and the sum of 2^((product - score) * scale2).
struct alignas(8) Local {
    float score, sum;
};
template <bool Lse> struct Lists {
    Pair pair[2][max_topk / 4][consumer_threads];                         ///< part, pair, thread
    float sum[Lse ? 2 : 1][Lse ? max_topk / 2 : 1][consumer_threads];     ///< part, slot of the lane's, thread
    Local local[Lse ? rows : 1];
};
constexpr uint64_t no_slot = (uint64_t)0xff800000 << 32; ///< its score is infinity, its id no block's

/// Whether the lower row is this lane's, and what of two things, one for each row, is that of the lane's.
PTX_INLINE bool owns_lower()
{
    return (int)threadIdx.x / 2 % 2;
}
template <class T> PTX_INLINE T own_of(T upper, T lower)
{
    return owns_lower() ? lower : upper;
}
/// Slot 4 p + 2 j + n is key j of pair p of the n-th of the two lanes. Calls f(slot, i) for this lane's slots, i being
/// their number 2 p + j there.
template <class F> PTX_INLINE void each_slot(int topk, const F &f)
{
    ROLLED
    for (int first = 0; first < topk - 1; first += 16) // once, for k up to 17
        UNROLL
    for (int i = 0; i < 8; i++)
        f(first + 2 * i + (int)threadIdx.x % 2, first / 2 + i);
}
/// The lane's key number i.
template <bool Lse> PTX_INLINE uint64_t key_at(const Lists<Lse> &m, int part, int i)
{
    return ld_shared(&m.pair[part][i / 2][threadIdx.x].key[i % 2]);
}
/// The worst of the lane's keys in pairs first..first+3. The scores come first: four steps one after the other, where
/// comparing keys would take nine.
template <bool Lse> PTX_INLINE uint64_t worst_of(const Lists<Lse> &m, int part, int first)
{
    uint32_t score[8], rest[8], worst = ~0u, last = ~0u;
    UNROLL
    for (int p = 0; p < 4; p++) {
        const Pair two = ld_shared(&m.pair[part][first + p][threadIdx.x]);
        UNROLL
        for (int j = 0; j < 2; j++)
            score[2 * p + j] = (uint32_t)(two.key[j] >> 32), rest[2 * p + j] = (uint32_t)two.key[j];
    }
    UNROLL
    for (int i = 0; i < 8; i += 2)
        worst = min3(worst, score[i], score[i + 1]);
    UNROLL
    for (int i = 0; i < 8; i += 2)
        last = min3(last, score[i] == worst ? rest[i] : ~0u, score[i + 1] == worst ? rest[i + 1] : ~0u);
    return (uint64_t)worst << 32 | last;
}
/// A key's block; ~0 where the slot is free or none.
PTX_INLINE uint32_t block_of(uint64_t key)
{
    return key >> 32 && (uint32_t)key ? id_of(key) >> 5 : ~0u;
}

/// A thread's two rows of a 64-row part, and what it knows of the one that is its own.
struct Rows {
    int row;         ///< the upper one in the CTA; the lower one is row + 8
    int position[2]; ///< the last key that they see
    float threshold; ///< what a block has to beat: the least score in the lane's half of the list, NaN if a slot is free.
    int worst; ///< ~slot of the worst in both halves, in the lane whose it is: that one decides. `none` in the other
};
constexpr int none = 0;
PTX_INLINE int own_row(const Rows &own)
{
    return own.row + (owns_lower() ? 8 : 0);
}
PTX_INLINE int own_position(const Rows &own)
{
    return own_of(own.position[0], own.position[1]);
}

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
    const int part = first / 64 % 2;
    own.row = first + fragment_d((int)threadIdx.x % 128, 0).row;
    for (int half = 0; half < 2; half++)
        own.position[half] = position_of(s, row_of(span, own.row + 8 * half, listed));
    const int mine = own_row(own);
    const bool takes = s.topk > 1 && span.row0 + mine < span.end; // else nothing beats infinity
    own.threshold = takes ? not_a_number() : -minus_infinity();
    own.worst = threadIdx.x % 2 == 0 ? ~0 : none;
    each_slot(s.topk, [&](int slot, int i) {
        st_shared(&lists.pair[part][i / 2][threadIdx.x].key[i % 2],
                  slot < s.topk - 1 ? (uint64_t)~(uint32_t)slot : no_slot);
    });
    if (Lse && threadIdx.x % 2 == 0)
        st_shared(&lists.local[Lse ? mine : 0], Local{minus_infinity(), 0});
    return own;
}

/// Where `take`, puts a block in the place of the row's worst, or a free one, and finds the worst of those that are
/// there now. The whole warp calls it.
template <bool Lse>
PTX_INLINE void insert(Lists<Lse> &lists, int part, Rows &own, bool take, float score, float sum, int b, int topk)
{
    unsigned char *const keys = bytes_from(lists.pair, lists.pair[part][0][threadIdx.x],
                                           part * sizeof lists.pair[0] + threadIdx.x * sizeof(Pair));
    // [insert]
    // Pair slot / 4 of the lane's, key slot / 2 % 2 of that: one product moves both to their places.
    constexpr unsigned pair = sizeof lists.pair[0][0], places = pair / 4 + sizeof(uint64_t) / 2;
    const bool mine = take && own.worst != none;
    const unsigned slot = (unsigned)~own.worst;
    st_shared_if(mine, (uint64_t *)(keys + (slot * places & (7 * pair | sizeof(uint64_t)))),
                 rank_key_of_number(score, ~(own.worst - 32 * b)));
    if (Lse && mine)
        st_shared(&lists.sum[Lse ? part : 0][Lse ? slot / 2 : 0][threadIdx.x], sum);
    uint64_t worst = worst_of(lists, part, 0);
    // [insert]
    if (topk > 17) {
        const uint64_t more = worst_of(lists, part, 4);
        worst = more < worst ? more : worst;
    }
    // [insert]
    own.threshold = score_of(worst);
    own.worst = shfl_xor(worst, 1) < worst ? none : (int)((uint32_t)worst | ~31u);
    // [insert]
}

/// Of two values, one for each row of the thread, those of four lanes become one: the lane's own row's. Each of two
/// lanes hands over the row that is not its own, so that two shuffles do for two rows.
template <class F> PTX_INLINE float own_joined(float upper, float lower, const F &join)
{
    const float mine = join(own_of(upper, lower), shfl_xor(own_of(lower, upper), 2));
    return join(mine, shfl_xor(mine, 1));
}

/// The sum over a row's visible products, columns 0..last, of 2^((product - most) * scale2), this thread's part. Where
/// products are -inf, so may be their maximum.
template <int D, int Block>
PTX_INLINE float thread_sum(const float (&x)[Block / 2], int half, int last, float maximum)
{
    float sum = 0;
    maximum = fmaxf(maximum, lowest);
    timeline_mark("exponentials", 2 * Block); // 8 Block of them, 4 a clock
    for (int i = 2 * half; i < Block / 2; i += 4) {
        sum += column(i) <= last ? ex2((x[i] - maximum) * scale2<D>) : 0;
        sum += column(i + 1) <= last ? ex2((x[i + 1] - maximum) * scale2<D>) : 0;
    }
    return sum;
}

/// The epilogue of a part's products with block b: maxima, and what beats a row's threshold enters its list. Blocks
/// ascend, so an equal score is turned down: ties go to the lower id (chapter 13).
template <int D, int Block, bool Lse>
PTX_INLINE void epilogue(Lists<Lse> &lists, int part, Rows &own, float (&x)[Block / 2], int b, int topk)
{
    const int last[2] = {own.position[0] - b * Block, own.position[1] - b * Block};
    timeline_mark("maximum", Block); // 16 Block comparisons, 16 a clock
    // [reject]
    const auto larger = [](float p, float q) { return fmaxf(p, q); };
    const float maximum = own_joined(thread_max<Block>(x, 0, last[0]), thread_max<Block>(x, 1, last[1]), larger);
    const int local = own_position(own) / Block;
    const bool better = b < local && !(maximum <= own.threshold);
    if (!warp_ballot(better || (Lse && b == local)))
        return; // nearly always
    // [reject]
    float sum = 0;
    if (Lse) {
        const float other = shfl_xor(maximum, 2), most[2] = {own_of(maximum, other), own_of(other, maximum)};
        sum = own_joined(thread_sum<D, Block>(x, 0, last[0], most[0]), thread_sum<D, Block>(x, 1, last[1], most[1]),
                     [](float p, float q) { return p + q; });
        if (b == local && threadIdx.x % 2 == 0)
            st_shared(&lists.local[Lse ? own_row(own) : 0], Local{maximum, sum});
    }
    if (!Lse || warp_ballot(better))
        insert(lists, part, own, better, maximum, sum, b, topk);
}

/// The ids of the lane's row, ascending: a block's place is the number of lower ones, the lane's and its neighbour's.
template <bool Lse> PTX_INLINE void write_list(const Lists<Lse> &lists, int part, int topk, int32_t *ids, bool exists)
{
    ROLLED
    for (int first = 0; first < topk - 1; first += 16) {
        uint32_t id[8];
        int place[8] = {};
        UNROLL
        for (int i = 0; i < 8; i++)
            id[i] = block_of(key_at(lists, part, first / 2 + i));
        each_slot(topk, [&](int, int j) {
            const uint32_t own = block_of(key_at(lists, part, j)), other = shfl_xor(own, 1);
            UNROLL
            for (int i = 0; i < 8; i++)
                place[i] += (own < id[i]) + (other < id[i]);
        });
        UNROLL
        for (int i = 0; i < 8; i++)
            if (exists && id[i] != ~0u)
                st_global(ids + place[i], (int32_t)id[i]);
    }
}

/// The LSE over the blocks of the lane's row.
template <int D> PTX_INLINE float list_lse(const Lists<true> &lists, int part, const Rows &own, int topk)
{
    __syncwarp(); // a neighbour keeps what the local block has
    const Local local = ld_shared(&lists.local[own_row(own)]);
    float maximum = fmaxf(lowest, local.score), sum = 0;
    const auto each = [&](auto f) {
        each_slot(topk, [&](int, int i) {
            const uint64_t key = key_at(lists, part, i);
            if (block_of(key) != ~0u)
                f(score_of(key), ld_shared(&lists.sum[part][i][threadIdx.x]));
        });
    };
    each([&](float score, float) { maximum = fmaxf(maximum, score); });
    maximum = fmaxf(maximum, shfl_xor(maximum, 1));
    each([&](float score, float one) { sum += one * ex2((score - maximum) * scale2<D>); });
    sum += shfl_xor(sum, 1) + local.sum * ex2((local.score - maximum) * scale2<D>);
    return lse_of(maximum * scale2<D>, sum);
}

/// ids and LSE of a lane's row.
template <int D, int Block, bool Lse>
PTX_INLINE void write(const Lists<Lse> &lists, int part, const Rows &own, const Shape &s, const Span &span,
                      int32_t *ids, float *lse, const int32_t *listed = nullptr)
{
    const int mine = own_row(own), row = row_of(span, mine, listed),
              local = own_position(own) / Block, n = local < s.topk - 1 ? local : s.topk - 1;
    const bool exists = span.row0 + mine < span.end;
    const int64_t to = row_at(s, row / s.n_kv_heads, row % s.n_kv_heads);
    write_list(lists, part, s.topk, ids + to * s.topk, exists);
    for (int slot = n + (int)threadIdx.x % 2; slot < s.topk && exists; slot += 2) // the local block, then none
        st_global(ids + to * s.topk + slot, slot == n ? local : -1);
    if constexpr (Lse) {
        const float x = list_lse<D>(lists, part, own, s.topk);
        if (threadIdx.x % 2 == 0 && exists)
            st_global(lse + to, x);
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
    const uint64_t rows0 = rows_at(m.q[part]), rows1 = rows_at(m.q[part + 1]);
    float x0[Block / 2], x1[Block / 2];
    for (int n = 0; n < span.n_tiles; n++) {
        const uint64_t keys = rows_at(wait_stage(m, n));
        // [halves]
        issue_resident<Block, D>(x0, rows0, keys);
        issue_resident<Block, D>(x1, rows1, keys);
        wgmma_wait<1>(); // the first half; the second is multiplied while this one is looked at
        wgmma_pin(x0);
        epilogue<D, Block>(smem.lists, 0, a0, x0, span.first + n, s.topk);
        wgmma_wait<0>(); // the second; now the other consumer's products cover this one's epilogue
        wgmma_pin(x1);
        release_stage(m, n); // no product reads the keys any more
        epilogue<D, Block>(smem.lists, 1, a1, x1, span.first + n, s.topk);
        // [halves]
    }
}

} // namespace

#endif
