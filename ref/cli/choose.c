/* Which kernel runs each stage, and the steps of the forward pass that several subcommands share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../cuda/host/plan.h"
#include "../table/table.h"
#include "tuning.h"

/* ---- Choosing ----------------------------------------------------------------------------------- */

static int choose(const char *command, const char *backend, const char *name, unsigned stages, cli_plan *plan)
{
    const msa_kernel *kernel = table_find(name, backend);
    if (!kernel)
        return cli_fail(command, "--kernel: expected a STAGE/NAME that 'msa kernels' lists, found '%s'",
                        name);
    if (!(stages >> kernel->stage & 1))
        return cli_fail(command, "--kernel: expected a stage that runs here, found '%s'", name);
    if (plan->named[kernel->stage])
        return cli_fail(command, "--kernel: expected one %s kernel, found '%s' besides '%s'",
                        msa_stage_name(kernel->stage), name, plan->ops.stage[kernel->stage]->name);
    if (table_missing(kernel->backend))
        return cli_fail(command, "--kernel %s: expected a GPU, found %s", name,
                        table_missing(kernel->backend));
    const int bad = tuning_use(command, kernel->backend);
    if (bad)
        return bad;
    plan->ops.stage[kernel->stage] = kernel;
    plan->named[kernel->stage] = true;
    return 0;
}

int cli_choose_kernels(const char *command, const char *backend, const cli_list *kernels, unsigned stages,
                       cli_plan *plan)
{
    *plan = (cli_plan){.ids_from = NULL};
    if (!table_ops(backend, &plan->ops))
        return cli_fail(command, "--backend: expected %s (this build has no other), found '%s'",
                        table_backends(), backend);
    if (table_missing(backend))
        return cli_fail(command, "--backend %s: expected a GPU, found %s", backend, table_missing(backend));
    int bad = tuning_use(command, backend);
    for (int i = 0; i < kernels->n && !bad; i++)
        bad = choose(command, backend, kernels->item[i], stages, plan);
    return bad;
}

int cli_choose_kernel(const char *command, const char *backend, const char *kernel, msa_stage stage,
                      cli_plan *plan)
{
    char full_name[64];
    cli_list kernels = {0};
    if (kernel) {
        snprintf(full_name, sizeof full_name, "%s%s%s", strchr(kernel, '/') ? "" : msa_stage_name(stage),
                 strchr(kernel, '/') ? "" : "/", kernel);
        kernels = (cli_list){1, {full_name}};
    }
    return cli_choose_kernels(command, backend, &kernels, 1u << stage, plan);
}

int cli_choose_precision(const char *command, const char *backend, const char *precision, msa_ops *ops)
{
    if (!precision)
        return 0;
    if (strcmp(precision, "float32") != 0 && strcmp(precision, "bf16") != 0)
        return cli_fail(command, "--precision: expected float32 or bf16, found '%s'", precision);
    if (!table_prefer_precision(backend, precision, ops))
        return cli_fail(command,
                        "--precision %s: expected a back end with such kernels, found %s, whose are %s",
                        precision, backend, table_precision(ops));
    return 0;
}

unsigned cli_selection_stages(const cli_tensors *t, bool scores)
{
    const bool given = t->path[CLI_IDS] != NULL;
    return (given && !scores ? 0u : 1u << MSA_STAGE_INDEX) | (given ? 0u : 1u << MSA_STAGE_TOPK);
}

char *cli_found_sizes(const msa_kernel *kernel, const msa_shape *s, char text[CLI_SIZES])
{
    char name[KERNEL_NAME];
    return plan_sizes(kernel_name(kernel, name), s, text, CLI_SIZES);
}

int cli_ran(const char *command, cli_plan *plan, const msa_shape *s, msa_stage stage, msa_status status)
{
    char found[CLI_SIZES];
    const msa_kernel *kernel = plan->ops.stage[stage];
    plan->ran[stage] = true;
    if (status == MSA_OK)
        return 0;
    if (status == MSA_ERR_DEVICE)
        return cli_fail(command, "%s/%s on %s: %s", msa_stage_name(stage), kernel->name, kernel->backend,
                        table_trouble(kernel));
    return cli_fail(command, "--kernel %s/%s: expected a shape that it takes (%s), found %s",
                    msa_stage_name(stage), kernel->name, kernel->constraints,
                    status == MSA_ERR_UNSUPPORTED ? cli_found_sizes(kernel, s, found) : msa_strerror(status));
}

/* ---- Selecting ---------------------------------------------------------------------------------- */

static msa_status index_branch(cli_plan *plan, const cli_tensors *t, float *scores, int32_t *ids,
                               float *index_lse, void *work)
{
    return plan->ops.stage[MSA_STAGE_INDEX]->run(&t->shape,
                                                 &(msa_arrays){.qi = cli_floats(t, CLI_QI),
                                                               .ki = cli_floats(t, CLI_KI),
                                                               .scores = scores,
                                                               .ids = ids,
                                                               .index_lse = index_lse,
                                                               .screening = &plan->screening},
                                                 work);
}

/* The scores. Where the best index kernel of the back end keeps none and nobody asked for it by name, the
 * next best that writes them. `asked`: whether that is said where there is none. */
static int write_scores(const char *command, cli_plan *plan, const cli_tensors *t, float *scores, bool asked,
                        void *work)
{
    const msa_kernel *best = plan->ops.stage[MSA_STAGE_INDEX], *kernel = best;
    msa_status status = index_branch(plan, t, scores, NULL, NULL, work);
    const bool named = plan->named[MSA_STAGE_INDEX];
    for (int n = 1; status == MSA_ERR_UNSUPPORTED && !named && (kernel = table_below(best, n)) != NULL; n++) {
        void *own = cli_alloc(command, kernel->workspace(&t->shape));
        if (!own)
            return 2;
        plan->ops.stage[MSA_STAGE_INDEX] = kernel;
        status = index_branch(plan, t, scores, NULL, NULL, own);
        free(own);
    }
    char sizes[CLI_SIZES];
    if (status == MSA_ERR_UNSUPPORTED)
        return cli_fail(command, "%s: expected an index kernel that %s %s, found index/%s (%s)",
                        named ? "--kernel" : "--backend", asked ? "writes scores of" : "takes",
                        cli_found_sizes(best, &t->shape, sizes), best->name, best->constraints);
    return cli_ran(command, plan, &t->shape, MSA_STAGE_INDEX, status);
}

/* Scores first, then the top-k kernel on those: for an index kernel that does not select itself, or a
 * top-k kernel asked for by name. */
static int topk_from_scores(const char *command, cli_plan *plan, const cli_tensors *t, float *scores,
                            int32_t *ids, void *work)
{
    int64_t dim[IO_MAX_DIMS];
    float *own = scores ? NULL : cli_alloc(command, (size_t)cli_sizes(&t->shape, "GTB", dim) * sizeof *own);
    float *m = scores ? scores : own;
    const bool asked = scores || plan->named[MSA_STAGE_TOPK];
    int bad = m ? write_scores(command, plan, t, m, asked, work) : 2;
    if (!bad)
        bad = cli_ran(
            command, plan, &t->shape, MSA_STAGE_TOPK,
            plan->ops.stage[MSA_STAGE_TOPK]->run(&t->shape, &(msa_arrays){.scores = m, .ids = ids}, work));
    free(own);
    return bad;
}

/* As choose() of ref/ops.c, which msa_forward() calls: index LSE and ids, else ids, else scores and their top-k. */
int cli_selection(const char *command, cli_plan *plan, const cli_tensors *t, float *scores, int32_t *ids,
                  float *index_lse, void *work)
{
    int bad = 0;
    msa_status status = MSA_ERR_UNSUPPORTED;
    plan->ids_from = t->path[CLI_IDS];
    if (t->path[CLI_IDS]) {
        memcpy(ids, t->array[CLI_IDS].data, t->array[CLI_IDS].count * sizeof *ids);
        if (scores)
            bad = write_scores(command, plan, t, scores, true, work);
    } else {
        if (!plan->named[MSA_STAGE_TOPK])
            status = index_branch(plan, t, scores, ids, index_lse, work);
        if (status != MSA_ERR_UNSUPPORTED)
            return cli_ran(command, plan, &t->shape, MSA_STAGE_INDEX, status);
        if (!plan->named[MSA_STAGE_TOPK])
            status = index_branch(plan, t, scores, ids, NULL, work);
        bad = status == MSA_ERR_UNSUPPORTED ? topk_from_scores(command, plan, t, scores, ids, work)
                                            : cli_ran(command, plan, &t->shape, MSA_STAGE_INDEX, status);
    }
    if (bad)
        return bad;
    status = msa_index_lse(&t->shape, cli_floats(t, CLI_QI), cli_floats(t, CLI_KI), ids, index_lse);
    return status == MSA_OK ? 0 : cli_fail(command, "index log-sum-exp: %s", msa_strerror(status));
}

int cli_attend(const char *command, cli_plan *plan, const cli_tensors *t, const cli_attended *out, void *work)
{
    cli_progress(command, 0, 2, "selecting blocks");
    int bad = cli_selection(command, plan, t, out->scores, out->ids, out->index_lse, work);
    if (bad)
        return bad;
    cli_progress(command, 1, 2, "attending");
    const msa_arrays attended = {.q = cli_floats(t, CLI_Q),
                                 .k = cli_floats(t, CLI_K),
                                 .v = cli_floats(t, CLI_V),
                                 .ids = out->ids,
                                 .o = out->o,
                                 .lse = out->lse};
    return cli_ran(command, plan, &t->shape, MSA_STAGE_SPARSE,
                   plan->ops.stage[MSA_STAGE_SPARSE]->run(&t->shape, &attended, work));
}

void cli_print_screening(const msa_screening *done)
{
    printf("screened by 8 bits: %lld of %lld blocks settled, %lld of %lld rows in full\n",
           (long long)done->settled, (long long)done->blocks, (long long)done->fell_back,
           (long long)done->rows);
}

void cli_print_plan(const cli_plan *plan)
{
    for (int i = 0; i < MSA_N_STAGES; i++)
        if (plan->ran[i])
            printf("ran %s/%s (%s)\n", msa_stage_name((msa_stage)i), plan->ops.stage[i]->name,
                   plan->ops.stage[i]->backend);
    if (plan->screening.rows > 0)
        cli_print_screening(&plan->screening);
    if (plan->ids_from)
        printf("ids from %s\n", plan->ids_from);
}
