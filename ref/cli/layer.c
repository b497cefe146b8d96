/* msa layer: an attention layer of a checkpoint of MiniMax-M3, from hidden states in a file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dump.h"
#include "foreign.h"
#include "layer.h"

/* ---- What is given ---------------------------------------------------------------------------------- */

/* [T, d_model], or [1, T, d_model] as models hold it. */
static int read_hidden(layer_run *r, int64_t *tokens)
{
    const layer_request *q = &r->q;
    const int64_t *dim = r->hidden.dim;
    io_error err;
    if (!io_read_tensor(q->hidden, NPY_F32, -1, true, &r->hidden, r->notes[0], err))
        return cli_fail(q->name, "--hidden %s", err);
    const int n = r->hidden.ndim;
    char shape[IO_PLACE];
    io_shape(n, dim, shape);
    if ((n != 2 && !(n == 3 && dim[0] == 1)) || dim[n - 2] < 1 || dim[n - 1] != r->c.config.d_model)
        return cli_fail(q->name, "--hidden %s: expected [T,%d], the hidden_size of %s, found %s", q->hidden,
                        r->c.config.d_model, q->dir, shape);
    *tokens = dim[n - 2];
    return 0;
}

/* k, v and ki of an earlier call's directory. */
static int read_past(layer_run *r)
{
    static const char *const names[N_PAST] = {"k.npy", "v.npy", "ki.npy"};
    const layer_request *q = &r->q;
    const checkpoint_config *c = &r->c.config;
    for (int i = 0; i < (r->layer.sparse ? N_PAST : PAST_KI) && q->past; i++) {
        npy_array *a = &r->past[i];
        const int ndim = i == PAST_KI ? 2 : 3;
        io_error note, err;
        char path[4096], shape[IO_PLACE];
        snprintf(path, sizeof path, "%s/%s", q->past, names[i]);
        if (!io_read_tensor(path, NPY_F32, ndim, true, a, note, err))
            return cli_fail(q->name, "--past %s", err);
        io_shape(ndim, a->dim, shape);
        const int64_t rows = i == PAST_K ? a->dim[0] : r->past[PAST_K].dim[0];
        if (i == PAST_KI ? a->dim[0] != rows || a->dim[1] != c->d_index
                         : a->dim[0] != rows || a->dim[1] != c->n_kv_heads || a->dim[2] != c->d_head)
            return cli_fail(q->name, "--past %s: expected what this layer leaves of %lld tokens, found %s",
                            path, (long long)rows, shape);
    }
    return 0;
}

static int read_positions(layer_run *r, int64_t tokens)
{
    const layer_request *q = &r->q;
    io_error err;
    if (!(r->pos = cli_alloc(q->name, (size_t)tokens * sizeof *r->pos)))
        return 2;
    for (int64_t i = 0; i < tokens; i++)
        r->pos[i] = (int32_t)(r->past[PAST_K].dim[0] + i);
    if (!q->positions)
        return 0;
    if (!io_read_tensor(q->positions, NPY_I32, -1, true, &r->positions, r->notes[1], err))
        return cli_fail(q->name, "--positions %s", err);
    if ((int64_t)r->positions.count != tokens) /* [T], or [1, T] as models hold them */
        return cli_fail(q->name, "--positions %s: expected one for each of the %lld tokens, found %zu",
                        q->positions, (long long)tokens, r->positions.count);
    memcpy(r->pos, r->positions.data, (size_t)tokens * sizeof *r->pos);
    for (int64_t i = 0; i < tokens; i++)
        if (r->pos[i] < 0)
            return cli_fail(q->name, "--positions %s: expected numbers from 0 up, found %d at [%lld]",
                            q->positions, r->pos[i], (long long)i);
    return 0;
}

static int make_shape(layer_run *r, int64_t tokens)
{
    msa_shape *s = &r->t.shape;
    const checkpoint_config *c = &r->c.config;
    *s = (msa_shape){.n_q = tokens,
                     .n_kv = r->past[PAST_K].dim[0] + tokens,
                     .n_heads = c->n_heads,
                     .n_kv_heads = c->n_kv_heads,
                     .d_head = c->d_head,
                     .d_index = c->d_index,
                     .block = c->block,
                     .topk = c->topk,
                     .n_seqs = 1};
    const msa_status status = msa_check_shape(s);
    return status == MSA_OK
               ? 0
               : cli_fail(r->q.name, "--checkpoint %s: expected sizes that memory can hold, found %s",
                          r->q.dir, msa_strerror(status));
}

/* [Hkv,T,k] or [T,Hkv,k], or one of them in a batch of one. */
static int open_ids(layer_run *r, foreign_ids *f)
{
    const char *path = r->t.path[CLI_IDS];
    npy_array *a = &f->array;
    io_error err;
    char shape[IO_PLACE];
    if (!io_read_tensor(path, NPY_I32, -1, true, a, r->t.note[CLI_IDS], err))
        return cli_fail(r->q.name, "--ids %s", err);
    io_shape(a->ndim, a->dim, shape);
    if (a->ndim == 4 && a->dim[0] == 1)
        memmove(a->dim, a->dim + 1, (size_t)--a->ndim * sizeof *a->dim);
    if (a->ndim != 3 || a->dim[2] < 1 || a->dim[2] > CLI_MAX_TOPK)
        return cli_fail(r->q.name, "--ids %s: expected [Hkv,T,k] or [T,Hkv,k] with k from 1 to %d, found %s",
                        path, CLI_MAX_TOPK, shape);
    return foreign_match(r->q.name, path, NULL, &r->t.shape, f);
}

/* Those of --ids, which say how many a row has, in our layout and order. */
static int read_ids(layer_run *r)
{
    foreign_ids f = {.token_major = false};
    msa_shape *s = &r->t.shape;
    if (!r->t.path[CLI_IDS])
        return 0;
    int bad = open_ids(r, &f);
    if (!bad) {
        s->topk = (int)f.array.dim[2];
        r->t.array[CLI_IDS].count = f.array.count;
        r->t.array[CLI_IDS].data = cli_alloc(r->q.name, f.array.count * sizeof(int32_t));
        bad = r->t.array[CLI_IDS].data ? 0 : 2;
    }
    int32_t *to = r->t.array[CLI_IDS].data;
    for (int g = 0; g < s->n_kv_heads && !bad; g++)
        for (int64_t i = 0; i < s->n_q; i++, to += s->topk)
            memcpy(to, foreign_row(&f, s, g, i), (size_t)s->topk * sizeof *to);
    npy_free(&f.array);
    return bad ? bad : cli_check_ids(r->q.name, &r->t);
}

static int check_options(const layer_run *r)
{
    const layer_request *q = &r->q;
    const char *option = r->t.path[CLI_IDS]  ? "--ids"
                         : q->dump           ? "--dump"
                         : q->index_rot >= 0 ? "--index-rot"
                                             : NULL;
    if (!r->layer.sparse && option)
        return cli_fail(q->name, "%s: expected a sparse layer, found that layer %lld of %s is dense", option,
                        (long long)q->layer, q->dir);
    if (q->rot >= 0 && (q->rot > r->c.config.d_head || q->rot % 2 != 0))
        return cli_fail(q->name, "--rot: expected an even number up to head_dim, %d, found %lld",
                        r->c.config.d_head, (long long)q->rot);
    if (q->index_rot >= 0 && (q->index_rot > r->c.config.d_index || q->index_rot % 2 != 0))
        return cli_fail(q->name, "--index-rot: expected an even number up to the index width %d, found %lld",
                        r->c.config.d_index, (long long)q->index_rot);
    return 0;
}

/* ---- The command line ------------------------------------------------------------------------------- */

/* Of what this layer has not: one number that no file receives. */
static cli_output optional(bool there, cli_output out)
{
    return there ? out : (cli_output){NULL, NPY_I32, "", NULL, 0};
}

static int open_outputs(layer_run *r)
{
    const int64_t m = r->c.config.d_model;
    const bool sparse = r->layer.sparse;
    const cli_output out[N_OUTPUTS] = {
        [OUT_Q] = {"q.npy", NPY_F32, "THd", NULL, 0},
        [OUT_K] = {"k.npy", NPY_F32, "SGd", NULL, 0},
        [OUT_V] = {"v.npy", NPY_F32, "SGd", NULL, 0},
        [OUT_O] = {"o.npy", NPY_F32, "THd", NULL, 0},
        [OUT_LSE] = {"lse.npy", NPY_F32, "TH", NULL, 0},
        [OUT_Y] = {"y.npy", NPY_F32, "T", NULL, m},
        [OUT_RESIDUAL] = optional(r->q.residual, (cli_output){"residual.npy", NPY_F32, "T", NULL, m}),
        [OUT_QI] = optional(sparse, (cli_output){"qi.npy", NPY_F32, "TGi", NULL, 0}),
        [OUT_KI] = optional(sparse, (cli_output){"ki.npy", NPY_F32, "Si", NULL, 0}),
        [OUT_IDS] = optional(sparse, (cli_output){"ids.npy", NPY_I32, "GTk", NULL, 0}),
        [OUT_INDEX_LSE] = optional(sparse, (cli_output){"index_lse.npy", NPY_F32, "GT", NULL, 0})};
    memcpy(r->out, out, sizeof out);
    return cli_open_outputs(r->q.name, r->q.out, &r->t.shape, r->out, N_OUTPUTS);
}

static void print_layer(const layer_run *r)
{
    const checkpoint_config *c = &r->c.config;
    char index[64];
    snprintf(index, sizeof index, "the first %d channels of that table", c->d_index);
    if (r->q.index_rot >= 0)
        snprintf(index, sizeof index, "%lld channels", (long long)r->q.index_rot);
    else if (c->rot <= c->d_index)
        snprintf(index, sizeof index, "%d channels", c->rot);
    printf("layer %lld (%s): %s, %s\n", (long long)r->q.layer, r->layer.sparse ? "sparse" : "dense",
           r->layer.weight[CHECKPOINT_Q].name, r->q.residual ? "input norm applied" : "no input norm");
    printf("rotation: %d of %d channels (%s), %s angles%s%s\n", c->rot, c->d_head, c->rule,
           r->q.exact ? "exact" : "float32", r->layer.sparse ? "; index: " : "",
           r->layer.sparse ? index : "");
}

static int write_results(layer_run *r, int argc, char **argv)
{
    const layer_request *q = &r->q;
    int bad = 0;
    if (q->dump)
        bad = dump_layer(q->name, &(dump_subject){q->out, q->dir, (int)q->layer, argc, argv}, &r->t);
    if (!bad)
        bad = cli_write_outputs(q->name, q->out, &r->t.shape, r->out, N_OUTPUTS);
    if (bad)
        return bad;
    cli_say_notes(q->name, &r->t);
    for (int i = 0; i < 2; i++)
        if (*r->notes[i])
            fprintf(stderr, "msa %s: %s\n", q->name, r->notes[i]);
    print_layer(r);
    cli_print_plan(&r->plan);
    return cli_commit_outputs(q->name);
}

static int run(layer_run *r, int argc, char **argv)
{
    const layer_request *q = &r->q;
    io_error err;
    int64_t tokens = 0;
    if (!checkpoint_open(q->dir, &r->c, err) ||
        !checkpoint_find_layer(&r->c, (int)q->layer, q->residual, &r->layer, err))
        return cli_fail(q->name, "--checkpoint %s", err);
    const unsigned stages =
        r->layer.sparse ? cli_selection_stages(&r->t, false) | 1u << MSA_STAGE_SPARSE : 1u << MSA_STAGE_DENSE;
    int bad = check_options(r);
    if (q->rot >= 0) {
        r->c.config.rot = (int)q->rot;
        snprintf(r->c.config.rule, sizeof r->c.config.rule, "--rot");
    }
    bad = bad ? bad : cli_choose_kernels(q->name, q->backend, &q->kernels, stages, &r->plan);
    bad = bad ? bad : read_hidden(r, &tokens);
    bad = bad ? bad : read_past(r);
    bad = bad ? bad : make_shape(r, tokens);
    bad = bad ? bad : read_positions(r, tokens);
    bad = bad ? bad : read_ids(r);
    bad = bad ? bad : open_outputs(r);
    if (bad)
        return bad;
    bad = layer_compute(r);
    return bad ? bad : write_results(r, argc, argv);
}

int cmd_layer(int argc, char **argv)
{
    layer_run r = {.q = {.name = argv[0], .layer = -1, .rot = -1, .index_rot = -1, .backend = "fast"}};
    const cli_option options[] = {
        {"--checkpoint", CLI_NEEDED, &r.q.dir, 0, 0, "DIR with config.json and safetensors"},
        {"--layer", CLI_INT, &r.q.layer, 0, CHECKPOINT_MAX_LAYERS - 1, "N of the layer (needed)"},
        {"--hidden", CLI_NEEDED, &r.q.hidden, 0, 0, "F hidden states [T,d_model]"},
        {"--residual", CLI_FLAG, &r.q.residual, 0, 0,
         "they are the residual stream: applies the input norm first, and writes residual.npy, their sum "
         "with y, too"},
        {"--positions", CLI_TEXT, &r.q.positions, 0, 0, "F positions [T] that rotate (default: 0, 1, ...)"},
        {"--past", CLI_TEXT, &r.q.past, 0, 0,
         "DIR of an earlier call, whose k v ki .npy these tokens follow"},
        {"--ids", CLI_TEXT, &r.t.path[CLI_IDS], 0, 0,
         "F these blocks [Hkv,T,k] or [T,Hkv,k], in any order, instead of choosing"},
        {"--rot", CLI_INT, &r.q.rot, 0, 1 << 20,
         "N rotated channels of a main head (default: as config.json says)"},
        {"--index-rot", CLI_INT, &r.q.index_rot, 0, 1 << 20,
         "N rotated channels of an index head (default: by the main heads' table, as transformers does)"},
        {"--exact-angles", CLI_FLAG, &r.q.exact, 0, 0,
         "rotates by exact angles (default: rounded to float32, as models do)"},
        {"--dump", CLI_FLAG, &r.q.dump, 0, 0, "also draws what the index selects, and a page to explore it"},
        CLI_OPT_KERNEL(r.q.kernels),
        CLI_OPT_BACKEND(r.q.backend),
        {"--out", CLI_NEEDED, &r.q.out, 0, 0, "DIR receives q k v qi ki ids o lse index_lse y .npy"},
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (!status && r.q.layer < 0)
        status = cli_fail(argv[0], "--layer: expected this option, found none (msa help %s)", argv[0]);
    if (!status)
        status = run(&r, argc, argv);
    npy_free(&r.hidden);
    npy_free(&r.positions);
    for (int i = 0; i < N_PAST; i++)
        npy_free(&r.past[i]);
    npy_free(&r.t.array[CLI_IDS]);
    free(r.pos);
    cli_free_outputs(r.out, N_OUTPUTS);
    checkpoint_close(&r.c);
    return status;
}
