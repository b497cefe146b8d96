/**
 * @file global.cpp
 * @brief Who touched global memory last: races between warps, CTAs and grids that overlap, by ordinary
 *        accesses, atomics and copies.
 *
 * Every 16 bytes that a named helper or a copy touches keep marks of the last writers and readers. A mark is
 * ordered before an access by what the accessing thread has learned: of its own CTA through barriers, of
 * other CTAs through releases and acquires (race.cpp), of the grids before by grid_wait. Marks of grids
 * that must have ended are as good as none.
 */
#include "engine.h"
#include "table.h"

#include <array>
#include <atomic>
#include <mutex>
#include <unordered_map>

namespace simt
{

/// A warp of some CTA.
struct Who {
    uint64_t grid, block;
    unsigned warp;                                                 ///< of the CTA
    std::unique_ptr<std::array<std::vector<uint32_t>, 32>> fences; ///< stamps of proxy fences, by lane
};
static Table<Who> warps;

/// A group of bulk stores. Others may touch what it writes when its thread has waited, and they know of it.
struct Group {
    uint32_t waited;
    bool over;
};
static Table<Group> groups;

/* ---- Marks ----------------------------------------------------------------------------------------- */

struct Mark {
    uint32_t who = 0;
    uint32_t when; ///< stamp; of a load by TMA the mbarrier's phase; of a bulk store its group
    uint16_t line;
    uint8_t file, how;
    uint16_t more;  ///< proxy fences of the thread before; of a load by TMA the mbarrier's number
    uint16_t bytes; ///< mask of the 16
};
enum : uint8_t { lane_bits = 31, atomic = 32, lands = 64, stored = 128 };

struct Page { ///< of 4 KB
    static constexpr unsigned granules = 256;
    struct Marks {
        Mark of[granules][4];
    };
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
    std::unique_ptr<Marks> written, read;
};

static std::mutex pages_lock;
static std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
static std::vector<const char *> files;

static Page &page_of(Block &b, uintptr_t address)
{
    const uintptr_t page = address >> 12;
    auto &known = b.pages[page % 64];
    if (known.first != page) {
        std::lock_guard<std::mutex> hold(pages_lock);
        std::unique_ptr<Page> &p = pages[page];
        if (!p)
            p.reset(new Page);
        known = {page, p.get()};
    }
    return *(Page *)known.second;
}

static uint8_t file_number(Block &b, const char *file)
{
    if (file != b.file.first) {
        std::lock_guard<std::mutex> hold(pages_lock);
        size_t i = 0;
        while (i < files.size() && files[i] != file)
            i++;
        if (i == files.size() && i < 255)
            files.push_back(file);
        b.file = {file, uint8_t(std::min<size_t>(i, 254))};
    }
    return b.file.second;
}

static std::string place(const Mark &m)
{
    std::lock_guard<std::mutex> hold(pages_lock);
    return text({files[m.file], m.line});
}

/* ---- Grids and CTAs ---------------------------------------------------------------------------------- */

static bool shared_pages; ///< CTAs run on several cores

/// A workspace as it was before any grid used it.
struct Spoiled {
    const unsigned char *start;
    size_t bytes;
    uint64_t after; ///< this grid
};
static Spoiled spoiled;

void spoil(void *start, size_t bytes)
{
    if (bytes)
        memset(start, 0xff, bytes);
    spoiled = {(const unsigned char *)start, bytes, grid};
}

void begin_marks(bool dependent, bool parallel)
{
    shared_pages = parallel;
    if (dependent || (pages.size() <= 1 << 15 && warps.n <= 1 << 24))
        return;
    spoiled = {nullptr, 0, 0}; // who has stored there is forgotten
    pages.clear();
    warps.clear();
    groups.clear();
}

/// The numbers of a CTA's warps.
void introduce(Block &b)
{
    const unsigned n = ((unsigned)b.threads.size() + 31) / 32;
    b.first_warp = warps.take(n);
    for (unsigned i = 0; i < n; i++) {
        Who &w = warps[b.first_warp + i];
        w.grid = grid;
        w.block = b.linear;
        w.warp = i;
    }
}

/* ---- What is ordered ------------------------------------------------------------------------------- */

static uint32_t who_is(const Thread &t)
{
    return t.block->first_warp + t.index / 32;
}

static bool knows(const Thread &me, const Who &w, unsigned number, uint32_t stamp)
{
    if (w.block == me.block->linear)
        return me.clock[number] > stamp;
    const Clock *far = known_of(me, w.block);
    return far && (*far)[number] > stamp;
}

static bool comes_after(const Thread &me, const Mark &m)
{
    const Who &w = warps[m.who];
    if (w.grid != grid)
        return !overlaps(me, w.grid);
    if (m.how & lands)
        return knows(me, w, m.more, m.when);
    const bool own = m.who == who_is(me) && (m.how & lane_bits) == me.lane();
    if (m.how & stored)
        return groups[m.when].over && (own || knows(me, w, w.warp, groups[m.when].waited));
    return own || knows(me, w, w.warp, m.when);
}

/// Whether who left an ordinary mark has fenced its proxies since, and `me` knows it.
static bool fenced(const Thread &me, const Mark &m)
{
    const Who &w = warps[m.who];
    if (w.grid != grid || m.how & (lands | stored))
        return true;
    const unsigned lane = m.how & lane_bits;
    if (!w.fences || (*w.fences)[lane].size() <= m.more)
        return false;
    return (m.who == who_is(me) && lane == me.lane()) || knows(me, w, w.warp, (*w.fences)[lane][m.more]);
}

void fence_proxy_async_global(Site at)
{
    Thread &t = self();
    t.at = at;
    t.block->fences_global = true;
    Who &w = warps[who_is(t)];
    if (!w.fences)
        w.fences.reset(new std::array<std::vector<uint32_t>, 32>);
    (*w.fences)[t.lane()].push_back(stamp(t));
}

[[noreturn]] static void blame(const Thread &me, const Mark &m, bool wrote, const char *what, Site at)
{
    const Who &w = warps[m.who];
    const std::string where = place(m);
    const char *did = wrote ? "writes" : "reads";
    if (w.grid != grid)
        fail(at, "%s before grid_wait: a grid before, which may still run, %s these bytes at %s", what, did,
             where.c_str());
    if (m.how & stored && !groups[m.when].over)
        fail(at,
             "%s: the bulk store to these bytes, issued at %s, has not been waited for; wait_group.read "
             "waits for its "
             "source only",
             what, where.c_str());
    if (m.how & lands)
        fail(at, "%s: the copy from these bytes, issued at %s, has not been waited for on its mbarrier", what,
             where.c_str());
    const unsigned thread = w.warp * 32 + (m.how & lane_bits);
    if (w.block == me.block->linear)
        fail(at, "race in global memory: %s, thread %u %s these bytes at %s, and no barrier orders the two",
             what, thread, wrote ? "wrote" : "read", where.c_str());
    fail(at,
         "race in global memory: %s, block %llu, thread %u %s these bytes at %s, and no release and acquire "
         "order the "
         "two",
         what, (unsigned long long)w.block, thread, wrote ? "wrote" : "read", where.c_str());
}

/* ---- Accesses -------------------------------------------------------------------------------------- */

struct Touch {
    Thread &t;
    Mark mark; ///< of this access, but for its bytes
    bool write, async;
    const void *value; ///< of an ordinary store
    bool harmless;     ///< it is there already
    const char *what;
    Site at;
};

static void check_marks(const Touch &a, const Mark (&marks)[4], bool written, uint16_t bytes)
{
    for (const Mark &m : marks) {
        if (!m.who || !(m.bytes & bytes))
            continue;
        if (m.how & atomic && a.mark.how & atomic)
            continue; // neither is torn
        if (m.who == a.mark.who && m.when == a.mark.when && m.how == a.mark.how && !a.async)
            continue; // the same thread
        if (!written && m.who == a.mark.who && !(m.how & lands) && !a.async)
            continue;
        if (a.harmless && !(m.how & stored) && warps[m.who].grid == grid)
            continue;
        if (!comes_after(a.t, m))
            blame(a.t, m, written, a.what, a.at);
        if (a.async && !fenced(a.t, m))
            fail(a.at,
                 "missing proxy fence: %s after an ordinary access of these bytes at %s, whose thread has "
                 "not executed "
                 "fence.proxy.async.global since, before it told this one",
                 a.what, place(m).c_str());
    }
}

/// Whether two marks may be one. Readers of a warp are not told apart; and who knows of the later of two
/// moments knows of the earlier.
static bool alike(const Mark &old, const Mark &mark, bool written)
{
    const int but = written ? 0 : lane_bits;
    return old.who == mark.who && old.more == mark.more && (old.how | but) == (mark.how | but) &&
           (old.when == mark.when || (!(old.bytes & ~mark.bytes) && !(mark.how & stored)));
}

/// Marks that are alike share a place; the oldest gives way.
static void leave_mark(Mark (&marks)[4], Mark mark, bool written)
{
    Mark *to = &marks[0];
    if (!written && (!to->who || alike(*to, mark, written))) { // most often
        mark.bytes |= to->who ? to->bytes : 0;
        *to = mark;
        return;
    }
    for (Mark &m : marks) {
        if (written)
            m.bytes &= uint16_t(~mark.bytes);
        if (!m.bytes)
            m.who = 0;
    }
    for (Mark &m : marks) {
        if (alike(m, mark, written)) {
            to = &m;
            mark.bytes |= m.bytes;
            break;
        }
        if (m.who < to->who)
            to = &m;
    }
    if (!written && to != &marks[0] && marks[0].who != mark.who) { // the last is the first to be asked for
        std::swap(*to, marks[0]);
        to = &marks[0];
    }
    *to = mark;
}

static void in_granule(const Touch &a, Page &p, unsigned g, uint16_t bytes)
{
    if (p.written)
        check_marks(a, p.written->of[g], true, bytes);
    if (a.write && p.read)
        check_marks(a, p.read->of[g], false, bytes);
    std::unique_ptr<Page::Marks> &into = a.write ? p.written : p.read;
    if (!into)
        into.reset(new Page::Marks());
    Mark m = a.mark;
    m.bytes = bytes;
    leave_mark(into->of[g], m, a.write);
}

struct Busy { ///< others run CTAs of this grid
    Page &p;
    explicit Busy(Page &page) : p(page)
    {
        while (shared_pages && p.busy.test_and_set(std::memory_order_acquire))
            ;
    }
    ~Busy()
    {
        if (shared_pages)
            p.busy.clear(std::memory_order_release);
    }
};

static void touch(Touch &a, const void *start, uint64_t bytes)
{
    const uintptr_t begin = (uintptr_t)start, end = begin + bytes;
    for (uintptr_t at = begin; at < end;) {
        Page &p = page_of(*a.t.block, at);
        const Busy hold(p);
        a.harmless = a.value && memcmp(start, a.value, bytes) == 0; // such a store lies in one page
        const uintptr_t page_end = std::min(end, (at >> 12 << 12) + 4096);
        while (at < page_end) {
            const uintptr_t first = at % 16, n = std::min<uintptr_t>(16 - first, page_end - at);
            in_granule(a, p, at % 4096 / 16, uint16_t(((1u << n) - 1) << first));
            at += n;
        }
        if (a.value)
            memcpy(const_cast<void *>(start), a.value, bytes);
    }
}

static Mark mark_of(const Thread &t, Site at)
{
    Mark m;
    m.who = who_is(t);
    m.when = stamp(t);
    m.line = uint16_t(at.line);
    m.file = file_number(*t.block, at.file);
    m.how = uint8_t(t.lane());
    m.more = 0;
    if (t.block->fences_global && warps[m.who].fences)
        m.more = uint16_t((*warps[m.who].fences)[t.lane()].size());
    m.bytes = 0;
    return m;
}

/// Most often a warp reads on where it has read, since its last release, from a page that nobody writes.
static bool reads_on(Thread &t, uintptr_t address, uint64_t bytes)
{
    Block &b = *t.block;
    const auto &known = b.pages[(address >> 12) % 64];
    if (known.first != address >> 12 || b.fences_global)
        return false;
    Page &p = *(Page *)known.second;
    const Busy hold(p);
    if (p.written || !p.read)
        return false;
    Mark &m = p.read->of[address % 4096 / 16][0];
    if (m.who != who_is(t) || m.when != b.releases[t.index / 32] || m.how & ~lane_bits)
        return false;
    m.bytes |= uint16_t(((1u << bytes) - 1) << address % 16);
    return true;
}

void check_stored_to(const void *p, unsigned bytes, const char *what, Site at)
{
    static const uint64_t poison = ~0ull;
    const size_t offset = (size_t)((const unsigned char *)p - spoiled.start); // wraps below the start
    if (offset >= spoiled.bytes || memcmp(p, &poison, bytes))
        return;
    Page &page = page_of(*self().block, (uintptr_t)p);
    const Busy hold(page);
    if (page.written) // near by will do: there is no room to note all who store single bytes
        for (const Mark &m : page.written->of[(uintptr_t)p % 4096 / 16])
            if (m.who && warps[m.who].grid > spoiled.after)
                return;
    fail(at, "%s: nobody has stored these bytes, %zu after the start of the workspace", what, offset);
}

void order_global(const void *p, uint64_t bytes, Does does, const char *what, Site at, const void *value)
{
    Thread &t = self();
    if (does == Does::read && reads_on(t, (uintptr_t)p, bytes))
        return;
    const bool reads = does == Does::read || does == Does::atomic_read;
    Touch a = {t, mark_of(t, at), !reads, false, value, false, what, at};
    if (does == Does::atomic || does == Does::atomic_read)
        a.mark.how |= atomic;
    touch(a, p, bytes);
}

void order_load(const void *p, uint64_t bytes, unsigned number, uint32_t phase, const char *what, Site at)
{
    Thread &t = self();
    Touch a = {t, mark_of(t, at), false, true, nullptr, false, what, at};
    a.mark.how |= lands;
    a.mark.when = phase;
    a.mark.more = uint16_t(number);
    touch(a, p, bytes);
}

void order_store(const void *p, uint64_t bytes, bool is_atomic, const char *what, Site at)
{
    Thread &t = self();
    if (t.stores.empty() || t.stores.back().first != t.bulk_groups) {
        const uint32_t n = groups.take(1);
        groups[n] = {0, false};
        t.stores.emplace_back(t.bulk_groups, n);
    }
    Touch a = {t, mark_of(t, at), true, true, nullptr, false, what, at};
    a.mark.how |= stored | (is_atomic ? atomic : 0);
    a.mark.when = t.stores.back().second;
    a.mark.more = 0;
    touch(a, p, bytes);
}

void stores_are_over(Thread &t, unsigned limit)
{
    size_t n = 0;
    for (; n < t.stores.size() && t.stores[n].first < limit; n++)
        groups[t.stores[n].second] = {stamp(t), true};
    t.stores.erase(t.stores.begin(), t.stores.begin() + (ptrdiff_t)n);
}

} // namespace simt
