/* Kernels on the CPU engine, on inputs that all of them share. */
#include "trial.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "../judge/inputs.h"
#include "../judge/table.h"

/* ---- Options -------------------------------------------------------------------------------------- */

static int read_output(const char *command, const char *text, msa_dtype *out)
{
    *out = MSA_BF16;
    if (text && strcmp(text, "f32") == 0)
        *out = MSA_F32;
    else if (text && strcmp(text, "bf16") != 0)
        return cli_fail(command, "--output: expected bf16 or f32, found '%s'", text);
    return 0;
}

static int read_shape(const char *command, const char *text, msa_shape *s)
{
    int bad = text ? case_read_shape(command, text, s) : 0;
    return bad ? bad : case_check_shape(command, text, s);
}

/* ---- Inputs --------------------------------------------------------------------------------------- */

static void *room(const trial *t, const char *sizes, size_t element)
{
    int64_t dim[IO_MAX_DIMS];
    return t->engine->alloc((size_t)cli_sizes(&t->shape, sizes, dim) * element);
}

static uint16_t *bf16(const trial *t, const char *sizes, const float *x)
{
    int64_t dim[IO_MAX_DIMS];
    const int64_t n = cli_sizes(&t->shape, sizes, dim);
    uint16_t *y = room(t, sizes, sizeof *y);
    for (int64_t i = 0; y && i < n; i++)
        y[i] = msa_bf16_bits(x[i]);
    return y;
}

/* What the index would hand to a selection kernel. */
static float *true_scores(const trial *t, const inputs *in)
{
    const msa_kernel *index = msa_fast_ops.stage[MSA_STAGE_INDEX];
    float *scores = room(t, "GTB", sizeof *scores);
    void *work = malloc(index->workspace(&t->shape) + 1);
    const bool ok =
        scores && work && index->index(&t->shape, in->qi, in->ki, scores, NULL, NULL, work) == MSA_OK;
    free(work);
    if (!ok) {
        free(scores);
        scores = NULL;
    }
    return scores;
}

static float *turned(const trial *t, const float *scores)
{
    const msa_shape *s = &t->shape;
    float *by_block = scores ? room(t, "GTB", sizeof *by_block) : NULL;
    for (int r = 0; by_block && r < s->n_kv_heads; r++)
        msa_scores_turn(s, scores, r, 0, msa_n_blocks(s), by_block + r * msa_n_blocks(s) * s->n_q);
    return by_block;
}

/* What the forward pass leaves for the gradients: O in the trial's type, and the log-sum-exps. */
static bool forward(trial *t, const inputs *in)
{
    const msa_shape *s = &t->shape;
    int64_t dim[IO_MAX_DIMS];
    const int64_t n = cli_sizes(s, "THd", dim);
    float *o = room(t, "THd", sizeof *o);
    void *work = malloc(msa_fast_ops.stage[MSA_STAGE_SPARSE]->workspace(s) + 1);
    t->in.o = o;
    t->in.lse = room(t, "TH", sizeof(float));
    t->in.index_lse = room(t, "GT", sizeof(float));
    const bool ok = o && work && t->in.lse && t->in.index_lse &&
                    msa_fast_ops.stage[MSA_STAGE_SPARSE]->sparse(s, in->q, in->k, in->v, t->in.ids, o,
                                                                 t->in.lse, work) == MSA_OK &&
                    msa_index_lse(s, in->qi, in->ki, t->in.ids, t->in.index_lse) == MSA_OK;
    for (int64_t i = 0; ok && t->out == MSA_BF16 && i < n; i++)
        ((uint16_t *)o)[i] = msa_bf16_bits(o[i]); /* in place: the halves stay behind the floats */
    free(work);
    return ok;
}

static bool fill(trial *t, const inputs *in)
{
    const msa_shape *s = &t->shape;
    int32_t *ids = room(t, "GTk", sizeof *ids);
    if (ids)
        selection_draw(s, t->kind, (uint64_t)t->seed, ids);
    t->in = (msa_arrays){.q = bf16(t, "THd", in->q),
                         .k = bf16(t, "SGd", in->k),
                         .v = bf16(t, "SGd", in->v),
                         .qi = bf16(t, "TGi", in->qi),
                         .ki = bf16(t, "Si", in->ki),
                         .scores = true_scores(t, in),
                         .ids = ids};
    t->in.scores_by_block = turned(t, t->in.scores);
    t->in.dout = bf16(t, "THd", in->dout);
    const size_t first = (size_t)(msa_n_seqs(s) * s->n_kv_heads * (msa_n_blocks(s) + 1));
    const size_t items = (size_t)msa_first_item(s, msa_n_seqs(s));
    t->room = (msa_arrays){.scores = room(t, "GTB", sizeof(float)),
                           .ids = room(t, "GTk", sizeof(int32_t)),
                           .o = room(t, "THd", sizeof(float)),
                           .first = t->engine->alloc(first * sizeof(int32_t)),
                           .entries = room(t, "GTk", sizeof(uint32_t)),
                           .items = t->engine->alloc(items * sizeof(msa_item)),
                           .dq = room(t, "THd", sizeof(float)),
                           .dk = room(t, "SGd", sizeof(float)),
                           .dv = room(t, "SGd", sizeof(float)),
                           .dqi = room(t, "TGi", sizeof(float)),
                           .dki = room(t, "Si", sizeof(float)),
                           .loss = t->engine->alloc(sizeof(double))};
    return t->room.dq && t->room.dk && t->room.dv && t->room.dqi && t->room.dki && t->room.loss &&
           t->in.dout && ids && forward(t, in) && t->in.q && t->in.k && t->in.v && t->in.qi && t->in.ki &&
           t->in.scores_by_block && ids && t->room.scores && t->room.ids && t->room.o && t->room.first &&
           t->room.entries && t->room.items;
}

int trial_begin(const char *command, const trial_options *options, const msa_shape *standard, trial *t)
{
    inputs in;
    *t = (trial){.shape = *standard, .seed = options->seed, .engine = table_device("simt")};
    int bad = read_shape(command, options->shape, &t->shape);
    if (!bad)
        bad = case_read_distribution(command, options->distribution ? options->distribution : "random",
                                     &t->kind);
    if (!bad)
        bad = read_output(command, options->output, &t->out);
    if (bad)
        return bad;
    bool ok = inputs_new(&in, &t->shape, INPUTS_NORMAL, (uint64_t)options->seed);
    if (ok) {
        ok = fill(t, &in);
        inputs_free(&in);
    }
    if (!ok) {
        trial_end(t);
        return cli_fail(command, "expected memory for the inputs, found too little");
    }
    return 0;
}

void trial_end(trial *t)
{
    void *const all[] = {(void *)t->in.q,  (void *)t->in.k,  (void *)t->in.v,
                         (void *)t->in.qi, (void *)t->in.ki, (void *)t->in.scores_by_block,
                         t->in.scores,     t->in.ids,        t->room.scores,
                         t->room.ids,      t->room.o,        t->room.first,
                         t->room.entries,  t->room.items,    (void *)t->in.dout,
                         t->in.o,          t->in.lse,        t->in.index_lse,
                         t->room.dq,       t->room.dk,       t->room.dv,
                         t->room.dqi,      t->room.dki,      t->room.loss};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i])
            t->engine->free(all[i]);
    *t = (trial){0};
}

/* ---- Running -------------------------------------------------------------------------------------- */

int trial_find(const char *command, const cli_list *names, const msa_kernel **found, int most, int *n)
{
    const msa_kernel *kernel;
    if (!table_device("simt"))
        return cli_fail(command, "expected the CPU engine, found a build without a C++ compiler");
    if (names->n == 0)
        return cli_fail(command,
                        "expected a STAGE/NAME or STAGE that 'msa kernels' lists with simt, found none");
    for (int a = 0; a < names->n; a++) {
        const int before = *n;
        bool known = false;
        for (int i = 0; (kernel = table_at(i)) != NULL; i++)
            if (strcmp(kernel->backend, "simt") == 0 && case_means(names->item[a], kernel)) {
                known = true;
                bool again = false;
                for (int b = 0; b < before; b++)
                    again = again || found[b] == kernel;
                if (!again && *n < most)
                    found[(*n)++] = kernel;
            }
        if (!known)
            return cli_fail(command,
                            "expected a STAGE/NAME or STAGE that 'msa kernels' lists with simt, found '%s'",
                            names->item[a]);
    }
    return 0;
}

/* The arrays of a kernel's stage; those that the stage does not have stay NULL. */
static msa_arrays arrays_of(const trial *t, msa_stage stage)
{
    const msa_arrays *in = &t->in, *to = &t->room;
    switch (stage) {
    case MSA_STAGE_DENSE:
    case MSA_STAGE_DENSE_DECODE:
        return (msa_arrays){.q = in->q, .k = in->k, .v = in->v, .o = to->o};
    case MSA_STAGE_INDEX:
        return (msa_arrays){.qi = in->qi, .ki = in->ki, .ids = to->ids};
    case MSA_STAGE_TOPK:
        return (msa_arrays){.scores = in->scores, .scores_by_block = in->scores_by_block, .ids = to->ids};
    case MSA_STAGE_REVERSE:
        return (msa_arrays){.ids = in->ids, .first = to->first, .entries = to->entries, .items = to->items};
    case MSA_STAGE_SPARSE:
        return (msa_arrays){.q = in->q, .k = in->k, .v = in->v, .ids = in->ids, .o = to->o};
    case MSA_STAGE_DENSE_BACKWARD:
    case MSA_STAGE_BACKWARD:
        return (msa_arrays){.q = in->q,
                            .k = in->k,
                            .v = in->v,
                            .ids = stage == MSA_STAGE_BACKWARD ? in->ids : NULL,
                            .o = in->o,
                            .lse = in->lse,
                            .dout = in->dout,
                            .dq = to->dq,
                            .dk = to->dk,
                            .dv = to->dv};
    case MSA_STAGE_KL:
        return (msa_arrays){.q = in->q,
                            .k = in->k,
                            .qi = in->qi,
                            .ki = in->ki,
                            .ids = in->ids,
                            .lse = in->lse,
                            .index_lse = in->index_lse,
                            .dqi = to->dqi,
                            .dki = to->dki,
                            .loss = to->loss,
                            .weight = 1};
    default: /* only prefill takes `instead` */
        return (msa_arrays){.q = in->q,
                            .k = in->k,
                            .v = in->v,
                            .qi = in->qi,
                            .ki = in->ki,
                            .ids = to->ids,
                            .instead = in->ids,
                            .o = to->o};
    }
}

msa_status trial_run(const trial *t, const msa_kernel *kernel, msa_arrays *ran)
{
    char name[64];
    msa_plan plan;
    snprintf(name, sizeof name, "%s/%s", msa_stage_name(kernel->stage), kernel->name);
    msa_status status = msa_plan_make(&plan, t->engine, name, &t->shape, t->out);
    if (status != MSA_OK)
        return status;
    void *work = t->engine->alloc(plan.workspace);
    if (!work)
        return MSA_ERR_SIZE;
    *ran = arrays_of(t, kernel->stage);
    status = msa_plan_run(&plan, ran, work, NULL);
    if (status == MSA_ERR_UNSUPPORTED && kernel->stage == MSA_STAGE_INDEX) {
        ran->ids = NULL;
        ran->scores = t->room.scores;
        status = msa_plan_run(&plan, ran, work, NULL);
    }
    t->engine->free(work);
    return status;
}
#ifndef HAVE_SIMT /* trial_find() has said so: nobody calls these */
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

int trial_failed(const char *command, const msa_kernel *kernel, msa_status status)
{
    if (status == MSA_ERR_DEVICE)
        return cli_fail(command, "%s/%s: %s", msa_stage_name(kernel->stage), kernel->name,
                        table_trouble(kernel));
    return cli_fail(command, "%s/%s: expected a shape that it takes (%s), found: %s",
                    msa_stage_name(kernel->stage), kernel->name, kernel->constraints, msa_strerror(status));
}
