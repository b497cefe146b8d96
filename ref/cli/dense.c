/* msa dense: causal grouped-query attention of tensors in files. */
#include <stdlib.h>

#include "ranks.h"

enum { O, LSE, N_OUTPUTS };

static int compute(const char *command, cli_plan *plan, const cli_tensors *t, cli_output *out)
{
    const msa_kernel *dense = plan->ops.stage[MSA_STAGE_DENSE];
    void *work = cli_alloc(command, dense->workspace(&t->shape));
    if (!work)
        return 2;
    msa_status status = dense->run(&t->shape,
                                   &(msa_arrays){.q = cli_floats(t, CLI_Q),
                                                 .k = cli_floats(t, CLI_K),
                                                 .v = cli_floats(t, CLI_V),
                                                 .o = out[O].data,
                                                 .lse = out[LSE].data},
                                   work);
    free(work);
    return cli_ran(command, plan, &t->shape, MSA_STAGE_DENSE, status);
}

static int compute_on_ranks(const char *command, cli_plan *plan, const cli_tensors *t, const cli_ranks *ranks,
                            cli_output *out)
{
    return cli_run_ranks(
        command, plan, ranks,
        &(cli_dealt){.t = t, .s = &t->shape, .dense = true, .o = out[O].data, .lse = out[LSE].data});
}

static int run(const char *command, cli_plan *plan, const cli_tensors *t, const cli_ranks *ranks,
               const char *dir)
{
    cli_output out[N_OUTPUTS] = {
        [O] = {"o.npy", NPY_F32, "THd", NULL}, [LSE] = {"lse.npy", NPY_F32, "TH", NULL}};
    int bad = cli_open_outputs(command, dir, &t->shape, out, N_OUTPUTS);
    if (!bad && cli_wants_ranks(ranks))
        bad = compute_on_ranks(command, plan, t, ranks, out);
    else if (!bad)
        bad = compute(command, plan, t, out);
    if (!bad && cli_is_first())
        bad = cli_write_outputs(command, dir, &t->shape, out, N_OUTPUTS);
    if (!bad && cli_is_first()) {
        cli_print_ranks();
        cli_print_plan(plan);
        bad = cli_commit_outputs(command);
    }
    cli_free_outputs(out, N_OUTPUTS);
    return bad;
}

int cmd_dense(int argc, char **argv)
{
    cli_tensors t = {.block = 128};
    const char *dir = NULL, *backend = "fast", *kernel = NULL;
    cli_ranks ranks = {0};
    const cli_option options[] = {
        CLI_OPT_Q(t, CLI_NEEDED),
        CLI_OPT_K(t, CLI_NEEDED),
        CLI_OPT_V(t, CLI_NEEDED),
        CLI_OPT_SEQUENCES(t),
        {"--kernel", CLI_TEXT, &kernel, 0, 0, "NAME of a dense kernel; 'msa kernels' lists them"},
        CLI_OPT_BACKEND(backend),
        CLI_OPT_RANKS(ranks),
        {"--out", CLI_NEEDED, &dir, 0, 0, "DIR receives o.npy lse.npy"},
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (!status)
        status = cli_check_ranks(argv[0], &ranks, backend);
    if (status)
        return status;

    cli_plan plan;
    status = cli_choose_kernel(argv[0], backend, kernel, MSA_STAGE_DENSE, &plan);
    t.dealt = cli_wants_ranks(&ranks);
    if (!status)
        status = cli_read_tensors(argv[0], &t);
    if (!status)
        status = run(argv[0], &plan, &t, &ranks, dir);
    cli_free_tensors(&t);
    return status;
}
