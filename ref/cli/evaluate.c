/* msa evaluate: loss of a model on a text and, for MSA, recall of its selector layer by layer, beside what a
 * random choice of as many blocks would get. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../model/evaluate.h"
#include "../model/task.h"
#include "../model/train.h"
#include "cli.h"
#include "report.h"

void report_recall(const eval_recall *layer, int layers)
{
    const eval_recall mean = eval_mean_recall(layer, layers);
    printf("  %-8s %14s %14s   %s\n", "layer", "block recall", "score recall", "random blocks instead");
    for (int l = 0; l < layers; l++)
        printf("  %-8d %14.3f %14.3f   %.3f %.3f\n", l, layer[l].index.block_recall,
               layer[l].index.score_recall, layer[l].random.block_recall, layer[l].random.score_recall);
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
    printf("index keys of 8 bits (int8) with a bound, and what it leaves open in 16\n");
    printf("  %-8s %14s %14s   %s\n", "layer", "wrong ids", "blocks",
           "of these settled in 16 bits, rows settled wholly");
    for (int l = 0; l < layers; l++) {
        const msa_screening *e = &layer[l].exact;
        const double rows = (double)e->rows;
        printf("  %-8d %14lld %14.1f   %.2f %.4f\n", l, (long long)layer[l].wrong, (double)e->blocks / rows,
               (double)e->settled / rows, (double)e->fell_back / rows);
    }
}

/* One selection for several layers. */
static bool report_reuse(const model *m, const eval_windows *t, const eval_windows *recalled)
{
    const int layers = m->config.n_layers;
    msa_recall_result recall[MODEL_MAX_LAYERS][EVAL_FARTHEST + 1];
    if (!eval_reuse_recalls(m, &msa_fast_ops, recalled, recall))
        return false;
    printf("score recall by ids of an earlier layer\n");
    printf("  %-8s %14s %14s %14s\n", "layer", "its own", "the one before", "two before");
    for (int l = 0; l < layers; l++) {
        printf("  %-8d", l);
        for (int before = 0; before <= EVAL_FARTHEST && before <= l; before++)
            printf(" %14.3f", recall[l][before].score_recall);
        printf("\n");
    }
    for (int period = 2; period <= layers; period++) {
        double bits;
        if (!eval_reuse_bits(m, &msa_fast_ops, t, period, &bits))
            return false;
        printf("bits per byte %.4f where layer 0 and every %d%s after it choose, and the others take their "
               "ids\n",
               bits, period,
               period == 2   ? "nd"
               : period == 3 ? "rd"
                             : "th");
    }
    return true;
}

int report_no_memory(const char *command)
{
    return cli_fail(command, "expected memory for one window, found too little");
}

/* What the index chooses. */
static bool report_selection(const model *m, const eval_windows *recalled, uint64_t seed, bool fp8)
{
    const int layers = m->config.n_layers;
    eval_recall recall[MODEL_MAX_LAYERS];
    eval_small small[MODEL_MAX_LAYERS];
    if (!eval_recalls(m, &msa_fast_ops, recalled, seed, recall))
        return false;
    printf("recall over %d windows, random seed %llu\n", recalled->count, (unsigned long long)seed);
    report_recall(recall, layers);
    if (fp8 && !eval_small_layers(m, &msa_fast_ops, recalled, small))
        return false;
    if (fp8)
        report_small(small, layers);
    return true;
}

static bool report_loss(const model *m, const eval_windows *t)
{
    double bits, dense = NAN;
    if (!eval_bits_per_byte(m, &msa_fast_ops, t, MSA_ATTN_SPARSE, &bits) ||
        (m->config.sparse && !eval_bits_per_byte(m, &msa_fast_ops, t, MSA_ATTN_DENSE, &dense)))
        return false;
    printf("%d windows of %d bytes\n", t->count, t->length);
    printf("bits per byte %.4f\n", bits);
    if (m->config.sparse)
        printf("bits per byte %.4f with the same weights and dense attention\n", dense);
    return true;
}

static bool report_answers(const model *m, int count, uint64_t seed)
{
    task_result r;
    if (!task_judge(m, &msa_fast_ops, seed, count, &r))
        return false;
    printf("%d sequences of %d tokens\n", count, m->config.context);
    printf("answers right %.4f, bits per answer %.4f\n", r.accuracy, r.bits);
    for (int b = 0; b < TASK_BINS; b++)
        printf("  distance up to %-5d %.4f\n", (b + 1) * m->config.context / TASK_BINS, r.bin[b]);
    return true;
}

static int evaluate(const char *command, const model *m, const eval_windows *t, const eval_windows *recalled,
                    bool task, uint64_t seed, bool fp8, bool reuse)
{
    bool ok = task ? report_answers(m, t->count, seed) : report_loss(m, t);
    if (ok && m->config.sparse && recalled->length <= m->config.topk * m->config.block)
        printf("recall is 1: no query has more than %d visible blocks of %d\n", m->config.topk,
               m->config.block);
    else if (ok && m->config.sparse)
        ok = report_selection(m, recalled, seed, fp8) && (!reuse || report_reuse(m, t, recalled));
    return ok ? 0 : report_no_memory(command);
}

/* ---- The same as one row of a table -------------------------------------------------------------------- */

static void print_header(const model *m, bool task, bool fp8)
{
    printf(task ? "bits,accuracy,accuracy_1,accuracy_2,accuracy_3,accuracy_4"
                : "bits_per_byte,bits_per_byte_dense");
    printf(",block_recall,score_recall,random_block_recall,random_score_recall");
    for (int l = 0; l < m->config.n_layers; l++)
        printf(",entropy_%d,first_mass_%d,first_taken_%d,agreement_%d", l, l, l, l);
    for (int l = 0; fp8 && l < m->config.n_layers; l++)
        printf(",equal_sets_%d,blocks_%d,settled_%d", l, l, l);
    printf("\n");
}

static bool print_quality(const model *m, const eval_windows *t, bool task, uint64_t seed)
{
    double bits;
    if (!task) {
        if (!eval_bits_per_byte(m, &msa_fast_ops, t, MSA_ATTN_SPARSE, &bits))
            return false;
        printf("%.5f,", bits);
        if (!m->config.sparse)
            return true;
        if (!eval_bits_per_byte(m, &msa_fast_ops, t, MSA_ATTN_DENSE, &bits))
            return false;
        printf("%.5f", bits);
        return true;
    }
    task_result r;
    if (!task_judge(m, &msa_fast_ops, seed, t->count, &r))
        return false;
    printf("%.5f,%.5f", r.bits, r.accuracy);
    for (int b = 0; b < TASK_BINS; b++)
        printf(",%.5f", r.bin[b]);
    return true;
}

/* A dense model, and one that sees everything, has no selection to look at: empty fields. */
static bool print_selection(const model *m, const eval_windows *t, uint64_t seed)
{
    const int layers = m->config.n_layers;
    eval_recall recall[MODEL_MAX_LAYERS];
    eval_look look[MODEL_MAX_LAYERS];
    if (!m->config.sparse || t->length <= m->config.topk * m->config.block) {
        for (int n = 0; n < 4 + 4 * layers; n++)
            putchar(',');
        return true;
    }
    if (!eval_recalls(m, &msa_fast_ops, t, seed, recall) || !eval_looks(m, &msa_fast_ops, t, look))
        return false;
    const eval_recall mean = eval_mean_recall(recall, layers);
    printf(",%.4f,%.4f,%.4f,%.4f", mean.index.block_recall, mean.index.score_recall, mean.random.block_recall,
           mean.random.score_recall);
    for (int l = 0; l < layers; l++)
        printf(",%.4f,%.4f,%.4f,%.4f", look[l].entropy, look[l].first_mass, look[l].first_taken,
               look[l].agreement);
    return true;
}

/* The share of sets that E4M3 keys leave as they are, and of a row's blocks those that int8 keys leave open. */
static bool print_small(const model *m, const eval_windows *t)
{
    const int layers = m->config.n_layers;
    eval_small layer[MODEL_MAX_LAYERS];
    if (!m->config.sparse || t->length <= m->config.topk * m->config.block) {
        for (int n = 0; n < 3 * layers; n++)
            putchar(',');
        return true;
    }
    if (!eval_small_layers(m, &msa_fast_ops, t, layer))
        return false;
    for (int l = 0; l < layers; l++) {
        const msa_screening *e = &layer[l].exact;
        printf(",%.4f,%.2f,%.2f", (double)layer[l].equal / (double)layer[l].rows,
               (double)e->blocks / (double)e->rows, (double)e->settled / (double)e->rows);
    }
    return true;
}

static int evaluate_row(const char *command, const model *m, const eval_windows *t,
                        const eval_windows *recalled, bool task, uint64_t seed, bool fp8)
{
    print_header(m, task, fp8);
    if (!print_quality(m, t, task, seed) || !print_selection(m, recalled, seed) ||
        (fp8 && !print_small(m, recalled)))
        return report_no_memory(command);
    putchar('\n');
    return 0;
}

/* The task's sequences take the place of a file. */
static bool read_subject(const model *m, const char *path, bool task, uint64_t seed, int64_t windows,
                         unsigned char **bytes, size_t *n, io_error err)
{
    if (!task)
        return io_read_file(path, REPORT_MAX_TEXT, bytes, n, err);
    *n = (size_t)windows * (size_t)m->config.context + 1;
    *bytes = malloc(*n);
    const bool ok = *bytes && task_text(m, seed, (int)windows, *bytes);
    if (!ok)
        snprintf(err, IO_ERR, "no memory for %lld sequences", (long long)windows);
    return ok;
}

/* Another rule than the one that the model was trained with, if one is named. */
static int change_selector(const char *command, const char *name, const char *beside, model *m)
{
    if (!name)
        return 0;
    m->config.selector = (int)model_selector_named(name);
    if (m->config.selector == N_SELECTORS)
        return cli_fail(command, "--selector: expected the %s, found '%s'", model_selector_help, name);
    if (!m->config.sparse)
        return cli_fail(command, "--selector: expected a model with an Index Branch, found a dense one");
    return beside ? cli_fail(command, "%s: expected no --selector beside it, found one", beside) : 0;
}

int cmd_evaluate(int argc, char **argv)
{
    const char *path = NULL, *text_path = NULL, *selector = NULL;
    int64_t windows = 40, recall_windows = 4, context = 0, seed = 1;
    bool held_out = false, task = false, csv = false, fp8 = false, reuse = false;
    const cli_option options[] = {
        {"--model", CLI_NEEDED, &path, 0, 0, "FILE.safetensors of 'msa train'"},
        {"--text", CLI_TEXT, &text_path, 0, 0, "FILE to predict (needed, or --task)"},
        {"--task", CLI_FLAG, &task, 0, 0,
         "sequences of associative recall that training did not see, in place of a text"},
        {"--held-out", CLI_FLAG, &held_out, 0, 0, "only its last 5 %, which training does not see"},
        {"--windows", CLI_INT, &windows, 1, 1 << 20, "N windows at most for the loss"},
        {"--recall-windows", CLI_INT, &recall_windows, 1, 1 << 20, "N windows at most for the recall"},
        {"--context", CLI_INT, &context, 2, 1 << 20, "N tokens a window in place of the model's own"},
        {"--csv", CLI_FLAG, &csv, 0, 0, "everything as a table of one row"},
        {"--selector", CLI_TEXT, &selector, 0, 0, model_selector_help},
        {"--fp8", CLI_FLAG, &fp8, 0, 0, "also what index keys of 8 bits choose"},
        {"--reuse", CLI_FLAG, &reuse, 0, 0, "also what a layer's selection is worth in the layers after it"},
        CLI_OPT_SEED(seed),
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (status)
        return status;
    if (!text_path == !task)
        return cli_fail(argv[0], task ? "--task: expected no --text beside it, found one"
                                      : "--text: expected this option, found none (msa help evaluate)");
    io_error err;
    model m;
    unsigned char *bytes = NULL;
    size_t n = 0;
    if (!model_load(&m, path, err))
        return cli_fail(argv[0], "--model: %s", err);
    if (context)
        m.config.context = (int)context;
    status = change_selector(argv[0], selector, fp8 ? "--fp8" : reuse ? "--reuse" : NULL, &m);
    if (!status && reuse && csv)
        status = cli_fail(argv[0], "--reuse: expected no --csv beside it, found one");
    if (!status && task && m.config.context < TASK_MIN_LENGTH) {
        status = cli_fail(argv[0], "--task: expected a model with a context of at least %d, found %d",
                          TASK_MIN_LENGTH, m.config.context);
    } else if (!status && !read_subject(&m, text_path, task, (uint64_t)seed, windows, &bytes, &n, err)) {
        status = cli_fail(argv[0], "%s: %s", task ? "--task" : "--text", err);
    }
    if (status) {
        free(bytes);
        model_free(&m);
        return status;
    }
    const train_text split = train_split(bytes, (int64_t)n);
    const uint8_t *from = bytes + (held_out ? split.n_train : 0);
    const int64_t length = (int64_t)n - (held_out ? split.n_train : 0);
    const eval_windows t = eval_windows_of(&m, from, length, (int)windows),
                       recalled = eval_windows_of(&m, from, length, (int)recall_windows);
    if (t.count == 0)
        status = cli_fail(argv[0], "--text %s: expected at least 2 bytes, found %lld", text_path,
                          (long long)length);
    else if (csv)
        status = evaluate_row(argv[0], &m, &t, &recalled, task, (uint64_t)seed, fp8);
    else
        status = evaluate(argv[0], &m, &t, &recalled, task, (uint64_t)seed, fp8, reuse);
    free(bytes);
    model_free(&m);
    return status;
}
