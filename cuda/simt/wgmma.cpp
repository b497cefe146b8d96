/**
 * @file wgmma.cpp
 * @brief Warpgroup matrix products: descriptors, swizzles, and accumulators that nobody may touch meanwhile.
 *
 * Between issue and wait the accumulators hold a signalling NaN. Whoever writes them is found at the wait,
 * since arithmetic with that NaN changes its bits; whoever reads them gets a NaN, which named stores refuse.
 */
#include "engine.h"

#include <algorithm>

#include "../kit/fragment.cuh"

namespace simt
{

constexpr uint32_t guard_bits = 0x7fa0bad1, quiet = 0x00400000;

bool is_guard(uint32_t bits)
{
    return (bits | quiet) == (guard_bits | quiet);
}

/* ---- Operands in shared memory ------------------------------------------------------------------- */

struct Operand {
    uint32_t start, leading, stride; ///< bytes
    unsigned swizzle;                ///< bytes: 0, 32, 64, 128
};

uint32_t checked_start(const void *p, uint32_t leading, uint32_t stride, Site at)
{
    const uint32_t start = shared_address(p, at);
    if (start % 16 || leading % 16 || stride % 16)
        fail(at, "wgmma: a descriptor of shared offset %u, strides %u and %u: expected multiples of 16",
             start - Block::shared_window, leading, stride);
    return start;
}

static Operand decode(uint64_t desc, const char *name, Site at)
{
    static const unsigned span[] = {0, 128, 64, 32};
    const uint64_t fields = 0xc00e3fff3fff3fffull;
    if (desc & ~fields)
        fail(at, "wgmma: the descriptor of %s, %016llx, has bits outside its fields", name,
             (unsigned long long)desc);
    if (desc >> 49 & 7)
        fail(at, "wgmma: the descriptor of %s has a base offset; align the tile to 1024 bytes instead", name);
    const Operand o = {uint32_t(desc & 0x3fff) << 4, uint32_t(desc >> 16 & 0x3fff) << 4,
                       uint32_t(desc >> 32 & 0x3fff) << 4, span[desc >> 62]};
    if (o.swizzle && o.start >> 7 & (o.swizzle / 16 - 1))
        fail(at, "wgmma: %s starts at shared address %u, inside the %u-byte pattern of its swizzle", name,
             o.start, 8 * o.swizzle);
    return o;
}

/// Groups of 8 rows, and of 8 chunks across them, take as many bytes as rows are long: none lie over others.
static void check_apart(const Operand &o, bool mn_major, int mn_size, const char *name, Site at)
{
    const uint32_t span = o.swizzle ? o.swizzle : 16, along_mn = mn_major && o.swizzle ? o.leading : o.stride,
                   along_k = mn_major && o.swizzle ? o.stride : o.leading;
    const bool many_mn = mn_size > (mn_major ? (int)span / 2 : 8), many_k = mn_major || !o.swizzle;
    if ((many_mn && along_mn < 8 * span) || (many_k && along_k < 8 * span) ||
        (many_mn && many_k && along_mn == along_k))
        fail(at,
             "wgmma: the descriptor of %s puts elements over each other: strides of %u and %u bytes, and 8 "
             "rows take %u",
             name, o.leading, o.stride, 8 * span);
}

/// Shared address of the 16 bytes that hold 8 elements: along k from (mn, k) if K is the major dimension,
/// else along mn. PTX ISA, "Strides" and "Canonical layouts" of wgmma's shared-memory operands.
static uint32_t chunk_address(const Operand &o, bool mn_major, int mn, int k)
{
    const uint32_t w = o.swizzle ? o.swizzle / 16 : 1, c = (uint32_t)(mn_major ? mn : k) / 8;
    const uint32_t row = (uint32_t)(mn_major ? k : mn);
    uint32_t offset = row % 8 * 16 * w;
    if (!mn_major)
        offset += row / 8 * o.stride + c * (o.swizzle ? 16 : o.leading);
    else if (o.swizzle)
        offset += row / 8 * o.stride + c % w * 16 + c / w * o.leading;
    else // the two strides change their roles
        offset += row / 8 * o.leading + c * o.stride;
    return swizzled(o.start + offset, o.swizzle);
}

/// Calls f(mn, k, address) for each chunk of an operand of size mn x 16.
template <class F>
static void each_chunk(uint64_t desc, bool mn_major, int mn_size, const char *name, Site at, F f)
{
    const Operand o = decode(desc, name, at);
    for (int mn = 0; mn < mn_size; mn += mn_major ? 8 : 1)
        for (int k = 0; k < 16; k += mn_major ? 1 : 8)
            f(mn, k, chunk_address(o, mn_major, mn, k));
}

/// All that can be wrong with reading an operand now: each row by a warp, or all by all of them if there is
/// only one clock. Returns the bytes from its first to its last.
static Range check_operand(Block &b, uint64_t desc, bool mn_major, int mn_size, const Clock *known,
                           bool by_warp, const char *name, Site at)
{
    const Operand o = decode(desc, name, at);
    const unsigned swizzle = o.swizzle;
    check_apart(o, mn_major, mn_size, name, at);
    Range all = {~0u, 0};
    each_chunk(desc, mn_major, mn_size, name, at, [&](int mn, int k, uint32_t address) {
        const uint64_t end = Block::shared_window + b.launch->shared_bytes;
        if (address < Block::shared_window || address + 16 > end)
            fail(at,
                 "wgmma: element (%d,%d) of %s would lie at offset %lld, outside the %zu bytes of shared "
                 "memory",
                 mn, k, name, (long long)address - Block::shared_window, b.launch->shared_bytes);
        const Landed *l = landed_at(b, address);
        if (l && l->swizzle != swizzle)
            fail(at, "wrong swizzle: the descriptor of %s says %u bytes, the copy at %s wrote %u", name,
                 swizzle, text(l->at).c_str(), l->swizzle);
        async_reads(b, {address, address + 16}, known[by_warp ? mn / 16 : 0], nobody, name, at);
        all = {std::min(all.begin, address), std::max(all.end, address + 16)};
    });
    return all;
}

static void gather(Block &b, uint64_t desc, bool mn_major, int mn_size, const char *name, const Product &p,
                   float *out, int mn_step, int k_step)
{
    each_chunk(desc, mn_major, mn_size, name, p.at, [&](int mn, int k, uint32_t address) {
        tsan::reads(b.at(address), 16, p.agent.pc);
        uint32_t word[4];
        memcpy(word, b.at(address), 16);
        float *to = out + mn * mn_step + k * k_step;
        const int step = mn_major ? mn_step : k_step;
        for (int i = 0; i < 4; i++) {
            if (word[i] == ~0u && !options.unwritten && !known_written(b, {address, address + 16}))
                fail(p.at, "wgmma: element (%d,%d) of %s lies at offset %u, where nobody has written", mn, k,
                     name, address - Block::shared_window);
            to[2 * i * step] = from_bits<float>(word[i] << 16);
            to[(2 * i + 1) * step] = from_bits<float>(word[i] & 0xffff0000u);
        }
    });
}

/* ---- The product --------------------------------------------------------------------------------- */

/// d += a b for one row of d and four of b, in their order.
static void add_rows(float *__restrict d, const float *a, const float *b, int n)
{
    const float *b1 = b + n, *b2 = b1 + n, *b3 = b2 + n;
    for (int j = 0; j < n; j++)
        d[j] = d[j] + a[0] * b[j] + a[1] * b1[j] + a[2] * b2[j] + a[3] * b3[j];
}

static void multiply(Block &b, Warpgroup &g, Product &p)
{
    const tsan::Acting acting(p.agent);
    const int n = p.d->n;
    std::vector<float> a_shared(p.from_registers ? 0 : 64 * 16), bs(16 * (size_t)n);
    if (!p.from_registers)
        gather(b, p.desc_a, p.trans_a, 64, "A", p, a_shared.data(), 16, 1);
    gather(b, p.desc_b, p.trans_b, n, "B", p, bs.data(), 1, n);
    const float *a = p.from_registers ? p.a.data() : a_shared.data();
    float *d = p.d->value.data();
    if (!p.accumulate)
        memset(d, 0, sizeof *d * p.d->value.size());
    for (int m = 0; m < 64; m++)
        for (int k = 0; k < 16; k += 4)
            add_rows(d + (size_t)m * n, a + m * 16 + k, bs.data() + (size_t)k * n, n);
    p.done = true;
    tsan::release(&g.multiplied);
    b.count.tensor_fma += 64 * 16 * (uint64_t)n;
}

/// Products of a warpgroup take place in order.
static void multiply_until(Block &b, Warpgroup &g, unsigned limit)
{
    for (Product &p : g.products)
        if (p.group < limit && !p.done)
            multiply(b, g, p);
}

void maybe_multiply(Block &b)
{
    for (Warpgroup &g : b.warpgroups)
        if (b.below(2))
            multiply_until(b, g, ~0u);
}

void finish_products(Block &b)
{
    for (Warpgroup &g : b.warpgroups)
        if (!g.products.empty())
            fail(g.products.front().at, "the block ended before this wgmma was waited for");
}

/// Operands may be strided: whether bytes between the first and the last of one are its own.
static bool is_of(uint64_t desc, bool mn_major, int mn_size, Range r, Site at)
{
    bool any = false;
    each_chunk(desc, mn_major, mn_size, "", at, [&](int, int, uint32_t address) {
        any |= r.meets({address, address + 16});
    });
    return any;
}

void check_products(Block &b, Range r, const char *what, Site at)
{
    for (const Warpgroup &g : b.warpgroups)
        for (const Product &p : g.products)
            if ((p.reads[0].meets(r) && is_of(p.desc_a, p.trans_a, 64, r, p.at)) ||
                (p.reads[1].meets(r) && is_of(p.desc_b, p.trans_b, p.d->n, r, p.at)))
                fail(
                    at,
                    "refill of bytes in use: %s while the wgmma at %s reads them and has not been waited for",
                    what, text(p.at).c_str());
}

bool ever_multiplied(const Block &b, Range r)
{
    return !b.multiplied.empty() && b.multiplied[r.begin / granule];
}

/// Products that some warp of theirs has waited for, before it told who writes.
void check_read(Block &b, Range r, const char *what, Site at)
{
    const Thread &t = self();
    for (size_t n = 0; n < b.warpgroups.size(); n++) {
        if (t.block == &b && t.index / 128 == n)
            continue; // the warpgroup waits as one
        for (const auto &read : b.warpgroups[n].read) {
            bool known = !r.meets({read.first.first, read.first.second});
            for (unsigned w = 0; w < 4 && !known; w++)
                known = ordered(t, (unsigned)(128 * n + 32 * w), read.second.waited[w]);
            if (!known && is_of(read.second.desc, read.second.mn_major, read.second.mn_size, r, at))
                fail(at,
                     "refill of bytes in use: %s, but the wgmma at %s read them, and no barrier that its "
                     "warps "
                     "passed after they had waited for it orders the two",
                     what, text(read.second.at).c_str());
        }
    }
}

/// The whole warpgroup has waited for a product.
static void note_read(Block &b, Warpgroup &g, const Product &p)
{
    const unsigned first = (unsigned)(&g - b.warpgroups.data()) * 4;
    if (b.multiplied.empty())
        b.multiplied.resize((Block::shared_window + b.launch->shared_bytes) / granule + 1);
    for (int i = 0; i < 2; i++) {
        const Range &r = p.reads[i];
        if (r.begin == r.end)
            continue; // it came from registers
        if (!g.read.count({r.begin, r.end}))
            std::fill(b.multiplied.begin() + r.begin / granule, b.multiplied.begin() + r.end / granule, 1);
        Reading &read = g.read[{r.begin, r.end}];
        read.at = p.at;
        read.desc = i ? p.desc_b : p.desc_a;
        read.mn_major = i ? p.trans_b : p.trans_a;
        read.mn_size = i ? p.d->n : 64;
        for (unsigned w = 0; w < 4; w++)
            read.waited[w] = b.releases[first + w];
    }
}

/* ---- Accumulators -------------------------------------------------------------------------------- */

static void check_guarded(const Accumulators &d, unsigned first_thread, Site at)
{
    static const std::vector<uint32_t> intact(128, guard_bits);
    for (unsigned t = 0; t < 128; t++) {
        if (memcmp(d.lane[t], intact.data(), (size_t)d.n / 2 * 4) == 0)
            continue;
        int i = 0;
        while (memcmp(d.lane[t] + i, &guard_bits, 4) == 0)
            i++;
        fail(at, "accumulators touched before the wait: thread %u changed register %d of the wgmma at %s",
             first_thread + t, i, text(d.at).c_str());
    }
}

static std::shared_ptr<Accumulators> take_over(float **lane, int n, Site at)
{
    auto d = std::make_shared<Accumulators>();
    d->n = n;
    d->in_flight = 0;
    d->at = at;
    d->value.resize(64 * (size_t)n);
    for (int t = 0; t < 128; t++) {
        d->lane[t] = lane[t];
        for (int i = 0; i < n / 2; i++) {
            const Element e = fragment_d(t, i);
            memcpy(&d->value[(size_t)(e.row * n + e.col)], lane[t] + i, 4);
            memcpy(lane[t] + i, &guard_bits, 4);
        }
    }
    return d;
}

static void give_back(const Accumulators &d)
{
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < d.n / 2; i++) {
            const Element e = fragment_d(t, i);
            memcpy(d.lane[t] + i, &d.value[(size_t)(e.row * d.n + e.col)], 4);
        }
}

/* ---- The instructions ---------------------------------------------------------------------------- */

struct WgmmaLane {
    float *d;
    int n;
    const uint32_t *a;
    uint64_t desc_a, desc_b;
    bool accumulate, trans_a, trans_b;
    Site at;
    void *pc;
};

static Warpgroup &my_warpgroup()
{
    Thread &t = self();
    return t.block->warpgroups[t.index / 128];
}

/// The groups that all threads of a warpgroup have committed.
static unsigned common_groups(const Thread *of, Site at)
{
    for (int t = 1; t < 128; t++)
        if (of[t].wgmma_groups != of[0].wgmma_groups)
            fail(at, "wgmma.commit_group was executed %u times by thread %u, but %u times by thread %u",
                 of[0].wgmma_groups, of[0].index, of[t].wgmma_groups, of[t].index);
    return of[0].wgmma_groups;
}

/// Accumulators that a product is the first to touch.
static void check_set(float **d, int n, Site at)
{
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < n / 2; i++)
            if (is_unset(d[t] + i))
                fail(at, "wgmma adds to accumulators that nobody has set: register %d of thread %d", i, t);
}

static bool all_fenced(const Thread *of)
{
    return std::all_of(of, of + 128, [](const Thread &t) { return t.wgmma_fenced; });
}

static void issue(void **args)
{
    Block &b = *self().block;
    Warpgroup &g = my_warpgroup();
    const WgmmaLane &l = *(WgmmaLane *)args[0];
    const unsigned first = self().index / 128 * 128, groups = common_groups(&b.threads[first], l.at);
    float *lane[128];
    for (int t = 0; t < 128; t++) {
        const WgmmaLane &o = *(WgmmaLane *)args[t];
        lane[t] = o.d;
        if (o.desc_a != l.desc_a || o.desc_b != l.desc_b || o.accumulate != l.accumulate)
            fail(l.at, "wgmma: threads 0 and %d of the warpgroup pass different descriptors or scale-d", t);
    }
    Product p = {nullptr, l.a != nullptr, l.accumulate,     l.trans_a, l.trans_b,
                 false,   l.desc_a,       l.desc_b,         {},        {{0, 0}, {0, 0}},
                 groups,  l.at,           tsan::Agent(l.pc)};
    for (const Product &o : g.products)
        if (o.d->lane[0] == l.d)
            p.d = o.d;
    if (p.d && p.d->n != l.n)
        fail(l.at, "wgmma of another shape on the accumulators of the one at %s", text(p.d->at).c_str());
    if (p.d)
        check_guarded(*p.d, first, l.at);
    else if (!all_fenced(&b.threads[first]))
        fail(l.at, "wgmma without wgmma.fence since its registers were last touched");
    else if (l.accumulate)
        check_set(lane, l.n, l.at);
    if (!p.d)
        p.d = take_over(lane, l.n, l.at);
    p.d->in_flight++;
    p.d->at = l.at;
    Clock known[4], all = b.threads[first].clock;
    for (unsigned w = 0; w < 4; w++)
        all.meet(known[w] = b.threads[first + 32 * w].clock);
    if (l.a) {
        p.a.resize(64 * 16);
        for (int t = 0; t < 128; t++)
            for (int e = 0; e < 8; e++) {
                const Element x = fragment_a(t, e);
                const uint32_t r = ((WgmmaLane *)args[t])->a[e / 2];
                if (is_unset(&r))
                    fail(l.at,
                         "wgmma multiplies A in a register that nobody has set: register %d of thread %d",
                         e / 2, t);
                p.a[(size_t)(x.row * 16 + x.col)] = from_bits<float>(e % 2 ? r & 0xffff0000u : r << 16);
            }
    } else {
        p.reads[0] = check_operand(b, l.desc_a, l.trans_a, 64, known, true, "A", l.at);
    }
    note_product(b.threads[first], l.n * 64 * 16, groups, l.at);
    p.reads[1] = check_operand(b, l.desc_b, l.trans_b, l.n, &all, false, "B", l.at);
    g.products.push_back(std::move(p));
    if (options.timing == Timing::early)
        multiply_until(b, g, ~0u);
}

void wgmma(float *d, int n, const uint32_t *a, uint64_t desc_a, uint64_t desc_b, bool accumulate,
           bool trans_a, bool trans_b, Site at)
{
    WgmmaLane l = {d, n, a, desc_a, desc_b, accumulate, trans_a, trans_b, at, CALLER};
    converge("wgmma", 0, &l, issue, at, true);
}

// Neither makes warps wait for each other; whether all have been here is seen at the next meeting.
void wgmma_fence(Site at)
{
    self().at = at;
    self().wgmma_fenced = true;
}

void wgmma_commit(Site at)
{
    self().at = at;
    self().wgmma_groups++;
}

struct WaitLane {
    unsigned pending;
    Site at;
};

static void wait_group(void **args)
{
    const WaitLane &l = *(WaitLane *)args[0];
    Block &b = *self().block;
    Warpgroup &g = my_warpgroup();
    const unsigned first = self().index / 128 * 128, groups = common_groups(&b.threads[first], l.at);
    const unsigned limit = groups > l.pending ? groups - l.pending : 0;
    multiply_until(b, g, limit);
    tsan::acquire(&g.multiplied);
    while (!g.products.empty() && g.products.front().group < limit) {
        Accumulators &d = *g.products.front().d;
        if (--d.in_flight == 0) {
            check_guarded(d, first, l.at);
            give_back(d);
        }
        note_read(b, g, g.products.front());
        g.products.pop_front();
    }
    if (l.pending == 0 && !g.products.empty())
        fail(l.at, "this does not wait for the wgmma at %s: no wgmma.commit_group follows it",
             text(g.products.front().at).c_str());
    for (unsigned t = 0; t < 128; t++)
        b.threads[first + t].wgmma_fenced = false;
}

void wgmma_wait(int pending, Site at)
{
    WaitLane l = {(unsigned)pending, at};
    const unsigned groups = self().wgmma_groups;
    converge("wgmma.wait_group", 0, &l, wait_group, at, true);
    note_wait(self(), Did::wait_product, Queue::none, groups > l.pending ? groups - l.pending : 0, at);
}

} // namespace simt
