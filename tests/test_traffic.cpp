/**
 * @file test_traffic.cpp
 * @brief The bytes that kernels move, counted by the engine, are those that the design says. Sparse kernels:
 * the formulas of the loop orders (chapter 14), evaluated on the pairs (query, group, block) of the run, plus
 * terms that have a name. The fused index: Q once and each tile of keys once for 256 rows, k ids out. Steps
 * of generation: the index keys of every request once, in 2 or in 1 byte, and the chosen blocks. By the same
 * counts prefill/auto is seen to choose.
 */
#include "cuda/host/msa_cuda.h"
#include "cuda/kit/kernel.cuh"

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

extern "C" {
#include "support/tap.h"
}

using std::vector;

struct Problem {
    msa_shape s;
    vector<uint16_t> q, k, v, o, qi, ki, dout;
    vector<float> lse, index_lse, dq, dk, dv, dqi, dki;
    vector<int32_t> ids, instead;
    vector<int32_t> table, lens; ///< of a paged call
    vector<uint8_t> ki8;
    vector<float> scale;
    vector<int8_t> codes; ///< an 8-bit copy, which claims to be exact, with scales of 1
    vector<float> ones, zeros;
};

static vector<uint16_t> draw(size_t n, std::mt19937 &rng)
{
    vector<uint16_t> x(n + 64);
    for (uint16_t &e : x)
        e = __float2bfloat16_rn((float)(rng() % 2001) / 1000 - 1).bits;
    return x;
}

/// Ascending ids by a rule that says whether query i of group r takes block b; the local block always.
static void choose(Problem &p, const std::function<bool(int i, int r, int b)> &takes)
{
    const msa_shape &s = p.s;
    p.ids.assign((size_t)(s.n_kv_heads * s.n_q * s.topk), -1);
    for (int r = 0; r < s.n_kv_heads; r++)
        for (int i = 0; i < (int)s.n_q; i++) {
            int32_t *row = p.ids.data() + ((int64_t)r * s.n_q + i) * s.topk;
            const int local = (int)((s.n_kv - s.n_q + i) / s.block);
            int n = 0;
            for (int b = 0; b < local && n < s.topk - 1; b++)
                if (takes(i, r, b))
                    row[n++] = b;
            row[n] = local;
        }
}

template <class T> static T *aligned(vector<T> &x) ///< the vectors have 64 elements to spare
{
    return (T *)(((uintptr_t)x.data() + 127) / 128 * 128);
}

/// Runs a kernel with O in bf16 and returns what the engine counted.
static simt::Counters count(Problem &p, const char *kernel, bool with_kl = false)
{
    const msa_device *engine = msa_engine();
    msa_plan plan;
    if (msa_plan_make(&plan, engine, kernel, &p.s, MSA_BF16) != MSA_OK)
        return {};
    void *work = engine->alloc(plan.workspace);
    msa_arrays a = {};
    a.q = aligned(p.q), a.k = aligned(p.k), a.v = aligned(p.v), a.o = aligned(p.o);
    a.ids = p.ids.data(), a.forced_ids = p.instead.empty() ? nullptr : p.instead.data(), a.lse = p.lse.data();
    a.qi = aligned(p.qi), a.ki = aligned(p.ki);
    a.index_lse = p.index_lse.empty() ? nullptr : p.index_lse.data();
    if (!p.table.empty()) {
        const bool small = !p.scale.empty();
        uint8_t *ki8 = small ? (uint8_t *)(((uintptr_t)p.ki8.data() + 127) / 128 * 128) : nullptr;
        a.pages = {(int64_t)p.table.size(), p.table.data(), p.lens.data(), ki8, p.scale.data(), 0};
    }
    const msa_index8 copy = {(int8_t *)(((uintptr_t)p.codes.data() + 127) / 128 * 128), p.ones.data(),
                             p.zeros.data(), p.zeros.data(), nullptr};
    a.index8 = p.codes.empty() ? nullptr : &copy;
    double loss = 0;
    const bool kl = with_kl || strncmp(kernel, "kl/", 3) == 0,
               backward = strstr(kernel, "backward/") != nullptr;
    a.dout = aligned(p.dout), a.weight = 1, a.loss = kl ? &loss : nullptr;
    if (backward)
        a.dq = aligned(p.dq), a.dk = aligned(p.dk), a.dv = aligned(p.dv);
    if (kl && !p.dqi.empty())
        a.dqi = aligned(p.dqi), a.dki = aligned(p.dki);
    const msa_status status = msa_plan_run(&plan, &a, work, nullptr);
    engine->free(work);
    tap(status == MSA_OK, "%s%s runs%s%s", kernel, with_kl ? " with kl" : "", status == MSA_OK ? "" : ": ",
        engine->trouble());
    return simt::counters;
}

/// Sums over the pairs of the run.
struct Pairs {
    double n = 0;      ///< pairs
    double tokens = 0; ///< tokens of their blocks, hidden ones too
};
static Pairs pairs_of(const Problem &p)
{
    Pairs sum;
    for (int32_t b : p.ids)
        if (b >= 0) {
            sum.n++;
            sum.tokens += (double)std::min<int64_t>(p.s.block, p.s.n_kv - (int64_t)b * p.s.block);
        }
    return sum;
}
/// Items of at most `limit` entries that the worklist has, and tokens of their key blocks.
struct Worklist {
    double items = 0, tokens = 0;
};
static Worklist worklist_of(const Problem &p, int64_t limit)
{
    Worklist sum;
    const int64_t n_blocks = msa_n_blocks(&p.s), per_group = p.s.n_q * p.s.topk;
    for (int r = 0; r < p.s.n_kv_heads; r++) {
        vector<int64_t> chosen((size_t)n_blocks);
        for (int64_t a = 0; a < per_group; a++)
            if (p.ids[(size_t)(r * per_group + a)] >= 0)
                chosen[(size_t)p.ids[(size_t)(r * per_group + a)]]++;
        for (int64_t b = 0; b < n_blocks; b++) { // a hot block is loaded once an item
            const double items = (double)ceil_div(chosen[(size_t)b], limit);
            sum.items += items;
            sum.tokens += items * (double)std::min<int64_t>(p.s.block, p.s.n_kv - b * p.s.block);
        }
    }
    return sum;
}

static void within_one_percent(const char *what, double counted, double formula, double named)
{
    const double off = counted / (formula + named) - 1;
    tap(off > -0.01 && off < 0.01, "%s: %.0f bytes counted, %.0f by the formula and %.0f named: %+.3f%%",
        what, counted, formula, named, 100 * off);
}

/// What reverse/scan moves, with one range of blocks, one segment of queries and room for so many items.
static double reverse_bytes(const msa_shape &s, double items)
{
    const double t = (double)s.n_q, hkv = s.n_kv_heads, k = s.topk, n_blocks = (double)msa_n_blocks(&s);
    return 4 * hkv * (2 * t * k + 10 * n_blocks + 2 + t * k) + 4 * 32 * k * (hkv * (hkv + 1) / 2 + 1) +
           16 * items;
}

static void judge(Problem &p, const char *selection)
{
    const msa_shape &s = p.s;
    const double t = (double)s.n_q, hq = s.n_heads, hkv = s.n_kv_heads, d = s.d_head, k = s.topk;
    const double group = hq / hkv;
    const Pairs pairs = pairs_of(p);
    tap_note("%s: T=%lld S=%lld heads=%d:%d dh=%d block=%d k=%d", selection, (long long)s.n_q,
             (long long)s.n_kv, s.n_heads, s.n_kv_heads, s.d_head, s.block, s.topk);

    // Q-outer: 4 Hq T dh + 4 dh for every token of every pair.
    simt::Counters c = count(p, "sparse/q_outer");
    const double lse = 4 * hq * t,
                 ids = 4 * 4 * k * hkv * t; // each of a CTA's four warps reads its row of ids
    within_one_percent("Q-outer", (double)(c.load_bytes + c.store_bytes),
                       4 * hq * t * d + 4 * d * pairs.tokens, lse + ids);

    // KV-outer: K and V of the touched blocks, Q and partials of every pair, partials again and O.
    c = count(p, "sparse/kv_outer");
    const int64_t limit = 32 * (int64_t)(64 / group); // entries of its items
    const Worklist list = worklist_of(p, limit);
    const double capacity = hkv * ((double)msa_n_blocks(&s) + (double)(s.n_q * s.topk / limit)),
                 ends = std::min(std::min(capacity, 132.0), capacity - list.items);
    const double reverse = reverse_bytes(s, capacity);
    const double worklist = 48 * (list.items + ends) + 4 * pairs.n, partial_lse = 8 * group * pairs.n;
    within_one_percent("KV-outer", (double)(c.load_bytes + c.store_bytes),
                       4 * d * list.tokens + 4 * group * d * pairs.n + 2 * group * d * pairs.n +
                           2 * hq * t * d,
                       reverse + worklist + partial_lse + 4 * k * hq * t + lse);
}

static void exactly(const char *what, uint64_t counted, double formula)
{
    tap((double)counted == formula, "%s: %llu multiply-adds on tensor cores, %.0f by the design", what,
        (unsigned long long)counted, formula);
}

/// How the queries of the items fall into tiles of 64 / G queries, 8 at most, and their rows into 16s; and
/// those of a block into steps of 32.
struct Tiles {
    double n = 0, slices = 0, steps = 0;

    void add(const msa_shape &s, int64_t queries)
    {
        const int64_t group = s.n_heads / s.n_kv_heads, per_tile = std::min<int64_t>(8, 64 / group);
        const int64_t limit = msa_item_limit(&s);
        steps += (double)ceil_div<int64_t>(queries, 32);
        for (int64_t left = queries; left > 0; left -= limit)
            for (int64_t rest = std::min(left, limit); rest > 0; rest -= per_tile) {
                n++;
                slices += (double)ceil_div<int64_t>(std::min(rest, per_tile) * group, 16);
            }
    }
};
static Tiles tiles_of(const Problem &p)
{
    Tiles sum;
    const int64_t n_blocks = msa_n_blocks(&p.s), per_group = p.s.n_q * p.s.topk;
    for (int r = 0; r < p.s.n_kv_heads; r++) {
        vector<int64_t> chosen((size_t)n_blocks);
        for (int64_t a = 0; a < per_group; a++)
            if (p.ids[(size_t)(r * per_group + a)] >= 0)
                chosen[(size_t)p.ids[(size_t)(r * per_group + a)]]++;
        for (int64_t queries : chosen)
            sum.add(p.s, queries);
    }
    return sum;
}

/// What finding the centres of keys of a width takes, as the head of sweep/centre.cuh has it.
static double centre_bytes(const Problem &p, bool ids, double width)
{
    const msa_shape &s = p.s;
    double bytes = 0;
    for (int64_t row = 0; row < s.n_kv_heads * s.n_q; row++) {
        const int64_t position = s.n_kv - s.n_q + row % s.n_q;
        int64_t n = ids ? 0 : position + 1, read = 0, samples = 0;
        for (int slot = 0; ids && slot < s.topk; slot++) {
            const int32_t b = p.ids[(size_t)(row * s.topk + slot)];
            read++;
            if (b < 0)
                break;
            n += std::min<int64_t>(s.block, position + 1 - (int64_t)b * s.block);
        }
        for (int64_t step = (n + 15) / 16, a = step / 2; a < n; a += step)
            samples++;
        bytes += 2 * width * (double)samples + (ids ? width * (double)(read + samples) : 0) + 2 * width + 4;
    }
    return bytes;
}

/// The same with every visible block, as the head of backward/dense/1_kv_outer.cu has it.
static void judge_dense_gradients(Problem &p)
{
    const msa_shape &s = p.s;
    const double t = (double)s.n_q, n_kv = (double)s.n_kv, hq = s.n_heads, hkv = s.n_kv_heads, d = s.d_head;
    const double group = hq / hkv;
    double pairs = 0, slices = 0, tiles = 0;
    for (int64_t b = 0; b < msa_n_blocks(&s); b++) {
        const int64_t queries = s.n_q - std::max<int64_t>(0, b * s.block - (s.n_kv - s.n_q));
        Tiles one;
        one.add(s, queries); // an item's limit is a whole number of tiles
        pairs += hkv * (double)queries;
        slices += hkv * one.slices, tiles += hkv * one.n;
    }
    const double bytes = 4 * d * hkv * n_kv + 8 * group * d * pairs + 16 * d * hkv * n_kv;
    const double named = 4 * hq * t * d + 4 * hq * t + 4 * hq * t * d + 8 * hkv * n_kv * d +
                         8 * group * pairs + 4 * pairs + centre_bytes(p, false, d);
    simt::Counters c = count(p, "dense_backward/kv_outer");
    within_one_percent("dense backward", (double)(c.load_bytes + c.store_bytes), bytes, named);
    exactly("dense backward", c.tensor_fma, 5 * 16 * slices * s.block * d);
    if (s.block < 64)
        return;
    c = count(p, "dense_backward/hopper");
    within_one_percent("dense backward, Hopper", (double)(c.load_bytes + c.store_bytes), bytes, named);
    exactly("dense backward, Hopper", c.tensor_fma, 5 * 64 * tiles * s.block * d);
}

/// The sweep over key blocks, as the head of backward/3_kv_outer.cu and of kl/2_kv_outer.cu have it.
static void judge_gradients(Problem &p, bool all, std::mt19937 &rng)
{
    const msa_shape &s = p.s;
    const double t = (double)s.n_q, n_kv = (double)s.n_kv, hq = s.n_heads, hkv = s.n_kv_heads, d = s.d_head;
    const double di = s.d_index, n = s.block, group = hq / hkv, blocks = (double)msa_n_blocks(&s);
    const double items = (double)msa_first_item(&s, 1);
    p.dout = draw(p.q.size(), rng);
    p.qi = draw((size_t)(t * hkv * di), rng);
    p.ki = draw((size_t)(n_kv * di), rng);
    p.index_lse.assign((size_t)(t * hkv), 5);
    p.lse.assign((size_t)(t * hq), 5);
    p.dq.resize((size_t)(t * hq * d) + 64), p.dqi.resize((size_t)(t * hkv * di) + 64);
    p.dk.resize((size_t)(n_kv * hkv * d) + 64), p.dv.resize(p.dk.size()),
        p.dki.resize((size_t)(n_kv * di) + 64);
    const Pairs pairs = pairs_of(p);
    const double tokens = worklist_of(p, msa_item_limit(&s)).tokens,
                 used = tokens / n; // items, but for a short last block

    const Tiles tiles = tiles_of(p);
    simt::Counters c = count(p, "backward/kv_outer");
    const double delta = 4 * hq * t * d + 4 * hq * t, zeros = 4 * hq * t * d + 8 * hkv * n_kv * d;
    const double main = 4 * d * tokens + 4 * group * d * pairs.n + 4 * group * d * pairs.n + 16 * d * tokens;
    const double named = reverse_bytes(s, items) + delta + zeros + 8 * group * pairs.n + 4 * pairs.n +
                         32 * n * items + 16 * n * used + 2048 * hkv * blocks + 4 * pairs.n +
                         centre_bytes(p, true, d);
    const double main_fma = 5 * 16 * tiles.slices * n * d;
    within_one_percent("backward, KV-outer", (double)(c.load_bytes + c.store_bytes), main, named);
    exactly("backward, KV-outer", c.tensor_fma, main_fma);

    c = count(p, "kl/kv_outer");
    // Of dKi, owners and items look at where the entries of a list begin and end, and so does the merge.
    const double keys = (2 * n + 2 * di + di / 2) * pairs.n + 8 * di * n_kv + 16 * n * hkv * blocks +
                        32 * n * items + 16 * n * used + 2048 * hkv * blocks;
    const double index = 2 * di * tokens + (2 * di + 4 * di + 2 * n) * pairs.n;
    const double index_named = keys + 4 * hkv * t * di + 4 * n_kv * di + 4 * pairs.n + 16 * items +
                               4 * pairs.n + centre_bytes(p, true, di);
    const double index_fma = (8 + 16) * tiles.n * n * di + 32 * tiles.steps * n * di;
    within_one_percent("kl, KV-outer", (double)(c.load_bytes + c.store_bytes),
                       2 * d * tokens + 2 * group * d * pairs.n + index,
                       reverse_bytes(s, items) + (4 * group + 4) * pairs.n + 32 * n * items + index_named);
    exactly("kl, KV-outer", c.tensor_fma, 16 * tiles.slices * n * d + index_fma);

    // By wgmma: tiles of 64 rows, narrow products of 8, a warpgroup more that reads its item.
    const bool wide = s.block >= 64;
    const double more = wide ? 16 * 128 * items : 0, wide_fma = wide ? 5 * 64 * tiles.n * n * d : main_fma;
    c = count(p, "backward/hopper");
    within_one_percent("backward, Hopper", (double)(c.load_bytes + c.store_bytes), main, named + more);
    exactly("backward, Hopper", c.tensor_fma, wide_fma);

    if (!all)
        return;
    // Together they move no main score, Q or K twice.
    c = count(p, "backward/kv_outer", true);
    within_one_percent("backward with kl", (double)(c.load_bytes + c.store_bytes), main + index,
                       named + index_named);
    exactly("backward with kl", c.tensor_fma, main_fma + index_fma);

    c = count(p, "backward/hopper", true);
    within_one_percent("backward, Hopper, with kl", (double)(c.load_bytes + c.store_bytes), main + index,
                       named + more + index_named);
    exactly("backward, Hopper, with kl", c.tensor_fma,
            wide_fma + index_fma - (wide ? 8 * tiles.n * n * di : 0));

    // Parts in bf16, written and read, in place of reductions; dQ is stored and not cleared; each thread of the sum
    // reads its row's ids.
    c = count(p, "backward/deterministic");
    double ids = 0;
    for (size_t row = 0; row < p.ids.size(); row += (size_t)s.topk)
        for (int slot = 0; slot < s.topk && (slot == 0 || p.ids[row + (size_t)slot - 1] >= 0); slot++)
            ids += group * d;
    within_one_percent("backward, deterministic", (double)(c.load_bytes + c.store_bytes), main,
                       named + more + ids);
    exactly("backward, deterministic", c.tensor_fma, wide_fma);
    judge_dense_gradients(p);
}

/// One group of rows = query * Hkv + group after the other, 256 at a time, and the blocks that their last row
/// sees; where several CTAs share these, each reads the rows, and leaves lists of (score, id, sum) that a
/// second kernel reads once to choose and once for the LSE.
static void judge_index(const msa_shape &s, int parts, std::mt19937 &rng)
{
    Problem p;
    const int64_t rows = s.n_q * s.n_kv_heads;
    p.s = s;
    p.qi = draw((size_t)(rows * s.d_index), rng);
    p.ki = draw((size_t)(s.n_kv * s.d_index), rng);
    p.ids.resize((size_t)(rows * s.topk));
    p.index_lse.resize((size_t)rows);
    double keys = 0, queries = 0, offered = 0; // entries of lists but for the local block
    for (int64_t row0 = 0; row0 < rows; row0 += 256) {
        const int64_t last = std::min(row0 + 256, rows) - 1, position = s.n_kv - s.n_q + last / s.n_kv_heads;
        keys += (double)std::min(s.n_kv, (position / s.block + 1) * s.block);
        queries += (double)(parts * (last + 1 - row0));
        const int64_t n = position / s.block + 1;
        for (int64_t row = row0; row <= last && parts > 1; row++)
            for (int part = 0; part < parts; part++) {
                const int64_t local = (s.n_kv - s.n_q + row / s.n_kv_heads) / s.block;
                const int64_t seen = std::min(n * (part + 1) / parts, local) - n * part / parts;
                offered += (double)std::min<int64_t>(seen, s.topk - 1);
            }
    }
    const double k = s.topk, entries = parts > 1 ? parts * k * (double)rows : 0;
    double chosen = 0; // entries whose sum is read
    tap_note("index: T=%lld S=%lld heads=%d:%d di=%d block=%d k=%d", (long long)s.n_q, (long long)s.n_kv,
             s.n_heads, s.n_kv_heads, s.d_index, s.block, s.topk);
    const simt::Counters c = count(p, "index/fused");
    for (int32_t id : p.ids)
        chosen += parts > 1 && id >= 0;
    within_one_percent("fused", (double)(c.load_bytes + c.store_bytes),
                       2 * s.d_index * (queries + keys) + 4 * k * (double)rows + 4 * (double)rows,
                       12 * entries + 4 * entries + 4 * offered + 8 * entries + 4 * chosen);
}

/// Of equal keys every block before the local one is a candidate: what screening, turning and settling move is known.
static void judge_screened(const msa_shape &s, std::mt19937 &rng)
{
    Problem p;
    const int64_t rows = s.n_q * s.n_kv_heads, blocks = msa_n_blocks(&s), complete = s.n_kv / s.block;
    const double di = s.d_index, n = s.block;
    p.s = s;
    p.qi = draw((size_t)(rows * s.d_index), rng);
    p.ki.assign((size_t)(s.n_kv * s.d_index) + 128, p.qi[0]);
    p.ids.resize((size_t)(rows * s.topk));
    double codes = 0, pairs = 0, tiles = 0, ctas = 0; // tiles of codes; of full keys
    vector<int64_t> asked((size_t)blocks);
    for (int64_t row0 = 0; row0 < rows; row0 += 256) {
        int64_t local = 0;
        for (int64_t row = row0; row < std::min(row0 + 256, rows); row++) {
            local = (s.n_kv - s.n_q + row / s.n_kv_heads) / s.block;
            pairs += (double)local;
            for (int64_t b = 0; b < local; b++)
                asked[(size_t)b]++;
        }
        codes += (double)local;
        ctas++;
    }
    double some = 0; // blocks that somebody asks for
    for (int64_t of : asked)
        tiles += (double)ceil_div(of, (int64_t)128), some += of > 0;
    tap_note("screened: T=%lld S=%lld heads=%d:%d di=%d block=%d k=%d", (long long)s.n_q, (long long)s.n_kv,
             s.n_heads, s.n_kv_heads, s.d_index, s.block, s.topk);
    const simt::Counters c = count(p, "index/screened");
    // CTAs that share the keys of 256 rows, and what their lists cost until they are one.
    const double parts = (double)std::max<int64_t>(1, std::min<int64_t>(132 / (int64_t)ctas, blocks / 16)),
                 keep = s.topk - 1, lists = parts * (double)rows,
                 united = parts > 1 ? lists * (8 * keep + 128 + 128 + 4) : 0;
    tap_note("%.0f CTAs share a row's keys", parts);
    const double formula = 5 * di * (double)complete * n + 12 * (double)complete +
                           2 * di * 256 * ctas * parts + (di * n + 96) * codes + (48 + 2 * di) * pairs +
                           2 * di * n * tiles + 4 * s.topk * (double)rows,
                 settlers = (double)std::min<int64_t>(264, (int64_t)lists * blocks / 128 + blocks);
    // Counters of blocks, who fell, how many candidates a list has (which all lanes read), worklists.
    within_one_percent("screened", (double)(c.load_bytes + c.store_bytes), formula,
                       12 * (double)blocks + 4 * some + 24 + (4 + 128 + 128) * lists + united + 8 * some +
                           (16 + 8 * 16) * tiles + 1024 * settlers + 4 * 288 * ctas);
    exactly("screened, in 8 bits", c.tensor_int8, 256 * codes * n * di);
    exactly("screened, settled", c.tensor_fma, 128 * tiles * n * di);
}

/// The copy of a prompt: its complete blocks' keys twice, codes, and four numbers a block.
static void judge_copy(const msa_shape &s, std::mt19937 &rng)
{
    vector<uint16_t> ki = draw((size_t)(s.n_kv * s.d_index), rng);
    vector<int8_t> codes((size_t)(s.n_kv * s.d_index) + 128);
    vector<float> numbers((size_t)(4 * msa_n_blocks(&s)));
    float *of = numbers.data();
    const msa_index8 copy = {aligned(codes), of, of + msa_n_blocks(&s), of + 2 * msa_n_blocks(&s),
                             of + 3 * msa_n_blocks(&s)};
    msa_arrays a = {};
    a.ki = aligned(ki), a.index8 = &copy;
    const msa_status status = msa_index8_make(msa_engine(), &s, &a, nullptr);
    const double blocks = (double)(s.n_kv / s.block), elements = blocks * s.block * s.d_index;
    const simt::Counters &c = simt::counters;
    tap(status == MSA_OK && (double)c.load_bytes == 4 * elements &&
            (double)c.store_bytes == elements + 16 * blocks,
        "copy of %lld keys, di=%d block=%d: %llu bytes read, %.0f by the design, %llu written, %.0f",
        (long long)s.n_kv, s.d_index, s.block, (unsigned long long)c.load_bytes, 4 * elements,
        (unsigned long long)c.store_bytes, elements + 16 * blocks);
}

/* ---- Steps of generation ------------------------------------------------------------------------------- */

/// A batch of requests of t queries each, with as many pages as their table has entries.
static Problem batch(const msa_shape &sizes, int t, const vector<int32_t> &lens, vector<int32_t> (&cu)[2],
                     bool small, std::mt19937 &rng)
{
    Problem p;
    const int n = (int)lens.size();
    const int64_t longest = *std::max_element(lens.begin(), lens.end()),
                  width = ceil_div(longest, (int64_t)sizes.block);
    const size_t rows = (size_t)(n * width * sizes.block);
    for (int r = 0; r <= n; r++) {
        cu[0].push_back(r * t);
        cu[1].push_back((int32_t)(r * width * sizes.block));
    }
    p.s = sizes;
    p.s.n_q = n * t, p.s.n_kv = (int64_t)rows, p.s.n_seqs = n, p.s.cu_q = cu[0].data(),
    p.s.cu_kv = cu[1].data();
    p.lens = lens;
    p.table.resize((size_t)(n * width));
    for (size_t i = 0; i < p.table.size(); i++)
        p.table[i] = (int32_t)i;
    std::shuffle(p.table.begin(), p.table.end(), rng);
    p.q = draw((size_t)(p.s.n_q * p.s.n_heads * p.s.d_head), rng);
    p.k = draw(rows * (size_t)(p.s.n_kv_heads * p.s.d_head), rng);
    p.v = p.k;
    p.qi = draw((size_t)(p.s.n_q * p.s.n_kv_heads * p.s.d_index), rng);
    p.ki = draw(rows * (size_t)p.s.d_index, rng);
    p.o.resize(p.q.size());
    p.lse.resize((size_t)(p.s.n_q * p.s.n_heads));
    p.ids.resize((size_t)(p.s.n_kv_heads * p.s.n_q * p.s.topk));
    if (small) {
        p.ki8.resize(rows * (size_t)p.s.d_index + 128);
        for (uint8_t &e : p.ki8)
            e = (uint8_t)(rng() % 127);
        p.scale.assign(p.table.size(), 1.0f);
    }
    return p;
}

/// What attending to n tokens of a row moves beside its K and V and page ids: in parts of whole steps of 128 tokens, for each
/// of which a head moves `left` bytes.
static double row_costs(const msa_shape &s, int64_t n, int64_t count, double left, double *parts)
{
    const int64_t tokens = ceil_div(ceil_div(n, (int64_t)128), count) * 128;
    const double group = s.n_heads / s.n_kv_heads, d = s.d_head;
    *parts = (double)ceil_div(n, tokens);
    return *parts * (2 * group * d + group * left) + group * (2 * d + 4);
}
/// Parts of a row of MSA's step, of 256 tokens at least: a cluster, which merges them where they are.
static int64_t cluster_of(const msa_shape &s, int64_t capacity, int64_t rows)
{
    const int64_t parts = std::min(ceil_div(std::min(capacity, (int64_t)s.topk * s.block), (int64_t)256),
                                   std::max<int64_t>(132 / rows, 1));
    return parts < 2 ? 1 : parts < 4 ? 2 : parts < 8 ? 4 : 8;
}
/// Page ids of a dense step, up to 32 at a time to each of 8 warps.
static double page_costs(const msa_shape &s, int64_t n, int64_t count)
{
    const int64_t tokens = ceil_div(ceil_div(n, (int64_t)128), count) * 128;
    double pages = 0;
    for (int64_t first = 0; first < n; first += tokens)
        pages += 32 * (double)(ceil_div(std::min(n, first + tokens), (int64_t)s.block) - first / s.block);
    return pages;
}
/// What each part of a row reads to choose from n candidates: all of them, and the pages of the local block and of those
/// that are kept, the best `kept`.
static double choosing(double n, double kept)
{
    return 8 * n + 4 * (1 + kept);
}

/// Bytes of lists of `each` candidates, one a segment: the best of all, then those lists whole that have one of the best
/// `each` of these. Where all tie, all have.
static double read_candidates(double segments, int64_t each, bool all_tie)
{
    return 8 * (segments + (all_tie ? segments : std::min(segments, (double)each)) * (double)each);
}

/// The stages of 128 keys of all requests are one line in equal pieces.
static void judge_step(const msa_shape &sizes, int t, const vector<int32_t> &lens, bool small,
                       std::mt19937 &rng)
{
    vector<int32_t> cu[2];
    Problem p = batch(sizes, t, lens, cu, small, rng);
    const msa_shape &s = p.s;
    const int n = (int)lens.size();
    const int64_t rows = t * s.n_kv_heads, capacity = s.n_kv / n, all_rows = n * rows;
    const int64_t columns = rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
    const int64_t most = ceil_div((capacity - 1) / s.block * s.block, (int64_t)128);
    const int64_t pieces_there = std::min<int64_t>(n * most, 132);
    const int64_t most_parts = cluster_of(s, capacity, all_rows);
    vector<int64_t> stages;
    int64_t total = 0;
    for (int32_t length : lens)
        total += stages.emplace_back(ceil_div((int64_t)(length - 1) / s.block * s.block, (int64_t)128));
    const int64_t pieces = std::min(pieces_there, total);

    double keys = 0, chosen = 0, queries = 0, candidates = 0, main_branch = 0, ids = 0;
    ids += 4.0 * n * (double)pieces_there; // each block of threads reads the lengths
    for (int64_t r = 0, first = 0; r < n; first += stages[(size_t)r++]) {
        double segments = 0;
        for (int64_t c = 0; c < pieces; c++) {
            const int64_t begin = std::max(first, c * total / pieces);
            const int64_t end = std::min(first + stages[(size_t)r], (c + 1) * total / pieces);
            if (begin < end) {
                const int64_t blocks = (end - begin) * 128 / s.block;
                segments++;
                ids += 160 * 4 + 128.0 * (double)ceil_div(blocks, (int64_t)32) * (small ? 2 : 1);
                queries += 2 * s.d_index * (double)std::min(columns, (n - r) * rows);
                keys += (double)((end - begin) * 128) * (small ? 1 : 2) * s.d_index;
            }
        }
        candidates += 8 * segments * (s.topk - 1) * (double)rows;
        for (int i = 0; i < t; i++) {
            const int64_t position = lens[(size_t)r] - t + i, local = position / s.block;
            const int64_t tokens = std::min<int64_t>(local, s.topk - 1) * s.block + position % s.block + 1;
            double parts;
            main_branch += s.n_kv_heads * row_costs(s, tokens, most_parts, 0, &parts);
            candidates += s.n_kv_heads * parts * choosing(segments * (s.topk - 1), s.topk - 1);
            chosen += s.n_kv_heads * 4.0 * s.d_head * (double)tokens;
            ids += s.n_kv_heads * ((double)most_parts * (1024 + 4 * n) + 4 * s.topk); // lengths; ids out
        }
    }
    tap_note("step: %d requests, T=%d heads=%d:%d width=%d:%d block=%d k=%d, %s keys", n, t, s.n_heads,
             s.n_kv_heads, s.d_head, s.d_index, s.block, s.topk, small ? "8-bit" : "bf16");
    simt::Counters c = count(p, "decode/swapped");
    within_one_percent("decode", (double)(c.load_bytes + c.store_bytes), keys + chosen,
                       queries + candidates + main_branch + ids);
    tap(c.launches == 3, "... in %d launches, however many requests there are", (int)c.launches);
    if (small && !tap_full())
        return; // a dense step reads no index keys

    const int64_t all = std::min(ceil_div(capacity, (int64_t)128), std::max<int64_t>(132 / all_rows, 1));
    double dense = 0, named = 4.0 * (double)all_rows + 1024.0 * (double)(all * all_rows);
    for (int32_t length : lens)
        for (int i = 0; i < t; i++) {
            double parts;
            dense += s.n_kv_heads * 4.0 * s.d_head * (length - t + i + 1);
            named += s.n_kv_heads * (row_costs(s, length - t + i + 1, all, 16 + 8 * s.d_head, &parts) +
                                     page_costs(s, length - t + i + 1, all));
        }
    c = count(p, "dense_decode/split");
    within_one_percent("dense step", (double)(c.load_bytes + c.store_bytes), dense, named);
    tap(c.launches == 2, "... in %d launches", (int)c.launches);
}

/// A step of one query a request that screens: codes once, then the full keys of stages that some row asks for. Its copy
/// claims to be exact: either all blocks tie and all are settled, or the first k - 1 of each request are better.
static void judge_screened_step(const msa_shape &sizes, const vector<int32_t> &lens, bool all_tie,
                                std::mt19937 &rng)
{
    vector<int32_t> cu[2];
    Problem p = batch(sizes, 1, lens, cu, false, rng);
    const msa_shape &s = p.s;
    const int n = (int)lens.size();
    const int64_t rows = s.n_kv_heads, capacity = s.n_kv / n, width = capacity / s.block, di = s.d_index,
                  keep = s.topk - 1;
    for (uint16_t &x : p.qi)
        x = __float2bfloat16_rn(1.0f).bits; // of which the rotation leaves one channel
    p.codes.assign((size_t)(s.n_kv * di) + 128, 1);
    p.ones.assign(p.table.size(), 1.0f), p.zeros.assign(p.table.size(), 0.0f);
    int8_t *codes = (int8_t *)(((uintptr_t)p.codes.data() + 127) / 128 * 128);
    for (int r = 0; r < n && !all_tie; r++)
        for (int b = 0; b < keep; b++)
            memset(codes + p.table[(size_t)(r * width + b)] * s.block * di, 10 + b, (size_t)(s.block * di));
    // Of the full product; of the codes' rows, each with two columns; blocks.
    const int64_t columns = rows <= 8 ? 8 : 16, coded = rows <= 4 ? 4 : columns,
                  most = (capacity - 1) / s.block,
                  shares = std::min<int64_t>(n * most, 132);
    const int64_t most_parts = cluster_of(s, capacity, n * rows);
    vector<int64_t> stages;
    int64_t total = 0;
    for (int32_t length : lens)
        total += stages.emplace_back((length - 1) / s.block); // a block is a stage
    const int64_t pieces = std::min(shares, total);

    double keys = 0, chosen = 0, main_branch = 0, settled_stages = 0, settled = 0;
    double screened = 4.0 * n * (double)(shares) + 640.0 * n + 4.0 * (double)(n * rows); // lengths; counts
    double settling = 4.0 * n * (double)shares, selecting = 0;
    for (int64_t r = 0, first = 0; r < n; first += stages[(size_t)r++]) {
        double segments = 0;
        const int64_t of = stages[(size_t)r], asked = all_tie ? of : keep;
        for (int64_t c = 0; c < pieces; c++) {
            const int64_t begin = std::max(first, c * total / pieces),
                          end = std::min(first + of, (c + 1) * total / pieces);
            if (begin >= end)
                continue;
            segments++;
            screened +=
                640 + 128 * 4 * (double)ceil_div(end - begin, (int64_t)32) + 2.0 * (double)(di * coded);
            settling += 640 + 2.0 * (double)(di * std::min(columns, (n - r) * rows));
        }
        keys += (double)(of * 128 * di + asked * 128 * 2 * di);
        settled_stages += (double)asked, settled += (double)(asked * rows);
        screened += 8 * segments * (double)(keep * rows) + 4.0 * (double)(of * rows);
        settling += segments * (double)rows * read_candidates(segments, keep, all_tie); // lower bounds
        // An upper bound for who asks, or all of who do not; pages; once more for each row; a place in its list, and that.
        settling += 4.0 * (double)(asked + (of - asked) * rows) + 4.0 * (double)asked +
                    4.0 * (double)(asked * rows) + 8.0 * (double)(asked * rows);
        const int64_t position = lens[(size_t)r] - 1, local = position / s.block;
        const int64_t tokens = std::min<int64_t>(local, keep) * s.block + position % s.block + 1;
        double parts;
        main_branch += (double)rows * row_costs(s, tokens, most_parts, 0, &parts);
        selecting +=
            (double)rows * (parts * (1024 + choosing((double)asked, (double)(all_tie ? asked : keep))) +
                            (double)most_parts * (1024 + 4 * n) + 4 * s.topk);
        chosen += (double)rows * 4.0 * s.d_head * (double)tokens;
    }
    tap_note("step that screens: %d requests, heads=%d:%d width=%d:%d block=%d k=%d, %s", n, s.n_heads,
             s.n_kv_heads, s.d_head, s.d_index, s.block, s.topk,
             all_tie ? "all blocks tie" : "k - 1 blocks are better");
    Problem full = p;
    full.codes.clear();
    const simt::Counters unscreened = count(full, "decode/swapped"), c = count(p, "decode/swapped");
    within_one_percent("decode", (double)(c.load_bytes + c.store_bytes), keys + chosen,
                       screened + settling + selecting + main_branch);
    tap(c.launches == 3, "... in %d launches", (int)c.launches);
    exactly("screened, in 8 bits", c.tensor_int8, (double)(128 * 2 * coded * di * total));
    exactly("settled, less than in full by", unscreened.tensor_fma - c.tensor_fma,
            (double)(128 * columns * di) * ((double)total - settled_stages));
}

/// prefill/auto does what the union does up to the documented overlap and what KV-outer does from one block
/// more on: `blocks` is the sum of the unions of the 8 samples of 8 queries, in which the least is 7 and the
/// most 14.
static void judge_choice(int blocks, std::mt19937 &rng)
{
    const msa_shape s = {64, 2048, 16, 1, 64, 64, 32, 4, 1, nullptr, nullptr, nullptr, nullptr};
    Problem p;
    p.s = s;
    p.q = draw((size_t)(s.n_q * s.n_heads * s.d_head), rng);
    p.k = draw((size_t)(s.n_kv * s.n_kv_heads * s.d_head), rng);
    p.v = draw((size_t)(s.n_kv * s.n_kv_heads * s.d_head), rng);
    p.qi = draw((size_t)(s.n_q * s.n_kv_heads * s.d_index), rng);
    p.ki = draw((size_t)(s.n_kv * s.d_index), rng);
    p.o.resize(p.q.size());
    p.lse.resize((size_t)(s.n_q * s.n_heads));
    p.ids.resize((size_t)(s.n_q * s.n_kv_heads * s.topk));
    for (int i = 0; i < s.n_q; i++) { // the local block, and three of this eight's others
        const int eight = i / 8, others = blocks * (eight + 1) / 8 - blocks * eight / 8 - 1;
        const int first = std::min(i % 8 * 3, others - 3);
        for (int slot = 0; slot < 3; slot++)
            p.instead.push_back(first + slot);
        p.instead.push_back((int)((s.n_kv - s.n_q + i) / s.block));
    }
    const simt::Counters of_union = count(p, "prefill/union"), of_kv_outer = count(p, "prefill/kv_outer"),
                         chosen = count(p, "prefill/auto");
    const bool above = blocks > 8 * tuned(MSA_TUNE_auto_crossing) / 100 * s.topk;
    const simt::Counters &expected = above ? of_kv_outer : of_union;
    tap(of_union.store_bytes != of_kv_outer.store_bytes && chosen.store_bytes == expected.store_bytes + 4 &&
            chosen.tensor_fma == expected.tensor_fma, // 4: the sum
        "union8 = %d / 8, k = %d: auto writes %llu bytes as %s does; union %llu, kv_outer %llu", blocks,
        s.topk, (unsigned long long)chosen.store_bytes, above ? "kv_outer" : "union",
        (unsigned long long)of_union.store_bytes, (unsigned long long)of_kv_outer.store_bytes);
}

int main()
{
    std::mt19937 rng(7);
    const msa_shape m3 = {1, 1, 16, 1, 128, 128, 128, 4, 1, nullptr, nullptr, nullptr, nullptr},
                    little = {1, 1, 8, 2, 64, 64, 32, 4, 1, nullptr, nullptr, nullptr, nullptr};
    for (int small = 0; small < 2; small++) {
        judge_step(m3, 1, {3000, 129, 700, 1}, small, rng);
        judge_step(little, 3, {2100, 40, 33, 900}, small, rng);
        judge_step(m3, 2, {4096}, small, rng);
        judge_step(m3, 1, {6400}, small, rng);
        for (size_t n : {8, 32}) { // of each number one kind of keys, with FULL=1 both
            if (!tap_full() && (n == 32) != small)
                continue;
            vector<int32_t> lens(n);
            for (int32_t &length : lens)
                length = 1 + (int32_t)(rng() % (n == 8 ? 1500 : 600));
            judge_step(m3, 1, lens, small, rng);
        }
    }
    for (int all_tie = 0; all_tie < 2; all_tie++)
        judge_screened_step({0, 0, 16, all_tie ? 8 : 2, 64, 128, 128, 4, 1, nullptr, nullptr, nullptr, nullptr},
                            {4100, 1700, 777}, all_tie, rng);
    judge_index({300, 400, 8, 2, 64, 64, 32, 4, 1, nullptr, nullptr, nullptr, nullptr}, 1, rng);
    judge_index({96, 1500, 64, 4, 128, 128, 128, 16, 1, nullptr, nullptr, nullptr, nullptr}, 1, rng);
    judge_index({40, 3000, 4, 2, 64, 64, 32, 4, 1, nullptr, nullptr, nullptr, nullptr}, 11, rng);
    judge_index({9, 4100, 16, 1, 128, 128, 128, 16, 1, nullptr, nullptr, nullptr, nullptr}, 4, rng);
    judge_screened({300, 400, 8, 2, 64, 64, 32, 4, 1, nullptr, nullptr, nullptr, nullptr}, rng);
    judge_screened({96, 1500, 64, 4, 128, 128, 128, 5, 1, nullptr, nullptr, nullptr, nullptr}, rng);
    judge_screened({40, 3000, 4, 2, 64, 64, 32, 4, 1, nullptr, nullptr, nullptr, nullptr}, rng);
    judge_copy({1, 1000, 4, 2, 64, 128, 128, 4, 1, nullptr, nullptr, nullptr, nullptr}, rng);
    judge_copy({1, 333, 4, 2, 64, 64, 32, 4, 1, nullptr, nullptr, nullptr, nullptr}, rng);
    const int limit = 8 * 4 * tuned(MSA_TUNE_auto_crossing) / 100; // k = 4, as in judge_choice()
    judge_choice(limit, rng);
    judge_choice(limit + 1, rng);
    const bool full = tap_full(); // without: smaller, but of as many kinds of blocks, the last not whole
    const msa_shape shapes[] = {{full ? 64 : 21, full ? 2048 : 650, 32, 2, 128, 128, 128, full ? 8 : 4, 1, nullptr, nullptr, nullptr, nullptr},
                                {full ? 150 : 70, full ? 1000 : 330, 8, 2, 64, 64, 64, 4, 1, nullptr, nullptr, nullptr, nullptr},
                                {full ? 90 : 45, full ? 517 : 261, 16, 1, 128, 128, 32, 6, 1, nullptr, nullptr, nullptr, nullptr}};
    for (const msa_shape &s : shapes) {
        Problem p;
        p.s = s;
        p.q = draw((size_t)(s.n_q * s.n_heads * s.d_head), rng);
        p.k = draw((size_t)(s.n_kv * s.n_kv_heads * s.d_head), rng);
        p.v = draw((size_t)(s.n_kv * s.n_kv_heads * s.d_head), rng);
        p.o.resize(p.q.size());
        p.lse.resize((size_t)(s.n_q * s.n_heads));
        choose(p, [&](int, int, int) { return rng() % 3 == 0; });
        judge(p, "random");
        judge_gradients(p, &s != shapes, rng); // the first alone takes the engine as long as the others
        choose(p, [&](int, int, int b) { return b == 0; });
        judge(p, "hot");
        choose(p, [&](int i, int, int b) { return b > (s.n_kv - s.n_q + i) / s.block - s.topk; });
        judge(p, "local");
    }
    return tap_done();
}
