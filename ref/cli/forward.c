/* msa forward: sparse attention of tensors in files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../table/table.h"
#include "ranks.h"

enum { IDS, O, LSE, INDEX_LSE, SCORES, N_OUTPUTS };

static int compute(const char *command, cli_plan *plan, const cli_tensors *t, cli_output *out)
{
    void *work = cli_alloc(command, msa_workspace(&plan->ops, &t->shape));
    if (!work)
        return 2;
    const int bad = cli_attend(command, plan, t,
                               &(cli_attended){.scores = out[SCORES].data,
                                               .ids = out[IDS].data,
                                               .index_lse = out[INDEX_LSE].data,
                                               .o = out[O].data,
                                               .lse = out[LSE].data},
                               work);
    cli_progress_end();
    free(work);
    return bad;
}

/* Where keys travel, the index of the plan screens; where queries do, the owners. */
static int compute_on_ranks(const char *command, cli_plan *plan, const cli_tensors *t, const cli_ranks *ranks,
                            cli_output *out)
{
    const bool screens = strcmp(plan->ops.stage[MSA_STAGE_INDEX]->name, "screened") == 0;
    return cli_run_ranks(command, plan, ranks,
                         &(cli_dealt){.t = t,
                                      .s = &t->shape,
                                      .screens = screens,
                                      .ids = out[IDS].data,
                                      .o = out[O].data,
                                      .lse = out[LSE].data});
}

static int run(const char *command, cli_plan *plan, const cli_tensors *t, const cli_ranks *ranks,
               const char *dir, bool scores)
{
    cli_output out[N_OUTPUTS] = {[IDS] = {"ids.npy", NPY_I32, "GTk", NULL},
                                 [O] = {"o.npy", NPY_F32, "THd", NULL},
                                 [LSE] = {"lse.npy", NPY_F32, "TH", NULL},
                                 [INDEX_LSE] = {"index_lse.npy", NPY_F32, "GT", NULL},
                                 [SCORES] = {"scores.npy", NPY_F32, "GTB", NULL}};
    int n = cli_wants_ranks(ranks) ? INDEX_LSE : scores ? N_OUTPUTS : SCORES;
    int bad = cli_open_outputs(command, dir, &t->shape, out, n);
    if (!bad && cli_wants_ranks(ranks))
        bad = compute_on_ranks(command, plan, t, ranks, out);
    else if (!bad)
        bad = compute(command, plan, t, out);
    if (!bad && cli_is_first())
        bad = cli_write_outputs(command, dir, &t->shape, out, n);
    if (!bad && cli_is_first()) {
        cli_print_ranks();
        cli_print_plan(plan);
        bad = cli_commit_outputs(command);
    }
    cli_free_outputs(out, n);
    return bad;
}

/* "int8": the index that screens by an 8-bit copy of its keys, which it makes; its ids are those of 16 bits. */
static int choose_index_keys(const char *command, const char *keys, const char *backend, const cli_tensors *t,
                             bool scores, cli_list *kernels)
{
    static char screened[] = "index/screened";
    if (strcmp(keys, "full") == 0)
        return 0;
    if (strcmp(keys, "int8") != 0)
        return cli_fail(command, "--index-keys: expected full or int8, found '%s'", keys);
    if (scores || t->path[CLI_IDS])
        return cli_fail(command, "--index-keys int8: expected to choose blocks and no more, found %s",
                        scores ? "--scores" : "--ids");
    const msa_kernel *kernel = table_find(screened, backend);
    if (!kernel || strcmp(kernel->backend, backend) != 0)
        return cli_fail(command, "--index-keys int8: expected a back end with index/screened, found %s",
                        backend);
    if (kernels->n == CLI_MAX_LIST)
        return cli_fail(command, "--kernel: expected fewer than %d, found %d", CLI_MAX_LIST, kernels->n);
    kernels->item[kernels->n++] = screened;
    return 0;
}

int cmd_forward(int argc, char **argv)
{
    cli_tensors t = {.block = 128};
    const char *dir = NULL, *backend = "fast", *keys = "full";
    cli_list kernels = {0};
    bool scores = false;
    cli_ranks ranks = {0};
    const cli_option options[] = {
        CLI_OPT_Q(t, CLI_NEEDED),
        CLI_OPT_K(t, CLI_NEEDED),
        CLI_OPT_V(t, CLI_NEEDED),
        CLI_OPT_QI(t, CLI_NEEDED),
        CLI_OPT_KI(t, CLI_NEEDED),
        CLI_OPT_SEQUENCES(t),
        CLI_OPT_BLOCK(t),
        CLI_OPT_TOPK(t),
        CLI_OPT_IDS(t),
        {"--scores", CLI_FLAG, &scores, 0, 0, "also writes scores.npy [Hkv,T,B]"},
        CLI_OPT_KERNEL(kernels),
        CLI_OPT_BACKEND(backend),
        {"--index-keys", CLI_TEXT, &keys, 0, 0,
         "KIND full: as they are; int8: an 8-bit copy rules blocks out by a bound, the same ids"},
        CLI_OPT_RANKS(ranks),
        {"--out", CLI_NEEDED, &dir, 0, 0,
         "DIR receives ids.npy o.npy lse.npy index_lse.npy (this one not from ranks)"},
        {0}};
    cli_plan plan;
    int status = cli_parse(argc, argv, options, NULL);
    if (!status)
        status = cli_check_ranks(argv[0], &ranks, backend);
    if (!status && cli_wants_ranks(&ranks) && (scores || t.path[CLI_IDS]))
        status = cli_fail(argv[0], "--ranks: expected neither --ids nor --scores with it, found %s",
                          scores ? "--scores" : "--ids");
    if (!status)
        status = choose_index_keys(argv[0], keys, backend, &t, scores, &kernels);
    if (!status)
        status = cli_choose_kernels(argv[0], backend, &kernels,
                                    cli_selection_stages(&t, scores) | 1 << MSA_STAGE_SPARSE, &plan);
    t.dealt = cli_wants_ranks(&ranks);
    if (!status)
        status = cli_read_tensors(argv[0], &t);
    if (!status)
        status = run(argv[0], &plan, &t, &ranks, dir, scores);
    cli_free_tensors(&t);
    return status;
}
