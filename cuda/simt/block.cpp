/**
 * @file block.cpp
 * @brief A CTA before its first thread runs, and the guards around its shared memory.
 */
#include "engine.h"

#include <algorithm>

namespace simt
{

static constexpr size_t guard = 1024;
static constexpr unsigned char guard_byte = 0xa5, poison_byte = 0xff;

Block::Block(const Launch &l, uint64_t linear_index)
    : launch(&l), launch_number(launches), linear(linear_index)
{
    index = {unsigned(linear % l.grid.x), unsigned(linear / l.grid.x % l.grid.y),
             unsigned(linear / l.grid.x / l.grid.y)};
    const unsigned n = l.block.x * l.block.y * l.block.z;
    threads.resize(n);
    order.resize(n);
    live = n;
    warps.resize((n + 31) / 32);
    for (unsigned i = 0; i < warps.size(); i++)
        warps[i].here = 0, warps[i].left = n - 32 * i < 32 ? (1u << (n - 32 * i)) - 1 : ~0u;
    grid_wait = (unsigned)warps.size();
    numbers = grid_wait + 1;
    warpgroups.resize((n + 127) / 128);
    registers = std::min(65536 / n / 8 * 8, 256u);
    for (Warpgroup &g : warpgroups)
        g.arrived = 0, g.registers = registers;
    if (options.timeline && (options.timeline_block < 0 || (uint64_t)options.timeline_block == linear))
        record.reset(new Record), record->threads.resize(n);
    for (NamedBarrier &b : barriers)
        b.expected = b.arrived = 0, b.phase = 0, b.all_waited = true, b.signal = new_signal(*this);
    memory.reset(new unsigned char[l.shared_bytes + 3 * guard]);
    shared = memory.get() + guard;
    shared += (guard - (uintptr_t)shared % guard) % guard;
    memset(shared - guard, guard_byte, guard);
    memset(shared, poison_byte, l.shared_bytes);
    memset(shared + l.shared_bytes, guard_byte, guard);
    random = (options.seed * 0x9e3779b97f4a7c15u) ^ ((linear + 1) * 0xd1b54a32d192ed03u);
    memset(&count, 0, sizeof count);
    count.blocks = 1;
    count.threads = n;
    memset(releases, 0, sizeof releases);
    triggered = false;
}

Block::~Block()
{
}

uint32_t Block::below(uint32_t n) // xorshift64*
{
    random ^= random >> 12;
    random ^= random << 25;
    random ^= random >> 27;
    return uint32_t((random * 0x2545f4914f6cdd1dull) >> 32) % n;
}

/// Finds writes up to so many bytes around the shared memory; `at` is the first place where they are seen.
static void check_around(Block &b, size_t bytes, const char *who, Site at)
{
    static const std::vector<unsigned char> intact(guard, guard_byte);
    const bool low = memcmp(b.shared - bytes, intact.data(), bytes) == 0;
    if (low && memcmp(b.shared + b.launch->shared_bytes, intact.data(), bytes) == 0)
        return;
    Thread &t = self();
    fail(at, "shared memory of %zu bytes was overrun %s by %s, after %s and not later than here",
         b.launch->shared_bytes, low ? "at its end" : "before its start", who, text(t.at).c_str());
}

/// Whether `n` words from p on are as they were: asked whenever a thread stops, and so without a call.
static bool intact(const unsigned char *p, int n)
{
    uint64_t word, changed = 0;
    for (int i = 0; i < n; i++) {
        memcpy(&word, p + 8 * i, 8);
        changed |= word ^ guard_byte * 0x0101010101010101u;
    }
    return !changed;
}

void check_edges(Block &b, Site at)
{
    constexpr int words = 8;
    if (!intact(b.shared - 8 * words, words) || !intact(b.shared + b.launch->shared_bytes, words))
        check_around(b, 8 * words, "this thread", at);
}

void check_guards(Block &b, Site at)
{
    check_edges(b, at);
    check_around(b, guard, "some thread", at);
}

void *shared_base(size_t bytes, Site at)
{
    Thread &t = self();
    if (bytes > t.block->launch->shared_bytes)
        fail(at, "the kernel's shared memory takes %zu bytes, the launch gave %zu", bytes,
             t.block->launch->shared_bytes);
    t.at = at;
    return t.block->shared;
}

} // namespace simt
