/**
 * @file race.cpp
 * @brief Which thread knows what others did: clocks that barriers carry from thread to thread.
 *
 * A vector clock with one component a warp of the CTA. A release counts up its warp's component, and what
 * a thread does bears the count of that moment as a stamp; whoever has learned of a larger count, through a
 * barrier, also the warp's own, or a fence, comes after it. Lanes that share a count may hide a race between
 * them, but a correct kernel is never blamed.
 */
#include "engine.h"

#include <atomic>
#include <mutex>

namespace simt
{

uint32_t stamp(const Thread &t)
{
    return t.block->releases[t.index / 32];
}

// [ordered]
bool ordered(const Thread &me, unsigned other, uint32_t stamp)
{
    return other == me.index || me.clock[other / 32] > stamp;
}
// [ordered]

bool ordered(const Clock &known, unsigned id, unsigned other, uint32_t stamp)
{
    return other == id || known[other / 32] > stamp;
}

void publish()
{
    Thread &t = self();
    t.clock.set(t.index / 32, ++t.block->releases[t.index / 32]);
}

void publish(Clock &object)
{
    publish();
    object.join(self().clock);
}

void learn(const Clock &object)
{
    self().clock.join(object);
}

void publish(Gate &gate, uint64_t phase)
{
    publish(gate.gathering);
    tsan::release(&gate.side[phase & 1]);
}

void learn(Gate &gate, uint64_t phase)
{
    learn(gate.complete);
    tsan::acquire(&gate.side[phase & 1]);
}

/* ---- Across CTAs ----------------------------------------------------------------------------------- */

static void join(Clocks &into, const Clocks &from)
{
    for (const auto &c : from)
        into[c.first].join(c.second);
}

std::shared_ptr<const Beyond> joined(const std::shared_ptr<const Beyond> &a,
                                     const std::shared_ptr<const Beyond> &b)
{
    if (!a)
        return b;
    const auto sum = std::make_shared<Beyond>(*a);
    join(sum->known, b->known);
    join(sum->at_fence, b->at_fence);
    return sum;
}

const Clock *known_of(const Thread &me, uint64_t block)
{
    if (!me.clock.beyond)
        return nullptr;
    const auto found = me.clock.beyond->known.find(block);
    return found == me.clock.beyond->known.end() ? nullptr : &found->second;
}

/// What lies in memory with the value of a flag, by its address.
static std::map<const void *, Clocks> released;
static std::mutex released_lock;
static std::atomic<bool> any_released; ///< most often not, and then an atomic need not ask

void forget_releases()
{
    released.clear();
    any_released = false;
}

static Clock alone(Clock c)
{
    c.beyond.reset();
    return c;
}

static Beyond beyond(const Thread &t)
{
    return t.clock.beyond ? *t.clock.beyond : Beyond();
}

/// All that this thread knows, its own CTA included.
static Clocks all_known(Thread &t)
{
    Clock own;
    publish(own);
    Clocks all = beyond(t).known;
    all[t.block->linear].join(alone(t.clock));
    return all;
}

static void learn(Thread &t, const Clocks &what)
{
    Beyond b = beyond(t);
    join(b.known, what);
    join(b.at_fence, what);
    const Clock own = b.known[t.block->linear];
    b.known.erase(t.block->linear);
    t.clock.beyond = std::make_shared<const Beyond>(b);
    t.clock.join(own);
}

void publish(Clocks &object)
{
    join(object, all_known(self()));
}

void learn(const Clocks &object)
{
    learn(self(), object);
}

/// Sequentially consistent, so a fence comes after those of which anything led here, if only relaxed atomics.
void fence_memory(Site at)
{
    Thread &t = self();
    t.at = at;
    Beyond b = beyond(t);
    join(b.at_fence, all_known(t));
    learn(t, b.at_fence);
}

void release_at(const void *p, Site at)
{
    Thread &t = self();
    order_global(p, 4, Does::atomic, "st.release", at);
    const std::lock_guard<std::mutex> hold(released_lock);
    released[p] = all_known(t);
    any_released = true;
}

void acquire_at(const void *p, Site at)
{
    Thread &t = self();
    check_stored_to(p, 4, "ld.acquire", at);
    order_global(p, 4, Does::atomic_read, "ld.acquire", at);
    const std::lock_guard<std::mutex> hold(released_lock);
    const auto found = released.find(p);
    if (found != released.end())
        learn(t, found->second);
}

/// Told and telling are one moment, as the value is: who finds it larger has learned of all who made it so.
uint32_t add_acq_rel(uint32_t *p, uint32_t v, Site at)
{
    Thread &t = self();
    t.at = at;
    touch_atomic(p, 4, true, at);
    const std::lock_guard<std::mutex> hold(released_lock);
    const auto found = released.find(p);
    if (found != released.end())
        learn(t, found->second);
    released[p] = all_known(t);
    any_released = true;
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}

/// Relaxed: tells only what was fenced before, and what it is told is known after the next fence.
void atomic_at(void *p, unsigned bytes, Site at, bool reads)
{
    Thread &t = self();
    t.at = at;
    touch_atomic(p, bytes, reads, at);
    if (!any_released && !t.clock.beyond)
        return;
    const std::lock_guard<std::mutex> hold(released_lock);
    const auto found = released.find(p);
    Beyond b = beyond(t);
    if (found == released.end() && b.at_fence.empty())
        return;
    Clocks &there = released[p];
    any_released = true;
    join(b.at_fence, there);
    there = b.at_fence;
    t.clock.beyond = std::make_shared<const Beyond>(b);
}

} // namespace simt
