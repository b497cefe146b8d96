/* msa count: what kernels do, counted by the CPU engine, a column a kernel. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../bench/roofline.h"
#include "../judge/inputs.h"
#include "engine.h"

#define MAX_KERNELS 64
#define CELL 40

/* A kernel's column. */
typedef struct column {
    const msa_kernel *kernel;
    bool ran; /* else it does not take the shape */
    bool wrote_scores;
    simt_counters n;
    roofline_need need;
} column;

/* ---- Cells ---------------------------------------------------------------------------------------- */

/* 1234567 as 1,234,567. */
static void grouped(uint64_t n, char cell[CELL])
{
    char digits[24];
    int at = 0;
    const int length = snprintf(digits, sizeof digits, "%" PRIu64, n);
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            cell[at++] = ',';
        cell[at++] = digits[i];
    }
    cell[at] = 0;
}

static double traffic(const column *c)
{
    return (double)c->n.load_bytes + (double)c->n.store_bytes;
}

/* Of 8-bit ones two take the time of one in 16 bits. */
static double flops(const column *c)
{
    return 2 * (double)c->n.tensor_fma + (double)c->n.tensor_int8;
}

/* Quantities that are no plain counts; NAN where a kernel has none. */
static double useful(const column *c)
{
    return c->n.tensor_fma ? 100 * c->need.fma / ((double)c->n.tensor_fma + (double)c->n.tensor_int8) : NAN;
}
static double intensity(const column *c)
{
    return c->n.tensor_fma ? flops(c) / traffic(c) : NAN;
}
static double over_least(const column *c)
{
    return traffic(c) / c->need.bytes;
}
static double over_order(const column *c)
{
    return c->need.order_bytes > 0 ? traffic(c) / c->need.order_bytes : NAN;
}

/* Seconds: the slower of the tensor cores and the memory. */
static double seconds(const column *c, const roofline_gpu *gpu, double bytes, bool *memory)
{
    const double products = flops(c) / gpu->flops, moving = bytes / gpu->bytes;
    *memory = moving >= products;
    return *memory ? moving : products;
}

/* What the memory has to deliver if no cache holds anything, and if one holds everything. */
static double bytes_moved(const column *c, bool cached)
{
    return cached ? c->need.bytes : 32 * ((double)c->n.load_sectors + (double)c->n.store_sectors);
}

/* ---- The rows ------------------------------------------------------------------------------------- */

#define COUNT(member) offsetof(simt_counters, member)
static const struct {
    const char *label, *csv; /* csv NULL: a heading */
    size_t count;            /* if not ratio */
    double (*ratio)(const column *c);
    const char *format;
} rows[] = {
    {"Launch", NULL, 0, NULL, NULL},
    {"kernels launched", "launches", COUNT(launches), NULL, NULL},
    {"CTAs", "ctas", COUNT(blocks), NULL, NULL},
    {"threads", "threads", COUNT(threads), NULL, NULL},
    {"shared memory per CTA, bytes", "shared_bytes", COUNT(shared_bytes), NULL, NULL},
    {"Tensor cores", NULL, 0, NULL, NULL},
    {"multiply-adds", "tensor_fma", COUNT(tensor_fma), NULL, NULL},
    {"in 8-bit integers", "tensor_int8", COUNT(tensor_int8), NULL, NULL},
    {"of them useful", "useful_percent", 0, useful, "%.1f%%"},
    {"Global memory", NULL, 0, NULL, NULL},
    {"bytes read", "load_bytes", COUNT(load_bytes), NULL, NULL},
    {"32-byte sectors read", "load_sectors", COUNT(load_sectors), NULL, NULL},
    {"bytes written", "store_bytes", COUNT(store_bytes), NULL, NULL},
    {"32-byte sectors written", "store_sectors", COUNT(store_sectors), NULL, NULL},
    {"TMA copies", "tma_copies", COUNT(bulk_copies), NULL, NULL},
    {"bytes of their boxes", "tma_bytes", COUNT(bulk_bytes), NULL, NULL},
    {"times the arrays' size", "bytes_over_least", 0, over_least, "%.2f"},
    {"times the loop order's bytes", "bytes_over_formula", 0, over_order, "%.2f"},
    {"tensor FLOP per byte", "flop_per_byte", 0, intensity, "%.1f"},
    {"Shared memory and waiting", NULL, 0, NULL, NULL},
    {"shared accesses of warps", "shared_accesses", COUNT(shared_accesses), NULL, NULL},
    {"extra passes: bank conflicts", "bank_conflicts", COUNT(shared_conflicts), NULL, NULL},
    {"barriers passed by warps", "barriers", COUNT(barriers), NULL, NULL},
    {"mbarrier waits of threads", "mbarrier_waits", COUNT(mbarrier_waits), NULL, NULL},
    {"of them not yet complete", "mbarrier_stalls", COUNT(mbarrier_stalls), NULL, NULL},
};
#define N_ROWS ((int)(sizeof rows / sizeof *rows))

static uint64_t count_of(const column *c, int row)
{
    uint64_t n;
    memcpy(&n, (const char *)&c->n + rows[row].count, sizeof n);
    return n;
}

static void cell_of(const column *c, int row, char cell[CELL])
{
    const double ratio = rows[row].ratio && c->ran ? rows[row].ratio(c) : 0;
    if (!rows[row].csv)
        snprintf(cell, CELL, "%s", "");
    else if (!c->ran || isnan(ratio))
        snprintf(cell, CELL, "-");
    else if (rows[row].ratio)
        snprintf(cell, CELL, rows[row].format, ratio);
    else if ((rows[row].count == COUNT(tensor_fma) || rows[row].count == COUNT(tensor_int8)) &&
             count_of(c, row) == 0)
        snprintf(cell, CELL, "-");
    else
        grouped(count_of(c, row), cell);
}

/* ---- The table ------------------------------------------------------------------------------------ */

#define LABEL 30

static int name_of(const column *c, char *name, size_t size)
{
    return snprintf(name, size, "%s/%s", msa_stage_name(c->kernel->stage), c->kernel->name);
}

static int width_of(const column *c)
{
    char cell[CELL];
    int width = name_of(c, cell, sizeof cell);
    for (int row = 0; row < N_ROWS; row++) {
        cell_of(c, row, cell);
        width = (int)strlen(cell) > width ? (int)strlen(cell) : width;
    }
    return width > 11 ? width : 11;
}

static void print_names(const column *c, int n)
{
    char name[CELL];
    printf("%-*s", LABEL, "");
    for (int i = 0; i < n; i++) {
        name_of(&c[i], name, sizeof name);
        printf("  %*s", width_of(&c[i]), name);
    }
    printf("\n");
}

static void print_counts(const column *c, int n)
{
    char cell[CELL];
    for (int row = 0; row < N_ROWS; row++) {
        printf("%s%-*s", rows[row].csv ? "  " : "", rows[row].csv ? LABEL - 2 : 0, rows[row].label);
        for (int i = 0; i < n && rows[row].csv; i++) {
            cell_of(&c[i], row, cell);
            printf("  %*s", width_of(&c[i]), cell);
        }
        printf("\n");
    }
}

static void print_time(const column *c, const roofline_gpu *gpu, bool cached)
{
    char cell[CELL] = "-";
    bool memory;
    if (c->ran) {
        const double time = seconds(c, gpu, bytes_moved(c, cached), &memory);
        snprintf(cell, sizeof cell, "%.3g us %c", 1e6 * time, memory ? 'm' : 't');
    }
    printf("  %*s", width_of(c), cell);
}

static void print_estimate(const column *c, int n)
{
    printf("Estimate from counts, not a measurement\n");
    for (int g = 0; g < ROOFLINE_GPUS; g++)
        for (int cached = 1; cached >= 0; cached--) {
            char label[64];
            snprintf(label, sizeof label, "%s, %s", roofline_gpus[g].name,
                     cached ? "perfect cache" : "no cache");
            printf("  %-*s", LABEL - 2, label);
            for (int i = 0; i < n; i++)
                print_time(&c[i], &roofline_gpus[g], cached);
            printf("\n");
        }
}

static void print_notes(const column *c, int n)
{
    bool missing = false, scores = false;
    for (int i = 0; i < n; i++) {
        missing = missing || !c[i].ran;
        scores = scores || (c[i].ran && c[i].wrote_scores);
    }
    printf(
        "\n"
        "Exact and the same on every machine. \"-\": nothing of the kind; work of the CUDA cores is not "
        "counted.\n"
        "Useful: 2 d multiply-adds for each head, query and key that it attends to (index: d for each "
        "group).\n"
        "The arrays' size: each input and output once; of K and V the blocks that some query chose.\n"
        "The loop order's bytes: Q-outer or KV-outer (chapter 14) or decoding (chapter 7), this selection.\n"
        "Not yet complete: when the engine, which lets copies land as late as allowed, came to them.\n"
        "Estimate: the longer of tensor work at the peak rate (t) and bytes at the memory's full rate (m):\n"
        "each array once if caches hold everything, every sector moved if they hold nothing. Latencies,\n"
        "barriers and the CUDA cores' work come on top.\n");
    if (scores)
        printf("index: fused writes ids; the others write scores, which a selection kernel then reads.\n");
    for (int i = 0; i < n && missing; i++)
        if (!c[i].ran)
            printf("%s/%s does not take this shape (%s).\n", msa_stage_name(c[i].kernel->stage),
                   c[i].kernel->name, c[i].kernel->constraints);
}

/* ---- CSV ------------------------------------------------------------------------------------------ */

#define CSV_LINE 2048

typedef struct csv {
    char *text;
    size_t n, capacity;
} csv;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void
put(csv *f, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(f->text + f->n, f->capacity - f->n, format, args);
    va_end(args);
    f->n = (size_t)n < f->capacity - f->n ? f->n + (size_t)n : f->capacity - 1;
}

static void put_head(csv *f)
{
    put(f, "kernel,shape,distribution,seed,output");
    for (int row = 0; row < N_ROWS; row++)
        if (rows[row].csv)
            put(f, ",%s", rows[row].csv);
    for (int g = 0; g < ROOFLINE_GPUS; g++) {
        const int n = (int)strcspn(roofline_gpus[g].name, ","); /* "H800" of "H800, H100" */
        put(f, ",estimate_us_%.*s_cached,estimate_us_%.*s_uncached", n, roofline_gpus[g].name, n,
            roofline_gpus[g].name);
    }
    put(f, "\n");
}

static void put_row(csv *f, const column *c, const trial *t)
{
    char name[CELL], shape[INPUTS_NAME];
    bool memory;
    name_of(c, name, sizeof name);
    inputs_shape_name(&t->shape, shape);
    put(f, "%s,%s,%s,%lld,%s", name, shape, selection_name(t->kind), (long long)t->seed,
        t->out == MSA_BF16 ? "bf16" : "f32");
    for (int row = 0; row < N_ROWS; row++) {
        const double ratio = rows[row].ratio ? rows[row].ratio(c) : 0;
        if (rows[row].csv && !rows[row].ratio)
            put(f, ",%" PRIu64, count_of(c, row));
        else if (rows[row].csv && isnan(ratio))
            put(f, ",");
        else if (rows[row].csv)
            put(f, ",%.6g", ratio);
    }
    for (int g = 0; g < ROOFLINE_GPUS; g++)
        for (int cached = 1; cached >= 0; cached--)
            put(f, ",%.6g", 1e6 * seconds(c, &roofline_gpus[g], bytes_moved(c, cached), &memory));
    put(f, "\n");
}

static int write_csv(const char *command, const char *path, const column *c, int n, const trial *t)
{
    csv f = {.capacity = CSV_LINE * ((size_t)n + 1)};
    io_error err;
    f.text = cli_begin_output(command, "--csv", path) ? NULL : cli_alloc(command, f.capacity);
    if (!f.text)
        return 2;
    put_head(&f);
    for (int i = 0; i < n; i++)
        if (c[i].ran)
            put_row(&f, &c[i], t);
    const bool ok = io_write_file(path, &(io_chunk){f.text, f.n}, 1, err);
    free(f.text);
    return ok ? 0 : cli_fail(command, "--csv %s", err);
}

/* ---- The command ---------------------------------------------------------------------------------- */

/* Small enough for seconds, large enough that tiles are full and queries choose. Naive attention is what
 * takes the engine long. */
static msa_shape standard_shape(const msa_kernel *const *kernel, int n)
{
    msa_shape s = {.n_q = 256,
                   .n_kv = 1024,
                   .n_heads = 16,
                   .n_kv_heads = 1,
                   .d_head = 128,
                   .d_index = 128,
                   .block = 128,
                   .topk = 4,
                   .n_seqs = 1};
    for (int i = 0; i < n; i++) {
        const msa_stage stage = kernel[i]->stage;
        if ((stage == MSA_STAGE_DENSE || stage == MSA_STAGE_SPARSE || stage == MSA_STAGE_PREFILL ||
             stage == MSA_STAGE_BACKWARD || stage == MSA_STAGE_DENSE_BACKWARD || stage == MSA_STAGE_KL) &&
            s.n_q > 16)
            s.n_q = 16;
        if (stage == MSA_STAGE_DECODE || stage == MSA_STAGE_DENSE_DECODE)
            s.n_q = 1;
    }
    return s;
}

static int count_all(const char *command, const trial *t, const msa_kernel *const *kernel, int n, column *c)
{
    int ran = 0;
    for (int i = 0; i < n; i++) {
        msa_arrays a;
        cli_progress("counting", i, n, kernel[i]->name);
        const msa_status status = trial_run(t, kernel[i], &a);
        c[i] = (column){.kernel = kernel[i], .ran = status == MSA_OK};
        if (status != MSA_OK && (status != MSA_ERR_UNSUPPORTED || n == 1))
            return engine_failed(command, kernel[i], status);
        if (!c[i].ran)
            continue;
        c[i].n = *simt_counts();
        c[i].need = roofline_of(kernel[i], &t->shape, t->out, &a);
        c[i].wrote_scores = kernel[i]->stage == MSA_STAGE_INDEX && a.scores;
        ran++;
    }
    cli_progress_end();
    return ran ? 0 : engine_failed(command, kernel[0], MSA_ERR_UNSUPPORTED);
}

static void print_table(const trial *t, const column *c, int n)
{
    char shape[INPUTS_NAME];
    inputs_shape_name(&t->shape, shape);
    printf("%s  %s selection, seed %lld, O in %s\n\n", shape, selection_name(t->kind), (long long)t->seed,
           t->out == MSA_BF16 ? "bf16" : "float32");
    print_names(c, n);
    print_counts(c, n);
    print_estimate(c, n);
    print_notes(c, n);
}

int cmd_count(int argc, char **argv)
{
    engine_options given = ENGINE_DEFAULTS;
    const char *path = NULL;
    cli_list names = {0};
    const msa_kernel *kernel[MAX_KERNELS];
    static column c[MAX_KERNELS];
    int n = 0;
    const cli_option options[] = {
        ENGINE_OPTIONS(given), {"--csv", CLI_TEXT, &path, 0, 0, "FILE receives a row a kernel"}, {0}};
    trial t;
    int status = cli_parse(argc, argv, options, &names);
    if (!status)
        status = engine_find(argv[0], &names, kernel, MAX_KERNELS, &n);
    if (!status && path)
        status = cli_check_writable(argv[0], "--csv", path);
    if (status)
        return status;
    const msa_shape standard = standard_shape(kernel, n);
    status = engine_begin(argv[0], &given, &standard, &t);
    if (status)
        return status;
    status = count_all(argv[0], &t, kernel, n, c);
    if (!status && path)
        status = write_csv(argv[0], path, c, n, &t);
    if (!status)
        print_table(&t, c, n);
    if (!status && path)
        status = cli_commit_outputs(argv[0]);
    trial_end(&t);
    return status;
}
