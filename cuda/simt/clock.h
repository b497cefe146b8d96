/**
 * @file clock.h
 * @brief What one knows of the others: vector clocks, and the gates that pass them on.
 */
#ifndef MSA_SIMT_CLOCK_H
#define MSA_SIMT_CLOCK_H

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace simt
{

struct Clock;
using Clocks = std::map<uint64_t, Clock>; ///< by CTA

/// What one knows of other CTAs, and what will be known after the next memory fence: what relaxed atomics
/// were told by those who had executed one.
struct Beyond {
    Clocks known, at_fence;
};
std::shared_ptr<const Beyond> joined(const std::shared_ptr<const Beyond> &a,
                                     const std::shared_ptr<const Beyond> &b);

/// What a thread, or a barrier for those who pass it, knows of the others: releases seen, by warp of the
/// CTA, and after the warps phases seen, by mbarrier.
struct Clock {
    uint32_t warp[32] = {};
    unsigned known = 0;                   ///< of these, the first so many: the others are 0
    std::vector<uint32_t> more;           ///< from number 32 on
    std::shared_ptr<const Beyond> beyond; ///< of other CTAs; NULL: nothing

    uint32_t operator[](unsigned w) const
    {
        return w < 32 ? warp[w] : w - 32 < more.size() ? more[w - 32] : 0;
    }
    void set(unsigned w, uint32_t count)
    {
        if (w >= 32 && w - 32 >= more.size())
            more.resize(w - 31);
        (w < 32 ? warp[w] : more[w - 32]) = count;
        known = std::max(known, std::min(w + 1, 32u));
    }
    void join(const Clock &o)
    {
        if (o.beyond && o.beyond != beyond)
            beyond = joined(beyond, o.beyond);
        known = std::max(known, o.known);
        for (unsigned i = 0; i < o.known; i++)
            warp[i] = warp[i] < o.warp[i] ? o.warp[i] : warp[i];
        if (more.size() < o.more.size())
            more.resize(o.more.size());
        for (size_t i = 0; i < o.more.size(); i++)
            more[i] = more[i] < o.more[i] ? o.more[i] : more[i];
    }
    void meet(const Clock &o) ///< leaves what both know
    {
        for (unsigned i = 0; i < 32 + more.size(); i++)
            set(i, (*this)[i] < o[i] ? (*this)[i] : o[i]);
    }
    bool knows(const Clock &o) const
    {
        bool all = true;
        for (unsigned i = 0; i < 32 + o.more.size(); i++)
            all &= (*this)[i] >= o[i];
        return all;
    }
};

/// What those who pass a barrier learn. The sides are ThreadSanitizer's, for phases of even and odd number:
/// who arrives for the next phase must not be known to those who still pass this one.
struct Gate {
    Clock gathering, complete; ///< of arrivals so far; of those up to the last complete phase
    char side[2];
};

} // namespace simt
#endif
