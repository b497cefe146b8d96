/**
 * @file race_kernels.cpp
 * @brief Every kernel of cuda/ under ThreadSanitizer, for `make test-race`: the Makefile compiles the kernels
 *        with it and the engine without (cuda/simt/tsan.h says why). The results are judged elsewhere.
 *
 * Races of plain accesses between threads of a block are reported with both places and end the program with
 * an error. Orders and timings change from run to run. Arguments are parts of the names of those that run.
 */
#include "cuda/host/msa_cuda.h"
#include "cuda/kit/kernel.cuh"

#include <random>
#include <string>
#include <vector>

extern "C" {
#include "../support/tap.h"
}

static const char *const kernels[] = {
#define KERNEL(stage, name, sm, precision, takes, idea) #stage "/" #name,
#include "cuda/kernels.def"
#undef KERNEL
};

static const msa_device *const engine = msa_engine();

template <class T> static T *take(int64_t n)
{
    return (T *)engine->alloc((size_t)n * sizeof(T));
}

static uint16_t *draw(int64_t n, std::mt19937 &rng)
{
    uint16_t *x = take<uint16_t>(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = __float2bfloat16_rn((float)(rng() % 2001) / 500 - 2).bits;
    return x;
}

/// Inputs of every stage; ids are the last blocks.
static msa_arrays inputs(const msa_shape &s, std::mt19937 &rng)
{
    msa_arrays a = {};
    const int64_t n = s.n_q * s.n_heads * s.d_head, nk = s.n_kv * s.n_kv_heads * s.d_head;
    const int64_t rows = s.n_q * s.n_kv_heads, n_blocks = msa_n_blocks(&s);
    a.q = draw(n, rng), a.k = draw(nk, rng), a.v = draw(nk, rng);
    a.qi = draw(rows * s.d_index, rng), a.ki = draw(s.n_kv * s.d_index, rng);
    float *scores = take<float>(rows * n_blocks), *index_lse = take<float>(rows), *o = take<float>(n),
          *lse = take<float>(s.n_q * s.n_heads);
    int32_t *ids = take<int32_t>(rows * s.topk);
    a.scores = scores, a.ids = ids, a.index_lse = index_lse, a.o = o, a.lse = lse;
    for (int64_t i = 0; i < rows * n_blocks; i++)
        scores[i] = (float)(rng() % 1000);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t local = (s.n_kv - s.n_q + row % s.n_q) / s.block;
        const int64_t kept = local + 1 < s.topk ? local + 1 : s.topk;
        for (int slot = 0; slot < s.topk; slot++)
            ids[row * s.topk + slot] = slot < kept ? (int32_t)(local + 1 - kept + slot) : -1;
    }
    a.first = take<int32_t>(s.n_kv_heads * (n_blocks + 1));
    a.entries = take<uint32_t>(rows * s.topk);
    a.items = take<msa_item>(msa_first_item(&s, 1));
    for (int64_t i = 0; i < rows; i++)
        index_lse[i] = 3;
    for (int64_t i = 0; i < n; i++)
        o[i] = 0.5f;
    for (int64_t i = 0; i < s.n_q * s.n_heads; i++)
        lse[i] = 3;
    a.dout = draw(n, rng);
    a.dq = take<float>(n), a.dk = take<float>(nk), a.dv = take<float>(nk);
    a.dqi = take<float>(rows * s.d_index), a.dki = take<float>(s.n_kv * s.d_index);
    a.loss = take<double>(1); // with which the sweep of backward does the work of kl too
    a.weight = 1;
    return a;
}

enum Keys { contiguous, bf16_keys, e4m3_keys, codes_beside, n_keys };

/// Codes of all blocks, as keys that were made elsewhere have them.
static msa_index8 codes(int64_t n, int64_t pieces, std::mt19937 &rng)
{
    const msa_index8 copy = {take<int8_t>(n), take<float>(pieces), take<float>(pieces), take<float>(pieces),
                             nullptr};
    for (int64_t i = 0; i < n; i++)
        copy.codes[i] = (int8_t)((int)(rng() % 255) - 127);
    for (int64_t i = 0; i < pieces; i++)
        copy.scale[i] = 0x1p-6f, copy.reach[i] = 16, copy.error[i] = 0x1p-4f;
    return copy;
}

/// The same problem as two requests whose keys lie in pages, the newest of them yet to be stored there. With 8-bit
/// keys, or codes beside the keys, pages are half a block, the second request has a query less, and tokens are taken back
/// first.
static msa_arrays in_pages(msa_shape &s, int32_t (&cu)[2][3], Keys keys, std::mt19937 &rng)
{
    const bool small = keys != bf16_keys;
    const int page = small ? s.block / 2 : s.block;
    const int64_t pages = 2 * ceil_div(s.n_kv, (int64_t)page);
    s.n_q *= 2, s.n_kv = pages * page, s.n_seqs = 2;
    for (int r = 0; r < 3; r++) {
        cu[0][r] = r * (int)s.n_q / 2;
        cu[1][r] = r * (int)s.n_kv / 2;
    }
    s.cu_q = cu[0], s.cu_kv = cu[1];
    msa_arrays a = inputs(s, rng);
    int32_t *table = take<int32_t>(pages), *lens = take<int32_t>(2);
    for (int64_t i = 0; i < pages; i++)
        table[i] = (int32_t)(pages - 1 - i);
    lens[0] = (int32_t)s.n_kv / 2, lens[1] = lens[0] / 2 + 1;
    a.pages = {pages, table, lens, nullptr, nullptr, page};
    if (small) {
        int32_t *len_q = take<int32_t>(2), *rejected = take<int32_t>(2);
        len_q[0] = (int32_t)s.n_q / 2, len_q[1] = len_q[0] - 1;
        rejected[1] = lens[1] / 2;
        a.len_q = len_q, a.rejected = rejected, a.status = take<int32_t>(1);
    }
    if (keys == e4m3_keys) {
        a.pages.ki8 = take<uint8_t>(s.n_kv * s.d_index);
        a.pages.scale = take<float>(pages);
        for (int64_t i = 0; i < s.n_kv * s.d_index; i++)
            a.pages.ki8[i] = (uint8_t)(rng() % 127);
        for (int64_t i = 0; i < pages; i++)
            a.pages.scale[i] = 0x1p-8f;
    }
    if (keys == codes_beside) {
        static msa_index8 copy;
        copy = codes(s.n_kv * s.d_index, pages, rng);
        a.index8 = &copy;
        a.screening = take<msa_screening>(1);
    }
    const int64_t width_kv = s.n_kv_heads * s.d_head;
    a.new_k = draw(s.n_q * width_kv, rng), a.new_v = draw(s.n_q * width_kv, rng);
    a.new_ki = draw(s.n_q * s.d_index, rng);
    return a;
}

/// An index kernel gives what it has to give: ids and LSE, or scores.
static bool run(const char *name, const msa_shape &s, msa_arrays a)
{
    msa_plan plan;
    msa_status status = msa_plan_make(&plan, engine, name, &s, MSA_F32);
    if (status != MSA_OK)
        return false;
    void *work = engine->alloc(plan.workspace);
    const bool index = std::string(name).rfind("index/", 0) == 0;
    const void *scores = a.scores;
    if (index)
        a.scores = nullptr;
    status = msa_plan_run(&plan, &a, work, nullptr);
    if (index && status == MSA_ERR_UNSUPPORTED) {
        a.scores = scores, a.ids = nullptr, a.index_lse = nullptr;
        status = msa_plan_run(&plan, &a, work, nullptr);
    }
    if (status == MSA_ERR_UNSUPPORTED && a.new_k) { // not every rung stores tokens, or takes 8-bit keys
        a.new_k = a.new_v = a.new_ki = nullptr;
        a.rejected = nullptr;
        a.pages.ki8 = nullptr;
        status = msa_plan_run(&plan, &a, work, nullptr);
    }
    if (status == MSA_ERR_UNSUPPORTED && a.loss) { // nor does every backward kernel do the work of kl
        a.loss = nullptr;
        status = msa_plan_run(&plan, &a, work, nullptr);
    }
    engine->free(work);
    if (status != MSA_OK)
        tap_note("%s", status == MSA_ERR_DEVICE ? engine->trouble() : msa_strerror(status));
    return status == MSA_OK;
}

static bool is_wanted(const char *name, int argc, char **argv)
{
    bool found = argc < 2;
    for (int i = 1; i < argc; i++)
        found = found || strstr(name, argv[i]);
    return found;
}

int main(int argc, char **argv)
{
    const msa_shape shapes[] = {{40, 170, 6, 2, 64, 64, 32, 3, 1, nullptr, nullptr},
                                {9, 300, 16, 1, 128, 128, 128, 2, 1, nullptr, nullptr}};
    std::mt19937 rng(1);
    int mode = 0;
    msa_tune(engine, MSA_TUNE_screen_from, 1); // however short
    for (const char *name : kernels) {
        bool ok = true;
        if (!is_wanted(name, argc, argv))
            continue;
        for (msa_shape s : shapes) {
            const bool step = std::string(name).find("decode/") != std::string::npos;
            const bool gradient =
                std::string(name).rfind("backward/", 0) == 0 || std::string(name).rfind("kl/", 0) == 0;
            if (step) // ThreadSanitizer knows 8128 fibers: copies of 128 channels in flight, a fiber each, are more
                s.n_q = 2, s.d_head = 64;
            // Gradients: of a selection, with full support.
            for (int variant = 0; variant < (step ? n_keys : gradient ? 2 : 1); variant++) {
                const Keys keys = step ? (Keys)variant : contiguous;
                int32_t cu[2][3];
                msa_shape paged = s;
                msa_engine_mode(mode % 4, mode / 4 % 3, (uint64_t)mode);
                msa_engine_sms(keys ? 2 : 132);
                mode++;
                msa_arrays a = keys ? in_pages(paged, cu, keys, rng) : inputs(s, rng);
                if (gradient && variant > 0)
                    a.ids = nullptr;
                ok = run(name, paged, a) && ok;
                if (keys == codes_beside && std::string(name) == "decode/swapped")
                    ok = ok && a.screening->rows > 0; // it did take the way that is meant
            }
        }
        tap(ok, "%s runs; ThreadSanitizer says at the end what raced", name);
    }
    return tap_done();
}
