/* msa backward: the gradients of attention, and those of the selector's loss, for tensors in files. */
#include <stdio.h>
#include <stdlib.h>

#include "ranks.h"

/* The files first, then what the forward pass leaves for the backward pass. */
enum { DQ, DK, DV, DQI, DKI, N_OUTPUTS, O = N_OUTPUTS, LSE, INDEX_LSE, IDS, N_BUFFERS };

typedef struct backward_options {
    const char *dir, *backend;
    double kl_weight;
    bool full_support;
    cli_ranks ranks;
} backward_options;

static int full_forward(const char *command, cli_plan *plan, const cli_tensors *t, const cli_output *b,
                        void *work)
{
    msa_status status = plan->ops.stage[MSA_STAGE_DENSE]->run(&t->shape,
                                                              &(msa_arrays){.q = cli_floats(t, CLI_Q),
                                                                            .k = cli_floats(t, CLI_K),
                                                                            .v = cli_floats(t, CLI_V),
                                                                            .o = b[O].data,
                                                                            .lse = b[LSE].data},
                                                              work);
    int bad = cli_ran(command, plan, &t->shape, MSA_STAGE_DENSE, status);
    if (!bad)
        msa_index_lse(&t->shape, cli_floats(t, CLI_QI), cli_floats(t, CLI_KI), NULL, b[INDEX_LSE].data);
    return bad;
}

static int sparse_forward(const char *command, cli_plan *plan, const cli_tensors *t, const cli_output *b,
                          void *work)
{
    int bad = cli_selection(command, plan, t, NULL, b[IDS].data, b[INDEX_LSE].data, work);
    if (bad)
        return bad;
    msa_status status = plan->ops.stage[MSA_STAGE_SPARSE]->run(&t->shape,
                                                               &(msa_arrays){.q = cli_floats(t, CLI_Q),
                                                                             .k = cli_floats(t, CLI_K),
                                                                             .v = cli_floats(t, CLI_V),
                                                                             .ids = b[IDS].data,
                                                                             .o = b[O].data,
                                                                             .lse = b[LSE].data},
                                                               work);
    return cli_ran(command, plan, &t->shape, MSA_STAGE_SPARSE, status);
}

static int gradients(const char *command, cli_plan *plan, const cli_tensors *t, double kl_weight,
                     const cli_output *b, double *kl, void *work)
{
    const float *q = cli_floats(t, CLI_Q), *k = cli_floats(t, CLI_K);
    cli_progress(command, 1, 3, "gradients of the output");
    msa_status status =
        plan->ops.stage[MSA_STAGE_BACKWARD]->run(&t->shape,
                                                 &(msa_arrays){.q = q,
                                                               .k = k,
                                                               .v = cli_floats(t, CLI_V),
                                                               .ids = b[IDS].data,
                                                               .o = b[O].data,
                                                               .lse = b[LSE].data,
                                                               .dout = cli_floats(t, CLI_DOUT),
                                                               .dq = b[DQ].data,
                                                               .dk = b[DK].data,
                                                               .dv = b[DV].data},
                                                 work);
    int bad = cli_ran(command, plan, &t->shape, MSA_STAGE_BACKWARD, status);
    if (bad)
        return bad;
    cli_progress(command, 2, 3, "gradients of the index loss");
    status = plan->ops.stage[MSA_STAGE_KL]->run(&t->shape,
                                                &(msa_arrays){.q = q,
                                                              .k = k,
                                                              .qi = cli_floats(t, CLI_QI),
                                                              .ki = cli_floats(t, CLI_KI),
                                                              .ids = b[IDS].data,
                                                              .lse = b[LSE].data,
                                                              .index_lse = b[INDEX_LSE].data,
                                                              .weight = kl_weight,
                                                              .loss = kl,
                                                              .dqi = b[DQI].data,
                                                              .dki = b[DKI].data},
                                                work);
    return cli_ran(command, plan, &t->shape, MSA_STAGE_KL, status);
}

static int compute(const char *command, cli_plan *plan, const cli_tensors *t, const backward_options *opt,
                   const cli_output *b, double *kl)
{
    void *work = cli_alloc(command, msa_workspace(&plan->ops, &t->shape));
    if (!work)
        return 2;
    cli_progress(command, 0, 3, "forward");
    int bad = (opt->full_support ? full_forward : sparse_forward)(command, plan, t, b, work);
    if (!bad)
        bad = gradients(command, plan, t, opt->kl_weight, b, kl, work);
    cli_progress_end();
    free(work);
    return bad;
}

static int compute_on_ranks(const char *command, cli_plan *plan, const cli_tensors *t,
                            const backward_options *opt, const cli_output *b, double *kl)
{
    const cli_dealt_gradients gradients = {.weight = opt->kl_weight,
                                           .full = opt->full_support,
                                           .dq = b[DQ].data,
                                           .dk = b[DK].data,
                                           .dv = b[DV].data,
                                           .dqi = b[DQI].data,
                                           .dki = b[DKI].data,
                                           .loss = kl};
    return cli_run_ranks(command, plan, &opt->ranks,
                         &(cli_dealt){.t = t,
                                      .s = &t->shape,
                                      .dense = opt->full_support,
                                      .ids = b[IDS].data,
                                      .o = b[O].data,
                                      .lse = b[LSE].data,
                                      .gradients = &gradients});
}

static int run(const char *command, cli_plan *plan, const cli_tensors *t, const backward_options *opt)
{
    cli_output b[N_BUFFERS] = {
        [DQ] = {"dq.npy", NPY_F32, "THd", NULL},  [DK] = {"dk.npy", NPY_F32, "SGd", NULL},
        [DV] = {"dv.npy", NPY_F32, "SGd", NULL},  [DQI] = {"dqi.npy", NPY_F32, "TGi", NULL},
        [DKI] = {"dki.npy", NPY_F32, "Si", NULL}, [O] = {NULL, NPY_F32, "THd", NULL},
        [LSE] = {NULL, NPY_F32, "TH", NULL},      [INDEX_LSE] = {NULL, NPY_F32, "GT", NULL},
        [IDS] = {NULL, NPY_I32, "GTk", NULL}};
    int n = opt->full_support ? IDS : N_BUFFERS; /* without ids every visible token is in the support */
    double kl = 0;
    int bad = cli_open_outputs(command, opt->dir, &t->shape, b, n);
    if (!bad && cli_wants_ranks(&opt->ranks))
        bad = compute_on_ranks(command, plan, t, opt, b, &kl);
    else if (!bad)
        bad = compute(command, plan, t, opt, b, &kl);
    if (!bad && cli_is_first())
        bad = cli_write_outputs(command, opt->dir, &t->shape, b, n);
    if (!bad && cli_is_first()) {
        cli_print_ranks();
        cli_print_plan(plan);
        printf("kl %.12g\n", kl);
        bad = cli_commit_outputs(command);
    }
    cli_free_outputs(b, n);
    return bad;
}

static int choose_kernels(const char *command, const cli_tensors *t, const backward_options *opt,
                          const cli_list *kernels, cli_plan *plan)
{
    const int bad = cli_check_ranks(command, &opt->ranks, opt->backend);
    if (bad)
        return bad;
    if (cli_wants_ranks(&opt->ranks) && t->path[CLI_IDS])
        return cli_fail(command, "--ranks: expected no --ids with it, found %s", t->path[CLI_IDS]);
    if (opt->full_support && t->path[CLI_IDS])
        return cli_fail(command, "--full-support: expected no --ids with it, found %s", t->path[CLI_IDS]);
    unsigned forward =
        opt->full_support ? 1u << MSA_STAGE_DENSE : cli_selection_stages(t, false) | 1u << MSA_STAGE_SPARSE;
    return cli_choose_kernels(command, opt->backend, kernels,
                              forward | 1u << MSA_STAGE_BACKWARD | 1u << MSA_STAGE_KL, plan);
}

int cmd_backward(int argc, char **argv)
{
    cli_tensors t = {.block = 128};
    backward_options opt = {.backend = "fast", .kl_weight = 1};
    cli_list kernels = {0};
    const cli_option options[] = {
        CLI_OPT_Q(t, CLI_NEEDED),
        CLI_OPT_K(t, CLI_NEEDED),
        CLI_OPT_V(t, CLI_NEEDED),
        CLI_OPT_QI(t, CLI_NEEDED),
        CLI_OPT_KI(t, CLI_NEEDED),
        {"--dout", CLI_NEEDED, &t.path[CLI_DOUT], 0, 0, "F gradient of the output [T,Hq,dh]"},
        CLI_OPT_SEQUENCES(t),
        CLI_OPT_BLOCK(t),
        CLI_OPT_TOPK(t),
        CLI_OPT_IDS(t),
        {"--kl-weight", CLI_REAL, &opt.kl_weight, 0, 1e9, "X multiplies dqi and dki, not the printed loss"},
        {"--full-support", CLI_FLAG, &opt.full_support, 0, 0,
         "the warmup stage: every visible token, no selection"},
        CLI_OPT_KERNEL(kernels),
        CLI_OPT_BACKEND(opt.backend),
        CLI_OPT_RANKS(opt.ranks),
        {"--out", CLI_NEEDED, &opt.dir, 0, 0, "DIR receives dq dk dv dqi dki, each .npy"},
        {0}};
    cli_plan plan;
    int status = cli_parse(argc, argv, options, NULL);
    if (!status)
        status = choose_kernels(argv[0], &t, &opt, &kernels, &plan);
    t.dealt = cli_wants_ranks(&opt.ranks);
    if (!status)
        status = cli_read_tensors(argv[0], &t);
    if (!status)
        status = run(argv[0], &plan, &t, &opt);
    cli_free_tensors(&t);
    return status;
}
