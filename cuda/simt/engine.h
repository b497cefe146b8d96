/**
 * @file engine.h
 * @brief Inside the engine: threads, CTAs, what they wait for, and what is still in flight.
 */
#ifndef MSA_SIMT_ENGINE_H
#define MSA_SIMT_ENGINE_H

#include "clock.h"
#include "simt.h"
#include "traffic.h"
#include "tsan.h"

#include <atomic>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

namespace simt
{

struct Fiber;
struct Block;
struct Thread;

/// What a thread is parked on. Asked again on every sweep, so whoever makes it true need not know.
struct Condition {
    virtual bool ready() = 0;
    virtual std::string text() = 0; ///< for the deadlock report
    virtual ~Condition()
    {
    }
};

/// Half-open range of shared offsets.
struct Range {
    uint32_t begin, end;
    bool meets(Range o) const
    {
        return begin < o.end && o.begin < end;
    }
};

/// A copy that was issued and has not taken place; stores and cp.async stay until their issuer has waited.
struct Pending {
    enum Kind { load, store, cp_async } kind;
    Thread *issuer;
    unsigned group; ///< the issuer's group it belongs to
    Range shared;   ///< what it writes (loads) or reads (stores)
    Site at;
    std::function<void(const Pending &)> take_place;
    tsan::Agent agent;
    bool done = false;
};
using Copies = std::list<Pending>;

struct Thread {
    Block *block;
    unsigned index; ///< in the CTA...
    uint3 place;    ///< ... and as threadIdx
    Fiber *fiber = nullptr;
    bool done, spinning;
    bool at_cluster; ///< has arrived at its cluster's barrier, in this phase, and not waited there
    uint64_t cluster_phase;
    Condition *waiting; ///< NULL: may run
    Site at;            ///< of the last instruction that the engine saw

    struct Meeting { ///< where it waits for the other lanes of its warp or warpgroup
        const char *what;
        Site at;
        uint32_t mask;
        void *arg;
    } meeting;

    unsigned bulk_groups, cp_groups, wgmma_groups; ///< committed so far
    std::vector<Copies::iterator> in_flight[3];    ///< its stores and cp.asyncs, by kind, the oldest first
    std::vector<std::pair<unsigned, uint32_t>> stores; ///< bulk groups not waited for: global.cpp
    unsigned repeats;                                  ///< of an atomic that changed nothing, or of a load
    bool wgmma_fenced;                                 ///< ... since its last wait
    std::vector<uint32_t> fences;                      ///< stamps of its proxy fences
    char met, goes_on, stored, copied; ///< for ThreadSanitizer: at a meeting, after it, its groups are done
    Clock clock;

    unsigned lane() const
    {
        return index % 32;
    }
};

/// What the last bulk copy wrote: wgmma's descriptor has to agree, and who touches it knows its phase.
struct Landed {
    unsigned swizzle; ///< bytes of the pattern's rows: 0, 32, 64 or 128
    Site at;
    unsigned barrier; ///< its number in clocks
    uint32_t phase;
    unsigned granules; ///< that no later copy has overwritten
};

struct NamedBarrier {
    unsigned expected, arrived;
    std::vector<uint32_t> lanes; ///< that have arrived, by warp
    std::vector<Site> where;     ///< ... and at which place
    unsigned signal;             ///< of the current phase, in the timeline
    uint64_t phase;
    bool all_waited; ///< in the last phase: it was a __syncthreads()
    Site first;
    Gate gate;
};

struct Mbarrier {
    uint32_t count, pending;
    int64_t bytes; ///< expected and not yet arrived
    uint64_t phase;
    bool fenced;          ///< the initialisation was made known to the async proxy
    unsigned owner;       ///< Thread::index
    uint32_t initialised; ///< stamp
    Site init, expect;
    Gate gate;
    Clock earlier;                ///< gate.complete as it was one phase before
    std::vector<uint64_t> passed; ///< by thread: the phases up to the last that it has waited for
    unsigned signal, last;        ///< of the current phase and of the one before, in the timeline
    unsigned number;              ///< in clocks
};

/// The accumulators of one warpgroup tile while wgmma owns them.
struct Accumulators {
    float *lane[128];
    int n;
    std::vector<float> value; ///< [64][n]; of integer products their bits
    unsigned in_flight;
    Site at;
};

/// One wgmma between issue and wait.
struct Product {
    std::shared_ptr<Accumulators> d;
    bool from_registers, accumulate, trans_a, trans_b, integers, done;
    uint64_t desc_a, desc_b;
    std::vector<float> a; ///< [64][16], where it came from registers
    Range reads[2];
    unsigned group;
    Site at;
    tsan::Agent agent;
};

/// An operand in shared memory that a product read, and when each warp had waited for it: a stamp.
struct Reading {
    uint64_t desc;
    bool mn_major;
    int mn_size;
    uint32_t waited[4];
    Site at;
};

struct Warpgroup {
    std::deque<Product> products;
    std::map<std::pair<uint32_t, uint32_t>, Reading> read; ///< by begin and end; the last of each
    unsigned registers;
    char multiplied;         ///< for ThreadSanitizer: its products are done
    unsigned arrived, first; ///< at a meeting of all 128: how many threads, and which one first
};

/// What the engine looks up for the lanes of a warp again and again.
struct Warp {
    uint32_t left;                                         ///< lanes that have not exited
    uint32_t here;                                         ///< those that are at a meeting...
    Thread::Meeting first;                                 ///< ... the first of them at this one...
    bool alike;                                            ///< ... and the others at the same
    std::pair<const Instruction, Stream> *recent[16] = {}; ///< of its memory instructions, by line
};

/// Shared memory: what was written by whom, as far as named helpers told. Threads by Thread::index + 1.
struct Word {
    uint16_t writer = 0, reader[2] = {0, 0};      ///< 0: nobody; the last two readers
    uint16_t author = 0;                          ///< as `writer`, also of a part of the word
    bool atomic = false;                          ///< the last writer was
    uint16_t fences = 0, read_fences[2] = {0, 0}; ///< how many proxy fences author and readers had executed
    uint32_t written = 0, was_read[2] = {0, 0};   ///< stamps
    Site wrote{nullptr, 0}, read[2] = {{nullptr, 0}, {nullptr, 0}};
};

/// What a thread did, as far as the timeline cares. A signal is a phase of a barrier: it completes at the
/// time of the last of those that arrive. Signal 0 was always complete.
enum class Queue { none, stores, cp_async }; ///< whose groups a thread waits for
struct Step {
    enum Kind { role, advance, work, signal_at, copy, product, wait_group } kind;
    Site at;
    Did did = Did::work;
    const char *name = "";
    double amount = 0; ///< clocks, bytes or multiply-adds
    unsigned signal = 0, object = 0, group = 0;
    bool arrives = false, waits = false;
    Queue queue = Queue::none;
    Step(Kind k, Site s) : kind(k), at(s)
    {
    }
};
struct Record {
    std::vector<std::vector<Step>> threads;
    std::vector<unsigned> missing{0}; ///< arrivals, by signal
};

/// CTAs that run together and reach each other's shared memory; most are alone.
struct Cluster {
    std::vector<Block *> blocks; ///< by rank; NULL: it has exited
    unsigned live = 0;           ///< threads that have not exited...
    unsigned arrived = 0;        ///< ... and how many of them are at the cluster's barrier
    uint64_t phase = 0;
    Clocks gathering, complete; ///< as in a Gate
    char side[2];
};

/// The last store from another CTA of the cluster into a word of shared memory.
struct Visit {
    uint64_t block;
    unsigned thread;
    uint32_t stamp;
    Site at;
};

struct Block {
    const Launch *launch;
    uint64_t launch_number;
    uint3 index;
    uint64_t linear;
    unsigned grid_wait; ///< the number, in clocks, of having waited for the grids before...
    unsigned numbers;   ///< ... after those of the warps; and the next, for an mbarrier
    std::vector<Thread> threads;
    unsigned live;
    unsigned registers; ///< of each thread, as the launch gave them
    std::vector<unsigned> order;
    unsigned favourite = 0; ///< in the unfair order, the warp that runs first

    std::unique_ptr<unsigned char[]> memory; ///< guard, shared memory, guard
    unsigned char *shared;                   ///< 1024-byte aligned
    std::vector<Word> words;                 ///< made when first needed
    std::shared_ptr<Cluster> cluster;
    std::unordered_map<uint32_t, Visit> visits; ///< by shared address / 4
    Copies pending, done, spare; ///< yet to take place; yet to be waited for; over, whose memory others get
    std::vector<uint16_t> in_flight; ///< how many copies touch each 16 bytes of shared memory
    std::vector<Landed> landed;
    std::vector<uint16_t> landing;   ///< which of these wrote each 16 bytes, from 1
    std::vector<uint8_t> multiplied; ///< whether a product has ever read near each 16 bytes
    NamedBarrier barriers[16];
    std::map<uint32_t, Mbarrier> mbarriers; ///< by shared address
    std::vector<Warp> warps;
    std::vector<Warpgroup> warpgroups;
    std::unordered_map<Instruction, Stream, InstructionHash> streams;
    uint32_t releases[32];                             ///< of each warp
    uint32_t first_warp;                               ///< its number in global.cpp
    bool fences_global = false;                        ///< some thread has
    size_t global = 0;                                 ///< the declared buffer that was touched last
    std::pair<uintptr_t, void *> pages[64] = {};       ///< of global.cpp, of which it touched some
    std::pair<const char *, uint8_t> file{nullptr, 0}; ///< the last, and its number there
    bool triggered;                                    ///< has let dependent grids begin
    uint64_t random;
    Counters count;
    char begins, ends;              ///< for ThreadSanitizer
    std::unique_ptr<Record> record; ///< with options.timeline

    Block(const Launch &l, uint64_t linear_index);
    ~Block();
    unsigned char *at(uint32_t shared_addr) ///< host address of a checked shared address
    {
        return shared + (shared_addr - shared_window);
    }
    uint32_t below(uint32_t n);                     ///< random number in 0..n-1
    static constexpr uint32_t shared_window = 1024; ///< the first KB is the system's
};

/* ---- report.cpp ---------------------------------------------------------------------------------- */
struct Failed { ///< the launch is given up; the report says why
};
extern std::atomic<bool> stop; ///< one CTA failed: the others give up
/// Records the failure and gives up the launch. From a thread the exception ends in fiber_main.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(Site at, const char *fmt, ...);
[[noreturn]] void deadlock(std::vector<std::unique_ptr<Block>> &blocks, const char *what);
void record(const std::string &line); ///< the first is the report
void record_no_memory();
void forget_report();
__attribute__((format(printf, 1, 2))) std::string format(const char *fmt, ...);
std::string text(Site at); ///< file:line

/* ---- engine.cpp: the scheduler ------------------------------------------------------------------- */
extern __thread Thread
    *running; ///< on this core; NULL: the scheduler (__thread: thread_local would ask for initialisers)
inline Thread &self()
{
    return *running;
}
void wait_for(Condition &c, Site at);
void occupy(const Block &b); ///< its registers bound how many others run beside it
extern uint64_t launches;    ///< since reset()

/* ---- block.cpp ----------------------------------------------------------------------------------- */
void check_edges(Block &b, Site at); ///< whenever a thread stops
void check_guards(Block &b, Site at);

/* ---- warp.cpp ------------------------------------------------------------------------------------ */
/// Waits until all lanes of `mask` (a warp) or all 128 threads (mask 0: a warpgroup) are here, at the same
/// call; then one of them runs perform(args), where args[i] is what lane i passed. Of memory they learn nothing
/// from each other, unless it `orders` what lanes of a warp did before and do after.
void converge(const char *what, uint32_t mask, void *arg, void (*perform)(void **args), Site at,
              bool orders = false);

/* ---- memory.cpp ---------------------------------------------------------------------------------- */
/// The shared address of bytes that lie wholly in the CTA's shared memory and are aligned; else fails.
uint32_t shared_checked(const void *p, uint64_t bytes, unsigned align, const char *what, Site at);
void touch_atomic(void *p, unsigned bytes, bool reads, Site at);
bool known_written(Block &b, Range r); ///< by a named store or a copy; plain stores are not known
void reads_shared(Block &b, Range r, const char *what, Site at);  ///< what a load of at most 16 bytes checks
void check_written(Block &b, Range r, const char *what, Site at); ///< at most 16 bytes
void wrote_shared(Block &b, Range r, Site at);                    ///< this thread has, without a check
/// A thread of another CTA is about to store whole words.
void visits_shared(Block &b, Range r, const char *what, Site at);
/// wgmma or a store is about to read, on behalf of all who know at least this; `id` is that of the one thread
/// that knows its own writes, if it is one.
void async_reads(Block &b, Range r, const Clock &known, unsigned id, const char *what, Site at);
constexpr unsigned nobody = ~0u;
void async_writes(Block &b, Range r, const char *what, Site at); ///< a copy is about to overwrite
void check_global(const void *p, uint64_t bytes, const char *what, Site at);
struct Global { ///< a declared buffer
    const unsigned char *start;
    size_t bytes;
    std::string name;
    bool holds(const unsigned char *p, uint64_t n) const
    {
        return p >= start && n <= bytes && p - start <= (ptrdiff_t)(bytes - n);
    }
};
extern std::vector<Global> globals;

/* ---- dependent.cpp ------------------------------------------------------------------------------- */
void remember_globals(); ///< before a launch...
void find_output();      ///< ...and after it
void forget_output();
void poison_output();
bool reveal_if_wanted(); ///< ends the wait of those in grid_wait; false if nobody is
void reveal_output();
void check_early_store(const void *p, Site at);
bool missing_grid_wait();

/* ---- grids.cpp ----------------------------------------------------------------------------------- */
extern uint64_t grid; ///< that runs now; they count from 1
void begin_grid(bool dependent);
void note_grid_wait(Thread &t);
void note_exit(const Thread &t); ///< the last thread of a CTA lets dependent grids begin
bool overlaps(const Thread &me,
              uint64_t other); ///< whether that grid may still run, for all this thread knows

/* ---- global.cpp ---------------------------------------------------------------------------------- */
void begin_marks(bool dependent, bool parallel); ///< of a grid's accesses; parallel: by CTAs on several cores
void introduce(Block &b);
/// Fails unless this access comes after all that it collides with.
enum class Does { read, atomic_read, write, atomic };
/// Stores the value too, if it is given: that two store the same does no harm.
void order_global(const void *p, uint64_t bytes, Does does, const char *what, Site at,
                  const void *value = nullptr);
/// What an atomic changes, or a flag: if it lies in a spoiled workspace, some grid has stored there.
void check_stored_to(const void *p, unsigned bytes, const char *what, Site at);
void order_load(const void *p, uint64_t bytes, unsigned number, uint32_t phase, const char *what, Site at);
void order_store(const void *p, uint64_t bytes, bool is_atomic, const char *what, Site at);
void stores_are_over(Thread &t, unsigned limit); ///< this thread has waited for its groups below the limit

/* ---- race.cpp ------------------------------------------------------------------------------------ */
void publish();              ///< this thread releases: who gets its clock knows what it did before
void publish(Clock &object); ///< ... into an object: who learns from the object knows what it did before
void publish(Gate &gate, uint64_t phase); ///< ... for who passes this phase
void learn(const Clock &object);          ///< this thread acquires
void learn(Gate &gate, uint64_t phase);
uint32_t stamp(const Thread &t);                                ///< of what a thread does now
bool ordered(const Thread &me, unsigned other, uint32_t stamp); ///< whether `me` knows what `other` did then
bool ordered(const Clock &known, unsigned id, unsigned other, uint32_t stamp);
const Clock *known_of(const Thread &me, uint64_t block); ///< of another CTA; NULL: nothing
void publish(Clocks &object);                            ///< ... to other CTAs, too
void learn(const Clocks &object);
void forget_releases();

/* ---- copy.cpp ------------------------------------------------------------------------------------ */
void issue(Block &b, Pending &&p);
void complete_groups(Block &b, Pending::Kind kind, unsigned limit); ///< this thread's, below the limit
void note_landing(Block &b, Range r, const Landed &l);              ///< of a copy that is issued now
constexpr uint32_t granule = 16; ///< bytes of shared memory that are told apart here
/// A copy that writes these bytes and has not been waited for, with `reads` also one that reads them; or NULL.
const Pending *copy_of(const Block &b, Range r, bool reads);
const Landed *landed_at(const Block &b, uint32_t address); ///< what the last bulk copy left there, or NULL
bool complete_one(Block &b); ///< some copy whose time has come; false if none is in flight
void finish_copies(Block &b);
void check_all_landed(const Block &b); ///< somebody waited for each load

/* ---- tma.cpp ------------------------------------------------------------------------------------- */
uint32_t swizzled(uint32_t address, unsigned swizzle); ///< XORs address bits [6:4] with [9:7], or fewer

/* ---- barrier.cpp --------------------------------------------------------------------------------- */
Mbarrier &find_mbarrier(uint64_t *p, const char *what, Site at);
constexpr uint32_t byte_limit_of_barrier = (1 << 20) - 1;
void mbarrier_complete(Block &b, uint32_t address, int64_t bytes, Site at);

/* ---- cluster.cpp --------------------------------------------------------------------------------- */
void leave_cluster(Thread &t); ///< this thread exits: nobody waits for it
/// Fails unless this access, or the CTA's exit, comes after what other CTAs have stored there.
void check_visits(Block &b, Range r, const char *what, Site at);
void check_last_visits(const Block &b);

/* ---- timeline.cpp -------------------------------------------------------------------------------- */
unsigned new_signal(Block &b);
void note(Thread &t, const Step &s);
void note_work(Thread &t, double clk); ///< unnamed: it only takes time
void note_signal(Thread &t, Did did, unsigned signal, unsigned object, bool arrives, bool waits, Site at);
void note_load(Thread &t, uint64_t bytes, const Mbarrier &m, unsigned object, Site at);
void note_queued(Thread &t, Queue queue, uint64_t bytes, unsigned group, Site at);
void note_product(Thread &t, int fma, unsigned group, Site at);
void note_wait(Thread &t, Did did, Queue queue, unsigned limit, Site at); ///< for groups below the limit
void replay(Block &b);
void sort_timeline();
void forget_timeline();

/* ---- operand.cpp --------------------------------------------------------------------------------- */
/// All that can be wrong with reading an operand now: each row by a warp, or all by all of them if there is
/// only one clock. Returns the bytes from its first to its last.
Range check_operand(Block &b, uint64_t desc, bool mn_major, int mn_size, const Clock *known, bool by_warp,
                    const char *name, Site at);
/// As float32, element (mn, k) to out[mn mn_step + k k_step].
void gather(Block &b, uint64_t desc, bool mn_major, int mn_size, const char *name, const Product &p,
            float *out, int mn_step, int k_step);
/// As integers, 32 a row, from an operand whose 32 bytes a row are as those of 16 bf16.
void gather_int8(Block &b, uint64_t desc, int mn_size, const char *name, const Product &p, int8_t *out);
/// Operands may be strided: whether bytes between the first and the last of one are its own.
bool is_of(uint64_t desc, bool mn_major, int mn_size, Range r, Site at);

/* ---- wgmma.cpp ----------------------------------------------------------------------------------- */
void finish_products(Block &b);
void maybe_multiply(Block &b); ///< random timing: some products take place now
/// Fails if a product that was not waited for reads these bytes.
void check_products(Block &b, Range r, const char *what, Site at);
void check_read(Block &b, Range r, const char *what, Site at);
bool ever_multiplied(const Block &b, Range r); ///< whether to ask that
/// What automatic variables hold before they are set: the Makefile asks the compiler for it.
inline bool is_unset(const void *p)
{
    uint32_t bits;
    memcpy(&bits, p, sizeof bits);
    return bits == 0xfefefefe;
}
bool is_guard(uint32_t bits); ///< the pattern of accumulators in flight

} // namespace simt
#endif
