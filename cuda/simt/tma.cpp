/**
 * @file tma.cpp
 * @brief Bulk copies: tensor maps, and loads and stores of boxes and of bytes in a row.
 */
#include "engine.h"

#include <algorithm>

namespace simt
{

/* ---- Tensor maps --------------------------------------------------------------------------------- */

constexpr uint64_t map_magic = 0x70616d726f736e74u;

const char *encode_tiled(CUtensorMap *map, int type, int rank, void *base, const uint64_t *dim,
                         const uint64_t *stride, const uint32_t *box, const uint32_t *step, int interleave,
                         int swizzle, int promotion, int fill)
{
    static const uint16_t type_bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4}, span[] = {0, 32, 64, 128};
    if (type < 0 || type > 12)
        return "unknown data type";
    if (rank < 1 || rank > 5)
        return "rank must be 1 to 5";
    if (interleave != 0)
        return "interleaved layouts are not supported here";
    if (swizzle < 0 || swizzle > 3)
        return "swizzle must be none, 32B, 64B or 128B";
    if (promotion < 0 || promotion > 3 || fill < 0 || fill > 1)
        return "unknown L2 promotion or fill mode";
    if (fill == 1)
        return "filling with NaN is not supported here";
    if (!base || (uintptr_t)base % (swizzle ? 128 : 16))
        return "the tensor must start at a multiple of 16 bytes (128 with swizzle)";
    const uint16_t element = type_bytes[type];
    *map = CUtensorMap();
    for (int i = 0; i < rank; i++) {
        if (dim[i] < 1 || dim[i] > (1ull << 32))
            return "dimensions must be 1 to 2^32";
        if (box[i] < 1 || box[i] > 256)
            return "box dimensions must be 1 to 256";
        if (step[i] < 1 || step[i] > 8)
            return "element strides must be 1 to 8";
        if (step[i] != 1)
            return "element strides other than 1 are not supported here";
        if (i > 0 && (stride[i - 1] % 16 || stride[i - 1] >= (1ull << 40)))
            return "strides must be multiples of 16 bytes below 2^40";
        map->dim[i] = dim[i];
        map->box[i] = box[i];
        map->stride[i] = i ? stride[i - 1] : element;
    }
    if (box[0] * element % 16)
        return "the inner box dimension must be a multiple of 16 bytes";
    if (swizzle && box[0] * element != span[swizzle])
        return box[0] * element > span[swizzle]
                   ? "the inner box dimension exceeds the swizzle span"
                   : "an inner box smaller than the swizzle span is not supported here";
    map->magic = map_magic;
    map->base = (unsigned char *)base;
    map->rank = (uint16_t)rank;
    map->element = element;
    map->swizzle = span[swizzle];
    map->type = (uint16_t)type;
    return nullptr;
}

uint32_t swizzled(uint32_t address, unsigned swizzle)
{
    const uint32_t rows = swizzle ? swizzle / 16 - 1 : 0;
    return address ^ (address >> 7 & rows) << 4;
}

struct Box {
    CUtensorMap map;
    int64_t corner[5];
    uint32_t bytes() const
    {
        uint32_t n = map.element;
        for (int i = 0; i < map.rank; i++)
            n *= map.box[i];
        return n;
    }
};

/// Calls f(address of coordinate 0, whether the tensor has this row) for each row of a box, and with which
/// elements of the rows the box and the tensor share: from lo to hi, if any.
template <class F> static void each_row(const Box &x, F f)
{
    const CUtensorMap &m = x.map;
    const int64_t lo = std::max<int64_t>(x.corner[0], 0),
                  hi = std::min<int64_t>(x.corner[0] + m.box[0], (int64_t)m.dim[0]);
    uint32_t at[5] = {};
    for (bool more = true; more;) {
        bool inside = true;
        int64_t row = 0;
        for (int i = 1; i < m.rank; i++) {
            const int64_t c = x.corner[i] + at[i];
            inside &= c >= 0 && c < (int64_t)m.dim[i];
            row += c * (int64_t)m.stride[i];
        }
        f(m.base + row, inside && lo < hi, lo, hi);
        more = false;
        for (int i = 1; i < m.rank && !more; i++) {
            more = ++at[i] < m.box[i];
            if (!more)
                at[i] = 0;
        }
    }
}

static void check_rows(const Box &x, const char *what, Site at)
{
    if (globals.empty())
        return;
    each_row(x, [&](const unsigned char *row, bool inside, int64_t lo, int64_t hi) {
        if (inside)
            check_global(row + lo * x.map.element, (uint64_t)(hi - lo) * x.map.element, what, at);
    });
}

/// Calls f(start, bytes) for each row that a box shares with its tensor.
template <class F> static void shared_rows(const Box &x, F f)
{
    each_row(x, [&](const unsigned char *row, bool inside, int64_t lo, int64_t hi) {
        if (inside)
            f(row + lo * x.map.element, (uint64_t)(hi - lo) * x.map.element);
    });
}

/// Walks over the 16-byte chunks of a box: f(offset in the dense box, global address, first and end byte of
/// the chunk that lie inside the tensor). Returns the 32-byte sectors and bytes of global memory that this
/// is.
template <class F> static void each_chunk(const Box &x, uint64_t &bytes, uint64_t &sectors, F f)
{
    const int es = x.map.element, per_chunk = 16 / es, chunks = (int)x.map.box[0] / per_chunk;
    uint32_t offset = 0;
    each_row(x, [&](unsigned char *row, bool inside, int64_t lo, int64_t hi) {
        if (inside) {
            const uint64_t start = (uint64_t)(uintptr_t)(row + lo * es),
                           end = start + (uint64_t)((hi - lo) * es);
            bytes += end - start;
            sectors += (end - 1) / 32 - start / 32 + 1;
        }
        for (int j = 0; j < chunks; j++, offset += 16) {
            const int64_t e = x.corner[0] + j * per_chunk;
            const int64_t first = inside ? std::min<int64_t>(std::max<int64_t>(lo - e, 0), per_chunk) : 0;
            const int64_t last = inside ? std::max<int64_t>(first, std::min<int64_t>(hi - e, per_chunk)) : 0;
            f(offset, row + e * es, (int)first * es, (int)last * es);
        }
    });
}

/* ---- Bulk copies --------------------------------------------------------------------------------- */

static void check_map(const CUtensorMap *map, const char *what, Site at)
{
    if (map->magic != map_magic)
        fail(at, "%s: this is no tensor map", what);
}
void tma_prefetch(const CUtensorMap *map, Site at)
{
    check_map(map, "prefetch", at);
}

static Box checked_box(const CUtensorMap *map, const int *c, int rank, const char *what, Site at)
{
    check_map(map, what, at);
    if (map->rank != rank)
        fail(at, "%s in %d dimensions with a map of %d", what, rank, map->rank);
    Box x;
    x.map = *map;
    for (int i = 0; i < rank; i++)
        x.corner[i] = c[i];
    check_rows(x, what, at);
    if (x.bytes() > byte_limit_of_barrier)
        fail(at, "%s of %u bytes: an mbarrier counts to 2^20-1", what, x.bytes());
    return x;
}

static Range checked_tile(const Box &x, const void *tile, const char *what, Site at)
{
    const uint32_t address = shared_checked(tile, x.bytes(), 16, what, at);
    if (address % 128) // the swizzle acts on addresses: a box may start inside its pattern, wgmma may not
        fail(at, "%s: a box must start at a multiple of 128 bytes of shared memory, not at %u", what,
             address - Block::shared_window);
    return {address, address + x.bytes()};
}

static void begin_load(Block &b, Range r, unsigned swizzle, uint32_t barrier, void *pc, const char *what,
                       Site at)
{
    async_writes(b, r, what, at);
    tsan::writes(b.at(r.begin), r.end - r.begin, pc);
    memset(b.at(r.begin), 0xff, r.end - r.begin);
    const Mbarrier &m = b.mbarriers.at(barrier);
    note_landing(b, r, {swizzle, at, m.number, (uint32_t)m.phase, 0});
    b.count.bulk_copies++;
    b.count.bulk_bytes += r.end - r.begin;
    self().at = at;
}

/// The barrier that a load of r completes on.
static uint32_t fenced_barrier(uint64_t *p, uint32_t bytes, const char *what, Site at)
{
    const Mbarrier &m = find_mbarrier(p, what, at);
    if (!m.fenced)
        fail(at, "%s: no fence.mbarrier_init (or fence.proxy.async) followed the mbarrier.init at %s", what,
             text(m.init).c_str());
    const uint32_t address = shared_checked(p, 8, 8, what, at);
    note_load(self(), bytes, m, address - Block::shared_window, at);
    return address;
}

void tma_load(void *dst, const CUtensorMap *map, uint64_t *p, const int *c, int rank, Site at)
{
    Block &b = *self().block;
    const Box x = checked_box(map, c, rank, "tensor copy", at);
    const Range r = checked_tile(x, dst, "tensor copy", at);
    void *const pc = CALLER;
    const uint32_t barrier = fenced_barrier(p, x.bytes(), "tensor copy", at);
    begin_load(b, r, x.map.swizzle, barrier, pc, "tensor copy", at);
    const Mbarrier &m = b.mbarriers.at(barrier);
    shared_rows(x, [&](const void *row, uint64_t bytes) {
        order_load(row, bytes, m.number, (uint32_t)m.phase, "tensor copy", at);
    });
    auto take_place = [&b, x, r, barrier, pc, at](const Pending &) {
        each_chunk(x, b.count.load_bytes, b.count.load_sectors,
                   [&](uint32_t offset, const unsigned char *src, int first, int last) {
                       unsigned char chunk[16] = {};
                       if (first < last) {
                           memcpy(chunk + first, src + first, (size_t)(last - first));
                           tsan::reads(src + first, (size_t)(last - first), pc);
                       }
                       memcpy(b.at(swizzled(r.begin + offset, x.map.swizzle)), chunk, 16);
                   });
        tsan::writes(b.at(r.begin), r.end - r.begin, pc);
        mbarrier_complete(b, barrier, x.bytes(), at);
    };
    issue(b, {Pending::load, &self(), 0, r, at, take_place, tsan::Agent(pc)});
}

void bulk_load(void *dst, const void *src, uint32_t bytes, uint64_t *p, Site at)
{
    Block &b = *self().block;
    const uint32_t address = shared_checked(dst, bytes, 16, "bulk copy", at);
    if (bytes % 16 || (uintptr_t)src % 16)
        fail(at, "bulk copy: source and size must be multiples of 16 bytes");
    check_global(src, bytes, "bulk copy", at);
    const Range r = {address, address + bytes};
    const uint32_t barrier = fenced_barrier(p, bytes, "bulk copy", at);
    void *const pc = CALLER;
    begin_load(b, r, 0, barrier, pc, "bulk copy", at);
    const Mbarrier &m = b.mbarriers.at(barrier);
    order_load(src, bytes, m.number, (uint32_t)m.phase, "bulk copy", at);
    auto take_place = [&b, r, src, bytes, barrier, pc, at](const Pending &) {
        memcpy(b.at(r.begin), src, bytes);
        tsan::reads(src, bytes, pc);
        tsan::writes(b.at(r.begin), bytes, pc);
        b.count.load_bytes += bytes;
        b.count.load_sectors += ((uintptr_t)src + bytes - 1) / 32 - (uintptr_t)src / 32 + 1;
        mbarrier_complete(b, barrier, bytes, at);
    };
    issue(b, {Pending::load, &self(), 0, r, at, take_place, tsan::Agent(pc)});
}

template <class T>
static void atomic_add(unsigned char *p, T (*sum)(T, const unsigned char *), const unsigned char *by)
{
    T old, next;
    __atomic_load((T *)p, &old, __ATOMIC_RELAXED);
    do
        next = sum(old, by);
    while (!__atomic_compare_exchange((T *)p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

static void add_float(unsigned char *p, const unsigned char *by)
{
    atomic_add<uint32_t>(
        p,
        [](uint32_t old, const unsigned char *v) {
            float f;
            memcpy(&f, v, 4);
            return (uint32_t)to_bits(from_bits<float>(old) + f);
        },
        by);
}

static void add_bf16(unsigned char *p, const unsigned char *by)
{
    atomic_add<uint16_t>(
        p,
        [](uint16_t old, const unsigned char *v) {
            __nv_bfloat16 f;
            memcpy(&f, v, 2);
            return __float2bfloat16_rn(__bfloat162float({old}) + __bfloat162float(f)).bits;
        },
        by);
}

static void store_bytes(unsigned char *dst, const unsigned char *src, int bytes, Store how, int type)
{
    if (how == Store::copy)
        memcpy(dst, src, (size_t)bytes);
    else if (type == 7)
        for (int i = 0; i < bytes; i += 4)
            add_float(dst + i, src + i);
    else
        for (int i = 0; i < bytes; i += 2)
            add_bf16(dst + i, src + i);
}

/// A store reads its source at some time before wait_group lets the thread go on: it must not change till
/// then.
static void issue_store(Block &b, Range r, void *pc, Site at, std::function<void()> move)
{
    b.count.bulk_copies++;
    b.count.bulk_bytes += r.end - r.begin;
    Thread &t = self();
    t.at = at;
    async_reads(b, r, t.clock, t.index, "bulk store", at);
    note_queued(t, Queue::stores, r.end - r.begin, t.bulk_groups, at);
    std::vector<unsigned char> source(b.at(r.begin), b.at(r.begin) + (r.end - r.begin));
    auto take_place = [&b, &t, r, pc, at, source, move](const Pending &) {
        tsan::reads(b.at(r.begin), r.end - r.begin, pc);
        if (memcmp(source.data(), b.at(r.begin), source.size()))
            fail(at, "the source of this bulk store was overwritten before wait_group.read");
        move();
        tsan::release(&t.stored);
    };
    issue(b, {Pending::store, &t, t.bulk_groups, r, at, take_place, tsan::Agent(pc)});
}

void tma_store(const CUtensorMap *map, const void *src, const int *c, int rank, Store how, Site at)
{
    Block &b = *self().block;
    const Box x = checked_box(map, c, rank, "tensor store", at);
    const Range r = checked_tile(x, src, "tensor store", at);
    for (int i = 0; i < rank; i++)
        if (c[i] < 0)
            fail(at, "tensor store at negative coordinate %d", c[i]);
    if (x.map.dim[0] * x.map.element % 16)
        fail(at, "tensor store: rows of %llu bytes, but stores are clipped at multiples of 16",
             (unsigned long long)(x.map.dim[0] * x.map.element));
    if (how == Store::add && x.map.type != 7 && x.map.type != 9)
        fail(at, "tensor reduction of a type other than float32 and bf16");
    shared_rows(x, [&](const void *row, uint64_t bytes) {
        order_store(row, bytes, how == Store::add, "tensor store", at);
    });
    void *const pc = CALLER;
    issue_store(b, r, pc, at, [&b, x, r, how, pc, at] {
        each_chunk(x, b.count.store_bytes, b.count.store_sectors,
                   [&](uint32_t offset, unsigned char *dst, int first, int last) {
                       if (first == last)
                           return;
                       const uint32_t chunk = swizzled(r.begin + offset, x.map.swizzle);
                       check_written(b, {chunk, chunk + granule}, "tensor store", at);
                       store_bytes(dst + first, b.at(chunk) + first, last - first, how, x.map.type);
                       if (how == Store::copy)
                           tsan::writes(dst + first, (size_t)(last - first), pc);
                   });
    });
}

void bulk_store(void *dst, const void *src, uint32_t bytes, Site at)
{
    Block &b = *self().block;
    const uint32_t address = shared_checked(src, bytes, 16, "bulk store", at);
    if (bytes % 16 || (uintptr_t)dst % 16)
        fail(at, "bulk store: destination and size must be multiples of 16 bytes");
    check_global(dst, bytes, "bulk store", at);
    const Range r = {address, address + bytes};
    order_store(dst, bytes, false, "bulk store", at);
    void *const pc = CALLER;
    issue_store(b, r, pc, at, [&b, dst, r, bytes, pc, at] {
        for (uint32_t chunk = r.begin; chunk < r.end; chunk += granule)
            check_written(b, {chunk, chunk + granule}, "bulk store", at);
        memcpy(dst, b.at(r.begin), bytes);
        tsan::writes(dst, bytes, pc);
        b.count.store_bytes += bytes;
        b.count.store_sectors += ((uintptr_t)dst + bytes - 1) / 32 - (uintptr_t)dst / 32 + 1;
    });
}

void bulk_commit(Site at)
{
    self().bulk_groups++;
    self().at = at;
}

void bulk_wait(int pending, bool only_read, Site at)
{
    Thread &t = self();
    t.at = at;
    if ((unsigned)pending >= t.bulk_groups)
        return;
    complete_groups(*t.block, Pending::store, t.bulk_groups - (unsigned)pending);
    if (!only_read)
        stores_are_over(t, t.bulk_groups - (unsigned)pending);
    tsan::acquire(&t.stored);
    note_wait(t, Did::wait_copy, Queue::stores, t.bulk_groups - (unsigned)pending, at);
}

} // namespace simt
