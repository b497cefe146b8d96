/**
 * @file screen.cuh
 * @brief Which blocks a row's codes cannot rule out, for 5_screened.cu: integer products, bounds, and lists of candidates.
 *        (A step of generation has few rows, and other lists: decode/screen_blocks.cuh.)
 */
#ifndef MSA_INDEX_SCREEN_CUH
#define MSA_INDEX_SCREEN_CUH

#include "bounds.cuh"
#include "fused.cuh"

namespace
{

/* ---- Lists of candidates --------------------------------------------------------------------------------- */

constexpr int most_candidates = 512; ///< of a row

/// A block that may be chosen.
struct alignas(8) Candidate {
    int32_t block;
    float value; ///< its upper bound; then its score
};

/// What is stored for the rows of a chunk. Where few rows would leave SMs idle, `parts` CTAs share a row's blocks, each
/// with a list of its own: list number part * rows + row.
struct Lists8 {
    int most, parts, rows; ///< candidates of a list; rows of the chunk
    Candidate *candidate;  ///< [parts][rows][most]
    int32_t *n;            ///< [parts][rows] of them; -1: too many, the row needs all its blocks
    float *low;            ///< [parts][rows][k-1] lower bounds, of more parts than one
    int32_t *fallen;       ///< [rows]: which those are
    int32_t *asked;        ///< [B]: how many rows have a block for a candidate
    int32_t *totals;       ///< [3]: see below
};
enum { total_fallen, total_pairs, total_tiles };

/// The largest of a row's products in all four lanes that share the row.
template <int Block> PTX_INLINE int best_product(const int32_t (&x)[Block / 2], int half)
{
    timeline_mark("maximum", Block / 4); // 4 Block comparisons of three, 16 a clock
    int maximum = x[2 * half];
    UNROLL
    for (int i = 2 * half; i < Block / 2; i += 4)
        maximum = max3(maximum, x[i], x[i + 1]);
    const int other = shfl_xor(maximum, 1), two = other > maximum ? other : maximum;
    return max3(two, shfl_xor(two, 2), two);
}

/* ---- Shared memory, rows ---------------------------------------------------------------------------- */

template <int D, int Block> struct Screen {
    static constexpr int block = Block, stages = (96 << 10) / (int)sizeof(CodeTile<Block, D>);
    CodeTile<64, D> q[rows / 64];
    CodeTile<Block, D> k[stages];
    float low[max_topk / 4][rows][4]; ///< of each row the best k - 1 lower bounds, in no order
    RowNumbers numbers[rows];
    // What is needed now and then is no register's.
    int32_t at[rows], n[rows]; ///< of each row the least bound's slot; candidates so far, -1: too many
    alignas(16) Span span;
    float4 next[consumer_threads / 32][32]; ///< s, N and E of the 32 blocks that a warp is at
    uint64_t full[stages], empty[stages];
};

/// The codes and numbers of a consumer's rows, `each` by a warp of it.
template <int D, int each, class Smem>
PTX_INLINE void make_queries(Smem &m, const Span &span, const bf16 *qi)
{
    const int warp = (int)threadIdx.x / 32;
    for (int row = each * warp; row < each * warp + each; row++) {
        const int of = span.row0 + row < span.end ? span.row0 + row : span.row0;
        const RowNumbers numbers = make_query(m.q[row / 64], row % 64, qi + (int64_t)of * D);
        if (threadIdx.x % 32 == 0)
            st_shared(&m.numbers[row], numbers);
    }
    fence_proxy_async();
    bar_sync(1 + (unsigned)warp / 4, 128);
}

/// A thread's two rows of a 64-row part, which it shares with the other lanes of its quad.
struct Screened {
    int row;      ///< of the first in the CTA; the second is 8 further down
    int local[2]; ///< as many of the CTA's blocks may be chosen; 0: none, or no more
    float tau[2]; ///< the least of the row's lower bounds: who is surely below it is out
};

template <int D, int Block>
PTX_INLINE Screened screened_init(Screen<D, Block> &m, const Shape &s, const Span &span, int first)
{
    Screened own;
    own.row = first + fragment_d((int)threadIdx.x % 128, 0).row;
    for (int half = 0; half < 2; half++) {
        const int row = span.row0 + own.row + 8 * half;
        own.local[half] = row < span.end && s.topk > 1 ? position_of(s, row) / Block - span.first : 0;
        own.tau[half] = minus_infinity();
        if (threadIdx.x % 4 == 0) {
            st_shared(&m.at[own.row + 8 * half], 0);
            st_shared(&m.n[own.row + 8 * half], 0);
        }
        for (int slot = (int)threadIdx.x % 4; slot < s.topk - 1; slot += 4)
            st_shared(&m.low[slot / 4][own.row + 8 * half][slot % 4], minus_infinity());
    }
    __syncwarp(); // lanes of a quad read what one has written
    return own;
}

/// Where `better`, a lower bound takes the place of the least. The whole warp calls it; a lane looks at slots of its own.
template <int D, int Block>
PTX_INLINE void raise(Screen<D, Block> &m, Screened &own, int half, bool better, float lower, int keep)
{
    const int lane = (int)threadIdx.x % 4, old = ld_shared(&m.at[own.row + 8 * half]);
    float least = -minus_infinity();
    int at = -1;
    for (int slot = lane; better && slot < keep; slot += 4) {
        float *place = &m.low[slot / 4][own.row + 8 * half][lane];
        if (slot == old)
            st_shared(place, lower);
        const float bound = ld_shared(place);
        if (bound < least)
            least = bound, at = slot;
    }
    for (int with = 1; with < 4; with *= 2) {
        const float other = shfl_xor(least, with);
        const int other_at = shfl_xor(at, with);
        if (other < least || (other == least && other_at > at))
            least = other, at = other_at;
    }
    if (better)
        own.tau[half] = least;
    __syncwarp(); // the quad has read where the least one was
    if (better && lane == 0)
        st_shared(&m.at[own.row + 8 * half], at);
    __syncwarp();
}

/// Keeps those of n candidates that tau has not passed; with `asked`, counts each at its block. By a warp, which has met
/// since one of its lanes wrote to the list.
PTX_INLINE int filter(Candidate *list, int n, float tau, int32_t *asked)
{
    const int lane = (int)threadIdx.x % 32;
    int kept = 0;
    for (int first = 0; first < n; first += 32) {
        const int from = first + lane;
        const Candidate c = from < n ? ld_global(list + from) : Candidate{-1, 0};
        const bool stays = from < n && !(c.value < tau);
        const uint32_t all = warp_ballot(stays);
        const int to = kept + __popc(all & ((1u << lane) - 1));
        if (stays && to != from)
            st_global(list + to, c);
        if (stays && asked)
            atomicAdd(asked + c.block, 1);
        kept += __popc(all);
        __syncwarp();
    }
    return kept;
}

/// A row's list, in the part of the CTA.
PTX_INLINE int64_t list_at(const Lists8 &lists, int row)
{
    return (int64_t)((int)blockIdx.x % lists.parts) * lists.rows + row;
}

/// Room for one more candidate where `take`: full lists are filtered, and where that does not help their rows fall.
/// Returns how many there are.
template <int D, int Block>
PTX_INLINE int make_room(Screen<D, Block> &m, const Lists8 &lists, Screened &own, int half, bool take)
{
    const int mine = own.row + 8 * half;
    int count = ld_shared(&m.n[mine]);
    __syncwarp(); // before one of the quad counts on
    uint32_t full = warp_ballot(take && count == lists.most);
    while (full) {
        const int quad = (__ffs((int)full) - 1) / 4, row = ld_shared(&m.span).row0 + shfl(mine, 4 * quad);
        const int n = filter(lists.candidate + list_at(lists, row) * lists.most, lists.most,
                             shfl(own.tau[half], 4 * quad), nullptr);
        if (quad == (int)threadIdx.x % 32 / 4) {
            count = n < lists.most ? n : -1;
            own.local[half] = n < lists.most ? own.local[half] : 0;
        }
        full &= ~(15u << 4 * quad);
    }
    return count;
}

/// What 64 rows' products with the CTA's n-th block say.
template <int D, int Block>
PTX_INLINE void screen_block(Screen<D, Block> &m, const Lists8 &lists, Screened &own,
                             const int32_t (&x)[Block / 2], const float4 &next, int n, int keep)
{
    const float4 numbers = ld_shared(&next);
    UNROLL
    for (int half = 0; half < 2; half++) {
        // [bounds]
        const Bounds bound = bounds<D>(ld_shared(&m.numbers[own.row + 8 * half]),
                                       {numbers.x, numbers.y, numbers.z}, best_product<Block>(x, half));
        const bool take = n < own.local[half] && !(bound.upper < own.tau[half]);
        if (!warp_ballot(take))
            continue;
        // [bounds]
        // [let_in]
        const bool better = take && bound.lower > own.tau[half];
        if (warp_ballot(better))
            raise(m, own, half, better, bound.lower, keep);
        const int count = make_room(m, lists, own, half, take), row = own.row + 8 * half;
        if (take && threadIdx.x % 4 == 0) {
            const Span span = ld_shared(&m.span);
            if (count >= 0)
                st_global(lists.candidate + list_at(lists, span.row0 + row) * lists.most + count,
                          Candidate{span.first + n, bound.upper});
            st_shared(&m.n[row], count < 0 ? count : count + 1);
        }
        __syncwarp(); // whoever filters or finishes the list reads it
        // [let_in]
    }
}

PTX_INLINE void fall(const Lists8 &lists, int row)
{
    st_global(lists.fallen + atomicAdd(lists.totals + total_fallen, 1), row);
}

/// The end of 64 rows, which a warp goes through one by one: candidates by the last tau, and who fell. Where parts share
/// a row, unite() does that when all have left their lower bounds.
template <int D, int Block>
PTX_INLINE void finish(Screen<D, Block> &m, const Lists8 &lists, const Screened &own, int keep)
{
    const Span span = ld_shared(&m.span);
    for (int i = 0; i < 16; i++) {
        const int half = i / 8, from = 4 * (i % 8), place = shfl(own.row, from) + 8 * half,
                  row = span.row0 + place;
        const float tau = shfl(half ? own.tau[1] : own.tau[0], from);
        int n = ld_shared(&m.n[place]);
        if (row >= span.end)
            continue;
        const int64_t list = list_at(lists, row);
        for (int slot = (int)threadIdx.x % 32; lists.low && slot < keep; slot += 32)
            st_global(lists.low + list * keep + slot, ld_shared(&m.low[slot / 4][place][slot % 4]));
        if (n >= 0 && !lists.low)
            n = filter(lists.candidate + list * lists.most, n, tau, lists.asked);
        if (threadIdx.x % 32 == 0) {
            st_global(lists.n + list, n);
            if (n < 0 && !lists.low)
                fall(lists, row);
        }
    }
}

} // namespace

#endif
