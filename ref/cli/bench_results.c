/* The table and the file of `msa bench`. */
#include "bench_results.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

/* ---- The table ------------------------------------------------------------------------------------- */

static double tflops(const result *r)
{
    return r->time.repeats ? r->flops / r->time.median * 1e-9 : 0;
}

static double gbps(const result *r)
{
    return r->time.repeats ? r->bytes / r->time.median * 1e-6 : 0;
}

/* A kernel with its keys in bf16 may widen them and multiply float32. */
const char *result_dtype(const result *r)
{
    return r->kernel->precision >= MSA_BF16_INPUTS ? "bf16" : "f32";
}

double result_ceiling(const results *all, const result *r)
{
    return strcmp(result_dtype(r), "bf16") == 0 ? all->ceilings.bf16_tflops : all->ceilings.f32_tflops;
}

/* Of whichever ceiling it is nearer to; where reading was measured by itself, it is the memory's. */
static double share(const results *all, const result *r)
{
    const double memory = all->ceilings.read_gbps > 0 ? all->ceilings.read_gbps : all->ceilings.copy_gbps;
    const double product = result_ceiling(all, r) > 0 ? tflops(r) / result_ceiling(all, r) : 0;
    const double moved = memory > 0 ? gbps(r) / memory : 0;
    return product > moved ? product : moved;
}

/* A few new queries over a long prefix are a step of generation. */
static const char *stage_of(const result *r)
{
    const int n = msa_n_seqs(&r->shape);
    if (r->kernel->stage == MSA_STAGE_DENSE && r->shape.n_q <= 16 * n && r->shape.n_q < r->shape.n_kv)
        return "dense_decode";
    return msa_stage_name(r->kernel->stage);
}

static void print_number(double x, int width, int digits)
{
    if (x > 0)
        printf(" %*.*f", width, digits, x);
    else
        printf(" %*s", width, "-");
}

/* Four digits, however many come before the point. */
static int decimals(double x)
{
    int n = 3;
    for (; n > 0 && x >= 10; n--)
        x /= 10;
    for (; n < 7 && x < 1; n++)
        x *= 10;
    return n;
}

#define NAME 64
/* With KL in its sweep a backward kernel does more, and so is called otherwise. */
static const char *name_of(const result *r, char name[NAME])
{
    snprintf(name, NAME, "%s%s", r->kernel->name, r->kl ? "+kl" : "");
    return name;
}

static void print_row(const results *all, const result *r)
{
    char name[96], own[NAME];
    snprintf(name, sizeof name, "%s/%s", msa_stage_name(r->kernel->stage), name_of(r, own));
    printf("%-22s %-5s %-5s", name, r->kernel->backend, result_dtype(r));
    if (!r->time.repeats)
        printf(" %10s %-25s", "-", "");
    else {
        char range[64];
        const int n = decimals(r->time.median);
        snprintf(range, sizeof range, "(%.*f..%.*f)", n, r->time.min, n, r->time.max);
        printf(" %10.*f %-25s", n, r->time.median, range);
    }
    print_number(r->engine ? 0 : tflops(r), 8, 3);
    print_number(r->engine ? 0 : gbps(r), 8, 2);
    if (!r->engine && share(all, r) > 0)
        printf(" %6.1f%%", 100 * share(all, r));
    else
        printf(" %7s", "-");
    printf("  %s%s\n", r->verified ? "yes" : "NO", r->engine ? "  (the engine's time, not a GPU's)" : "");
    if (r->copy_ms > 0)
        printf("%-22s %-5s %-5s %10.4g ms to make it, once and before\n", "  its 8-bit copy",
               r->kernel->backend, "int8", r->copy_ms);
    if (r->screening.rows > 0) {
        printf("  ");
        cli_print_screening(&r->screening);
    }
}

static bool is_tuned(const results *all, int parameter)
{
    return all->device->tuned[parameter] != msa_tune_preset(all->device, parameter);
}

void results_print(const results *all)
{
    printf("\n%-22s %-5s %-5s %10s %-25s %8s %8s %7s  %s\n", "stage/kernel", "on", "type", "ms median",
           "(min..max)", "TFLOP/s", "GB/s", "ceiling", "verified");
    for (int i = 0; i < all->n; i++)
        print_row(all, &all->item[i]);
    const ceilings *of = &all->ceilings;
    printf("\n%s", all->about.name);
    if (of->f32_tflops > 0)
        printf("; float32 product %.4g TFLOP/s", of->f32_tflops);
    if (of->bf16_tflops > 0)
        printf("; bf16 product %.4g TFLOP/s", of->bf16_tflops);
    if (of->register_tflops > 0)
        printf(", in registers %.4g%s", of->register_tflops, of->tiles ? "" : " (no tiles here)");
    if (of->copy_gbps > 0)
        printf("; copy %.4g GB/s", of->copy_gbps);
    if (of->read_gbps > 0)
        printf("; read %.4g GB/s", of->read_gbps);
    printf("\n");
    for (int i = 0; all->device && i < MSA_N_TUNABLES; i++)
        if (is_tuned(all, i))
            printf("tuned: %s %d instead of %d\n", msa_tunables[i].name, all->device->tuned[i],
                   msa_tune_preset(all->device, i));
}

/* ---- The file -------------------------------------------------------------------------------------- */

#ifndef HAVE_JANSSON

bool results_have_json(void)
{
    return false;
}

int results_write(const char *command, const char *path, const results *all)
{
    (void)path;
    (void)all;
    return cli_fail(command,
                    "--json: expected a build with jansson (package libjansson-dev), found one without");
}

#else

#include "../io/json.h"
#include <stdlib.h>
#include <time.h>

#include "commit.inc"

bool results_have_json(void)
{
    return true;
}

static json_t *text_or_null(const char *text)
{
    return text && *text ? json_string(text) : json_null();
}

/* Six digits are more than any clock is good for. */
static json_t *real_or_null(double x)
{
    char text[32];
    if (!(x > 0))
        return json_null();
    snprintf(text, sizeof text, "%.6g", x);
    return json_real(strtod(text, NULL));
}

static bool has_index(const result *r)
{
    const msa_stage stage = r->kernel->stage;
    return r->kl || stage == MSA_STAGE_INDEX || stage == MSA_STAGE_PREFILL || stage == MSA_STAGE_DECODE ||
           stage == MSA_STAGE_KL;
}

static bool is_gradient(msa_stage stage)
{
    return stage == MSA_STAGE_BACKWARD || stage == MSA_STAGE_DENSE_BACKWARD || stage == MSA_STAGE_KL;
}

/* On a device gradients are summed by reductions in memory unless a kernel says otherwise by its name. */
static bool is_deterministic(const msa_kernel *k)
{
    return strcmp(k->backend, "cuda") != 0 || strcmp(k->name, "deterministic") == 0;
}

static json_t *result_json(const result *r)
{
    const msa_shape *s = &r->shape;
    const int batch = msa_n_seqs(s);
    char name[NAME];
    const char *index = r->small                ? "fp8"
                        : r->screening.rows > 0 ? "int8"
                        : r->half               ? "bf16"
                                                : result_dtype(r);
    json_t *o = json_object();
    json_object_set_new(o, "stage", json_string(stage_of(r)));
    json_object_set_new(o, "kernel", json_string(name_of(r, name)));
    json_object_set_new(o, "dtype", json_string(result_dtype(r)));
    json_object_set_new(o, "n", json_integer(s->n_kv / batch));
    json_object_set_new(o, "n_q", json_integer(s->n_q / batch));
    json_object_set_new(o, "batch", json_integer(batch));
    json_object_set_new(o, "n_heads", json_integer(s->n_heads));
    json_object_set_new(o, "n_kv_heads", json_integer(s->n_kv_heads));
    json_object_set_new(o, "d_head", json_integer(s->d_head));
    json_object_set_new(o, "block", json_integer(s->block));
    json_object_set_new(o, "topk", json_integer(s->topk));
    json_object_set_new(o, "distribution", text_or_null(r->distribution));
    json_object_set_new(o, "union8", real_or_null(r->union8));
    json_object_set_new(o, "index_dtype", text_or_null(has_index(r) ? index : NULL));
    json_object_set_new(o, "lse", json_boolean(r->lse));
    json_object_set_new(o, "deterministic",
                        is_gradient(r->kernel->stage) ? json_boolean(is_deterministic(r->kernel))
                                                      : json_null());
    json_object_set_new(o, "ms_median", real_or_null(r->time.median));
    json_object_set_new(o, "ms_min", real_or_null(r->time.min));
    json_object_set_new(o, "ms_max", real_or_null(r->time.max));
    json_object_set_new(o, "repeats", json_integer(r->time.repeats));
    json_object_set_new(o, "useful_tflops", real_or_null(tflops(r)));
    json_object_set_new(o, "gbps", real_or_null(gbps(r)));
    json_object_set_new(o, "verified", json_boolean(r->verified));
    if (r->screening.rows > 0) {
        const msa_screening *done = &r->screening;
        json_object_set_new(o, "settled_share", json_real((double)done->settled / (double)done->blocks));
        json_object_set_new(o, "fell_back_share", json_real((double)done->fell_back / (double)done->rows));
        json_object_set_new(o, "copy_ms", real_or_null(r->copy_ms));
    }
    return o;
}

/* As it was typed, but for the quotes and for bytes that are not text. */
static json_t *command_json(const results *all)
{
    char line[4096];
    size_t n = (size_t)snprintf(line, sizeof line, "msa");
    for (int i = 0; i < all->argc && n < sizeof line; i++) {
        const char *quote = all->argv[i][strcspn(all->argv[i], " *?$")] || !*all->argv[i] ? "'" : "";
        n += (size_t)snprintf(line + n, sizeof line - n, " %s%s%s", quote, all->argv[i], quote);
    }
    io_make_printable(line);
    return json_string(line);
}

static json_t *date_json(void)
{
    char text[32];
    const time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return json_string(text);
}

static json_t *ceilings_json(const results *all)
{
    const ceilings *of = &all->ceilings;
    json_t *o = json_object();
    json_object_set_new(o, "matmul_bf16_tflops", real_or_null(of->bf16_tflops));
    json_object_set_new(o, "copy_gbps", real_or_null(of->copy_gbps));
    if (!all->on_cpu)
        return o;
    json_object_set_new(o, "matmul_f32_gflops", real_or_null(1e3 * of->f32_tflops));
    json_object_set_new(o, "register_bf16_tflops", real_or_null(of->register_tflops));
    json_object_set_new(o, "tiles", json_boolean(of->tiles));
    json_object_set_new(o, "read_gbps", real_or_null(of->read_gbps));
    return o;
}

/* The parameters of the device that are not what it begins with. */
static json_t *tunables_json(const results *all)
{
    json_t *o = json_object();
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        if (is_tuned(all, i))
            json_object_set_new(o, msa_tunables[i].name, json_integer(all->device->tuned[i]));
    return o;
}

static json_t *file_json(const results *all)
{
    json_t *o = json_object(), *list = json_array();
    json_object_set_new(o, "device", text_or_null(all->about.name));
    json_object_set_new(o, "driver", text_or_null(all->about.driver));
    json_object_set_new(o, "cuda", text_or_null(all->about.cuda));
    json_object_set_new(o, "commit", json_string(MSA_COMMIT));
    json_object_set_new(o, "date", date_json());
    json_object_set_new(o, "command", command_json(all));
    json_object_set_new(o, "ceilings", ceilings_json(all));
    if (all->device)
        json_object_set_new(o, "tunables", tunables_json(all));
    for (int i = 0; i < all->n; i++)
        if (!all->item[i].engine && all->item[i].time.repeats)
            json_array_append_new(list, result_json(&all->item[i]));
    json_object_set_new(o, "results", list);
    return o;
}

int results_write(const char *command, const char *path, const results *all)
{
    io_error err;
    io_json_begin();
    json_t *o = file_json(all);
    char *text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(o);
    if (!text || !io_json_whole()) {
        free(text);
        return cli_fail(command, "--json %s: expected memory to write it, found too little", path);
    }
    const io_chunk chunk[] = {{text, strlen(text)}, {"\n", 1}};
    int bad = cli_begin_output(command, "--json", path);
    if (!bad && !io_write_file(path, chunk, 2, err))
        bad = cli_fail(command, "--json: %s", err);
    free(text);
    return bad ? bad : cli_commit_outputs(command);
}

#endif
