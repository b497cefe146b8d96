/**
 * @file cluster.cpp
 * @brief Thread block clusters: their barrier, and accesses to the shared memory of other blocks.
 *
 * Whether a block had started and not yet exited must not hang on the order in which blocks happen to run.
 * So it is asked of clocks: who accesses a block must have learned something from it, which only a barrier
 * can have told; and when the block exits, its threads must have learned of the access.
 */
#include "engine.h"

namespace simt
{

/* ---- The barrier of the cluster ------------------------------------------------------------------ */

struct ClusterPhase : Condition {
    const Cluster &c;
    uint64_t phase;
    ClusterPhase(const Cluster &cluster, uint64_t p) : c(cluster), phase(p)
    {
    }
    bool ready() override
    {
        return c.phase != phase;
    }
    std::string text() override
    {
        return format("barrier.cluster, where %u of %u threads of the cluster have arrived, wait", c.arrived,
                      c.live);
    }
};

static void turn(Cluster &c)
{
    if (c.arrived < c.live)
        return;
    c.arrived = 0;
    c.phase++;
    c.gate.complete = c.gate.gathering;
    for (Block *b : c.blocks)
        b->cluster_signal = new_signal(*b);
}

constexpr unsigned barrier_number = 16; // in the timeline, after the named barriers

/// .aligned: the lanes of a warp come together.
static void align(const char *what, Site at)
{
    const Thread &t = self();
    const size_t lanes = t.block->threads.size() - t.index / 32 * 32;
    converge(
        what, lanes < 32 ? (1u << lanes) - 1 : ~0u, nullptr, [](void **) {}, at);
}

void cluster_arrive(Site at)
{
    Thread &t = self();
    Cluster &c = *t.block->cluster;
    align("barrier.cluster.arrive", at);
    if (t.at_cluster)
        fail(at, "barrier.cluster.arrive for the second time, with no barrier.cluster.wait since");
    t.at_cluster = true;
    t.cluster_phase = c.phase;
    t.cluster_signal = t.block->cluster_signal;
    publish(c.gate, c.phase);
    note_signal(t, Did::wait_barrier, t.cluster_signal, barrier_number, true, false, at);
    c.arrived++;
    turn(c);
}

void cluster_wait(Site at)
{
    Thread &t = self();
    Cluster &c = *t.block->cluster;
    align("barrier.cluster.wait", at);
    if (!t.at_cluster)
        fail(at, "barrier.cluster.wait with no barrier.cluster.arrive before");
    note_signal(t, Did::wait_barrier, t.cluster_signal, barrier_number, false, true, at);
    ClusterPhase phase(c, t.cluster_phase);
    wait_for(phase, at);
    t.at_cluster = false;
    learn(c.gate, phase.phase);
}

/// The barrier waits for nobody who has exited.
void leave_cluster(Thread &t)
{
    Cluster &c = *t.block->cluster;
    c.live--;
    if (t.at_cluster && t.cluster_phase == c.phase)
        c.arrived--;
    if (c.arrived)
        turn(c);
}

/* ---- Other blocks -------------------------------------------------------------------------------- */

static bool has_started(const Thread &me, const Block &b)
{
    for (unsigned w = b.threads[0].id / 32; w <= b.threads.back().id / 32; w++)
        if (me.clock[w])
            return true;
    return false;
}

Block &peer(unsigned rank, const char *what, Site at)
{
    Thread &t = self();
    const Cluster &c = *t.block->cluster;
    if (rank >= c.blocks.size())
        fail(at, "%s: rank %u in a cluster of %zu", what, rank, c.blocks.size());
    Block &b = *c.blocks[rank];
    if (&b == t.block)
        return b;
    if (!b.live)
        fail(at, "%s: %s has exited; a barrier of the cluster has to come before that", what,
             name_of(b).c_str());
    if (!has_started(t, b))
        fail(at, "%s: %s may not have started; a barrier of the cluster has to come first", what,
             name_of(b).c_str());
    return b;
}

/// Addresses as on the GPU: the block's rank from bit 24 on.
constexpr unsigned rank_bit = 24;

unsigned cluster_rank(Site at)
{
    self().at = at;
    return self().block->rank;
}

uint32_t map_shared(const void *p, unsigned bytes, unsigned rank, Site at)
{
    const uint32_t address = shared_checked(p, bytes, 1, "mapa", at);
    const size_t size = self().block->cluster->blocks.size();
    if (rank >= size)
        fail(at, "mapa: rank %u in a cluster of %zu", rank, size);
    return address | rank << rank_bit;
}

/// A visit is remembered before anything is published, so that who learns of it comes after it.
static Block &visit(uint32_t address, const char *what, Site at)
{
    Thread &t = self();
    Block &b = peer(address >> rank_bit, what, at);
    if (&b != t.block)
        b.visits[t.id / 32] = {what, stamp(t), at};
    return b;
}

static unsigned char *in_block(Block &b, uint32_t address)
{
    return b.at(address & ((1u << rank_bit) - 1));
}

uint32_t load_remote(uint32_t address, Site at)
{
    const char *const what = "remote shared load";
    Block &b = visit(address, what, at);
    const unsigned char *p = in_block(b, address);
    const uint32_t local = shared_checked(b, p, 4, 4, what, at);
    reads_shared(b, {local, local + 4}, what, at);
    tsan::reads(p, 4, CALLER);
    self().at = at;
    note_work(self(), 32 * 4 / options.costs.shared_bytes);
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

void mbarrier_arrive_remote(uint32_t address, Site at)
{
    const char *const what = "remote mbarrier.arrive";
    Block &b = visit(address, what, at);
    arrive_once(b, (uint64_t *)in_block(b, address), what, at);
}

void check_visits(const Block &b)
{
    Clock end;
    for (const Thread &t : b.threads)
        end.join(t.clock);
    for (const auto &v : b.visits)
        if (end[v.first] <= v.second.stamp)
            fail(v.second.at,
                 "%s from %s: %s may have exited before, since no barrier of the cluster follows",
                 v.second.what, name_of(b, v.first * 32).c_str(), name_of(b).c_str());
}

} // namespace simt
