/* msa train: trains a model on a text. Stopped at any moment and started again with the same words, it goes
 * on from its last saved state and ends in the same bytes. */
#include <stdio.h>
#include <string.h>

#include "../stages.h"
#include "../table/table.h"
#include "train_run.h"
#include "tuning.h"

/* The kernels of a device take fewer shapes than the reference. */
static int check_device_shape(const char *command, const train_job *j)
{
    static const msa_stage all[] = {MSA_STAGE_DENSE, MSA_STAGE_INDEX, MSA_STAGE_SPARSE, MSA_STAGE_BACKWARD,
                                    MSA_STAGE_KL};
    const model_config *c = &j->shape;
    const int64_t tokens = j->train.batch * c->context;
    const msa_shape s = {.n_q = tokens,
                         .n_kv = tokens,
                         .n_heads = c->n_heads,
                         .n_kv_heads = c->n_kv_heads,
                         .d_head = c->d_head,
                         .d_index = c->d_index,
                         .block = c->block,
                         .topk = c->topk};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const msa_kernel *k = j->ops.stage[all[i]];
        msa_plan plan;
        char name[KERNEL_NAME], sizes[CLI_SIZES];
        kernel_name(k, name);
        if (msa_check_shape(&s) == MSA_OK &&
            msa_plan_make(&plan, table_device(k->backend), name, &s, MSA_F32) == MSA_ERR_UNSUPPORTED)
            return cli_fail(command, "--backend %s: expected a shape that %s takes (%s), found %s",
                            j->backend, name, k->constraints, cli_found_sizes(k, &s, sizes));
    }
    return 0;
}

/* What is learned from, and by which rule blocks are chosen. */
static int settle_subject(const char *command, train_job *j)
{
    j->shape.selector = (int)model_selector_named(j->selector);
    if (j->shape.selector == N_SELECTORS)
        return cli_fail(command, "--selector: expected the %s, found '%s'", model_selector_help, j->selector);
    if (!j->text_path == !j->task)
        return cli_fail(command, j->task ? "--task: expected no --text beside it, found one"
                                         : "--text: expected this option, found none (msa help train)");
    if (j->task && j->train.recall_every)
        return cli_fail(command, "--recall-every: expected a text, found --task");
    if (j->train.recall_every && strcmp(j->attention, "msa") != 0)
        return cli_fail(command, "--recall-every: expected --attention msa, found %s", j->attention);
    return 0;
}

/* Words to configuration: the kind of attention, the back end, the two files beside --out. */
static int settle(const char *command, train_job *j)
{
    if (!st_available())
        return cli_fail(command, "expected a build with jansson (package libjansson-dev), found one without");
    if (strcmp(j->attention, "msa") != 0 && strcmp(j->attention, "gqa") != 0)
        return cli_fail(command, "--attention: expected msa or gqa, found '%s'", j->attention);
    const int bad_subject = settle_subject(command, j);
    if (bad_subject)
        return bad_subject;
    if (!table_ops(j->backend, &j->ops))
        return cli_fail(command, "--backend: expected %s (this build has no other), found '%s'",
                        table_backends(), j->backend);
    const int bad_ranks = cli_check_ranks(command, &j->ranks, j->backend);
    if (bad_ranks)
        return bad_ranks;
    if (j->train.context_ranks && !cli_wants_ranks(&j->ranks))
        return cli_fail(command, "--context-ranks: expected it with --ranks, found it alone");
    if (table_missing(j->backend))
        return cli_fail(command, "--backend %s: expected a GPU, found %s", j->backend,
                        table_missing(j->backend));
    int bad = tuning_use(command, j->backend);
    bad = bad ? bad : cli_choose_precision(command, j->backend, j->precision, &j->ops);
    if (bad)
        return bad;
    table_prefer_same_bits(j->backend, &j->ops); /* who goes on is to end in the same bytes */
    if (strlen(j->out) > sizeof j->state - 16)
        return cli_fail(command, "--out: expected a shorter name, found %zu bytes", strlen(j->out));
    j->shape.sparse = strcmp(j->attention, "msa") == 0;
    if (!j->shape.sparse)
        j->train.index_warmup = j->train.dense_steps = 0;
    if (table_device(j->backend)) { /* the kernels are attention's; the products of the rest are the host's */
        j->ops.gemm = msa_fast_ops.gemm;
        bad = check_device_shape(command, j);
        if (bad)
            return bad;
    }
    snprintf(j->state, sizeof j->state, "%s.train", j->out);
    curve_name(&j->curve, j->out);
    j->train.backend = j->backend;
    j->train.precision = table_precision(&j->ops);
    return cli_is_first() ? cli_check_writable(command, "--out", j->out) : 0;
}

typedef struct words {
    int64_t layers, d_model, heads, kv_heads, d_head, d_index, d_ff, block, topk, context, seed;
    bool reverse_kl, attached, sink, value_head;
} words;

static words default_words(const model_config *c)
{
    return (words){.layers = c->n_layers,
                   .d_model = c->d_model,
                   .heads = c->n_heads,
                   .kv_heads = c->n_kv_heads,
                   .d_head = c->d_head,
                   .d_index = c->d_index,
                   .d_ff = c->d_ff,
                   .block = c->block,
                   .topk = c->topk,
                   .context = c->context,
                   .seed = 1};
}

static model_config shape_of(const words *w)
{
    const model_config c = model_default_config();
    return (model_config){.n_layers = (int)w->layers,
                          .d_model = (int)w->d_model,
                          .n_heads = (int)w->heads,
                          .n_kv_heads = (int)w->kv_heads,
                          .d_head = (int)w->d_head,
                          .d_index = (int)w->d_index,
                          .d_ff = (int)w->d_ff,
                          .block = (int)w->block,
                          .topk = (int)w->topk,
                          .context = (int)w->context,
                          .theta = c.theta,
                          .eps = c.eps,
                          .reverse_kl = w->reverse_kl,
                          .attached = w->attached,
                          .sink = w->sink,
                          .value_head = w->value_head};
}

int cmd_train(int argc, char **argv)
{
    const model_config c = model_default_config();
    train_job j = {.attention = "msa",
                   .backend = "fast",
                   .selector = "max",
                   .save_every = 100,
                   .train = train_default_config(),
                   .shape = c};
    words w = default_words(&c);
    const cli_option options[] = {
        {"--text", CLI_TEXT, &j.text_path, 0, 0,
         "FILE to learn from; its last 5 % are held out (needed, or --task)"},
        {"--task", CLI_FLAG, &j.task, 0, 0, "associative recall in place of a text"},
        {"--out", CLI_NEEDED, &j.out, 0, 0,
         "FILE.safetensors to write; the loss curve goes to FILE.csv, which must be free too"},
        {"--attention", CLI_TEXT, &j.attention, 0, 0, "msa or gqa"},
        {"--steps", CLI_INT, &j.train.steps, 1, 1e9, "N optimizer steps"},
        {"--batch", CLI_INT, &j.train.batch, 1, 4096, "N windows a step"},
        {"--context", CLI_INT, &w.context, 1, 1 << 24, "N bytes in a window"},
        {"--dense-steps", CLI_INT, &j.train.dense_steps, 0, 1e9, "N first steps as a dense model, then MSA"},
        {"--index-warmup", CLI_INT, &j.train.index_warmup, 0, 1e9,
         "N first steps of MSA with full attention in both branches"},
        {"--lambda", CLI_REAL, &j.train.lambda, 0, 1e6, "X weight of the KL loss"},
        {"--index-gain", CLI_REAL, &j.train.index_gain, 1, 1e6,
         "X largest gain of the index norms' channels, 1/X the smallest (else free)"},
        {"--lr", CLI_REAL, &j.train.lr, 0, 1, "X peak learning rate"},
        {"--lr-end", CLI_REAL, &j.train.lr_end, 0, 1, "X final learning rate"},
        {"--lr-warmup", CLI_INT, &j.train.lr_warmup, 0, 1e9, "N steps of rise"},
        {"--decay", CLI_REAL, &j.train.decay, 0, 10, "X weight decay"},
        {"--clip", CLI_REAL, &j.train.clip, 1e-6, 1e6, "X largest gradient norm"},
        {"--layers", CLI_INT, &w.layers, 1, 256, "N blocks of the network"},
        {"--d-model", CLI_INT, &w.d_model, 1, 65536, "N width of the residual stream"},
        {"--heads", CLI_INT, &w.heads, 1, 1024, "N query heads"},
        {"--kv-heads", CLI_INT, &w.kv_heads, 1, 1024, "N key-value heads, one group each"},
        {"--d-head", CLI_INT, &w.d_head, 4, 1024, "N width of a head"},
        {"--d-index", CLI_INT, &w.d_index, 4, 1024, "N width of an index head"},
        {"--d-ff", CLI_INT, &w.d_ff, 1, 1 << 18, "N width of the MLP"},
        {"--block", CLI_INT, &w.block, 1, 1 << 20, "N tokens in a key block"},
        {"--topk", CLI_INT, &w.topk, 1, 1 << 20, "N blocks kept"},
        {"--selector", CLI_TEXT, &j.selector, 0, 0, model_selector_help},
        {"--reverse-kl", CLI_FLAG, &w.reverse_kl, 0, 0, "the selector learns from KL(u || t)"},
        {"--attached", CLI_FLAG, &w.attached, 0, 0, "the KL loss reaches the rest of the network"},
        {"--sink", CLI_FLAG, &w.sink, 0, 0, "a learnable sink logit in every head"},
        {"--value-head", CLI_FLAG, &w.value_head, 0, 0,
         "values in the Index Branch, trained by the language loss"},
        {"--recall-every", CLI_INT, &j.train.recall_every, 1, 1e9,
         "N steps between recalls and entropies in the loss curve"},
        {"--save-every", CLI_INT, &j.save_every, 1, 1e9, "N steps between saved states"},
        {"--backend", CLI_TEXT, &j.backend, 0, 0, "NAME of the attention's kernels: ref, fast, simt or cuda"},
        CLI_OPT_PRECISION(j.precision),
        CLI_OPT_SEED(w.seed),
        CLI_OPT_ONLY_RANKS(j.ranks),
        {"--context-ranks", CLI_INT, &j.train.context_ranks, 1, CLI_MOST_RANKS,
         "N of them share a window, cut over them (default: the fewest with which all have as many)"},
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (status)
        return status;
    j.shape = shape_of(&w);
    j.train.seed = (uint64_t)w.seed;
    status = settle(argv[0], &j);
    return status ? status : train_run(argv[0], &j);
}
