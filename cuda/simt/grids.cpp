/**
 * @file grids.cpp
 * @brief Which grids may overlap the one that runs, by programmatic dependent launch.
 */
#include "engine.h"

#include <atomic>

namespace simt
{

uint64_t grid;

static uint64_t oldest_begun; ///< a grid before it that may still run when it begins...
static uint64_t oldest_ended; ///< ... and when its grid_wait has returned, of those before that one
static bool dependent;
static std::atomic<bool> waited, triggered_late; ///< by a CTA of this grid: see begin_grid

/// What may overlap a dependent grid: the one before; and those that may overlap that one, unless a CTA of
/// it has waited for them before it let this grid begin. After grid_wait the same without the one before,
/// which has ended, and with it what any of its CTAs has waited for.
void begin_grid(bool is_dependent)
{
    const uint64_t before = dependent ? oldest_begun : grid;
    oldest_begun = !is_dependent ? grid + 1 : triggered_late || !dependent ? grid : before;
    oldest_ended = !is_dependent || waited || !dependent ? grid : before;
    dependent = is_dependent;
    waited = triggered_late = false;
    grid++;
    if (!is_dependent)
        forget_releases();
}

void note_grid_wait(Thread &t)
{
    t.clock.set(t.block->grid_wait, 1);
    waited = true;
}

static bool has_waited(const Thread &t)
{
    return t.clock[t.block->grid_wait];
}

void launch_dependents(Site at)
{
    Thread &t = self();
    t.at = at;
    if (!t.block->triggered && has_waited(t))
        triggered_late = true;
    t.block->triggered = true;
}

void note_exit(const Thread &t)
{
    Block &b = *t.block;
    if (b.live || b.triggered || !dependent)
        return;
    for (const Thread &o : b.threads)
        if (has_waited(o))
            triggered_late = true;
}

bool overlaps(const Thread &me, uint64_t other)
{
    if (!dependent || other < 1)
        return false;
    return has_waited(me) ? other >= oldest_ended && other + 1 < grid : other >= oldest_begun;
}

} // namespace simt
