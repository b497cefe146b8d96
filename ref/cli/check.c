/* msa check: every kernel of the table against the reference, over ragged shapes and hostile inputs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../judge/judge.h"
#include "../table/table.h"
#include "cases.h"
#include "tuning.h"

/* How a run judges. */
typedef struct manner {
    int64_t seed;
    bool codes; /* an 8-bit copy of the index keys in every call */
} manner;

typedef struct tally {
    int n[JUDGE_NO_MEMORY + 1];
} tally;

static bool is_wanted(const cli_list *names, const char *backend, const manner *how, const msa_kernel *kernel)
{
    if (how->codes && !table_screens(kernel))
        return false;
    if (backend ? strcmp(kernel->backend, backend) != 0 : table_missing(kernel->backend) != NULL)
        return false;
    for (int i = 0; i < names->n; i++)
        if (case_means(names->item[i], kernel))
            return true;
    return names->n == 0;
}

/* ---- --shape: the words that name a case -------------------------------------------------------- */

static int read_shape(const char *command, const char *text, msa_shape *s)
{
    *s = (msa_shape){.n_seqs = 1};
    int bad = case_read_shape(command, text, s);
    if (bad)
        return bad;
    if (s->n_seqs > 1 && !s->cu_q)
        return cli_fail(command, "--shape: expected one sequence or a case of 'msa check', found '%s'", text);
    return case_check_shape(command, text, s);
}

/* ---- Judging ------------------------------------------------------------------------------------ */

static void print_case(const msa_kernel *kernel, const msa_shape *s, inputs_pattern p, int64_t seed,
                       const judge_report *report)
{
    static const char *const outcome[] = {"ok", "FAILED", "not supported", "no memory"};
    char shape[INPUTS_NAME], name[KERNEL_NAME];
    inputs_shape_name(s, shape);
    kernel_name(kernel, name);
    printf("%-20s %-4s %-62s %-8s seed=%lld  %s", name, kernel->backend, shape, inputs_pattern_name(p),
           (long long)seed, outcome[report->outcome]);
    if (report->outcome == JUDGE_PASS)
        printf(" %5.1f%%", 100 * report->used);
    if (report->n_ties)
        printf("  %lld of %lld ids swapped within rounding", (long long)report->n_ties,
               (long long)report->n_ids);
    if (report->screening.rows > 0)
        printf("  %lld of %lld blocks settled, %lld of %lld rows in full",
               (long long)report->screening.settled, (long long)report->screening.blocks,
               (long long)report->screening.fell_back, (long long)report->screening.rows);
    printf("%s%s\n", report->outcome == JUDGE_FAIL ? "  " : "",
           report->outcome == JUDGE_FAIL ? report->text : "");
}

static int judge_patterns(const char *command, const msa_kernel *kernel, const msa_shape *s,
                          const manner *how, tally *sum)
{
    const int64_t seed = how->seed;
    int bad = 0;
    for (int p = 0; p < INPUTS_N_PATTERNS && !bad; p++) {
        inputs in;
        judge_report report = {.outcome = JUDGE_NO_MEMORY};
        if (inputs_new(&in, s, (inputs_pattern)p, (uint64_t)seed)) {
            report = (how->codes ? judge_screened : judge_kernel)(kernel, s, &in, (uint64_t)seed);
            inputs_free(&in);
        }
        print_case(kernel, s, (inputs_pattern)p, seed, &report);
        sum->n[report.outcome]++;
        bad = cli_flush(command);
        if (report.outcome == JUDGE_UNSUPPORTED) // of the shape: no other pattern will do
            break;
    }
    return bad;
}

static int run(const char *command, const cli_list *names, const char *backend, const msa_shape *shapes,
               int n_shapes, const manner *how)
{
    tally sum = {{0}};
    const msa_kernel *kernel;
    int bad = 0;
    for (int i = 0; (kernel = table_at(i)) != NULL && !bad; i++)
        for (int e = 0; e < n_shapes && !bad && is_wanted(names, backend, how, kernel); e++)
            bad = judge_patterns(command, kernel, &shapes[e], how, &sum);
    if (bad)
        return bad;
    if (how->codes && sum.n[JUDGE_PASS] + sum.n[JUDGE_FAIL] + sum.n[JUDGE_UNSUPPORTED] == 0)
        return cli_fail(command,
                        "--index-keys int8: expected a kernel on a device that screens by them, found none");
    printf("\n%d ok, %d failed, %d not supported; the percentage is the share of the error budget that was "
           "used\n",
           sum.n[JUDGE_PASS], sum.n[JUDGE_FAIL], sum.n[JUDGE_UNSUPPORTED]);
    if (!backend && table_missing("cuda"))
        printf("the kernels on cuda were passed over: %s\n", table_missing("cuda"));
    if (sum.n[JUDGE_NO_MEMORY])
        return cli_fail(command, "%d cases found no memory", sum.n[JUDGE_NO_MEMORY]);
    return sum.n[JUDGE_FAIL] ? 1 : 0;
}

/* --backend names one of this build, and its device is here. */
static int check_backend(const char *command, const char *backend)
{
    msa_ops ops;
    if (!table_ops(backend, &ops))
        return cli_fail(command, "--backend: expected %s (this build has no other), found '%s'",
                        table_backends(), backend);
    if (table_missing(backend))
        return cli_fail(command, "--backend %s: expected a GPU, found %s", backend, table_missing(backend));
    return tuning_use(command, backend);
}

int cmd_check(int argc, char **argv)
{
    manner how = {.seed = 1};
    const char *text = NULL, *backend = NULL, *keys = "bf16";
    cli_list names = {0};
    msa_shape shape;
    const cli_option options[] = {
        CLI_OPT_SEED(how.seed),
        {"--backend", CLI_TEXT, &backend, 0, 0,
         "NAME judges its kernels only: ref, fast, simt or cuda (default all)"},
        {"--shape", CLI_TEXT, &text, 0, 0,
         "WORDS that name a case, as printed: 'T=13 S=45 heads=4:2 ... topk=3'"},
        {"--index-keys", CLI_TEXT, &keys, 0, 0,
         "KIND bf16 (the default); int8: with an 8-bit copy of them beside, for kernels on "
         "a device that screen by it"},
        {0}};
    int status = cli_parse(argc, argv, options, &names);
    how.codes = strcmp(keys, "int8") == 0;
    if (!status && !how.codes && strcmp(keys, "bf16") != 0)
        status = cli_fail(argv[0], "--index-keys: expected bf16 or int8, found '%s'", keys);
    if (!status)
        status = case_check_names(argv[0], &names);
    if (!status && backend)
        status = check_backend(argv[0], backend);
    if (!status && text)
        status = read_shape(argv[0], text, &shape);
    if (status)
        return status;
    return text ? run(argv[0], &names, backend, &shape, 1, &how)
                : run(argv[0], &names, backend, inputs_shapes, inputs_n_all_shapes, &how);
}
