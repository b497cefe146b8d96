/* Command lines of what runs on the CPU engine. */
#include "engine.h"

#include <string.h>

#include "../table/table.h"
#include "cases.h"

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

int engine_begin(const char *command, const engine_options *options, const msa_shape *standard, trial *t)
{
    msa_shape s = *standard;
    selection_kind kind = SELECTION_RANDOM;
    msa_dtype out;
    int bad = read_shape(command, options->shape, &s);
    if (!bad && options->distribution)
        bad = case_read_distribution(command, options->distribution, &kind);
    if (!bad)
        bad = read_output(command, options->output, &out);
    if (!bad && !trial_begin(t, &s, kind, options->seed, out))
        bad = cli_fail(command, "expected memory for the inputs, found too little");
    return bad;
}

int engine_find(const char *command, const cli_list *names, const msa_kernel **found, int most, int *n)
{
    const msa_kernel *kernel;
    if (!table_device("simt"))
        return cli_fail(command, "expected the CPU engine, found a build without a C++ compiler");
    if (names->n == 0)
        return cli_fail(command,
                        "expected a STAGE/NAME or STAGE that 'msa kernels' lists with simt, found none");
    for (int e = 0; e < names->n; e++) {
        const int before = *n;
        bool known = false;
        for (int i = 0; (kernel = table_at(i)) != NULL; i++)
            if (strcmp(kernel->backend, "simt") == 0 && case_means(names->item[e], kernel)) {
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
                            names->item[e]);
    }
    return 0;
}

int engine_failed(const char *command, const msa_kernel *kernel, msa_status status)
{
    if (status == MSA_ERR_DEVICE)
        return cli_fail(command, "%s/%s: %s", msa_stage_name(kernel->stage), kernel->name,
                        table_trouble(kernel));
    return cli_fail(command, "%s/%s: expected a shape that it takes (%s), found: %s",
                    msa_stage_name(kernel->stage), kernel->name, kernel->constraints, msa_strerror(status));
}
