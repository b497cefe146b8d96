/**
 * @file operand.cpp
 * @brief wgmma's operands in shared memory: what a descriptor says, where the elements lie, what may be read.
 */
#include "engine.h"

#include <algorithm>

namespace simt
{

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

Range check_operand(Block &b, uint64_t desc, bool mn_major, int mn_size, const Clock *known, bool by_warp,
                    const char *name, Site at)
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

/// Calls f(mn, k, word) with the four words of each chunk, once it is known that somebody wrote them.
template <class F>
static void each_written(Block &b, uint64_t desc, bool mn_major, int mn_size, const char *name,
                         const Product &p, F f)
{
    each_chunk(desc, mn_major, mn_size, name, p.at, [&](int mn, int k, uint32_t address) {
        tsan::reads(b.at(address), 16, p.agent.pc);
        uint32_t word[4];
        memcpy(word, b.at(address), 16);
        for (int i = 0; i < 4; i++)
            if (word[i] == ~0u && !options.unwritten && !known_written(b, {address, address + 16}))
                fail(p.at, "wgmma: element (%d,%d) of %s lies at offset %u, where nobody has written", mn, k,
                     name, address - Block::shared_window);
        f(mn, k, word);
    });
}

void gather(Block &b, uint64_t desc, bool mn_major, int mn_size, const char *name, const Product &p,
            float *out, int mn_step, int k_step)
{
    const int step = mn_major ? mn_step : k_step;
    each_written(b, desc, mn_major, mn_size, name, p, [&](int mn, int k, const uint32_t *word) {
        float *to = out + mn * mn_step + k * k_step;
        for (int i = 0; i < 4; i++) {
            to[2 * i * step] = from_bits<float>(word[i] << 16);
            to[(2 * i + 1) * step] = from_bits<float>(word[i] & 0xffff0000u);
        }
    });
}

void gather_int8(Block &b, uint64_t desc, int mn_size, const char *name, const Product &p, int8_t *out)
{
    each_written(b, desc, false, mn_size, name, p,
                 [&](int mn, int k, const uint32_t *word) { memcpy(out + 32 * mn + 2 * k, word, 16); });
}

bool is_of(uint64_t desc, bool mn_major, int mn_size, Range r, Site at)
{
    bool any = false;
    each_chunk(desc, mn_major, mn_size, "", at, [&](int, int, uint32_t address) {
        any |= r.meets({address, address + 16});
    });
    return any;
}

} // namespace simt
