/**
 * @file test_tunables.c
 * @brief Parameters of cuda/tunables.def: whatever their values in range, kernels agree with the reference within
 *        workspaces that were planned for them; and each value does something.
 */
#include <stdlib.h>
#include <string.h>

#include "../cuda/host/msa_cuda.h"
#include "support/check.h"

#ifndef HAVE_SIMT
int main(void)
{
    tap_skip("parameters of the kernels", "this build has no engine");
    return tap_done();
}
#else

#include "../cuda/simt/counts.h"
#include "../ref/bench/trial.h"
#include "../ref/judge/judge.h"
#include "../ref/table/table.h"

// Kernels whose host side asks for a parameter, beside those of its trials.
static const struct {
    int parameter;
    const char *kernel;
} others[] = {
    {MSA_TUNE_sweep_item, "backward/kv_outer"},      {MSA_TUNE_sweep_item, "backward/deterministic"},
    {MSA_TUNE_sweep_item, "kl/deterministic"},       {MSA_TUNE_sweep_chunk, "backward/deterministic"},
    {MSA_TUNE_sweep_chunk, "dense_backward/hopper"}, {MSA_TUNE_sweep_chunk, "kl/kv_outer"},
    {MSA_TUNE_kv_outer_item, "prefill/kv_outer"},    {MSA_TUNE_screen_from, "decode/swapped"},
    {MSA_TUNE_attend_parts, "decode/swapped"}};

static void reset(void)
{
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        msa_tune(msa_engine(), i, msa_tune_preset(msa_engine(), i));
}

/* ---- Agreement ------------------------------------------------------------------------------------------- */

// Small, as a chunk of one query makes many launches; an index that shares its keys out has many of these.
static const msa_shape *shape_of(const char *kernel)
{
    static const msa_shape prompt = {30, 330, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL},
                           gradients = {9, 70, 4, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL},
                           few = {3, 900, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL};
    const bool is_gradient = strstr(kernel, "backward") || strncmp(kernel, "kl", 2) == 0;
    return is_gradient                                                      ? &gradients
           : strstr(kernel, "decode") || strcmp(kernel, "index/fused") == 0 ? &few
                                                                            : &prompt;
}

static void judge(check_case *c, int parameter, int value, const char *name)
{
    const msa_kernel *k = table_find(name, "simt");
    const msa_shape *s = shape_of(name);
    inputs in;
    if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed(2)))
        abort();
    msa_tune(msa_engine(), parameter, value);
    const judge_report report = (table_screens(k) ? judge_screened : judge_kernel)(k, s, &in, check_seed(1));
    inputs_free(&in);
    check_true(c, report.outcome == JUDGE_PASS, "%s = %d: %s: %s", msa_tunables[parameter].name, value, name,
               report.text);
    reset();
}

// The ends of the range and, with FULL=1, what lies between; but of what no problem here is as large as, as the preset
// is, one value shows all.
static int values_of(int parameter, int value[16])
{
    const msa_tunable *p = &msa_tunables[parameter];
    const int large = 4096, few = parameter == MSA_TUNE_auto_crossing ? 150 : 7;
    int n = 0;
    value[n++] = p->least;
    if (p->most < large || p->on_engine < large || tap_full())
        value[n++] = p->most;
    if (tap_full() && few > p->least && few < p->most)
        value[n++] = few;
    for (int i = 0; tap_full() && i < 8 && p->tries[i]; i++)
        if (p->tries[i] < large)
            value[n++] = p->tries[i];
    return n;
}

static void agrees(int parameter)
{
    check_case c = check_begin("%s: kernels agree with the reference at both ends of its range",
                               msa_tunables[parameter].name);
    int value[16];
    const int n = values_of(parameter, value);
    for (int v = 0; v < n; v++) {
        msa_engine_mode((v + parameter) % 4, v % 3, check_seed((uint64_t)v));
        for (const msa_trial *t = msa_trials; t->kernel; t++)
            if (t->parameter == parameter && (t == msa_trials || t[-1].parameter != parameter))
                judge(&c, parameter, value[v], t->kernel);
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (others[i].parameter == parameter)
                judge(&c, parameter, value[v], others[i].kernel);
    }
    msa_engine_mode(0, 0, 1);
    check_end(&c);
}

/* ---- Effect ---------------------------------------------------------------------------------------------- */

static simt_counters count(const trial *t, const char *kernel)
{
    msa_arrays a;
    if (trial_run(t, table_find(kernel, "simt"), &a) != MSA_OK)
        abort();
    return *simt_counts();
}

// A value that changes what a kernel does changes what it moves, launches or waits for.
static void has_effect(int parameter, const char *kernel, int a, int b)
{
    const msa_shape prompt = {24, 1024, 8, 1, 64, 64, 32, 4, 1, NULL, NULL, NULL, NULL},
                    step = {1, 1024, 8, 1, 64, 64, 32, 16, 1, NULL, NULL, NULL, NULL};
    trial t;
    if (!trial_begin(&t, strstr(kernel, "decode") ? &step : &prompt, SELECTION_HOT, 1, MSA_BF16))
        abort();
    msa_tune(msa_engine(), parameter, a);
    const simt_counters first = count(&t, kernel);
    msa_tune(msa_engine(), parameter, b);
    const simt_counters then = count(&t, kernel);
    reset();
    trial_end(&t);
    tap(first.launches != then.launches || first.blocks != then.blocks ||
            first.store_bytes != then.store_bytes || first.load_bytes != then.load_bytes,
        "%s: %s does something else at %d than at %d", msa_tunables[parameter].name, kernel, a, b);
}

static void ranges(void)
{
    check_case c =
        check_begin("a value out of range, and a parameter that is none, are refused and change nothing");
    const msa_device *engine = msa_engine();
    for (int i = 0; i < MSA_N_TUNABLES; i++) {
        const msa_tunable *p = &msa_tunables[i];
        check_true(&c, engine->tuned[i] == p->on_engine, "%s begins with its preset", p->name);
        check_true(&c,
                   msa_tune(engine, i, p->least - 1) == MSA_ERR_SIZE &&
                       msa_tune(engine, i, p->most + 1) == MSA_ERR_SIZE,
                   "%s", p->name);
        check_true(&c, engine->tuned[i] == p->on_engine, "%s is as it was", p->name);
        check_true(&c, p->least <= p->preset && p->preset <= p->most, "%s: its preset is in range", p->name);
        for (int n = 0; n < 8 && p->tries[n]; n++)
            check_true(&c, p->least <= p->tries[n] && p->tries[n] <= p->most && p->tries[n] != p->preset,
                       "%s: %d is in range, and another", p->name, p->tries[n]);
    }
    check_true(&c,
               msa_tune(engine, MSA_N_TUNABLES, 1) == MSA_ERR_SIZE &&
                   msa_tune(engine, -1, 1) == MSA_ERR_SIZE && msa_tune(NULL, 0, 1) == MSA_ERR_NULL,
               "no such parameter");
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    ranges();
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        agrees(i);
    has_effect(MSA_TUNE_kv_outer_chunk, "sparse/kv_outer", 4096, 20);
    has_effect(MSA_TUNE_kv_outer_chunk_most, "sparse/kv_outer", 16384, 20);
    has_effect(MSA_TUNE_auto_crossing, "prefill/auto", 100, 800);
    has_effect(MSA_TUNE_sweep_item, "backward/hopper", 8192, 16);
    has_effect(MSA_TUNE_kv_outer_item, "sparse/kv_outer", 32, 1);
    has_effect(MSA_TUNE_sweep_chunk, "backward/hopper", 32768, 20);
    has_effect(MSA_TUNE_index_part_cost, "index/fused", 0, 1000);
    has_effect(MSA_TUNE_screen_rows, "index/screened", 65536, 20);
    has_effect(MSA_TUNE_attend_parts, "decode/swapped", 1, 132);
    return check_done();
}
#endif
