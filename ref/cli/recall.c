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

/* What is measured, and sums over all queries so far. */
typedef struct study {
    const cli_tensors *t;
    int64_t seed;
    bool fp8;
    int32_t *ids; /* [2,Hkv,k] */
    void *work;
    msa_recall_result sum[N_SELECTIONS];
    eval_small small;
} study;

/* Query i of a call, in a sequence whose keys are rounded in `small`, or nowhere. */
static void measure_query(study *x, int64_t i, eval_small *small)
{
    const cli_tensors *t = x->t;
    msa_seq seq;
    const msa_shape s = query_shape(&t->shape, i, &seq);
    const float *q = cli_floats(t, CLI_Q) + i * s.n_heads * s.d_head,
                *k = cli_floats(t, CLI_K) + seq.kv0 * s.n_kv_heads * s.d_head;
    const bool index = t->path[CLI_QI];
    const float *qi = index ? cli_floats(t, CLI_QI) + i * s.n_kv_heads * s.d_index : NULL;
    msa_recall_result one;
    if (t->path[CLI_IDS])
        gather_ids(&t->shape, i, t->array[CLI_IDS].data, x->ids);
    else
        msa_index(&s, qi, cli_floats(t, CLI_KI) + seq.kv0 * s.d_index, NULL, x->ids, NULL, x->work);
    msa_recall(&s, q, k, x->ids, NULL, &one, x->work);
    eval_add_recall(&x->sum[INDEX], &one);
    if (small->ki[0])
        eval_small_add(small, &s, q, k, qi, x->ids, x->work);
    eval_random_ids(&s, (uint64_t)(x->seed + i), x->ids);
    msa_recall(&s, q, k, x->ids, NULL, &one, x->work);
    eval_add_recall(&x->sum[RANDOM], &one);
}

/* All of them, padding left out. False if memory runs out. */
static bool measure(const char *command, study *x)
{
    const msa_shape *s = &x->t->shape;
    bool ok = true;
    for (int r = 0; ok && r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        msa_shape own = *s;
        eval_small small = {.ki = {NULL, NULL}};
        own.n_kv = seq.n_kv;
        if (x->fp8 && seq.n_q)
            ok = eval_small_new(&small, &own, cli_floats(x->t, CLI_KI) + seq.kv0 * s->d_index);
        for (int64_t i = seq.q0; ok && i < seq.q0 + seq.n_q; i++) {
            measure_query(x, i, &small);
            cli_progress(command, i + 1, s->n_q, "queries");
        }
        eval_small_sum(&x->small, &small);
        eval_small_free(&small);
    }
    cli_progress_end();
    return ok;
}

static void print_row(const char *name, const msa_recall_result *sum)
{
    const double n = (double)sum->rows;
    printf("%-30s %12.4f  %12.4f\n", name, sum->block_recall / n, sum->score_recall / n);
}

static void print_result(const study *x)
{
    const msa_shape *s = &x->t->shape;
    const msa_recall_result *sum = x->sum;
    const eval_small *a = &x->small;
    if (sum[INDEX].rows == 0) {
        printf("no query has more than %d visible blocks: every selection holds all of them\n", s->topk);
        return;
    }
    char random[40];
    snprintf(random, sizeof random, "random, seed %lld", (long long)x->seed);
    printf("%-30s %12s  %12s\n", "", "block recall", "score recall");
    print_row(x->t->path[CLI_IDS] ? "given ids" : "index", &sum[INDEX]);
    if (x->fp8) {
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
           (long long)sum[INDEX].rows, s->topk, s->block);
}

static int run(const char *command, const cli_tensors *t, int64_t seed, bool fp8)
{
    const msa_shape *s = &t->shape;
    const size_t recall = msa_recall_workspace(s), index = msa_ref_ops.stage[MSA_STAGE_INDEX]->workspace(s);
    study x = {.t = t,
               .seed = seed,
               .fp8 = fp8,
               .ids = cli_alloc(command, 2 * (size_t)s->n_kv_heads * (size_t)s->topk * sizeof *x.ids)};
    x.work = x.ids ? cli_alloc(command, recall > index ? recall : index) : NULL;
    int status = x.work ? 0 : 2;
    if (!status && !measure(command, &x))
        status = cli_fail(command, "expected memory for rounded keys, found too little");
    if (!status)
        print_result(&x);
    free(x.ids);
    free(x.work);
    return status;
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
                                  CLI_OPT_SEQUENCES(t),
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
