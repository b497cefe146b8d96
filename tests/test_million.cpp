/**
 * @file test_million.cpp
 * @brief Index arithmetic at a million tokens: arrays of more than 2^31 elements, of which only the pages that
 *        a kernel's first and last thread blocks touch ever exist.
 *
 * 512 heads at 32,776 tokens need as many elements as 64 heads at 262,208, and every tensor, the scores too,
 * passes 2^31. The rows of the last query and head are judged against sums in double over the same arrays.
 */
#include "cuda/kernel.cuh"
#include "cuda/msa_cuda.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <sys/mman.h>
#include <vector>

extern "C" {
#include "tap.h"
}

constexpr int tokens = 32776, heads = 512, d = 128, block = 32, k = 4;
constexpr int64_t limit = INT64_C(1) << 31;
static const msa_shape shape = {tokens, tokens, heads, heads, d, d, block, k, 1, nullptr, nullptr};

/// Reserved and never touched as a whole: what nobody wrote reads as zero.
template <class T> static T *reserve(int64_t n)
{
    void *p = mmap(nullptr, (size_t)n * sizeof(T), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : (T *)p;
}

struct Arrays64 {
    uint16_t *q, *k, *v, *qi, *ki;
    float *o, *lse, *scores, *index_lse;
    int32_t *ids;
};

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

/// The last 64 queries and every 11th key of the last two heads, and all of the index keys.
static void fill(const Arrays64 &a)
{
    std::mt19937 rng(3);
    for (int h = heads - 2; h < heads; h++) {
        for (int64_t i = tokens - 64; i < tokens; i++) {
            draw(a.q + (i * heads + h) * d, d, rng);
            draw(a.qi + (i * heads + h) * d, d, rng);
        }
        for (int64_t j = tokens % 11; j < tokens; j += 11) {
            draw(a.k + (j * heads + h) * d, d, rng);
            draw(a.v + (j * heads + h) * d, d, rng);
        }
    }
    draw(a.ki, (int64_t)tokens * d, rng);
    for (int64_t r = 0; r < heads; r++) // the last k blocks, for the queries that a last chunk can hold
        for (int64_t i = tokens - 64; i < tokens; i++)
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

static std::vector<double> attention(const Arrays64 &a, int64_t first_key)
{
    const int64_t row = ((int64_t)tokens * heads - 1) * d;
    std::vector<double> x, o(d);
    double top = -INFINITY, sum = 0;
    for (int64_t j = first_key; j < tokens; j++) {
        x.push_back(dot(a.q + row, a.k + (j * heads + heads - 1) * d) / std::sqrt((double)d));
        top = std::max(top, x.back());
    }
    for (int64_t j = first_key; j < tokens; j++) {
        const double w = std::exp(x[(size_t)(j - first_key)] - top);
        sum += w;
        for (int c = 0; c < d; c++)
            o[(size_t)c] += w * value(a.v[(j * heads + heads - 1) * d + c]);
    }
    for (double &e : o)
        e /= sum;
    return o;
}

static std::vector<double> block_scores(const Arrays64 &a)
{
    const int64_t row = ((int64_t)tokens * heads - 1) * d;
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

/// Runs the kernel's first and last blocks: of every launch, or all blocks of the launches from the `whole`-th
/// last on. Two runs: the first only learns how many there are.
static bool run_ends(const char *kernel, const Arrays64 &a, uint64_t whole)
{
    const msa_device *engine = msa_engine();
    msa_plan plan;
    if (msa_plan_make(&plan, engine, kernel, &shape, MSA_F32) != MSA_OK)
        return false;
    const bool is_index = std::string(kernel).find("index/") == 0;
    const bool fused = std::string(kernel) == "index/fused";
    msa_arrays p = {};
    p.q = a.q, p.k = a.k, p.v = a.v, p.qi = a.qi, p.ki = a.ki, p.o = a.o, p.lse = a.lse;
    p.scores = is_index && fused ? nullptr : a.scores;
    p.ids = is_index && !fused ? nullptr : a.ids;
    p.index_lse = fused ? a.index_lse : nullptr;
    char *work = reserve<char>((int64_t)plan.workspace + 1);
    std::map<uint64_t, uint64_t> last; // block of each launch
    simt::options.only = [&](const char *, uint64_t launch, uint64_t b) {
        last[launch] = b;
        return false;
    };
    bool ok = msa_plan_run(&plan, &p, work, nullptr) == MSA_OK;
    simt::options.only = [&](const char *, uint64_t launch, uint64_t b) {
        return whole ? launch + whole >= last.size() : b < 2 || b + 2 > last[launch];
    };
    ok = ok && msa_plan_run(&plan, &p, work, nullptr) == MSA_OK;
    simt::options.only = nullptr;
    munmap(work, plan.workspace + 1);
    if (!ok)
        tap_note("%s", engine->trouble());
    return ok;
}

static void judge_output(const char *kernel, const Arrays64 &a, int64_t first_key, uint64_t whole)
{
    float *o = a.o + ((int64_t)tokens * heads - 1) * d;
    std::fill(o, o + d, 0.0f);
    const bool ran = run_ends(kernel, a, whole);
    const std::vector<double> expected = attention(a, first_key);
    double worst = 0, scale = 0;
    for (int c = 0; c < d; c++) {
        worst = std::max(worst, std::fabs((double)o[c] - expected[(size_t)c]));
        scale = std::max(scale, std::fabs(expected[(size_t)c]));
    }
    tap(ran && worst <= 0x1p-7 * scale, "%s: the last row of O, element %lld on, is right to %.1e of %.1e", kernel,
        (long long)(o - a.o), worst, scale);
}

static void judge_index(const char *kernel, const Arrays64 &a, const std::vector<double> &m)
{
    const bool ran = run_ends(kernel, a, 0);
    const float *row = a.scores + ((int64_t)heads * tokens - 1) * (int64_t)m.size();
    double worst = 0;
    for (size_t b = 0; b < m.size(); b++)
        worst = std::max(worst, std::fabs((double)row[b] - m[b]));
    tap(ran && worst < 1e-4, "%s: the last row of scores, element %lld on, is right to %.1e", kernel,
        (long long)(row - a.scores), worst);
}

static void judge_ids(const char *kernel, const Arrays64 &a, const std::vector<double> &m)
{
    int32_t *row = a.ids + ((int64_t)heads * tokens - 1) * k;
    std::fill(row, row + k, -7);
    const bool ran = run_ends(kernel, a, 0);
    const std::vector<int32_t> expected = best_blocks(m);
    tap(ran && std::equal(expected.begin(), expected.end(), row), "%s: the last row of ids is right", kernel);
}

int main()
{
    const int64_t n = (int64_t)tokens * heads * d, n_scores = (int64_t)heads * tokens * ceil_div(tokens, block);
    const Arrays64 a = {reserve<uint16_t>(n),        reserve<uint16_t>(n),
                        reserve<uint16_t>(n),        reserve<uint16_t>(n),
                        reserve<uint16_t>(n / heads), reserve<float>(n),
                        reserve<float>(n / d),       reserve<float>(n_scores),
                        reserve<float>(n / d),       reserve<int32_t>(n / d * k)};
    if (!a.q || !a.k || !a.v || !a.qi || !a.ki || !a.o || !a.lse || !a.scores || !a.index_lse || !a.ids) {
        tap_skip("tensors of more than 2^31 elements", "this machine does not reserve that much address space");
        return tap_done();
    }
    fill(a);
    tap(n > limit && n_scores > limit, "%lld elements in Q, %lld scores", (long long)n, (long long)n_scores);
    for (const char *kernel : {"dense/naive", "dense/tiled", "dense/tensor_core", "dense/hopper"})
        judge_output(kernel, a, 0, 0);
    for (const char *kernel : {"sparse/naive", "sparse/q_outer", "sparse/union"})
        judge_output(kernel, a, (int64_t)(tokens - 1) / block * block - (k - 1) * block, 0);
    // The last chunk's launches: three of reverse, partials, combination.
    judge_output("sparse/kv_outer", a, (int64_t)(tokens - 1) / block * block - (k - 1) * block, 5);
    const std::vector<double> m = block_scores(a);
    for (const char *kernel : {"index/naive", "index/tiled", "index/wgmma"})
        judge_index(kernel, a, m);
    for (const char *kernel : {"topk/register_list", "topk/warp", "topk/heaps"})
        judge_ids(kernel, a, m);
    judge_ids("index/fused", a, m);
    return tap_done();
}
