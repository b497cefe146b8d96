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

static int read_file(const char *command, const char *path, json_t **file)
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
    return strstr(charts_words(file, "command"), " --bf16-keys") ? ", bf16 keys" : "";
}

static void print_result(const json_t *file, const json_t *r)
{
    const json_t *limits = json_object_get(file, "ceilings");
    const double gflops = charts_number(limits, "matmul_f32_gflops"),
                 tflops = charts_number(r, "useful_tflops");
    const double product = gflops > 0 ? 1e-3 * gflops : charts_number(limits, "matmul_bf16_tflops");
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
    if (gflops > 0)
        print_cell(1e3 * tflops);
    else
        print_cell(tflops);
    print_share(tflops, product);
    print_cell(charts_number(r, "gbps"));
    print_share(charts_number(r, "gbps"), charts_number(limits, "copy_gbps"));
    printf("\n");
}

/* A stage's results on one device, under a heading where there are any. */
static void print_stage(json_t *const *file, int n, int stage, const char *device)
{
    bool any = false;
    for (int f = 0; f < n; f++) {
        size_t i;
        json_t *r;
        if (strcmp(charts_words(file[f], "device"), device) != 0)
            continue;
        json_array_foreach(json_object_get(file[f], "results"), i, r)
        {
            if (stage_number(r) != stage)
                continue;
            if (!any)
                printf("**%s**, %s\n\n| kernel | keys | queries | batch | heads | block, k | ids | ms | %s | "
                       "of the product | "
                       "GB/s | of the copy |\n|:--|--:|--:|--:|--:|--:|:--|--:|--:|--:|--:|--:|\n",
                       msa_stage_name(stage), device,
                       charts_number(json_object_get(file[f], "ceilings"), "matmul_f32_gflops") > 0
                           ? "GFLOP/s"
                           : "TFLOP/s");
            any = true;
            print_result(file[f], r);
        }
    }
    if (any)
        printf("\n");
}

static void print_all(json_t *const *file, int n)
{
    for (int stage = 0; stage < MSA_N_STAGES; stage++)
        for (int f = 0; f < n; f++) {
            bool again = false;
            for (int before = 0; before < f; before++)
                again = again ||
                        strcmp(charts_words(file[before], "device"), charts_words(file[f], "device")) == 0;
            if (!again)
                print_stage(file, n, stage, charts_words(file[f], "device"));
        }
}

int cmd_results(int argc, char **argv)
{
    const char *speedup = NULL, *roofline = NULL;
    const cli_option options[] = {
        {"--speedup", CLI_TEXT, &speedup, 0, 0, "F receives a picture: MSA's prefill over dense, by length"},
        {"--roofline", CLI_TEXT, &roofline, 0, 0, "F receives a picture: every result under its run's roof"},
        {0}};
    cli_list paths = {0};
    json_t *file[CLI_MAX_LIST];
    int n = 0, bad = cli_parse(argc, argv, options, &paths);
    for (; n < paths.n && !bad; n++)
        bad = read_file(argv[0], paths.item[n], &file[n]);
    if (!bad && speedup)
        bad = charts_speedup(argv[0], speedup, file, n);
    if (!bad && roofline)
        bad = charts_roofline(argv[0], roofline, file, n);
    if (!bad)
        print_all(file, n);
    while (n > 0)
        json_decref(file[--n]);
    return bad;
}

#endif
