/**
 * @file dependent.cpp
 * @brief Programmatic dependent launch: until grid_wait returns, the output of the grid before is poison.
 *
 * Output is what changed in the declared buffers while that grid ran, in words of 4 bytes. grid_wait returns
 * as late as possible: when nobody in the CTA can go on without it and no copy is in flight.
 */
#include "engine.h"

namespace simt
{

struct Run { ///< words that a grid changed
    unsigned char *start;
    size_t bytes;
    const char *buffer;
    std::vector<unsigned char> hidden; ///< what they hold, while they are poisoned
};

static std::vector<std::vector<unsigned char>> before; ///< of each declared buffer
static std::vector<Run> output;                        ///< of the last grid
static bool poisoned, waited;
static Site wanted; ///< where a thread waits for the grid before

constexpr unsigned char poison_byte = 0xff;

/* ---- What the grid before has stored ------------------------------------------------------------- */

void remember_globals()
{
    size_t bytes = 0;
    for (const Global &g : globals)
        bytes += g.bytes;
    waited = false;
    before.clear();
    for (const Global &g : globals)
        if (bytes <= options.snapshot)
            before.emplace_back(g.start, g.start + g.bytes);
}

static constexpr size_t piece = 256; ///< bytes that are compared at once: most are equal

static void compare(const Global &g, const std::vector<unsigned char> &old)
{
    size_t end = ~(size_t)0; // of the run that is open
    for (size_t i = 0, n; i < old.size(); i += n) {
        n = std::min(piece, old.size() - i);
        if (memcmp(g.start + i, old.data() + i, n) == 0)
            continue;
        n = std::min<size_t>(4, n);
        if (memcmp(g.start + i, old.data() + i, n) == 0)
            continue;
        if (end != i)
            output.push_back({const_cast<unsigned char *>(g.start) + i, 0, g.name.c_str(), {}});
        output.back().bytes += n;
        end = i + n;
    }
}

void find_output()
{
    output.clear();
    for (size_t i = 0; i < before.size(); i++)
        compare(globals[i], before[i]);
    before.clear();
}

void forget_output()
{
    before.clear();
    output.clear();
}

/* ---- Poison -------------------------------------------------------------------------------------- */

void poison_output()
{
    for (Run &r : output) {
        r.hidden.assign(r.start, r.start + r.bytes);
        memset(r.start, poison_byte, r.bytes);
    }
    poisoned = !output.empty();
    wanted.file = nullptr;
}

/// What was stored meanwhile stays; false if there is such. Most often nothing was.
static bool put_back(unsigned char *now, const unsigned char *hidden, size_t n)
{
    static const std::vector<unsigned char> poison(piece, poison_byte);
    if (memcmp(now, poison.data(), n) == 0) {
        memcpy(now, hidden, n);
        return true;
    }
    bool intact = true;
    for (size_t i = 0; i < n; i++)
        if (now[i] == poison_byte)
            now[i] = hidden[i];
        else
            intact = false;
    return intact;
}

/// What was stored meanwhile stays. Returns the last run where that happened, or NULL.
static const Run *reveal()
{
    const Run *stored = nullptr;
    for (size_t k = output.size(); k-- > 0;) // backwards, since declared buffers may overlap
        for (size_t i = 0; i < output[k].hidden.size(); i += piece)
            if (!put_back(output[k].start + i, &output[k].hidden[i],
                          std::min(piece, output[k].hidden.size() - i)))
                stored = &output[k];
    poisoned = false;
    return stored;
}

static void fail_early_store(const char *buffer, Site at)
{
    fail(at, "a store to `%s` before grid_wait, where the grid before stores too", buffer);
}

bool reveal_if_wanted()
{
    if (!poisoned || !wanted.file)
        return false;
    if (const Run *r = reveal())
        fail_early_store(r->buffer, wanted);
    return true;
}

/// The CTAs have ended, or failed.
void reveal_output()
{
    if (poisoned)
        reveal();
}

void check_early_store(const void *p, Site at)
{
    for (size_t k = 0; poisoned && k < output.size(); k++)
        if (p >= output[k].start && p < output[k].start + output[k].bytes)
            fail_early_store(output[k].buffer, at);
}

/// Whether a dependent launch that has ended went without the wait that it needs.
bool missing_grid_wait()
{
    return !output.empty() && !waited;
}

struct GridDone : Condition {
    bool ready() override
    {
        return !poisoned;
    }
    std::string text() override
    {
        return "grid_wait";
    }
};

void grid_wait(Site at)
{
    if (!self().block->launch->dependent)
        return;
    GridDone done;
    wanted = at;
    waited = true;
    wait_for(done, at);
    note_grid_wait(self());
}

} // namespace simt
