/**
 * @file memory.cpp
 * @brief Memory accesses by named helpers: bounds, races that barriers do not order, proxies, exact traffic.
 */
#include "engine.h"

#include <algorithm>

namespace simt
{

/* ---- Bounds -------------------------------------------------------------------------------------- */

uint32_t shared_checked(const Block &b, const void *p, uint64_t bytes, unsigned align, const char *what,
                        Site at)
{
    const uint64_t offset = (uint64_t)((const unsigned char *)p - b.shared); // wraps below the start
    if (offset > b.launch->shared_bytes || bytes > b.launch->shared_bytes - offset)
        fail(at, "%s: %llu bytes at offset %lld are not inside the %zu bytes of shared memory", what,
             (unsigned long long)bytes, (long long)offset, b.launch->shared_bytes);
    if (offset % align)
        fail(at, "%s: shared offset %llu is not a multiple of %u", what, (unsigned long long)offset, align);
    return (uint32_t)offset + Block::shared_window;
}

uint32_t shared_checked(const void *p, uint64_t bytes, unsigned align, const char *what, Site at)
{
    return shared_checked(*self().block, p, bytes, align, what, at);
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
    forget_output();
}

void check_global(const void *p, uint64_t bytes, const char *what, Site at)
{
    const unsigned char *c = (const unsigned char *)p;
    const Global *nearest = nullptr;
    for (const Global &g : globals) {
        if (c >= g.start && bytes <= g.bytes && c - g.start <= (ptrdiff_t)(g.bytes - bytes))
            return;
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
    if (!any_in_flight(b, r))
        return;
    for (const Pending &p : b.pending)
        if ((write || p.kind != Pending::store) && p.shared.meets(r))
            fail(at, "%s: the copy into or from these bytes, issued at %s, has not been waited for", what,
                 text(p.at).c_str());
}

static void check_ordered(const Thread &me, unsigned who, uint32_t when, const char *did, Site where, Site at)
{
    if (who && !ordered(me, who - 1, when))
        fail(at, "race: %s %s this shared word at %s, and no barrier orders the two",
             name_of(*me.block, who - 1).c_str(), did, text(where).c_str());
}

static void read_word(Thread &t, Word &w, Site at)
{
    check_ordered(t, w.writer, w.written, "wrote", w.wrote, at);
    if (w.reader[0] != t.id + 1) {
        w.reader[1] = w.reader[0];
        w.was_read[1] = w.was_read[0];
        w.read[1] = w.read[0];
    }
    w.reader[0] = uint16_t(t.id + 1);
    w.was_read[0] = stamp(t);
    w.read[0] = at;
}

static void check_readers(const Thread &t, const Word &w, Site at)
{
    for (int i = 0; i < 2; i++)
        check_ordered(t, w.reader[i], w.was_read[i], "read", w.read[i], at);
}

static void write_word(Thread &t, Word &w, uint32_t index, bool whole, Site at)
{
    if (whole) {
        check_readers(t, w, at);
        check_ordered(t, w.writer, w.written, "wrote", w.wrote, at);
    }
    w.writer = whole ? uint16_t(t.id + 1) : 0; // the halves of a word may belong to two threads: blame nobody
    w.written = stamp(t);
    w.wrote = at;
    w.unfenced = uint16_t(t.id + 1);
    t.unfenced.push_back(index);
}

bool known_written(Block &b, Range r)
{
    for (const Landed &l : b.landed)
        if (l.shared.meets(r))
            return true;
    return !b.words.empty() && words(b, r)->wrote.file;
}

static void check_written(Block &b, Range r, const char *what, Site at)
{
    static const unsigned char poison[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                             0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const uint32_t n = r.end - r.begin;
    if (n >= 4 && n <= 16 && memcmp(b.at(r.begin), poison, n) == 0 && !known_written(b, r))
        fail(at, "%s: nobody has written these shared bytes (offset %u)", what,
             r.begin - Block::shared_window);
}

void reads_shared(Block &b, Range r, const char *what, Site at)
{
    check_in_flight(b, r, false, what, at);
    Word *w = words(b, r);
    for (unsigned i = 0; i < (r.end - r.begin + 3) / 4; i++)
        read_word(self(), w[i], at);
    check_written(b, r, what, at);
}

static void writes_shared(Block &b, Range r, const char *what, Site at)
{
    const unsigned bytes = r.end - r.begin;
    check_in_flight(b, r, true, what, at);
    check_products(b, r, what, at);
    Word *w = words(b, r);
    for (unsigned i = 0; i < (bytes + 3) / 4; i++)
        write_word(self(), w[i], (r.begin - Block::shared_window) / 4 + i, bytes >= 4, at);
}

void touch_shared(const void *p, unsigned bytes, bool write, Site at)
{
    Thread &t = self();
    Block &b = *t.block;
    const char *what = write ? "shared store" : "shared load";
    const uint32_t address = shared_checked(p, bytes, bytes, what, at);
    const Range r = {address, address + bytes};
    (write ? writes_shared : reads_shared)(b, r, what, at);
    count_access(b, t, write ? Traffic::shared_store : Traffic::shared_load, address, bytes, at);
    note_work(t, 32 * bytes / options.costs.shared_bytes);
}

void fence_proxy_async(Site at)
{
    Thread &t = self();
    t.at = at;
    mbarrier_fence_init(at);
    for (uint32_t i : t.unfenced)
        if (t.block->words[i].unfenced == t.id + 1)
            t.block->words[i].unfenced = 0;
    t.unfenced.clear();
}

void async_reads(Block &b, Range r, const char *what, Site at)
{
    check_in_flight(b, r, false, what, at);
    if (b.words.empty())
        return;
    Word *w = words(b, r);
    for (uint32_t i = 0; i < (r.end - r.begin + 3) / 4; i++) {
        if (w[i].unfenced)
            fail(at,
                 "missing proxy fence: %s reads what %s wrote at %s, which has not executed "
                 "fence.proxy.async since",
                 what, name_of(b, w[i].unfenced - 1u).c_str(), text(w[i].wrote).c_str());
        check_ordered(self(), w[i].writer, w[i].written, "wrote", w[i].wrote, at);
    }
}

static void check_refill(const Thread &t, const Word &w, const char *what, Site at)
{
    for (int i = 0; i < 2; i++)
        if (w.reader[i] && !ordered(t, w.reader[i] - 1u, w.was_read[i]))
            fail(at, "refill of bytes in use: %s, but %s read them at %s, and no barrier orders the two",
                 what, name_of(*t.block, w.reader[i] - 1u).c_str(), text(w.read[i]).c_str());
}

void async_writes(Block &b, Range r, const char *what, Site at)
{
    if (any_in_flight(b, r))
        for (const Pending &p : b.pending)
            if (p.shared.meets(r) && p.kind != Pending::cp_arrive)
                fail(at, "%s overwrites bytes of the copy issued at %s, which has not been waited for", what,
                     text(p.at).c_str());
    check_products(b, r, what, at);
    check_read(b, r, what, at);
    for (const auto &m : b.mbarriers)
        if (r.meets({m.first, m.first + 8}))
            fail(at, "%s overwrites the mbarrier initialised at %s", what, text(m.second.init).c_str());
    if (b.words.empty())
        return;
    Thread &t = self();
    Word *w = words(b, r);
    for (uint32_t i = 0; i < (r.end - r.begin) / 4; i++) {
        check_refill(t, w[i], what, at);
        w[i] = Word();
    }
}

void touch_global(const void *p, unsigned bytes, bool write, Site at)
{
    Thread &t = self();
    const char *what = write ? "global store" : "global load";
    check_global(p, bytes, what, at);
    if ((uintptr_t)p % bytes)
        fail(at, "%s of %u bytes at an address that is not a multiple of that", what, bytes);
    if (write)
        check_early_store(p, at);
    count_access(*t.block, t, write ? Traffic::global_store : Traffic::global_load, (uint64_t)(uintptr_t)p,
                 bytes, at);
    note_work(t, 32 * bytes / options.costs.shared_bytes);
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
    }
}

/* ---- Traffic ------------------------------------------------------------------------------------- */

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

/// The n-th execution of an instruction by each lane belongs to the n-th execution by the warp.
void count_access(Block &b, Thread &t, Traffic kind, uint64_t address, unsigned bytes, Site at)
{
    if (options.watch)
        options.watch({address, bytes, kind == Traffic::shared_load || kind == Traffic::shared_store,
                       kind == Traffic::shared_store || kind == Traffic::global_store, b.linear, t.index});
    Stream &s = b.streams[{{at.file, at.line}, {t.index / 32, kind}}];
    const uint64_t nth = s.seen[t.lane()]++ - s.first;
    while (s.open.size() <= nth)
        s.open.push_back(Access{{}, 0, bytes});
    Access &a = s.open[nth];
    a.address[t.lane()] = address;
    a.lanes |= 1u << t.lane();
    if (a.lanes != ~0u)
        return;
    account(b, kind, a);
    if (++s.whole < s.open.size())
        return;
    s.first += s.whole;
    s.whole = 0;
    s.open.clear();
}

void finish_counts(Block &b)
{
    for (const auto &s : b.streams)
        for (const Access &a : s.second.open)
            if (a.lanes != ~0u) // the others have been counted
                account(b, s.first.second.second, a);
    b.streams.clear();
}

} // namespace simt
