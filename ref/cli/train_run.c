/* A training run, from its first step or its last saved state on. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../bench/timing.h"
#include "../model/evaluate.h"
#include "../model/task.h"
#include "report.h"
#include "train_ranks.h"
#include "train_run.h"

#define EVAL_EVERY 250
#define EVAL_WINDOWS 8
#define TASK_SEQUENCES 500
#define RECALL_WINDOWS 4
#define MAX_TEXT ((size_t)1 << 31)

/* What is done once, wherever there are ranks. */
static bool is_first(const train_job *j)
{
    return train_is_first(j->train.ranks);
}

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    if (number == SIGTERM && cli_says_who_died())
        _exit(128 + number);
    stop = 1;
}

/* False if memory runs out. */
static bool validate(const train_job *j, const trainer *t, const train_text *text, int windows, double *bits)
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
static bool add_recall(const train_job *j, const trainer *t, const train_text *text, row_text row)
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

static int add_row(const char *command, train_job *j, const trainer *t, const train_text *text,
                   const train_step *s)
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
static int save(const char *command, const train_job *j, const trainer *t)
{
    io_error err;
    const bool ok = curve_sync(&j->curve, err) && trainer_save(t, j->state, err);
    return ok ? 0 : cli_fail(command, "%s", err);
}

/* A rank that has to leave the others: they would wait for it. */
static void end_all(const char *command, transport *ranks)
{
    transport_last_word();
    ranks->end(ranks, report_no_memory(command));
}

/* What is said and kept of a step. */
static int note_step(const char *command, train_job *j, const trainer *t, const train_text *text,
                     const train_step *s, bool stopping)
{
    const bool due = stopping || s->step == j->train.steps || s->step % j->save_every == 0;
    char note[64];
    snprintf(note, sizeof note, "%.3f bits/byte, KL %.3f", s->loss, s->kl);
    cli_progress("train", s->step, j->train.steps, note);
    const int status = add_row(command, j, t, text, s);
    return status || !due ? status : save(command, j, t);
}

static int run_steps(const char *command, train_job *j, trainer *t, const train_text *text)
{
    const double start = timing_now();
    bool stopping = false;
    int status = 0;
    while (!status && !stopping && trainer_steps(t) < j->train.steps) {
        const train_step s = trainer_step(t);
        stopping = train_agree(j->train.ranks, stop);
        status = train_agree(j->train.ranks, is_first(j) ? note_step(command, j, t, text, &s, stopping) : 0);
    }
    if (status)
        return status;
    cli_progress_end();
    const bool early = trainer_steps(t) < j->train.steps;
    if (early && is_first(j))
        printf("stopped after step %" PRId64 "; the same command goes on from there\n", trainer_steps(t));
    if (j->train.ranks && !train_report(t, j->train.ranks, timing_now() - start))
        end_all(command, j->train.ranks);
    return early ? 130 : 0;
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static int not_free(const char *command, const train_job *j)
{
    return cli_fail(
        command, "--out %s: expected a name that is free, found a file; remove it or choose another", j->out);
}

/* Whether OUT is already what this run is about to write: it was killed before it could remove its state. */
static bool is_written(const train_job *j, const trainer *t)
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
static int finish(const char *command, const train_job *j, const trainer *t, const train_text *text)
{
    io_error err;
    double bits;
    at_signals(cli_end_by);
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
static int open_curve(const char *command, train_job *j, trainer *t, bool resume)
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

/* A trainer at the step where it goes on, and its files; one line for all ranks where that fails. */
static int begin(const char *command, train_job *j, const train_text *text, bool resume, trainer **t)
{
    io_error err;
    int status = 0;
    if (is_first(j) && !resume && exists(j->out))
        status = not_free(command, j);
    else {
        *t = resume ? trainer_resume(j->state, &j->shape, &j->train, text, &j->ops, err)
                    : trainer_new(&j->shape, &j->train, text, &j->ops, err);
        status = *t ? 0 : is_first(j) ? cli_fail(command, "%s", err) : 2;
    }
    if (!status && is_first(j) && exists(j->out) && trainer_steps(*t) < j->train.steps)
        status = not_free(command, j);
    status = train_agree_to_begin(command, j->train.ranks, status, *t ? trainer_fingerprint(*t) : 0, err);
    if (!status && is_first(j))
        status = open_curve(command, j, *t, resume);
    return train_agree(j->train.ranks, status);
}

static int train(const char *command, train_job *j, const train_text *text)
{
    const bool resume = is_first(j) && exists(j->state);
    trainer *t = NULL;
    int status = begin(command, j, text, resume, &t);
    if (!status && is_first(j)) {
        printf("%s in %s on %s: %zu parameters, %" PRId64 " steps of %" PRId64 " x %d bytes, seed %" PRIu64
               "%s\n",
               j->shape.sparse ? "MSA" : "GQA", j->train.precision,
               text->bytes ? j->text_path : "associative recall", trainer_model(t)->n_params, j->train.steps,
               j->train.batch, j->shape.context, j->train.seed, resume ? "" : ", from the start");
        if (resume)
            printf("continuing after step %" PRId64 "\n", trainer_steps(t));
        fflush(stdout);
    }
    if (!status && j->train.ranks && !trainer_join(t))
        end_all(command, j->train.ranks);
    cli_keep_will(command, ": the same command goes on from the last saved state");
    if (!status)
        status = run_steps(command, j, t, text);
    if (!status)
        status = train_agree(j->train.ranks, is_first(j) ? finish(command, j, t, text) : 0);
    curve_close(&j->curve); /* last: it keeps others out */
    trainer_free(t);
    return status;
}

/* One of the ranks that are threads; each has a job of its own. */
typedef struct crew {
    const char *command;
    const train_job *j;
    const train_text *text;
    int threads, status;
} crew;

static void train_as_rank(transport *t, void *context)
{
    crew *c = context;
    train_job own = *c->j;
    own.train.ranks = t;
    cli_set_threads(c->threads / t->ranks);
    const int status = train(c->command, &own, c->text);
    if (t->rank == 0)
        c->status = status;
}

static int train_on_threads(const char *command, const train_job *j, const train_text *text)
{
    crew c = {command, j, text, cli_threads(), 0};
    if (!transport_threads((int)j->ranks.n, train_as_rank, &c))
        return cli_fail(command, "--ranks: expected %" PRId64 " threads, found room for fewer", j->ranks.n);
    return c.status;
}

int train_run(const char *command, train_job *j)
{
    io_error err;
    unsigned char *bytes = NULL;
    size_t n = 0;
    const bool there = j->task || io_read_file(j->text_path, MAX_TEXT, &bytes, &n, err);
    const int bad = cli_agree(there ? 0 : cli_fail(command, "--text: %s", err));
    if (bad) {
        free(bytes);
        return bad;
    }
    at_signals(on_signal);
    const train_text text = j->task ? (train_text){NULL, 0, 0} : train_split(bytes, (int64_t)n);
    j->train.ranks = transport_world();
    const int status = j->ranks.n ? train_on_threads(command, j, &text) : train(command, j, &text);
    free(bytes);
    return status;
}
