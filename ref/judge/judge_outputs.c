/* The buffers of a judgement, and what is found in them held against the reference's. */
#include "judge_outputs.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_TIES 0.001

size_t judge_count(const msa_shape *s, array_id a)
{
    return (size_t)array_count(s, NULL, a);
}

// What a stage may write that roundings to bf16 within it move; and what the forward pass leaves.
#define NOISY (ARRAY_BIT(O) | ARRAY_BIT(DQ) | ARRAY_BIT(DK) | ARRAY_BIT(DV) | ARRAY_BIT(DQI) | ARRAY_BIT(DKI))
#define FORWARD (ARRAY_BIT(SCORES) | ARRAY_BIT(IDS) | ARRAY_BIT(INDEX_LSE) | ARRAY_BIT(O) | ARRAY_BIT(LSE))

bool judge_open(judgement *j)
{
    const msa_shape *s = j->s;
    const unsigned out = arrays_of(j->kernel->stage).out;
    size_t widest = 0;
    bool ok = true;
    for (array_id a = 0; a < ARRAY_N; a++) {
        if (HAS(out | FORWARD, a))
            ok = (j->oracle[a] = malloc(judge_count(s, a) * 4)) != NULL && ok;
        if (HAS(out, a))
            ok = guard_new(&j->found[a], judge_count(s, a) * 4) && ok;
        if (j->kernel->precision >= MSA_BF16_WEIGHTS && HAS(out & NOISY, a))
            ok = (j->noise[a] = malloc(judge_count(s, a) * sizeof(double))) != NULL && ok;
        widest = judge_count(s, a) > widest ? judge_count(s, a) : widest;
    }
    j->drawn_ids = malloc(judge_count(s, ARRAY_IDS) * sizeof(int32_t));
    j->oracle_work = malloc(msa_workspace(&msa_ref_ops, s) + 1); // +1: malloc(0) may be NULL
    j->wide = malloc(widest * sizeof(double));
    ok = guard_new(&j->work, j->kernel->workspace(s)) && ok;
    if (j->kernel->precision >= MSA_BF16_INPUTS) {
        ok = inputs_rounded(&j->rounded, j->in, s) && ok;
        j->in = &j->rounded;
    }
    return ok && j->drawn_ids && j->oracle_work && j->wide;
}

void judge_close(judgement *j)
{
    for (array_id a = 0; a < ARRAY_N; a++) {
        free(j->oracle[a]);
        guard_free(&j->found[a]);
        free(j->noise[a]);
    }
    free(j->drawn_ids);
    free(j->oracle_work);
    free(j->wide);
    inputs_free(&j->rounded);
    guard_free(&j->work);
}

/* ---- Verdicts ------------------------------------------------------------------------------------ */

__attribute__((format(printf, 2, 3))) void judge_fail(judgement *j, const char *fmt, ...)
{
    if (j->report.outcome != JUDGE_PASS)
        return;
    j->report.outcome = JUDGE_FAIL;
    va_list args;
    va_start(args, fmt);
    vsnprintf(j->report.text, VERDICT_TEXT, fmt, args);
    va_end(args);
}

static void weigh(judgement *j, const char *what, const verdict *v)
{
    char text[VERDICT_TEXT];
    verdict_text(what, v, text);
    if (!v->pass)
        judge_fail(j, "%s", text);
    else if (j->report.outcome == JUDGE_PASS && v->used >= j->report.used)
        snprintf(j->report.text, VERDICT_TEXT, "%s", text);
    j->report.used = v->used > j->report.used ? v->used : j->report.used;
}

bool judge_is_sound(judgement *j, const guard *g, const char *name, const char *support)
{
    if (!guard_intact(g))
        judge_fail(j, "%s (%s): written outside the buffer", name, support);
    else if (guard_unwritten(g) >= 0)
        judge_fail(j, "%s (%s): element %lld not written", name, support, (long long)guard_unwritten(g));
    return j->report.outcome == JUDGE_PASS;
}

static void judge_floats(judgement *j, array_id a, const char *support)
{
    const float *oracle = j->oracle[a];
    for (size_t i = 0; i < judge_count(j->s, a); i++)
        j->wide[i] = (double)oracle[i];
    char what[VERDICT_TEXT];
    snprintf(what, sizeof what, "%s (%s)", array_name(a), support);
    verdict_budget budget = verdict_float32(j->s, j->in, a, KL_WEIGHT);
    budget.noise = j->noise[a];
    const verdict v = verdict_compare(verdict_dims_of(j->s, a), j->wide, j->found[a].data, budget);
    weigh(j, what, &v);
}

void judge_words(judgement *j, array_id a, const char *support)
{
    const int32_t *found = j->found[a].data, *expected = j->oracle[a];
    for (size_t i = 0; i < judge_count(j->s, a); i++)
        if (found[i] != expected[i]) {
            judge_fail(j, "%s[%zu] (%s): expected %d, found %d", array_name(a), i, support, expected[i],
                       found[i]);
            return;
        }
}

void judge_selection(judgement *j)
{
    const int32_t *ids = j->found[ARRAY_IDS].data;
    if (msa_check_ids(j->s, ids) != MSA_OK) {
        judge_fail(j, "ids: %s", msa_strerror(MSA_ERR_IDS));
        return;
    }
    bool ok;
    const double tolerance = inputs_is_exact(j->in->pattern) ? 0 : 1;
    const verdict_selection v = verdict_ids(j->s, j->in->qi, j->in->ki, ids, tolerance, MAX_TIES, &ok);
    j->report.n_ids += v.n_ids;
    j->report.n_ties += v.n_ties;
    if (!ok)
        j->report.outcome = JUDGE_NO_MEMORY;
    else if (!v.pass)
        judge_fail(j, "ids: %lld of %lld wrong, %lld ties; first wrong: query %lld, group %d",
                   (long long)v.n_wrong, (long long)v.n_ids, (long long)v.n_ties, (long long)v.query,
                   v.group);
}

void judge_outputs(judgement *j, unsigned set, const char *support)
{
    if (!guard_intact(&j->work))
        judge_fail(j, "work (%s): written outside the buffer", support);
    for (array_id a = 0; a < ARRAY_N; a++) {
        if (!HAS(set, a) || !judge_is_sound(j, &j->found[a], array_name(a), support))
            continue;
        if (array_element(a) == ELEMENT_INTEGER)
            judge_words(j, a, support);
        else
            judge_floats(j, a, support);
    }
}
