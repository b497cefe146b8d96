/**
 * @file test_prefill.cpp
 * @brief What the kernels of cuda/prefill promise a caller, bit for bit: a prompt in chunks behind their
 * prefix is the prompt in one call; a batch by cu_seqlens is its sequences one by one, empty ones too; auto
 * is the union or KV-outer, by what it finds on the device when it runs, so that a recorded run may be
 *        replayed; and no more workspace is touched than was asked for.
 *
 *     test_prefill [SEED]        on the engine
 *     test_prefill SEED cuda     on the GPU
 *
 * That the results are right is judged elsewhere (test_kernels.c).
 */
#include "cuda/prefill/prefill.cuh"

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

extern "C" {
#include "support/check.h"
}

using std::string;
using std::vector;

static const msa_device *device;
static const string both[] = {"prefill/union", "prefill/kv_outer"};
static const msa_shape sizes = {0, 0, 16, 2, 64, 64, 32, 3, 1, nullptr, nullptr, nullptr, nullptr};
constexpr size_t fence = 4096;

/* ---- Memory of the device, poisoned, and fenced behind its end ----------------------------------------- */

struct Buffer {
    size_t bytes;
    char *p;
    explicit Buffer(size_t bytes_) : bytes(bytes_), p((char *)device->alloc(bytes_ + fence))
    {
        poison();
    }
    Buffer(const Buffer &) = delete;
    ~Buffer()
    {
        device->free(p);
    }
    void poison() const
    {
        device->fill(p, 0xff, bytes + fence);
    }
    template <class T> void put(const vector<T> &x) const
    {
        device->upload(p, x.data(), x.size() * sizeof(T));
    }
    vector<char> get() const
    {
        vector<char> x(bytes + fence);
        device->download(x.data(), p, x.size());
        return x;
    }
};
static bool is_poison(vector<char>::const_iterator begin, vector<char>::const_iterator end)
{
    return std::all_of(begin, end, [](char c) { return c == (char)0xff; });
}

/* ---- A call -------------------------------------------------------------------------------------------- */

/// Queries q0 .. q0 + n_q - 1 and keys kv0 .. kv0 + n_kv - 1 of the tensors.
struct Piece {
    int64_t q0, n_q, kv0, n_kv;
};

/// What a call leaves, query after query, so that those of pieces line up.
struct Result {
    vector<char> o, lse, ids;
    bool sound = false; ///< it ran, wrote all there is to write, and nothing behind
    bool operator==(const Result &b) const
    {
        return sound && b.sound && o == b.o && lse == b.lse && ids == b.ids;
    }
};

/// Inputs of a whole text of `queries` and `keys`, on the device.
struct Text {
    int64_t queries, keys;
    Buffer q, k, v, qi, ki;
    static vector<uint16_t> draw(int64_t n, std::mt19937 &rng)
    {
        vector<uint16_t> x((size_t)n);
        for (uint16_t &e : x)
            e = __float2bfloat16_rn((float)(rng() % 4001) / 1000 - 2).bits;
        return x;
    }
    static size_t width(int heads)
    {
        return 2 * (size_t)(heads * sizes.d_head);
    }
    Text(int64_t queries_, int64_t keys_, std::mt19937 &rng)
        : queries(queries_), keys(keys_), q((size_t)queries_ * width(sizes.n_heads)),
          k((size_t)keys_ * width(sizes.n_kv_heads)), v(k.bytes),
          qi((size_t)queries_ * width(sizes.n_kv_heads)), ki((size_t)keys_ * width(1))
    {
        for (const Buffer *b : {&q, &k, &v, &qi, &ki})
            b->put(draw((int64_t)b->bytes / 2, rng));
    }
};

/// The arrays of a piece of the text, which start where each of its own starts.
static msa_arrays inputs_of(const Text &t, const Piece &a)
{
    auto at = [](const Buffer &b, int64_t row, int heads) {
        return (const uint16_t *)(b.p + (size_t)row * Text::width(heads));
    };
    msa_arrays x = {};
    x.q = at(t.q, a.q0, sizes.n_heads), x.qi = at(t.qi, a.q0, sizes.n_kv_heads);
    x.k = at(t.k, a.kv0, sizes.n_kv_heads), x.v = at(t.v, a.kv0, sizes.n_kv_heads), x.ki = at(t.ki, a.kv0, 1);
    return x;
}

/// Outputs and workspace of a plan.
struct Room {
    Buffer o, lse, ids, work;
    explicit Room(const msa_plan &plan)
        : o((size_t)plan.shape.n_q * Text::width(sizes.n_heads)),
          lse((size_t)(plan.shape.n_q * sizes.n_heads) * 4),
          ids((size_t)(plan.shape.n_q * sizes.n_kv_heads * sizes.topk) * 4), work(plan.workspace)
    {
    }
    void give(msa_arrays *a) const
    {
        a->o = o.p, a->lse = (float *)lse.p, a->ids = (int32_t *)ids.p;
    }
    void poison() const
    {
        for (const Buffer *b : {&o, &lse, &ids, &work})
            b->poison();
    }
    /// Ids are [group, query, slot] on the device, and [query, group, slot] in a result.
    Result look(bool ran) const
    {
        Result r = {o.get(), lse.get(), ids.get()};
        r.sound = ran;
        for (const Buffer *b : {&o, &lse, &ids, &work}) {
            const vector<char> x = b->get();
            r.sound = r.sound && is_poison(x.end() - (long)fence, x.end());
        }
        for (vector<char> *x : {&r.o, &r.lse, &r.ids})
            x->resize(x->size() - fence);
        for (size_t i = 0; i < r.o.size(); i += 2) // 0xffff is a NaN; ids may be -1
            r.sound = r.sound && !(r.o[i] == (char)0xff && r.o[i + 1] == (char)0xff);
        const size_t row = sizes.topk * 4, n = r.ids.size() / row / (size_t)sizes.n_kv_heads;
        vector<char> turned(r.ids.size());
        for (size_t i = 0; i < n; i++)
            for (size_t g = 0; g < (size_t)sizes.n_kv_heads; g++)
                memcpy(&turned[(i * (size_t)sizes.n_kv_heads + g) * row], &r.ids[(g * n + i) * row], row);
        r.ids = turned;
        return r;
    }
};

static Result run(const string &kernel, const Text &t, const Piece &a, int n_seqs = 1,
                  const int32_t *cu_q = nullptr, const int32_t *cu_kv = nullptr)
{
    msa_shape s = sizes;
    s.n_q = a.n_q, s.n_kv = a.n_kv, s.n_seqs = n_seqs, s.cu_q = cu_q, s.cu_kv = cu_kv;
    msa_plan plan;
    if (msa_plan_make(&plan, device, kernel.c_str(), &s, MSA_BF16) != MSA_OK)
        return {};
    const Room room(plan);
    msa_arrays x = inputs_of(t, a);
    room.give(&x);
    const bool ran = msa_plan_run(&plan, &x, room.work.p, nullptr) == MSA_OK;
    if (!ran)
        tap_note("%s: %s", kernel.c_str(), device->trouble());
    return room.look(ran);
}

/// Results one after the other.
static Result joined(const vector<Result> &parts)
{
    Result all;
    all.sound = true;
    for (const Result &r : parts) {
        all.o.insert(all.o.end(), r.o.begin(), r.o.end());
        all.lse.insert(all.lse.end(), r.lse.begin(), r.lse.end());
        all.ids.insert(all.ids.end(), r.ids.begin(), r.ids.end());
        all.sound = all.sound && r.sound;
    }
    return all;
}

/* ---- Pieces against the whole -------------------------------------------------------------------------- */

static vector<Result> run_each(const string &kernel, const Text &t, const vector<Piece> &pieces)
{
    vector<Result> parts;
    for (const Piece &a : pieces)
        parts.push_back(run(kernel, t, a));
    return parts;
}

static void chunks(std::mt19937 &rng)
{
    const int64_t n = 301, ends[] = {130, 131, 260, n}; // in the middle of blocks, tiles and eights
    const Text t(n, n, rng);
    vector<Piece> pieces;
    int64_t q0 = 0;
    for (int64_t end : ends) {
        pieces.push_back({q0, end - q0, 0, end});
        q0 = end;
    }
    const vector<Result> of_union = run_each(both[0], t, pieces), of_kv = run_each(both[1], t, pieces),
                         mine = run_each("prefill/auto", t, pieces);
    tap(run(both[0], t, {0, n, 0, n}) == joined(of_union),
        "prefill/union: a prompt in 4 chunks is the prompt in one call");
    tap(run(both[1], t, {0, n, 0, n}) == joined(of_kv),
        "prefill/kv_outer: a prompt in 4 chunks is the prompt in one call");
    bool either = true;
    int unions = 0;
    for (size_t i = 0; i < pieces.size(); i++) {
        either = either && (mine[i] == of_union[i] || mine[i] == of_kv[i]) && !(of_union[i] == of_kv[i]);
        unions += mine[i] == of_union[i];
    }
    tap(either && unions > 0 && unions < 4,
        "prefill/auto: every chunk chooses for itself, here the union for %d of 4 and KV-outer for the rest",
        unions);
}

static void batches(std::mt19937 &rng)
{
    // Whole prompts, one behind a prefix, empty ones in front, between and at the end, one query, a short
    // one.
    const int32_t cu_q[] = {0, 0, 97, 97, 98, 158, 171, 171}, cu_kv[] = {0, 0, 97, 140, 230, 400, 413, 413};
    const int n = 7;
    const Text t(cu_q[n], cu_kv[n], rng);
    vector<Piece> alone;
    for (int r = 0; r < n; r++)
        if (cu_q[r + 1] > cu_q[r])
            alone.push_back({cu_q[r], cu_q[r + 1] - cu_q[r], cu_kv[r], cu_kv[r + 1] - cu_kv[r]});
    for (const string &kernel : {both[0], both[1], string("prefill/auto")})
        tap(run(kernel, t, {0, cu_q[n], 0, cu_kv[n]}, n, cu_q, cu_kv) == joined(run_each(kernel, t, alone)),
            "%s: a batch of %d sequences, 3 of them without queries, is each of them alone", kernel.c_str(),
            n);
}

/* ---- A run that is replayed ---------------------------------------------------------------------------- */

constexpr int eights = 8; ///< of queries, each of which is a sample in either group

/// Selections in which the unions of the samples have `blocks` blocks together.
static vector<int32_t> selection(int64_t n_kv, int blocks)
{
    vector<int32_t> ids;
    for (int r = 0; r < sizes.n_kv_heads; r++)
        for (int i = 0; i < 8 * eights; i++) { // the local block, and two of this sample's others
            const int sample = r * eights + i / 8, n = eights * sizes.n_kv_heads,
                      others = blocks * (sample + 1) / n - blocks * sample / n - 1;
            const int first = std::min(i % 8 * 2, others - 2);
            ids.insert(ids.end(), {first, first + 1, (int32_t)((n_kv - 8 * eights + i) / sizes.block)});
        }
    return ids;
}

static void replays(std::mt19937 &rng)
{
    const int64_t n_q = 8 * eights, n_kv = 640;
    const Text t(n_q, n_kv, rng);
    msa_shape s = sizes;
    s.n_q = n_q, s.n_kv = n_kv;
    const int all_agree = eights * s.n_kv_heads * s.topk,
              limit = msa_tune_preset(device, MSA_TUNE_auto_crossing) * all_agree / 100;
    const int blocks[] = {all_agree, limit, limit + 1, all_agree}, times = 4;
    const Buffer instead(selection(n_kv, limit).size() * 4);
    auto results = [&](const string &kernel) {
        msa_plan plan;
        vector<Result> r;
        if (msa_plan_make(&plan, device, kernel.c_str(), &s, MSA_BF16) != MSA_OK)
            return r;
        const Room room(plan);
        msa_arrays x = inputs_of(t, {0, n_q, 0, n_kv});
        room.give(&x);
        x.forced_ids = (const int32_t *)instead.p;
        bool ok = device->record(0, &plan, &x, room.work.p) == MSA_OK;
        for (int i = 0; i < times && ok; i++) {
            room.poison();
            instead.put(selection(n_kv, blocks[i]));
            ok = device->replay(0) == MSA_OK;
            r.push_back(room.look(true));
        }
        r.resize(ok ? times : 0);
        return r;
    };
    const vector<Result> of_union = results(both[0]), of_kv = results(both[1]),
                         mine = results("prefill/auto");
    tap(mine.size() == times && of_union.size() == times && of_kv.size() == times,
        "all three are recorded once and replayed");
    for (size_t i = 0; i < mine.size(); i++) {
        const bool above = blocks[i] > limit;
        tap(mine[i] == (above ? of_kv : of_union)[i] && !(of_kv[i] == of_union[i]),
            "prefill/auto, replayed at union8 = %d / 16, k = %d: %s", blocks[i], s.topk,
            above ? "KV-outer" : "the union");
    }
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    device = msa_engine();
    if (argc > 2 && strcmp(argv[2], "cuda") == 0) {
#ifdef HAVE_CUDA
        device = msa_gpu();
        const char *why = device->missing();
#else
        const char *why = "built without nvcc: make cuda";
#endif
        if (why) {
            tap_skip("prefill on a GPU", why);
            return check_done();
        }
    }
    std::mt19937 rng((unsigned)check_seed(1));
    if (device == msa_engine())
        msa_engine_mode(2, 2, check_seed(2));
    chunks(rng);
    batches(rng);
    replays(rng);
    return check_done();
}
