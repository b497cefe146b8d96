/**
 * @file cluster.cpp
 * @brief Thread block clusters: their barrier, and stores into the shared memory of other CTAs.
 *
 * Whether a CTA had started and not yet exited must not hang on the order in which CTAs happen to run. So it is
 * asked of clocks: who stores in a CTA must have learned something from it, which only a barrier can have told;
 * and when the CTA exits, its threads must have learned of the store.
 */
#include "engine.h"

namespace simt
{

/* ---- The barrier of the cluster ------------------------------------------------------------------------ */

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
    c.complete = c.gathering;
}

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
    publish(c.gathering);
    tsan::release(&c.side[c.phase & 1]);
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
    ClusterPhase phase(c, t.cluster_phase);
    wait_for(phase, at);
    t.at_cluster = false;
    learn(c.complete);
    tsan::acquire(&c.side[phase.phase & 1]);
}

void leave_cluster(Thread &t)
{
    Cluster &c = *t.block->cluster;
    c.live--;
    if (t.at_cluster && t.cluster_phase == c.phase)
        c.arrived--;
    if (c.arrived)
        turn(c);
}

/* ---- Other CTAs ---------------------------------------------------------------------------------------- */

/// Addresses as on the GPU: the CTA's rank from bit 24 on.
constexpr unsigned rank_bit = 24;

uint32_t map_shared(const void *p, unsigned bytes, unsigned rank, Site at)
{
    const uint32_t address = shared_checked(p, bytes, bytes, "mapa", at);
    const size_t size = self().block->cluster->blocks.size();
    if (rank >= size)
        fail(at, "mapa: rank %u in a cluster of %zu", rank, size);
    return address | rank << rank_bit;
}

static Block &peer(unsigned rank, Site at)
{
    const Thread &t = self();
    Block *const b = t.block->cluster->blocks[rank];
    if (!b || !b->live)
        fail(at,
             "remote store: the CTA of rank %u has exited; a barrier of the cluster has to come before that",
             rank);
    if (b != t.block && !known_of(t, b->linear))
        fail(at,
             "remote store: the CTA of rank %u may not have started; a barrier of the cluster has to come "
             "first",
             rank);
    return *b;
}

static bool knows(const Thread &me, const Visit &v)
{
    if (v.block == me.block->linear)
        return ordered(me, v.thread, v.stamp);
    const Clock *const far = known_of(me, v.block);
    return far && (*far)[v.thread / 32] > v.stamp;
}

void check_visits(Block &b, Range r, const char *what, Site at)
{
    for (uint32_t word = r.begin / 4; word < (r.end + 3) / 4; word++) {
        const auto v = b.visits.find(word);
        if (v != b.visits.end() && !knows(self(), v->second))
            fail(at,
                 "race: %s, but thread %u of block %llu stored in this shared word at %s, and no barrier "
                 "orders the two",
                 what, v->second.thread, (unsigned long long)v->second.block, text(v->second.at).c_str());
    }
}

void store_remote(uint32_t address, const void *value, unsigned bytes, Site at)
{
    const char *const what = "remote store";
    Thread &t = self();
    Block &b = peer(address >> rank_bit, at);
    const uint32_t local = address & ((1u << rank_bit) - 1);
    unsigned char *const p = b.at(local);
    if (&b == t.block) {
        touch_shared(p, bytes, true, at);
    } else {
        const Range r = {local, local + bytes};
        visits_shared(b, r, what, at);
        for (uint32_t word = r.begin / 4; word < r.end / 4; word++)
            b.visits[word] = {t.block->linear, t.index, stamp(t), at};
        note_work(t, 32 * bytes / options.costs.shared_bytes);
    }
    check_stored(value, bytes, at);
    tsan::writes(p, bytes, CALLER);
    memcpy(p, value, bytes);
    t.at = at;
}

void check_last_visits(const Block &b)
{
    for (const auto &visit : b.visits) {
        const Visit &v = visit.second;
        bool known = false;
        for (const Thread &t : b.threads)
            known |= knows(t, v);
        if (!known)
            fail(v.at,
                 "remote store of thread %u of block %llu: block %llu may have exited before, since no "
                 "barrier of the cluster follows",
                 v.thread, (unsigned long long)v.block, (unsigned long long)b.linear);
    }
}

} // namespace simt
