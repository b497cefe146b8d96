/**
 * @file counts.cpp
 * @brief counts.h: the engine's counters and timeline as C sees them.
 */
#include "counts.h"
#include "simt.h"

#include <new>

static_assert((int)SIMT_COPY == (int)simt::Did::copy && (int)SIMT_WAIT_LANES == (int)simt::Did::wait_lanes,
              "simt_did lists simt::Did in its order");

extern "C" const simt_counters *simt_counts(void)
{
    return &simt::counters;
}

extern "C" void simt_watch(void (*see)(void *, const simt_access *), void *context)
{
    if (see)
        simt::options.watch = [=](const simt_access &a) { see(context, &a); };
    else
        simt::options.watch = nullptr;
}

extern "C" void simt_record(int64_t block)
{
    simt::options.timeline = block >= 0;
    simt::options.timeline_block = block;
}

extern "C" const simt_event *simt_events(size_t *n)
{
    static std::vector<simt_event> copy;
    copy.clear();
    try {
        copy.reserve(simt::timeline().size() + 1); // no events have an address, too
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
    for (const simt::Event &e : simt::timeline())
        copy.push_back({e.kernel, e.launch, e.block, e.warp, e.role, e.name, (simt_did)e.did, e.object,
                        e.bytes, e.busy, e.served, e.begin, e.end});
    *n = copy.size();
    return copy.data();
}

extern "C" simt_model simt_costs(void)
{
    const simt::Costs &c = simt::options.costs;
    return {c.copy_latency, c.copy_bytes, c.tensor_fma};
}
