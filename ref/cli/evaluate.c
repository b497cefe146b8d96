/* msa evaluate: loss of a model on a text and, for MSA, recall of its selector layer by layer, beside what a
 * random choice of as many blocks would get. */
#include <stdio.h>
#include <stdlib.h>

#include "../model/evaluate.h"
#include "../model/train.h"
#include "cli.h"
#include "report.h"

void report_recall(const eval_recall *layer, int layers)
{
    eval_recall mean = {{0, 0, 0}, {0, 0, 0}};
    printf("  %-8s %14s %14s   %s\n", "layer", "block recall", "score recall", "random blocks instead");
    for (int l = 0; l < layers; l++) {
        printf("  %-8d %14.3f %14.3f   %.3f %.3f\n", l, layer[l].index.block_recall,
               layer[l].index.score_recall, layer[l].random.block_recall, layer[l].random.score_recall);
        mean.index.block_recall += layer[l].index.block_recall / layers;
        mean.index.score_recall += layer[l].index.score_recall / layers;
        mean.random.block_recall += layer[l].random.block_recall / layers;
        mean.random.score_recall += layer[l].random.score_recall / layers;
    }
    printf("  %-8s %14.3f %14.3f   %.3f %.3f\n", "mean", mean.index.block_recall, mean.index.score_recall,
           mean.random.block_recall, mean.random.score_recall);
}

static void report_small(const eval_small *layer, int layers)
{
    printf("index keys of 16 bits (bf16) and 8 bits (E4M3)\n");
    printf("  %-8s %14s %14s   %s\n", "layer", "equal sets", "ids in common", "score recall, 16 and 8 bits");
    for (int l = 0; l < layers; l++) {
        const eval_small *a = &layer[l];
        const double rows = (double)a->rows, n[2] = {(double)a->bits[0].rows, (double)a->bits[1].rows};
        printf("  %-8d %14.3f %14.4f   %.4f %.4f\n", l, (double)a->equal / rows,
               (double)a->in_both / (double)a->ids, a->bits[0].score_recall / n[0],
               a->bits[1].score_recall / n[1]);
    }
}

static int evaluate(const char *command, const model *m, const eval_windows *t, const eval_windows *recalled,
                    uint64_t seed, bool fp8)
{
    printf("%d windows of %d bytes\n", t->count, t->length);
    printf("bits per byte %.4f\n", eval_bits_per_byte(m, &msa_fast_ops, t, MSA_ATTN_SPARSE));
    if (!m->config.sparse)
        return 0;
    printf("bits per byte %.4f with the same weights and dense attention\n",
           eval_bits_per_byte(m, &msa_fast_ops, t, MSA_ATTN_DENSE));
    if (t->length <= m->config.topk * m->config.block) {
        printf("recall is 1: no query has more than %d visible blocks of %d\n", m->config.topk,
               m->config.block);
        return 0;
    }
    eval_recall *layer = cli_alloc(command, (size_t)m->config.n_layers * sizeof *layer);
    bool ok = layer && eval_recalls(m, &msa_fast_ops, recalled, seed, layer);
    if (ok) {
        printf("recall over %d windows, random seed %llu\n", recalled->count, (unsigned long long)seed);
        report_recall(layer, m->config.n_layers);
    }
    free(layer);
    eval_small *small = fp8 && ok ? cli_alloc(command, (size_t)m->config.n_layers * sizeof *small) : NULL;
    if (fp8 && ok)
        ok = small && eval_small_layers(m, &msa_fast_ops, recalled, small);
    if (small && ok)
        report_small(small, m->config.n_layers);
    free(small);
    return ok ? 0 : cli_fail(command, "expected memory for one window, found too little");
}

int cmd_evaluate(int argc, char **argv)
{
    const char *path = NULL, *text_path = NULL;
    int64_t windows = 40, recall_windows = 4, seed = 1;
    bool held_out = false, fp8 = false;
    const cli_option options[] = {
        {"--model", CLI_NEEDED, &path, 0, 0, "FILE.safetensors of 'msa train'"},
        {"--text", CLI_NEEDED, &text_path, 0, 0, "FILE to predict"},
        {"--held-out", CLI_FLAG, &held_out, 0, 0, "only its last 5 %, which training does not see"},
        {"--windows", CLI_INT, &windows, 1, 1 << 20, "N windows at most for the loss"},
        {"--recall-windows", CLI_INT, &recall_windows, 1, 1 << 20, "N windows at most for the recall"},
        {"--fp8", CLI_FLAG, &fp8, 0, 0, "also what index keys of 8 bits choose"},
        CLI_OPT_SEED(seed),
        {0}};
    int status =
        cli_parse(argc, argv, "loss of a model on a text, and recall of its selector", options, NULL);
    if (status)
        return status;
    io_error err;
    model m;
    unsigned char *bytes = NULL;
    size_t n = 0;
    if (!model_load(&m, path, err))
        return cli_fail(argv[0], "--model: %s", err);
    if (!io_read_file(text_path, REPORT_MAX_TEXT, &bytes, &n, err)) {
        model_free(&m);
        return cli_fail(argv[0], "--text: %s", err);
    }
    const train_text split = train_split(bytes, (int64_t)n);
    const uint8_t *from = bytes + (held_out ? split.n_train : 0);
    const int64_t length = (int64_t)n - (held_out ? split.n_train : 0);
    const eval_windows t = eval_windows_of(&m, from, length, (int)windows),
                       recalled = eval_windows_of(&m, from, length, (int)recall_windows);
    if (t.count == 0)
        status = cli_fail(argv[0], "--text %s: expected at least 2 bytes, found %lld", text_path,
                          (long long)length);
    else
        status = evaluate(argv[0], &m, &t, &recalled, (uint64_t)seed, fp8);
    free(bytes);
    model_free(&m);
    return status;
}
