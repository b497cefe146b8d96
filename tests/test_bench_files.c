/**
 * @file test_bench_files.c
 * @brief Files that `msa bench --json` writes have exactly the fields they are to have: every one in
 * data/bench, or those named on the command line. And the check bites.
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "tap.h"

#ifndef HAVE_JANSSON

int main(void)
{
    tap_skip("files of results", "this build has no jansson");
    return tap_done();
}

#else

#include <jansson.h>

// A field's type: s text, i positive integer, r positive number, b truth; capitals admit null.
typedef struct field {
    const char *name;
    char type;
    const char *one_of; // words between bars
} field;

static const field file_fields[] = {{"device", 's', NULL},   {"driver", 'S', NULL},  {"cuda", 'S', NULL},
                                    {"commit", 's', NULL},   {"date", 's', NULL},    {"command", 's', NULL},
                                    {"ceilings", 'o', NULL}, {"results", 'a', NULL}, {NULL, 0, NULL}};
static const field gpu_fields[] = {
    {"matmul_bf16_tflops", 'R', NULL}, {"copy_gbps", 'R', NULL}, {NULL, 0, NULL}};
static const field cpu_fields[] = {
    {"matmul_f32_gflops", 'R', NULL}, {"copy_gbps", 'R', NULL}, {"read_gbps", 'R', NULL}, {NULL, 0, NULL}};
static const field result_fields[] = {
    {"stage", 's',
     "|dense|index|topk|reverse|sparse|prefill|decode|dense_decode|backward|dense_backward|kl|"},
    {"kernel", 's', NULL},
    {"n", 'i', NULL},
    {"n_q", 'i', NULL},
    {"batch", 'i', NULL},
    {"n_heads", 'i', NULL},
    {"n_kv_heads", 'i', NULL},
    {"d_head", 'i', NULL},
    {"block", 'i', NULL},
    {"topk", 'i', NULL},
    {"distribution", 'S', "|random|hot|local|structured|learned|"},
    {"union8", 'R', NULL},
    {"index_dtype", 'S', "|bf16|fp8|f32|"},
    {"lse", 'b', NULL},
    {"deterministic", 'B', NULL},
    {"ms_median", 'r', NULL},
    {"ms_min", 'r', NULL},
    {"ms_max", 'r', NULL},
    {"repeats", 'i', NULL},
    {"useful_tflops", 'R', NULL},
    {"gbps", 'R', NULL},
    {"verified", 'b', NULL},
    {NULL, 0, NULL}};

static char why[512];

static bool is_one_of(const char *text, const char *words)
{
    char word[128];
    snprintf(word, sizeof word, "|%s|", text);
    return !words || strstr(words, word);
}

static bool has_type(const json_t *x, const field *f)
{
    switch (f->type) {
    case 'S':
    case 's':
        return json_is_string(x) && *json_string_value(x) && is_one_of(json_string_value(x), f->one_of);
    case 'i':
        return json_is_integer(x) && json_integer_value(x) > 0;
    case 'R':
    case 'r':
        return json_is_number(x) && json_number_value(x) > 0;
    case 'B':
    case 'b':
        return json_is_boolean(x);
    case 'o':
        return json_is_object(x);
    default:
        return json_is_array(x) && json_array_size(x) > 0;
    }
}

// Whether an object has these fields, each of its type, and no other.
static bool has_fields(const json_t *o, const field *fields, const char *what)
{
    size_t n = 0;
    for (const field *f = fields; f->name; f++, n++) {
        const json_t *x = json_object_get(o, f->name);
        const bool may_be_null = strchr("SRB", f->type) != NULL;
        if (!x || !(json_is_null(x) ? may_be_null : has_type(x, f))) {
            snprintf(why, sizeof why, "%s: field %s is missing or wrong", what, f->name);
            return false;
        }
    }
    if (json_object_size(o) != n)
        snprintf(why, sizeof why, "%s: a field that nobody knows", what);
    return json_object_size(o) == n;
}

static double number(const json_t *o, const char *name)
{
    return json_number_value(json_object_get(o, name));
}

static bool is_result(const json_t *r)
{
    if (!has_fields(r, result_fields, "a result"))
        return false;
    const double min = number(r, "ms_min"), median = number(r, "ms_median"), max = number(r, "ms_max");
    const bool ok =
        min <= median && median <= max && number(r, "repeats") >= 3 && number(r, "n_q") <= number(r, "n");
    if (!ok)
        snprintf(why, sizeof why,
                 "a result: times out of order, fewer than 3 repeats, or more queries than keys");
    return ok;
}

static bool is_file_of_results(const json_t *o)
{
    if (!json_is_object(o) || !has_fields(o, file_fields, "the file"))
        return false;
    const bool gpu = json_is_string(json_object_get(o, "cuda"));
    const json_t *results = json_object_get(o, "results");
    if (!has_fields(json_object_get(o, "ceilings"), gpu ? gpu_fields : cpu_fields, "ceilings"))
        return false;
    for (size_t i = 0; i < json_array_size(results); i++)
        if (!is_result(json_array_get(results, i)))
            return false;
    return true;
}

static void check_file(const char *path)
{
    json_error_t error;
    json_t *o = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!o)
        snprintf(why, sizeof why, "line %d: %.200s", error.line, error.text);
    const bool ok = o && is_file_of_results(o);
    tap(ok, "%s", path);
    if (!ok)
        tap_note("%s", why);
    json_decref(o);
}

/* ---- The check bites ------------------------------------------------------------------------------- */

static const char good[] = "{\"device\": \"d\", \"driver\": \"1\", \"cuda\": \"12.4\", \"commit\": \"c\", "
                           "\"date\": \"2026-01-01T00:00:00Z\", "
                           "\"command\": \"msa bench\", \"ceilings\": {\"matmul_bf16_tflops\": null, "
                           "\"copy_gbps\": 4000.5}, \"results\": "
                           "[{\"stage\": \"sparse\", \"kernel\": \"k\", \"n\": 9, \"n_q\": 9, \"batch\": 1, "
                           "\"n_heads\": 4, \"n_kv_heads\": 2, "
                           "\"d_head\": 64, \"block\": 32, \"topk\": 4, \"distribution\": \"hot\", "
                           "\"union8\": 7.5, \"index_dtype\": null, "
                           "\"lse\": false, \"deterministic\": null, \"ms_median\": 2, \"ms_min\": 1.5, "
                           "\"ms_max\": 3.0, \"repeats\": 20, "
                           "\"useful_tflops\": 3.5, \"gbps\": null, \"verified\": true}]}";

// The good file with one value replaced by another (JSON text; NULL: the field is taken away).
static bool passes_with(const char *field_name, const char *value)
{
    json_t *o = json_loads(good, 0, NULL), *result = json_array_get(json_object_get(o, "results"), 0);
    json_t *places[] = {o, json_object_get(o, "ceilings"), result};
    json_t *x = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    for (int i = 0; field_name && i < 3; i++)
        if (json_object_get(places[i], field_name) || (i == 2 && strcmp(field_name, "extra") == 0)) {
            if (value)
                json_object_set(places[i], field_name, x);
            else
                json_object_del(places[i], field_name);
        }
    const bool ok = is_file_of_results(o);
    json_decref(x);
    json_decref(o);
    return ok;
}

static void check_the_check(void)
{
    static const char *const bad[][2] = {{"device", NULL},
                                         {"device", "null"},
                                         {"commit", "\"\""},
                                         {"ceilings", "null"},
                                         {"copy_gbps", NULL},
                                         {"copy_gbps", "\"4\""},
                                         {"results", "[]"},
                                         {"results", "[1]"},
                                         {"stage", "\"other\""},
                                         {"n", "null"},
                                         {"n", "9.5"},
                                         {"n_q", "10"},
                                         {"topk", "0"},
                                         {"union8", "0"},
                                         {"lse", "null"},
                                         {"lse", "0"},
                                         {"ms_min", "2.5"},
                                         {"ms_max", "1.9"},
                                         {"ms_median", "null"},
                                         {"repeats", "2"},
                                         {"verified", NULL},
                                         {"verified", "null"},
                                         {"distribution", "\"x\""},
                                         {"index_dtype", "\"f16\""},
                                         {"extra", "1"},
                                         {"cuda", "null"}};
    tap(passes_with(NULL, NULL), "a right file passes");
    tap(passes_with("distribution", "null") && passes_with("union8", "null"), "what is unknown may be null");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        tap(!passes_with(bad[i][0], bad[i][1]), "refused: %s %s", bad[i][0],
            bad[i][1] ? bad[i][1] : "missing");
}

int main(int argc, char **argv)
{
    static const char folder[] = "data/bench";
    for (int i = 1; i < argc; i++)
        check_file(argv[i]);
    if (argc > 1)
        return tap_done();
    check_the_check();
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        char path[512];
        const size_t n = strlen(entry->d_name);
        snprintf(path, sizeof path, "%s/%.255s", folder, entry->d_name);
        if (n > 5 && strcmp(entry->d_name + n - 5, ".json") == 0)
            check_file(path);
    }
    if (dir)
        closedir(dir);
    return tap_done();
}

#endif
