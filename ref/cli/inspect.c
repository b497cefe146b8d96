/* msa inspect: what a checkpoint of MiniMax-M3 holds, from its headers alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../checkpoint/checkpoint.h"
#include "cli.h"

/* What some tensors amount to. Scales of 8-bit weights are bytes, not parameters. */
typedef struct amount {
    int64_t tensors, missing; /* missing: their file is not here */
    double parameters, bytes;
    char types[64];
} amount;

static bool is_scale(const char *name)
{
    static const char ending[] = "_scale_inv";
    const size_t n = strlen(name);
    return n >= sizeof ending && strcmp(name + n - (sizeof ending - 1), ending) == 0;
}

static void note_type(amount *a, const char *dtype)
{
    char word[24], list[sizeof a->types + 2];
    snprintf(word, sizeof word, ",%.20s,", dtype);
    snprintf(list, sizeof list, ",%s,", a->types);
    if (!strstr(list, word))
        cli_append(a->types, sizeof a->types, "%s%.20s", *a->types ? "," : "", dtype);
    io_make_printable(a->types);
}

static bool is_here(const checkpoint *c, int name)
{
    return access(c->shard[c->name[name].shard].path, F_OK) == 0;
}

/* The tensors whose names begin so. */
static int add_up(const char *command, checkpoint *c, const char *begin, amount *sum)
{
    *sum = (amount){0};
    for (int i = checkpoint_lower(c, begin); i < c->n_names; i++) {
        io_error err;
        const char *path, *name = c->name[i].name;
        if (strncmp(name, begin, strlen(begin)) != 0)
            break;
        sum->tensors++;
        const bool here = c->shard[c->name[i].shard].listed || is_here(c, i);
        sum->missing += !here;
        const st_place *p = here ? checkpoint_find(c, name, &path, err) : NULL;
        if (here && !p)
            return cli_fail(command, "%s", err);
        if (!p)
            continue;
        sum->bytes += (double)p->bytes;
        if (is_scale(name))
            continue;
        sum->parameters += (double)p->count;
        note_type(sum, p->dtype);
    }
    return 0;
}

static void print_amount(const amount *a)
{
    if (a->missing)
        printf("\t-\t-\t%lld of %lld tensors in files that are not here", (long long)a->missing,
               (long long)a->tensors);
    else
        printf("\t%.0f\t%.0f\t%s", a->parameters, a->bytes, a->types);
}

/* A line a layer: its attention, and all of it. */
static int print_layers(const char *command, checkpoint *c)
{
    printf("layer\tattention\tparameters\tbytes\ttypes\tof the whole layer: parameters\tbytes\ttypes\n");
    for (int l = 0; l < c->config.n_layers; l++) {
        io_error err;
        char begin[128];
        amount attention, whole;
        const char *prefix = checkpoint_prefix(c, l, err);
        printf("%d\t%s", l, c->config.sparse[l] ? "sparse" : "dense");
        if (!prefix) {
            printf("\tnone here\n");
            continue;
        }
        snprintf(begin, sizeof begin, "%s%d.self_attn.", prefix, l);
        int bad = add_up(command, c, begin, &attention);
        snprintf(begin, sizeof begin, "%s%d.", prefix, l);
        bad = bad ? bad : add_up(command, c, begin, &whole);
        if (bad)
            return bad;
        print_amount(&attention);
        print_amount(&whole);
        printf("\n");
    }
    return 0;
}

static void print_geometry(const checkpoint *c)
{
    const checkpoint_config *g = &c->config;
    int sparse = 0;
    for (int l = 0; l < g->n_layers; l++)
        sparse += g->sparse[l];
    printf("%s: %d layers, %d sparse and %d dense\n", g->model_type, g->n_layers, sparse,
           g->n_layers - sparse);
    printf("geometry: d_model %d, %d query heads and %d KV heads of %d (G %d), index heads of %d, block %d, "
           "top %d\n",
           g->d_model, g->n_heads, g->n_kv_heads, g->d_head, g->n_heads / g->n_kv_heads, g->d_index, g->block,
           g->topk);
    printf("rotation: %d of %d channels (%s), base %g; norms: eps %g, gains 1 + w\n", g->rot, g->d_head,
           g->rule, g->theta, g->eps);
    if (*g->trouble)
        printf("sparse layers do not run here: %s\n", g->trouble);
}

static int inspect(const char *command, checkpoint *c)
{
    amount all;
    int bad = add_up(command, c, "", &all); /* first: nothing is printed of a checkpoint that is refused */
    if (bad)
        return bad;
    print_geometry(c);
    printf("%d file%s, %lld tensors", c->n_shards, c->n_shards == 1 ? "" : "s", (long long)all.tensors);
    if (all.missing)
        printf(" (%lld in files that are not here)", (long long)all.missing);
    printf(": %.0f parameters, %.0f bytes%s%s\n", all.parameters, all.bytes, *all.types ? ", " : "",
           all.types);
    bad = print_layers(command, c);
    return bad ? bad : cli_flush(command);
}

int cmd_inspect(int argc, char **argv)
{
    static const cli_option options[] = {{0}};
    cli_list words = {0};
    io_error err;
    checkpoint c;
    int status = cli_parse(argc, argv, options, &words);
    if (status)
        return status;
    if (words.n != 1)
        return cli_fail(argv[0], "expected one directory with config.json and safetensors, found %d names",
                        words.n);
    if (!checkpoint_open(words.item[0], &c, err))
        return cli_fail(argv[0], "%s", err);
    status = inspect(argv[0], &c);
    checkpoint_close(&c);
    return status;
}
