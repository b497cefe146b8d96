/**
 * @file race.cpp
 * @brief Which thread knows what others did: clocks that barriers carry from thread to thread.
 *
 * A vector clock with one component a warp of the cluster. A release counts up its warp's component, and what
 * a thread does bears the count of that moment as a stamp; whoever has learned of a larger count, through a
 * barrier, a meeting of lanes or a fence, comes after it. Lanes that share a count may hide a race between
 * them, but a correct kernel is never blamed.
 */
#include "engine.h"

namespace simt
{

uint32_t stamp(const Thread &t)
{
    return t.block->releases[t.index / 32];
}

// [ordered]
bool ordered(const Thread &me, unsigned other, uint32_t stamp)
{
    return other == me.id || me.clock[other / 32] > stamp;
}
// [ordered]

bool ordered(const Clock &known, unsigned id, unsigned other, uint32_t stamp)
{
    return other == id || known[other / 32] > stamp;
}

void publish()
{
    Thread &t = self();
    t.clock.set(t.id / 32, ++t.block->releases[t.index / 32]);
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

void release()
{
    publish(self().block->fences);
    learn(self().block->fences);
}

} // namespace simt
