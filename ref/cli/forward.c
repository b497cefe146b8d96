/* msa forward: sparse attention of tensors in files. */
#include <stdio.h>
#include <stdlib.h>

#include "cli.h"

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

static int run(const char *command, cli_plan *plan, const cli_tensors *t, const char *dir, bool scores)
{
    cli_output out[N_OUTPUTS] = {[IDS] = {"ids.npy", NPY_I32, "GTk", NULL},
                                 [O] = {"o.npy", NPY_F32, "THd", NULL},
                                 [LSE] = {"lse.npy", NPY_F32, "TH", NULL},
                                 [INDEX_LSE] = {"index_lse.npy", NPY_F32, "GT", NULL},
                                 [SCORES] = {"scores.npy", NPY_F32, "GTB", NULL}};
    int n = scores ? N_OUTPUTS : SCORES;
    int bad = cli_open_outputs(command, dir, &t->shape, out, n);
    if (!bad)
        bad = compute(command, plan, t, out);
    if (!bad)
        bad = cli_write_outputs(command, dir, &t->shape, out, n);
    if (!bad) {
        cli_print_plan(plan);
        bad = cli_commit_outputs(command);
    }
    cli_free_outputs(out, n);
    return bad;
}

int cmd_forward(int argc, char **argv)
{
    cli_tensors t = {.block = 128};
    const char *dir = NULL, *backend = "fast";
    cli_list kernels = {0};
    bool scores = false;
    const cli_option options[] = {
        CLI_OPT_Q(t, CLI_NEEDED),
        CLI_OPT_K(t, CLI_NEEDED),
        CLI_OPT_V(t, CLI_NEEDED),
        CLI_OPT_QI(t, CLI_NEEDED),
        CLI_OPT_KI(t, CLI_NEEDED),
        CLI_OPT_BLOCK(t),
        CLI_OPT_TOPK(t),
        CLI_OPT_IDS(t),
        {"--scores", CLI_FLAG, &scores, 0, 0, "also writes scores.npy [Hkv,T,B]"},
        CLI_OPT_KERNEL(kernels),
        CLI_OPT_BACKEND(backend),
        {"--out", CLI_NEEDED, &dir, 0, 0, "DIR receives ids.npy o.npy lse.npy index_lse.npy"},
        {0}};
    cli_plan plan;
    int status = cli_parse(argc, argv, options, NULL);
    if (!status)
        status = cli_choose_kernels(argv[0], backend, &kernels,
                                    cli_selection_stages(&t, scores) | 1 << MSA_STAGE_SPARSE, &plan);
    if (!status)
        status = cli_read_tensors(argv[0], &t);
    if (!status)
        status = run(argv[0], &plan, &t, dir, scores);
    cli_free_tensors(&t);
    return status;
}
