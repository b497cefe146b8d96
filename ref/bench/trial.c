/* Kernels on the CPU engine, on inputs that all of them share. */
#include "trial.h"

#include <stdlib.h>
#include <string.h>

#include "../judge/inputs.h"
#include "../stages.h"
#include "../table/table.h"

/* ---- Inputs --------------------------------------------------------------------------------------- */

/* What one stage leaves to another. */
#define LEFT (ARRAY_BIT(SCORES) | ARRAY_BIT(IDS) | ARRAY_BIT(INDEX_LSE) | ARRAY_BIT(O) | ARRAY_BIT(LSE))

/* The first half of an array's room, where it is bf16, else all of it. */
static bool take(const trial *t, msa_arrays *of, unsigned set)
{
    bool ok = true;
    for (array_id a = 0; a < ARRAY_N; a++) {
        void *p = HAS(set, a) ? t->engine->alloc((size_t)array_count(&t->shape, NULL, a) * 4) : NULL;
        array_set(of, a, p);
        ok = ok && (p || !HAS(set, a));
    }
    return ok;
}

static void give(const trial *t, const msa_arrays *of)
{
    for (array_id a = 0; a < ARRAY_N; a++)
        if (array_get(of, a))
            t->engine->free(array_get(of, a));
}

static void round_to_bf16(uint16_t *to, const float *x,
                          int64_t n) /* in place too: halves stay behind floats */
{
    for (int64_t i = 0; i < n; i++)
        to[i] = msa_bf16_bits(x[i]);
}

/* What the forward pass leaves: the scores that the index would hand on, O in the trial's type, log-sum-exps.
 */
static bool forward(trial *t, const inputs *in, void *work)
{
    const msa_shape *s = &t->shape;
    msa_arrays a = inputs_arrays(in);
    a.scores = t->in.scores;
    bool ok = msa_fast_ops.stage[MSA_STAGE_INDEX]->run(s, &a, work) == MSA_OK;
    a.ids = t->in.ids, a.o = t->in.o, a.lse = t->in.lse;
    ok = ok && msa_fast_ops.stage[MSA_STAGE_SPARSE]->run(s, &a, work) == MSA_OK &&
         msa_index_lse(s, in->qi, in->ki, t->in.ids, array_get(&t->in, ARRAY_INDEX_LSE)) == MSA_OK;
    if (ok && t->out == MSA_BF16)
        round_to_bf16(array_get(&t->in, ARRAY_O), t->in.o, array_count(s, NULL, ARRAY_O));
    return ok;
}

static bool fill(trial *t, const inputs *in)
{
    const msa_shape *s = &t->shape;
    const msa_arrays given = inputs_arrays(in);
    const unsigned halves =
        ARRAY_BIT(Q) | ARRAY_BIT(K) | ARRAY_BIT(V) | ARRAY_BIT(QI) | ARRAY_BIT(KI) | ARRAY_BIT(DOUT);
    bool ok = take(t, &t->in, halves | LEFT);
    ok = take(t, &t->outputs, ~halves & ~(ARRAY_BIT(LSE) | ARRAY_BIT(INDEX_LSE))) && ok;
    t->outputs.loss = t->engine->alloc(sizeof(double));
    t->by_block = t->engine->alloc((size_t)array_count(s, NULL, ARRAY_SCORES) * sizeof *t->by_block);
    void *work = malloc(msa_workspace(&msa_fast_ops, s) + 1);
    if (ok && t->outputs.loss && t->by_block && work) {
        for (array_id a = 0; a < ARRAY_N; a++)
            if (HAS(halves, a))
                round_to_bf16(array_get(&t->in, a), array_get(&given, a), array_count(s, NULL, a));
        selection_draw(s, t->kind, (uint64_t)t->seed, array_get(&t->in, ARRAY_IDS));
        ok = forward(t, in, work);
        for (int r = 0; ok && r < s->n_kv_heads; r++)
            msa_scores_turn(s, t->in.scores, r, 0, msa_n_blocks(s),
                            t->by_block + r * msa_n_blocks(s) * s->n_q);
    } else
        ok = false;
    free(work);
    return ok;
}

bool trial_begin(trial *t, const msa_shape *s, selection_kind kind, int64_t seed, msa_dtype out)
{
    inputs in;
    *t = (trial){.shape = *s, .kind = kind, .seed = seed, .out = out, .engine = table_device("simt")};
    bool ok = inputs_new(&in, s, INPUTS_NORMAL, (uint64_t)seed);
    if (ok) {
        ok = fill(t, &in);
        inputs_free(&in);
    }
    if (!ok)
        trial_end(t);
    return ok;
}

void trial_end(trial *t)
{
    give(t, &t->in);
    give(t, &t->outputs);
    if (t->outputs.loss)
        t->engine->free(t->outputs.loss);
    if (t->by_block)
        t->engine->free(t->by_block);
    *t = (trial){0};
}

/* ---- Running -------------------------------------------------------------------------------------- */

/* The arrays of a kernel's stage; those that the stage does not have stay NULL, and so do log-sum-exps. */
static msa_arrays arrays_for(const trial *t, msa_stage stage, const char *name)
{
    const stage_line of = arrays_of(stage);
    msa_arrays a = {.weight = 1, .loss = stage == MSA_STAGE_KL ? t->outputs.loss : NULL};
    for (array_id i = 0; i < ARRAY_N; i++) {
        void *at = HAS(of.in, i) ? array_get(&t->in, i) : HAS(of.out, i) ? array_get(&t->outputs, i) : NULL;
        array_set(&a, i, at);
    }
    if (stage == MSA_STAGE_INDEX)
        a.scores = NULL;
    if (stage == MSA_STAGE_PREFILL)
        a.forced_ids = t->in.ids;
    if (msa_takes_scores_by_block(name))
        a.scores = t->by_block;
    return a;
}

msa_status trial_run(const trial *t, const msa_kernel *kernel, msa_arrays *ran)
{
    char name[KERNEL_NAME];
    msa_plan plan;
    kernel_name(kernel, name);
    msa_status status = msa_plan_make(&plan, t->engine, name, &t->shape, t->out);
    if (status != MSA_OK)
        return status;
    void *work = t->engine->alloc(plan.workspace);
    if (!work)
        return MSA_ERR_SIZE;
    *ran = arrays_for(t, kernel->stage, name);
    status = msa_plan_run(&plan, ran, work, NULL);
    if (status == MSA_ERR_UNSUPPORTED && kernel->stage == MSA_STAGE_INDEX) {
        ran->ids = NULL;
        ran->scores = t->outputs.scores;
        status = msa_plan_run(&plan, ran, work, NULL);
    }
    t->engine->free(work);
    return status;
}

#ifndef HAVE_SIMT /* Nobody calls these: table_device() has no engine. */
const simt_counters *simt_counts(void)
{
    static const simt_counters none;
    return &none;
}
void simt_record(int64_t block)
{
    (void)block;
}
const simt_event *simt_events(size_t *n)
{
    *n = 0;
    return NULL;
}
simt_model simt_costs(void)
{
    return (simt_model){0};
}
#endif
