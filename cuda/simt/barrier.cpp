/**
 * @file barrier.cpp
 * @brief A CTA's barrier, named ones, mbarriers, and the pool of registers.
 */
#include "engine.h"

#include <algorithm>

namespace simt
{

/* ---- bar.sync, bar.arrive ------------------------------------------------------------------------------ */

struct BarrierPhase : Condition {
    NamedBarrier &bar;
    unsigned id;
    uint64_t phase;
    BarrierPhase(NamedBarrier &b, unsigned i) : bar(b), id(i), phase(b.phase)
    {
    }
    bool ready() override
    {
        return bar.phase != phase;
    }
    std::string text() override
    {
        return format("barrier %u, where %u of %u threads have arrived, wait", id, bar.arrived, bar.expected);
    }
};

/// The hardware counts warps: whoever comes, its whole warp has come, and has to come at the same place.
static void arrive_in_warp(NamedBarrier &bar, unsigned id, Site at)
{
    const Thread &t = self();
    const unsigned warps = ((unsigned)t.block->threads.size() + 31) / 32, w = t.index / 32;
    if (bar.lanes.empty()) {
        bar.lanes.resize(warps);
        bar.where.resize(warps);
    }
    if (bar.lanes[w] && !(bar.where[w] == at))
        fail(at, "barrier %u: another lane of the warp is at %s, but a warp arrives as one", id,
             text(bar.where[w]).c_str());
    bar.lanes[w] |= 1u << t.lane();
    bar.where[w] = at;
}

/// Nobody may be missing in a warp that has counted as a whole.
static void check_warps(NamedBarrier &bar, unsigned id)
{
    const Block &b = *self().block;
    for (unsigned i = 0; i < b.threads.size(); i++)
        if (bar.lanes[i / 32] && !(bar.lanes[i / 32] >> i % 32 & 1))
            fail(bar.where[i / 32],
                 "barrier %u: lanes 0x%08x of a warp arrive, not thread %u: a barrier counts "
                 "whole warps",
                 id, bar.lanes[i / 32], i);
    std::fill(bar.lanes.begin(), bar.lanes.end(), 0u);
}

/// Else this may count where others have not all arrived yet, and they hang or go on too early.
static void check_over(const NamedBarrier &bar, unsigned id, Site at)
{
    if (!bar.all_waited && !self().clock.knows(bar.gate.complete))
        fail(at, "barrier %u: nothing tells this thread that the phase before is over; this may count there",
             id);
}

static NamedBarrier &arrive(unsigned id, unsigned n, Site at)
{
    Thread &t = self();
    Block &b = *t.block;
    if (id > 15)
        fail(at, "barrier %u: there are 16", id);
    if (n % 32 || n == 0 || n > (b.threads.size() + 31) / 32 * 32)
        fail(at, "barrier %u for %u threads: expected a multiple of 32, at most the block", id, n);
    NamedBarrier &bar = b.barriers[id];
    if (bar.arrived == 0) {
        bar.expected = n;
        bar.first = at;
    } else if (bar.expected != n) {
        fail(at, "barrier %u for %u threads, but for %u at %s", id, n, bar.expected, text(bar.first).c_str());
    }
    check_over(bar, id, at);
    bar.arrived++;
    b.count.barriers += t.lane() == 0;
    arrive_in_warp(bar, id, at);
    return bar;
}

static void pass(NamedBarrier &bar, unsigned id, bool wait, bool all_wait, Site at)
{
    Thread &t = self();
    BarrierPhase phase(bar, id);
    publish(bar.gate, bar.phase);
    note_signal(t, Did::wait_barrier, bar.signal, id, true, wait, at);
    if (bar.arrived == bar.expected) {
        if (!bar.lanes.empty())
            check_warps(bar, id);
        check_guards(*t.block, at);
        bar.arrived = 0;
        bar.phase++;
        bar.all_waited = all_wait;
        bar.gate.complete = bar.gate.gathering;
        bar.signal = new_signal(*t.block);
    }
    if (!wait)
        return;
    wait_for(phase, at);
    learn(bar.gate, phase.phase);
}

void bar_sync(unsigned id, unsigned n, Site at)
{
    pass(arrive(id, n, at), id, true, false, at);
}

void bar_arrive(unsigned id, unsigned n, Site at)
{
    pass(arrive(id, n, at), id, false, false, at);
}

/// Barrier 0 for all, from one place in the source: CUDA asks that a __syncthreads() in a branch be taken by
/// the whole CTA or by nobody.
void sync_threads(Site at)
{
    Block &b = *self().block;
    for (size_t i = 0; b.live < b.threads.size() && i < b.threads.size(); i++)
        if (b.threads[i].done)
            fail(at, "divergent barrier: __syncthreads() after thread %u has exited", b.threads[i].index);
    NamedBarrier &bar = b.barriers[0];
    if (bar.arrived && !(bar.first == at))
        fail(at, "divergent barrier: __syncthreads() while other threads wait in the one at %s",
             text(bar.first).c_str());
    check_over(bar, 0, at);
    // A last warp that is not full counts by its threads here.
    if (bar.arrived == 0) {
        bar.first = at;
        bar.expected = (unsigned)b.threads.size();
    }
    bar.arrived++;
    b.count.barriers += self().lane() == 0;
    pass(bar, 0, true, true, at);
}

/* ---- mbarrier ------------------------------------------------------------------------------------------ */

constexpr int64_t byte_limit = byte_limit_of_barrier;

/// What the engine keeps in the barrier's own 8 bytes, to see when a kernel writes there.
static uint64_t cookie(uint32_t address)
{
    return 0x6261727269657200u + ((uint64_t)address << 40);
}

Mbarrier &find_mbarrier(uint64_t *p, const char *what, Site at)
{
    Block &b = *self().block;
    const uint32_t address = shared_checked(p, 8, 8, what, at);
    auto found = b.mbarriers.find(address);
    if (found == b.mbarriers.end())
        fail(at, "%s: no mbarrier was initialised at shared address %u", what, address);
    uint64_t bits;
    memcpy(&bits, p, 8);
    if (bits != cookie(address))
        fail(at, "%s: the mbarrier at shared address %u, initialised at %s, was overwritten", what, address,
             text(found->second.init).c_str());
    Mbarrier &m = found->second;
    if (!ordered(self(), m.owner, m.initialised))
        fail(at, "%s: thread %u initialised this mbarrier at %s, with no barrier since", what, m.owner,
             text(m.init).c_str());
    return m;
}

void mbarrier_init(uint64_t *p, uint32_t count, Site at)
{
    Thread &t = self();
    Block &b = *t.block;
    const uint32_t address = shared_checked(p, 8, 8, "mbarrier.init", at);
    if (count < 1 || count > byte_limit)
        fail(at, "mbarrier.init with count %u: expected 1 to 2^20-1", count);
    if (b.mbarriers.count(address))
        fail(at, "mbarrier.init: there is one at shared address %u since %s", address,
             text(b.mbarriers[address].init).c_str());
    const uint64_t bits = cookie(address);
    memcpy(p, &bits, 8);
    b.mbarriers[address] = {
        count,         count, 0,          0,      false,   t.index,
        stamp(t),      at,    at,         Gate(), Clock(), std::vector<uint64_t>(b.threads.size()),
        new_signal(b), 0,     b.numbers++};
}

void mbarrier_fence_init(Site)
{
    Thread &t = self();
    for (auto &m : t.block->mbarriers)
        if (m.second.owner == t.index)
            m.second.fenced = true;
}

static void turn(Block &b, Mbarrier &m, uint32_t address, Site at)
{
    if (m.pending)
        return;
    if (m.bytes < 0)
        fail(at,
             "byte-count mismatch: %lld bytes more than expected at %s have arrived at the mbarrier at "
             "shared address %u",
             (long long)-m.bytes, text(m.expect).c_str(), address);
    if (m.bytes == 0) {
        m.phase++;
        m.pending = m.count;
        m.earlier = m.gate.complete;
        m.gate.gathering.set(m.number, (uint32_t)m.phase); // who passes knows what has landed
        m.gate.complete = m.gate.gathering;
        m.last = m.signal;
        m.signal = new_signal(b);
    }
}

static void expect(Mbarrier &m, int64_t bytes, Site at)
{
    m.bytes += bytes;
    m.expect = at;
    if (bytes < 0 || m.bytes > byte_limit)
        fail(at, "expect_tx of %lld bytes leaves %lld: the limit is 2^20-1", (long long)bytes,
             (long long)m.bytes);
}

/// A thread that arrives knows that the phases before are over.
static void check_early(const Mbarrier &m, uint32_t address, Site at)
{
    if (self().clock[m.number] < m.phase)
        fail(
            at,
            "nothing tells this thread that phase %llu of the mbarrier at shared address %u (of %s) is over; "
            "this arrival may count there",
            (unsigned long long)m.phase - 1, address, text(m.init).c_str());
}

static void arrive(Block &b, Mbarrier &m, uint32_t address, uint32_t count, Site at)
{
    if (count > m.pending)
        fail(at,
             "over-arrival: %u at an mbarrier that expects %u more in phase %llu (count %u, initialised at "
             "%s)",
             count, m.pending, (unsigned long long)m.phase, m.count, text(m.init).c_str());
    m.pending -= count;
    turn(b, m, address, at);
}

void mbarrier_arrive(uint64_t *p, uint32_t count, int64_t expected_bytes, Site at)
{
    Thread &t = self();
    Mbarrier &m = find_mbarrier(p, "mbarrier.arrive", at);
    check_early(m, shared_address(p, at), at);
    if (expected_bytes)
        expect(m, expected_bytes, at);
    publish(m.gate, m.phase);
    t.at = at;
    note_signal(t, Did::wait_mbarrier, m.signal, 0, true, false, at);
    arrive(*t.block, m, shared_address(p, at), count, at);
    if (count == m.count && !expected_bytes)
        t.clock.set(m.number, (uint32_t)m.phase); // it needed nobody else
}

void mbarrier_complete(Block &b, uint32_t address, int64_t bytes, Site at)
{
    auto found = b.mbarriers.find(address);
    if (found == b.mbarriers.end())
        fail(at, "the mbarrier of this copy is gone before its bytes have arrived");
    Mbarrier &m = found->second;
    m.bytes -= bytes;
    tsan::release(&m.gate.side[m.phase & 1]);
    if (m.bytes < -byte_limit)
        fail(at, "more than 2^20-1 bytes have arrived that nobody expected");
    turn(b, m, address, at);
}

struct PhaseDone : Condition {
    Mbarrier &m;
    uint32_t address;
    unsigned parity;
    PhaseDone(Mbarrier &b, uint32_t a, unsigned p) : m(b), address(a), parity(p)
    {
    }
    bool ready() override
    {
        return (m.phase & 1) != parity;
    }
    std::string text() override
    {
        return format("mbarrier at shared address %u (of %s), parity %u, in phase %llu: %u of %u arrivals "
                      "and %lld bytes missing",
                      address, simt::text(m.init).c_str(), parity, (unsigned long long)m.phase, m.pending,
                      m.count, (long long)m.bytes);
    }
};

static void note_phase(const PhaseDone &p, Site at)
{
    const unsigned signal = (p.m.phase & 1) != p.parity ? p.m.last : p.m.signal;
    note_signal(self(), Did::wait_mbarrier, signal, p.address - Block::shared_window, false, true, at);
}

/// Only the current phase and the one before can be told from others. A thread that waits for phase after
/// phase must not come later; one that skips phases must know by other means that they are over.
static void check_late(const PhaseDone &p, const char *what, Site at)
{
    const uint64_t next = p.m.passed[self().index];
    if ((next & 1) == p.parity && p.m.phase > next + 1 && !self().clock.knows(p.m.earlier))
        fail(
            at,
            "%s comes too late: the mbarrier at shared address %u (of %s) is in phase %llu, and parity %u no "
            "longer tells phase %llu, the next for this thread",
            what, p.address, text(p.m.init).c_str(), (unsigned long long)p.m.phase, p.parity,
            (unsigned long long)next);
}

static PhaseDone wait_condition(uint64_t *p, unsigned parity, Site at)
{
    const char *const what = "mbarrier.try_wait";
    if (parity > 1)
        fail(at, "%s with parity %u: expected 0 or 1", what, parity);
    const PhaseDone phase(find_mbarrier(p, what, at), shared_address(p, at), parity);
    check_late(phase, what, at);
    return phase;
}

void mbarrier_wait(uint64_t *p, unsigned parity, Site at)
{
    PhaseDone phase = wait_condition(p, parity, at);
    Counters &count = self().block->count;
    count.mbarrier_waits++;
    count.mbarrier_stalls += !phase.ready();
    note_phase(phase, at);
    wait_for(phase, at);
    learn(phase.m.gate, phase.parity);
    phase.m.passed[self().index] = phase.m.phase;
}

/* ---- setmaxnreg ---------------------------------------------------------------------------------- */

struct Pool : Condition {
    Block &b; ///< has as many as its launch got: entry registers times threads
    Warpgroup &g;
    unsigned n;
    Pool(Block &block, Warpgroup &group, unsigned wanted) : b(block), g(group), n(wanted)
    {
    }
    bool ready() override
    {
        unsigned sum = n;
        for (Warpgroup &o : b.warpgroups)
            sum += &o == &g ? 0 : o.registers;
        return sum <= b.registers * b.warpgroups.size();
    }
    std::string text() override
    {
        return format(
            "setmaxnreg.inc to %u waits for registers that others give back: the launch got %zu times "
            "%u for each warpgroup",
            n, b.warpgroups.size(), b.registers);
    }
};

struct RegisterLane {
    unsigned n;
    Site at;
};

void setmaxnreg(unsigned n, bool increase, Site at)
{
    Thread &t = self();
    Block &b = *t.block;
    Warpgroup &g = b.warpgroups[t.index / 128];
    if (n < 24 || n > 256 || n % 8)
        fail(at, "setmaxnreg %u: expected a multiple of 8 from 24 to 256", n);
    if (increase ? g.registers > n : g.registers < n)
        fail(at, "setmaxnreg.%s to %u from %u registers", increase ? "inc" : "dec", n, g.registers);
    occupy(b);
    Pool pool(b, g, n);
    if (increase)
        wait_for(pool, at);
    RegisterLane l = {n, at};
    converge(
        "setmaxnreg", 0, &l,
        [](void **args) {
            Thread &last = self();
            last.block->warpgroups[last.index / 128].registers = ((RegisterLane *)args[0])->n;
        },
        at);
}

} // namespace simt
