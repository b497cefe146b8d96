/**
 * @file traffic.cpp
 * @brief Exact traffic of named accesses: bytes, sectors and bank conflicts of what the lanes of a warp do
 * together.
 */
#include "engine.h"

#include <algorithm>

namespace simt
{

/// Passes over the 32 banks of 4 bytes: 8-byte accesses go by half warps, 16-byte ones by quarters.
static unsigned passes(const Access &a, unsigned *least)
{
    const unsigned lanes = a.bytes <= 4 ? 32 : 128 / a.bytes;
    unsigned sum = 0;
    *least = 0;
    for (unsigned first = 0; first < 32; first += lanes) {
        uint64_t bank[32][32]; // the words that are asked of each
        unsigned words[32] = {}, most = 0;
        for (unsigned l = first; l < first + lanes; l++)
            for (unsigned w = 0; a.lanes >> l & 1 && w < (a.bytes + 3) / 4; w++) {
                const uint64_t word = a.address[l] / 4 + w;
                uint64_t *in = bank[word % 32];
                unsigned &n = words[word % 32];
                if (std::find(in, in + n, word) == in + n)
                    in[n++] = word;
                most = std::max(most, n);
            }
        sum += most;
        *least += most > 0;
    }
    return sum;
}

static unsigned sectors(const Access &a)
{
    uint64_t seen[32];
    unsigned n = 0;
    for (unsigned l = 0; l < 32; l++) {
        if (!(a.lanes >> l & 1))
            continue;
        bool known = false; // aligned accesses of up to 32 bytes lie in one sector
        for (unsigned i = 0; i < n; i++)
            known |= seen[i] == a.address[l] / 32;
        if (!known)
            seen[n++] = a.address[l] / 32;
    }
    return n;
}

static void account(Block &b, Traffic kind, const Access &a)
{
    Counters &c = b.count;
    const uint64_t bytes = (uint64_t)__builtin_popcount(a.lanes) * a.bytes;
    if (kind == Traffic::global_load) {
        c.load_bytes += bytes;
        c.load_sectors += sectors(a);
    } else if (kind == Traffic::global_store) {
        c.store_bytes += bytes;
        c.store_sectors += sectors(a);
    } else {
        unsigned least;
        const unsigned taken = passes(a, &least);
        c.shared_accesses++;
        c.shared_conflicts += taken - least;
    }
}

static Stream &stream_of(Block &b, const Instruction &i)
{
    auto *&recent = b.warps[i.warp].recent[((unsigned)i.at.line * 4 + (unsigned)i.kind) % 16];
    if (!recent || !(recent->first == i))
        recent = &*b.streams.try_emplace(i).first;
    return recent->second;
}

/// The n-th execution by the warp, as far as its lanes have come.
static Access nth_of(const Stream &s, size_t n, unsigned bytes)
{
    Access a;
    a.lanes = 0;
    a.bytes = bytes;
    for (unsigned l = 0; l < 32; l++)
        if (s.address[l].size() > n) {
            a.address[l] = s.address[l][n];
            a.lanes |= 1u << l;
        }
    return a;
}

/// The n-th execution of an instruction by each lane belongs to the n-th execution by the warp.
void count_access(Block &b, Thread &t, Traffic kind, uint64_t address, unsigned bytes, Site at)
{
    if (options.watch)
        options.watch({address, bytes, kind == Traffic::shared_load || kind == Traffic::shared_store,
                       kind == Traffic::shared_store || kind == Traffic::global_store, b.linear, t.index,
                       (unsigned)at.line, stamp(t), t.clock.warp});
    Stream &s = stream_of(b, {at, t.index / 32, kind, bytes});
    std::vector<uint64_t> &mine = s.address[t.lane()];
    mine.push_back(address);
    if (mine.size() != s.whole + 1 || --s.behind > 0)
        return;
    account(b, kind, nth_of(s, s.whole++, bytes));
    for (const auto &lane : s.address)
        s.behind += lane.size() == s.whole;
    if (s.behind < 32)
        return;
    s.whole = 0;
    for (auto &lane : s.address)
        lane.clear();
}

void finish_counts(Block &b)
{
    for (const auto &s : b.streams) {
        Access a; // what some lanes have not come to
        for (size_t n = s.second.whole; (a = nth_of(s.second, n, s.first.bytes)).lanes; n++)
            account(b, s.first.kind, a);
    }
    b.streams.clear();
}

} // namespace simt
