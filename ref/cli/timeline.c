/* msa timeline: one CTA of a kernel, as the CPU engine's model of an SM sees it, as a picture. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../judge/inputs.h"
#include "engine.h"
#include "timeline_lanes.h"
#include "timeline_predict.h"

#define WINDOW 16000 /* clocks that are readable at 1600 pixels */
#define MAX_CLOCKS 1e12
#define UNTIL_END (-1)

typedef struct request {
    const char *command, *path;
    char line[1024]; /* the command line, which the picture keeps */
    const msa_kernel *kernel;
    int64_t launch, cta;
    double from, to;
} request;

static bool ends_with(const char *text, const char *tail)
{
    const size_t n = strlen(text), m = strlen(tail);
    return n > m && strcmp(text + n - m, tail) == 0;
}

/* "(hopper<d.value, T>)", as the launch spells it, is the kernel hopper. */
static void kernel_name(const char *spelt, char *name, size_t size)
{
    spelt += spelt[0] == '(';
    snprintf(name, size, "%.*s", (int)strcspn(spelt, "<)"), spelt);
}

/* One block with work for all its warps, and enough tiles of keys to see a rhythm. */
static msa_shape standard_shape(const msa_kernel *kernel)
{
    msa_shape s = {.n_q = 8,
                   .n_kv = 2048,
                   .n_heads = 16,
                   .n_kv_heads = 1,
                   .d_head = 128,
                   .d_index = 128,
                   .block = 128,
                   .topk = 8,
                   .n_seqs = 1};
    if (kernel->stage == MSA_STAGE_INDEX)
        s.n_q = 256;
    if (kernel->stage == MSA_STAGE_SPARSE || kernel->stage == MSA_STAGE_PREFILL)
        s.n_q = 64;
    if (kernel->stage == MSA_STAGE_DECODE)
        s.n_q = 1, s.n_kv = 65536; /* several stages a split */
    return s;
}

static int write_picture(const request *q, const drawing *d)
{
    const st_meta text[] = {{"Software", "msa " MSA_VERSION}, {"Command", q->line}};
    io_error err;
    char written[IO_ERR];
    if (cli_begin_output(q->command, "--out", q->path))
        return 2;
    snprintf(written, sizeof written, "%s", q->path);
    const bool ok = ends_with(q->path, ".svg") ? drawing_write_svg(d, q->path, text, 2, err)
                                               : drawing_write_png(d, q->path, text, 2, written, err);
    if (!ok)
        return cli_fail(q->command, "--out %s", err);
    printf("%s\n", written);
    return cli_commit_outputs(q->command);
}

static void join(int argc, char **argv, char *line, size_t size)
{
    size_t n = (size_t)snprintf(line, size, "msa");
    for (int i = 0; i < argc && n < size; i++) {
        const char *quote = strchr(argv[i], ' ') ? "'" : "";
        n += (size_t)snprintf(line + n, size - n, " %s%s%s", quote, argv[i], quote);
    }
}

#define LINES 3

/* What was run, and what its clocks are. */
static void describe(const request *q, const trial *t, const lanes *l, double to,
                     char line[LINES][DRAWING_TEXT])
{
    char shape[INPUTS_NAME], selection[48] = "";
    const simt_model model = simt_costs();
    inputs_shape_name(&t->shape, shape);
    if (q->kernel->stage == MSA_STAGE_SPARSE || q->kernel->stage == MSA_STAGE_REVERSE)
        snprintf(selection, sizeof selection, ", %s selection", selection_name(t->kind));
    snprintf(line[0], DRAWING_TEXT, "%s%s, seed %lld. Clocks %lld to %lld of %lld", shape, selection,
             (long long)t->seed, (long long)q->from, (long long)to, (long long)l->end);
    snprintf(line[1], DRAWING_TEXT,
             "Model clocks with nominal costs (cuda/simt/simt.h), not a measurement: one CTA on an SM, "
             "%.0f bytes copied a clock",
             model.copy_bytes);
    snprintf(line[2], DRAWING_TEXT,
             "and %.0f clocks more until they land, %.0f multiply-adds of wgmma a clock, declared work on a "
             "quarter of the SM",
             model.copy_latency, model.tensor_fma);
}

static int draw(const request *q, const trial *t, const lanes *l)
{
    char title[DRAWING_TEXT], name[64], line[LINES][DRAWING_TEXT];
    const char *const lines[LINES] = {line[0], line[1], line[2]};
    const double to = fmin(q->to >= 0 ? q->to : q->from + WINDOW, l->end);
    if (to <= q->from)
        return cli_fail(q->command, "--from: expected a clock before --to and the end, %.0f, found %.0f",
                        l->end, q->from);
    kernel_name(l->kernel, name, sizeof name);
    snprintf(title, sizeof title, "%s/%s, CTA %llu of %s", msa_stage_name(q->kernel->stage), q->kernel->name,
             (unsigned long long)l->block, name);
    describe(q, t, l, to, line);
    drawing d = lanes_draw(l, q->from, to, title, lines, LINES);
    const int status = write_picture(q, &d);
    drawing_free(&d);
    return status;
}

static int record(const request *q, const trial *t)
{
    msa_arrays a;
    lanes l;
    size_t n;
    simt_record(q->cta);
    const msa_status status = trial_run(t, q->kernel, &a);
    simt_record(-1);
    if (status != MSA_OK)
        return engine_failed(q->command, q->kernel, status);
    const simt_event *event = simt_events(&n);
    if (!event)
        return cli_fail(q->command, "no memory for the timeline");
    if (!lanes_sort(event, n, q->launch, (uint64_t)q->cta, &l)) {
        lanes_free(&l);
        return cli_fail(q->command,
                        "--cta %lld: expected a CTA that copies, multiplies or does declared work, "
                        "found none (see --launch)",
                        (long long)q->cta);
    }
    const int bad = draw(q, t, &l);
    lanes_free(&l);
    return bad;
}

int cmd_timeline(int argc, char **argv)
{
    engine_options given = ENGINE_DEFAULTS;
    request q = {.command = argv[0], .launch = -1, .to = UNTIL_END};
    cli_list names = {0};
    const msa_kernel *kernel[CLI_MAX_LIST];
    int n = 0;
    bool predict = false;
    const cli_option options[] = {
        {"--out", CLI_TEXT, &q.path, 0, 0,
         "FILE.png or FILE.svg receives the picture; needed, but with --predict"},
        {"--predict", CLI_FLAG, &predict, 0, 0,
         "no picture: how long each stage would take a GPU (--shape: T = S, heads); FILE.json of msa bench: "
         "and took"},
        {"--cta", CLI_INT, &q.cta, 0, 0x7fffffff, "N of the grid's CTAs"},
        {"--launch", CLI_INT, &q.launch, 0, 1 << 20, "N of the kernel's launches (default: most products)"},
        {"--from", CLI_REAL, &q.from, 0, MAX_CLOCKS, "CLOCK at which the picture starts"},
        {"--to", CLI_REAL, &q.to, 0, MAX_CLOCKS, "CLOCK at which it ends (default: a readable window)"},
        ENGINE_OPTIONS(given),
        {0}};
    trial t;
    int status = cli_parse(argc, argv, options, &names);
    if (!status && predict)
        status = cli_check_alone(argc, argv, options, "--predict", "--shape");
    if (!status && predict)
        return timeline_predict(argv[0], given.shape, &names);
    if (!status && !q.path)
        status = cli_fail(argv[0], "--out: expected FILE.png or FILE.svg, found nothing");
    if (!status)
        status = engine_find(argv[0], &names, kernel, CLI_MAX_LIST, &n);
    if (!status && n != 1)
        status = cli_fail(argv[0], "expected one kernel, STAGE/NAME, found %d", n);
    if (!status && !ends_with(q.path, ".png") && !ends_with(q.path, ".svg"))
        status = cli_fail(argv[0], "--out: expected a name that ends in .png or .svg, found '%s'", q.path);
    if (!status)
        status = cli_check_writable(argv[0], "--out", q.path);
    if (status)
        return status;
    q.kernel = kernel[0];
    join(argc, argv, q.line, sizeof q.line);
    const msa_shape standard = standard_shape(q.kernel);
    status = engine_begin(argv[0], &given, &standard, &t);
    if (status)
        return status;
    status = record(&q, &t);
    trial_end(&t);
    return status;
}
