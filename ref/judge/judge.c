/**
 * @file judge.c
 * @brief Runs one kernel and the reference on the same inputs and compares what they wrote.
 */
#include "judge_outputs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../cuda/host/host.h"
#include "../table/table.h"
#include "copy8.h"
#include "guard.h"
#include "noise.h"
#include "paging.h"
#include "selections.h"

/* ---- Runs ---------------------------------------------------------------------------------------- */

// False if there is nothing to compare: the kernel does not take this, or it failed.
static bool accepted(judgement *j, msa_status status)
{
    if (status == MSA_ERR_UNSUPPORTED && j->report.outcome == JUDGE_PASS)
        j->report.outcome = JUDGE_UNSUPPORTED;
    else if (table_no_memory(j->kernel, status))
        j->report.outcome = JUDGE_NO_MEMORY;
    else if (status != MSA_OK)
        judge_fail(j, "%s", status == MSA_ERR_DEVICE ? table_trouble(j->kernel) : msa_strerror(status));
    return status == MSA_OK;
}

// Where the kernel is to write: poisoned, so that every element has to be written.
static msa_arrays with_outputs(judgement *j, msa_arrays arrays, unsigned set)
{
    for (array_id a = 0; a < ARRAY_N; a++)
        if (HAS(set, a)) {
            guard_poison(&j->found[a]);
            array_set(&arrays, a, j->found[a].data);
        }
    arrays.weight = KL_WEIGHT;
    arrays.loss = &j->loss;
    arrays.screening = &j->report.screening;
    return arrays;
}

// What the reference makes of the same.
static void run_reference(judgement *j, msa_stage stage, msa_arrays arrays)
{
    for (array_id a = 0; a < ARRAY_N; a++)
        if (HAS(arrays_of(stage).out, a))
            array_set(&arrays, a, j->oracle[a]);
    arrays.weight = KL_WEIGHT;
    arrays.loss = &j->oracle_loss;
    msa_ref_ops.stage[stage]->run(j->s, &arrays, j->oracle_work);
}

// How far the kernel's roundings may move what it writes; false if there is no memory to say it.
static bool know_noise(judgement *j, const int32_t *ids)
{
    if (!noise_of(j->s, j->in, ids, j->kernel->precision, KL_WEIGHT, j->noise))
        j->report.outcome = JUDGE_NO_MEMORY;
    return j->report.outcome != JUDGE_NO_MEMORY;
}

// A random walk has no equal steps, but where inputs repeat themselves so do roundings, and all in one
// direction. So the noise is nowhere less than what they do to the reference: it rounds P and dS at the same
// places.
static void add_reference_noise(judgement *j, const int32_t *ids)
{
    const inputs *in = j->in;
    if (!j->noise[ARRAY_DQ])
        return;
    msa_backward_bf16(j->s, in->q, in->k, in->v, ids, NULL, NULL, in->dout, j->found[ARRAY_DQ].data,
                      j->found[ARRAY_DK].data, j->found[ARRAY_DV].data, j->oracle_work);
    for (array_id a = ARRAY_DQ; a <= ARRAY_DV; a++) {
        const float *rounded = j->found[a].data, *oracle = j->oracle[a];
        for (size_t i = 0; i < judge_count(j->s, a); i++)
            j->noise[a][i] = fmax(j->noise[a][i], fabs((double)rounded[i] - (double)oracle[i]));
    }
}

/* ---- Stages -------------------------------------------------------------------------------------- */

// A stage whose outputs the reference makes of the same arrays.
static void judge_given(judgement *j, msa_arrays given, const char *support)
{
    const msa_stage stage = j->kernel->stage;
    const unsigned out = arrays_of(stage).out;
    if (!know_noise(j, given.ids))
        return;
    run_reference(j, stage, given);
    add_reference_noise(j, given.ids);
    const msa_arrays run = with_outputs(j, given, out);
    if (accepted(j, j->kernel->run(j->s, &run, j->work.data)))
        judge_outputs(j, out, support);
}

// The loss with gradients, then alone.
static void judge_loss(judgement *j, msa_arrays given, const char *support)
{
    for (int alone = 0; alone < 2 && j->report.outcome == JUDGE_PASS; alone++) {
        if (alone) {
            const msa_arrays run = with_outputs(j, given, 0);
            if (!accepted(j, j->kernel->run(j->s, &run, j->work.data)))
                return;
        } else
            judge_given(j, given, support);
        const verdict_budget budget = verdict_float32_kl(j->s, j->in, j->oracle_loss);
        if (j->report.outcome == JUDGE_PASS && !(fabs(j->loss - j->oracle_loss) <= budget.absolute))
            judge_fail(j, "kl (%s%s): expected %.12g, found %.12g, allowed %.2g", support,
                       alone ? ", alone" : "", j->oracle_loss, j->loss, budget.absolute);
    }
}

// What there is to compare with where a kernel scores blocks in its own way: the scores that it gives alone,
// and the ids that follow from them. They may not tell of keys that the query does not see. False if there is
// nothing.
static bool know_own_scores(judgement *j)
{
    float *scores = j->oracle[ARRAY_SCORES], *other = inputs_other_ends(j->s, j->in->ki);
    const msa_arrays first = with_outputs(j, inputs_arrays(j->in), ARRAY_BIT(SCORES));
    bool ok = accepted(j, j->kernel->run(j->s, &first, j->work.data)) &&
              judge_is_sound(j, &j->found[ARRAY_SCORES], "scores", "alone");
    if (ok) {
        memcpy(scores, first.scores, judge_count(j->s, ARRAY_SCORES) * sizeof *scores);
        msa_topk(j->s, scores, j->oracle[ARRAY_IDS], j->oracle_work);
        msa_arrays blind = with_outputs(j, inputs_arrays(j->in), ARRAY_BIT(IDS));
        blind.ki = other;
        ok = other && accepted(j, j->kernel->run(j->s, &blind, j->work.data));
        if (ok)
            judge_words(j, ARRAY_IDS, "other keys behind");
    }
    if (!other)
        j->report.outcome = JUDGE_NO_MEMORY;
    free(other);
    return ok;
}

// Every output alone, ids with their LSE, and all together, since an index kernel may produce only some of
// them.
static void judge_index(judgement *j, const msa_index8 *copy)
{
    static const unsigned combination[] = {ARRAY_BIT(SCORES), ARRAY_BIT(IDS), ARRAY_BIT(INDEX_LSE),
                                           ARRAY_BIT(IDS) | ARRAY_BIT(INDEX_LSE),
                                           ARRAY_BIT(SCORES) | ARRAY_BIT(IDS) | ARRAY_BIT(INDEX_LSE)};
    const inputs *in = j->in;
    bool supported = false;
    if (j->kernel->own_rule && !know_own_scores(j))
        return;
    for (int n = 0; n < 5 && j->report.outcome == JUDGE_PASS; n++) {
        const bool ids = HAS(combination[n], ARRAY_IDS);
        msa_arrays run = with_outputs(j, inputs_arrays(in), combination[n]);
        run.index8 = copy;
        const msa_status status = j->kernel->run(j->s, &run, j->work.data);
        if (status == MSA_ERR_UNSUPPORTED)
            continue;
        supported = true;
        if (!accepted(j, status))
            return;
        if (ids && judge_is_sound(j, &j->found[ARRAY_IDS], "ids", "index")) {
            if (j->kernel->own_rule)
                judge_words(j, ARRAY_IDS, "by its scores");
            else
                judge_selection(j);
        }
        if (j->report.outcome == JUDGE_PASS)
            msa_index_lse(j->s, in->qi, in->ki, ids ? run.ids : j->oracle[ARRAY_IDS],
                          j->oracle[ARRAY_INDEX_LSE]);
        judge_outputs(j, combination[n] & ~ARRAY_BIT(IDS), "index");
    }
    if (!supported && j->report.outcome == JUDGE_PASS)
        j->report.outcome = JUDGE_UNSUPPORTED;
}

/** How the keys of a whole attention come. */
typedef struct step {
    const msa_shape *s;
    msa_arrays given;
    void *work;
    const char *name;
} step;

// The ids first, where there are some; then the output given those ids.
static void judge_step(judgement *j, const step *a)
{
    const unsigned out = arrays_of(j->kernel->stage).out;
    const bool sparse = HAS(out, ARRAY_IDS);
    const int least =
        a->given.pages.table ? 1 : 0; // without LSE where keys are contiguous; with pages that is no news
    for (int want_lse = 1; want_lse >= least && j->report.outcome == JUDGE_PASS; want_lse--) {
        const unsigned wanted = want_lse ? out : out & ~ARRAY_BIT(LSE);
        const msa_arrays run = with_outputs(j, a->given, wanted);
        msa_arrays whole = inputs_arrays(j->in);
        if (!accepted(j, j->kernel->run(a->s, &run, a->work)))
            return;
        if (sparse && judge_is_sound(j, &j->found[ARRAY_IDS], "ids", a->name))
            judge_selection(j);
        if (j->report.outcome != JUDGE_PASS || !know_noise(j, sparse ? run.ids : NULL))
            return;
        whole.ids = run.ids;
        run_reference(j, sparse ? MSA_STAGE_SPARSE : MSA_STAGE_DENSE, whole);
        judge_outputs(j, wanted & ~ARRAY_BIT(IDS), a->name);
    }
}

// Half a block, two of them, one. CUDA kernels take multiples of 16.
static int page_of(const msa_shape *s, uint64_t seed)
{
    const int half = s->block % 32 == 0 ? s->block / 2 : s->block, page[] = {half, 2 * s->block, s->block};
    return page[seed % 3];
}

// What a call brings beside its keys: NULL, unless it is to be screened. The device makes it, and the reference says
// whether it is right.
static const msa_index8 *make_copy(judgement *j, const msa_shape *s, const msa_pages *p, const float *ki,
                                   msa_index8 *copy)
{
    if (!j->codes)
        return NULL;
    msa_index8 right = copy8_new(s, p, ki);
    *copy = copy8_room(s, p);
    if (!right.codes || !copy->codes)
        j->report.outcome = JUDGE_NO_MEMORY;
    else if (accepted(j, host_index8(table_device(j->kernel->backend), s, p, ki, copy)) &&
             !copy8_same(s, p, &right, copy))
        judge_fail(j, "8-bit copy%s: expected that of the reference, found another", p ? " (pages)" : "");
    copy8_free(&right);
    return copy;
}

// The same step once more with its keys in pages, where the queries of all sequences are equally many. A
// kernel that does not take pages, or 8-bit keys, has been judged without.
static void judge_pages(judgement *j, uint64_t seed, bool small)
{
    paging g;
    const inputs *whole = j->in;
    inputs decoded = *whole;
    guard work = {0};
    if (!paging_possible(j->s) || j->report.outcome != JUDGE_PASS)
        return;
    if (paging_new(&g, j->s, whole, page_of(j->s, seed), seed, small) &&
        guard_new(&work, j->kernel->workspace(&g.s))) {
        step a = {&g.s, inputs_arrays(whole), work.data, small ? "8-bit" : "pages"};
        msa_index8 copy = {0};
        a.given.k = g.k, a.given.v = g.v, a.given.ki = small ? NULL : g.ki, a.given.pages = g.p;
        a.given.index8 = make_copy(j, &g.s, &g.p, g.ki, &copy);
        decoded.ki = g.decoded;
        j->in = small ? &decoded : whole;
        judge_step(j, &a);
        copy8_free(&copy);
        if (j->report.outcome == JUDGE_UNSUPPORTED)
            j->report.outcome = JUDGE_PASS;
        if (!guard_intact(&work))
            judge_fail(j, "work (%s): written outside the buffer", a.name);
        j->in = whole;
    } else
        j->report.outcome = JUDGE_NO_MEMORY;
    paging_free(&g);
    guard_free(&work);
}

static void judge_whole(judgement *j, const msa_index8 *copy, uint64_t seed)
{
    step a = {j->s, inputs_arrays(j->in), j->work.data, msa_stage_name(j->kernel->stage)};
    a.given.index8 = copy;
    judge_step(j, &a);
    if (j->kernel->stage == MSA_STAGE_DECODE || j->kernel->stage == MSA_STAGE_DENSE_DECODE)
        judge_pages(j, seed, false);
    if (j->kernel->stage == MSA_STAGE_DECODE && !copy) // which keys of 8 bits leave alone
        judge_pages(j, seed, true);
}

// With what the forward pass leaves, for this support.
static void judge_support(judgement *j, const int32_t *ids, const char *support)
{
    const inputs *in = j->in;
    const msa_stage stage = j->kernel->stage;
    msa_arrays given = inputs_arrays(in);
    given.ids = ids;
    if (HAS(arrays_of(stage).in, ARRAY_LSE)) {
        run_reference(j, ids ? MSA_STAGE_SPARSE : MSA_STAGE_DENSE, given);
        msa_index_lse(j->s, in->qi, in->ki, ids, j->oracle[ARRAY_INDEX_LSE]);
    }
    given.o = j->oracle[ARRAY_O], given.lse = j->oracle[ARRAY_LSE];
    given.index_lse = ids ? j->oracle[ARRAY_INDEX_LSE] : NULL; // a warmup has none: the kernel makes it
    if (stage == MSA_STAGE_KL)
        judge_loss(j, given, support);
    else
        judge_given(j, given, support);
}

static void for_each_support(judgement *j, uint64_t seed)
{
    static const selection_kind drawn[] = {SELECTION_ANY, SELECTION_ENDS, SELECTION_LOCAL};
    const stage_line of = arrays_of(j->kernel->stage);
    if (HAS(of.in, ARRAY_IDS))
        judge_support(j, j->oracle[ARRAY_IDS], "selected ids");
    for (int i = 0; HAS(of.in, ARRAY_IDS) && i < 3; i++) {
        selection_draw(j->s, drawn[i], seed, j->drawn_ids);
        judge_support(j, j->drawn_ids, selection_name(drawn[i]));
    }
    if (!HAS(of.in & ~of.optional, ARRAY_IDS))
        judge_support(j, NULL, "full support");
}

static void judge_stage(judgement *j, uint64_t seed)
{
    const inputs *in = j->in;
    msa_arrays scores = {.scores = j->oracle[ARRAY_SCORES]};
    msa_index8 made = {0};
    const msa_index8 *copy = make_copy(j, j->s, NULL, in->ki, &made);
    msa_index(j->s, in->qi, in->ki, j->oracle[ARRAY_SCORES], j->oracle[ARRAY_IDS], NULL, j->oracle_work);
    switch (j->kernel->stage) {
    case MSA_STAGE_INDEX:
        judge_index(j, copy);
        break;
    case MSA_STAGE_TOPK:
        judge_given(j, scores, "topk");
        break;
    case MSA_STAGE_DENSE:
    case MSA_STAGE_PREFILL:
    case MSA_STAGE_DECODE:
    case MSA_STAGE_DENSE_DECODE:
        judge_whole(j, copy, seed);
        break;
    default:
        for_each_support(j, seed);
    }
    copy8_free(&made);
}

static judge_report judge(judgement j, uint64_t seed)
{
    if (judge_open(&j))
        judge_stage(&j, seed);
    else
        j.report.outcome = JUDGE_NO_MEMORY;
    judge_close(&j);
    return j.report;
}

judge_report judge_kernel(const msa_kernel *k, const msa_shape *s, const inputs *in, uint64_t seed)
{
    return judge((judgement){.kernel = k, .s = s, .in = in}, seed);
}

judge_report judge_screened(const msa_kernel *k, const msa_shape *s, const inputs *in, uint64_t seed)
{
    return judge((judgement){.kernel = k, .s = s, .in = in, .codes = true}, seed);
}
