/**
 * @file engine.cpp
 * @brief Fibers and the scheduler: runs the CTAs of a grid, thread by thread.
 */
#undef _FORTIFY_SOURCE // its longjmp refuses to jump between stacks
#include "engine.h"
#include "chosen.h"
#include "fiber.h"

#include <mutex>
#include <pthread.h>
#ifdef _OPENMP
#include <omp.h>
#endif

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace simt
{

Options options;
uintptr_t reach;
Counters counters;
uint64_t launches;
static std::mutex counters_lock;

/* ---- Threads on fibers --------------------------------------------------------------------------------- */

/// One core's share: the CTAs it runs now, and a stack for each of their threads.
struct Worker {
    Context home;
    bool failed = false;
    size_t fitting = 0; ///< how many of the CTAs may run at the same time
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber *> idle;
    std::vector<std::unique_ptr<Block>> blocks;

    void start(Block &b);
    void start_cluster(const Launch &l, const Chosen &chosen, uint64_t first);
    void resume(Thread &t);
    void sweep(Block &b, bool &ran, bool &spun);
    void sweep_unfairly(Block &b, bool &ran, bool &spun);
    void sweep_all(bool &ran, bool &spun);
    bool retire_exited();
    void run(const Launch &l, const Chosen &chosen, uint64_t first, uint64_t last, unsigned resident);
    void abandon();
};
/// Gives the stacks of a thread that ends back.
static pthread_key_t at_end;
static const bool can_end =
    pthread_key_create(&at_end, [](void *made) { ((Worker *)made)->~Worker(); }) == 0;

/// This core's. Made in place, and unmade by a key: to register a destructor takes memory, and without it glibc
/// aborts.
static Worker &worker()
{
    alignas(Worker) static thread_local unsigned char room[sizeof(Worker)];
    static thread_local Worker *made;
    if (!made) {
        made = new (room) Worker;
        if (can_end)
            pthread_setspecific(at_end, made);
    }
    return *made;
}

__thread Thread *running;

static void leave() // to the scheduler, until it resumes this thread
{
    switch_context(running->fiber->context, worker().home, false);
}

static void fiber_main()
{
    arrived(&worker().home);
    for (;;) {
        Thread &t = self();
        tsan::acquire(&t.block->begins);
        try {
            t.block->launch->body();
            check_guards(*t.block, t.at);
        } catch (const Failed &) {
            worker().failed = true;
        } catch (const std::bad_alloc &) {
            record_no_memory();
            worker().failed = true;
        }
        t.done = true;
        t.block->live--;
        t.block->warps[t.index / 32].left &= ~(1u << t.lane());
        note_exit(t);
        leave_cluster(t);
        tsan::release(&t.block->ends);
        leave();
    }
}

static void enter(Context &home, Fiber &f)
{
    const bool fresh = !f.started;
    if (fresh)
        f.prepare(fiber_main);
    switch_context(home, f.context, fresh);
}

/* ---- The scheduler ------------------------------------------------------------------------------- */

void wait_for(Condition &c, Site at)
{
    Thread &t = self();
    check_edges(*t.block, at);
    t.at = at;
    if (options.timing == Timing::random && t.block->below(4) == 0) {
        complete_one(*t.block);
        maybe_multiply(*t.block);
    }
    if (c.ready())
        return;
    t.waiting = &c;
    leave();
    t.waiting = nullptr;
}

void spins(bool changed, Site at)
{
    Thread &t = self();
    t.repeats = changed ? 0 : t.repeats + 1;
    if (t.repeats >= 64)
        yield(at);
}

void yield(Site at)
{
    Thread &t = self();
    check_edges(*t.block, at);
    t.at = at;
    t.spinning = true;
    leave();
}

void Worker::resume(Thread &t)
{
    const Block &b = *t.block;
    threadIdx = t.place;
    blockIdx = b.index;
    blockDim = b.launch->block;
    gridDim = b.launch->grid;
    t.spinning = false;
    running = &t;
    enter(home, *t.fiber);
    running = nullptr;
    if (failed)
        throw Failed();
}

void Worker::start(Block &b)
{
    introduce(b);
    const dim3 n = b.launch->block;
    for (unsigned i = 0; i < b.threads.size(); i++) {
        if (idle.empty()) {
            fibers.emplace_back(new Fiber);
            idle.reserve(fibers.size()); // so that giving them back takes no memory
            idle.push_back(fibers.back().get());
        }
        Thread &t = b.threads[i];
        t.block = &b;
        t.index = i;
        t.place = {i % n.x, i / n.x % n.y, i / n.x / n.y};
        t.fiber = idle.back();
        idle.pop_back();
        t.done = t.spinning = t.at_cluster = false;
        t.waiting = nullptr;
        t.at = b.launch->at;
        t.meeting.what = nullptr;
        t.bulk_groups = t.cp_groups = t.wgmma_groups = 0;
        t.wgmma_fenced = false;
        t.repeats = 0;
        b.order[i] = options.order == Order::reverse ? (unsigned)b.threads.size() - 1 - i : i;
    }
    tsan::release(&b.begins);
}

void Worker::start_cluster(const Launch &l, const Chosen &chosen, uint64_t first)
{
    const auto cluster = std::make_shared<Cluster>();
    for (unsigned rank = 0; rank < l.cluster; rank++) {
        blocks.emplace_back(new Block(l, chosen[first + rank]));
        Block &b = *blocks.back();
        b.cluster = cluster;
        cluster->blocks.push_back(&b);
        cluster->live += b.live;
        start(b);
    }
}

/// Lets every thread that can run do so once.
// [sweep]
void Worker::sweep(Block &b, bool &ran, bool &spun)
{
    if (options.order == Order::random)
        for (unsigned i = (unsigned)b.order.size(); i > 1; i--)
            std::swap(b.order[i - 1], b.order[b.below(i)]);
    for (unsigned i : b.order) {
        Thread &t = b.threads[i];
        if (t.done || (t.waiting && !t.waiting->ready()))
            continue;
        resume(t);
        (t.spinning ? spun : ran) = true;
    }
}
// [sweep]

/// A warp that has gone on lets those of higher rank go on again before the next one. Ranks change now and
/// then.
void Worker::sweep_unfairly(Block &b, bool &ran, bool &spun)
{
    const unsigned n = (unsigned)b.warps.size();
    if (b.below(32) == 0)
        b.favourite = b.below(n);
    for (unsigned rank = 0; rank < n;) {
        const unsigned first = (b.favourite + rank++) % n * 32,
                       end = std::min(first + 32, (unsigned)b.threads.size());
        for (unsigned i = first; i < end; i++) {
            Thread &t = b.threads[i];
            if (t.done || (t.waiting && !t.waiting->ready()))
                continue;
            resume(t);
            (t.spinning ? spun : ran) = true;
            if (!t.spinning)
                rank = 0;
        }
    }
}

/// Which CTA is first matters to those that wait for each other as much as which thread does.
void Worker::sweep_all(bool &ran, bool &spun)
{
    const bool random = options.order == Order::random;
    const size_t n = std::min(blocks.size(), fitting),
                 first = n > 1 && random ? blocks[0]->below((uint32_t)n) : 0;
    for (size_t i = 0; i < n; i++) {
        Block &b = *blocks[options.order == Order::reverse ? n - 1 - i : (first + i) % n];
        if (options.order == Order::unfair)
            sweep_unfairly(b, ran, spun);
        else
            sweep(b, ran, spun);
    }
}

/// A kernel that moves registers was launched with all that its CTA can have.
void occupy(const Block &b)
{
    worker().fitting = std::min(worker().fitting, fit(*b.launch, b.registers));
}

static void retire(Block &b)
{
    tsan::acquire(&b.ends);
    finish_products(b);
    finish_copies(b);
    check_all_landed(b);
    check_last_visits(b);
    std::replace(b.cluster->blocks.begin(), b.cluster->blocks.end(), &b, (Block *)nullptr);
    finish_counts(b);
    std::lock_guard<std::mutex> lock(counters_lock);
    uint64_t *sum = (uint64_t *)&counters;
    const uint64_t *part = (const uint64_t *)&b.count;
    for (size_t i = 0; i < sizeof counters / sizeof *sum; i++)
        sum[i] += part[i];
    replay(b);
}

bool Worker::retire_exited()
{
    const size_t before = blocks.size();
    for (auto b = blocks.begin(); b != blocks.end();) {
        if ((*b)->live) {
            ++b;
            continue;
        }
        retire(**b);
        for (Thread &t : (*b)->threads)
            idle.push_back(t.fiber);
        b = blocks.erase(b);
    }
    return blocks.size() < before;
}

/// Runs CTAs chosen[first..last-1], whole clusters, with at most `resident` CTAs at a time or one cluster.
void Worker::run(const Launch &l, const Chosen &chosen, uint64_t first, uint64_t last, unsigned resident)
{
    constexpr int patience = 20000; // sweeps in which threads only spun
    int idle_sweeps = 0;
    fitting = fit(l, 24); // of which nothing is known
    try {
        while (!stop && (first < last || !blocks.empty())) {
            if (l.dependent && blocks.empty())
                poison_output();
            for (; first < last &&
                   (blocks.empty() || blocks.size() + l.cluster <= std::min<size_t>(resident, fitting));
                 first += l.cluster)
                start_cluster(l, chosen, first);
            bool ran = false, spun = false;
            sweep_all(ran, spun);
            ran |= retire_exited();
            if (blocks.empty())
                reveal_output();
            idle_sweeps = ran ? 0 : idle_sweeps + 1;
            if (ran)
                continue;
            for (auto &b : blocks)
                ran |= complete_one(*b);
            ran = ran || reveal_if_wanted();
            if (!ran && !spun)
                deadlock(blocks, "deadlock, nobody can go on");
            if (idle_sweeps > patience)
                deadlock(blocks,
                         format("some threads spin for ever; if they wait for another block, more blocks "
                                "must be resident, and %zu fit on %d SMs",
                                fitting, options.sms)
                             .c_str());
        }
    } catch (const Failed &) {
    } catch (const std::bad_alloc &) {
        record_no_memory();
    }
    reveal_output();
    if (!blocks.empty())
        abandon();
}

/// Forgets the threads of a failed launch, wherever they are.
void Worker::abandon()
{
    for (auto &b : blocks)
        for (Thread &t : b->threads) {
            if (!t.fiber)
                continue; // there was no memory for it
            t.fiber->restart();
            idle.push_back(t.fiber);
        }
    blocks.clear();
    failed = false;
}

void reset()
{
    forget_report();
    memset(&counters, 0, sizeof counters);
    launches = 0;
    forget_timeline();
}

/* Whatever OMP_NUM_THREADS says: libgomp dies of a hundred thousand. */
static int host_threads()
{
#ifdef _OPENMP
    return std::min(omp_get_max_threads(), 1024);
#else
    return 1;
#endif
}

static void run_grid(const Launch &l)
{
    stop = false;
    if (const char *error = launch_error(l)) {
        record(text(l.at) + ": " + error + " (" + l.name + ")");
    } else {
        const Chosen chosen = choose(l);
        remember_globals();
        const bool together = options.resident > 1 || l.dependent;
        begin_grid(l.dependent);
        begin_marks(l.dependent, !together);
        if (together) {
            worker().run(l, chosen, 0, chosen.size(), (unsigned)options.resident);
        } else {
#pragma omp parallel for schedule(dynamic) num_threads(host_threads())
            for (int64_t i = 0; i < (int64_t)chosen.size(); i += l.cluster)
                worker().run(l, chosen, (uint64_t)i, (uint64_t)i + l.cluster, 1);
        }
        if (l.dependent && report().empty() && missing_grid_wait())
            record(text(l.at) +
                   ": no block of this dependent launch calls grid_wait, so it may run before its inputs "
                   "are there (" +
                   l.name + ")");
        find_output();
    }
    launches++;
    counters.launches++;
    counters.shared_bytes = std::max(counters.shared_bytes, (uint64_t)l.shared_bytes);
    sort_timeline();
}

void run(const Launch &l)
{
    if (!report().empty())
        return; // as on a GPU: what a failed launch should have written is not there to be read
    try {
        run_grid(l);
    } catch (const std::bad_alloc &) {
        record_no_memory();
    }
    if (!report().empty() && !options.keep_going) {
        fprintf(stderr, "%s\n", report().c_str());
        exit(1);
    }
}

} // namespace simt
