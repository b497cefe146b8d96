/**
 * @file wgmma.cpp
 * @brief Warpgroup matrix products, and accumulators that nobody may touch meanwhile.
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

/* ---- The product --------------------------------------------------------------------------------- */

/// d += a b for one row of d and four of b, in their order.
static void add_rows(float *__restrict d, const float *a, const float *b, int n)
{
    const float *b1 = b + n, *b2 = b1 + n, *b3 = b2 + n;
    for (int j = 0; j < n; j++)
        d[j] = d[j] + a[0] * b[j] + a[1] * b1[j] + a[2] * b2[j] + a[3] * b3[j];
}

static void multiply_floats(Block &b, Product &p)
{
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
    b.count.tensor_fma += 64 * 16 * (uint64_t)n;
}

static void multiply_integers(Block &b, Product &p)
{
    const int n = p.d->n;
    std::vector<int8_t> x(64 * 32), y(32 * (size_t)n);
    gather_int8(b, p.desc_a, 64, "A", p, x.data());
    gather_int8(b, p.desc_b, n, "B", p, y.data());
    for (int m = 0; m < 64; m++)
        for (int j = 0; j < n; j++) {
            float &d = p.d->value[(size_t)(m * n + j)];
            int32_t sum = 0, before;
            for (int k = 0; k < 32; k++)
                sum += x[(size_t)(32 * m + k)] * y[(size_t)(32 * j + k)];
            memcpy(&before, &d, 4);
            sum += p.accumulate ? before : 0;
            memcpy(&d, &sum, 4);
        }
    b.count.tensor_int8 += 64 * 32 * (uint64_t)n;
}

static void multiply(Block &b, Warpgroup &g, Product &p)
{
    const tsan::Acting acting(p.agent);
    if (p.integers)
        multiply_integers(b, p);
    else
        multiply_floats(b, p);
    p.done = true;
    tsan::release(&g.multiplied);
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
        if (t.index / 128 == n)
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
    bool accumulate, trans_a, trans_b, integers;
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
    Product p = {nullptr,  l.a != nullptr, l.accumulate, l.trans_a, l.trans_b, l.integers, false,
                 l.desc_a, l.desc_b,       {},           {},        groups,    l.at,       tsan::Agent(l.pc)};
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
    Clock known[4]; // of each warp, what all of its lanes know
    for (unsigned w = 0; w < 4; w++) {
        known[w] = b.threads[first + 32 * w].clock;
        for (unsigned lane = 1; lane < 32; lane++)
            known[w].meet(b.threads[first + 32 * w + lane].clock);
    }
    Clock all = known[0];
    for (unsigned w = 1; w < 4; w++)
        all.meet(known[w]);
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
    note_product(b.threads[first], l.n * 64 * 16, groups, l.at); // k = 32 of integers takes as long
    p.reads[1] = check_operand(b, l.desc_b, l.trans_b, l.n, &all, false, "B", l.at);
    g.products.push_back(std::move(p));
    if (options.timing == Timing::early)
        multiply_until(b, g, ~0u);
}

void wgmma(float *d, int n, const uint32_t *a, uint64_t desc_a, uint64_t desc_b, bool accumulate,
           bool trans_a, bool trans_b, Site at)
{
    WgmmaLane l = {d, n, a, desc_a, desc_b, accumulate, trans_a, trans_b, false, at, CALLER};
    converge("wgmma", 0, &l, issue, at);
}

void wgmma_int8(int32_t *d, int n, uint64_t desc_a, uint64_t desc_b, bool accumulate, Site at)
{
    WgmmaLane l = {(float *)d, n, nullptr, desc_a, desc_b, accumulate, false, false, true, at, CALLER};
    converge("wgmma", 0, &l, issue, at);
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
    converge("wgmma.wait_group", 0, &l, wait_group, at);
    note_wait(self(), Did::wait_product, Queue::none, groups > l.pending ? groups - l.pending : 0, at);
}

} // namespace simt
