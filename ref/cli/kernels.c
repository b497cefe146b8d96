/* msa kernels: the table of implementations, a line each, tab-separated. */
#include <stdio.h>

#include "../table.h"
#include "cli.h"

int cmd_kernels(int argc, char **argv)
{
    static const cli_option none[] = {{0}};
    int status = cli_parse(
        argc, argv, "STAGE/NAME, back end, constraints and idea of every kernel, tab-separated", none, NULL);
    const msa_kernel *kernel;
    for (int i = 0; !status && (kernel = msa_kernel_at(i)) != NULL; i++)
        printf("%s/%s\t%s\t%s\t%s\n", msa_stage_name(kernel->stage), kernel->name, kernel->backend,
               kernel->constraints, kernel->idea);
    return status;
}
