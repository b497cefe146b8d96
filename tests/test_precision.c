/**
 * @file test_precision.c
 * @brief The classes of precision: each kind of kernel is named by what it rounds, and no wrong one is of
 * any.
 */
#include <math.h>
#include <string.h>

#include "../ref/judge/noise.h"
#include "../ref/cli/precision.h"
#include "../ref/table/table.h"
#include "support/check.h"

enum { T = 24, S = 300, HQ = 4, G = 2, D = 64, BLOCK = 32, TOPK = 4, N = T * HQ * D };

static const msa_shape shape = {.n_q = T,
                                .n_kv = S,
                                .n_heads = HQ,
                                .n_kv_heads = G,
                                .d_head = D,
                                .d_index = 16,
                                .block = BLOCK,
                                .topk = TOPK,
                                .n_seqs = 1};
static inputs in;
static int32_t ids[G * T * TOPK];

/* ---- Kernels that round ----------------------------------------------------------------------------- */

typedef double rounding(double x);

static double none(double x)
{
    return (double)(float)x;
}

static double to_bf16(double x)
{
    return (double)msa_bf16((float)x);
}

// Nearest of the 11-bit numbers, below 2^-14 of the multiples of 2^-24; nothing here is too large.
static double to_half(double x)
{
    int exponent;
    frexp(x, &exponent);
    const double step = ldexp(1, (exponent > -13 ? exponent : -13) - 11);
    return rint(x / step) * step;
}

typedef enum mutation { RIGHT, SCALED, SHARPER, NO_LAST, SWAPPED, ZERO, NO_BLOCK, N_MUTATIONS } mutation;

typedef struct kernel {
    const char *what, *class[2]; // where values cancel, and where they do not: blocks' outputs are large then
    rounding *logit, *weight, *part, *output;
    bool normalised; // weights are divided by their sum before they are rounded
} kernel;

static const kernel kernels[] = {
    {"exact", {"float32", "float32"}, none, none, none, none, false},
    {"exact, stored in float16", {"float16-output", "float16-output"}, none, none, none, to_half, false},
    {"exact, stored in bf16", {"bf16-output", "bf16-output"}, none, none, none, to_bf16, false},
    {"P in float16, stored in it", {"float16-output", "float16-output"}, none, to_half, none, to_half, false},
    {"P in bf16", {"bf16-weights", "bf16-weights"}, none, to_bf16, none, none, false},
    {"P in bf16, stored in bf16", {"bf16-output", "bf16-output"}, none, to_bf16, none, to_bf16, false},
    {"P and blocks in bf16", {"bf16-weights", "bf16-partials"}, none, to_bf16, to_bf16, none, false},
    {"P and blocks in bf16, stored in bf16",
     {"bf16-output", "bf16-partials-output"},
     none,
     to_bf16,
     to_bf16,
     to_bf16,
     false},
    {"eager attention in bf16", {"bf16-logits", "bf16-logits"}, to_bf16, to_bf16, none, to_bf16, true},
};
#define N_KERNELS ((int)(sizeof kernels / sizeof *kernels))

static double logit(const kernel *k, mutation m, const float *q, const float *key)
{
    double dot = 0;
    for (int c = 0; c < D; c++)
        dot += (double)q[c] * (double)key[c];
    return k->logit(k->logit(dot) / sqrt(D) * (m == SHARPER ? 1.01 : 1));
}

/* The tokens that query i sees in these blocks, ascending. */
static int visible(const int32_t *row, int64_t i, mutation m, int64_t *token)
{
    int n = 0, blocks = 0;
    while (blocks < TOPK && row[blocks] >= 0)
        blocks++;
    for (int b = 0; b < blocks; b++)
        for (int64_t j = (int64_t)row[b] * BLOCK; j < ((int64_t)row[b] + 1) * BLOCK && j <= S - T + i; j++)
            if (m != NO_BLOCK || b != blocks - 2)
                token[n++] = j;
    return m == NO_LAST ? n - 1 : n;
}

static void attend(const kernel *k, mutation m, int64_t i, int h, float *o)
{
    const int r = h / (HQ / G);
    int64_t token[TOPK * BLOCK];
    double p[TOPK * BLOCK], most = -HUGE_VAL, sum = 0;
    const int n = visible(ids + (r * T + i) * TOPK, i, m, token);
    const float *q = in.q + (i * HQ + (m == SWAPPED ? h ^ 1 : h)) * D;
    for (int a = 0; a < n; a++) {
        p[a] = logit(k, m, q, in.k + (token[a] * G + r) * D);
        most = fmax(most, p[a]);
    }
    for (int a = 0; a < n; a++)
        sum += p[a] = exp(p[a] - most);
    for (int c = 0; c < D; c++) {
        double all = 0, part = 0;
        for (int a = 0; a < n; a++) {
            const double weight = k->normalised ? k->weight(p[a] / sum) : k->weight(p[a]) / sum;
            part += weight * (double)in.v[(token[a] * G + r) * D + c];
            if (a + 1 == n || token[a + 1] / BLOCK != token[a] / BLOCK) {
                all += k->part(part);
                part = 0;
            }
        }
        o[c] = (float)k->output(all * (m == SCALED ? 1.01 : m == ZERO ? 0 : 1));
    }
}

static precision_result judge(const float *o, const char *name)
{
    const cli_tensors t = {.path = {[CLI_Q] = "q", [CLI_K] = "k", [CLI_V] = "v", [CLI_O] = "o"},
                           .array = {[CLI_Q] = {.data = in.q},
                                     [CLI_K] = {.data = in.k},
                                     [CLI_V] = {.data = in.v},
                                     [CLI_QI] = {.data = in.qi},
                                     [CLI_KI] = {.data = in.ki},
                                     [CLI_O] = {.count = N, .data = (void *)(uintptr_t)o}},
                           .shape = shape};
    const foreign_ids theirs = {.array = {.type = NPY_I32, .data = ids}};
    const precision_request request = {name, -1};
    precision_result result = {0};
    if (precision_judge("verify", &request, &t, &theirs, &result) != 0)
        tap(false, "memory to judge");
    return result;
}

static const float *run(const kernel *k, mutation m)
{
    static float o[N];
    for (int64_t i = 0; i < T; i++)
        for (int h = 0; h < HQ; h++)
            attend(k, m, i, h, o + (i * HQ + h) * D);
    return o;
}

/* ---- Tests ------------------------------------------------------------------------------------------ */

static bool of_any(const precision_result *r)
{
    bool any = r->pass;
    for (int c = 0; c < PRECISION_N_CLASSES; c++)
        any = any || r->verdict[c].pass;
    return any;
}

// A budget of which little is used is none: what rounds uses a third at least.
static void right_kernels(int offset)
{
    for (int a = 0; a < N_KERNELS; a++) {
        const precision_result r = judge(run(&kernels[a], RIGHT), NULL);
        tap(r.pass && strcmp(r.name, kernels[a].class[offset]) == 0 && (a == 0 || r.used > 0.3),
            "%s, values around %d: %s (found %s, %.0f %% of its budget)", kernels[a].what, offset,
            kernels[a].class[offset], r.pass ? r.name : "none", 100 * r.used);
    }
}

// One rounding of the logits, and of nothing else, moves O by about 0.85 of what noise.h says.
static void logits_as_noisy_as_told(void)
{
    static const kernel only_logits = {"logits in bf16", {NULL, NULL}, to_bf16, none, none, none, true};
    static double square[3][N];
    static float o[N];
    memcpy(o, run(&kernels[0], RIGHT), sizeof o);
    const float *rounded = run(&only_logits, RIGHT);
    double error2 = 0, noise2 = 0;
    bool ok = noise_by_cause(&shape, in.q, in.k, in.v, ids, (noise_squares){square[0], square[1], square[2]});
    for (int i = 0; i < N; i++) {
        error2 += pow((double)rounded[i] - (double)o[i], 2);
        noise2 += NOISE_ROUNDING * NOISE_ROUNDING * square[2][i];
    }
    const double ratio = sqrt(error2 / noise2);
    tap(ok && ratio > 0.7 && ratio < 1, "rounding logits moves O by %.2f of the noise, about 0.85", ratio);
}

// Our own, on the engine: what they say of themselves, or better.
static void engine_kernels(void)
{
    static const char *const name[] = {"sparse/q_outer", "sparse/union", "sparse/kv_outer"};
    static float o[N];
    for (int a = 0; a < 3; a++) {
        const msa_kernel *k = table_find(name[a], "simt");
        if (!k) {
            tap_skip(name[a], "built without the engine");
            continue;
        }
        void *work = check_alloc((int64_t)k->workspace(&shape) + 1, 1);
        const msa_status status =
            k->run(&shape, &(msa_arrays){.q = in.q, .k = in.k, .v = in.v, .ids = ids, .o = o}, work);
        const precision_result r = judge(o, NULL);
        tap(status == MSA_OK && r.pass && strncmp(r.name, "bf16-", 5) == 0, "%s is %s", name[a],
            r.pass ? r.name : "of no precision");
    }
}

static void wrong_kernels(void)
{
    static const char *const name[N_MUTATIONS] = {[SCALED] = "O 1 % too large",
                                                  [SHARPER] = "the scale of the softmax 1 % too large",
                                                  [NO_LAST] = "the last token missing",
                                                  [SWAPPED] = "two heads swapped",
                                                  [ZERO] = "zeros",
                                                  [NO_BLOCK] = "a block skipped"};
    for (int m = SCALED; m < N_MUTATIONS; m++)
        for (int a = 0; a < N_KERNELS; a++) {
            const precision_result r = judge(run(&kernels[a], (mutation)m), NULL);
            tap(!of_any(&r), "%s, %s: of no precision", name[m], kernels[a].what);
        }
}

static void pinned(void)
{
    precision_result r = judge(run(&kernels[4], RIGHT), "float32");
    tap(!r.pass && strcmp(r.name, "bf16-weights") == 0, "P in bf16 is not of float32, but of bf16-weights");
    r = judge(run(&kernels[4], RIGHT), "bf16-output");
    tap(r.pass && strcmp(r.name, "bf16-weights") == 0, "and of bf16-output, which allows more");
}

// Beside errors that only bf16 allows, the one that nothing allows is found.
static void not_finite(void)
{
    static const float wild[] = {NAN, INFINITY, -INFINITY};
    static float o[N];
    for (int a = 0; a < 3; a++) {
        memcpy(o, run(&kernels[8], RIGHT), sizeof o);
        o[(7 * HQ + 2) * D + 5] = wild[a];
        const precision_result r = judge(o, NULL);
        const verdict *v = &r.verdict[PRECISION_N_CLASSES - 1];
        tap(!of_any(&r) && v->n_bad == 1 && v->at[0] == 7 && v->at[1] == 2 && v->at[2] == 5,
            "%g fails, and is found", (double)wild[a]);
    }
}

int main(void)
{
    inputs wide;
    if (!inputs_new(&wide, &shape, INPUTS_NORMAL, 20) || !inputs_rounded(&in, &wide, &shape))
        return 1;
    void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, &shape), 1);
    msa_index(&shape, in.qi, in.ki, NULL, ids, NULL, work);
    right_kernels(0);
    engine_kernels();
    wrong_kernels();
    pinned();
    not_finite();
    for (int a = 0; a < S * G * D; a++)
        in.v[a] = msa_bf16(1 + in.v[a] / 4);
    right_kernels(1);
    logits_as_noisy_as_told();
    inputs_free(&wide);
    inputs_free(&in);
    return check_done();
}
