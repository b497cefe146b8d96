/**
 * @file copy.cpp
 * @brief Asynchronous copies: when they take place, what they leave, and cp.async.
 *
 * A copy that was issued poisons its destination and takes place at once, as late as possible (when it is
 * waited for, or nobody can run without it) or at random.
 */
#include "engine.h"

#include <algorithm>

namespace simt
{

/* ---- When a copy takes place --------------------------------------------------------------------- */

/// Thousands of cp.async may be in flight, and every access asks for them: this says no at once.
static void mark_in_flight(Block &b, Range r, int by)
{
    if (b.in_flight.empty())
        b.in_flight.resize((Block::shared_window + b.launch->shared_bytes) / granule + 1);
    for (uint32_t i = r.begin / granule; i * granule < r.end; i++)
        b.in_flight[i] = uint16_t(b.in_flight[i] + by);
}

static bool any_in_flight(const Block &b, Range r)
{
    if (b.pending.empty() && b.done.empty())
        return false;
    for (uint32_t i = r.begin / granule; i * granule < r.end; i++)
        if (b.in_flight[i])
            return true;
    return false;
}

const Pending *copy_of(const Block &b, Range r, bool reads)
{
    if (any_in_flight(b, r))
        for (const Copies *copies : {&b.done, &b.pending})
            for (const Pending &p : *copies)
                if ((reads || p.kind != Pending::store) && p.shared.meets(r))
                    return &p;
    return nullptr;
}

static void forget(Block &b, Copies::iterator it)
{
    mark_in_flight(b, it->shared, -1);
    b.spare.splice(b.spare.begin(), b.done, it);
}

static void take_place(Block &b, Copies::iterator it)
{
    if (it->done)
        return;
    it->done = true;
    b.done.splice(b.done.end(), b.pending, it);
    const tsan::Acting acting(it->agent);
    it->take_place(*it);
}

/// Who waits for a copy by an mbarrier needs not wait for it otherwise.
static void complete(Block &b, Copies::iterator it)
{
    take_place(b, it);
    if (it->kind == Pending::load)
        forget(b, it);
}

bool complete_one(Block &b)
{
    if (b.pending.empty())
        return false;
    // At random one of the oldest or the youngest: the way to others may be long.
    const bool random = options.timing == Timing::random, youngest = random && b.below(2);
    uint32_t n = random ? b.below(std::min((uint32_t)b.pending.size(), 32u)) : 0;
    auto it = youngest ? std::prev(b.pending.end()) : b.pending.begin();
    while (n-- > 0)
        youngest ? --it : ++it;
    complete(b, it);
    return true;
}

void issue(Block &b, Pending &&p)
{
    mark_in_flight(b, p.shared, 1);
    if (b.spare.empty()) {
        b.pending.push_back(std::move(p));
    } else {
        b.pending.splice(b.pending.end(), b.spare, b.spare.begin());
        b.pending.back() = std::move(p);
    }
    const Copies::iterator it = std::prev(b.pending.end());
    if (it->kind != Pending::load)
        it->issuer->in_flight[it->kind].push_back(it);
    if (options.timing == Timing::early)
        complete(b, it);
}

void finish_copies(Block &b)
{
    for (const Copies *copies : {&b.done, &b.pending})
        for (const Pending &p : *copies)
            if (p.kind !=
                Pending::cp_async) // an unused cp.async does no harm; the others outlive shared memory
                fail(p.at, "the block ended before this copy was waited for");
    while (!b.pending.empty())
        take_place(b, b.pending.begin());
}

/// Nobody needs to have waited for what was overwritten.
void check_all_landed(const Block &b)
{
    Clock end;
    for (const Thread &t : b.threads)
        end.join(t.clock);
    for (const Landed &l : b.landed)
        if (l.granules && end[l.barrier] <= l.phase)
            fail(l.at, "the block ended before this copy was waited for");
}

void complete_groups(Block &b, Pending::Kind kind, unsigned limit)
{
    std::vector<Copies::iterator> &mine = self().in_flight[kind];
    size_t n = 0;
    for (; n < mine.size() && mine[n]->group < limit; n++) {
        take_place(b, mine[n]);
        if (kind == Pending::cp_async)
            wrote_shared(b, mine[n]->shared, mine[n]->at); // as far as others know, now
        forget(b, mine[n]);
    }
    mine.erase(mine.begin(), mine.begin() + (ptrdiff_t)n);
}

const Landed *landed_at(const Block &b, uint32_t address)
{
    const unsigned n = b.landing.empty() ? 0 : b.landing[address / granule];
    return n ? &b.landed[n - 1] : nullptr;
}

void note_landing(Block &b, Range r, const Landed &l)
{
    if (b.landing.empty())
        b.landing.resize((Block::shared_window + b.launch->shared_bytes) / granule + 1);
    for (uint32_t i = r.begin / granule; i * granule < r.end; i++)
        if (b.landing[i])
            b.landed[b.landing[i] - 1u].granules--;
    size_t n = 0; // an entry of which nothing is left is used again
    while (n < b.landed.size() && b.landed[n].granules)
        n++;
    if (n == b.landed.size())
        b.landed.emplace_back();
    b.landed[n] = l;
    b.landed[n].granules = (r.end - r.begin) / granule;
    std::fill(b.landing.begin() + r.begin / granule, b.landing.begin() + r.end / granule, uint16_t(n + 1));
}

/* ---- cp.async ------------------------------------------------------------------------------------ */

void cp_async(void *dst, const void *src, unsigned bytes, unsigned src_bytes, Site at)
{
    Thread &t = self();
    Block &b = *t.block;
    if ((bytes != 4 && bytes != 8 && bytes != 16) || src_bytes > bytes)
        fail(at, "cp.async of %u of %u bytes: expected at most all of 4, 8 or 16", src_bytes, bytes);
    touch_shared(dst, bytes, true, at);
    if (src_bytes) {
        check_global(src, src_bytes, "cp.async", at);
        if ((uintptr_t)src % bytes)
            fail(at, "cp.async: the source is not aligned to %u bytes", bytes);
        order_global(src, src_bytes, Does::read, "cp.async", at);
        count_access(b, t, Traffic::global_load, (uint64_t)(uintptr_t)src, src_bytes, at);
    }
    const uint32_t address = shared_checked(dst, bytes, bytes, "cp.async", at);
    memset(dst, 0xff, bytes);
    note_queued(t, Queue::cp_async, src_bytes, t.cp_groups, at);
    void *const pc = CALLER;
    tsan::writes(dst, bytes, pc);
    auto take_place = [src, src_bytes](const Pending &p) { // so little that it needs no memory of its own
        const uint32_t n = p.shared.end - p.shared.begin;
        unsigned char *d = p.issuer->block->at(p.shared.begin);
        memset(d, 0, n);
        if (src_bytes)
            memcpy(d, src, src_bytes);
        tsan::reads(src, src_bytes, p.agent.pc);
        tsan::writes(d, n, p.agent.pc);
        tsan::release(&p.issuer->copied);
    };
    issue(b,
          {Pending::cp_async, &t, t.cp_groups, {address, address + bytes}, at, take_place, tsan::Agent(pc)});
}

void cp_async_commit(Site at)
{
    self().cp_groups++;
    self().at = at;
}

void cp_async_wait(int pending, Site at)
{
    Thread &t = self();
    t.at = at;
    if (pending >= (int)t.cp_groups)
        return;
    const unsigned limit = t.cp_groups - (unsigned)pending;
    complete_groups(*t.block, Pending::cp_async, limit);
    tsan::acquire(&t.copied);
    note_wait(t, Did::wait_copy, Queue::cp_async, limit, at);
}

} // namespace simt
