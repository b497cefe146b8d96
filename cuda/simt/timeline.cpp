/**
 * @file timeline.cpp
 * @brief The timeline: what threads did is recorded while a CTA runs, and replayed on a model clock after.
 *
 * The record holds only what does not depend on when the engine ran a thread or let a copy take place: the
 * steps of each thread, and which phase of which barrier they belong to. The replay always goes on with the
 * thread whose clock is least behind, so that those who share the tensor cores, the path of copies or a
 * quarter of the SM get them in the model's order.
 */
#include "engine.h"

#include <algorithm>
#include <queue>
#include <tuple>

namespace simt
{

static std::vector<Event> events;

const std::vector<Event> &timeline()
{
    return events;
}

void forget_timeline()
{
    events.clear();
}

/* ---- Recording ----------------------------------------------------------------------------------- */

unsigned new_signal(Block &b)
{
    if (!b.record)
        return 0;
    b.record->missing.push_back(0);
    return (unsigned)b.record->missing.size() - 1;
}

void note(Thread &t, const Step &s)
{
    Record *r = t.block->record.get();
    if (!r)
        return;
    if (s.signal && s.arrives)
        r->missing[s.signal]++;
    r->threads[t.index].push_back(s);
}

void note_signal(Thread &t, Did did, unsigned signal, unsigned object, bool arrives, bool waits, Site at)
{
    Step s(Step::signal_at, at);
    s.did = did;
    s.signal = signal;
    s.object = object;
    s.arrives = arrives;
    s.waits = waits;
    note(t, s);
}

void note_load(Thread &t, uint64_t bytes, const Mbarrier &m, unsigned object, Site at)
{
    Step s(Step::copy, at);
    s.amount = (double)bytes;
    s.signal = m.signal;
    s.object = object;
    s.arrives = true;
    note(t, s);
}

void note_queued(Thread &t, Queue queue, uint64_t bytes, unsigned group, Site at)
{
    Step s(Step::copy, at);
    s.amount = (double)bytes;
    s.queue = queue;
    s.group = group;
    note(t, s);
}

void note_product(Thread &t, int fma, unsigned group, Site at)
{
    Step s(Step::product, at);
    s.amount = fma;
    s.group = group;
    note(t, s);
}

void note_wait(Thread &t, Did did, Queue queue, unsigned limit, Site at)
{
    Step s(Step::wait_group, at);
    s.did = did;
    s.queue = queue;
    s.group = limit;
    note(t, s);
}

void note_work(Thread &t, double clk)
{
    Record *r = t.block->record.get();
    if (!r)
        return;
    std::vector<Step> &steps = r->threads[t.index];
    if (steps.empty() || steps.back().kind != Step::advance)
        steps.push_back(Step(Step::advance, t.at));
    steps.back().amount += clk;
}

void timeline_role(const char *role, Site at)
{
    Step s(Step::role, at);
    s.name = role;
    note(self(), s);
}

void timeline_mark(const char *what, double clk, Site at)
{
    Step s(Step::work, at);
    s.name = what;
    s.amount = clk;
    note(self(), s);
}

/* ---- Replay -------------------------------------------------------------------------------------- */

struct Signal { ///< one phase of a barrier, one meeting
    unsigned missing;
    double time = 0; ///< of the last arrival or landing
    std::vector<unsigned> waiting;
};

struct Player { ///< a thread
    double clock = 0;
    size_t next = 0, works = 0; ///< next step; declared work so far
    const char *role = "";
    std::vector<double> landed[3]; ///< by queue and group
};

struct Replay {
    const Block &b;
    const Costs &cost = options.costs;
    std::vector<Signal> signals;
    std::vector<Player> players;
    std::vector<std::vector<double>> produced; ///< by warpgroup and group of wgmma: when it completes
    struct Work {                              ///< the last that a warp declared
        size_t number;
        double begin, end;
    };
    std::vector<Work> works;
    double quarter_free[4] = {};
    double tensor_free = 0, path_free = 0;
    std::vector<Event> events;
    std::priority_queue<std::pair<double, unsigned>, std::vector<std::pair<double, unsigned>>,
                        std::greater<std::pair<double, unsigned>>>
        runnable;

    explicit Replay(const Block &block)
        : b(block), players(b.threads.size()), produced(b.warpgroups.size()),
          works((players.size() + 31) / 32)
    {
        for (unsigned n : b.record->missing)
            signals.push_back({n, 0, {}});
        for (unsigned i = 0; i < players.size(); i++)
            runnable.push({0, i});
    }

    Event &add(unsigned i, const Step &s, Did did, double begin, double end)
    {
        events.push_back({b.launch->name, b.launch_number, b.linear, i / 32, 1u << i % 32, players[i].role,
                          did, s.name, s.object, 0, 0, begin, begin, end, s.at});
        return events.back();
    }

    void contribute(unsigned id, double time)
    {
        Signal &s = signals[id];
        s.time = std::max(s.time, time);
        if (id == 0 || --s.missing)
            return;
        for (unsigned i : s.waiting)
            go_on(i, s.time);
        s.waiting.clear();
    }

    /// The wait that this thread is at ends: no earlier than `time`, nor than the thread came.
    void go_on(unsigned i, double time)
    {
        Player &p = players[i];
        const Step &s = b.record->threads[i][p.next++];
        if (time > p.clock)
            add(i, s, s.did, p.clock, time);
        p.clock = std::max(p.clock, time) + (s.did == Did::wait_lanes ? cost.issue : cost.barrier);
        runnable.push({p.clock, i});
    }

    static double &slot(std::vector<double> &groups, unsigned group)
    {
        if (groups.size() <= group)
            groups.resize(group + 1);
        return groups[group];
    }

    static double latest(const std::vector<double> &groups, unsigned limit)
    {
        double time = 0;
        for (unsigned g = 0; g < limit && g < groups.size(); g++)
            time = std::max(time, groups[g]);
        return time;
    }

    /// Declared work has its warp's quarter of the SM for itself. The lanes of a warp do it together, also
    /// those that come a little later, from something that only they had to do.
    void work(unsigned i, const Step &s)
    {
        Player &p = players[i];
        Work &w = works[i / 32];
        double &free = quarter_free[i / 32 % 4];
        if (++p.works > w.number) {
            const double begin = std::max(p.clock, free);
            w = {p.works, begin, begin + s.amount};
            free = w.end;
        }
        p.clock = std::max(w.end, p.clock);
        add(i, s, Did::work, w.begin, w.end).busy = s.amount;
    }

    void copy(unsigned i, const Step &s)
    {
        Player &p = players[i];
        const double busy = s.amount / cost.copy_bytes;
        path_free = std::max(path_free, p.clock) + busy;
        const double lands = path_free + cost.copy_latency;
        Event &e = add(i, s, Did::copy, p.clock, lands);
        e.busy = busy;
        e.served = path_free - busy;
        e.bytes = (uint64_t)s.amount;
        double &group = slot(p.landed[(int)s.queue], s.group);
        group = std::max(group, lands);
        if (s.arrives)
            contribute(s.signal, lands);
    }

    /// Products of one group are one event: its first issue to its last result.
    void product(unsigned i, const Step &s)
    {
        const double busy = s.amount / cost.tensor_fma;
        const double served = std::max(tensor_free, players[i].clock);
        tensor_free = served + busy;
        std::vector<double> &groups = produced[i / 128];
        const bool first = groups.size() <= s.group;
        slot(groups, s.group) = tensor_free;
        if (first) {
            Event &e = add(i, s, Did::product, players[i].clock, tensor_free);
            e.lanes = ~0u;
            e.served = served;
        }
        for (size_t k = events.size(); k-- > 0;)
            if (events[k].did == Did::product && events[k].warp == i / 32) {
                events[k].end = tensor_free;
                events[k].busy += busy;
                break;
            }
    }

    void step(unsigned i)
    {
        Player &p = players[i];
        const std::vector<Step> &steps = b.record->threads[i];
        if (p.next == steps.size())
            return;
        const Step &s = steps[p.next];
        if (s.kind == Step::signal_at && s.arrives)
            contribute(s.signal, p.clock);
        if (s.kind == Step::signal_at && s.waits) {
            if (signals[s.signal].missing)
                signals[s.signal].waiting.push_back(i);
            else
                go_on(i, signals[s.signal].time);
            return;
        }
        if (s.kind == Step::wait_group)
            return go_on(i, s.did == Did::wait_product ? latest(produced[i / 128], s.group)
                                                       : latest(p.landed[(int)s.queue], s.group));
        p.next++;
        switch (s.kind) {
        case Step::role:
            p.role = s.name;
            break;
        case Step::advance:
            p.clock += s.amount;
            break;
        case Step::work:
            work(i, s);
            break;
        case Step::copy:
            copy(i, s);
            break;
        case Step::product:
            product(i, s);
            break;
        default:
            break;
        }
        if (s.kind != Step::role && s.kind != Step::advance && s.kind != Step::work)
            p.clock += cost.issue;
        runnable.push({p.clock, i});
    }
};

static auto place(const Event &e)
{
    return std::make_tuple(e.block, e.warp, e.begin, e.did, e.at.line, e.object);
}

/// What several lanes of a warp began together is one event.
static void add_warps(std::vector<Event> &lanes)
{
    std::stable_sort(lanes.begin(), lanes.end(),
                     [](const Event &a, const Event &b) { return place(a) < place(b); });
    for (const Event &e : lanes) {
        Event *last = events.empty() ? nullptr : &events.back();
        if (!last || last->launch != e.launch || place(*last) != place(e) || last->lanes & e.lanes) {
            events.push_back(e);
            continue;
        }
        last->lanes |= e.lanes;
        last->end = std::max(last->end, e.end);
        last->bytes += e.bytes;
        last->busy = e.did == Did::copy ? last->busy + e.busy : std::max(last->busy, e.busy);
    }
}

void replay(Block &b)
{
    if (!b.record)
        return;
    Replay r(b);
    while (!r.runnable.empty()) {
        const unsigned i = r.runnable.top().second;
        r.runnable.pop();
        r.step(i);
    }
    add_warps(r.events);
}

void sort_timeline()
{
    std::stable_sort(events.begin(), events.end(), [](const Event &a, const Event &b) {
        return std::make_tuple(a.launch, a.block) < std::make_tuple(b.launch, b.block);
    });
}

} // namespace simt
