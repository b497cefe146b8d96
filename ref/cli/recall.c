/* msa recall: how much of what dense attention looks at do the selected blocks hold? A random selection of
 * the same size stands beside it, to say what the number would be for nothing; and on request the selections
 * by index keys of 16 and of 8 bits, and how often these two agree. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "../model/evaluate.h"
#include "cli.h"

enum { INDEX, RANDOM, N_SELECTIONS };

/* The rows of ids [Hkv,T,k] that belong to query i. */
static void gather_ids(const msa_shape *s, int64_t i, const int32_t *from, int32_t *ids)
{
    for (int r = 0; r < s->n_kv_heads; r++)
        memcpy(ids + (int64_t)r * s->topk, from + ((int64_t)r * s->n_q + i) * s->topk,
               (size_t)s->topk * sizeof *ids);
}

static void measure(const char *command, const cli_tensors *t, int64_t seed, eval_small *a, int32_t *ids,
                    void *work, msa_recall_result sum[N_SELECTIONS])
{
    const msa_shape *s = &t->shape;
    const float *k = cli_floats(t, CLI_K);
    for (int64_t i = 0; i < s->n_q; i++) {
        msa_seq seq;
        const msa_shape query = query_shape(s, i, &seq);
        const float *q = cli_floats(t, CLI_Q) + i * s->n_heads * s->d_head;
        msa_recall_result one;
        if (t->path[CLI_IDS])
            gather_ids(s, i, t->array[CLI_IDS].data, ids);
        else
            msa_index(&query, cli_floats(t, CLI_QI) + i * s->n_kv_heads * s->d_index, cli_floats(t, CLI_KI),
                      NULL, ids, NULL, work);
        msa_recall(&query, q, k, ids, NULL, &one, work);
        eval_add_recall(&sum[INDEX], &one);
        if (a->ki[0])
            eval_small_add(a, &query, q, k, cli_floats(t, CLI_QI) + i * s->n_kv_heads * s->d_index, ids,
                           work);
        eval_random_ids(&query, (uint64_t)(seed + i), ids);
        msa_recall(&query, q, k, ids, NULL, &one, work);
        eval_add_recall(&sum[RANDOM], &one);
        cli_progress(command, i + 1, s->n_q, "queries");
    }
    cli_progress_end();
}

static void print_row(const char *name, const msa_recall_result *sum)
{
    const double n = (double)sum->rows;
    printf("%-30s %12.4f  %12.4f\n", name, sum->block_recall / n, sum->score_recall / n);
}

static void print_result(const cli_tensors *t, int64_t seed, const eval_small *a,
                         const msa_recall_result sum[N_SELECTIONS])
{
    if (sum[INDEX].rows == 0) {
        printf("no query has more than %d visible blocks: every selection holds all of them\n",
               t->shape.topk);
        return;
    }
    char random[40];
    snprintf(random, sizeof random, "random, seed %lld", (long long)seed);
    printf("%-30s %12s  %12s\n", "", "block recall", "score recall");
    print_row(t->path[CLI_IDS] ? "given ids" : "index", &sum[INDEX]);
    if (a->ki[0]) {
        print_row("index keys of 16 bits (bf16)", &a->bits[0]);
        print_row("index keys of 8 bits (E4M3)", &a->bits[1]);
    }
    print_row(random, &sum[RANDOM]);
    if (a->rows > 0)
        printf("\n8 bits choose the blocks that 16 bits choose in %.2f%% of the pairs; of all ids %.3f%% are "
               "the "
               "same\n",
               100 * (double)a->equal / (double)a->rows, 100 * (double)a->in_both / (double)a->ids);
    printf("\naverages over the %lld (query, group) pairs with more than %d visible blocks of %d tokens\n",
           (long long)sum[INDEX].rows, t->shape.topk, t->shape.block);
}

static int run(const char *command, const cli_tensors *t, int64_t seed, bool fp8)
{
    const msa_shape *s = &t->shape;
    const size_t recall = msa_recall_workspace(s), index = msa_ref_ops.stage[MSA_STAGE_INDEX]->workspace(s);
    int32_t *ids = cli_alloc(command, 2 * (size_t)s->n_kv_heads * (size_t)s->topk * sizeof *ids);
    eval_small a = {.ki = {NULL, NULL}};
    const bool ok = ids && (!fp8 || eval_small_new(&a, s, cli_floats(t, CLI_KI)));
    if (ids && !ok)
        cli_fail(command, "expected memory for rounded keys, found too little");
    void *work = ok ? cli_alloc(command, recall > index ? recall : index) : NULL;
    msa_recall_result sum[N_SELECTIONS] = {{0}};
    if (work) {
        measure(command, t, seed, &a, ids, work, sum);
        print_result(t, seed, &a, sum);
    }
    eval_small_free(&a);
    free(ids);
    free(work);
    return work ? 0 : 2;
}

int cmd_recall(int argc, char **argv)
{
    cli_tensors t = {.block = 128};
    int64_t seed = 1;
    bool fp8 = false;
    const cli_option options[] = {CLI_OPT_Q(t, CLI_NEEDED),
                                  CLI_OPT_K(t, CLI_NEEDED),
                                  CLI_OPT_QI(t, CLI_TEXT),
                                  CLI_OPT_KI(t, CLI_TEXT),
                                  CLI_OPT_BLOCK(t),
                                  CLI_OPT_TOPK(t),
                                  CLI_OPT_IDS(t),
                                  CLI_OPT_SEED(seed),
                                  {"--fp8", CLI_FLAG, &fp8, 0, 0, "also what index keys of 8 bits choose"},
                                  {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (!status && !t.path[CLI_IDS] && (!t.path[CLI_QI] || !t.path[CLI_KI]))
        status = cli_fail(argv[0], "%s: expected this option, or --ids, found none",
                          t.path[CLI_QI] ? "--ki" : "--qi");
    if (!status && fp8 && (!t.path[CLI_QI] || !t.path[CLI_KI]))
        status = cli_fail(argv[0], "--fp8: expected --qi and --ki, found %s",
                          t.path[CLI_QI] ? "no --ki" : "no --qi");
    if (!status)
        status = cli_read_tensors(argv[0], &t);
    if (!status)
        status = run(argv[0], &t, seed, fp8);
    cli_free_tensors(&t);
    return status;
}
