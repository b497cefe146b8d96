/**
 * @file test_train_ranks.c
 * @brief Training on ranks, here threads of one process: gradients of a batch whose windows are dealt, or cut, are those of one
 * process, losses go on alike, a state goes on with another number of ranks, and bytes are the model's.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ref/cli/cli.h"
#include "../ref/model/internal.h"
#include "../ref/model/share.h"
#include "support/check.h"
#include "support/scratch.h"

#define CONTEXT 52 // no multiple of the block, nor of the slices
#define LAYERS 2
#define MOST_RANKS 7

static const model_config tiny = {.n_layers = LAYERS,
                                  .d_model = 16,
                                  .n_heads = 4,
                                  .n_kv_heads = 2,
                                  .d_head = 8,
                                  .d_index = 4,
                                  .d_ff = 12,
                                  .block = 4,
                                  .topk = 3,
                                  .context = CONTEXT,
                                  .sparse = 1,
                                  .theta = 100,
                                  .eps = 1e-5};

static const struct {
    int ranks, cut, batch;
} splits[] = {{1, 1, 2}, {2, 1, 2}, {2, 2, 2}, {3, 3, 1}, {4, 2, 4}, {7, 7, 2}};
#define N_SPLITS (sizeof splits / sizeof *splits)

/* ---- Gradients of one batch ------------------------------------------------------------------------------- */

typedef struct batch {
    const model *m;
    const msa_ops *ops;
    train_config config;
    msa_attention mode;
    const uint8_t *tokens, *targets;
    const int *scored; // NULL: all
    int64_t n_scored;
    double loss[MOST_RANKS], kl[MOST_RANKS][LAYERS];
    float *grads[MOST_RANKS];
    double sent[MOST_RANKS], model;
} batch;

static void fail(transport *t)
{
    printf("Bail out! no memory for a rank\n");
    t->end(t, 1);
}

static void run_rank(transport *t, void *context)
{
    batch *b = context;
    const int r = t->rank;
    cli_set_threads(1);
    const int64_t n = b->config.batch * CONTEXT;
    train_config config = b->config;
    config.ranks = t;
    train_share s;
    model_run *run = share_new(&s, b->m, &config, b->ops) ? share_run(&s) : NULL;
    uint8_t *tokens = malloc((size_t)n), *targets = malloc((size_t)n);
    int *scored = malloc((size_t)n * sizeof *scored);
    if (!run || !tokens || !targets || !scored)
        fail(t);
    memcpy(tokens, b->tokens, (size_t)n), memcpy(targets, b->targets, (size_t)n);
    if (b->scored)
        memcpy(scored, b->scored, (size_t)n * sizeof *scored), share_take(&s, sizeof *scored, scored);
    share_take(&s, 1, tokens), share_take(&s, 1, targets);
    model_run_score(run, b->scored ? scored : NULL, b->n_scored);
    model_forward(b->m, run, b->mode, tokens);
    b->loss[r] = model_loss(run, targets, NULL);
    model_backward(b->m, run, b->mode, tokens, targets, 0.7 * s.cut / t->ranks, b->kl[r]);
    share_sum(&s, &b->loss[r], b->kl[r], model_run_grads(run));
    share_count(&s, b->mode);
    const train_account a = share_account(&s, 0);
    for (int kind = 0; kind < TRAFFIC_OTHER; kind++)
        b->sent[r] += a.sent[kind];
    if (r == 0)
        b->model = traffic_sum(s.model);
    memcpy(b->grads[r], model_run_grads(run), b->m->n_params * sizeof(float));
    model_run_free(run);
    share_free(&s);
    free(tokens), free(targets), free(scored);
}

// Of every tensor, an element's difference in units of 2^-24 times the largest element; the largest of all.
static double distance(const model *m, const float *a, const float *b)
{
    double worst = 0;
    for (int t = 0; t < m->n_tensors; t++) {
        const model_tensor *x = &m->tensor[t];
        double most = 0, far = 0;
        for (size_t i = x->offset; i < x->offset + x->count; i++) {
            most = fmax(most, fabs((double)a[i]));
            far = fmax(far, fabs((double)a[i] - (double)b[i]));
        }
        worst = fmax(worst, far == 0 ? 0 : far / (0x1p-24 * most));
    }
    return worst;
}

// What is rounded to float32 once more than by one process: ranks' parts of dK, dV and dKi and their sum, and then, where they
// were used, ranks' parts of a weight's gradient and their sum: twice a layer, by half a unit of 2^-23 of the sum and of each
// part. The parts' magnitudes together are FEW times that of the largest sum, as numbers of both signs meet.
#define FEW 2
#define BUDGET (2 * LAYERS * (FEW + 1))

// `order`: how much more it is where sums of float32 have another order, and relative to what that moves a loss.
static void compare_gradients(const char *name, const msa_ops *ops, const model *m, msa_attention mode,
                              bool some)
{
    const double order = ops == &msa_ref_ops ? 1 : 4, loss_order = ops == &msa_ref_ops ? 1e-12 : 1e-6;
    static const char *const modes[] = {"dense", "warmup", "sparse"};
    check_case c = check_begin("%s, %s%s: gradients on ranks are those of one process", name, modes[mode],
                               some ? ", some targets count" : "");
    for (size_t i = 0; i < N_SPLITS; i++) {
        const int64_t n = splits[i].batch * CONTEXT;
        uint8_t *bytes = check_alloc(n + 1, 1);
        int *scored = check_alloc(n, sizeof *scored);
        int64_t n_scored = 0;
        inputs_rng rng = {check_seed(i)};
        for (int64_t x = 0; x <= n; x++)
            bytes[x] = (uint8_t)inputs_below(&rng, 50);
        for (int64_t x = 0; x < n; x++)
            n_scored += scored[x] = inputs_below(&rng, 3) == 0;
        batch b = {.m = m, .ops = ops, .mode = mode, .tokens = bytes, .targets = bytes + 1};
        b.config = (train_config){.batch = splits[i].batch, .context_ranks = splits[i].cut};
        b.scored = some ? scored : NULL;
        b.n_scored = some ? n_scored : n;
        for (int r = 0; r < splits[i].ranks; r++)
            b.grads[r] = check_floats((int64_t)m->n_params);
        double kl[LAYERS];
        model_run *run = model_run_new(m, ops, splits[i].batch, CONTEXT, true);
        model_run_score(run, b.scored, 0);
        model_forward(m, run, mode, bytes);
        const double loss = model_loss(run, bytes + 1, NULL);
        model_backward(m, run, mode, bytes, bytes + 1, 0.7, kl);
        check_true(&c, transport_threads(splits[i].ranks, run_rank, &b), "threads");
        double sent = 0;
        for (int r = 0; r < splits[i].ranks; r++) {
            const double far = distance(m, model_run_grads(run), b.grads[r]) / (order * BUDGET);
            check_true(&c, far <= 1, "%d ranks, %d a window: rank %d is %.3g budgets away", splits[i].ranks,
                       splits[i].cut, r, far);
            c.used = fmax(c.used, far);
            check_same(&c, "all ranks have the same bits", b.grads[0], b.grads[r],
                       m->n_params * sizeof(float));
            check_true(&c, fabs(b.loss[r] - loss) <= loss_order * loss, "loss %.9g, not %.9g", b.loss[r],
                       loss);
            for (int l = 0; l < LAYERS; l++)
                check_true(&c, fabs(b.kl[r][l] - kl[l]) <= loss_order * kl[l], "L_KL %.9g, not %.9g",
                           b.kl[r][l], kl[l]);
            sent += b.sent[r];
        }
        check_true(&c, sent == b.model && (sent > 0) == (splits[i].ranks > 1), "sent %.0f, by the model %.0f",
                   sent, b.model);
        model_run_free(run);
    }
    check_end(&c);
    check_release(NULL);
}

static void gradients(void)
{
    io_error err;
    model m;
    if (!model_new(&m, &tiny, 3, err)) {
        printf("Bail out! %s\n", err);
        exit(1);
    }
    for (size_t i = 0; i < m.n_params; i++) // gains and all are to matter
        m.params[i] += (float)(0.1 * sin((double)i));
    for (int mode = 0; mode < 3; mode++) {
        compare_gradients("reference", &msa_ref_ops, &m, (msa_attention)mode, false);
        if (mode != MSA_ATTN_DENSE || tap_full())
            compare_gradients("fast", &msa_fast_ops, &m, (msa_attention)mode, false);
    }
    compare_gradients("reference", &msa_ref_ops, &m, MSA_ATTN_SPARSE, true);
    m.config.attached = 1; // L_KL reaches every tensor
    compare_gradients("reference, attached", &msa_ref_ops, &m, MSA_ATTN_SPARSE, false);
    m.config.attached = 0, m.config.selector = (int)model_selector_named("mean"), m.config.reverse_kl = 1;
    compare_gradients("reference, another selector and KL", &msa_ref_ops, &m, MSA_ATTN_SPARSE, false);
    model_free(&m);
}

/* ---- Runs --------------------------------------------------------------------------------------------- */

#define STEPS 12
#define CUT_AT 5

typedef struct run_job {
    train_text text;
    train_config config;
    const char *from, *to; // states to go on from, and to leave; NULL: none
    uint64_t nudge; // which way each first parameter is off by half a unit in the last place; 0: none is
    double loss[STEPS];
} run_job;

static void run_trainer(transport *t, void *context)
{
    run_job *j = context;
    io_error err;
    train_config config = j->config;
    const bool first = !t || t->rank == 0;
    config.ranks = t;
    cli_set_threads(1);
    trainer *of = first && j->from ? trainer_resume(j->from, &tiny, &config, &j->text, &msa_ref_ops, err)
                                   : trainer_new(&tiny, &config, &j->text, &msa_ref_ops, err);
    if (!of) {
        printf("Bail out! %s\n", err);
        exit(1);
    }
    float *params = trainer_model(of)->params;
    inputs_rng rng = {j->nudge};
    for (size_t i = 0; j->nudge && i < trainer_model(of)->n_params; i++)
        params[i] = (float)((double)params[i] * (inputs_below(&rng, 2) ? 1 + 0x1p-24 : 1 - 0x1p-24));
    if (t && !trainer_join(of))
        fail(t);
    const int64_t end = j->to ? CUT_AT : config.steps;
    while (trainer_steps(of) < end) {
        const train_step s = trainer_step(of);
        if (first)
            j->loss[s.step - 1] = s.loss;
    }
    if (first && j->to && !trainer_save(of, j->to, err)) {
        printf("Bail out! %s\n", err);
        exit(1);
    }
    trainer_free(of);
}

static void run_on(run_job *j, int ranks, int cut)
{
    j->config.context_ranks = cut;
    if (ranks == 0)
        run_trainer(NULL, j);
    else if (!transport_threads(ranks, run_trainer, j))
        exit(1);
}

// No bound on the losses of a run follows from that on a gradient: AdamW divides by its size, so that where it nearly vanishes
// a rounding turns a step of full length around. What roundings do is seen where one process begins with parameters that are
// off by half a unit in the last place, eight times: ranks may not do more than twice as much up to the same step, sums in
// double of the first loss apart.
static void losses(void)
{
    check_case c = check_begin(
        "losses of a run on ranks, and of one that goes on with others, are those of one process");
    static uint8_t bytes[1000];
    double most[STEPS] = {0};
    char state[4096];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * i % 61);
    run_job one = {.text = train_split(bytes, sizeof bytes)};
    one.config = train_default_config();
    one.config.steps = STEPS, one.config.batch = 6, one.config.dense_steps = 2, one.config.index_warmup = 3;
    one.config.lr_warmup = 2;
    run_job other = one;
    run_on(&one, 0, 0);
    for (uint64_t n = 1; n <= 8; n++) {
        other.nudge = n;
        run_on(&other, 0, 0);
        for (int i = 0; i < STEPS; i++)
            most[i] = fmax(fmax(most[i], i ? most[i - 1] : 0), fabs(other.loss[i] - one.loss[i]));
    }
    other.nudge = 0;
    snprintf(state, sizeof state, "%s", scratch("state"));
    for (size_t i = 0; i < N_SPLITS; i++) {
        const size_t next = (i + 2) % N_SPLITS;
        const bool goes_on = i % 2;
        other.from = NULL, other.to = goes_on ? state : NULL;
        run_on(&other, splits[i].ranks, splits[i].cut);
        other.from = other.to, other.to = NULL;
        if (goes_on)
            run_on(&other, splits[next].ranks, splits[next].cut);
        for (int step = 0; step < STEPS; step++) {
            const double far = fabs(other.loss[step] - one.loss[step]) / (2 * most[step] + 1e-12);
            check_true(&c, far <= 1, "%d ranks, %d a window%s: step %d is %.3g of what roundings do",
                       splits[i].ranks, splits[i].cut, goes_on ? ", then others" : "", step + 1, far);
            c.used = fmax(c.used, far);
        }
    }
    check_true(&c, most[STEPS - 1] < 1e-3 * one.loss[STEPS - 1], "roundings do little: %.3g",
               most[STEPS - 1]);
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    gradients();
    losses();
    return check_done();
}
