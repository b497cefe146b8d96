/* msa timeline: one thread block of a kernel, as the CPU engine's model of an SM sees it, as a picture. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "inputs.h"
#include "lanes.h"
#include "trial.h"

#define WINDOW 16000 /* clocks that are readable at 1600 pixels */
#define MAX_CLOCKS 1e12
#define UNTIL_END (-1)

typedef struct window {
    int64_t launch, cta;
    double from, to;
} window;

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
    if (kernel->stage == MSA_STAGE_SPARSE)
        s.n_q = 64;
    if (kernel->stage == MSA_STAGE_DECODE)
        s.n_q = 1, s.n_kv = 65536; /* several stages a split */
    return s;
}

static int write_picture(const char *command, const char *path, const drawing *d, const char *command_line)
{
    const st_meta text[] = {{"Software", "msa " MSA_VERSION}, {"Command", command_line}};
    io_error err;
    char written[IO_ERR];
    snprintf(written, sizeof written, "%s", path);
    const bool ok = ends_with(path, ".svg") ? drawing_write_svg(d, path, text, 2, err)
                                            : drawing_write_png(d, path, text, 2, written, err);
    if (!ok)
        return cli_fail(command, "--out %s", err);
    printf("%s\n", written);
    return 0;
}

static void join(int argc, char **argv, char *line, size_t size)
{
    size_t n = (size_t)snprintf(line, size, "msa");
    for (int a = 0; a < argc && n < size; a++) {
        const char *quote = strchr(argv[a], ' ') ? "'" : "";
        n += (size_t)snprintf(line + n, size - n, " %s%s%s", quote, argv[a], quote);
    }
}

static int draw(const char *command, const char *path, const char *command_line, const trial *t,
                const msa_kernel *kernel, const lanes *l, const window *w, int64_t seed)
{
    char title[DRAWING_TEXT], shape[INPUTS_NAME], name[64], sub[3][DRAWING_TEXT];
    const char *const lines[] = {sub[0], sub[1], sub[2]};
    const simt_model model = simt_costs();
    const double to = fmin(w->to >= 0 ? w->to : w->from + WINDOW, l->end);
    if (to <= w->from)
        return cli_fail(command, "--from: expected a clock before --to and the end, %.0f, found %.0f", l->end,
                        w->from);
    inputs_shape_name(&t->shape, shape);
    kernel_name(l->kernel, name, sizeof name);
    snprintf(title, sizeof title, "%s/%s, CTA %llu of %s", msa_stage_name(kernel->stage), kernel->name,
             (unsigned long long)l->block, name);
    snprintf(sub[0], sizeof sub[0], "%s, %s selection, seed %lld. Clocks %.0f to %.0f of %.0f", shape,
             selection_name(t->kind), (long long)seed, w->from, to, l->end);
    snprintf(
        sub[1], sizeof sub[1],
        "Model clocks with nominal costs (cuda/simt/simt.h), not a measurement: one CTA on an SM, copies "
        "%.0f bytes a clock",
        model.copy_bytes);
    snprintf(
        sub[2], sizeof sub[2],
        "and %.0f clocks of latency, wgmma %.0f multiply-adds a clock, declared work on a quarter of the "
        "SM",
        model.copy_latency, model.tensor_fma);
    drawing d = lanes_draw(l, w->from, to, title, lines, 3);
    const int status = write_picture(command, path, &d, command_line);
    drawing_free(&d);
    return status;
}

static int record(const char *command, const char *path, const char *command_line, const trial *t,
                  const msa_kernel *kernel, const window *w, int64_t seed)
{
    msa_arrays a;
    lanes l;
    size_t n;
    simt_record(true);
    const msa_status status = trial_run(t, kernel, &a);
    simt_record(false);
    if (status != MSA_OK)
        return trial_failed(command, kernel, status);
    const simt_event *event = simt_events(&n);
    if (!lanes_sort(event, n, w->launch, (uint64_t)w->cta, &l)) {
        lanes_free(&l);
        return cli_fail(command,
                        "--cta %lld: expected a thread block that copies, multiplies or does declared work, "
                        "found none (see --launch)",
                        (long long)w->cta);
    }
    const int bad = draw(command, path, command_line, t, kernel, &l, w, seed);
    lanes_free(&l);
    return bad;
}

int cmd_timeline(int argc, char **argv)
{
    trial_options given = {.seed = 1};
    window w = {.launch = -1, .to = UNTIL_END};
    const char *path = NULL;
    char command_line[1024];
    cli_list names = {0};
    const msa_kernel *kernel[CLI_MAX_LIST];
    int n = 0;
    const cli_option options[] = {
        {"--out", CLI_NEEDED, &path, 0, 0, "FILE.png or FILE.svg receives the picture"},
        {"--cta", CLI_INT, &w.cta, 0, 0x7fffffff, "N of the grid's thread blocks"},
        {"--launch", CLI_INT, &w.launch, 0, 1 << 20, "N of the kernel's launches (default: most products)"},
        {"--from", CLI_REAL, &w.from, 0, MAX_CLOCKS, "CLOCK at which the picture starts"},
        {"--to", CLI_REAL, &w.to, 0, MAX_CLOCKS, "CLOCK at which it ends (default: a readable window)"},
        TRIAL_OPTIONS(given),
        {0}};
    trial t;
    int status =
        cli_parse(argc, argv, "draws who waits for whom in one thread block of a kernel", options, &names);
    if (!status)
        status = trial_find(argv[0], &names, kernel, CLI_MAX_LIST, &n);
    if (!status && n != 1)
        status = cli_fail(argv[0], "expected one kernel, STAGE/NAME, found %d", n);
    if (!status && !ends_with(path, ".png") && !ends_with(path, ".svg"))
        status = cli_fail(argv[0], "--out: expected a name that ends in .png or .svg, found '%s'", path);
    if (!status)
        status = cli_check_writable(argv[0], "--out", path);
    if (status)
        return status;
    const msa_shape standard = standard_shape(kernel[0]);
    status = trial_begin(argv[0], &given, &standard, &t);
    if (status)
        return status;
    join(argc, argv, command_line, sizeof command_line);
    status = record(argv[0], path, command_line, &t, kernel[0], &w, given.seed);
    trial_end(&t);
    return status;
}
