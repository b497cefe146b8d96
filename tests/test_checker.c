/**
 * @file test_checker.c
 * @brief The checker checked: what it must refuse, and that it accepts what is right.
 */
#include <math.h>
#include <string.h>

#include "../ref/call.h"
#include "../ref/internal.h"
#include "../ref/judge/guard.h"
#include "../ref/judge/judge.h"
#include "support/check.h"

#define N 60 // elements of the small tensor [3,4,5] that is spoiled below

static const verdict_dims dims = {3, 4, 5};
static const verdict_budget budget = {1e-6, 1e-9, NULL};

static bool passes(const double *oracle, const float *found, verdict_budget b)
{
    return verdict_compare(dims, oracle, found, b).pass;
}

// Each way to spoil one element of a tensor must fail, wherever the element is.
static void one_wrong_element(const double *oracle, const float *right)
{
    static const struct {
        const char *name;
        float value;
    } spoiled[] = {
        {"NaN", NAN}, {"infinity", INFINITY}, {"-infinity", -INFINITY}, {"one wrong element", 0.5f}};
    tap(passes(oracle, right, budget), "a right tensor passes");
    for (size_t kind = 0; kind < sizeof spoiled / sizeof *spoiled; kind++) {
        bool refused = true;
        for (int at = 0; at < N; at++) {
            float found[N];
            memcpy(found, right, sizeof found);
            found[at] = spoiled[kind].value;
            verdict v = verdict_compare(dims, oracle, found, budget);
            refused = refused && !v.pass && v.n_bad == 1 && v.at[0] * 20 + v.at[1] * 5 + v.at[2] == at;
        }
        tap(refused, "%s is refused, and found", spoiled[kind].name);
    }
}

static void whole_tensor(const double *oracle, const float *right)
{
    float found[N] = {0};
    tap(!passes(oracle, found, budget), "an all-zero output is refused");
    for (int i = 0; i < N; i++)
        found[i] = NAN;
    verdict v = verdict_compare(dims, oracle, found, (verdict_budget){1e9, 1e9, NULL});
    tap(!v.pass && isinf(v.used), "a tensor of NaN is refused by any budget");
    for (int i = 0; i < N; i++)
        found[i] = right[i] * (1 + 0.7e-6f);
    tap(passes(oracle, found, budget), "a tensor within its budget passes");
    for (int i = 0; i < N; i++)
        found[i] = right[i] * (1 + 2e-6f);
    tap(!passes(oracle, found, budget), "a scale error of twice the budget is refused");
    tap(!verdict_compare((verdict_dims){0, 4, 5}, oracle, right, budget).pass, "an empty tensor is refused");
}

static void infinities_and_nan_of_the_oracle(const double *oracle, const float *right)
{
    double expected[N];
    float found[N];
    memcpy(expected, oracle, sizeof expected);
    memcpy(found, right, sizeof found);
    expected[7] = -INFINITY;
    tap(!passes(expected, found, budget), "a number where the oracle has -infinity is refused");
    found[7] = INFINITY;
    tap(!passes(expected, found, budget), "an infinity of the wrong sign is refused");
    found[7] = -INFINITY;
    tap(passes(expected, found, budget), "the same infinity passes");
    expected[7] = NAN;
    found[7] = NAN;
    tap(!passes(expected, found, budget), "NaN is refused even where the oracle has it");
}

// A single element may be off by four times the noise of rounding, the whole by about twice its deviation:
// for these 12 rows by 0.01 * 2 sqrt((1 + 2/12)/3) = 0.01247 each.
static void low_precision(const double *oracle)
{
    double noise[N];
    float found[N];
    verdict_budget b = {0, 1e-6, noise};
    for (int i = 0; i < N; i++) {
        noise[i] = 0.01;
        found[i] = (float)(oracle[i] - 0.0124);
    }
    tap(passes(oracle, found, b), "so much passes everywhere");
    for (int i = 0; i < N; i++)
        found[i] = (float)(oracle[i] - 0.0126);
    tap(!passes(oracle, found, b), "more than that is refused");
    for (int i = 0; i < N; i++)
        found[i] = (float)(oracle[i] - (i == 2 ? 0.0399 : 0));
    tap(passes(oracle, found, b), "one element may be off by four times the noise");
    found[2] = (float)(oracle[2] - 0.0401);
    tap(!passes(oracle, found, b), "but not by more");
    /* Noise of one row alone: whatever the others are, it is one, and may be off by 0.01 * 2 sqrt((1 + 2)/3) = 0.02. */
    for (int i = 0; i < N; i++) {
        noise[i] = i < dims.d2 ? 0.01 : 0;
        found[i] = (float)(oracle[i] - (i < dims.d2 ? 0.0199 : 0));
    }
    tap(passes(oracle, found, b), "of one row that is alone so much passes");
    for (int i = 0; i < dims.d2; i++)
        found[i] = (float)(oracle[i] - 0.0202);
    tap(!passes(oracle, found, b), "and more is refused");
}

// Keys of 64 channels, one of which outweighs all others and comes first: whatever is added afterwards rounds
// at its size. The same sums with 4 bits less must be refused.
static void massive_sums(uint64_t seed)
{
    enum { ROWS = 16, KEYS = 4096, D = 64 };
    static float qi[ROWS][D], ki[KEYS][D], sums[ROWS * KEYS], coarse[ROWS * KEYS];
    static double exact[ROWS * KEYS];
    inputs_rng rng = {seed};
    for (int i = 0; i < ROWS; i++)
        for (int c = 0; c < D; c++)
            qi[i][c] = c ? inputs_normal(&rng) : 33;
    for (int j = 0; j < KEYS; j++)
        for (int c = 0; c < D; c++)
            ki[j][c] = c ? inputs_normal(&rng) : 33;
    for (int at = 0; at < ROWS * KEYS; at++) {
        const float *q = qi[at / KEYS], *k = ki[at % KEYS];
        float rough = 0;
        for (int c = 0; c < D; c++) {
            exact[at] += (double)q[c] * (double)k[c] / 8;
            sums[at] += q[c] * k[c] / 8;
            rough += q[c] * k[c] / 8;
            rough = ldexpf(roundf(ldexpf(rough, 12)), -12); // of about 128: 20 bits
        }
        coarse[at] = rough;
    }
    const msa_shape s = {.n_q = ROWS, .n_kv = KEYS, .n_kv_heads = 1, .n_heads = 1, .d_index = D};
    const inputs in = {.qi = *qi, .ki = *ki};
    const verdict_dims n = {1, ROWS, KEYS};
    const verdict_budget b = verdict_float32(&s, &in, ARRAY_SCORES, 0);
    const verdict v = verdict_compare(n, exact, sums, b);
    tap(v.pass && v.used > 0.2, "float32 sums behind a massive channel use %.0f %% of their budget",
        100 * v.used);
    tap(!verdict_compare(n, exact, coarse, b).pass, "sums of 20 bits are refused there");
}

static void cases(const double *oracle, const float *right)
{
    check_case c = check_begin("spoiled on purpose");
    tap(c.n == 0, "a case begins without verdicts");
    check_true(&c, true, "true");
    tap(c.ok && c.n == 1, "a case passes with its verdicts");
    check_tensor(&c, "right", dims, oracle, right, budget);
    double spoiled[N];
    memcpy(spoiled, oracle, sizeof spoiled);
    tap(c.ok, "still passes");
    spoiled[5] = NAN;
    check_doubles_near(&c, "NaN among doubles", N, oracle, spoiled, budget);
    tap(!c.ok, "a NaN among doubles fails the case (the line above says so)");
    c.ok = true;
    check_same(&c, "one bit", oracle, spoiled, sizeof spoiled);
    tap(!c.ok, "a different bit fails the case (the line above says so)");
}

/* ---- Guards -------------------------------------------------------------------------------------- */

static void guards(void)
{
    guard g;
    tap(guard_new(&g, 4 * N) && guard_intact(&g) && guard_unwritten(&g) == 0, "a fresh buffer is poisoned");
    float *x = g.data;
    tap(isnan(x[0]) && isnan(x[N - 1]), "the poison is NaN");
    for (int i = 0; i < N; i++)
        x[i] = 0;
    tap(guard_unwritten(&g) == -1, "a buffer that is written passes");
    guard_poison(&g);
    for (int i = 0; i < N; i++)
        if (i != 41)
            x[i] = 1;
    tap(guard_unwritten(&g) == 41, "an unwritten element is found");
    unsigned char *bytes = g.data;
    static const int outside[] = {-1, -64, 4 * N, 4 * N + 63};
    for (int i = 0; i < 4; i++) {
        unsigned char before = bytes[outside[i]];
        bytes[outside[i]] ^= 1;
        tap(!guard_intact(&g), "a byte written at offset %d of %d is found", outside[i], 4 * N);
        bytes[outside[i]] = before;
    }
    tap(guard_intact(&g), "the fences are whole again");
    guard_free(&g);
    tap(!guard_new(&g, SIZE_MAX - 8), "an absurd size is refused");
}

/* ---- Selections ---------------------------------------------------------------------------------- */

/** A case for verdict_ids: 4 blocks of one key, scores 1 2 2 0 for the last query (its local block is 3). */
static const msa_shape four = {1, 4, 1, 1, 1, 1, 1, 3, 1, NULL, NULL, NULL, NULL};

static verdict_selection judge_ids(const float ki[4], int32_t a, int32_t b, int32_t c, double tolerance)
{
    const float qi = 1;
    int32_t ids[3] = {a, b, c};
    bool ok;
    return verdict_ids(&four, &qi, ki, ids, tolerance, 1, &ok);
}

static void selections(void)
{
    static const float tied[4] = {1, 2, 2, 0}, close[4] = {2, 2, 2.0000002f, 0}, far[4] = {1, 1.9f, 2, 0};
    tap(judge_ids(tied, 1, 2, 3, 0).pass, "the oracle's selection passes");
    tap(!judge_ids(tied, 0, 2, 3, 0).pass, "a worse block is refused");
    tap(!judge_ids(far, 0, 2, 3, 1).pass, "a worse block is refused with tolerance too");
    tap(!judge_ids(tied, 2, 1, 3, 1).pass, "descending ids are refused");
    tap(!judge_ids(tied, 1, 3, -1, 1).pass, "too few ids are refused");
    tap(!judge_ids(tied, 1, 1, 3, 1).pass, "a repeated id is refused");
    tap(!judge_ids(tied, 0, 1, 2, 1).pass, "a selection without the local block is refused");
    tap(!judge_ids(tied, 1, 2, 4, 1).pass, "an invisible block is refused");
    tap(!judge_ids(tied, -1, 2, 3, 1).pass, "a -1 before the end is refused");
    tap(judge_ids(close, 0, 2, 3, 1).pass, "of equal scores the lower id passes");
    verdict_selection v = judge_ids(close, 0, 1, 3, 1);
    tap(v.pass && v.n_ties == 1 && v.n_ids == 3, "a swap within float32 rounding is a tie, and counted");
    tap(!judge_ids(close, 0, 1, 3, 0).pass, "the same swap is refused where scores are exact");
    tap(!judge_ids(close, 1, 2, 3, 0).pass, "the higher of two equal ids is refused where scores are exact");
    const float qi = 1;
    const int32_t swapped[3] = {0, 1, 3};
    bool ok;
    tap(verdict_ids(&four, &qi, close, swapped, 1, 0.001, &ok).pass,
        "a share of a small number is rounded up");
}

// Behind a channel of 100 and -100 float32 rounds a score of two products by up to 0.0012, and by 0.0005 in root
// mean square: six blocks `apart` from one to the next, of which a kernel takes the first and third for the last two.
static bool swaps_behind_a_large_channel(float apart)
{
    static const msa_shape s = {1, 6, 1, 1, 1, 2, 1, 3, 1, NULL, NULL, NULL, NULL};
    static const int32_t ids[3] = {0, 2, 5};
    const float qi[2] = {100, 1};
    float ki[6][2];
    for (int b = 0; b < 6; b++)
        ki[b][0] = -100, ki[b][1] = apart * (float)b;
    bool ok;
    return verdict_ids(&s, qi, *ki, ids, 1, 0, &ok).pass;
}

static void expected_ties(void)
{
    tap(swaps_behind_a_large_channel(1e-4f), "two swaps pass where rounding makes as many");
    tap(!swaps_behind_a_large_channel(6e-4f), "two swaps are refused where rounding hardly makes one");
}

/* ---- A kernel with faults ------------------------------------------------------------------------ */

enum { SOUND, OVERRUN, UNDERRUN, UNWRITTEN, WRONG, WITH_NAN, ZERO, ERROR, REFUSES, N_FAULTS };
static int fault;

static msa_status faulty_dense(const msa_shape *s, const float *q, const float *k, const float *v, float *o,
                               float *lse, void *work)
{
    int64_t n = s->n_q * s->n_heads * s->d_head;
    if (fault == REFUSES)
        return MSA_ERR_UNSUPPORTED;
    float last = o[n - 1];
    msa_status status = msa_dense(s, q, k, v, o, lse, work);
    if (fault == OVERRUN)
        o[n] = 0;
    if (fault == UNDERRUN)
        o[-1] = 0;
    if (fault == UNWRITTEN)
        o[n - 1] = last;
    if (fault == WRONG)
        o[n / 2] += 0.125f;
    if (fault == WITH_NAN)
        o[n / 2] = NAN;
    if (fault == ZERO)
        memset(o, 0, (size_t)n * sizeof *o);
    return fault == ERROR ? MSA_ERR_IDS : status;
}
RUN(dense, faulty_dense)

static void faulty_kernels(void)
{
    static const char *const name[N_FAULTS] = {"sound",         "overrun", "underrun",   "unwritten element",
                                               "wrong element", "NaN",     "all zeroes", "error status",
                                               "unsupported"};
    static const judge_outcome expected[N_FAULTS] = {
        [SOUND] = JUDGE_PASS,     [OVERRUN] = JUDGE_FAIL, [UNDERRUN] = JUDGE_FAIL,
        [UNWRITTEN] = JUDGE_FAIL, [WRONG] = JUDGE_FAIL,   [WITH_NAN] = JUDGE_FAIL,
        [ZERO] = JUDGE_FAIL,      [ERROR] = JUDGE_FAIL,   [REFUSES] = JUDGE_UNSUPPORTED};
    msa_kernel k = *msa_ref_ops.stage[MSA_STAGE_DENSE];
    k.run = faulty_dense_run;
    const msa_shape *s = &inputs_shapes[3];
    inputs in;
    if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(1)))
        return;
    for (int f = 0; f < N_FAULTS; f++) {
        fault = f;
        judge_report report = judge_kernel(&k, s, &in, check_seed(2));
        tap(report.outcome == expected[f], "judging a dense kernel: %s (%s)", name[f], report.text);
    }
    inputs_free(&in);
}

/* ---- A selector with faults ------------------------------------------------------------------------ */

enum { FOLLOWS, STRAYS, PEEKS, N_RULES };

// MSA's scores, turned around where the last key says so; or only for the ids, where both are asked for.
static msa_status faulty_rule(const msa_shape *s, const float *qi, const float *ki, float *scores,
                              int32_t *ids, float *index_lse, void *work)
{
    const int64_t n = s->n_kv_heads * s->n_q * msa_n_blocks(s), n_ids = s->n_kv_heads * s->n_q * s->topk;
    const bool peeks = fault == PEEKS && ki[s->n_kv * s->d_index - 1] > -0.5f,
               strays = fault == STRAYS && scores && ids;
    float *own = check_floats(n);
    int32_t *chosen = check_ints(n_ids);
    MSA_TRY(msa_index(s, qi, ki, own, NULL, NULL, work));
    for (int64_t i = 0; i < n; i++) {
        own[i] *= peeks ? -1 : 1;
        if (scores)
            scores[i] = own[i];
        own[i] *= strays ? -1 : 1;
    }
    MSA_TRY(msa_topk(s, own, chosen, work));
    if (ids)
        memcpy(ids, chosen, (size_t)n_ids * sizeof *ids);
    return index_lse ? msa_index_lse(s, qi, ki, chosen, index_lse) : MSA_OK;
}
RUN(index, faulty_rule)

static void faulty_rules(void)
{
    static const char *const name[N_RULES] = {"sound", "ids that its scores do not explain",
                                              "scores that tell of a key behind"};
    const msa_shape s = {24, 24, 1, 1, 4, 4, 4, 3, 1, NULL, NULL, NULL, NULL};
    msa_kernel k = *msa_ref_ops.stage[MSA_STAGE_INDEX];
    k.run = faulty_rule_run, k.own_rule = true;
    inputs in;
    if (!inputs_new(&in, &s, INPUTS_NORMAL, check_seed(1)))
        return;
    for (int f = 0; f < N_RULES; f++) {
        fault = f;
        judge_report report = judge_kernel(&k, &s, &in, check_seed(2));
        tap(report.outcome == (f == FOLLOWS ? JUDGE_PASS : JUDGE_FAIL), "judging a selector: %s (%s)",
            name[f], report.text);
    }
    inputs_free(&in);
    check_release(NULL);
}

/* ---- Inputs -------------------------------------------------------------------------------------- */

static void generators(void)
{
    inputs_rng rng = {1};
    tap(inputs_u64(&rng) == 0x910a2dec89025cc1u, "SplitMix64 gives its published sequence");
    double sum = 0, squares = 0;
    for (int i = 0; i < 100000; i++) {
        double x = (double)inputs_normal(&rng);
        sum += x;
        squares += x * x;
    }
    tap(fabs(sum / 1e5) < 0.02 && fabs(squares / 1e5 - 1) < 0.03, "the normal has mean 0 and variance 1");
    bool valid = true, same = true;
    for (int n = 0; n < inputs_n_shapes; n++) {
        const msa_shape *s = &inputs_shapes[n];
        int64_t n_ids = s->n_kv_heads * s->n_q * s->topk;
        int32_t *ids = check_ints(n_ids), *again = check_ints(n_ids);
        for (int kind = 0; kind <= SELECTION_ENDS; kind++) {
            selection_draw(s, (selection_kind)kind, check_seed(3), ids);
            selection_draw(s, (selection_kind)kind, check_seed(3), again);
            valid = valid && msa_check_ids(s, ids) == MSA_OK;
            same = same && memcmp(ids, again, (size_t)n_ids * sizeof *ids) == 0;
        }
    }
    tap(valid, "every drawn selection keeps the ids contract");
    tap(same, "the same seed draws the same selection");
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    inputs_rng rng = {check_seed(0)};
    double oracle[N];
    float right[N];
    for (int i = 0; i < N; i++) {
        right[i] = inputs_normal(&rng) + (i % 2 ? 8.0f : -8.0f); // far from 0 and from 0.5
        oracle[i] = (double)right[i];
    }
    one_wrong_element(oracle, right);
    whole_tensor(oracle, right);
    infinities_and_nan_of_the_oracle(oracle, right);
    low_precision(oracle);
    cases(oracle, right);
    massive_sums(check_seed(1));
    guards();
    selections();
    expected_ties();
    faulty_kernels();
    faulty_rules();
    generators();
    return check_done();
}
