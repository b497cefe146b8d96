/**
 * @file test_million.cpp
 * @brief Index arithmetic at a million tokens: arrays of more than 2^31 elements, of which only the pages
 * that a kernel's first and last CTAs touch ever exist.
 *
 * 4096 heads at 4104 tokens take as many elements as MiniMax-M3's 64 heads at 262,656, and every tensor, the
 * scores too, passes 2^31. The rows of the last query and head are judged against sums in double over the
 * same arrays. The lower rungs, chunks of queries, a step of generation at 2^20 tokens, judged whole, and the prompt of
 * a million tokens come with FULL=1.
 */
#include "cuda/kit/kernel.cuh"
#include "cuda/host/msa_cuda.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <sys/mman.h>
#include <vector>

extern "C" {
#include "support/tap.h"
}

constexpr int d = 128, k = 4;
constexpr int64_t limit = INT64_C(1) << 31;
static int64_t tokens, heads, block; ///< of the call that is judged; no groups, and as many queries as keys

/// Reserved and never touched as a whole: what nobody wrote reads as zero.
template <class T> static T *reserve(int64_t n)
{
    void *p = mmap(nullptr, (size_t)n * sizeof(T), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p != MAP_FAILED)
        madvise(p, (size_t)n * sizeof(T), MADV_NOHUGEPAGE); // a touched element shall cost a page of 4 KB
    return p == MAP_FAILED ? nullptr : (T *)p;
}

struct Tensors {
    uint16_t *q, *k, *v, *qi, *ki;
    float *o, *lse, *scores, *by_block, *index_lse;
    int32_t *ids;
};
static int64_t n_scores()
{
    return heads * tokens * ceil_div(tokens, block);
}
static Tensors reserve_all(int64_t n_scores)
{
    const int64_t n = tokens * heads * d;
    return {reserve<uint16_t>(n),  reserve<uint16_t>(n),          reserve<uint16_t>(n),
            reserve<uint16_t>(n),  reserve<uint16_t>(tokens * d), reserve<float>(n),
            reserve<float>(n / d), reserve<float>(n_scores),      reserve<float>(n_scores),
            reserve<float>(n / d), reserve<int32_t>(n / d * k)};
}
static bool complete(const Tensors &a)
{
    return a.q && a.k && a.v && a.qi && a.ki && a.o && a.lse && a.scores && a.by_block && a.index_lse &&
           a.ids;
}

static double value(uint16_t bits)
{
    return (double)__bfloat162float({bits});
}

/* ---- Data around the end --------------------------------------------------------------------------- */

static void draw(uint16_t *x, int64_t n, std::mt19937 &rng)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = __float2bfloat16_rn((float)(rng() % 2001) / 500 - 2).bits;
}

/// The last 8 queries and every 11th key of the last two heads, and all of the index keys.
static void fill(const Tensors &a)
{
    std::mt19937 rng(3);
    for (int64_t h = heads - 2; h < heads; h++) {
        for (int64_t i = tokens - 8; i < tokens; i++) {
            draw(a.q + (i * heads + h) * d, d, rng);
            draw(a.qi + (i * heads + h) * d, d, rng);
        }
        for (int64_t j = tokens % 11; j < tokens; j += 11) {
            draw(a.k + (j * heads + h) * d, d, rng);
            draw(a.v + (j * heads + h) * d, d, rng);
        }
    }
    draw(a.ki, tokens * d, rng);
    for (int64_t r = 0; r < heads; r++) // the last k blocks, for the queries that a last chunk can hold
        for (int64_t i = tokens - 8; i < tokens; i++)
            for (int slot = 0; slot < k; slot++)
                a.ids[(r * tokens + i) * k + slot] = (int32_t)(i / block) - k + 1 + slot;
}

/* ---- Expected: the last query and head ------------------------------------------------------------- */

static double dot(const uint16_t *x, const uint16_t *y)
{
    double sum = 0;
    for (int c = 0; c < d; c++)
        sum += value(x[c]) * value(y[c]);
    return sum;
}

/// What the last query and head see: everything, or the blocks in its row of ids.
static std::vector<int64_t> visible(const Tensors &a, bool sparse)
{
    const int32_t *row = a.ids + (heads * tokens - 1) * k;
    std::vector<int64_t> keys;
    for (int64_t b = 0; b < ceil_div(tokens, block); b++)
        if (!sparse || std::find(row, row + k, (int32_t)b) < row + k)
            for (int64_t j = b * block; j < std::min(tokens, (b + 1) * block); j++)
                keys.push_back(j);
    return keys;
}

static std::vector<double> attention(const Tensors &a, bool sparse)
{
    const int64_t row = (tokens * heads - 1) * d;
    const std::vector<int64_t> keys = visible(a, sparse);
    std::vector<double> x, o(d);
    double top = -INFINITY, sum = 0;
    for (int64_t j : keys) {
        x.push_back(dot(a.q + row, a.k + (j * heads + heads - 1) * d) / std::sqrt((double)d));
        top = std::max(top, x.back());
    }
    for (size_t n = 0; n < keys.size(); n++) {
        const double w = std::exp(x[n] - top);
        sum += w;
        for (int c = 0; c < d; c++)
            o[(size_t)c] += w * value(a.v[(keys[n] * heads + heads - 1) * d + c]);
    }
    for (double &e : o)
        e /= sum;
    return o;
}

static std::vector<double> block_scores(const Tensors &a)
{
    const int64_t row = (tokens * heads - 1) * d;
    std::vector<double> m((size_t)ceil_div(tokens, block), -INFINITY);
    for (int64_t j = 0; j < tokens; j++) {
        double &best = m[(size_t)(j / block)];
        best = std::max(best, dot(a.qi + row, a.ki + j * d) / std::sqrt((double)d));
    }
    return m;
}

/// The selection rule on one row; ties do not occur here.
static std::vector<int32_t> best_blocks(std::vector<double> m)
{
    std::vector<int32_t> ids{(int32_t)m.size() - 1};
    m.pop_back();
    for (int slot = 1; slot < k; slot++) {
        const size_t best = (size_t)(std::max_element(m.begin(), m.end()) - m.begin());
        ids.push_back((int32_t)best);
        m[best] = -INFINITY;
    }
    std::sort(ids.begin(), ids.end());
    return ids;
}

/* ---- Running the ends of the grids ------------------------------------------------------------------- */

/// What of a kernel's grids runs: the blocks at the ends of x in the first and last rows of each...
struct Ends {
    uint64_t whole =
        0; ///< ...or, of the last launches, as many as this, all blocks and nothing of the others
    bool skip_index = false; ///< ids are there already
};

/// Runs that much of a kernel, twice: the first time only to learn how many launches there are.
static bool run_ends(const char *kernel, const Tensors &a, const Ends &ends)
{
    const msa_device *engine = msa_engine();
    msa_plan plan;
    const msa_shape shape = {tokens,     tokens, (int)heads, (int)heads, d,      d,
                             (int)block, k,      1,          nullptr, nullptr, nullptr, nullptr};
    if (msa_plan_make(&plan, engine, kernel, &shape, MSA_F32) != MSA_OK)
        return false;
    const bool is_index = std::string(kernel).find("index/") == 0,
               layer = std::string(kernel).find("prefill/") == 0;
    const bool fused = std::string(kernel) == "index/fused";
    msa_arrays p = {};
    p.q = a.q, p.k = a.k, p.v = a.v, p.qi = a.qi, p.ki = a.ki, p.o = a.o, p.lse = a.lse;
    p.scores = layer || fused ? nullptr : msa_takes_scores_by_block(kernel) ? a.by_block : a.scores;
    p.ids = is_index && !fused ? nullptr : a.ids;
    p.index_lse = fused ? a.index_lse : nullptr;
    char *work = reserve<char>((int64_t)plan.workspace + 1);
    uint64_t n = 0; // launches
    simt::options.only = [&](const char *, uint64_t launch, uint64_t, dim3) {
        n = launch + 1;
        return false;
    };
    bool ok = msa_plan_run(&plan, &p, work, nullptr) == MSA_OK;
    simt::options.only = [&](const char *, uint64_t launch, uint64_t b, dim3 grid) {
        const uint64_t x = b % grid.x, y = b / grid.x, rows = (uint64_t)grid.y * grid.z;
        if (ends.whole || (ends.skip_index && launch == 0))
            return ends.whole && launch + ends.whole >= n;
        return (x == 0 || x + 1 == grid.x) && (y == 0 || y + 1 == rows);
    };
    ok = ok && msa_plan_run(&plan, &p, work, nullptr) == MSA_OK;
    simt::options.only = nullptr;
    munmap(work, plan.workspace + 1);
    if (!ok)
        tap_note("%s", engine->trouble());
    return ok;
}

static void judge_output(const char *kernel, const Tensors &a, bool sparse, const Ends &ends = {})
{
    float *o = a.o + (tokens * heads - 1) * d;
    std::fill(o, o + d, 0.0f);
    const bool ran = run_ends(kernel, a, ends);
    const std::vector<double> expected = attention(a, sparse);
    double worst = 0, scale = 0;
    for (int c = 0; c < d; c++) {
        worst = std::max(worst, std::fabs((double)o[c] - expected[(size_t)c]));
        scale = std::max(scale, std::fabs(expected[(size_t)c]));
    }
    tap(ran && worst <= 0x1p-7 * scale, "%s: the last row of O, element %lld on, is right to %.1e of %.1e",
        kernel, (long long)(o - a.o), worst, scale);
}

/// The score of the last block has to be there, and what else was written of the row has to be right.
static void judge_index(const char *kernel, const Tensors &a, const std::vector<double> &m)
{
    float *row = a.scores + (heads * tokens - 1) * (int64_t)m.size();
    std::fill(row, row + m.size(), NAN);
    const bool ran = run_ends(kernel, a, {});
    double worst = 0;
    for (size_t b = 0; b < m.size(); b++)
        worst = std::fmax(worst, std::fabs((double)row[b] - m[b]));
    tap(ran && !std::isnan(row[m.size() - 1]) && worst < 1e-4,
        "%s: scores up to element %lld are right to %.1e", kernel,
        (long long)(row - a.scores) + (long long)m.size() - 1, worst);
}

static void judge_ids(const char *kernel, const Tensors &a, const std::vector<double> &m)
{
    int32_t *row = a.ids + (heads * tokens - 1) * k;
    std::fill(row, row + k, -7);
    const bool ran = run_ends(kernel, a, {});
    const std::vector<int32_t> expected = best_blocks(m);
    tap(ran && std::equal(expected.begin(), expected.end(), row), "%s: the last row of ids is right", kernel);
}

/// The last row's scores as a column.
static void turn(const Tensors &a)
{
    const int64_t n = ceil_div(tokens, block);
    for (int64_t b = 0; b < n; b++)
        a.by_block[((heads - 1) * n + b) * tokens + tokens - 1] = a.scores[(heads * tokens - 1) * n + b];
}

/* ---- A step of generation over pages ------------------------------------------------------------------- */

/// One request of 2^20 tokens whose pages lie anywhere in a cache that has room for eight; K and V have 2^32
/// elements each. Index keys are such as 8 bits can say, so that both kinds of keys have to choose the same.
struct Step {
    static constexpr int groups = 4, rows = 128, pages = 1 << 16, blocks = 1 << 13, group = 4;
    static constexpr int64_t page_keys = rows * d, page_kv = page_keys * groups;
    uint16_t *q = reserve<uint16_t>(groups * group * d), *qi = reserve<uint16_t>(groups * d);
    uint16_t *k = reserve<uint16_t>(pages * page_kv), *v = reserve<uint16_t>(pages * page_kv);
    uint16_t *ki = reserve<uint16_t>(pages * page_keys);
    uint8_t *ki8 = reserve<uint8_t>(pages * page_keys);
    float *scale = reserve<float>(pages);
    std::vector<int32_t> table = std::vector<int32_t>(pages);
    bool complete() const
    {
        return q && qi && k && v && ki && ki8 && scale;
    }
};

static void fill_step(Step &a, std::mt19937 &rng)
{
    float value_of[256];
    for (int b = 0; b < 256; b++)
        value_of[b] = msa_e4m3((uint8_t)b);
    for (int p = 0; p < Step::pages; p++)
        a.table[(size_t)p] = p;
    std::shuffle(a.table.begin(), a.table.end() - 1, rng);
    std::swap(a.table[Step::blocks - 1], a.table.back()); // the last block is the last page
    a.table.resize(Step::blocks);
    draw(a.q, Step::groups * Step::group * d, rng);
    draw(a.qi, Step::groups * d, rng);
    for (int32_t page : a.table) {
        a.scale[page] = rng() % 2 ? 0.5f : 0.25f;
        for (int64_t i = page * Step::page_keys; i < (page + 1) * Step::page_keys; i++) {
            const uint8_t byte = (uint8_t)(rng() % 0x7f | rng() % 2 << 7);
            a.ki8[i] = byte;
            a.ki[i] = __float2bfloat16_rn(value_of[byte] * a.scale[page]).bits;
        }
    }
}

/// What group r chooses; the pages that it chooses get keys and values.
static std::vector<int32_t> choose(const Step &a, int r, std::mt19937 &rng)
{
    std::vector<double> m((size_t)Step::blocks, -INFINITY);
    for (size_t b = 0; b < m.size(); b++)
        for (int j = 0; j < Step::rows; j++)
            m[b] = std::max(m[b], dot(a.qi + r * d, a.ki + a.table[b] * Step::page_keys + j * d));
    const std::vector<int32_t> ids = best_blocks(m);
    for (int32_t b : ids)
        for (int j = 0; j < Step::rows; j++) {
            const int64_t at = ((int64_t)a.table[(size_t)b] * Step::rows + j) * Step::groups + r;
            draw(a.k + at * d, d, rng);
            draw(a.v + at * d, d, rng);
        }
    return ids;
}

/// Head h of the query over the tokens of these blocks.
static std::vector<double> attention_to(const Step &a, int h, const std::vector<int32_t> &ids)
{
    std::vector<double> o(d);
    double sum = 0;
    for (int32_t b : ids)
        for (int j = 0; j < Step::rows; j++) {
            const int64_t at =
                ((int64_t)a.table[(size_t)b] * Step::rows + j) * Step::groups + h / Step::group;
            const double w = std::exp(dot(a.q + h * d, a.k + at * d) / std::sqrt((double)d));
            sum += w;
            for (int c = 0; c < d; c++)
                o[(size_t)c] += w * value(a.v[at * d + c]);
        }
    for (double &e : o)
        e /= sum;
    return o;
}

static void judge_step(const Step &a, const std::vector<std::vector<int32_t>> &ids, bool small)
{
    const msa_shape s = {1,
                         Step::blocks * Step::rows,
                         Step::groups * Step::group,
                         Step::groups,
                         d,
                         d,
                         Step::rows,
                         k,
                         1,
                         nullptr,
                         nullptr, nullptr, nullptr};
    const msa_device *engine = msa_engine();
    const int32_t length = (int32_t)s.n_kv;
    std::vector<int32_t> found((size_t)(Step::groups * k));
    std::vector<float> o((size_t)(s.n_heads * d) + 32);
    msa_plan plan;
    msa_arrays p = {};
    p.q = a.q, p.k = a.k, p.v = a.v, p.qi = a.qi, p.ki = a.ki, p.ids = found.data();
    p.o = (void *)(((uintptr_t)o.data() + 127) / 128 * 128);
    p.pages = {Step::pages, a.table.data(), &length, small ? a.ki8 : nullptr, small ? a.scale : nullptr, 0};
    bool ok = msa_plan_make(&plan, engine, "decode/swapped", &s, MSA_F32) == MSA_OK;
    void *work = engine->alloc(plan.workspace);
    ok = ok && msa_plan_run(&plan, &p, work, nullptr) == MSA_OK;
    engine->free(work);
    if (!ok)
        tap_note("%s", engine->trouble());
    for (int r = 0; r < Step::groups; r++)
        ok = ok && std::equal(ids[(size_t)r].begin(), ids[(size_t)r].end(), found.begin() + r * k);
    double worst = 0, size = 0;
    for (int h = 0; h < s.n_heads; h++) {
        const std::vector<double> expected = attention_to(a, h, ids[(size_t)(h / Step::group)]);
        for (int c = 0; c < d; c++) {
            worst = std::fmax(worst, std::fabs(((float *)p.o)[h * d + c] - expected[(size_t)c]));
            size = std::fmax(size, std::fabs(expected[(size_t)c]));
        }
    }
    tap(ok && worst <= 0x1p-7 * size,
        "decode/swapped at 2^20 tokens in pages, %s index keys: ids, and O to %.1e of %.1e",
        small ? "8-bit" : "bf16", worst, size);
}

static void judge_steps()
{
    std::mt19937 rng(5);
    Step a;
    if (!a.complete()) {
        tap_skip("a step at a million tokens", "this machine does not reserve that much address space");
        return;
    }
    fill_step(a, rng);
    std::vector<std::vector<int32_t>> ids;
    for (int r = 0; r < Step::groups; r++)
        ids.push_back(choose(a, r, rng));
    judge_step(a, ids, false);
    judge_step(a, ids, true);
}

static std::vector<const char *> chosen(std::vector<const char *> lower, const std::vector<const char *> &last)
{
    if (!tap_full())
        lower.clear();
    lower.insert(lower.end(), last.begin(), last.end());
    return lower;
}

int main()
{
    tokens = 4104, heads = 4096, block = 32;
    Tensors a = reserve_all(n_scores());
    if (!complete(a)) {
        tap_skip("tensors of more than 2^31 elements",
                 "this machine does not reserve that much address space");
        return tap_done();
    }
    fill(a);
    tap(tokens * heads * d > limit && n_scores() > limit, "%lld elements in Q, %lld scores",
        (long long)(tokens * heads * d), (long long)n_scores());
    for (const char *kernel : chosen({"dense/naive", "dense/tiled", "dense/tensor_core"}, {"dense/hopper"}))
        judge_output(kernel, a, false);
    for (const char *kernel : chosen({"sparse/naive", "sparse/q_outer"}, {"sparse/union"}))
        judge_output(kernel, a, true);
    const std::vector<double> m = block_scores(a);
    for (const char *kernel : chosen({"index/naive", "index/tiled"}, {"index/wgmma"}))
        judge_index(kernel, a, m);
    turn(a);
    for (const char *kernel :
         chosen({"topk/register_list", "topk/warp", "topk/heaps", "topk/staged", "topk/columns"},
                {"topk/threshold", "index/fused"}))
        judge_ids(kernel, a, m);

    if (!tap_full()) {
        tap_note("chunks of queries, and a prompt and a step of a million tokens come with FULL=1");
        return tap_done();
    }

    // KV-outer goes through its queries in chunks of 4096: here the ninth chunk has 8 of them. Its launches
    // are the last five, three of reverse, the partials and the combination.
    tokens = 8 * 4096 + 8, heads = 512, block = 128;
    a = reserve_all(1);
    if (complete(a)) {
        fill(a);
        judge_output("sparse/kv_outer", a, true, {5});
    } else {
        tap_skip("sparse/kv_outer", "this machine does not reserve that much address space");
    }

    // A whole prompt in one call, 8 tokens more than 2^20: its last rows see 8193 blocks, and are KV-outer's
    // 65th chunk. The index is the first launch, and leaves the ids for all that follow.
    tokens = (1 << 20) + 8, heads = 4, block = 128;
    a = reserve_all(1);
    if (complete(a)) {
        fill(a);
        judge_ids("index/fused", a, block_scores(a));
        judge_output("prefill/union", a, true, {0, true});
        judge_output("prefill/auto", a, true, {0, true});
        judge_output("prefill/kv_outer", a, true, {5});
    } else {
        tap_skip("a prompt of a million tokens", "this machine does not reserve that much address space");
    }
    judge_steps();
    return tap_done();
}
