/**
 * @file memory.cpp
 * @brief Memory accesses by named helpers: bounds, races that barriers do not order, proxies.
 */
#include "engine.h"

#include <algorithm>

namespace simt
{

/* ---- Bounds -------------------------------------------------------------------------------------- */

uint32_t shared_checked(const void *p, uint64_t bytes, unsigned align, const char *what, Site at)
{
    const Block &b = *self().block;
    const uint64_t offset = (uint64_t)((const unsigned char *)p - b.shared); // wraps below the start
    if (offset > b.launch->shared_bytes || bytes > b.launch->shared_bytes - offset)
        fail(at, "%s: %llu bytes at offset %lld are not inside the %zu bytes of shared memory", what,
             (unsigned long long)bytes, (long long)offset, b.launch->shared_bytes);
    if (offset % align)
        fail(at, "%s: shared offset %llu is not a multiple of %u", what, (unsigned long long)offset, align);
    return (uint32_t)offset + Block::shared_window;
}

uint32_t shared_address(const void *p, Site at)
{
    return shared_checked(p, 0, 1, "shared address", at);
}

std::vector<Global> globals;

void declare_global(const void *start, size_t bytes, const char *name)
{
    globals.push_back({(const unsigned char *)start, bytes, name});
}

void forget_globals()
{
    globals.clear();
    spoil(nullptr, 0);
    forget_output();
}

void check_global(const void *p, uint64_t bytes, const char *what, Site at)
{
    const unsigned char *c = (const unsigned char *)p;
    size_t &last = self().block->global;
    if (last < globals.size() && globals[last].holds(c, bytes))
        return;
    const Global *nearest = nullptr;
    for (const Global &g : globals) {
        if (g.holds(c, bytes)) {
            last = (size_t)(&g - globals.data());
            return;
        }
        if (c >= g.start && (!nearest || g.start > nearest->start))
            nearest = &g;
    }
    if (nearest)
        fail(at, "%s: %llu bytes, %td after the start of `%s`, which has %zu", what,
             (unsigned long long)bytes, c - nearest->start, nearest->name.c_str(), nearest->bytes);
    if (!globals.empty())
        fail(at, "%s: %llu bytes outside all declared buffers", what, (unsigned long long)bytes);
}

void require(bool ok, const char *what, Site at)
{
    if (!ok)
        fail(at, "not so: %s", what);
}

void leaves_array(size_t bytes, size_t rest, Site at)
{
    fail(at, "%zu bytes past the end of their array: %zu bytes of it are left from here on", bytes, rest);
}

/* ---- Races and proxies --------------------------------------------------------------------------- */

static Word *words(Block &b, Range r)
{
    if (b.words.empty())
        b.words.resize(b.launch->shared_bytes / 4 + 1);
    return b.words.data() + (r.begin - Block::shared_window) / 4;
}

/// A write collides with every copy in flight, a read only with those that write.
static void check_in_flight(Block &b, Range r, bool write, const char *what, Site at)
{
    if (const Pending *p = copy_of(b, r, write))
        fail(at, "%s: the copy into or from these bytes, issued at %s, has not been waited for", what,
             text(p->at).c_str());
}

static void fail_race(unsigned who, const char *did, Site where, Site at)
{
    fail(at, "race: thread %u %s this shared word at %s, and no barrier orders the two", who - 1, did,
         text(where).c_str());
}

static void check_ordered(const Thread &me, unsigned who, uint32_t when, const char *did, Site where, Site at)
{
    if (who && !ordered(me, who - 1, when))
        fail_race(who, did, where, at);
}

/// What a bulk copy brought belongs to those who waited on its mbarrier, and to those whom they told.
static void check_landed(const Block &b, const Clock &known, uint32_t address, const char *what, Site at)
{
    const Landed *l = landed_at(b, address);
    if (l && known[l->barrier] <= l->phase)
        fail(at, "%s: the copy into these bytes, issued at %s, has not been waited for on its mbarrier", what,
             text(l->at).c_str());
}

static void read_word(Thread &t, Word &w, Site at)
{
    check_ordered(t, w.writer, w.written, "wrote", w.wrote, at);
    if (w.reader[0] != t.index + 1) {
        w.reader[1] = w.reader[0];
        w.read_fences[1] = w.read_fences[0];
        w.was_read[1] = w.was_read[0];
        w.read[1] = w.read[0];
    }
    w.reader[0] = uint16_t(t.index + 1);
    w.read_fences[0] = uint16_t(t.fences.size());
    w.was_read[0] = stamp(t);
    w.read[0] = at;
}

static void check_readers(const Thread &t, const Word &w, Site at)
{
    for (int i = 0; i < 2; i++)
        check_ordered(t, w.reader[i], w.was_read[i], "read", w.read[i], at);
}

static void note_write(const Thread &t, Word &w, bool whole, Site at)
{
    w.writer =
        whole ? uint16_t(t.index + 1) : 0; // the halves of a word may belong to two threads: blame nobody
    w.author = uint16_t(t.index + 1);
    w.fences = uint16_t(t.fences.size());
    w.written = stamp(t);
    w.wrote = at;
}

static void write_word(const Thread &t, Word &w, bool whole, bool atomic, Site at)
{
    if (whole) {
        check_readers(t, w, at);
        if (!(atomic && w.atomic))
            check_ordered(t, w.writer, w.written, "wrote", w.wrote, at);
    }
    note_write(t, w, whole, at);
    w.atomic = atomic;
}

void wrote_shared(Block &b, Range r, Site at)
{
    Word *w = words(b, r);
    for (unsigned i = 0; i < (r.end - r.begin) / 4; i++)
        note_write(self(), w[i], true, at);
}

bool known_written(Block &b, Range r)
{
    return landed_at(b, r.begin) || (!b.words.empty() && words(b, r)->wrote.file);
}

void check_written(Block &b, Range r, const char *what, Site at)
{
    static const unsigned char poison[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                             0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const uint32_t n = r.end - r.begin;
    if (n >= 2 && n <= 16 && memcmp(b.at(r.begin), poison, n) == 0 && !known_written(b, r))
        fail(at, "%s: nobody has written these shared bytes (offset %u)", what,
             r.begin - Block::shared_window);
}

void reads_shared(Block &b, Range r, const char *what, Site at)
{
    check_in_flight(b, r, false, what, at);
    check_landed(b, self().clock, r.begin, what, at);
    check_visits(b, r, what, at);
    Word *w = words(b, r);
    for (unsigned i = 0; i < (r.end - r.begin + 3) / 4; i++)
        read_word(self(), w[i], at);
    check_written(b, r, what, at);
}

static void writes_shared(Block &b, Range r, bool atomic, const char *what, Site at)
{
    const unsigned bytes = r.end - r.begin;
    check_in_flight(b, r, true, what, at);
    check_landed(b, self().clock, r.begin, what, at);
    check_products(b, r, what, at);
    if (ever_multiplied(b, r))
        check_read(b, r, what, at);
    check_visits(b, r, what, at);
    Word *w = words(b, r);
    for (unsigned i = 0; i < (bytes + 3) / 4; i++)
        write_word(self(), w[i], bytes >= 4, atomic, at);
}

/// The words' own threads are those of another CTA, of which this thread knows by its cluster's barrier.
void visits_shared(Block &b, Range r, const char *what, Site at)
{
    check_in_flight(b, r, true, what, at);
    check_products(b, r, what, at);
    check_visits(b, r, what, at);
    const Clock &known = *known_of(self(), b.linear);
    Word *w = words(b, r);
    for (unsigned i = 0; i < (r.end - r.begin) / 4; i++) {
        if (w[i].writer && known[(w[i].writer - 1u) / 32] <= w[i].written)
            fail_race(w[i].writer, "wrote", w[i].wrote, at);
        for (int k = 0; k < 2; k++)
            if (w[i].reader[k] && known[(w[i].reader[k] - 1u) / 32] <= w[i].was_read[k])
                fail_race(w[i].reader[k], "read", w[i].read[k], at);
        w[i] = Word();
        w[i].wrote = at;
    }
}

void touch_shared(const void *p, unsigned bytes, bool write, Site at)
{
    Thread &t = self();
    Block &b = *t.block;
    const char *what = write ? "shared store" : "shared load";
    const uint32_t address = shared_checked(p, bytes, bytes, what, at);
    const Range r = {address, address + bytes};
    count_access(b, t, write ? Traffic::shared_store : Traffic::shared_load, address, bytes, at);
    if (write)
        writes_shared(b, r, false, what, at);
    else
        reads_shared(b, r, what, at);
    note_work(t, 32 * bytes / options.costs.shared_bytes);
}

void fence_proxy_async(Site at)
{
    Thread &t = self();
    t.at = at;
    mbarrier_fence_init(at);
    t.fences.push_back(stamp(t));
}

/// Whether thread `who` - 1, which had executed so many proxy fences, has executed another since, and those
/// who know `known` know that it has. Counts are kept in 16 bits.
static bool fenced(const Block &b, const Clock &known, unsigned id, unsigned who, uint16_t fences)
{
    const std::vector<uint32_t> &all = b.threads[who - 1].fences;
    const uint16_t since = uint16_t(all.size() - fences);
    return since && ordered(known, id, who - 1, all[all.size() - since]);
}

static void fail_unfenced(const char *what, const char *does, unsigned who, const char *did, Site where,
                          Site at)
{
    fail(at,
         "missing proxy fence: %s %s what thread %u %s at %s, which has not executed fence.proxy.async "
         "since, before "
         "a barrier",
         what, does, who - 1, did, text(where).c_str());
}

void async_reads(Block &b, Range r, const Clock &known, unsigned id, const char *what, Site at)
{
    check_in_flight(b, r, false, what, at);
    check_visits(b, r, what, at);
    for (uint32_t address = r.begin; address < r.end; address += granule)
        check_landed(b, known, address, what, at);
    if (b.words.empty())
        return;
    const Word *w = words(b, r);
    for (uint32_t i = 0; i < (r.end - r.begin + 3) / 4; i++) {
        if (!w[i].author)
            continue;
        if (w[i].writer && !ordered(known, id, w[i].writer - 1u, w[i].written))
            fail_race(w[i].writer, "wrote", w[i].wrote, at);
        if (!fenced(b, known, id, w[i].author, w[i].fences))
            fail_unfenced(what, "reads", w[i].author, "wrote", w[i].wrote, at);
    }
}

static void check_refill(const Block &b, const Thread &t, const Word &w, const char *what, Site at)
{
    for (int i = 0; i < 2; i++) {
        if (!w.reader[i])
            continue;
        if (!ordered(t, w.reader[i] - 1u, w.was_read[i]))
            fail(at,
                 "refill of bytes in use: %s, but thread %u read them at %s, and no barrier orders the two",
                 what, w.reader[i] - 1u, text(w.read[i]).c_str());
        if (!fenced(b, t.clock, t.index, w.reader[i], w.read_fences[i]))
            fail_unfenced(what, "overwrites", w.reader[i], "read", w.read[i], at);
    }
    check_ordered(t, w.writer, w.written, "wrote", w.wrote, at);
    if (w.author && !fenced(b, t.clock, t.index, w.author, w.fences))
        fail_unfenced(what, "overwrites", w.author, "wrote", w.wrote, at);
}

void async_writes(Block &b, Range r, const char *what, Site at)
{
    if (const Pending *p = copy_of(b, r, true))
        fail(at, "%s overwrites bytes of the copy issued at %s, which has not been waited for", what,
             text(p->at).c_str());
    check_products(b, r, what, at);
    check_read(b, r, what, at);
    check_visits(b, r, what, at);
    for (const auto &m : b.mbarriers)
        if (r.meets({m.first, m.first + 8}))
            fail(at, "%s overwrites the mbarrier initialised at %s", what, text(m.second.init).c_str());
    Thread &t = self();
    Word *w = b.words.empty() ? nullptr : words(b, r);
    for (uint32_t i = 0; w && i < (r.end - r.begin) / 4; i++) {
        check_refill(b, t, w[i], what, at);
        w[i] = Word();
    }
    for (uint32_t address = r.begin; address < r.end; address += granule)
        check_landed(b, t.clock, address, what, at);
}

void prefetch(const void *p, Site at)
{
    check_global(p, 1, "prefetch", at);
    self().at = at;
}

void touch_global(const void *p, unsigned bytes, bool write, Site at, const void *value)
{
    Thread &t = self();
    const char *what = write ? "global store" : "global load";
    check_global(p, bytes, what, at);
    if ((uintptr_t)p % bytes)
        fail(at, "%s of %u bytes at an address that is not a multiple of that", what, bytes);
    if (write)
        check_early_store(p, at);
    order_global(p, bytes, write ? Does::write : Does::read, what, at, value);
    count_access(*t.block, t, write ? Traffic::global_store : Traffic::global_load, (uint64_t)(uintptr_t)p,
                 bytes, at);
    note_work(t, 32 * bytes / options.costs.shared_bytes);
}

void touch_atomic(void *p, unsigned bytes, bool reads, Site at)
{
    Thread &t = self();
    Block &b = *t.block;
    const uint64_t offset = (uint64_t)((unsigned char *)p - b.shared);
    if (offset < b.launch->shared_bytes) {
        const uint32_t address = shared_checked(p, bytes, bytes, "shared atomic", at);
        writes_shared(b, {address, address + bytes}, true, "shared atomic", at);
        return;
    }
    check_global(p, bytes, "atomic", at);
    check_early_store(p, at);
    if (reads)
        check_stored_to(p, bytes, "atomic", at);
    order_global(p, bytes, Does::atomic, "atomic", at);
    count_access(b, t, Traffic::global_store, (uint64_t)(uintptr_t)p, bytes, at);
}

void check_stored(const void *value, unsigned bytes, Site at)
{
    for (unsigned i = 0; i + 4 <= bytes; i += 4) {
        uint32_t bits;
        memcpy(&bits, (const unsigned char *)value + i, 4);
        if (is_guard(bits))
            fail(
                at,
                "accumulators touched before the wait: this stores a register that an unfinished wgmma owns");
        if (is_unset(&bits))
            fail(at, "this stores a register that nobody has set");
    }
}

} // namespace simt
