/* Commands on ranks: what each has done, and how it compares with the model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../bench/timing.h"
#include "../random.h"
#include "../stages.h"
#include "ranks.h"
#include "ranks_device.h"
#include "ranks_files.h"

/* ---- Options ----------------------------------------------------------------------------------------- */

bool cli_wants_ranks(const cli_ranks *r)
{
    return r->n > 0 || transport_world();
}

int cli_check_ranks(const char *command, const cli_ranks *r, const char *backend)
{
    if (r->move && strcmp(r->move, "queries") != 0 && strcmp(r->move, "keys") != 0)
        return cli_fail(command, "--move: expected queries or keys, found '%s'", r->move);
    if (r->n && transport_world())
        return cli_fail(command, "--ranks: expected none under mpirun, which says how many, found %lld",
                        (long long)r->n);
    if (r->move && !cli_wants_ranks(r))
        return cli_fail(command, "--move: expected it with --ranks, found it alone");
    const bool engine = strcmp(command, "train") != 0;
    if (r->n && strcmp(backend, "ref") != 0 && strcmp(backend, "fast") != 0 &&
        !(engine && strcmp(backend, "simt") == 0))
        return cli_fail(command, "--backend: expected ref%s where ranks are threads, found '%s'",
                        engine ? ", fast or simt" : " or fast", backend);
    return 0;
}

/* ---- A rank ------------------------------------------------------------------------------------------ */

/* What is said of a rank. */
typedef struct account {
    double rows, blocks, seen, worked, waited, pairs, sent[TRAFFIC_N_KINDS]; /* worked and waited: ms */
    double read;                                                             /* bytes of files */
    msa_screening screening;
} account;

typedef struct job {
    const char *command;
    const msa_ops *ops;
    const cli_dealt *call;
    const cli_ranks *asked;
    bool bad;           /* ranks have other calls, of which the first has said so */
    const char *device; /* NULL: arrays are the host's */
    account *all;       /* [ranks] of the first rank */
    traffic_call model; /* likewise */
    bool queries;       /* likewise: they travelled */
} job;

/* A rank's own rows, in its order. */
typedef struct home {
    deal_shard keys;
    deal_rows rows;
    float *q, *qi, *dout, *o, *lse;
    int32_t *ids, *turned; /* [rows,Hkv,k]; of the whole call on the first rank */
    ranks_files files;
} home;

static bool new_home(home *h, int rank, int ranks, const cli_dealt *call)
{
    const msa_shape *s = call->s;
    const bool paged = call->pages;
    const cli_tensor q_of = paged ? CLI_STEP_Q : CLI_Q, qi_of = paged ? CLI_STEP_QI : CLI_QI;
    const size_t q = (size_t)s->n_heads * (size_t)s->d_head, kv = (size_t)s->n_kv_heads;
    *h = (home){.files = {.t = call->t, .paged = paged}};
    const deal_source keys = ranks_keys(&h->files, call->pages);
    if (!deal_new_rows(&h->rows, ranks, s) || !deal_new_shard(&h->keys, rank, ranks, s, &keys))
        return false;
    if (call->screens && !deal_screen(&h->keys))
        return false;
    const size_t own = (size_t)(h->rows.first[rank + 1] - h->rows.first[rank]) + 1;
    h->q = malloc(own * q * sizeof *h->q);
    h->o = malloc(own * q * sizeof *h->o);
    h->lse = malloc(own * (size_t)s->n_heads * sizeof *h->lse);
    h->qi = malloc(own * kv * (size_t)s->d_index * sizeof *h->qi);
    h->dout = call->gradients ? malloc(own * q * sizeof *h->dout) : NULL;
    h->ids = malloc(own * kv * (size_t)s->topk * sizeof *h->ids);
    h->turned = rank ? NULL : malloc((size_t)s->n_q * kv * (size_t)s->topk * sizeof *h->turned);
    if (!h->q || !h->o || !h->lse || !h->qi || !h->ids || !(h->turned || rank) ||
        !(h->dout || !call->gradients))
        return false;
    return ranks_take(&h->files, q_of, &h->rows, rank, h->q) &&
           (!call->t->path[qi_of] || ranks_take(&h->files, qi_of, &h->rows, rank, h->qi)) &&
           (!call->gradients || ranks_take(&h->files, CLI_DOUT, &h->rows, rank, h->dout));
}

static void free_home(home *h)
{
    deal_free_shard(&h->keys), deal_free_rows(&h->rows);
    free(h->q), free(h->qi), free(h->dout), free(h->o), free(h->lse), free(h->ids), free(h->turned);
}

/* The one of `rank`, or the end of all ranks. */
static void open_home(transport *t, const job *j, home *h, int rank)
{
    if (new_home(h, rank, t->ranks, j->call))
        return;
    transport_last_word();
    if (h->files.err[0])
        cli_fail(j->command, "%s", h->files.err);
    else
        cli_fail(j->command, "rank %d of %d: expected memory for its part, found too little", t->rank,
                 t->ranks);
    t->end(t, 2);
}

/* ---- The same call everywhere ------------------------------------------------------------------------ */

static uint64_t mix(uint64_t seen, const void *data, size_t bytes)
{
    const char *at = data;
    for (; bytes; at += sizeof(uint64_t)) {
        const size_t n = bytes < sizeof(uint64_t) ? bytes : sizeof(uint64_t);
        uint64_t word = 0;
        memcpy(&word, at, n);
        seen = random_bits(seen, word);
        bytes -= n;
    }
    return seen;
}

/* A number that stands for the call and all that the rank has read for it. */
static uint64_t fingerprint(const job *j, const home *h, int rank)
{
    const msa_shape *s = j->call->s;
    const cli_dealt_gradients *g = j->call->gradients;
    const char *move = j->asked->move;
    const size_t rows = (size_t)(h->rows.first[rank + 1] - h->rows.first[rank]), each = sizeof(float),
                 q = rows * (size_t)s->n_heads * (size_t)s->d_head,
                 tokens = (size_t)h->keys.first[msa_n_seqs(s)] * (size_t)s->block,
                 kv = tokens * (size_t)s->n_kv_heads * (size_t)s->d_head;
    const int64_t sizes[] = {
        s->n_q,  s->n_kv,       s->n_heads,     s->n_kv_heads, s->d_head,          s->d_index,      s->block,
        s->topk, msa_n_seqs(s), j->call->dense, g != NULL,     move ? move[0] : 0, j->call->screens};
    uint64_t seen = mix(0, sizes, sizeof sizes);
    for (int stage = 0; stage < MSA_N_STAGES; stage++) {
        char name[KERNEL_NAME];
        kernel_name(j->ops->stage[stage], name);
        seen = mix(mix(seen, name, strlen(name)), j->ops->stage[stage]->backend,
                   strlen(j->ops->stage[stage]->backend));
    }
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        seen = mix(seen, &seq, sizeof seq);
    }
    if (g)
        seen = mix(mix(seen, h->dout, q * each), &g->weight, sizeof g->weight);
    if (j->call->t->path[CLI_QI] || j->call->pages)
        seen = mix(seen, h->qi, rows * (size_t)s->n_kv_heads * (size_t)s->d_index * each);
    seen = mix(mix(mix(seen, h->q, q * each), h->keys.k, kv * each), h->keys.v, kv * each);
    return mix(seen, h->keys.ki, tokens * (size_t)s->d_index * each);
}

/* Machines have files of their own. With other sizes messages would not fit; with other numbers the output would be of
 * two texts, and nobody would notice. So the first rank reads what each of the others has read, one after the other.
 * Returns the first that has another call, or 0. */
static int find_other_call(transport *t, const job *j, const home *own)
{
    uint64_t all[CLI_MOST_RANKS] = {0}, mine = t->rank ? fingerprint(j, own, t->rank) : 0;
    int other = 0, others[CLI_MOST_RANKS];
    transport_part part[CLI_MOST_RANKS];
    for (int r = 0; r < t->ranks; r++)
        part[r] = (transport_part){&all[r], sizeof all[r]};
    if (!transport_collect(t, TRAFFIC_OTHER, (transport_part){&mine, sizeof mine}, part))
        t->end(t, 2);
    for (int r = 1; t->rank == 0 && r < t->ranks && !other; r++) {
        home theirs;
        open_home(t, j, &theirs, r);
        other = fingerprint(j, &theirs, r) == all[r] ? 0 : r;
        free_home(&theirs);
    }
    for (int r = 0; r < t->ranks; r++)
        part[r] = (transport_part){&others[r], sizeof other};
    if (!transport_gather(t, TRAFFIC_OTHER, (transport_part){&other, sizeof other}, part))
        t->end(t, 2);
    return others[0];
}

/* ---- What a rank does ---------------------------------------------------------------------------------- */

static account account_of(const transport *t, const home *h, const parallel_call *c, double ms)
{
    const int64_t *first = h->rows.first;
    account a = {.rows = (double)(first[t->rank + 1] - first[t->rank]),
                 .blocks = (double)h->keys.first[msa_n_seqs(&h->keys.s)],
                 .worked = ms - 1e3 * t->waited,
                 .waited = 1e3 * t->waited,
                 .pairs = c->pairs,
                 .read = h->files.bytes,
                 .screening = c->screening};
    for (int64_t x = first[t->rank]; x < first[t->rank + 1]; x++)
        a.seen += (double)(h->rows.at[x] + 1);
    memcpy(a.sent, t->sent, sizeof a.sent);
    return a;
}

/* [T,Hkv,k] to [Hkv,T,k], but for padding. */
static void turn_ids(const msa_shape *s, const deal_rows *rows, const int32_t *from, int32_t *to)
{
    for (int64_t x = 0; x < rows->n; x++)
        for (int64_t r = 0; r < s->n_kv_heads; r++)
            memcpy(to + (r * s->n_q + rows->row[x]) * s->topk,
                   from + (rows->row[x] * s->n_kv_heads + r) * s->topk, (size_t)s->topk * sizeof *to);
}

static msa_status collect(transport *t, const cli_dealt *call, home *h)
{
    const msa_shape *s = call->s;
    const size_t heads = (size_t)s->n_heads, kv = (size_t)s->n_kv_heads;
    if (!call->dense)
        MSA_TRY(parallel_collect(t, &h->rows, kv * (size_t)s->topk * sizeof *h->ids, h->ids, h->turned));
    MSA_TRY(parallel_collect(t, &h->rows, heads * (size_t)s->d_head * sizeof *h->o, h->o, call->o));
    MSA_TRY(parallel_collect(t, &h->rows, heads * sizeof *h->lse, h->lse, call->lse));
    if (t->rank == 0) {
        pad_outputs(s, call->dense ? NULL : call->ids, call->o, call->lse);
        if (!call->dense)
            turn_ids(s, &h->rows, h->turned, call->ids);
    }
    return MSA_OK;
}

/* The backward pass: buffers of this rank, and what comes of them. */
static msa_status differentiate(transport *t, const job *j, home *h, parallel_call *c)
{
    const cli_dealt_gradients *all = j->call->gradients;
    const msa_shape *s = j->call->s;
    const size_t q = (size_t)s->n_heads * (size_t)s->d_head, qi = (size_t)s->n_kv_heads * (size_t)s->d_index;
    const size_t own = (size_t)(h->rows.first[t->rank + 1] - h->rows.first[t->rank]) + 1;
    const size_t tokens = (size_t)h->keys.n_pages * (size_t)s->block,
                 width = (size_t)s->n_kv_heads * (size_t)s->d_head;
    parallel_gradients g = {.dout = h->dout,
                            .weight = all->weight,
                            .full = all->full,
                            .dq = malloc(own * q * sizeof *g.dq),
                            .dqi = malloc(own * qi * sizeof *g.dqi),
                            .dk = malloc(tokens * width * sizeof *g.dk),
                            .dv = malloc(tokens * width * sizeof *g.dv),
                            .dki = malloc(tokens * (size_t)s->d_index * sizeof *g.dki)};
    msa_status status = g.dq && g.dqi && g.dk && g.dv && g.dki ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK)
        status = parallel_backward(t, c, &g);
    if (status == MSA_OK)
        status = parallel_collect(t, &h->rows, q * sizeof *g.dq, g.dq, all->dq);
    if (status == MSA_OK)
        status = parallel_collect(t, &h->rows, qi * sizeof *g.dqi, g.dqi, all->dqi);
    if (status == MSA_OK)
        status = parallel_collect_keys(t, &h->keys, &g, all->dk, all->dv, all->dki);
    if (status == MSA_OK && t->rank == 0) {
        *all->loss = g.loss;
        pad_queries(s, 1, (int64_t)q, 0, all->dq);
        pad_queries(s, 1, (int64_t)qi, 0, all->dqi);
    }
    free(g.dq), free(g.dqi), free(g.dk), free(g.dv), free(g.dki);
    return status;
}

/* Who is done early waits for the slowest, before results are collected. */
static bool wait_for_all(transport *t)
{
    char done[CLI_MOST_RANKS];
    transport_part part[CLI_MOST_RANKS];
    for (int r = 0; r < t->ranks; r++)
        part[r] = (transport_part){&done[r], 1};
    return transport_gather(t, TRAFFIC_OTHER, (transport_part){&(char){1}, 1}, part);
}

static msa_status attend(transport *t, const job *j, parallel_call *c, bool queries, const char **why)
{
    if (j->device)
        return ranks_device_attend(j->device, t, c, queries, why);
    return queries ? parallel_pass_q(t, c) : parallel_pass_kv(t, c);
}

static msa_status work(transport *t, job *j, home *h, const char **why)
{
    parallel_call c = {j->ops, &h->keys, &h->rows, j->call->dense, h->q, h->qi, h->ids, h->o, h->lse, 0, {0}};
    traffic_call model = j->device ? ranks_device_traffic(&c) : parallel_traffic(&c);
    const char *move = j->asked->move;
    const bool queries = move ? strcmp(move, "queries") == 0 : traffic_moves_queries(&model);
    transport_part part[CLI_MOST_RANKS];
    memset(t->sent, 0, sizeof t->sent);
    t->waited = 0;
    const double start = timing_now();
    MSA_TRY(attend(t, j, &c, queries, why));
    if (j->call->gradients)
        MSA_TRY(differentiate(t, j, h, &c));
    if (!wait_for_all(t))
        return MSA_ERR_DEVICE;
    const account mine = account_of(t, h, &c, 1e3 * (timing_now() - start));
    for (int r = 0; t->rank == 0 && r < t->ranks; r++)
        part[r] = (transport_part){&j->all[r], sizeof mine};
    if (!transport_collect(t, TRAFFIC_OTHER, (transport_part){(void *)(uintptr_t)&mine, sizeof mine}, part))
        return MSA_ERR_DEVICE;
    if (t->rank == 0)
        model.s = j->call->s, j->model = model, j->queries = queries; /* the home goes */
    return collect(t, j->call, h);
}

static void fail_sizes(const job *j)
{
    const msa_shape *s = j->call->s;
    cli_fail(j->command,
             "expected sizes that the kernels of %s take on ranks, found G %d, dh %d, di %d, block %d, k %d",
             j->device ? j->device : j->ops->stage[MSA_STAGE_INDEX]->backend, s->n_heads / s->n_kv_heads,
             s->d_head, s->d_index, s->block, s->topk);
}

static void run_rank(transport *t, void *context)
{
    job *j = context;
    home h = {.files = {.bytes = 0}};
    const char *why = NULL;
    if (t->rank)
        open_home(t, j, &h, t->rank);
    const int other = t == transport_world() ? find_other_call(t, j, &h) : 0;
    if (other && t->rank == 0)
        cli_fail(j->command, "rank %d of %d: expected the tensors and options of rank 0, found others", other,
                 t->ranks);
    if (other) {
        j->bad = true;
        free_home(&h);
        return;
    }
    if (t->rank == 0)
        open_home(t, j, &h, 0);
    const msa_status status = work(t, j, &h, &why);
    if (status != MSA_OK) {
        transport_last_word();
        if (status == MSA_ERR_UNSUPPORTED)
            fail_sizes(j);
        else
            cli_fail(j->command, "rank %d of %d: expected memory for its part, found: %s", t->rank, t->ranks,
                     why ? why : msa_strerror(status));
        t->end(t, 2);
    }
    free_home(&h);
}

/* ---- What is said of it ------------------------------------------------------------------------------------ */

/* Kept until the output is written: a command that fails prints nothing. */
static char *report;

static void write_report(const job *j, int ranks, FILE *out)
{
    double model[2][TRAFFIC_N_KINDS], pairs = 0, seen = 0, most = 0, sent = 0;
    msa_screening sum = {0};
    fprintf(out, "%d rank%s, %s travel%s: a row each, with ms and bytes by kind\n\n%4s%9s%9s%10s%10s%13s",
            ranks, ranks > 1 ? "s" : "", j->queries ? "queries" : "keys",
            j->queries && j->call->gradients ? ", and keys for the gradients" : "", "rank", "queries",
            "blocks", "worked", "waited", "read");
    for (int kind = 0; kind < TRAFFIC_WEIGHTS; kind++)
        fprintf(out, "  %13s", traffic_name((traffic_kind)kind));
    for (int r = 0; r < ranks; r++) {
        const account *a = &j->all[r];
        fprintf(out, "\n%4d%9.0f%9.0f%10.2f%10.2f%13.0f", r, a->rows, a->blocks, a->worked, a->waited,
                a->read);
        for (int kind = 0; kind < TRAFFIC_WEIGHTS; kind++) {
            fprintf(out, "  %13.0f", a->sent[kind]);
            sent += a->sent[kind];
        }
        pairs += a->pairs;
        sum.rows += a->screening.rows, sum.fell_back += a->screening.fell_back;
        sum.settled += a->screening.settled, sum.blocks += a->screening.blocks;
        seen += a->seen;
        most = a->seen > most ? a->seen : most;
    }
    traffic_pass_q(&j->model, pairs, model[0]);
    traffic_pass_kv(&j->model, model[1]);
    double expected = traffic_sum(model[!j->queries]);
    if (j->call->gradients) { /* they take index keys too, and have no other way */
        traffic_call backward = j->model;
        backward.dense = false;
        traffic_backward(&backward, model[0]);
        expected += traffic_sum(model[0]);
    }
    fprintf(out,
            "\n\nsent %.0f bytes, by the model %.0f; keys that the fullest rank's queries see: %.3f of the "
            "mean\n",
            sent, expected, seen > 0 ? most * ranks / seen : 1);
    if (sum.blocks > 0)
        fprintf(
            out,
            "owners scored %lld of %lld blocks in full, by bounds for all; all that they have for %lld of "
            "%lld rows\n",
            (long long)sum.settled, (long long)sum.blocks, (long long)sum.fell_back, (long long)sum.rows);
}

void cli_print_ranks(void)
{
    if (report)
        fputs(report, stdout);
    free(report);
    report = NULL;
}

static int keep_report(const char *command, const job *j, int ranks)
{
    size_t size;
    FILE *out = open_memstream(&report, &size);
    if (out)
        write_report(j, ranks, out);
    return out && fclose(out) == 0 ? 0 : cli_fail(command, "expected memory for a report, found too little");
}

int cli_run_ranks(const char *command, cli_plan *plan, const cli_ranks *r, const cli_dealt *call)
{
    transport *world = transport_world();
    const int ranks = world ? world->ranks : (int)r->n;
    account *all = NULL;
    int bad = 0;
    if (cli_is_first() && !(all = cli_alloc(command, (size_t)ranks * sizeof *all)))
        bad = 2;
    bad = cli_agree(bad);
    if (bad) {
        free(all);
        return bad;
    }
    job j = {.command = command,
             .ops = &plan->ops,
             .call = call,
             .asked = r,
             .device = ranks_device(&plan->ops, call),
             .all = all};
    if (world)
        run_rank(world, &j);
    else if (!transport_threads(ranks, run_rank, &j))
        bad = cli_fail(command, "--ranks: expected %d threads, found room for fewer", ranks);
    bad = j.bad ? 2 : bad;
    if (!bad && cli_is_first()) {
        plan->ran[MSA_STAGE_DENSE_DECODE] = j.queries;
        plan->ran[MSA_STAGE_DENSE] = !j.queries && call->dense;
        plan->ran[MSA_STAGE_INDEX] = plan->ran[MSA_STAGE_SPARSE] = !j.queries && !call->dense;
        plan->ran[MSA_STAGE_BACKWARD] = plan->ran[MSA_STAGE_KL] = call->gradients;
        bad = keep_report(command, &j, ranks);
    }
    free(all);
    return bad;
}
