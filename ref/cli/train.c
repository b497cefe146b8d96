/* msa train: trains a model on a text. Stopped at any moment and started again with the same words, it goes
 * on from its last saved state and ends in the same bytes. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../model/evaluate.h"
#include "../model/task.h"
#include "../model/train.h"
#include "../stages.h"
#include "../table/table.h"
#include "cli.h"
#include "curve.h"
#include "report.h"
#include "tuning.h"

#define EVAL_EVERY 250
#define EVAL_WINDOWS 8
#define TASK_SEQUENCES 500
#define RECALL_WINDOWS 4
#define MAX_TEXT ((size_t)1 << 31)

typedef struct job {
    const char *text_path, *out, *attention, *backend, *selector, *precision;
    int64_t save_every;
    train_config train;
    model_config shape;
    bool task;
    msa_ops ops;
    char state[4096];
    curve curve;
} job;

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

/* False if memory runs out. */
static bool validate(const job *j, const trainer *t, const train_text *text, int windows, double *bits)
{
    if (!text->bytes) {
        task_result r = {0};
        const int sequences = windows < TASK_SEQUENCES ? windows : TASK_SEQUENCES;
        const bool ok = task_judge(trainer_model(t), &j->ops, j->train.seed, sequences, &r);
        *bits = r.bits;
        return ok;
    }
    const eval_windows w =
        eval_windows_of(trainer_model(t), text->bytes + text->n_train, text->n - text->n_train, windows);
    return eval_bits_per_byte(trainer_model(t), &j->ops, &w, MSA_ATTN_SPARSE, bits);
}

typedef char row_text[512];

/* Recall and entropy, means over the layers, on a few windows of the held-out text. */
static bool add_recall(const job *j, const trainer *t, const train_text *text, row_text row)
{
    const model *m = trainer_model(t);
    const int layers = j->shape.n_layers;
    const eval_windows w =
        eval_windows_of(m, text->bytes + text->n_train, text->n - text->n_train, RECALL_WINDOWS);
    eval_recall recall[MODEL_MAX_LAYERS];
    eval_look look[MODEL_MAX_LAYERS];
    if (!eval_recalls(m, &j->ops, &w, j->train.seed, recall) || !eval_looks(m, &j->ops, &w, look))
        return false;
    const msa_recall_result mean = eval_mean_recall(recall, layers).index;
    double entropy = 0;
    for (int l = 0; l < layers; l++)
        entropy += look[l].entropy / layers;
    cli_append(row, sizeof(row_text), ",%.4f,%.4f,%.4f", mean.block_recall, mean.score_recall, entropy);
    return true;
}

static int add_row(const char *command, job *j, const trainer *t, const train_text *text, const train_step *s)
{
    const int64_t every = j->train.recall_every;
    const bool last = s->step == j->train.steps;
    io_error err;
    row_text row = "";
    cli_append(row, sizeof(row_text), "%" PRId64 ",%.5g,%.5g,%.5g,", s->step, s->loss, s->kl, s->lr);
    if (s->step % EVAL_EVERY == 0 || last) {
        double bits;
        if (!validate(j, t, text, EVAL_WINDOWS, &bits))
            return report_no_memory(command);
        cli_append(row, sizeof(row_text), "%.5g", bits);
    }
    if (every && (s->step % every != 0 && !last))
        cli_append(row, sizeof(row_text), ",,,");
    else if (every && !add_recall(j, t, text, row))
        return report_no_memory(command);
    cli_append(row, sizeof(row_text), "\n");
    return curve_add(&j->curve, row, err) ? 0 : cli_fail(command, "%s", err);
}

/* The curve first: a state never knows more steps than the curve. */
static int save(const char *command, const job *j, const trainer *t)
{
    io_error err;
    const bool ok = curve_sync(&j->curve, err) && trainer_save(t, j->state, err);
    return ok ? 0 : cli_fail(command, "%s", err);
}

static int run_steps(const char *command, job *j, trainer *t, const train_text *text)
{
    while (trainer_steps(t) < j->train.steps) {
        const train_step s = trainer_step(t);
        const bool last = s.step == j->train.steps;
        char note[64];
        snprintf(note, sizeof note, "%.3f bits/byte, KL %.3f", s.loss, s.kl);
        cli_progress("train", s.step, j->train.steps, note);
        int status = add_row(command, j, t, text, &s);
        if (!status && (stop || last || s.step % j->save_every == 0))
            status = save(command, j, t);
        if (status)
            return status;
        if (stop && !last) {
            cli_progress_end();
            printf("stopped after step %" PRId64 "; the same command goes on from there\n", s.step);
            return 130;
        }
    }
    cli_progress_end();
    return 0;
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static int not_free(const char *command, const job *j)
{
    return cli_fail(
        command, "--out %s: expected a name that is free, found a file; remove it or choose another", j->out);
}

/* Whether OUT is already what this run is about to write: it was killed before it could remove its state. */
static bool is_written(const job *j, const trainer *t)
{
    const model *mine = trainer_model(t);
    model found;
    io_error err;
    if (!model_load(&found, j->out, err))
        return false;
    const bool same = found.n_params == mine->n_params &&
                      memcmp(found.params, mine->params, mine->n_params * sizeof *mine->params) == 0;
    model_free(&found);
    return same;
}

static void at_signals(void (*handler)(int))
{
    const struct sigaction action = {.sa_handler = handler};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* All steps are in the state, and the last judgement takes a while: a signal ends it, and the same command judges
 * again. */
static int finish(const char *command, const job *j, const trainer *t, const train_text *text)
{
    io_error err;
    double bits;
    at_signals(SIG_DFL);
    if (stop) {
        printf("stopped before the last judgement; the same command goes on from there\n");
        return 130;
    }
    if (!validate(j, t, text, INT32_MAX, &bits))
        return report_no_memory(command);
    if (exists(j->out) && !is_written(j, t))
        return not_free(command, j);
    if (cli_begin_output(command, "--out", j->out))
        return 2;
    if (!exists(j->out) && !model_save(trainer_model(t), j->out, err))
        return cli_fail(command, "%s", err);
    printf("wrote %s (%zu parameters) and %s\n", j->out, trainer_model(t)->n_params, j->curve.path);
    printf("held-out %s: %.4f bits per byte\n", text->bytes ? "text" : "sequences", bits);
    if (cli_commit_outputs(command))
        return 2;
    if (remove(j->state) != 0)
        return cli_fail(command, "%s: cannot remove it: %s", j->state, strerror(errno));
    return 0;
}

/* Opens the curve, and for a run that begins saves its first state, from which on it can go on. */
static int open_curve(const char *command, job *j, trainer *t, bool resume)
{
    static const char plain[] = "step,train_bits_per_byte,kl_nats,learning_rate,validation_bits_per_byte\n",
                      recall[] = "step,train_bits_per_byte,kl_nats,learning_rate,validation_bits_per_byte,"
                                 "block_recall,score_recall,entropy_nats\n";
    io_error err;
    if (!curve_open(&j->curve, trainer_curve(t), j->train.recall_every ? recall : plain, err))
        return cli_fail(command, "%s", err);
    const int status = resume ? 0 : save(command, j, t);
    if (status)
        curve_undo(&j->curve);
    return status;
}

static int train(const char *command, job *j, const train_text *text)
{
    io_error err;
    const bool resume = exists(j->state);
    if (!resume && exists(j->out))
        return not_free(command, j);
    trainer *t = resume ? trainer_resume(j->state, &j->shape, &j->train, text, &j->ops, err)
                        : trainer_new(&j->shape, &j->train, text, &j->ops, err);
    if (!t)
        return cli_fail(command, "%s", err);
    int status = exists(j->out) && trainer_steps(t) < j->train.steps ? not_free(command, j) : 0;
    if (!status)
        status = open_curve(command, j, t, resume);
    if (!status) {
        printf("%s in %s on %s: %zu parameters, %" PRId64 " steps of %" PRId64 " x %d bytes, seed %" PRIu64
               "%s\n",
               j->shape.sparse ? "MSA" : "GQA", j->train.precision,
               text->bytes ? j->text_path : "associative recall", trainer_model(t)->n_params, j->train.steps,
               j->train.batch, j->shape.context, j->train.seed, resume ? "" : ", from the start");
        if (resume)
            printf("continuing after step %" PRId64 "\n", trainer_steps(t));
        fflush(stdout);
        status = run_steps(command, j, t, text);
    }
    if (!status)
        status = finish(command, j, t, text);
    curve_close(&j->curve); /* last: it keeps others out */
    trainer_free(t);
    return status;
}

/* The kernels of a device take fewer shapes than the reference. */
static int check_device_shape(const char *command, const job *j)
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
static int settle_subject(const char *command, job *j)
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
static int settle(const char *command, job *j)
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
    return cli_check_writable(command, "--out", j->out);
}

typedef struct words {
    int64_t layers, d_model, heads, kv_heads, d_head, d_index, d_ff, block, topk, context, seed;
    bool reverse_kl, attached, sink, value_head;
} words;

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

static int learn(const char *command, job *j)
{
    io_error err;
    unsigned char *bytes = NULL;
    size_t n = 0;
    if (!j->task && !io_read_file(j->text_path, MAX_TEXT, &bytes, &n, err))
        return cli_fail(command, "--text: %s", err);
    at_signals(on_signal);
    const train_text text = j->task ? (train_text){NULL, 0, 0} : train_split(bytes, (int64_t)n);
    const int status = train(command, j, &text);
    free(bytes);
    return status;
}

int cmd_train(int argc, char **argv)
{
    const model_config c = model_default_config();
    job j = {.attention = "msa",
             .backend = "fast",
             .selector = "max",
             .save_every = 100,
             .train = train_default_config(),
             .shape = c};
    words w = {.layers = c.n_layers,
               .d_model = c.d_model,
               .heads = c.n_heads,
               .kv_heads = c.n_kv_heads,
               .d_head = c.d_head,
               .d_index = c.d_index,
               .d_ff = c.d_ff,
               .block = c.block,
               .topk = c.topk,
               .context = c.context,
               .seed = 1};
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
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (status)
        return status;
    j.shape = shape_of(&w);
    j.train.seed = (uint64_t)w.seed;
    status = settle(argv[0], &j);
    return status ? status : learn(argv[0], &j);
}
