/**
 * @file split_attend.cuh
 * @brief The last launch of a step: attention of a query's group to its keys by mma.sync, split over CTAs. Parts are
 *        merged by the last one to finish, or where a row has few of them by all (cluster_merge.cuh).
 *
 * The G heads of a group are the 16 rows of a product. Of 128 tokens at a time a warp copies 16, and scores them as
 * soon as its own keys are there. Then the weights meet in shared memory, relative to one maximum, and each warp
 * multiplies all of them by its own columns of the values: so no two warps have sums to add up. The parts of a row
 * share its tokens evenly, 128 at a time, however long the row is; a part that gets none leaves at once. Parts are
 * merged in their order, whoever merges, so the result is the same each time. One that merges reads all parts of its
 * row through its own SM: so few parts are better than many.
 */
#ifndef MSA_SPLIT_ATTEND_CUH
#define MSA_SPLIT_ATTEND_CUH

#include "../kit/warp_attend.cuh"
#include "decode.cuh"

constexpr int attend_warps = 8, attend_threads = 32 * attend_warps;
constexpr int warp_tokens = 16, attend_step = warp_tokens * attend_warps; // tokens at a time

template <int D> struct AttendSmem {
    WarpTile<max_group, D> q;
    union {
        struct {
            WarpTile<warp_tokens, D> k[2][attend_warps], v[2][attend_warps]; ///< a tile is copied by one warp
        };
        float2 weight[max_group][max_parts]; ///< of who merges
    };
    WarpTile<max_group, attend_step> p;                                         ///< a step's weights
    alignas(16) float top[max_group][attend_warps], l[max_group][attend_warps]; ///< of the warps' own tokens
    uint32_t drawn;
};

/// A row of attention and the part of it that a CTA has: tokens first..end-1 of n.
struct Part {
    int n, first, end;
    int active; ///< parts of the row that have tokens
};
PTX_INLINE Part part_of(int n, int part, int count)
{
    const int tokens = ceil_div(ceil_div(n, attend_step), count) * attend_step, first = part * tokens;
    return {n, first, smaller(n, first + tokens), ceil_div(n, tokens)};
}

/// Attention to a part: sums of this warp's own tokens, and its D / 8 columns of the values' sum.
template <int D> struct Attended {
    Softmax softmax;
    float o[D / 16];
};

/// Starts copying the group's queries, which no launch of the step makes: so before grid_wait().
template <int D> PTX_INLINE void fetch_queries(AttendSmem<D> &m, const Shape &s, const bf16 *q)
{
    copy_rows<attend_threads>(m.q, (int)threadIdx.x,
                              [&](int row) { return row < s.group ? q + row * D : nullptr; });
    cp_async_commit();
}

PTX_INLINE float most_of(const float (&x)[attend_warps])
{
    const float4 a = ld_shared((const float4 *)x), b = ld_shared((const float4 *)x + 1);
    return fmaxf(fmaxf(fmaxf(a.x, a.y), fmaxf(a.z, a.w)), fmaxf(fmaxf(b.x, b.y), fmaxf(b.z, b.w)));
}
PTX_INLINE float sum_of(const float (&x)[attend_warps])
{
    const float4 a = ld_shared((const float4 *)x), b = ld_shared((const float4 *)x + 1);
    return a.x + a.y + a.z + a.w + (b.x + b.y + b.z + b.w);
}

/// A step's weights, of the products x of this warp's tokens, of which the first `left` are there. The CTA calls it;
/// afterwards a barrier has to follow.
template <int D> PTX_INLINE void weigh_step(AttendSmem<D> &m, Attended<D> &sum, float (&x)[8], int left)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    timeline_mark("softmax", 64);
    for (int half = 0; half < 2; half++) {
        const float top = softmax_top<true>(x, half, [&](int, int column) { return column < left; });
        if (lane % 4 == 0)
            st_shared(&m.top[fragment_row(lane, half)][warp], top);
    }
    __syncthreads(); // the maxima of all warps are there
    float keep[2];
    for (int half = 0; half < 2; half++)
        keep[half] = softmax_weigh(sum.softmax, x, half, most_of(m.top[fragment_row(lane, half)]), scale2<D>);
    rescale(sum.o, keep);
    uint32_t p[1][4];
    pack_weights(p, x);
    stmatrix_x4(chunk(m.p, lane % 16, warp_tokens * warp + lane / 16 * 8), p[0]);
}

/// O += P V for this warp's columns and all of a step's tokens.
template <int D>
PTX_INLINE void add_values(AttendSmem<D> &m, float (&o)[D / 16], WarpTile<warp_tokens, D> (&v)[attend_warps])
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    for (int tile = 0; tile < attend_warps; tile += 2) {
        uint32_t p[2][4];
        for (int i = 0; i < 2; i++)
            ldmatrix_x4(p[i], chunk(m.p, lane % 16, warp_tokens * (tile + i) + lane / 16 * 8));
        for (int j = 0; j < D / 64; j++) { // 8 columns
            uint32_t b[4];
            ldmatrix_x4_trans(b, chunk(v[tile + lane / 16], lane % 16, D / attend_warps * warp + 8 * j));
            mma_m16n8k16(part<4>(o, 4 * j), p[0], part<2>(b, 0));
            mma_m16n8k16(part<4>(o, 4 * j), p[1], part<2>(b, 2));
        }
    }
}

/// Attention to this part's tokens, by the queries of fetch_queries(). where(g) tells where the row's tokens g piece ..
/// g piece + piece - 1 lie, as piece_of() does; a lane remembers one of 32 g. Calls meanwhile() once, while the first keys
/// are on their way.
template <int D, class Where, class Meanwhile>
PTX_INLINE Attended<D> attend_part(AttendSmem<D> &m, const Shape &s, const Part &part, int piece, int r,
                                   const bf16 *k, const bf16 *v, Where where, Meanwhile meanwhile)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32,
              bits = __ffs(piece) - 1, // a power of two
        pieces = ((part.end - 1) >> bits) + 1;
    int base = -32, known = 0;
    // [fetch]
    auto fetch = [&](int first, int stage) { // this warp's tokens of a step; zeros past the end
        if (first >> bits >= base + 32) { // steps are whole pieces, or pieces whole steps: 32 end with a step
            base = first >> bits;
            known = base + lane < pieces ? where(base + lane) : 0;
        }
        const int mine = first + warp_tokens * warp; // in one piece
        const int64_t key = ((int64_t)shfl(known, (mine >> bits) - base) << bits) + (mine & (piece - 1)),
                      at = kv_at(s, key, r, D);
        auto copy = [&](WarpTile<warp_tokens, D> &tile, const bf16 *kv) {
            copy_rows<32>(tile, lane, [&](int row) {
                return mine + row < part.end ? kv + at + row * s.n_kv_heads * D : nullptr;
            });
            cp_async_commit();
        };
        copy(m.k[stage][warp], k);
        copy(m.v[stage][warp], v);
    };
    // [fetch]
    fetch(part.first, 0);
    meanwhile();
    cp_async_wait<2>();
    __syncthreads(); // the queries are there
    uint32_t q[D / 16][4];
    load_queries(q, m.q, 0);

    Attended<D> sum = {softmax_init(), {}};
    for (int first = part.first, stage = 0; first < part.end; first += attend_step, stage ^= 1) {
        if (first + attend_step < part.end)
            fetch(first + attend_step, stage ^ 1);
        else
            cp_async_commit(),
                cp_async_commit(); // empty groups, so that the waits below always leave as many
        cp_async_wait<3>();
        __syncwarp(); // this warp's keys are there, its values may be on their way
        float x[8];
        warp_scores(x, q, m.k[stage][warp]);
        weigh_step(m, sum, x, part.end - first - warp_tokens * warp);
        cp_async_wait<2>();
        __syncthreads(); // all weights and values are there
        // [values]
        add_values(m, sum.o, m.v[stage]);
        // [values]
        __syncthreads(); // all are done with the stage: the next fetch may fill it
    }
    return sum;
}

/// Leaves this part where the others find it; the last one of the row to do so merges all of them.
template <int D, class Out>
PTX_INLINE void finish_part(AttendSmem<D> &m, const Shape &s, const Part &part, int query, int r,
                            const Attended<D> &sum, const Parts &parts, uint32_t *ticket, Out *o, float *lse)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int64_t row = lse_at(s, query, r * s.group), first = row * parts.count + blockIdx.x;
    // [finish]
    for (int half = 0; half < 2; half++) {
        const int h = fragment_row(lane, half);
        const float l = softmax_sum(sum.softmax, half);
        if (lane % 4 == 0)
            st_shared(&m.l[h][warp], l);
        float *const to = parts.o + (first + (int64_t)h * parts.count) * D + D / attend_warps * warp;
        for (int i = 2 * half; i < D / 16 && h < s.group; i += 4)
            st_global((float2 *)(to + fragment_d(lane, i).col), make_float2(sum.o[i], sum.o[i + 1]));
    }
    __syncthreads(); // the sums of all warps' weights are there
    for (int half = 0; half < 2; half++) {
        const int h = fragment_row(lane, half);
        if (warp == 0 && lane % 4 == 0 && h < s.group)
            st_global(parts.ml + first + (int64_t)h * parts.count,
                      make_float2(sum.softmax.m[half], sum_of(m.l[h])));
    }
    __syncthreads(); // the part, by all, before the ticket, by one
    if (threadIdx.x == 0)
        st_shared(&m.drawn, atom_add_acq_rel(ticket, 1u));
    __syncthreads(); // ... and the others' parts after their tickets
    const bool last = ld_shared(&m.drawn) + 1 == (uint32_t)part.active;
    // [finish]
    if (last)
        merge_group<D, attend_warps>(parts, row, s.group, part.active, m.weight, o, lse);
}

/* ---- Launches (host) --------------------------------------------------------------------------------- */

/// How many parts a row of at most `tokens` tokens has: a CTA for each SM, if there are tokens enough for parts of `least`.
inline int parts_of(int rows, int tokens, int least)
{
    const int ctas = rows > 0 && rows < sms() ? sms() / rows : 1;
    return smaller(ceil_div(tokens, least), smaller(ctas, tuned(MSA_TUNE_attend_parts)));
}

#endif
