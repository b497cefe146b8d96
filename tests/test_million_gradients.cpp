/**
 * @file test_million_gradients.cpp
 * @brief Gradients at a million tokens: arrays of more than 2^31 elements, keys far beyond the queries, and
 * the last of several chunks of queries, which has 8 of them.
 *
 * Only the pages that the last 8 queries and their blocks touch ever exist, and of each grid only the thread
 * blocks that work on the last group's. Its gradients are judged against sums in double.
 */
#include "cuda/kit/kernel.cuh"
#include "cuda/host/msa_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <sys/mman.h>
#include <vector>

extern "C" {
#include "support/tap.h"
}

using std::vector;

constexpr int last_queries = 8;

/// Zeros that take no memory until somebody writes them.
template <class T> static T *reserve(int64_t n)
{
    void *p = mmap(nullptr, (size_t)n * sizeof(T), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p != MAP_FAILED)
        madvise(p, (size_t)n * sizeof(T), MADV_NOHUGEPAGE); // a touched element shall cost a page of 4 KB
    return p == MAP_FAILED ? nullptr : (T *)p;
}

struct Problem {
    msa_shape s;
    uint16_t *q, *k, *v, *qi, *ki, *dout;
    float *o, *lse, *index_lse, *dq, *dk, *dv, *dqi, *dki;
    int32_t *ids;
    double *loss;
    int64_t first_key; ///< of the last queries' selection, which is the last topk blocks
    int group, last_group;
};

static int64_t q_row(const Problem &p, int64_t i, int h) ///< head h of the last group
{
    return i * p.s.n_heads + (int64_t)p.last_group * p.group + h;
}
static int64_t kv_row(const Problem &p, int64_t j)
{
    return j * p.s.n_kv_heads + p.last_group;
}
static int64_t qi_row(const Problem &p, int64_t i)
{
    return i * p.s.n_kv_heads + p.last_group;
}

static void draw(uint16_t *x, int64_t n, std::mt19937 &rng)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = __float2bfloat16_rn((float)(rng() % 2001) / 1000 - 1).bits;
}

static bool make(Problem &p, const msa_shape &s)
{
    std::mt19937 rng(6);
    const int64_t nq = s.n_q * s.n_heads, nk = s.n_kv * s.n_kv_heads, rows = s.n_q * s.n_kv_heads;
    const int d = s.d_head;
    p = {s,
         reserve<uint16_t>(nq * d),
         reserve<uint16_t>(nk * d),
         reserve<uint16_t>(nk * d),
         reserve<uint16_t>(rows * d),
         reserve<uint16_t>(s.n_kv * d),
         reserve<uint16_t>(nq * d),
         reserve<float>(nq * d),
         reserve<float>(nq),
         reserve<float>(rows),
         reserve<float>(nq * d),
         reserve<float>(nk * d),
         reserve<float>(nk * d),
         reserve<float>(rows * d),
         reserve<float>(s.n_kv * d),
         reserve<int32_t>(rows * s.topk),
         reserve<double>(1),
         ((s.n_kv - 1) / s.block - (s.topk - 1)) * s.block,
         s.n_heads / s.n_kv_heads,
         s.n_kv_heads - 1};
    for (const void *x : {(void *)p.q, (void *)p.k, (void *)p.v, (void *)p.qi, (void *)p.ki, (void *)p.dout,
                          (void *)p.o, (void *)p.lse, (void *)p.index_lse, (void *)p.dq, (void *)p.dk,
                          (void *)p.dv, (void *)p.dqi, (void *)p.dki, (void *)p.ids, (void *)p.loss})
        if (!x)
            return false;
    for (int64_t i = s.n_q - last_queries; i < s.n_q; i++) {
        for (int h = 0; h < p.group; h++) {
            draw(p.q + q_row(p, i, h) * d, d, rng);
            draw(p.dout + q_row(p, i, h) * d, d, rng);
        }
        draw(p.qi + qi_row(p, i) * d, d, rng);
        for (int64_t r = 0; r < s.n_kv_heads; r++)
            for (int slot = 0; slot < s.topk; slot++)
                p.ids[(r * s.n_q + i) * s.topk + slot] = (int32_t)(p.first_key / s.block) + slot;
    }
    for (int64_t j = p.first_key; j < s.n_kv; j++) {
        draw(p.k + kv_row(p, j) * d, d, rng);
        draw(p.v + kv_row(p, j) * d, d, rng);
        draw(p.ki + j * d, d, rng);
    }
    return true;
}

/* ---- Expected ------------------------------------------------------------------------------------------ */

struct Gradients {
    vector<double> dq, dk, dv, dqi,
        dki; ///< of the last queries, and of the selection's keys, in the last group
    double loss;
};

static double value(uint16_t bits)
{
    return (double)__bfloat162float({bits});
}
static double dot(const uint16_t *x, const uint16_t *y, int d)
{
    double sum = 0;
    for (int c = 0; c < d; c++)
        sum += value(x[c]) * value(y[c]);
    return sum;
}
static void axpy(double a, const uint16_t *x, double *y, int d)
{
    for (int c = 0; c < d; c++)
        y[c] += a * value(x[c]);
}

/// Turns logits into softmax; returns their log-sum-exp.
static double softmax(vector<double> &x)
{
    const double top = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double e : x)
        sum += std::exp(e - top);
    const double lse = top + std::log(sum);
    for (double &e : x)
        e = std::exp(e - lse);
    return lse;
}

/// The last queries' gradients; leaves O and the log-sum-exps that kernels are given.
static Gradients expected(Problem &p)
{
    const msa_shape &s = p.s;
    const int d = s.d_head;
    const int64_t keys = s.n_kv - p.first_key;
    const double share = 1 / ((double)s.n_q * s.n_kv_heads), root = std::sqrt((double)d);
    Gradients g = {vector<double>((size_t)(last_queries * p.group * d)),
                   vector<double>((size_t)(keys * d)),
                   vector<double>((size_t)(keys * d)),
                   vector<double>((size_t)(last_queries * d)),
                   vector<double>((size_t)(keys * d)),
                   0};
    for (int n = 0; n < last_queries; n++) {
        const int64_t i = s.n_q - last_queries + n, seen = s.n_kv - s.n_q + i + 1 - p.first_key;
        vector<double> t((size_t)seen), u((size_t)seen), w((size_t)seen);
        for (int h = 0; h < p.group; h++) {
            const uint16_t *q = p.q + q_row(p, i, h) * d, *dout = p.dout + q_row(p, i, h) * d;
            double delta = 0;
            for (int64_t j = 0; j < seen; j++)
                w[(size_t)j] = dot(q, p.k + kv_row(p, p.first_key + j) * d, d) / root;
            p.lse[q_row(p, i, h)] = (float)softmax(w);
            vector<double> o((size_t)d), dp((size_t)seen);
            for (int64_t j = 0; j < seen; j++) {
                const uint16_t *v = p.v + kv_row(p, p.first_key + j) * d;
                axpy(w[(size_t)j], v, o.data(), d);
                dp[(size_t)j] = dot(dout, v, d);
                delta += w[(size_t)j] * dp[(size_t)j];
                t[(size_t)j] += w[(size_t)j] / p.group;
            }
            for (int c = 0; c < d; c++)
                p.o[q_row(p, i, h) * d + c] = (float)o[(size_t)c];
            for (int64_t j = 0; j < seen; j++) {
                const double ds = w[(size_t)j] * (dp[(size_t)j] - delta) / root;
                axpy(ds, p.k + kv_row(p, p.first_key + j) * d, &g.dq[(size_t)((n * p.group + h) * d)], d);
                axpy(ds, q, &g.dk[(size_t)(j * d)], d);
                axpy(w[(size_t)j], dout, &g.dv[(size_t)(j * d)], d);
            }
        }
        const uint16_t *qi = p.qi + qi_row(p, i) * d;
        for (int64_t j = 0; j < seen; j++)
            u[(size_t)j] = dot(qi, p.ki + (p.first_key + j) * d, d) / root;
        p.index_lse[(int64_t)p.last_group * s.n_q + i] = (float)softmax(u);
        for (int64_t j = 0; j < seen; j++) {
            const double x = (u[(size_t)j] - t[(size_t)j]) * share / root;
            g.loss += t[(size_t)j] * std::log(t[(size_t)j] / u[(size_t)j]) * share;
            axpy(x, p.ki + (p.first_key + j) * d, &g.dqi[(size_t)(n * d)], d);
            axpy(x, qi, &g.dki[(size_t)(j * d)], d);
        }
    }
    return g;
}

/* ---- Running the ends of the grids --------------------------------------------------------------------- */

static bool is(const char *kernel, const char *name)
{
    return strstr(kernel, name) != nullptr;
}

/// Whether a CTA works on what is judged, in a launch that does.
static bool matters(const Problem &p, const char *kernel, uint64_t b, dim3 grid)
{
    const uint64_t x = b % grid.x, y = b / grid.x, items = (uint64_t)p.s.n_kv_heads * (uint64_t)p.s.topk,
                   blocks = (uint64_t)msa_n_blocks(&p.s);
    if (is(kernel, "clear"))
        return false;        // zeros are there
    if (is(kernel, "sweep")) // the last group's items, the end of the list and that of its room
        return (x + (uint64_t)p.s.topk >= items && x < items + 2) || x + 2 >= grid.x;
    if (is(kernel, "merge"))
        return y + 1 == grid.y && x + 8 >= grid.x;
    if (is(kernel, "index_keys"))
        return (x + (uint64_t)p.s.topk >= blocks && x < blocks) || x + 2 >= grid.x;
    return true;
}

/// Two runs: the first only learns which launches are the last chunk's.
static bool run_ends(const char *kernel, const Problem &p, uint64_t *chunks)
{
    const msa_device *engine = msa_engine();
    msa_plan plan;
    if (msa_plan_make(&plan, engine, kernel, &p.s, MSA_F32) != MSA_OK)
        return false;
    msa_arrays a = {};
    a.q = p.q, a.k = p.k, a.v = p.v, a.qi = p.qi, a.ki = p.ki, a.dout = p.dout, a.o = p.o, a.lse = p.lse;
    a.index_lse = p.index_lse, a.ids = p.ids, a.dq = p.dq, a.dk = p.dk, a.dv = p.dv;
    a.dqi = p.dqi, a.dki = p.dki, a.loss = p.loss, a.weight = 1;
    char *work = reserve<char>((int64_t)plan.workspace + 1);
    uint64_t start = 0;
    *chunks = 0;
    simt::options.only = [&](const char *name, uint64_t launch, uint64_t b, dim3) {
        if (b == 0 && is(name, "count")) { // the first of reverse, with which a chunk begins
            start = launch;
            ++*chunks;
        }
        return false;
    };
    bool ok = msa_plan_run(&plan, &a, work, nullptr) == MSA_OK;
    simt::options.only = [&](const char *name, uint64_t launch, uint64_t b, dim3 grid) {
        return launch >= start && matters(p, name, b, grid);
    };
    ok = ok && msa_plan_run(&plan, &a, work, nullptr) == MSA_OK;
    simt::options.only = nullptr;
    munmap(work, plan.workspace + 1);
    if (!ok)
        tap_note("%s", engine->trouble());
    return ok;
}

/// Rows of `found` against those of `expected`, by the scale of all of them.
static void near(const char *kernel, const char *what, const vector<double> &expected, const float *found,
                 int64_t rows_apart, int d, int64_t per_row = 1)
{
    double worst = 0, scale = 0;
    for (size_t a = 0; a < expected.size(); a++) {
        const int64_t row = (int64_t)a / d;
        const double x = (double)found[(row / per_row * rows_apart + row % per_row) * d + (int64_t)a % d];
        worst = std::fmax(worst, std::isnan(x) ? INFINITY : std::fabs(x - expected[a]));
        scale = std::fmax(scale, std::fabs(expected[a]));
    }
    tap(worst <= 0x1p-7 * scale, "%s: %s is right to %.1e of %.1e", kernel, what, worst, scale);
}

static void judge(const msa_shape &s, uint64_t least_chunks)
{
    Problem p;
    if (!make(p, s)) {
        tap_skip("gradients of more than 2^31 elements",
                 "this machine does not reserve that much address space");
        return;
    }
    const Gradients g = expected(p);
    const int d = s.d_head;
    const int64_t i = s.n_q - last_queries;
    tap_note("T=%lld S=%lld heads=%d:%d: %lld elements in dQ, %lld in dK", (long long)s.n_q,
             (long long)s.n_kv, s.n_heads, s.n_kv_heads, (long long)(s.n_q * s.n_heads * d),
             (long long)(s.n_kv * s.n_kv_heads * d));
    for (const char *kernel : {"backward/kv_outer", "backward/hopper", "backward/deterministic"}) {
        uint64_t chunks;
        float *const rows[] = {p.dq + q_row(p, i, 0) * d, p.dk + kv_row(p, p.first_key) * d,
                               p.dv + kv_row(p, p.first_key) * d, p.dqi + qi_row(p, i) * d,
                               p.dki + p.first_key * d};
        for (int64_t n = 0; n < last_queries * p.group; n++)
            std::fill_n(p.dq + q_row(p, i + n / p.group, (int)(n % p.group)) * d, d, 0.0f);
        for (int64_t n = 0; n < last_queries; n++)
            std::fill_n(p.dqi + qi_row(p, i + n) * d, d, 0.0f);
        for (int64_t j = p.first_key; j < s.n_kv; j++) {
            std::fill_n(p.dk + kv_row(p, j) * d, d, 0.0f);
            std::fill_n(p.dv + kv_row(p, j) * d, d, 0.0f);
            std::fill_n(p.dki + j * d, d, 0.0f);
        }
        *p.loss = 0;
        const bool ran = run_ends(kernel, p, &chunks);
        tap(ran && chunks >= least_chunks, "%s with kl runs, the last of %d chunks", kernel, (int)chunks);
        near(kernel, "dQ", g.dq, rows[0], s.n_heads, d, p.group);
        near(kernel, "dK", g.dk, rows[1], s.n_kv_heads, d);
        near(kernel, "dV", g.dv, rows[2], s.n_kv_heads, d);
        near(kernel, "dQi", g.dqi, rows[3], s.n_kv_heads, d);
        near(kernel, "dKi", g.dki, rows[4], 1, d);
        tap(std::fabs(*p.loss - g.loss) <= 1e-4 * g.loss, "%s: the loss is %.6g, expected %.6g", kernel,
            *p.loss, g.loss);
    }
}

int main()
{
    // As many elements as MiniMax-M3's heads have in half a million tokens; one query past 8 full chunks...
    // of whatever length fits: a power of two. With FULL=1.
    if (tap_full())
        judge({65536 + last_queries, 65536 + last_queries, 264, 264, 128, 128, 128, 4, 1, nullptr, nullptr, nullptr, nullptr}, 2);
    // 2^20 keys, of which the last 8 are queries.
    judge({last_queries, 1 << 20, 8, 2, 64, 64, 128, 4, 1, nullptr, nullptr, nullptr, nullptr}, 1);
    return tap_done();
}
