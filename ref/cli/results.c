/* msa results: files of `msa bench` as the tables of a page. */
#include <stdio.h>
#include <string.h>

#include "results_charts.h"
#include "cli.h"
#include "bench_results.h"

#ifndef HAVE_JANSSON

int cmd_results(int argc, char **argv)
{
    (void)argc;
    return cli_fail(argv[0], "expected a build with the JSON library jansson, found one without");
}

#else

#include "../io/json.h"
#include <stdlib.h>

#define MAX_FILE ((size_t)1 << 24)

static int stage_number(const json_t *r)
{
    int n = 0;
    while (n < MSA_N_STAGES && strcmp(msa_stage_name(n), json_string_value(json_object_get(r, "stage"))) != 0)
        n++;
    return n;
}

int charts_read(const char *command, const char *path, json_t **file)
{
    io_error err;
    size_t n;
    unsigned char *data;
    *file = NULL;
    if (!io_read_file(path, MAX_FILE, &data, &n, err))
        return cli_fail(command, "%s", err);
    io_json_begin();
    const char *trouble = results_trouble((char *)data, n);
    if (!trouble)
        *file = json_loadb((char *)data, n, 0, NULL);
    free(data);
    if (!io_json_whole()) /* whatever came of it */
        return cli_fail(command, "%s: expected memory to read it, found too little", path);
    return trouble ? cli_fail(command, "%s: expected a file of results, found %s", path, trouble) : 0;
}

/* ---- Tables ------------------------------------------------------------------------------------------- */

/* Three digits that mean something. */
static void print_cell(double x)
{
    if (x > 0)
        printf(" %.*f |", x < 1 ? 3 : x < 10 ? 2 : x < 100 ? 1 : 0, x);
    else
        printf(" |");
}

static void print_share(double x, double of)
{
    if (x > 0 && of > 0)
        printf(" %.0f %% |", 100 * x / of);
    else
        printf(" |");
}

static void print_length(int64_t n)
{
    if (n % (1 << 20) == 0)
        printf(" %lldM |", (long long)(n >> 20));
    else if (n % (1 << 10) == 0)
        printf(" %lldK |", (long long)(n >> 10));
    else
        printf(" %lld |", (long long)n);
}

/* How keys were kept, where it is not as the kernel's own inputs are. */
static const char *keys_kept(const json_t *file, const json_t *r)
{
    if (strcmp(charts_words(r, "index_dtype"), "fp8") == 0)
        return ", fp8 index keys";
    if (strcmp(charts_words(r, "index_dtype"), "int8") == 0)
        return ", screened by int8";
    const bool only =
        strstr(charts_words(file, "command"), " --bf16-keys") && strcmp(charts_kind(file, r), "float32") == 0;
    return only ? ", bf16 keys" : "";
}

static void print_result(const json_t *file, const json_t *r)
{
    const json_t *limits = json_object_get(file, "ceilings");
    const double tflops = charts_number(r, "useful_tflops");
    printf("| %s%s |", charts_words(r, "kernel"), keys_kept(file, r));
    print_length(json_integer_value(json_object_get(r, "n")));
    print_length(json_integer_value(json_object_get(r, "n_q")));
    printf(" %lld | %lld:%lld | %lld, %lld | %s%s |",
           (long long)json_integer_value(json_object_get(r, "batch")),
           (long long)json_integer_value(json_object_get(r, "n_heads")),
           (long long)json_integer_value(json_object_get(r, "n_kv_heads")),
           (long long)json_integer_value(json_object_get(r, "block")),
           (long long)json_integer_value(json_object_get(r, "topk")), charts_words(r, "distribution"),
           json_is_true(json_object_get(r, "lse")) ? " +LSE" : "");
    print_cell(charts_number(r, "ms_median"));
    print_cell(tflops * (charts_is_gpu(file) ? 1 : 1e3));
    print_share(tflops, charts_product(file, r));
    print_cell(charts_number(r, "gbps"));
    print_share(charts_number(r, "gbps"),
                charts_number(limits, charts_is_gpu(file) ? "copy_gbps" : "read_gbps"));
    printf("\n");
}

static void print_heading(const json_t *file, const char *stage, const char *kind)
{
    printf("**%s**, %s, %s\n\n| kernel | keys | queries | batch | heads | block, k | ids | ms | %s | of the "
           "product | "
           "GB/s | of the %s |\n|:--|--:|--:|--:|--:|--:|:--|--:|--:|--:|--:|--:|\n",
           stage, charts_words(file, "device"), kind, charts_is_gpu(file) ? "TFLOP/s" : "GFLOP/s",
           charts_is_gpu(file) ? "copy" : "read");
}

/* A stage's results of one kind on one device, under a heading where there are any. */
static void print_stage(json_t *const *file, int n, int stage, const char *device, const char *kind)
{
    bool any = false;
    for (int f = 0; f < n; f++) {
        size_t i;
        json_t *r;
        if (strcmp(charts_words(file[f], "device"), device) != 0)
            continue;
        json_array_foreach(json_object_get(file[f], "results"), i, r)
        {
            if (stage_number(r) != stage || strcmp(charts_kind(file[f], r), kind) != 0)
                continue;
            if (!any)
                print_heading(file[f], msa_stage_name(stage), kind);
            any = true;
            print_result(file[f], r);
        }
    }
    if (any)
        printf("\n");
}

/* What was measured in turn with something else. */
static void print_ratios(json_t *const *file, int n)
{
    bool any = false;
    for (int f = 0; f < n; f++) {
        size_t i;
        json_t *r;
        json_array_foreach(json_object_get(file[f], "ratios"), i, r)
        {
            if (!any)
                printf("**pair by pair**\n\n| on | type | | over | keys | queries | heads | times faster | "
                       "least | most | "
                       "pairs |\n|:--|:--|:--|:--|--:|--:|--:|--:|--:|--:|--:|\n");
            any = true;
            printf("| %s | %s | %s | %s |", charts_words(file[f], "device"), charts_kind(file[f], r),
                   charts_words(r, "of"), charts_words(r, "over"));
            print_length(json_integer_value(json_object_get(r, "n")));
            print_length(json_integer_value(json_object_get(r, "n_q")));
            printf(" %.0f:%.0f |", charts_number(r, "n_heads"), charts_number(r, "n_kv_heads"));
            print_cell(charts_number(r, "median"));
            print_cell(charts_number(r, "min"));
            print_cell(charts_number(r, "max"));
            printf(" %.0f |\n", charts_number(r, "pairs"));
        }
    }
    if (any)
        printf("\n");
}

static void print_all(json_t *const *file, int n)
{
    static const char *const kinds[] = {"float32", "bf16", "bf16 without tiles"};
    for (int stage = 0; stage < MSA_N_STAGES; stage++)
        for (int f = 0; f < n; f++) {
            bool again = false;
            for (int before = 0; before < f; before++)
                again = again ||
                        strcmp(charts_words(file[before], "device"), charts_words(file[f], "device")) == 0;
            for (int kind = 0; kind < 3 && !again; kind++)
                print_stage(file, n, stage, charts_words(file[f], "device"), kinds[kind]);
        }
    print_ratios(file, n);
}

/* A picture that an option asks for. */
typedef struct picture {
    const char *option, *path;
    int (*draw)(const char *command, json_t *const *file, int n, drawing *d);
    drawing d;
} picture;
#define N_PICTURES 2

/* Drawn before the tables are printed, since it may be refused, and written when they have arrived. */
static int print_and_write(const char *command, json_t *const *file, int n, picture *p)
{
    int bad = 0;
    for (int i = 0; i < N_PICTURES && !bad; i++)
        bad = p[i].path ? cli_check_writable(command, p[i].option, p[i].path) : 0;
    for (int i = 0; i < N_PICTURES && !bad; i++)
        bad = p[i].path ? p[i].draw(command, file, n, &p[i].d) : 0;
    if (!bad) {
        print_all(file, n);
        bad = cli_flush(command);
    }
    for (int i = 0; i < N_PICTURES; i++) {
        if (p[i].path && !bad)
            bad = charts_write(command, p[i].option, p[i].path, &p[i].d);
        drawing_free(&p[i].d);
    }
    return bad;
}

int cmd_results(int argc, char **argv)
{
    picture p[N_PICTURES] = {{.option = "--speedup", .draw = charts_speedup},
                             {.option = "--roofline", .draw = charts_roofline}};
    const cli_option options[] = {
        {p[0].option, CLI_TEXT, &p[0].path, 0, 0,
         "F receives a picture: MSA's prefill over dense, by length"},
        {p[1].option, CLI_TEXT, &p[1].path, 0, 0, "F receives a picture: every result under its run's roof"},
        {0}};
    cli_list paths = {0};
    json_t *file[CLI_MAX_LIST];
    int n = 0, bad = cli_parse(argc, argv, options, &paths);
    for (; n < paths.n && !bad; n++)
        bad = charts_read(argv[0], paths.item[n], &file[n]);
    if (!bad)
        bad = print_and_write(argv[0], file, n, p);
    while (n > 0)
        json_decref(file[--n]);
    return bad;
}

#endif
