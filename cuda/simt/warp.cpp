/**
 * @file warp.cpp
 * @brief What the lanes of a warp do together: shuffles, reductions, election, matrix loads, mma.sync.
 */
#include "engine.h"

#include "../kit/fragment.cuh"

namespace simt
{

/* ---- Meeting ------------------------------------------------------------------------------------- */

static std::string lanes_text(uint32_t mask)
{
    return mask ? format("lanes 0x%08x of the warp", mask) : std::string("the whole warpgroup");
}

struct Met : Condition {
    Thread &t;
    explicit Met(Thread &thread) : t(thread)
    {
    }
    bool ready() override
    {
        return !t.meeting.what;
    }
    std::string text() override
    {
        return format("%s waits for %s", t.meeting.what, lanes_text(t.meeting.mask).c_str());
    }
};

static bool alike(const Thread::Meeting &a, const Thread::Meeting &b)
{
    return a.mask == b.mask && a.at == b.at && a.what == b.what;
}

static void check_same(const Thread &t, const Thread &o)
{
    if (!alike(t.meeting, o.meeting))
        fail(t.meeting.at, "%s of %s meets thread %u in %s of %s at %s", t.meeting.what,
             lanes_text(t.meeting.mask).c_str(), o.index, o.meeting.what, lanes_text(o.meeting.mask).c_str(),
             text(o.meeting.at).c_str());
}

/// Whoever this lane names, or who names it, has not exited and is nowhere else.
static void check_lanes(const Thread &t, unsigned base)
{
    const Block &b = *t.block;
    const uint32_t mask = t.meeting.mask;
    for (unsigned i = 0; i < 32; i++) {
        const bool wanted = mask >> i & 1;
        if (base + i >= b.threads.size()) {
            if (wanted)
                fail(t.meeting.at, "%s names lane %u in its mask 0x%08x; the warp ends before",
                     t.meeting.what, i, mask);
            continue;
        }
        const Thread &o = b.threads[base + i];
        if (wanted && o.done)
            fail(t.meeting.at, "%s waits for thread %u, which has exited", t.meeting.what, o.index);
        if (o.meeting.what && (wanted || !o.meeting.mask || o.meeting.mask >> t.lane() & 1))
            check_same(t, o);
    }
}

/// Enters the lane among those of its warp that are at a meeting. False if it is to be looked at closer.
static bool enter_warp(const Thread &t, Warp &w)
{
    if (!w.here) {
        w.first = t.meeting;
        w.alike = true;
    }
    w.here |= 1u << t.lane();
    w.alike = w.alike && alike(w.first, t.meeting);
    return w.alike && !(t.meeting.mask & ~w.left);
}

/// Whether all lanes that this one names are here, at the same call and with the same mask.
static bool warp_is_here(const Thread &t, unsigned base)
{
    Warp &w = t.block->warps[base / 32];
    const uint32_t mask = t.meeting.mask;
    if (!(mask >> t.lane() & 1))
        fail(t.meeting.at, "%s by lane %u, which is not in its mask 0x%08x", t.meeting.what, t.lane(), mask);
    if (!enter_warp(t, w))
        check_lanes(t, base);
    return (w.here & mask) == mask;
}

static bool warpgroup_is_here(const Thread &t, unsigned base)
{
    Block &b = *t.block;
    if (base + 128 > b.threads.size())
        fail(t.meeting.at, "%s needs 128 threads; this warpgroup has %zu", t.meeting.what,
             b.threads.size() - base);
    Warpgroup &g = b.warpgroups[t.index / 128];
    enter_warp(t, b.warps[t.index / 32]);
    if (g.arrived++ == 0)
        g.first = t.index;
    check_same(t, b.threads[g.first]);
    return g.arrived == 128;
}

void converge(const char *what, uint32_t mask, void *arg, void (*perform)(void **args), Site at, bool orders)
{
    Thread &t = self();
    Block &b = *t.block;
    const unsigned n = mask ? 32 : 128, base = t.index / n * n;
    t.meeting = {what, at, mask, arg};
    const bool all = mask ? warp_is_here(t, base) : warpgroup_is_here(t, base);
    if (orders)
        publish(); // the last to come gathers the clocks
    tsan::release(&t.met);
    if (!all) {
        Met met(t);
        wait_for(met, at);
        tsan::acquire(&t.goes_on);
        return;
    }
    check_guards(b, at);
    t.at = at;
    void *args[128] = {};
    const unsigned signal = new_signal(b);
    Clock together;
    for (unsigned i = 0; i < n; i++)
        if (!mask || mask >> i & 1) {
            args[i] = b.threads[base + i].meeting.arg;
            if (orders)
                together.join(b.threads[base + i].clock);
            tsan::acquire(&b.threads[base + i].met);
        }
    for (unsigned i = 0; i < n; i++)
        if (!mask || mask >> i & 1) {
            b.threads[base + i].meeting.what = nullptr;
            if (orders)
                b.threads[base + i].clock.join(together);
            note_signal(b.threads[base + i], Did::wait_lanes, signal, 0, true, true, at);
        }
    for (unsigned w = 0; w < n / 32; w++)
        b.warps[base / 32 + w].here &= mask ? ~mask : 0;
    if (!mask)
        b.warpgroups[t.index / 128].arrived = 0;
    perform(args);
    for (unsigned i = 0; i < n; i++)
        if (!mask || mask >> i & 1)
            tsan::release(&b.threads[base + i].goes_on);
}

/* ---- Shuffles and reductions --------------------------------------------------------------------------- */

struct ShuffleLane {
    uint64_t in, out;
    unsigned from;
};

/// The lane that lane `l` reads, as the pseudocode of shfl.sync finds it.
static unsigned source(Shuffle kind, unsigned l, unsigned b, unsigned width)
{
    const unsigned first = l / width * width;
    switch (kind) {
    case Shuffle::index:
        return first + b % width;
    case Shuffle::up:
        return l - first >= b ? l - b : l;
    case Shuffle::down:
        return l - first + b < width ? l + b : l;
    default:
        return (l ^ b) < first + width ? l ^ b : l;
    }
}

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, unsigned lane, unsigned width, Site at)
{
    if (width < 1 || width > 32 || (width & (width - 1)))
        fail(at, "shfl.sync of width %u, which is not a power of two up to 32", width);
    ShuffleLane s = {value, 0, source(kind, self().lane(), lane, width)};
    if (!(mask >> s.from & 1))
        fail(at, "shfl.sync reads lane %u, which is not in its mask 0x%08x", s.from, mask);
    converge(
        "shfl.sync", mask, &s,
        [](void **args) {
            for (int i = 0; i < 32; i++)
                if (ShuffleLane *l = (ShuffleLane *)args[i])
                    l->out = ((ShuffleLane *)args[l->from])->in;
        },
        at);
    return s.out;
}

struct ReduceLane {
    Reduce kind;
    uint32_t value;
};

static uint32_t combine(Reduce kind, uint32_t a, uint32_t b)
{
    switch (kind) {
    case Reduce::add:
        return a + b;
    case Reduce::min_s:
        return (int32_t)a < (int32_t)b ? a : b;
    case Reduce::max_s:
        return (int32_t)a > (int32_t)b ? a : b;
    case Reduce::min_u:
        return a < b ? a : b;
    case Reduce::max_u:
        return a > b ? a : b;
    case Reduce::bit_and:
        return a & b;
    case Reduce::bit_xor:
        return a ^ b;
    default:
        return a | b;
    }
}

uint32_t reduce(Reduce kind, uint32_t mask, uint32_t value, Site at)
{
    const char *name = kind == Reduce::sync     ? "bar.warp.sync"
                       : kind == Reduce::elect  ? "elect.sync"
                       : kind == Reduce::ballot ? "vote.sync"
                                                : "redux.sync";
    ReduceLane r = {kind, kind == Reduce::ballot ? (value != 0) << self().lane() : value};
    converge(
        name, mask, &r,
        [](void **args) {
            const ReduceLane *first = nullptr;
            uint32_t all = 0;
            for (int i = 0; i < 32; i++)
                if (const ReduceLane *l = (const ReduceLane *)args[i]) {
                    all = first ? combine(l->kind, all, l->value) : l->value;
                    first = l;
                }
            for (int i = 0; i < 32; i++)
                if (ReduceLane *l = (ReduceLane *)args[i])
                    l->value = all;
        },
        at, kind == Reduce::sync);
    return r.value;
}

/// Which lane is elected is not promised: in reverse order it is the last one.
bool elect(uint32_t mask, Site at)
{
    reduce(Reduce::elect, mask, 0, at);
    const int leader = options.order == Order::reverse ? 31 - __builtin_clz(mask) : __builtin_ctz(mask);
    return (int)self().lane() == leader;
}

/* ---- Matrices ------------------------------------------------------------------------------------------ */

struct MatrixLane {
    uint32_t *r;
    const unsigned char *row;
    int n;
    bool trans;
};

/// Element (row, col) of matrix m, whose row addresses come from lanes 8m..8m+7.
static unsigned char *element(void **args, int m, int row, int col)
{
    return const_cast<unsigned char *>(((MatrixLane *)args[8 * m + row])->row) + 2 * col;
}

template <bool load> static void move_matrices(void **args)
{
    const MatrixLane &first = *(MatrixLane *)args[0];
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < first.n; m++)
            for (int h = 0; h < 2; h++) {
                const int slow = lane / 4, fast = 2 * (lane % 4) + h;
                unsigned char *e = first.trans ? element(args, m, fast, slow) : element(args, m, slow, fast);
                unsigned char *r = (unsigned char *)&((MatrixLane *)args[lane])->r[m] + 2 * h;
                memcpy(load ? r : e, load ? e : r, 2);
            }
}

static void check_row(const void *row, int n, const char *what, Site at)
{
    if ((int)self().lane() < 8 * n) // the addresses of the other lanes are ignored
        shared_checked(row, 16, 16, what, at);
}

void ldmatrix(uint32_t *r, int n, bool trans, const void *row, Site at)
{
    check_row(row, n, "ldmatrix", at);
    if ((int)self().lane() < 8 * n) {
        touch_shared(row, 16, false, at);
        tsan::reads(row, 16, CALLER);
    }
    MatrixLane l = {r, (const unsigned char *)row, n, trans};
    converge("ldmatrix", ~0u, &l, move_matrices<true>, at);
}

void stmatrix(const uint32_t *r, int n, bool trans, void *row, Site at)
{
    check_row(row, n, "stmatrix", at);
    MatrixLane l = {const_cast<uint32_t *>(r), (const unsigned char *)row, n, trans};
    converge("stmatrix", ~0u, &l, move_matrices<false>, at);
    if ((int)self().lane() < 8 * n) { // after the meeting, so that the meeting does not publish the write
        touch_shared(row, 16, true, at);
        tsan::writes(row, 16, CALLER);
    }
}

struct MmaLane {
    float *d;
    const uint32_t *a, *b;
    Site at;
};

static void check_set(const MmaLane &l)
{
    for (int i = 0; i < 4; i++)
        if (is_unset(&l.d[i]) || is_unset(&l.a[i]) || is_unset(&l.b[i % 2]))
            fail(l.at, "mma.sync of a register that nobody has set");
}

static float half_of(uint32_t r, int high)
{
    return __bfloat162float({uint16_t(high ? r >> 16 : r)});
}

static void multiply(void **args)
{
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const MmaLane &l = *(MmaLane *)args[lane];
        check_set(l);
        for (int e = 0; e < 8; e++) {
            const Element p = fragment_a(lane, e);
            a[p.row][p.col] = half_of(l.a[e / 2], e % 2);
        }
        for (int e = 0; e < 4; e++) {
            const Element p = fragment_b(lane, e);
            b[p.row][p.col] = half_of(l.b[e / 2], e % 2);
        }
    }
    for (int lane = 0; lane < 32; lane++)
        for (int e = 0; e < 4; e++) {
            const Element p = fragment_d(lane, e);
            float sum = ((MmaLane *)args[lane])->d[e];
            for (int k = 0; k < 16; k++)
                sum += a[p.row][k] * b[k][p.col];
            ((MmaLane *)args[lane])->d[e] = sum;
        }
    self().block->count.tensor_fma += 16 * 8 * 16;
}

void mma(float *d, const uint32_t *a, const uint32_t *b, Site at)
{
    MmaLane l = {d, a, b, at};
    converge("mma.sync", ~0u, &l, multiply, at);
    note_work(self(), 16 * 8 * 16 / options.costs.mma_fma);
}

} // namespace simt
