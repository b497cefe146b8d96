/**
 * @file line.cuh
 * @brief The stages of all requests as one line, cut into equal shares, one for each CTA, whatever the lengths in a
 *        batch are.
 */
#ifndef MSA_LINE_CUH
#define MSA_LINE_CUH

#include "decode.cuh"

namespace
{

constexpr int stage_keys = 128; ///< index keys

/// Request n has stages first[n] .. first[n + 1] - 1 of the line.
struct Line {
    int first[max_requests + 1];
};

PTX_INLINE int stages_of(const Shape &s)
{
    return ceil_div(competing_blocks(s) * s.block, stage_keys);
}
/// Sums up the requests' stages. Warp 0 calls it; a barrier of all has to follow.
PTX_INLINE void lay_line(Line &line, const Shape &largest, const Pages &pages, int batch)
{
    const int lane = (int)threadIdx.x;
    int sum = 0;
    for (int n0 = 0; n0 < batch; n0 += 32) {
        int x = n0 + lane < batch ? stages_of(request(largest, pages, n0 + lane)) : 0;
        for (int by = 1; by < 32; by *= 2) {
            const int before = shfl_up(x, (unsigned)by);
            x += lane >= by ? before : 0;
        }
        if (n0 + lane < batch)
            st_shared(&line.first[n0 + lane + 1], sum + x);
        sum += shfl(x, 31);
    }
    if (lane == 0)
        st_shared(&line.first[0], 0);
}

/// What a share has of one request: stages begin .. end - 1 of it. Segments of all requests are numbered
/// share + request: from one to the next one of the two grows.
struct Segment {
    int n, begin, end;
};
/// Shares of a line, of which none is empty: a short line does not need them all.
PTX_INLINE int shares_of(int total, int max_shares)
{
    return smaller(total, max_shares);
}
/// Calls f(segment, how many there were before) for those of the share of this CTA, of which there are `max_shares`.
template <class F> PTX_INLINE void each_segment(const Line &line, int batch, int max_shares, F f)
{
    const int64_t total = ld_shared(&line.first[batch]), share = blockIdx.x;
    const int shares = shares_of((int)total, max_shares);
    if (share >= shares)
        return;
    const int end = (int)((share + 1) * total / shares);
    int at = (int)(share * total / shares), n = 0;
    for (int number = 0; at < end; number++) {
        while (ld_shared(&line.first[n + 1]) <= at)
            n++;
        const int first = ld_shared(&line.first[n]), stop = smaller(end, ld_shared(&line.first[n + 1]));
        f(Segment{n, at - first, stop - first}, number);
        at = stop;
    }
}
/// The share that has stage `at`.
PTX_INLINE int share_of(int64_t at, int64_t total, int shares)
{
    return (int)(((at + 1) * shares - 1) / total);
}

/// The shares that have a part of request n: the first one, and how many.
struct SharesOf {
    int first, n;
};
PTX_INLINE SharesOf shares_of_request(const Line &line, int batch, int max_shares, int n)
{
    const int total = ld_shared(&line.first[batch]), shares = shares_of(total, max_shares);
    const int first = ld_shared(&line.first[n]), end = ld_shared(&line.first[n + 1]);
    if (first == end)
        return {0, 0};
    const int share = share_of(first, total, shares);
    return {share, share_of(end - 1, total, shares) + 1 - share};
}

} // namespace

#endif
