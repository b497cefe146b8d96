/* msa recall: how much of what dense attention looks at do the selected blocks hold? A random selection of
 * the same size stands beside it, to say what the number would be for nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void measure(const char *command, const cli_tensors *t, int64_t seed, int32_t *ids, void *work,
                    msa_recall_result sum[N_SELECTIONS])
{
    const msa_shape *s = &t->shape;
    const float *k = cli_floats(t, CLI_K);
    for (int64_t i = 0; i < s->n_q; i++) {
        const msa_shape query = cli_query_shape(s, i);
        const float *q = cli_floats(t, CLI_Q) + i * s->n_heads * s->d_head;
        msa_recall_result one;
        if (t->path[CLI_IDS])
            gather_ids(s, i, t->array[CLI_IDS].data, ids);
        else
            msa_index(&query, cli_floats(t, CLI_QI) + i * s->n_kv_heads * s->d_index, cli_floats(t, CLI_KI),
                      NULL, ids, NULL, work);
        msa_recall(&query, q, k, ids, NULL, &one, work);
        eval_add_recall(&sum[INDEX], &one);
        eval_random_ids(&query, (uint64_t)(seed + i), ids);
        msa_recall(&query, q, k, ids, NULL, &one, work);
        eval_add_recall(&sum[RANDOM], &one);
        cli_progress(command, i + 1, s->n_q, "queries");
    }
    cli_progress_end();
}

static void print_result(const cli_tensors *t, int64_t seed, const msa_recall_result sum[N_SELECTIONS])
{
    const double n = (double)sum[INDEX].rows;
    if (sum[INDEX].rows == 0) {
        printf("no query has more than %d visible blocks: every selection holds all of them\n",
               t->shape.topk);
        return;
    }
    char random[40];
    snprintf(random, sizeof random, "random, seed %lld", (long long)seed);
    printf("%-30s %12s  %12s\n", "", "block recall", "score recall");
    printf("%-30s %12.4f  %12.4f\n", t->path[CLI_IDS] ? "given ids" : "index", sum[INDEX].block_recall / n,
           sum[INDEX].score_recall / n);
    printf("%-30s %12.4f  %12.4f\n", random, sum[RANDOM].block_recall / n, sum[RANDOM].score_recall / n);
    printf("\naverages over the %lld (query, group) pairs with more than %d visible blocks of %d tokens\n",
           (long long)sum[INDEX].rows, t->shape.topk, t->shape.block);
}

static int run(const char *command, const cli_tensors *t, int64_t seed)
{
    const msa_shape *s = &t->shape;
    const size_t recall = msa_recall_workspace(s), index = msa_ref_ops.stage[MSA_STAGE_INDEX]->workspace(s);
    int32_t *ids = cli_alloc(command, (size_t)s->n_kv_heads * (size_t)s->topk * sizeof *ids);
    void *work = ids ? cli_alloc(command, recall > index ? recall : index) : NULL;
    msa_recall_result sum[N_SELECTIONS] = {{0}};
    if (work) {
        measure(command, t, seed, ids, work, sum);
        print_result(t, seed, sum);
    }
    free(ids);
    free(work);
    return work ? 0 : 2;
}

int cmd_recall(int argc, char **argv)
{
    cli_tensors t = {.block = 128};
    int64_t seed = 1;
    const cli_option options[] = {CLI_OPT_Q(t, CLI_NEEDED), CLI_OPT_K(t, CLI_NEEDED), CLI_OPT_QI(t, CLI_TEXT),
                                  CLI_OPT_KI(t, CLI_TEXT),  CLI_OPT_BLOCK(t),         CLI_OPT_TOPK(t),
                                  CLI_OPT_IDS(t),           CLI_OPT_SEED(seed),       {0}};
    int status = cli_parse(
        argc, argv, "how much of dense attention's blocks and mass the selected blocks hold", options, NULL);
    if (!status && !t.path[CLI_IDS] && (!t.path[CLI_QI] || !t.path[CLI_KI]))
        status = cli_fail(argv[0], "%s: expected this option, or --ids, found none",
                          t.path[CLI_QI] ? "--ki" : "--qi");
    if (!status)
        status = cli_read_tensors(argv[0], &t);
    if (!status)
        status = run(argv[0], &t, seed);
    cli_free_tensors(&t);
    return status;
}
