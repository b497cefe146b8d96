/**
 * @file split_attend.cuh
 * @brief The last launch of a step: attention of a query's group to its keys by mma.sync, split over CTAs,
 *        of which the last one to finish merges the parts.
 *
 * The G heads of a group are the 16 rows of a product. Eight warps take 16 keys each of 128, and add their
 * results up. The parts of a row share its tokens evenly, 128 at a time, however long the row is; a part that
 * gets none leaves at once. Parts are merged in their order, whoever merges, so the result is the same each
 * time. One that merges reads all parts of its row through its own SM: so few parts are better than many.
 */
#ifndef MSA_SPLIT_ATTEND_CUH
#define MSA_SPLIT_ATTEND_CUH

#include "../kit/warp_attend.cuh"
#include "decode.cuh"

constexpr int attend_warps = 8, attend_threads = 32 * attend_warps;
constexpr int attend_step = 16 * attend_warps; // tokens at a time

template <int D> struct AttendSmem {
    WarpTile<max_group, D> q;
    union {
        struct {
            WarpTile<attend_step, D> k[2], v[2];
        };
        float o[attend_warps][max_group][D + 8]; ///< what the warps found
        float2 weight[max_group][max_parts];     ///< of who merges
    };
    float m[attend_warps][max_group], l[attend_warps][max_group];
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

/// What a warp found goes to shared memory.
template <int D> PTX_INLINE void store_warp(AttendSmem<D> &m, const Softmax &softmax, const float (&o)[D / 2])
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    for (int half = 0; half < 2; half++) {
        const int row = fragment_row(lane, half);
        const float l = softmax_sum(softmax, half);
        if (lane % 4 == 0) {
            st_shared(&m.m[warp][row], softmax.m[half]);
            st_shared(&m.l[warp][row], l);
        }
        for (int i = 2 * half; i < D / 2; i += 4)
            st_shared((float2 *)&m.o[warp][row][fragment_d(lane, i).col], make_float2(o[i], o[i + 1]));
    }
}

/// The warps' sum goes to part number `part` of head 0 of the group, and so on.
template <int D> PTX_INLINE void merge_warps(AttendSmem<D> &m, int group, const Parts &parts, int64_t part)
{
    for (int a = (int)threadIdx.x; a < group * (D / 4); a += attend_threads) {
        const int h = a / (D / 4), c = a % (D / 4) * 4;
        float top = minus_infinity(), l = 0;
        for (int w = 0; w < attend_warps; w++)
            top = fmaxf(top, ld_shared(&m.m[w][h]));
        float4 sum = make_float4(0, 0, 0, 0);
        for (int w = 0; w < attend_warps; w++) {
            const float weight = ex2(ld_shared(&m.m[w][h]) - top);
            const float4 o = ld_shared((const float4 *)&m.o[w][h][c]);
            sum = make_float4(sum.x + weight * o.x, sum.y + weight * o.y, sum.z + weight * o.z,
                              sum.w + weight * o.w);
            l += weight * ld_shared(&m.l[w][h]);
        }
        const int64_t at = part + (int64_t)h * parts.count;
        st_global((float4 *)(parts.o + at * D + c), sum);
        if (c == 0)
            st_global(parts.ml + at, make_float2(top, l));
    }
}

/// Attention to this part's tokens, to shared memory. where(g) tells where the row's tokens g piece .. g
/// piece + piece - 1 lie, as piece_of() does; a lane remembers one of 32 g.
template <int D, class Where>
PTX_INLINE void attend_part(AttendSmem<D> &m, const Shape &s, const Part &part, int piece, int r,
                            const bf16 *q, const bf16 *k, const bf16 *v, Where where)
{
    const int t = (int)threadIdx.x, warp = t / 32, pieces = ceil_div(part.end, piece);
    int base = -32, known = 0;
    auto fetch = [&](int first, int stage) { // tokens first .. first + attend_step - 1; zeros past the end
        if (first / piece >= base + 32) { // steps are whole pieces, or pieces whole steps: 32 end with a step
            base = first / piece;
            known = base + t % 32 < pieces ? where(base + t % 32) : 0;
        }
        auto row_of = [&](const bf16 *kv, int row) {
            const int token = first + row;
            const int64_t key = (int64_t)shfl(known, token / piece - base) * piece + token % piece;
            return token < part.end ? kv + kv_at(s, key, r, D) : nullptr;
        };
        copy_rows<attend_threads>(m.k[stage], t, [&](int row) { return row_of(k, row); });
        copy_rows<attend_threads>(m.v[stage], t, [&](int row) { return row_of(v, row); });
        cp_async_commit();
    };
    copy_rows<attend_threads>(m.q, t, [&](int row) { return row < s.group ? q + row * D : nullptr; });
    fetch(part.first, 0);

    Softmax softmax = softmax_init();
    float o[D / 2] = {};
    for (int first = part.first, stage = 0; first < part.end; first += attend_step, stage ^= 1) {
        if (first + attend_step < part.end)
            fetch(first + attend_step, stage ^ 1);
        else
            cp_async_commit(); // an empty group, so that the wait below always leaves one
        cp_async_wait<1>();
        __syncthreads(); // this step's keys and values are there
        uint32_t my_q[D / 16][4], p[1][4];
        float x[8], keep[2];
        load_queries(my_q, m.q, 0);
        warp_scores(x, my_q, m.k[stage], 16 * warp);
        softmax_step<true>(softmax, x, keep, scale2<D>,
                           [&](int, int column) { return first + 16 * warp + column < part.end; });
        rescale(o, keep);
        pack_weights(p, x);
        warp_values(o, p, m.v[stage], 16 * warp);
        __syncthreads(); // all are done with the stage: the next fetch may fill it
    }
    store_warp(m, softmax, o);
    __syncthreads();
}

/// Leaves this part where the others find it; the last one of the row to do so merges all of them.
template <int D, class Out>
PTX_INLINE void finish_part(AttendSmem<D> &m, const Shape &s, const Part &part, int query, int r,
                            const Parts &parts, uint32_t *ticket, Out *o, float *lse)
{
    const int64_t row = lse_at(s, query, r * s.group);
    merge_warps(m, s.group, parts, row * parts.count + blockIdx.x);
    __syncthreads(); // the part, by all, before the ticket, by one
    if (threadIdx.x == 0)
        st_shared(&m.drawn, atom_add_acq_rel(ticket, 1u));
    __syncthreads(); // ... and the others' parts after their tickets
    if (ld_shared(&m.drawn) + 1 == (uint32_t)part.active)
        merge_group<D, attend_warps>(parts, row, s.group, part.active, m.weight, o, lse);
}

/* ---- Launches (host) --------------------------------------------------------------------------------- */

/// How many parts a row of at most `tokens` tokens has: a CTA for each SM, if there are tokens enough.
inline int parts_of(int rows, int tokens)
{
    const int ctas = rows > 0 && rows < sms() ? sms() / rows : 1;
    return smaller(ceil_div(tokens, attend_step), smaller(ctas, tuned(MSA_TUNE_attend_parts)));
}

#endif
