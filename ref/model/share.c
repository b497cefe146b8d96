/* Batches that ranks share, and sums over ranks. */
#include "share.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* ---- Who has what --------------------------------------------------------------------------------------- */

static int64_t fewest_ranks(int64_t ranks, int64_t batch)
{
    int64_t c = 1;
    while (ranks % c != 0 || batch % (ranks / c) != 0)
        c++;
    return c;
}

static int64_t context_ranks(const train_config *c)
{
    return c->context_ranks ? c->context_ranks : fewest_ranks(c->ranks->ranks, c->batch);
}

bool share_check(const model_config *m, const train_config *c, io_error err)
{
    const int64_t ranks = c->ranks->ranks, cut = context_ranks(c);
    if (ranks % cut != 0)
        snprintf(err, IO_ERR, "--context-ranks: expected a divisor of the %" PRId64 " ranks, found %" PRId64,
                 ranks, cut);
    else if (c->batch % (ranks / cut) != 0)
        snprintf(err, IO_ERR,
                 "--batch: expected a multiple of the %" PRId64
                 " groups of ranks that share windows, found %" PRId64,
                 ranks / cut, c->batch);
    else if (cut > 1 && (m->sink || m->value_head) && !c->context_ranks) /* nobody asked for cuts */
        snprintf(err, IO_ERR,
                 "--batch: expected a multiple of the %" PRId64
                 " ranks with --sink or --value-head, found %" PRId64,
                 ranks, c->batch);
    else if (cut > 1 && (m->sink || m->value_head))
        snprintf(err, IO_ERR, "--context-ranks: expected 1 with --sink or --value-head, found %" PRId64, cut);
    else if (m->context < 2 * cut)
        snprintf(err, IO_ERR,
                 "--context: expected two tokens for each of the %" PRId64
                 " ranks that share a window, found %d",
                 cut, m->context);
    else
        return true;
    return false;
}

/* Parameters that rank r adds up begin here. */
static size_t segment(const train_share *s, int r)
{
    return s->m->n_params * (size_t)r / (size_t)s->t->ranks;
}

bool share_new(train_share *s, const model *m, const train_config *c, const msa_ops *ops)
{
    const int ranks = c->ranks->ranks, cut = (int)context_ranks(c);
    const msa_shape heads = attention_shape(&m->config, 1, 1);
    msa_ops own;
    *s = (train_share){.t = c->ranks, .cut = cut, .m = m, .context = m->config.context};
    s->windows = c->batch / (ranks / cut);
    s->first = c->ranks->rank / cut * s->windows;
    s->own = s->windows * s->context;
    s->ops = *variant_ops(&m->config, ops, &own);
    s->parts = malloc((m->n_params / (size_t)ranks + 1) * (size_t)ranks * sizeof *s->parts);
    s->part = calloc(2 * (size_t)ranks, sizeof *s->part);
    s->record = malloc((size_t)ranks * (size_t)(m->config.n_layers + 1) * sizeof *s->record);
    if (!s->parts || !s->part || !s->record)
        return false;
    if (cut == 1)
        return true;
    if (!parallel_new_group(&s->group, s->t, cut) ||
        !parallel_new_context(&s->attention, &s->group.t, &heads, (int)s->windows, m->config.context))
        return false;
    s->own = s->attention.own;
    s->ops = parallel_context_ops(&s->attention, &s->ops);
    return true;
}

void share_free(train_share *s)
{
    free(s->parts), free(s->part), free(s->record);
    parallel_free_group(&s->group);
    parallel_free_context(&s->attention);
}

model_run *share_run(const train_share *s)
{
    const bool whole = s->cut == 1;
    return model_run_at(s->m, &s->ops, whole ? (int)s->windows : 1, (int)(whole ? s->context : s->own),
                        s->attention.at, true);
}

void share_take(const train_share *s, size_t bytes, void *rows)
{
    char *const from = (char *)rows + (size_t)(s->first * s->context) * bytes;
    const int64_t first = s->cut == 1 ? 0 : s->attention.rows.first[s->attention.t->rank];
    for (int64_t x = 0; x < s->own; x++) /* rows of a home ascend */
        memmove((char *)rows + (size_t)x * bytes,
                from + (size_t)(s->cut == 1 ? x : s->attention.rows.row[first + x]) * bytes, bytes);
}

/* ---- Sums -------------------------------------------------------------------------------------------------- */

/* Each rank adds up a part of the parameters, and tells all others. */
static bool sum_gradients(train_share *s, float *grads)
{
    const int ranks = s->t->ranks, rank = s->t->rank;
    const size_t first = segment(s, rank), own = segment(s, rank + 1) - first;
    transport_part *to = s->part, *from = s->part + ranks;
    for (int r = 0; r < ranks; r++) {
        to[r] = (transport_part){grads + segment(s, r), (segment(s, r + 1) - segment(s, r)) * sizeof *grads};
        from[r] = (transport_part){s->parts + (size_t)r * own, own * sizeof *grads};
    }
    memcpy(from[rank].data, to[rank].data, own * sizeof *grads);
    if (!transport_exchange(s->t, TRAFFIC_WEIGHTS, to, from))
        return false;
    for (size_t i = 0; i < own; i++) {
        double sum = 0;
        for (int r = 0; r < ranks; r++)
            sum += (double)s->parts[(size_t)r * own + i];
        s->parts[i] = (float)sum; /* the first part has been read */
    }
    return transport_gather(s->t, TRAFFIC_WEIGHTS, (transport_part){s->parts, own * sizeof *grads}, to);
}

static bool sum_losses(train_share *s, double *loss, double *kl)
{
    const int ranks = s->t->ranks, layers = s->m->config.n_layers;
    const size_t n = (size_t)layers + 1;
    double mine[MODEL_MAX_LAYERS + 1] = {*loss};
    for (int l = 0; l < layers; l++)
        mine[1 + l] = kl[l] * s->cut / ranks; /* a mean over this group's tokens */
    for (int r = 0; r < ranks; r++)
        s->part[r] = (transport_part){s->record + (size_t)r * n, n * sizeof *mine};
    if (!transport_gather(s->t, TRAFFIC_OTHER, (transport_part){mine, n * sizeof *mine}, s->part))
        return false;
    for (size_t i = 0; i < n; i++) {
        double *const sum = i == 0 ? loss : &kl[i - 1];
        *sum = 0;
        for (int r = 0; r < ranks; r++)
            *sum += s->record[(size_t)r * n + i];
    }
    return true;
}

void share_sum(train_share *s, double *loss, double *kl, float *grads)
{
    must(sum_losses(s, loss, kl) && sum_gradients(s, grads) ? MSA_OK : MSA_ERR_DEVICE);
}

void share_count(train_share *s, msa_attention mode)
{
    const msa_shape heads = attention_shape(&s->m->config, 1, 1);
    const traffic_call c = {.s = &heads,
                            .ranks = s->cut,
                            .keys = (double)(s->windows * s->context),
                            .element = sizeof(float),
                            .index_key = sizeof(float),
                            .dense = mode == MSA_ATTN_DENSE};
    const traffic_training t = {s->t->ranks, s->m->config.n_layers, mode == MSA_ATTN_SPARSE,
                                (double)s->m->n_params};
    double bytes[TRAFFIC_N_KINDS];
    traffic_step(&c, &t, bytes);
    for (int kind = 0; kind < TRAFFIC_N_KINDS; kind++)
        s->model[kind] += bytes[kind];
}

train_account share_account(const train_share *s, double seconds)
{
    const double n = (double)s->context;
    train_account a = {.tokens = (double)s->own, .seconds = seconds, .waited = s->t->waited};
    memcpy(a.sent, s->t->sent, sizeof a.sent);
    if (s->cut == 1) {
        a.seen = (double)s->windows * n * (n + 1) / 2;
        return a;
    }
    a.waited += s->group.t.waited;
    for (int kind = 0; kind < TRAFFIC_N_KINDS; kind++)
        a.sent[kind] += s->group.t.sent[kind];
    for (int64_t x = 0; x < s->own; x++)
        a.seen += s->attention.at[x] + 1;
    return a;
}
