/**
 * @file chosen.h
 * @brief Which CTAs of a launch run, how many at the same time, and launches that are refused. Only engine.cpp includes
 *        this.
 */
#ifndef MSA_SIMT_CHOSEN_H
#define MSA_SIMT_CHOSEN_H

#include "engine.h"

namespace simt
{

/// The CTAs of a grid that run: all, or those that options.only picks.
struct Chosen {
    uint64_t all;
    std::vector<uint64_t> some;
    uint64_t size() const
    {
        return options.only ? some.size() : all;
    }
    uint64_t operator[](uint64_t i) const
    {
        return options.only ? some[i] : i;
    }
};

/// How many CTAs of a launch the GPU has room for at the same time, by the registers that each thread has.
static size_t fit(const Launch &l, unsigned registers)
{
    const unsigned threads = (l.block.x * l.block.y * l.block.z + 31) / 32 * 32;
    const size_t by_shared = (228 << 10) / (l.shared_bytes + 1024);
    const size_t each =
        std::min({(size_t)32, (size_t)(2048 / threads), by_shared, (size_t)(65536 / (threads * registers))});
    return std::max(each * (size_t)options.sms, (size_t)1);
}

static Chosen choose(const Launch &l)
{
    const uint64_t all = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
    Chosen c = {all, {}};
    for (uint64_t i = 0; options.only && i < all; i += l.cluster) {
        bool any = false; // of a cluster all run
        for (uint64_t k = i; k < i + l.cluster; k++)
            any |= options.only(l.name, launches, k, l.grid);
        for (uint64_t k = i; any && k < i + l.cluster; k++)
            c.some.push_back(k);
    }
    return c;
}

static const char *launch_error(const Launch &l)
{
    const uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z;
    if (threads < 1 || threads > 1024)
        return "a block has 1 to 1024 threads";
    if (l.grid.x < 1 || l.grid.y < 1 || l.grid.z < 1 || l.grid.y > 65535 || l.grid.z > 65535 ||
        l.grid.x > 0x7fffffff)
        return "a grid has 1 to 2^31-1, 65535, 65535 blocks";
    if (l.shared_bytes > 232448)
        return "a block has at most 232448 bytes (227 KB) of shared memory";
    if (l.cluster < 1 || l.cluster > 8 || l.grid.x % l.cluster)
        return "a cluster has 1 to 8 blocks, a divisor of the grid's first dimension";
    if (l.cluster > fit(l, 24))
        return "a cluster's blocks do not fit on the SMs at the same time";
    return nullptr;
}

} // namespace simt
#endif
