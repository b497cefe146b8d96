/* Whether a text is a file of results, field by field. */
#include "bench_results.h"

#ifdef HAVE_JANSSON

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* A field's type: s text, i positive integer, r positive number, b truth, a array, o object; capitals admit null. */
typedef struct field {
    const char *name;
    char type;
    const char *one_of; // words between bars
} field;

static const field file_fields[] = {{"device", 's', NULL},   {"driver", 'S', NULL},  {"cuda", 'S', NULL},
                                    {"commit", 's', NULL},   {"date", 's', NULL},    {"command", 's', NULL},
                                    {"ceilings", 'o', NULL}, {"results", 'a', NULL}, {NULL, 0, NULL}};
static const field file_later[] = {{"ratios", 'a', NULL}, {NULL, 0, NULL}};
static const field file_device[] = {{"tunables", 'o', NULL}, {NULL, 0, NULL}};
static const field gpu_fields[] = {
    {"matmul_bf16_tflops", 'R', NULL}, {"copy_gbps", 'R', NULL}, {NULL, 0, NULL}};
static const field cpu_fields[] = {
    {"matmul_f32_gflops", 'R', NULL}, {"copy_gbps", 'R', NULL}, {"read_gbps", 'R', NULL}, {NULL, 0, NULL}};
static const field cpu_later[] = {{"matmul_bf16_tflops", 'R', NULL},
                                  {"register_bf16_tflops", 'R', NULL},
                                  {"tiles", 'b', NULL},
                                  {NULL, 0, NULL}};
#define STAGE(NAME, name, ...) #name "|"
static const char stages[] = "|"
#include "../stages.def"
    ;
static const field result_fields[] = {{"stage", 's', stages},
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
                                      {"index_dtype", 'S', "|bf16|fp8|int8|f32|"},
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
static const field result_later[] = {{"dtype", 's', "|f32|bf16|"}, {NULL, 0, NULL}};
/* Of a kernel that screened blocks by 8-bit index keys. */
static const field result_screened[] = {
    {"settled_share", 'z', NULL}, {"fell_back_share", 'z', NULL}, {"copy_ms", 'R', NULL}, {NULL, 0, NULL}};
/* How many times faster a result of the run was than another of its type, pair by pair. */
static const field ratio_fields[] = {
    {"of", 's', NULL},  {"over", 's', NULL},    {"dtype", 's', "|f32|bf16|"}, {"n", 'i', NULL},
    {"n_q", 'i', NULL}, {"n_heads", 'i', NULL}, {"n_kv_heads", 'i', NULL},    {"median", 'r', NULL},
    {"min", 'r', NULL}, {"max", 'r', NULL},     {"pairs", 'i', NULL},         {NULL, 0, NULL}};

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
    case 'z':
        return json_is_number(x) && json_number_value(x) >= 0;
    case 'B':
    case 'b':
        return json_is_boolean(x);
    case 'o':
        return json_is_object(x);
    default:
        return json_is_array(x) && json_array_size(x) > 0;
    }
}

/* Whether an object has these fields, each of its type; counts them. */
static bool are_there(const json_t *o, const field *fields, const char *what, size_t *n)
{
    for (const field *f = fields; f->name; f++, ++*n) {
        const json_t *x = json_object_get(o, f->name);
        const bool may_be_null = strchr("SRB", f->type) != NULL;
        if (!x || !(json_is_null(x) ? may_be_null : has_type(x, f))) {
            snprintf(why, sizeof why, "%s: field %s is missing or wrong", what, f->name);
            return false;
        }
    }
    return true;
}

/* And no other, but for two groups of which each may be missing, as in older files; NULL: there are none of these. */
static bool has_fields_or(const json_t *o, const field *fields, const field *later, const field *more,
                          const char *what)
{
    const field *const group[] = {later, more};
    size_t n = 0;
    if (!json_is_object(o)) {
        snprintf(why, sizeof why, "%s: not an object", what);
        return false;
    }
    if (!are_there(o, fields, what, &n))
        return false;
    for (int i = 0; i < 2; i++)
        if (group[i] && json_object_get(o, group[i]->name) && !are_there(o, group[i], what, &n))
            return false;
    if (json_object_size(o) != n)
        snprintf(why, sizeof why, "%s: a field that nobody knows", what);
    return json_object_size(o) == n;
}

static bool has_fields(const json_t *o, const field *fields, const field *later, const char *what)
{
    return has_fields_or(o, fields, later, NULL, what);
}

static double number(const json_t *o, const char *name)
{
    return json_number_value(json_object_get(o, name));
}

static bool is_result(const json_t *r)
{
    if (!has_fields_or(r, result_fields, result_later, result_screened, "a result"))
        return false;
    const double min = number(r, "ms_min"), median = number(r, "ms_median"), max = number(r, "ms_max");
    const bool ok =
        min <= median && median <= max && number(r, "repeats") >= 3 && number(r, "n_q") <= number(r, "n");
    if (!ok)
        snprintf(why, sizeof why,
                 "a result: times out of order, fewer than 3 repeats, or more queries than keys");
    return ok;
}

static bool is_ratio(const json_t *r)
{
    if (!has_fields(r, ratio_fields, NULL, "a ratio"))
        return false;
    const bool ok = number(r, "min") <= number(r, "median") && number(r, "median") <= number(r, "max");
    if (!ok)
        snprintf(why, sizeof why, "a ratio: median not between min and max");
    return ok;
}

/* Names and whole numbers, of a table that may be another one by now. */
static bool are_tunables(json_t *o)
{
    const char *name;
    json_t *x;
    json_object_foreach(o, name, x) if (!json_is_integer(x))
    {
        snprintf(why, sizeof why, "tunables: %.100s is no whole number", name);
        return false;
    }
    return true;
}

static bool is_file_of_results(const json_t *o)
{
    if (!has_fields_or(o, file_fields, file_later, file_device, "the file") ||
        !are_tunables(json_object_get(o, "tunables")))
        return false;
    const bool gpu = json_is_string(json_object_get(o, "cuda"));
    const json_t *list = json_object_get(o, "results");
    if (!has_fields(json_object_get(o, "ceilings"), gpu ? gpu_fields : cpu_fields, gpu ? NULL : cpu_later,
                    "ceilings"))
        return false;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!is_result(json_array_get(list, i)))
            return false;
    const json_t *ratios = json_object_get(o, "ratios");
    for (size_t i = 0; i < json_array_size(ratios); i++)
        if (!is_ratio(json_array_get(ratios, i)))
            return false;
    return true;
}

const char *results_trouble(const char *text, size_t bytes)
{
    json_error_t error;
    json_t *o = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!o)
        snprintf(why, sizeof why, "line %d: %.200s", error.line, error.text);
    const bool ok = o && is_file_of_results(o);
    json_decref(o);
    return ok ? NULL : why;
}

#endif
