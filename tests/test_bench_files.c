/**
 * @file test_bench_files.c
 * @brief What `msa results` takes for a file of results: exactly the fields it is to have, and nothing else.
 */
#include <stdlib.h>
#include <string.h>

#include "../ref/cli/bench_results.h"
#include "../ref/table/table.h"
#include "support/tap.h"

#ifndef HAVE_JANSSON

int main(void)
{
    tap_skip("files of results", "this build has no jansson");
    return tap_done();
}

#else

#include <jansson.h>

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

// That of a CPU, whose ceilings and results say of which type; and with ratios.
static json_t *newer_file(void)
{
    json_t *o = json_loads(good, 0, NULL);
    json_object_set_new(o, "cuda", json_null());
    json_object_set_new(
        o, "ceilings",
        json_loads("{\"matmul_f32_gflops\": 290, \"copy_gbps\": 20, \"read_gbps\": null, "
                   "\"matmul_bf16_tflops\": 1.9, \"register_bf16_tflops\": 3.5, \"tiles\": true}",
                   0, NULL));
    json_t *first = json_array_get(json_object_get(o, "results"), 0);
    json_object_set_new(first, "dtype", json_string("bf16"));
    json_object_set_new(first, "settled_share", json_real(0.01));
    json_object_set_new(first, "fell_back_share", json_integer(0));
    json_object_set_new(first, "copy_ms", json_null());
    json_object_set_new(o, "ratios",
                        json_loads("[{\"of\": \"prefill/fast\", \"over\": \"dense/peer:sdpa\", \"dtype\": "
                                   "\"bf16\", \"n\": 9, \"n_q\": 9, \"n_heads\": 16, \"n_kv_heads\": 1, "
                                   "\"median\": 9, \"min\": 8, \"max\": 9.5, \"pairs\": 5}]",
                                   0, NULL));
    return o;
}

static json_t *tuned_file(const char *tunables)
{
    json_t *o = json_loads(good, 0, NULL);
    json_object_set_new(o, "tunables", json_loads(tunables, 0, NULL));
    return o;
}

// The file, which is freed, with one value replaced by another (JSON text; NULL: the field is taken away).
static bool passes_with(json_t *o, const char *field_name, const char *value)
{
    json_t *places[] = {o, json_object_get(o, "ceilings"), json_array_get(json_object_get(o, "results"), 0),
                        json_array_get(json_object_get(o, "ratios"), 0)};
    json_t *x = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    for (int i = 0; field_name && i < 4; i++)
        if (json_object_get(places[i], field_name) || (i == 2 && strcmp(field_name, "extra") == 0)) {
            if (value)
                json_object_set(places[i], field_name, x);
            else
                json_object_del(places[i], field_name);
        }
    char *text = json_dumps(o, 0);
    const bool ok = !results_trouble(text, strlen(text));
    free(text);
    json_decref(x);
    json_decref(o);
    return ok;
}

static bool good_with(const char *field_name, const char *value)
{
    return passes_with(json_loads(good, 0, NULL), field_name, value);
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
    tap(good_with(NULL, NULL), "a right file passes");
    tap(good_with("distribution", "null") && good_with("union8", "null"), "what is unknown may be null");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        tap(!good_with(bad[i][0], bad[i][1]), "refused: %s %s", bad[i][0], bad[i][1] ? bad[i][1] : "missing");
}

static void check_newer_files(void)
{
    static const char *const bad[][2] = {{"dtype", "\"f16\""},
                                         {"dtype", "null"},
                                         {"settled_share", NULL},
                                         {"settled_share", "-0.1"},
                                         {"fell_back_share", "null"},
                                         {"copy_ms", "0"},
                                         {"tiles", "null"},
                                         {"tiles", NULL},
                                         {"register_bf16_tflops", NULL},
                                         {"register_bf16_tflops", "0"},
                                         {"matmul_bf16_tflops", NULL},
                                         {"matmul_f32_gflops", NULL},
                                         {"ratios", "[]"},
                                         {"of", NULL},
                                         {"over", "\"\""},
                                         {"median", "7"},
                                         {"median", "10"},
                                         {"pairs", "0"},
                                         {"cuda", "\"12.4\""}};
    tap(passes_with(newer_file(), NULL, NULL), "a file with types, tiles and ratios passes");
    tap(passes_with(newer_file(), "ratios", NULL), "... and without ratios");
    tap(passes_with(tuned_file("{\"kv_outer_chunk\": 8192}"), NULL, NULL) &&
            passes_with(tuned_file("{}"), NULL, NULL),
        "... and with the parameters of the device that are not its presets");
    tap(!passes_with(tuned_file("{\"kv_outer_chunk\": 0.5}"), NULL, NULL) &&
            !passes_with(tuned_file("[8192]"), NULL, NULL),
        "... which are whole numbers with names");
    tap(passes_with(newer_file(), "ceilings",
                    "{\"matmul_f32_gflops\": 290, \"copy_gbps\": 20, \"read_gbps\": 20}"),
        "... and with the ceilings of an older one");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        tap(!passes_with(newer_file(), bad[i][0], bad[i][1]), "refused: %s %s", bad[i][0],
            bad[i][1] ? bad[i][1] : "missing");
}

// What a run on a device writes: the parameters that are not its presets, and no other.
static void check_written(void)
{
    char dir[] = "/tmp/msa-XXXXXX", path[64];
    result r = {.kernel = table_at(0), .verified = true, .time = {1, 1, 1, 3}};
    results all = {.about = {.name = "d"}, .device = msa_engine(), .n = 1, .item = &r};
    r.shape = (msa_shape){9, 9, 4, 2, 64, 64, 32, 4, 1, NULL, NULL, NULL, NULL};
    if (!all.device || !mkdtemp(dir)) {
        tap_skip("the file of a run on a device", "this build has no engine");
        return;
    }
    snprintf(path, sizeof path, "%s/f.json", dir);
    msa_tune(all.device, MSA_TUNE_sweep_chunk, 20);
    const int status = results_write("test", path, &all);
    json_t *o = json_load_file(path, 0, NULL), *tuned = json_object_get(o, "tunables");
    tap(status == 0 && json_object_size(tuned) == 1 &&
            json_integer_value(json_object_get(tuned, "sweep_chunk")) == 20,
        "a file says which parameters of the device are not its presets");
    json_decref(o);
    remove(path);
    remove(dir);
}

int main(void)
{
    check_the_check();
    check_newer_files();
    check_written();
    return tap_done();
}

#endif
