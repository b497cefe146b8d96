/**
 * @file screen.cuh
 * @brief Which blocks a row's codes cannot rule out: integer products, bounds, and lists of candidates.
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

/// What is stored for the rows of a chunk.
struct Lists8 {
    int most;             ///< candidates of a row
    Candidate *candidate; ///< [rows][most]
    int32_t *n;           ///< [rows] of them; -1: too many, the row needs all its blocks
    int32_t *fallen;      ///< [rows]: which those are
    int32_t *asked;       ///< [B]: how many rows have a block for a candidate
    int32_t *totals;      ///< [3]: see below
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
    uint64_t full[stages], empty[stages];
};

/// A thread's two rows of a 64-row part, which it shares with the other lanes of its quad.
struct Screened {
    int row[2];   ///< in the CTA
    int local[2]; ///< blocks before this one may be chosen; 0: none, or no more
    float tau[2]; ///< the least of the row's lower bounds: who is surely below it is out...
    int at[2];    ///< ...and its slot
    int n[2];     ///< candidates so far; -1: too many
};

template <int D, int Block>
PTX_INLINE Screened screened_init(Screen<D, Block> &m, const Shape &s, const Span &span, int first)
{
    Screened own;
    for (int half = 0; half < 2; half++) {
        own.row[half] = first + fragment_d((int)threadIdx.x % 128, 2 * half).row;
        const int row = span.row0 + own.row[half];
        own.local[half] = row < span.end && s.topk > 1 ? position_of(s, row) / Block : 0;
        own.tau[half] = minus_infinity();
        own.at[half] = own.n[half] = 0;
        for (int slot = (int)threadIdx.x % 4; slot < s.topk - 1; slot += 4)
            st_shared(&m.low[slot / 4][own.row[half]][slot % 4], minus_infinity());
    }
    return own;
}

/// Where `better`, a lower bound takes the place of the least. The whole warp calls it; a lane looks at slots of its own.
template <int D, int Block>
PTX_INLINE void raise(Screen<D, Block> &m, Screened &own, int half, bool better, float lower, int keep)
{
    const int lane = (int)threadIdx.x % 4;
    float least = -minus_infinity();
    int at = -1;
    for (int slot = lane; better && slot < keep; slot += 4) {
        float *place = &m.low[slot / 4][own.row[half]][lane];
        if (slot == own.at[half])
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
        own.tau[half] = least, own.at[half] = at;
}

/// Keeps those of n candidates that tau has not passed; with `asked`, counts each at its block. By a warp.
PTX_INLINE int filter(Candidate *list, int n, float tau, int32_t *asked)
{
    const int lane = (int)threadIdx.x % 32;
    int kept = 0;
    __syncwarp(); // another lane has written them
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

/// Room for one more candidate where `take`: full lists are filtered, and where that does not help their rows fall.
PTX_INLINE void make_room(const Lists8 &lists, Screened &own, int half, bool take, int row0)
{
    uint32_t full = warp_ballot(take && own.n[half] == lists.most);
    while (full) {
        const int quad = (__ffs((int)full) - 1) / 4, row = shfl(own.row[half], 4 * quad);
        const int n = filter(lists.candidate + (int64_t)(row0 + row) * lists.most, lists.most,
                             shfl(own.tau[half], 4 * quad), nullptr);
        if (quad == (int)threadIdx.x % 32 / 4) {
            own.n[half] = n < lists.most ? n : -1;
            own.local[half] = n < lists.most ? own.local[half] : 0;
        }
        full &= ~(15u << 4 * quad);
    }
}

/// What a part's products with block b say.
template <int D, int Block>
PTX_INLINE void screen_block(Screen<D, Block> &m, const Lists8 &lists, Screened &own,
                             const int32_t (&x)[Block / 2], const Numbers &numbers, int b, int row0, int keep)
{
    UNROLL
    for (int half = 0; half < 2; half++) {
        // [bounds]
        const Bounds bound =
            bounds<D>(ld_shared(&m.numbers[own.row[half]]), numbers, best_product<Block>(x, half));
        const bool take = b < own.local[half] && !(bound.upper < own.tau[half]);
        if (!warp_ballot(take))
            continue;
        // [bounds]
        const bool better = take && bound.lower > own.tau[half];
        if (warp_ballot(better))
            raise(m, own, half, better, bound.lower, keep);
        make_room(lists, own, half, take, row0);
        if (take && own.n[half] >= 0) {
            if (threadIdx.x % 4 == 0)
                st_global(lists.candidate + (int64_t)(row0 + own.row[half]) * lists.most + own.n[half],
                          Candidate{b, bound.upper});
            own.n[half]++;
        }
    }
}

/// The end of a part's rows, which a warp goes through one by one: candidates by the last tau, and who fell.
PTX_INLINE void finish(const Lists8 &lists, const Screened &own, const Span &span)
{
    for (int i = 0; i < 16; i++) {
        const int quad = i % 8, half = i / 8, from = 4 * quad;
        const int row = span.row0 + shfl(half ? own.row[1] : own.row[0], from);
        const float tau = shfl(half ? own.tau[1] : own.tau[0], from);
        int n = shfl(half ? own.n[1] : own.n[0], from);
        if (row >= span.end)
            continue;
        if (n >= 0)
            n = filter(lists.candidate + (int64_t)row * lists.most, n, tau, lists.asked);
        if (threadIdx.x % 32 == 0) {
            st_global(lists.n + row, n);
            if (n < 0)
                st_global(lists.fallen + atomicAdd(lists.totals + total_fallen, 1), row);
        }
    }
}

} // namespace

#endif
