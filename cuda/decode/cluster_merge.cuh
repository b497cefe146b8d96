/**
 * @file cluster_merge.cuh
 * @brief The parts of a row of attention, one for each CTA of a cluster, merged in the cluster's shared memory.
 *
 * Each CTA merges some of the group's heads. Who has attended to its part stores what it found for a head where that
 * head is merged, and when all of the cluster have done so, each head's sums lie in one SM. So no part goes to memory
 * and back, nobody draws a ticket, and all CTAs merge. Parts are added up in their order: the result is the same each
 * time.
 */
#ifndef MSA_CLUSTER_MERGE_CUH
#define MSA_CLUSTER_MERGE_CUH

#include "split_attend.cuh"

constexpr int max_cluster = 8; ///< CTAs, that every GPU with clusters has room for

/// What the parts found for the heads that this CTA merges: of head slot h and part a in row a 2^bits + h.
template <int D> struct MergeSmem {
    alignas(16) float o[2 * max_group * D];
    alignas(16) float2 ml[2 * max_group * attend_warps]; ///< maximum and, of each warp's own tokens, the sum
};

/// A CTA merges 2^bits heads, the next power of two of its even share: the others of the row that have tokens as many, but
/// the last ones fewer or none. Two times as many as heads are the most rows of MergeSmem.
PTX_INLINE int head_bits(int group, const Part &part)
{
    const int share = ceil_div(group, part.active);
    return share > 1 ? 32 - __clz(share - 1) : 0;
}

/// Leaves this part where its heads are merged, which are CTAs that have started: so after cluster_wait(). Then the CTA
/// meets the others once more.
template <int D> PTX_INLINE void send_part(MergeSmem<D> &m, const Shape &s, int bits, const Attended<D> &sum)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    // [send]
    const float l[2] = {softmax_sum(sum.softmax, 0), softmax_sum(sum.softmax, 1)};
    for (int half = 0; half < 2; half++) {
        const int h = fragment_row(lane, half), row = ((int)blockIdx.x << bits) + (h & ((1 << bits) - 1));
        if (h >= s.group)
            continue;
        for (int i = 2 * half; i < D / 16; i += 4)
            st_remote(mapa((const float2 *)&m.o[row * D + D / attend_warps * warp + fragment_d(lane, i).col],
                           (unsigned)(h >> bits)),
                      make_float2(sum.o[i], sum.o[i + 1]));
        if (lane % 4 == 0)
            st_remote(mapa(&m.ml[row * attend_warps + warp], (unsigned)(h >> bits)),
                      make_float2(sum.softmax.m[half], l[half]));
    }
    cluster_arrive();
    cluster_wait(); // all parts of this CTA's heads are there
    // [send]
}

/// O and LSE of this CTA's heads; number `row` is that of the group's first. A warp takes 64 channels of a head at a time. Of
/// each part four lanes have the sums of two warps, and a lane adds up two channels of all parts.
// [merge_heads]
template <int D, class Out>
PTX_INLINE void merge_heads(MergeSmem<D> &m, const Shape &s, int bits, int active, int64_t row, Out *o,
                            float *lse)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, part = lane / 4;
    ROLLED
    for (int turn = warp; turn < D / 64 << bits; turn += attend_warps) {
        const int slot = turn / (D / 64), h = ((int)blockIdx.x << bits) + slot,
                  column = turn % (D / 64) * 64 + 2 * lane;
        if (h >= s.group)
            break;
        float4 ml = make_float4(minus_infinity(), 0, minus_infinity(), 0);
        float2 x[max_cluster] = {}, sum = {};
        if (part < active)
            ml = ld_shared((const float4 *)&m.ml[((part << bits) + slot) * attend_warps + lane % 4 * 2]);
        UNROLL
        for (int a = 0; a < max_cluster; a++)
            if (a < active)
                x[a] = ld_shared((const float2 *)&m.o[slot * D + column] + a * (D / 2 << bits));
        float top = ml.x, l = ml.y + ml.w;
        for (int with = 1; with < 4; with *= 2)
            l += shfl_xor(l, with);
        for (int with = 4; with < 32; with *= 2)
            top = fmaxf(top, shfl_xor(top, with));
        const float weight = ex2(ml.x - top);
        l *= weight;
        for (int with = 4; with < 32; with *= 2)
            l += shfl_xor(l, with);
        UNROLL
        for (int a = 0; a < max_cluster; a++) {
            const float w = shfl(weight, 4 * a);
            sum = make_float2(sum.x + w * x[a].x, sum.y + w * x[a].y);
        }
        const float inverse = 1 / l;
        store_2(o + (row + h) * D + column, make_float2(sum.x * inverse, sum.y * inverse));
        if (column == 0 && recomputed(lse != nullptr)) // or there would be two loops
            st_global(lse + row + h, lse_of(top, l));
    }
}
// [merge_heads]

/// How many CTAs a row's cluster has: one for each part of parts_of(), but a power of two.
inline int cluster_of(int rows, int tokens, int least)
{
    const int parts = smaller(parts_of(rows, tokens, least), max_cluster);
    int n = 1;
    while (2 * n <= parts)
        n *= 2;
    return n;
}

#endif
