/* msa train: trains a model on a text. Stopped at any moment and started again with the same words, it goes
 * on from its last saved state and ends in the same bytes. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../model/evaluate.h"
#include "../model/task.h"
#include "../model/train.h"
#include "cli.h"
#include "table.h"

#define EVAL_EVERY 250
#define EVAL_WINDOWS 8
#define TASK_SEQUENCES 500
#define RECALL_WINDOWS 4
#define MAX_TEXT ((size_t)1 << 31)

typedef struct job {
    const char *text_path, *out, *attention, *backend, *selector;
    int64_t save_every, recall_every;
    train_config train;
    model_config shape;
    bool task;
    msa_ops ops;
    char state[4096], csv_path[4096];
    FILE *csv;
} job;

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

/* OUT with its last extension replaced, for the loss curve beside it. */
static void curve_path(const char *out, char *path, size_t size)
{
    const char *slash = strrchr(out, '/'), *dot = strrchr(out, '.');
    int keep = dot && (!slash || dot > slash + 1) ? (int)(dot - out) : (int)strlen(out);
    snprintf(path, size, "%.*s.csv", keep, out);
}

/* Bytes of the curve up to the row of step `done`: later rows will be made again. */
static long kept_rows(FILE *csv, int64_t done)
{
    char line[256];
    long keep = 0;
    while (fgets(line, sizeof line, csv) && (keep == 0 || strtoll(line, NULL, 10) <= done))
        keep = ftell(csv);
    return keep;
}

/* Opens the curve for appending, cut back to the steps that are done. Holding its lock is what keeps two
 * runs from writing to the same files; the system drops the lock of a process that dies. */
static int open_curve(const char *command, job *j, int64_t done)
{
    static const char plain[] = "step,train_bits_per_byte,kl_nats,learning_rate,validation_bits_per_byte\n",
                      recall[] = "step,train_bits_per_byte,kl_nats,learning_rate,validation_bits_per_byte,"
                                 "block_recall,score_recall,entropy_nats\n";
    const char *header = j->recall_every ? recall : plain;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(j->csv_path, O_RDWR | O_CREAT, 0666);
    j->csv = fd < 0 ? NULL : fdopen(fd, "r+");
    if (!j->csv)
        return cli_fail(command, "%s: %s", j->csv_path, strerror(errno));
    if (fcntl(fd, F_SETLK, &lock) != 0)
        return cli_fail(command, "%s: expected no other run writing here, found one", j->csv_path);
    setvbuf(j->csv, NULL, _IOLBF, BUFSIZ); /* for whoever follows the curve */
    long keep = done > 0 ? kept_rows(j->csv, done) : 0;
    if (ftruncate(fd, keep) != 0 || fseek(j->csv, 0, SEEK_END) != 0 ||
        (keep == 0 && fputs(header, j->csv) < 0))
        return cli_fail(command, "%s: %s", j->csv_path, strerror(errno));
    return 0;
}

static double validate(const job *j, const trainer *t, const train_text *text, int windows)
{
    if (!text->bytes) {
        task_result r;
        return task_judge(trainer_model(t), &j->ops, j->train.seed,
                          windows < TASK_SEQUENCES ? windows : TASK_SEQUENCES, &r)
                   ? r.bits
                   : NAN;
    }
    const eval_windows w =
        eval_windows_of(trainer_model(t), text->bytes + text->n_train, text->n - text->n_train, windows);
    return eval_bits_per_byte(trainer_model(t), &j->ops, &w, MSA_ATTN_SPARSE);
}

/* Recall and entropy, means over the layers, on a few windows of the held-out text. */
static int write_recall(const char *command, const job *j, const trainer *t, const train_text *text)
{
    const model *m = trainer_model(t);
    const int layers = j->shape.n_layers;
    const eval_windows w =
        eval_windows_of(m, text->bytes + text->n_train, text->n - text->n_train, RECALL_WINDOWS);
    eval_recall recall[MODEL_MAX_LAYERS];
    eval_look look[MODEL_MAX_LAYERS];
    if (!eval_recalls(m, &j->ops, &w, j->train.seed, recall) || !eval_looks(m, &j->ops, &w, look))
        return cli_fail(command, "expected memory for one window, found too little");
    const msa_recall_result mean = eval_mean_recall(recall, layers).index;
    double entropy = 0;
    for (int l = 0; l < layers; l++)
        entropy += look[l].entropy / layers;
    fprintf(j->csv, ",%.4f,%.4f,%.4f", mean.block_recall, mean.score_recall, entropy);
    return 0;
}

static int save(const char *command, const job *j, const trainer *t)
{
    io_error err;
    if (fflush(j->csv) != 0) /* the curve first: a state never knows more steps than the curve */
        return cli_fail(command, "%s: %s", j->csv_path, strerror(errno));
    return trainer_save(t, j->state, err) ? 0 : cli_fail(command, "%s", err);
}

static int run_steps(const char *command, job *j, trainer *t, const train_text *text)
{
    while (trainer_steps(t) < j->train.steps) {
        const train_step s = trainer_step(t);
        const bool last = s.step == j->train.steps;
        fprintf(j->csv, "%" PRId64 ",%.5g,%.5g,%.5g,", s.step, s.loss, s.kl, s.lr);
        if (s.step % EVAL_EVERY == 0 || last)
            fprintf(j->csv, "%.5g", validate(j, t, text, EVAL_WINDOWS));
        if (j->recall_every && (s.step % j->recall_every != 0 && !last))
            fputs(",,,", j->csv);
        else if (j->recall_every && write_recall(command, j, t, text) != 0)
            return 2;
        fputc('\n', j->csv);
        char note[64];
        snprintf(note, sizeof note, "%.3f bits/byte, KL %.3f", s.loss, s.kl);
        cli_progress("train", s.step, j->train.steps, note);
        if (stop || last || s.step % j->save_every == 0) {
            int status = save(command, j, t);
            if (status)
                return status;
        }
        if (stop && !last) {
            cli_progress_end();
            printf("stopped after step %" PRId64 "; the same command goes on from there\n", s.step);
            return 130;
        }
    }
    cli_progress_end();
    return 0;
}

static int finish(const char *command, const job *j, const trainer *t, const train_text *text)
{
    io_error err;
    if (!model_save(trainer_model(t), j->out, err))
        return cli_fail(command, "%s", err);
    remove(j->state);
    printf("wrote %s (%zu parameters) and %s\n", j->out, trainer_model(t)->n_params, j->csv_path);
    printf("held-out %s: %.4f bits per byte\n", text->bytes ? "text" : "sequences",
           validate(j, t, text, INT32_MAX));
    return 0;
}

static int train(const char *command, job *j, const train_text *text)
{
    io_error err;
    const bool resume = access(j->state, F_OK) == 0;
    if (!resume && access(j->out, F_OK) == 0)
        return cli_fail(command,
                        "--out %s: expected a name that is free, found a file; remove it or choose another",
                        j->out);
    trainer *t = resume ? trainer_resume(j->state, &j->shape, &j->train, text, &j->ops, err)
                        : trainer_new(&j->shape, &j->train, text, &j->ops, err);
    if (!t)
        return cli_fail(command, "%s", err);
    int status = open_curve(command, j, trainer_steps(t));
    if (!status) {
        printf("%s on %s: %zu parameters, %" PRId64 " steps of %" PRId64 " x %d bytes, seed %" PRIu64 "%s\n",
               j->shape.sparse ? "MSA" : "GQA", text->bytes ? j->text_path : "associative recall",
               trainer_model(t)->n_params, j->train.steps, j->train.batch, j->shape.context, j->train.seed,
               resume ? "" : ", from the start");
        if (resume)
            printf("continuing after step %" PRId64 "\n", trainer_steps(t));
        fflush(stdout);
        status = run_steps(command, j, t, text);
    }
    if (j->csv)
        fclose(j->csv);
    if (!status)
        status = finish(command, j, t, text);
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
        char name[96];
        snprintf(name, sizeof name, "%s/%s", msa_stage_name(k->stage), k->name);
        if (msa_check_shape(&s) == MSA_OK &&
            msa_plan_make(&plan, table_device(k->backend), name, &s, MSA_F32) == MSA_ERR_UNSUPPORTED)
            return cli_fail(command, "--backend %s: expected a shape that %s takes (%s), found another",
                            j->backend, name, k->constraints);
    }
    return 0;
}

/* What is learned from, and by which rule blocks are chosen. */
static int settle_subject(const char *command, job *j)
{
    j->shape.selector = (int)model_selector_named(j->selector);
    if (j->shape.selector == N_SELECTORS)
        return cli_fail(command, "--selector: expected " MODEL_SELECTORS ", found '%s'", j->selector);
    if (!j->text_path == !j->task)
        return cli_fail(command, j->task ? "--task: expected no --text beside it, found one"
                                         : "--text: expected this option, found none (msa help train)");
    if (j->task && j->recall_every)
        return cli_fail(command, "--recall-every: expected a text, found --task");
    if (j->recall_every && strcmp(j->attention, "msa") != 0)
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
    if (strlen(j->out) > sizeof j->state - 16)
        return cli_fail(command, "--out: expected a shorter name, found %zu bytes", strlen(j->out));
    j->shape.sparse = strcmp(j->attention, "msa") == 0;
    if (!j->shape.sparse)
        j->train.index_warmup = j->train.dense_steps = 0;
    if (table_device(j->backend)) { /* the kernels are attention's; the products of the rest are the host's */
        j->ops.gemm = msa_fast_ops.gemm;
        const int bad = check_device_shape(command, j);
        if (bad)
            return bad;
    }
    snprintf(j->state, sizeof j->state, "%s.train", j->out);
    curve_path(j->out, j->csv_path, sizeof j->csv_path);
    if (strcmp(j->csv_path, j->out) == 0)
        return cli_fail(command, "--out: expected a name that does not end in .csv, found %s", j->out);
    return cli_check_writable(command, "--out", j->out);
}

typedef struct words {
    int64_t layers, d_model, heads, kv_heads, d_head, d_index, d_ff, block, topk, context, seed;
} words;

int cmd_train(int argc, char **argv)
{
    const model_config c = model_default_config();
    job j = {.attention = "msa",
             .backend = "fast",
             .selector = "max",
             .save_every = 100,
             .train = train_default_config(),
             .shape = c};
    words w = {c.n_layers, c.d_model, c.n_heads, c.n_kv_heads, c.d_head, c.d_index,
               c.d_ff,     c.block,   c.topk,    c.context,    1};
    bool reverse_kl = false, attached = false, sink = false, value_head = false;
    const cli_option options[] = {
        {"--text", CLI_TEXT, &j.text_path, 0, 0,
         "FILE to learn from; its last 5 % are held out (needed, or --task)"},
        {"--task", CLI_FLAG, &j.task, 0, 0, "associative recall in place of a text"},
        {"--out", CLI_NEEDED, &j.out, 0, 0, "FILE.safetensors to write; the loss curve goes to FILE.csv"},
        {"--attention", CLI_TEXT, &j.attention, 0, 0, "msa or gqa"},
        {"--steps", CLI_INT, &j.train.steps, 1, 1e9, "N optimizer steps"},
        {"--batch", CLI_INT, &j.train.batch, 1, 4096, "N windows a step"},
        {"--context", CLI_INT, &w.context, 1, 1 << 24, "N bytes in a window"},
        {"--dense-steps", CLI_INT, &j.train.dense_steps, 0, 1e9, "N first steps as a dense model, then MSA"},
        {"--index-warmup", CLI_INT, &j.train.index_warmup, 0, 1e9,
         "N first steps of MSA with full attention in both branches"},
        {"--lambda", CLI_REAL, &j.train.lambda, 0, 1e6, "X weight of the KL loss"},
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
        {"--selector", CLI_TEXT, &j.selector, 0, 0, "NAME of a rule: " MODEL_SELECTORS},
        {"--reverse-kl", CLI_FLAG, &reverse_kl, 0, 0, "the selector learns from KL(u || t)"},
        {"--attached", CLI_FLAG, &attached, 0, 0, "the KL loss reaches the rest of the network"},
        {"--sink", CLI_FLAG, &sink, 0, 0, "a learnable sink logit in every head"},
        {"--value-head", CLI_FLAG, &value_head, 0, 0,
         "values in the Index Branch, trained by the language loss"},
        {"--recall-every", CLI_INT, &j.recall_every, 1, 1e9,
         "N steps between recalls and entropies in the loss curve"},
        {"--save-every", CLI_INT, &j.save_every, 1, 1e9, "N steps between saved states"},
        {"--backend", CLI_TEXT, &j.backend, 0, 0, "NAME of the attention's kernels: ref, fast, simt or cuda"},
        CLI_OPT_SEED(w.seed),
        {0}};
    int status =
        cli_parse(argc, argv, "trains a byte-level model on a text; stops and resumes", options, NULL);
    if (status)
        return status;
    j.shape = (model_config){.n_layers = (int)w.layers,
                             .d_model = (int)w.d_model,
                             .n_heads = (int)w.heads,
                             .n_kv_heads = (int)w.kv_heads,
                             .d_head = (int)w.d_head,
                             .d_index = (int)w.d_index,
                             .d_ff = (int)w.d_ff,
                             .block = (int)w.block,
                             .topk = (int)w.topk,
                             .context = (int)w.context,
                             .theta = c.theta,
                             .eps = c.eps,
                             .reverse_kl = reverse_kl,
                             .attached = attached,
                             .sink = sink,
                             .value_head = value_head};
    j.train.seed = (uint64_t)w.seed;
    status = settle(argv[0], &j);
    if (status)
        return status;
    io_error err;
    unsigned char *bytes = NULL;
    size_t n = 0;
    if (!j.task && !io_read_file(j.text_path, MAX_TEXT, &bytes, &n, err))
        return cli_fail(argv[0], "--text: %s", err);
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    const train_text text = j.task ? (train_text){NULL, 0, 0} : train_split(bytes, (int64_t)n);
    status = train(argv[0], &j, &text);
    free(bytes);
    return status;
}
