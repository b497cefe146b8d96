/* msa kernels: the table of implementations, a line each, tab-separated. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "../table/table.h"
#include "../stages.h"

static bool same_name(const msa_kernel *a, const msa_kernel *b)
{
    return a->stage == b->stage && strcmp(a->name, b->name) == 0;
}

static bool is_first_of_its_name(int i)
{
    for (int before = 0; before < i; before++)
        if (same_name(table_at(before), table_at(i)))
            return false;
    return true;
}

/* One line for the kernel on all the back ends that have it. */
static void print_line(int i)
{
    const msa_kernel *kernel = table_at(i), *other;
    printf("%s/%s\t%s", msa_stage_name(kernel->stage), kernel->name, kernel->backend);
    while ((other = table_at(++i)) != NULL)
        if (same_name(kernel, other))
            printf(",%s", other->backend);
    char name[KERNEL_NAME];
    kernel_name(kernel, name);
    printf("\t%s\t%s", kernel->constraints, kernel->idea);
    if (table_dropped(name))
        printf(" (not on cuda: %s)", table_dropped(name));
    printf("\n");
}

int cmd_kernels(int argc, char **argv)
{
    static const cli_option none[] = {{0}};
    int status = cli_parse(argc, argv, none, NULL);
    const msa_kernel *kernel;
    for (int i = 0; !status && (kernel = table_at(i)) != NULL; i++)
        if (is_first_of_its_name(i))
            print_line(i);
    return status;
}
