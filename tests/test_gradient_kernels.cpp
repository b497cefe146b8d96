/**
 * @file test_gradient_kernels.cpp
 * @brief What the gradients of cuda/backward and cuda/kl promise beyond agreement with the reference:
 * deterministic kernels leave equal bits in every order of threads and timing of copies; the sweep that does
 * the work of kl too leaves what both leave apart; keys that nobody chose have a gradient of exactly 0, in
 * however many chunks the queries come; scratch never grows with the square of a length.
 */
#include "cuda/kit/kernel.cuh"
#include "cuda/host/msa_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

extern "C" {
#include "support/tap.h"
}

using std::vector;

/// 128-byte aligned, as the library asks for.
template <class T> struct Array {
    vector<T> room;
    int64_t n;
    explicit Array(int64_t count = 0) : room((size_t)count + 128), n(count)
    {
    }
    T *data()
    {
        return (T *)(((uintptr_t)room.data() + 127) / 128 * 128);
    }
};

struct Problem {
    msa_shape s;
    Array<uint16_t> q, k, v, qi, ki, dout;
    Array<int32_t> ids;
    Array<float> o, lse, index_lse;
    bool full; ///< every visible key, and no ids
};

static Array<uint16_t> draw(int64_t n, std::mt19937 &rng)
{
    Array<uint16_t> x(n);
    for (int64_t i = 0; i < n; i++)
        x.data()[i] = __float2bfloat16_rn((float)(rng() % 2001) / 500 - 2).bits;
    return x;
}

static vector<float> widened(Array<uint16_t> &x)
{
    vector<float> y((size_t)x.n);
    for (int64_t i = 0; i < x.n; i++)
        y[(size_t)i] = __bfloat162float({x.data()[i]});
    return y;
}

/// Every query takes its local block and, at random, others that are no multiple of `never` but not 0.
static void choose(Problem &p, int never, std::mt19937 &rng)
{
    const msa_shape &s = p.s;
    p.ids = Array<int32_t>(s.n_kv_heads * s.n_q * s.topk);
    for (int r = 0; r < s.n_kv_heads; r++)
        for (int64_t i = 0; i < s.n_q; i++) {
            int32_t *row = p.ids.data() + (r * s.n_q + i) * s.topk;
            const int local = (int)((s.n_kv - s.n_q + i) / s.block);
            int n = 0;
            for (int b = 0; b < local && n < s.topk - 1; b++)
                if (b == 0 || (b % never != 0 && rng() % 2))
                    row[n++] = b;
            row[n++] = local;
            for (; n < s.topk; n++)
                row[n] = -1;
        }
}

static Problem make(const msa_shape &s, bool full, std::mt19937 &rng)
{
    Problem p;
    const int64_t n = s.n_q * s.n_heads * s.d_head, nk = s.n_kv * s.n_kv_heads * s.d_head;
    p.s = s;
    p.q = draw(n, rng), p.k = draw(nk, rng), p.v = draw(nk, rng), p.dout = draw(n, rng);
    p.qi = draw(s.n_q * s.n_kv_heads * s.d_index, rng), p.ki = draw(s.n_kv * s.d_index, rng);
    choose(p, 3, rng);
    p.o = Array<float>(n), p.lse = Array<float>(n / s.d_head),
    p.index_lse = Array<float>(s.n_kv_heads * s.n_q);
    vector<char> work(msa_workspace(&msa_ref_ops, &s));
    p.full = full;
    if (full)
        msa_dense(&s, widened(p.q).data(), widened(p.k).data(), widened(p.v).data(), p.o.data(), p.lse.data(),
                  work.data());
    else
        msa_sparse(&s, widened(p.q).data(), widened(p.k).data(), widened(p.v).data(), p.ids.data(),
                   p.o.data(), p.lse.data(), work.data());
    msa_index_lse(&s, widened(p.qi).data(), widened(p.ki).data(), full ? nullptr : p.ids.data(),
                  p.index_lse.data());
    return p;
}

/// What a kernel left; NaN where it left nothing.
struct Found {
    bool ok;
    int64_t launches;
    vector<float> dq, dk, dv, dqi, dki;
    double loss;
};

static vector<float> copy(Array<float> &x)
{
    return vector<float>(x.data(), x.data() + x.n);
}
static Array<float> poisoned(int64_t n)
{
    Array<float> x(n);
    std::fill(x.data(), x.data() + n, NAN);
    return x;
}

static Found run(Problem &p, const char *kernel, bool main, bool kl)
{
    const msa_shape &s = p.s;
    const msa_device *engine = msa_engine();
    Array<float> dq = poisoned(s.n_q * s.n_heads * s.d_head), dk = poisoned(s.n_kv * s.n_kv_heads * s.d_head),
                 dv = dk, dqi = poisoned(s.n_q * s.n_kv_heads * s.d_index),
                 dki = poisoned(s.n_kv * s.d_index);
    Array<double> loss(1);
    msa_arrays a = {};
    a.q = p.q.data(), a.k = p.k.data(), a.ids = p.full ? nullptr : p.ids.data(), a.lse = p.lse.data();
    if (main) {
        a.v = p.v.data(), a.o = p.o.data(), a.dout = p.dout.data();
        a.dq = dq.data(), a.dk = dk.data(), a.dv = dv.data();
    }
    if (kl) {
        a.qi = p.qi.data(), a.ki = p.ki.data();
        a.index_lse = p.full ? nullptr : p.index_lse.data(); // which the kernel then makes itself
        a.dqi = dqi.data(), a.dki = dki.data(), a.loss = loss.data(), a.weight = 0.75;
    }
    msa_plan plan;
    Found f = {};
    if (msa_plan_make(&plan, engine, kernel, &s, MSA_F32) != MSA_OK)
        return f;
    void *work = engine->alloc(plan.workspace);
    engine->fill(work, 0xff, plan.workspace);
    f.ok = msa_plan_run(&plan, &a, work, nullptr) == MSA_OK;
    if (!f.ok)
        tap_note("%s: %s", kernel, engine->trouble());
    engine->free(work);
    f.launches = (int64_t)simt::counters.launches;
    f.dq = copy(dq), f.dk = copy(dk), f.dv = copy(dv), f.dqi = copy(dqi), f.dki = copy(dki);
    f.loss = *loss.data();
    return f;
}

static bool same(const vector<float> &a, const vector<float> &b)
{
    return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

static void equal_bits(Problem &p, const char *kernel, bool main, bool kl, int runs)
{
    Found first = {};
    int different = 0, made = 0;
    for (int mode = 0; mode < runs; mode += tap_full() ? 1 : 5) { // 0, 5, 10, 15: every order, every timing
        msa_engine_mode(mode % 4, mode / 4 % 3, (uint64_t)mode);
        msa_engine_resident(mode % 4 == 1 ? 16 : 1); // or the order of CTAs is only the host threads'
        const Found f = run(p, kernel, main, kl);
        made++;
        if (mode == 0)
            first = f;
        const bool attention = same(f.dq, first.dq) && same(f.dk, first.dk) && same(f.dv, first.dv);
        const bool index = same(f.dqi, first.dqi) && same(f.dki, first.dki) && f.loss == first.loss;
        different += !f.ok || (main && !attention) || (kl && !index); // what is no output is not written
    }
    msa_engine_resident(1);
    tap(different == 0, "%s%s%s: equal bits in %d runs of several orders and timings", kernel,
        main && kl ? " with kl" : "", p.full ? ", full support" : "", made);
}

/// Whether all differ by little of the largest.
static bool close(const vector<float> &a, const vector<float> &b)
{
    double worst = 0, scale = 0;
    for (size_t i = 0; i < a.size(); i++) {
        worst = std::fmax(worst, std::isnan(a[i] - b[i]) ? INFINITY : std::fabs((double)a[i] - (double)b[i]));
        scale = std::fmax(scale, std::fabs((double)a[i]));
    }
    return worst <= 1e-5 * scale;
}

/// The same but for few rows. u - t is a factor of dQi and dKi, rounded to bf16; where its last float32 bit, which
/// depends on the order of a sum, decides that rounding, a row of each is off by 2^-8 of one of its terms.
static bool close_but_for_roundings(const vector<float> &a, const vector<float> &b, int width)
{
    double scale = 0;
    for (float x : a)
        scale = std::fmax(scale, std::fabs((double)x));
    size_t rows = 0;
    for (size_t i = 0; i < a.size(); i += (size_t)width) {
        double worst = 0;
        for (size_t c = i; c < i + (size_t)width; c++)
            worst =
                std::fmax(worst, std::isnan(a[c] - b[c]) ? INFINITY : std::fabs((double)a[c] - (double)b[c]));
        if (worst > 0x1p-8 * scale)
            return false;
        rows += worst > 1e-5 * scale;
    }
    return rows * 50 <= a.size() / (size_t)width;
}

/// The sweep by wgmma against the one by mma.sync, whose products are the same, in all orders and timings.
static void same_as_mma(Problem &p, const char *kernel)
{
    const Found by_mma = run(p, "backward/kv_outer", true, true);
    bool ok = by_mma.ok;
    for (int mode = 0; mode < 9; mode += tap_full() ? 1 : 4) {
        msa_engine_mode(mode % 3, mode / 3, (uint64_t)mode);
        const Found f = run(p, kernel, true, true);
        ok = ok && f.ok && close(by_mma.dq, f.dq) && close(by_mma.dk, f.dk) && close(by_mma.dv, f.dv) &&
             close_but_for_roundings(by_mma.dqi, f.dqi, p.s.d_index) &&
             close_but_for_roundings(by_mma.dki, f.dki, p.s.d_index) &&
             std::fabs(by_mma.loss - f.loss) <= 1e-6 * std::fabs(by_mma.loss);
    }
    tap(ok, "%s with kl%s: the gradients of backward/kv_outer, in all orders and timings", kernel,
        p.full ? ", full support" : "");
}

/// Of a block with several items of a group, dKi is the items' work: its owner may as well not run.
static void spread(Problem &p, const char *kernel)
{
    const Found whole = run(p, kernel, false, true);
    const uint64_t owners = (uint64_t)msa_n_blocks(&p.s);
    simt::options.only = [owners](const char *name, uint64_t, uint64_t block, dim3) {
        return !strstr(name, "index_keys") || strstr(name, "merge") || block >= owners;
    };
    const Found items = run(p, kernel, false, true);
    simt::options.only = nullptr;
    const auto end = (ptrdiff_t)(p.s.block * p.s.d_index);
    tap(whole.ok && items.ok && std::equal(whole.dki.begin(), whole.dki.begin() + end, items.dki.begin()) &&
            !std::equal(whole.dki.begin() + end, whole.dki.end(), items.dki.begin() + end),
        "%s: the items of a block that all queries chose make its dKi", kernel);
}

/// Queries in chunks of 29 instead of all at once: other orders of addition, and so other last bits.
static void chunks(Problem &p, const char *kernel)
{
    const Found whole = run(p, kernel, true, true);
    msa_tune(msa_engine(), MSA_TUNE_sweep_chunk, 29);
    const Found parts = run(p, kernel, true, true), again = run(p, kernel, true, true);
    msa_tune(msa_engine(), MSA_TUNE_sweep_chunk, 32768);
    const bool near = close(whole.dq, parts.dq) && close(whole.dk, parts.dk) && close(whole.dv, parts.dv) &&
                      close(whole.dqi, parts.dqi) && close(whole.dki, parts.dki) &&
                      std::fabs(whole.loss - parts.loss) <= 1e-6 * std::fabs(whole.loss);
    tap(whole.ok && parts.ok && parts.launches >= whole.launches + 2 * 7 && near,
        "%s%s: in chunks of 29 queries (%lld launches) as in one (%lld)", kernel,
        p.full ? ", full support" : "", (long long)parts.launches, (long long)whole.launches);
    tap(same(parts.dq, again.dq) && same(parts.dk, again.dk) && same(parts.dv, again.dv) &&
            same(parts.dqi, again.dqi) && same(parts.dki, again.dki) && parts.loss == again.loss,
        "... and equal bits once more");
}

/// At MiniMax-M3's sizes: 8 GB for a chunk, and beyond that no more than a few bytes a query, head or block.
static void scratch()
{
    for (const char *kernel :
         {"backward/kv_outer", "backward/hopper", "backward/deterministic", "dense_backward/kv_outer",
          "dense_backward/hopper", "kl/kv_outer", "kl/deterministic"}) {
        double most = 0;
        bool ok = true;
        for (int64_t n = 1 << 13; n <= 1 << 20; n *= 2) {
            const msa_shape s = {n, n, 64, 4, 128, 128, 128, 16, 1, nullptr, nullptr, nullptr, nullptr};
            msa_plan plan;
            ok = ok && msa_plan_make(&plan, msa_engine(), kernel, &s, MSA_BF16) == MSA_OK;
            most = std::fmax(most, ok ? (double)plan.workspace : 0);
        }
        tap(ok && most <= 0x1p33, "%s: at most %.2f GB of scratch up to 2^20 tokens, with full support too",
            kernel, most / 1e9);
    }
}

static void one_sweep(Problem &p)
{
    const Found both = run(p, "backward/deterministic", true, true);
    const Found main = run(p, "backward/deterministic", true, false),
                kl = run(p, "kl/deterministic", false, true);
    tap(both.ok && main.ok && kl.ok && same(both.dq, main.dq) && same(both.dk, main.dk) &&
            same(both.dv, main.dv),
        "one sweep for both leaves the gradients of attention that its own leaves");
    tap(same(both.dqi, kl.dqi) && same(both.dki, kl.dki) && both.loss == kl.loss && std::isfinite(both.loss),
        "and those of the index, and the loss");
}

/// Blocks 3, 6, 9, ... are nobody's but as a local block.
static void zeros(Problem &p, const char *kernel, bool kl)
{
    const msa_shape &s = p.s;
    const Found f = run(p, kernel, !kl, kl);
    int64_t wrong = 0, unchosen = 0, n = 0;
    for (int64_t b = 0; b < msa_n_blocks(&s); b++) {
        bool chosen = false;
        for (int64_t a = 0; a < p.ids.n; a++)
            chosen = chosen || p.ids.data()[a] == b;
        unchosen += !chosen;
        for (int64_t j = b * s.block; j < std::min<int64_t>(s.n_kv, (b + 1) * s.block) && !chosen; j++, n++) {
            const int64_t main_width = (int64_t)s.n_kv_heads * s.d_head;
            for (int64_t c = 0; c < main_width && !kl; c++)
                wrong += f.dk[(size_t)(j * main_width + c)] != 0 || f.dv[(size_t)(j * main_width + c)] != 0;
            for (int64_t c = 0; c < s.d_index && kl; c++)
                wrong += f.dki[(size_t)(j * s.d_index + c)] != 0;
        }
    }
    tap(f.ok && unchosen > 0 && wrong == 0,
        "%s: exactly 0 for the %lld keys of %lld blocks that nobody chose", kernel, (long long)n,
        (long long)unchosen);
}

int main()
{
    std::mt19937 rng(11);
    // Block 0 is everybody's: two items of 192 queries at most, so that dK and dV, and dKi, are merged.
    Problem hot = make({200, 330, 3, 1, 64, 64, 32, 3, 1, nullptr, nullptr, nullptr, nullptr}, false, rng);
    Problem two = make({70, 330, 6, 2, 64, 64, 32, 3, 1, nullptr, nullptr, nullptr, nullptr}, false, rng);
    Problem all = make({70, 150, 6, 2, 64, 64, 32, 3, 1, nullptr, nullptr, nullptr, nullptr}, true, rng);
    // Blocks that wgmma takes, with one warpgroup and with two.
    Problem hotter = make({300, 330, 3, 1, 64, 64, 64, 2, 1, nullptr, nullptr, nullptr, nullptr}, false, rng);
    Problem narrow = make({70, 330, 6, 2, 64, 64, 64, 3, 1, nullptr, nullptr, nullptr, nullptr}, false, rng);
    Problem wide = make({150, 700, 4, 1, 128, 128, 128, 2, 1, nullptr, nullptr, nullptr, nullptr}, false, rng);
    Problem sixteen =
        make({40, 200, 16, 1, 64, 64, 64, 2, 1, nullptr, nullptr, nullptr, nullptr}, false, rng);
    Problem whole = make({40, 300, 6, 2, 64, 64, 128, 3, 1, nullptr, nullptr, nullptr, nullptr}, true, rng);
    equal_bits(hot, "backward/deterministic", true, true, 20);
    equal_bits(hot, "backward/deterministic", true, false, 9);
    equal_bits(two, "kl/deterministic", false, true, 20);
    equal_bits(all, "backward/deterministic", true, true, 9);
    equal_bits(hotter, "backward/deterministic", true, true, 20);
    equal_bits(wide, "backward/deterministic", true, true, 20);
    equal_bits(whole, "backward/deterministic", true, true, 9);
    one_sweep(two);
    one_sweep(all);
    chunks(hot, "backward/deterministic");
    chunks(all, "backward/deterministic");
    chunks(hotter, "backward/hopper");
    same_as_mma(hotter, "backward/hopper");
    same_as_mma(wide, "backward/hopper");
    same_as_mma(sixteen, "backward/hopper");
    same_as_mma(whole, "backward/hopper");
    spread(hot, "kl/kv_outer");
    scratch();
    for (const char *kernel :
         {"backward/naive", "backward/q_outer", "backward/kv_outer", "backward/deterministic"})
        zeros(two, kernel, false);
    for (const char *kernel : {"backward/hopper", "backward/deterministic"}) {
        zeros(narrow, kernel, false);
        zeros(wide, kernel, false);
    }
    for (const char *kernel : {"kl/naive", "kl/kv_outer", "kl/deterministic"})
        zeros(two, kernel, true);
    msa_tune(msa_engine(), MSA_TUNE_sweep_chunk, 29);
    zeros(two, "backward/kv_outer", false);
    zeros(two, "kl/kv_outer", true);
    return tap_done();
}
