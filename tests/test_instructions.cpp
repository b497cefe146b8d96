/**
 * @file test_instructions.cpp
 * @brief The instructions of ptx.cuh: the engine against plain C++, and a GPU against the engine, bit for
 * bit.
 *
 *     test_instructions [SEED]          the engine, in all orders of threads and timings of copies
 *     test_instructions SEED cuda       the GPU, then the measurements of measurements.cu as remarks
 *     test_instructions SEED cuda WORD  only groups whose name contains WORD
 */
#include "cuda/host/msa_cuda.h"
#include "device/instructions.h"

#include <cstdlib>
#include <cstring>

extern "C" {
#include "support/check.h"
}

using std::string;

/// Hash of a result, to compare whole runs by eye; never instead of a comparison.
static uint64_t add_to_hash(uint64_t hash, const words &w)
{
    for (uint32_t v : w)
        hash = (hash ^ v) * 0x100000001b3u;
    return hash;
}

static string difference(const probe &p, const words &expected, const words &found)
{
    for (size_t i = 0; i < expected.size(); i++)
        if (expected[i] != found[i]) {
            char text[128];
            size_t n = 0;
            for (size_t j = i; j < expected.size(); j++)
                n += expected[j] != found[j];
            snprintf(text, sizeof text, ": word %zu of %zu: expected %08x, found %08x (%zu differ)", i,
                     expected.size(), expected[i], found[i], n);
            return p.name + text;
        }
    return "";
}
/// Empty, or what is wrong with this result.
static string fault(const probe &p, const words &expected, const words &found)
{
    if (!p.fault)
        return difference(p, expected, found);
    const string wrong = p.fault(found);
    return wrong.empty() ? "" : p.name + ": " + wrong;
}

/// The last probe of the group that starts at `first`, plus 1.
static size_t end_of_group(const std::vector<probe> &all, size_t first)
{
    size_t i = first;
    while (i < all.size() && strcmp(all[i].group, all[first].group) == 0)
        i++;
    return i;
}

static bool run_and_judge(check_case *c, const instruction_side &side, const probe &p, const words &expected,
                          const char *how, uint64_t *hash)
{
    words found;
    string wrong = side.run(p, found);
    wrong = wrong.empty() ? fault(p, expected, found) : p.name + ": " + wrong;
    check_true(c, wrong.empty(), "%s%s", how, wrong.c_str());
    *hash = add_to_hash(*hash, found);
    return wrong.empty();
}

/* ---- The engine ------------------------------------------------------------------------------------ */

constexpr int n_modes = 12;

/// Every probe in all four orders of threads with all three timings of copies, or, where there are many, in four of
/// these twelve, one of each order.
static void test_engine(uint64_t seed)
{
    const std::vector<probe> all = simt_instructions.probes(seed);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t first = 0, end; first < all.size(); first = end) {
        end = end_of_group(all, first);
        const int step = end - first > 8 ? 3 : 1;
        check_case c = check_begin("engine: %s", all[first].group);
        for (size_t i = first; i < end; i++) {
            bool good = true;
            for (int mode = (int)(i % (size_t)step); mode < n_modes && good; mode += step) {
                char how[48];
                snprintf(how, sizeof how, "order %d, timing %d: ", mode % 4, mode / 4);
                msa_engine_mode(mode % 4, mode / 4, seed + i);
                good = run_and_judge(&c, simt_instructions, all[i], all[i].expected, how, &hash);
            }
        }
        check_end(&c);
    }
    tap_note("engine: %zu probes, hash %016llx", all.size(), (unsigned long long)hash);
}

/// The comparer names the first of two changed words, and its fence notices a kernel that writes too far.
static void test_comparer(uint64_t seed)
{
    probe p = simt_instructions.probes(seed).front();
    words found;
    const string ran = simt_instructions.run(p, found);
    tap(ran.empty() && fault(p, p.expected, found).empty(), "comparer: equal results");
    found[7] ^= 1;
    found[9] ^= 0x80000000;
    const string wrong = fault(p, p.expected, found);
    tap(wrong.find("word 7 of") != string::npos && wrong.find("(2 differ)") != string::npos,
        "comparer: the first difference");
    p.start.resize(p.start.size() - 2);
    tap(!simt_instructions.run(p, found).empty(), "comparer: two words too many");
}

/// What the engine refuses, because nobody knows what a GPU does.
static void test_refusals()
{
    msa_engine_mode(0, 0, 1);
    for (const measurement &m : simt_instructions.measurements()) {
        string answer;
        const string refusal = m.ask(answer);
        if (m.engine_refuses)
            tap(!refusal.empty(), "engine refuses: %s", m.question);
        else
            tap(refusal.empty(), "engine: %s: %s", m.question, (refusal + answer).c_str());
        if (!refusal.empty())
            tap_note("%s", refusal.c_str());
    }
}

/* ---- The GPU ----------------------------------------------------------------------------------------- */

#ifdef HAVE_CUDA
/// Both sides made the same probes of the same seed: inputs are equal, and so must be what they leave.
static void test_gpu(uint64_t seed, const char *only)
{
    const std::vector<probe> here = simt_instructions.probes(seed), there = cuda_instructions.probes(seed);
    uint64_t hash = 0xcbf29ce484222325u;
    msa_engine_mode(0, 0, seed);
    for (size_t first = 0, end; first < here.size(); first = end) {
        end = end_of_group(here, first);
        if (only && !strstr(here[first].group, only))
            continue;
        check_case c = check_begin("GPU equals engine: %s", here[first].group);
        for (size_t i = first; i < end; i++) {
            words expected;
            const string trouble = simt_instructions.run(here[i], expected);
            check_true(&c, trouble.empty() && here[i].in == there[i].in, "%s on the engine",
                       here[i].name.c_str());
            run_and_judge(&c, cuda_instructions, there[i], expected, "", &hash);
        }
        check_end(&c);
    }
    tap_note("GPU: hash %016llx", (unsigned long long)hash);
}

static void measure()
{
    for (const measurement &m : cuda_instructions.measurements()) {
        string answer;
        const string trouble = m.ask(answer);
        tap_note("note: %s: %s", m.question, trouble.empty() ? answer.c_str() : trouble.c_str());
    }
}

static void test_cuda(uint64_t seed, const char *only)
{
    if (msa_gpu()->missing()) {
        tap_skip("instructions on a GPU", msa_gpu()->missing());
        return;
    }
    test_gpu(seed, only);
    if (!only)
        measure();
}
#else
static void test_cuda(uint64_t, const char *)
{
    tap_skip("instructions on a GPU", "built without nvcc: make cuda");
}
#endif

int main(int argc, char **argv)
{
    check_start(argc, argv);
    if (argc > 2 && strcmp(argv[2], "cuda") == 0) {
        test_cuda(check_seed(1), argc > 3 ? argv[3] : nullptr);
    } else {
        test_engine(check_seed(1));
        test_comparer(check_seed(1));
        test_refusals();
    }
    return check_done();
}
