/* Training: one step is a forward and a backward pass over a batch of windows, then AdamW. */
#include "train.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "internal.h"
#include "share.h"
#include "task.h"

struct trainer {
    model m;
    train_config config;
    train_text text;
    uint64_t text_hash;
    int64_t step;
    train_curve curve;
    float *moment1, *moment2;
    train_share share; /* with config.ranks */
    model_run *run;
    uint8_t *tokens, *targets;
    int *distance; /* of the task: which targets count */
    double *kl;
};

train_config train_default_config(void)
{
    return (train_config){.steps = 3000,
                          .batch = 2,
                          .index_warmup = 1000,
                          .lr_warmup = 100,
                          .lr = 3e-3,
                          .lr_end = 1e-4,
                          .decay = 0.1,
                          .clip = 1,
                          .lambda = 1,
                          .seed = 1};
}

train_text train_split(const uint8_t *bytes, int64_t n)
{
    return (train_text){bytes, n, n - n / 20};
}

/* ---- A run: fresh, saved, resumed --------------------------------------------------------------------- */

/* FNV-1a: tells whether a resumed run reads the text it began with. */
static uint64_t hash_text(const train_text *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < text->n; i++)
        h = (h ^ text->bytes[i]) * 0x100000001b3u;
    return h;
}

void trainer_free(trainer *t)
{
    if (!t)
        return;
    model_free(&t->m);
    model_run_free(t->run);
    share_free(&t->share);
    free(t->moment1);
    free(t->moment2);
    free(t->tokens);
    free(t->targets);
    free(t->distance);
    free(t->kl);
    free(t);
}

static model_run *new_run(trainer *t, const msa_ops *ops)
{
    const train_config *c = &t->config;
    if (c->ranks)
        return share_new(&t->share, &t->m, c, ops) ? share_run(&t->share) : NULL;
    return model_run_new(&t->m, ops, (int)c->batch, t->m.config.context, true);
}

trainer *trainer_new(const model_config *c, const train_config *config, const train_text *text,
                     const msa_ops *ops, io_error err)
{
    if (!text->bytes && c->context < TASK_MIN_LENGTH) {
        snprintf(err, IO_ERR, "the task: expected a context of at least %d, found %d", TASK_MIN_LENGTH,
                 c->context);
        return NULL;
    }
    if (text->bytes && text->n_train <= c->context) {
        snprintf(err, IO_ERR, "--text: expected more than %d bytes for context %d, found %" PRId64,
                 c->context + c->context / 19 + 1, c->context, text->n);
        return NULL;
    }
    if (config->ranks && !share_check(c, config, err))
        return NULL;
    trainer *t = calloc(1, sizeof *t);
    if (!t) {
        snprintf(err, IO_ERR, "no memory for a training run");
        return NULL;
    }
    t->config = *config;
    t->text = *text;
    t->text_hash = hash_text(text);
    if (!model_new(&t->m, c, config->seed, err)) {
        trainer_free(t);
        return NULL;
    }
    const size_t n = (size_t)config->batch * (size_t)c->context;
    t->run = new_run(t, ops); /* first: it asks for the most */
    if (t->run) {
        t->moment1 = calloc(t->m.n_params, sizeof *t->moment1);
        t->moment2 = calloc(t->m.n_params, sizeof *t->moment2);
        t->tokens = malloc(n);
        t->targets = malloc(n);
        t->distance = malloc(n * sizeof *t->distance);
        t->kl = calloc((size_t)c->n_layers, sizeof *t->kl);
    }
    if (!t->moment1 || !t->moment2 || !t->tokens || !t->targets || !t->distance || !t->kl) {
        snprintf(err, IO_ERR,
                 "these sizes: expected to fit the memory here, found too large: a batch of %" PRId64
                 " x %d tokens",
                 config->batch, c->context);
        trainer_free(t);
        return NULL;
    }
    return t;
}

int64_t trainer_steps(const trainer *t)
{
    return t->step;
}

train_curve *trainer_curve(trainer *t)
{
    return &t->curve;
}

const model *trainer_model(const trainer *t)
{
    return &t->m;
}

/* The run's settings as metadata: what a resumed run must agree with. */
static void train_to_meta(const trainer *t, checkpoint_meta *meta)
{
    const train_config *c = &t->config;
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, t->text_hash);
    checkpoint_put(meta, "train.text", hash);
    checkpoint_put_int(meta, "train.steps", c->steps);
    checkpoint_put_int(meta, "train.batch", c->batch);
    if (c->dense_steps)
        checkpoint_put_int(meta, "train.dense_steps", c->dense_steps);
    checkpoint_put_int(meta, "train.index_warmup", c->index_warmup);
    checkpoint_put_int(meta, "train.lr_warmup", c->lr_warmup);
    checkpoint_put_int(meta, "train.seed", (int64_t)c->seed);
    checkpoint_put_real(meta, "train.lr", c->lr);
    checkpoint_put_real(meta, "train.lr_end", c->lr_end);
    checkpoint_put_real(meta, "train.decay", c->decay);
    checkpoint_put_real(meta, "train.clip", c->clip);
    checkpoint_put_real(meta, "train.lambda", c->lambda);
    if (c->index_gain > 0)
        checkpoint_put_real(meta, "train.index_gain", c->index_gain);
    if (c->backend)
        checkpoint_put(meta, "train.backend", c->backend);
    if (c->precision)
        checkpoint_put(meta, "train.precision", c->precision);
    if (c->recall_every)
        checkpoint_put_int(meta, "train.recall_every", c->recall_every);
}

/* The three copies of a tensor in a state file: value and both moments. */
static const char *const copy_prefix[3] = {"", "adam.m.", "adam.v."};

static float *copy_buffer(const trainer *t, int copy)
{
    return copy == 0 ? t->m.params : copy == 1 ? t->moment1 : t->moment2;
}

typedef char tensor_name[64];

bool trainer_save(const trainer *t, const char *path, io_error err)
{
    const int n = t->m.n_tensors;
    checkpoint_meta meta = {.n = 0};
    config_to_meta(&t->m.config, &meta);
    train_to_meta(t, &meta);
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, t->curve.hash);
    checkpoint_put_int(&meta, "train.step", t->step);
    checkpoint_put_int(&meta, "train.curve_bytes", t->curve.bytes);
    checkpoint_put(&meta, "train.curve_hash", hash);
    st_tensor *list = malloc(3 * (size_t)n * sizeof *list);
    tensor_name *name = malloc(3 * (size_t)n * sizeof *name);
    bool ok = list && name;
    if (!ok)
        snprintf(err, IO_ERR, "%s: no memory to write it", path);
    for (int i = 0; ok && i < 3 * n; i++) {
        const model_tensor *tensor = &t->m.tensor[i % n];
        snprintf(name[i], sizeof name[i], "%s%s", copy_prefix[i / n], tensor->name);
        list[i] = checkpoint_tensor(tensor, name[i], copy_buffer(t, i / n));
    }
    st_file f = {.n_tensors = 3 * n, .tensor = list, .n_meta = meta.n, .meta = meta.item};
    ok = ok && st_write(path, &f, err);
    free(list);
    free(name);
    return ok;
}

#define PROGRESS 3 /* metadata that is no setting: the step, and what is known of the curve */

/* Every setting of this run must stand in the file as it would be written now. */
static bool same_run(const trainer *t, const st_file *f, const char *path, io_error err)
{
    checkpoint_meta want = {.n = 0};
    config_to_meta(&t->m.config, &want);
    train_to_meta(t, &want);
    for (int i = 0; i < want.n; i++) {
        const char *found = st_get_meta(f, want.item[i].key);
        if (!found || strcmp(found, want.item[i].value) != 0) {
            snprintf(err, IO_ERR, "%s: belongs to another run: expected %s = %s, found %.40s", path,
                     want.item[i].key, want.item[i].value, found ? found : "none");
            return false;
        }
    }
    if (f->n_meta != want.n + PROGRESS) {
        snprintf(err, IO_ERR, "%s: belongs to another run: expected %d settings, found %d", path, want.n,
                 f->n_meta - PROGRESS);
        return false;
    }
    return true;
}

trainer *trainer_resume(const char *path, const model_config *c, const train_config *config,
                        const train_text *text, const msa_ops *ops, io_error err)
{
    st_file f;
    if (!st_read(path, &f, err))
        return NULL;
    trainer *t = trainer_new(c, config, text, ops, err);
    bool ok = t && same_run(t, &f, path, err) &&
              checkpoint_get_int(&f, path, "train.step", config->steps, &t->step, err) &&
              checkpoint_get_int(&f, path, "train.curve_bytes", INT64_MAX, &t->curve.bytes, err);
    if (ok) {
        const char *hash = st_get_meta(&f, "train.curve_hash");
        t->curve.hash = hash ? strtoull(hash, NULL, 16) : 0;
    }
    for (int i = 0; ok && i < 3 * t->m.n_tensors; i++) {
        const model_tensor *tensor = &t->m.tensor[i % t->m.n_tensors];
        int copy = i / t->m.n_tensors;
        tensor_name name;
        snprintf(name, sizeof name, "%s%s", copy_prefix[copy], tensor->name);
        ok = checkpoint_read_tensor(&f, path, name, tensor, copy_buffer(t, copy) + tensor->offset, err);
    }
    ok = ok && checkpoint_no_others(&f, path, &t->m, copy_prefix, 3, err);
    st_free(&f);
    if (ok)
        return t;
    trainer_free(t);
    return NULL;
}

/* ---- Ranks -------------------------------------------------------------------------------------------- */

uint64_t trainer_fingerprint(const trainer *t)
{
    checkpoint_meta meta = {.n = 0};
    uint64_t h = t->text_hash;
    config_to_meta(&t->m.config, &meta);
    train_to_meta(t, &meta);
    for (int i = 0; i < meta.n; i++)
        for (const char *at = meta.item[i].value; *at; at++)
            h = random_bits(h, (uint64_t)*at);
    return random_bits(h, (uint64_t)(t->config.context_ranks));
}

/* What the first has, to everyone. */
static bool give(const trainer *t, void *data, size_t bytes)
{
    transport *const world = t->config.ranks;
    transport_part *part = calloc(2 * (size_t)world->ranks, sizeof *part);
    for (int r = 1; part && world->rank == 0 && r < world->ranks; r++)
        part[r] = (transport_part){data, bytes};
    if (part && world->rank)
        part[world->ranks] = (transport_part){data, bytes};
    const bool ok = part && transport_exchange(world, TRAFFIC_OTHER, part, part + world->ranks);
    free(part);
    return ok;
}

bool trainer_join(trainer *t)
{
    transport *const world = t->config.ranks;
    bool ok = give(t, &t->step, sizeof t->step);
    for (int copy = 0; ok && copy < 3; copy++)
        ok = give(t, copy_buffer(t, copy), t->m.n_params * sizeof(float));
    memset(world->sent, 0, sizeof world->sent);
    world->waited = 0;
    return ok;
}

bool trainer_accounts(const trainer *t, double seconds, train_account *all, double expected[TRAFFIC_N_KINDS])
{
    transport *const world = t->config.ranks;
    train_account mine = share_account(&t->share, seconds);
    transport_part *part = calloc((size_t)world->ranks, sizeof *part);
    for (int r = 0; part && world->rank == 0 && r < world->ranks; r++)
        part[r] = (transport_part){&all[r], sizeof *all};
    const bool ok =
        part && transport_collect(world, TRAFFIC_OTHER, (transport_part){&mine, sizeof mine}, part);
    memcpy(expected, t->share.model, sizeof t->share.model);
    free(part);
    return ok;
}

/* ---- One step ----------------------------------------------------------------------------------------- */

static double learning_rate(const train_config *c, int64_t step)
{
    if (step < c->lr_warmup)
        return c->lr * (double)(step + 1) / (double)c->lr_warmup;
    double done =
        (double)(step - c->lr_warmup) / (double)(c->steps > c->lr_warmup ? c->steps - c->lr_warmup : 1);
    return c->lr_end + (c->lr - c->lr_end) * 0.5 * (1 + cos(3.14159265358979 * done));
}

/* Windows at random places, or sequences of the task; which ones depends on the seed and the step alone. */
static void draw_batch(trainer *t)
{
    const int64_t context = t->m.config.context, places = t->text.n_train - context;
    for (int64_t b = 0; b < t->config.batch; b++) {
        uint64_t number = (uint64_t)(t->step * t->config.batch + b);
        if (!t->text.bytes) {
            task_draw(t->config.seed, number, (int)context, t->tokens + b * context, t->targets + b * context,
                      t->distance + b * context);
            continue;
        }
        int64_t at = (int64_t)(random_uniform(t->config.seed ^ 0x7465787473u, number) * (double)places);
        memcpy(t->tokens + b * context, t->text.bytes + at, (size_t)context);
        memcpy(t->targets + b * context, t->text.bytes + at + 1, (size_t)context);
    }
}

/* How many targets of the batch count. */
static int64_t n_scored(const trainer *t)
{
    const int64_t all = t->config.batch * t->m.config.context;
    int64_t n = t->text.bytes ? all : 0;
    for (int64_t i = 0; !t->text.bytes && i < all; i++)
        n += t->distance[i] != 0;
    return n;
}

static double global_norm(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* AdamW (Loshchilov, Hutter 2019): decoupled decay, bias-corrected moments. */
static void adamw(trainer *t, const float *grads, double lr, double scale)
{
    const double beta1 = 0.9, beta2 = 0.95;
    const double fix1 = 1 - pow(beta1, (double)(t->step + 1)), fix2 = 1 - pow(beta2, (double)(t->step + 1));
    for (int n = 0; n < t->m.n_tensors; n++) {
        const model_tensor *tensor = &t->m.tensor[n];
        const float shrink = (float)(1 - (tensor->decay ? lr * t->config.decay : 0));
        const float rate = (float)(lr / fix1), inv2 = (float)(1 / fix2);
        float *p = t->m.params + tensor->offset, *m1 = t->moment1 + tensor->offset,
              *m2 = t->moment2 + tensor->offset;
        const float *g0 = grads + tensor->offset;
        for (size_t i = 0; i < tensor->count; i++) {
            float g = (float)scale * g0[i];
            m1[i] = (float)beta1 * m1[i] + (float)(1 - beta1) * g;
            m2[i] = (float)beta2 * m2[i] + (float)(1 - beta2) * g * g;
            p[i] = shrink * p[i] - rate * m1[i] / (sqrtf(m2[i] * inv2) + 1e-8f);
        }
    }
}

/* Gains of the norms of index queries and keys, 1 + the parameter, go no further from 1 than a factor `most`. */
static void hold_index_gains(const model *m, double most)
{
    static const int norm[] = {IQ_NORM, IK_NORM};
    for (int l = 0; m->config.sparse && l < m->config.n_layers; l++)
        for (int i = 0; i < 2; i++) {
            float *gain = layer_part(m, m->params, l, norm[i]);
            for (int c = 0; c < m->config.d_index; c++)
                gain[c] = fminf(fmaxf(gain[c], (float)(1 / most - 1)), (float)(most - 1));
        }
}

train_step trainer_step(trainer *t)
{
    const train_config *c = &t->config;
    const msa_attention mode = t->step < c->dense_steps                     ? MSA_ATTN_DENSE
                               : t->step < c->dense_steps + c->index_warmup ? MSA_ATTN_WARMUP
                                                                            : MSA_ATTN_SPARSE;
    const double part =
        c->ranks ? (double)t->share.cut / c->ranks->ranks : 1; /* of the tokens that L_KL means */
    draw_batch(t);
    model_run_score(t->run, t->text.bytes ? NULL : t->distance, n_scored(t));
    if (c->ranks) {
        share_take(&t->share, sizeof *t->tokens, t->tokens);
        share_take(&t->share, sizeof *t->targets, t->targets);
        share_take(&t->share, sizeof *t->distance, t->distance);
    }
    model_forward(&t->m, t->run, mode, t->tokens);
    train_step done = {.loss = model_loss(t->run, t->targets, NULL) / log(2),
                       .lr = learning_rate(c, t->step)};
    model_backward(&t->m, t->run, mode, t->tokens, t->targets, c->lambda * part, t->kl);
    if (c->ranks) {
        share_sum(&t->share, &done.loss, t->kl, model_run_grads(t->run));
        share_count(&t->share, t->m.config.sparse ? mode : MSA_ATTN_DENSE);
    }
    for (int l = 0; l < t->m.config.n_layers; l++)
        done.kl += t->kl[l] / t->m.config.n_layers;
    done.norm = global_norm(model_run_grads(t->run), t->m.n_params);
    adamw(t, model_run_grads(t->run), done.lr, done.norm > c->clip ? c->clip / done.norm : 1);
    if (c->index_gain > 0)
        hold_index_gains(&t->m, c->index_gain);
    done.step = ++t->step;
    return done;
}
