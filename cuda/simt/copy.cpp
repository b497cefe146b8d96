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

bool any_in_flight(const Block &b, Range r)
{
    if (b.pending.empty())
        return false;
    for (uint32_t i = r.begin / granule; i * granule < r.end; i++)
        if (b.in_flight[i])
            return true;
    return false;
}

static std::list<Pending>::iterator forget(Block &b, std::list<Pending>::iterator it)
{
    mark_in_flight(b, it->shared, -1);
    std::map<unsigned, unsigned> &groups = it->issuer->in_flight[it->kind];
    if (--groups[it->group] == 0)
        groups.erase(it->group);
    if (it == b.first_undone)
        ++b.first_undone;
    return b.pending.erase(it);
}

static void take_place(Block &b, Pending &p)
{
    if (p.done)
        return;
    p.done = true;
    b.undone--;
    const tsan::Acting acting(p.agent);
    p.take_place();
}

/// Who waits for a copy by an mbarrier needs not wait for it otherwise.
static void complete(Block &b, std::list<Pending>::iterator it)
{
    take_place(b, *it);
    if (it->kind == Pending::load)
        forget(b, it);
}

bool complete_one(Block &b)
{
    if (!b.undone)
        return false;
    // At random one of the oldest or the youngest: the way to others may be long.
    const bool random = options.timing == Timing::random, youngest = random && b.below(2);
    uint32_t n = random ? b.below(std::min(b.undone, 32u)) : 0;
    while (b.first_undone->done)
        ++b.first_undone;
    auto it = youngest ? std::prev(b.pending.end()) : b.first_undone;
    while (it->done || n-- > 0)
        youngest ? --it : ++it;
    complete(b, it);
    return true;
}

void issue(Block &b, Pending &&p)
{
    mark_in_flight(b, p.shared, 1);
    p.issuer->in_flight[p.kind][p.group]++;
    b.pending.push_back(std::move(p));
    if (b.undone++ == 0)
        b.first_undone = std::prev(b.pending.end());
    if (options.timing == Timing::early)
        complete(b, std::prev(b.pending.end()));
}

void finish_copies(Block &b)
{
    while (!b.pending.empty()) {
        const Pending &p = b.pending.front();
        if (p.kind != Pending::cp_async) // an unused cp.async does no harm; the others outlive shared memory
            fail(p.at, "the block ended before this copy was waited for");
        take_place(b, b.pending.front());
        forget(b, b.pending.begin());
    }
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
    const Thread *me = &self();
    const std::map<unsigned, unsigned> &left = me->in_flight[kind];
    for (auto p = b.pending.begin(); p != b.pending.end() && !left.empty() && left.begin()->first < limit;)
        if (p->kind == kind && p->issuer == me && p->group < limit) {
            take_place(b, *p);
            if (kind == Pending::cp_async)
                wrote_shared(b, p->shared, p->at); // as far as others know, now
            p = forget(b, p);
        } else {
            ++p;
        }
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
    auto take_place = [&b, &t, address, src, bytes, src_bytes, pc] {
        unsigned char *d = b.at(address);
        memset(d, 0, bytes);
        if (src_bytes)
            memcpy(d, src, src_bytes);
        tsan::reads(src, src_bytes, pc);
        tsan::writes(d, bytes, pc);
        tsan::release(&t.copied);
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
