/* msa dump: what the index selects, as pictures, arrays and a page to explore. The tensors come from a model
 * that reads a text, or from files that anybody captured anywhere, of one layer or of several. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../model/model.h"
#include "../picture/maps.h"
#include "../picture/panels.h"
#include "../picture/viewer.h"
#include "cli.h"
#include "dump.h"

#define MAX_LAYERS 256
#define MAX_TOKENS 16384
#define MAX_TEXT ((size_t)1 << 30)
#define MAX_CELLS (INT64_C(1) << 27) /* (group, query, block) of a layer: its maps then take 2 GiB */
#define MAX_NAME 4096

/* The command line. */
typedef struct request {
    const char *name, *out, *model, *text, *captured, *layers;
    int64_t offset, tokens;
    cli_tensors files;
} request;

/* Where the tensors of the layers come from, and what to say of them. */
typedef struct capture {
    msa_shape shape;
    const msa_ops *ops;
    int n_layers, layer[MAX_LAYERS];
    const model_run *run; /* NULL: the tensors are `files` */
    const cli_tensors *files;
    dump_captured captured; /* of --captured: the files of a layer at a time */
    const uint8_t *text; /* NULL: nobody knows it */
    char source[MAX_NAME], command[MAX_NAME];
} capture;

/* Tensors of one layer; q and k may be NULL. */
typedef struct layer_tensors {
    const float *q, *k, *qi, *ki;
} layer_tensors;

static layer_tensors tensors_of(const capture *c, int layer)
{
    if (!c->run)
        return (layer_tensors){cli_floats(c->files, CLI_Q), cli_floats(c->files, CLI_K),
                               cli_floats(c->files, CLI_QI), cli_floats(c->files, CLI_KI)};
    const msa_layer_state *st = model_run_layer(c->run, layer);
    return (layer_tensors){st->q, st->k, st->qi, st->ki};
}

/* ---- Words about the dump ------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The command line as one could type it again. */
static void describe_command(char *to, int argc, char **argv)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./,=+:@";
    cli_append(to, MAX_NAME, "msa");
    for (int i = 0; i < argc; i++) {
        if (*argv[i] && strspn(argv[i], plain) == strlen(argv[i])) {
            cli_append(to, MAX_NAME, " %s", argv[i]);
            continue;
        }
        cli_append(to, MAX_NAME, " '");
        for (const char *c = argv[i]; *c; c++)
            cli_append(to, MAX_NAME, *c == '\'' ? "'\\''" : "%c", *c);
        cli_append(to, MAX_NAME, "'");
    }
}

static void describe_shape(char *to, const msa_shape *s)
{
    const int64_t blocks = msa_n_blocks(s);
    cli_append(to, MAX_NAME, "; %lld block%s of %d keys, top %d", (long long)blocks, blocks == 1 ? "" : "s",
               s->block, s->topk);
}

/* ---- Results -------------------------------------------------------------------------------------- */

static int write_array(const request *q, const char *name, npy_type type, int ndim, const int64_t *dim,
                       const void *data)
{
    char path[MAX_NAME + 128];
    io_error err;
    snprintf(path, sizeof path, "%s/%s.npy", q->out, name);
    return npy_write(path, type, ndim, dim, data, err) ? 0 : cli_fail(q->name, "%s", err);
}

static int write_picture(const request *q, const capture *c, const char *name, canvas *im)
{
    char path[MAX_NAME + 128];
    io_error err;
    const st_meta text[] = {{"Software", "msa " MSA_VERSION},
                            {"Description", c->source},
                            {"Command", c->command},
                            {"Seed", "none: nothing in a dump is drawn at random"}};
    snprintf(path, sizeof path, "%s/%s.png", q->out, name);
    bool ok = canvas_write_png(path, im, text, sizeof text / sizeof *text, NULL, err);
    canvas_free(im);
    return ok ? 0 : cli_fail(q->name, "%s", err);
}

static int write_arrays(const request *q, const maps *m, int layer)
{
    const msa_shape *s = &m->shape;
    const struct {
        const char *name;
        npy_type type;
        int64_t dim[3];
        const void *data;
    } array[] = {
        {"scores", NPY_F32, {s->n_kv_heads, s->n_q, m->n_blocks}, m->scores},
        {"ids", NPY_I32, {s->n_kv_heads, s->n_q, s->topk}, m->ids},
        {"fate", NPY_I32, {s->n_kv_heads, s->n_q, m->n_blocks}, m->fate},
        {"mass", NPY_F32, {s->n_kv_heads, s->n_q, m->n_blocks}, m->mass},
        {"recall", NPY_F32, {2, s->n_kv_heads, s->n_q}, m->recall},
    };
    for (size_t i = 0; i < sizeof array / sizeof *array; i++) {
        char name[64];
        snprintf(name, sizeof name, "layer%02d_%s", layer, array[i].name);
        int bad = array[i].data ? write_array(q, name, array[i].type, 3, array[i].dim, array[i].data) : 0;
        if (bad)
            return bad;
    }
    return 0;
}

static void print_recall(const maps *m, int layer, int group)
{
    double block_recall, score_recall;
    printf("layer %d group %d: ", layer, group);
    if (!m->mass)
        printf("no recall without --q and --k\n");
    else if (maps_recall(m, group, &block_recall, &score_recall))
        printf("block recall %.4f, score recall %.4f\n", block_recall, score_recall);
    else
        printf("every query reads all of its %d or fewer blocks\n", m->shape.topk);
}

static int write_layer(const request *q, const capture *c, const maps *m, int layer)
{
    int bad = write_arrays(q, m, layer);
    for (int r = 0; r < m->shape.n_kv_heads && !bad; r++) {
        char name[64];
        snprintf(name, sizeof name, "layer%02d_group%d", layer, r);
        canvas im = panels_draw(m, layer, r, c->source);
        bad = write_picture(q, c, name, &im);
        print_recall(m, layer, r);
    }
    return bad;
}

static int write_summary(const request *q, const capture *c, const float *frequency, viewer *page)
{
    const msa_shape *s = &c->shape;
    const int64_t dim[] = {c->n_layers, s->n_kv_heads, maps_query_blocks(s), msa_n_blocks(s)};
    canvas im = panels_frequency(
        &(panels_grid){c->n_layers, s->n_kv_heads, c->layer, dim[2], dim[3], frequency}, c->source);
    char path[MAX_NAME + 128];
    io_error err;
    int bad = write_array(q, "frequency", NPY_F32, 4, dim, frequency);
    bad = bad ? bad : write_picture(q, c, "frequency", &im);
    snprintf(path, sizeof path, "%s/index.html", q->out);
    if (!bad && !viewer_write(page, path, err))
        bad = cli_fail(q->name, "%s", err);
    if (bad)
        return bad;
    printf("%s\n", path);
    return cli_commit_outputs(q->name);
}

/* ---- From tensors to results ---------------------------------------------------------------------- */

static int dump_layers(const request *q, capture *c, maps *m, float *frequency, viewer *page, void *work)
{
    const size_t step =
        (size_t)c->shape.n_kv_heads * (size_t)maps_query_blocks(&c->shape) * (size_t)m->n_blocks;
    io_error err;
    if (!io_begin(q->out, "dump", err))
        return cli_fail(q->name, "--out %s", err);
    for (int n = 0; n < c->n_layers; n++) {
        if (q->captured && n > 0 && dump_read_captured(q->name, &c->captured, c->layer[n]))
            return 2;
        const layer_tensors t = tensors_of(c, c->layer[n]);
        cli_progress(q->name, n, c->n_layers, "layers");
        msa_status status = maps_compute(m, c->ops, t.q, t.k, t.qi, t.ki, work);
        int bad = status ? cli_fail(q->name, "layer %d: %s", c->layer[n], msa_strerror(status)) : 0;
        cli_progress_end();
        bad = bad ? bad : write_layer(q, c, m, c->layer[n]);
        if (bad)
            return bad;
        maps_frequency(m, frequency + (size_t)n * step);
        viewer_add(page, m, c->layer[n]);
    }
    return write_summary(q, c, frequency, page);
}

static int dump(const request *q, capture *c)
{
    const msa_shape *s = &c->shape;
    const int64_t wide = msa_n_blocks(s) > s->topk ? msa_n_blocks(s) : s->topk;
    if (wide > MAX_CELLS / s->n_q / s->n_kv_heads)
        return cli_fail(q->name,
                        "these sizes: expected at most %lld cells (group, query, block) to draw, found %.3g",
                        (long long)MAX_CELLS, (double)wide * (double)s->n_q * s->n_kv_heads);
    const bool with_mass = tensors_of(c, c->layer[0]).q != NULL;
    const size_t bytes = msa_workspace(c->ops, s), recall_bytes = msa_recall_workspace(s);
    const size_t frequencies =
        (size_t)c->n_layers * (size_t)s->n_kv_heads * (size_t)maps_query_blocks(s) * (size_t)msa_n_blocks(s);
    maps m = {0};
    void *work = malloc(bytes > recall_bytes ? bytes : recall_bytes);
    float *frequency = malloc(frequencies * sizeof *frequency);
    viewer *page = viewer_new(&(viewer_page){*s, c->text, c->source, c->command});
    int status =
        work && frequency && page && maps_new(&m, s, with_mass)
            ? dump_layers(q, c, &m, frequency, page, work)
            : cli_fail(q->name, "these sizes: expected enough memory for the maps, found too little");
    maps_free(&m);
    viewer_free(page);
    free(frequency);
    free(work);
    return status;
}

int dump_layer(const char *command, const dump_subject *subject, const cli_tensors *t)
{
    const request q = {.name = command, .out = subject->out};
    capture *c = calloc(1, sizeof *c);
    if (!c)
        return cli_fail(command, "memory: expected a few kilobytes, found none");
    *c = (capture){
        .shape = t->shape, .ops = &msa_fast_ops, .n_layers = 1, .layer = {subject->layer}, .files = t};
    cli_append(c->source, MAX_NAME, "layer %d of %s", subject->layer, base_name(subject->source));
    describe_shape(c->source, &c->shape);
    describe_command(c->command, subject->argc, subject->argv);
    const int bad = dump(&q, c);
    free(c);
    return bad;
}

/* "0,2,3" into numbers below n_layers; NULL means all of them. */
static int choose_layers(const request *q, int n_layers, capture *c)
{
    const char *at = q->layers;
    c->n_layers = 0;
    if (!at)
        while (c->n_layers < n_layers && c->n_layers < MAX_LAYERS) {
            c->layer[c->n_layers] = c->n_layers;
            c->n_layers++;
        }
    while (at) {
        char *end = NULL;
        long layer = *at >= '0' && *at <= '9' ? strtol(at, &end, 10) : -1;
        bool rises = c->n_layers == 0 || layer > c->layer[c->n_layers - 1];
        if (layer < 0 || layer >= n_layers || !rises || (*end && *end != ','))
            return cli_fail(q->name,
                            "--layers: expected rising numbers from 0 to %d with commas between, found '%s'",
                            n_layers - 1, q->layers);
        c->layer[c->n_layers++] = (int)layer;
        at = *end ? end + 1 : NULL;
    }
    return 0;
}

/* ---- Tensors from files --------------------------------------------------------------------------- */

static int dump_files(request *q, capture *c)
{
    static const cli_tensor order[] = {CLI_QI, CLI_KI, CLI_Q, CLI_K};
    int bad = cli_read_tensors(q->name, &q->files);
    bad = bad ? bad : cli_open_outputs(q->name, q->out, &q->files.shape, NULL, 0);
    if (bad)
        return bad;
    c->shape = q->files.shape;
    c->ops = &msa_ref_ops;
    c->n_layers = 1;
    c->files = &q->files;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (q->files.path[order[i]])
            cli_append(c->source, MAX_NAME, "%s%s", i ? " " : "", base_name(q->files.path[order[i]]));
    describe_shape(c->source, &c->shape);
    return dump(q, c);
}

/* Those of several layers, of which the first says the shape; dump_layers() reads the others. */
static int dump_captured_layers(const request *q, capture *c)
{
    dump_captured *files = &c->captured;
    *files = (dump_captured){.dir = q->captured, .t = {.block = q->files.block, .topk = q->files.topk}};
    int bad = choose_layers(q, MAX_LAYERS, c);
    bad = bad ? bad : dump_read_captured(q->name, files, c->layer[0]);
    bad = bad ? bad : cli_open_outputs(q->name, q->out, &files->t.shape, NULL, 0);
    if (!bad) {
        c->shape = files->t.shape;
        c->ops = &msa_fast_ops;
        c->files = &files->t;
        cli_append(c->source, MAX_NAME, "%s", base_name(q->captured));
        describe_shape(c->source, &c->shape);
        bad = dump(q, c);
    }
    cli_free_tensors(&files->t);
    return bad;
}

/* ---- Tensors from a model that reads a text ------------------------------------------------------- */

/* Decides how many bytes of the text are read. */
static int choose_tokens(const request *q, size_t bytes, int context, int64_t *tokens)
{
    const int64_t left = (int64_t)bytes - q->offset;
    if (left < 1)
        return cli_fail(q->name, "--offset: expected less than the %zu bytes of %s, found %lld", bytes,
                        q->text, (long long)q->offset);
    if (q->tokens > left)
        return cli_fail(q->name,
                        "--tokens: expected at most the %lld bytes of %s after the offset, found %lld",
                        (long long)left, q->text, (long long)q->tokens);
    *tokens = q->tokens ? q->tokens : context < left ? context : left;
    if (*tokens > MAX_TOKENS)
        *tokens = MAX_TOKENS;
    return 0;
}

static int read_text(const request *q, const model *m, capture *c, const uint8_t *text, size_t bytes)
{
    int64_t tokens = 0;
    int bad = choose_tokens(q, bytes, m->config.context, &tokens);
    bad = bad ? bad : choose_layers(q, m->config.n_layers, c);
    bad = bad ? bad : cli_open_outputs(q->name, q->out, &c->shape, NULL, 0);
    if (bad)
        return bad;
    model_run *run = model_run_new(m, &msa_fast_ops, 1, (int)tokens, false);
    if (!run)
        return cli_fail(q->name,
                        "--tokens: expected enough memory for the model to read %lld bytes, found too little",
                        (long long)tokens);
    cli_progress(q->name, 0, c->n_layers, "the model reads");
    model_forward(m, run, MSA_ATTN_SPARSE, text + q->offset);
    c->shape = model_run_shape(run);
    c->ops = &msa_fast_ops;
    c->run = run;
    c->text = text + q->offset;
    cli_append(c->source, MAX_NAME, "%s, bytes %lld to %lld, read by %s", base_name(q->text),
               (long long)q->offset, (long long)(q->offset + tokens - 1), base_name(q->model));
    describe_shape(c->source, &c->shape);
    bad = dump(q, c);
    model_run_free(run);
    return bad;
}

static int dump_model(const request *q, capture *c)
{
    io_error err;
    model m;
    unsigned char *text;
    size_t bytes;
    if (!io_read_file(q->text, MAX_TEXT, &text, &bytes, err))
        return cli_fail(q->name, "--text %s", err);
    int status = 2;
    if (!model_load(&m, q->model, err)) {
        cli_fail(q->name, "--model %s", err);
    } else {
        status = m.config.sparse ? read_text(q, &m, c, text, bytes)
                                 : cli_fail(q->name,
                                            "--model %s: expected a model with MSA, found dense attention: "
                                            "its Index Branch is untrained",
                                            q->model);
        model_free(&m);
    }
    free(text);
    return status;
}

/* ---- The command line ----------------------------------------------------------------------------- */

/* The options of one source exclude those of the others. */
static int check_request(const request *q)
{
    enum { FILES = 1, CAPTURED = 2, MODEL = 4 };
    static const char *const of[] = {[FILES] = "tensors", [CAPTURED] = "--captured", [MODEL] = "--model"};
    const int source = q->model || q->text ? MODEL : q->captured ? CAPTURED : FILES;
    const struct {
        const char *name;
        bool given;
        int of, needed; /* by which sources */
    } option[] = {
        {"--model", q->model != NULL, MODEL, MODEL},
        {"--text", q->text != NULL, MODEL, MODEL},
        {"--captured", q->captured != NULL, CAPTURED, 0},
        {"--layers", q->layers != NULL, MODEL | CAPTURED, CAPTURED},
        {"--offset", q->offset != 0, MODEL, 0},
        {"--tokens", q->tokens != 0, MODEL, 0},
        {"--qi", q->files.path[CLI_QI] != NULL, FILES, FILES},
        {"--ki", q->files.path[CLI_KI] != NULL, FILES, FILES},
        {"--q", q->files.path[CLI_Q] != NULL, FILES, q->files.path[CLI_K] ? FILES : 0},
        {"--k", q->files.path[CLI_K] != NULL, FILES, q->files.path[CLI_Q] ? FILES : 0},
        {"--block", q->files.block != 0, FILES | CAPTURED, 0},
        {"--topk", q->files.topk != 0, FILES | CAPTURED, 0},
    };
    for (size_t i = 0; i < sizeof option / sizeof *option; i++) {
        if (option[i].given && !(option[i].of & source))
            return cli_fail(q->name, "%s: expected none beside %s, found it", option[i].name, of[source]);
        if (!option[i].given && option[i].needed & source)
            return cli_fail(q->name, "%s: expected this option, found none (msa help dump)", option[i].name);
    }
    return 0;
}

int cmd_dump(int argc, char **argv)
{
    request q = {.name = argv[0]};
    const cli_option options[] = {
        {"--model", CLI_TEXT, &q.model, 0, 0, "F checkpoint of a model with MSA"},
        {"--text", CLI_TEXT, &q.text, 0, 0, "F text for it to read, any bytes"},
        {"--offset", CLI_INT, &q.offset, 0, (double)MAX_TEXT, "N skips so many bytes of the text"},
        {"--tokens", CLI_INT, &q.tokens, 1, MAX_TOKENS, "N bytes to read (default: the model's context)"},
        {"--captured", CLI_TEXT, &q.captured, 0, 0,
         "DIR whose layerNN/ hold q k qi ki .npy of each of --layers, one layer in memory at a time"},
        {"--layers", CLI_TEXT, &q.layers, 0, 0, "LIST of layers, such as 0,2 (default: all of a model)"},
        CLI_OPT_QI(q.files, CLI_TEXT),
        CLI_OPT_KI(q.files, CLI_TEXT),
        CLI_OPT_Q(q.files, CLI_TEXT),
        CLI_OPT_K(q.files, CLI_TEXT),
        {"--block", CLI_INT, &q.files.block, 1, CLI_MAX_BLOCK,
         "N tokens in a key block of the tensors (default 128)"},
        {"--topk", CLI_INT, &q.files.topk, 1, CLI_MAX_TOPK, "N blocks kept of the tensors (default 16)"},
        {"--out", CLI_NEEDED, &q.out, 0, 0, "DIR receives pictures, arrays and index.html"},
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    status = status ? status : check_request(&q);
    if (status)
        return status;
    if (!q.files.block)
        q.files.block = 128;
    capture *c = calloc(1, sizeof *c);
    if (!c)
        return cli_fail(q.name, "memory: expected a few kilobytes, found none");
    describe_command(c->command, argc, argv);
    status = q.model ? dump_model(&q, c) : q.captured ? dump_captured_layers(&q, c) : dump_files(&q, c);
    cli_free_tensors(&q.files);
    free(c);
    return status;
}
