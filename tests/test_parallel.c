/**
 * @file test_parallel.c
 * @brief Attention over keys that are dealt to ranks, here threads of one process: equal to that of one process, and to the
 * byte what the model says. tests/test_parallel.sh does it with processes and MPI.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(HAVE_SIMT) || defined(HAVE_CUDA)
#define HAS_DEVICES
#include "../cuda/parallel/device.h"
#endif
#include "../ref/judge/noise.h"
#include "../ref/judge/paging.h"
#include "../ref/parallel/parallel.h"
#include "../ref/table/table.h"
#include "support/check.h"

// One call, by every way and number of ranks; results in the call's order.
typedef msa_status way_fn(transport *t, parallel_call *c);
typedef struct job {
    const msa_shape *s; // with lengths
    deal_source keys;
    const inputs *in;
    const msa_ops *ops;
    way_fn *way;
    traffic_call (*traffic)(const parallel_call *c);
    bool dense, screens;
    int32_t *ids; // [T,Hkv,k]
    float *o, *lse;
    int64_t open, screened; // blocks that 8 bits left open, of those that were to be scored
    double sent[TRAFFIC_N_KINDS], pairs, most, model[2][TRAFFIC_N_KINDS]; // pass-Q and pass-KV
} job;

// The same blocks elsewhere: in the opposite order, with a page of nobody's between them, NaN where no token is.
static void scatter(deal_shard *shard)
{
    const msa_shape *s = &shard->s;
    const int64_t own = shard->first[msa_n_seqs(s)], pages = 2 * own + 1, block = s->block, di = s->d_index;
    const int64_t heads = s->n_kv_heads, kv = heads * block * s->d_head, index = block * di;
    float *to[] = {malloc((size_t)(pages * kv) * 4), malloc((size_t)(pages * kv) * 4),
                   malloc((size_t)(pages * index) * 4)},
          **from[] = {&shard->k, &shard->v, &shard->ki};
    for (int a = 0; a < 3; a++) {
        const int64_t size = a < 2 ? kv : index, outer = a < 2 ? heads : 1, d = size / outer / block;
        memset(to[a], 0xff, (size_t)(pages * size) * 4);
        for (int n = 0; n < msa_n_seqs(s); n++)
            for (int64_t at = shard->first[n]; at < shard->first[n + 1]; at++) {
                const int64_t b = deal_block(shard->rank, shard->ranks, n, at - shard->first[n]),
                              tokens = min_i64(block, msa_get_seq(s, n).n_kv - b * block);
                for (int64_t r = 0; r < outer; r++)
                    memcpy(to[a] + (pages - 2 - 2 * at) * size + r * block * d,
                           *from[a] + at * size + r * block * d, (size_t)(tokens * d) * 4);
            }
        free(*from[a]);
        *from[a] = to[a];
    }
    shard->n_pages = pages;
    for (int64_t at = 0; at < own; at++)
        shard->page[at] = (int32_t)(pages - 2 - 2 * at);
}

static pthread_mutex_t summing = PTHREAD_MUTEX_INITIALIZER;

static void run_rank(transport *t, void *context)
{
    job *j = context;
    const msa_shape *s = j->s;
    const size_t kv = (size_t)s->n_kv_heads, q_row = (size_t)(s->n_heads * s->d_head),
                 qi_row = kv * (size_t)s->d_index, ids_row = kv * (size_t)s->topk, room = (size_t)s->n_q + 1;
    deal_shard shard;
    deal_rows rows;
    bool ok = deal_new_shard(&shard, t->rank, t->ranks, s, &j->keys) && (!j->screens || deal_screen(&shard));
    scatter(&shard);
    ok = deal_new_rows(&rows, t->ranks, s) && ok;
    float *q = malloc(room * q_row * 4), *qi = malloc(room * qi_row * 4), *o = malloc(room * q_row * 4),
          *lse = malloc(room * (size_t)s->n_heads * 4);
    int32_t *ids = malloc(room * ids_row * 4);
    if (!ok || !q || !qi || !o || !lse || !ids)
        exit(1);
    deal_take(&rows, t->rank, q_row * 4, j->in->q, q);
    deal_take(&rows, t->rank, qi_row * 4, j->in->qi, qi);
    parallel_call c = {j->ops, &shard, &rows, j->dense, q, qi, ids, o, lse, 0, {0}};
    const msa_status status = j->way(t, &c);
    if (status != MSA_OK) { // the others would wait
        printf("# rank %d of %d: %s\n", t->rank, t->ranks, msa_strerror(status));
        t->end(t, 1);
    }
    pthread_mutex_lock(&summing);
    double sum = 0;
    for (int kind = 0; kind < TRAFFIC_N_KINDS; kind++) {
        j->sent[kind] += t->sent[kind];
        sum += t->sent[kind];
    }
    j->most = sum > j->most ? sum : j->most;
    j->pairs += c.pairs;
    j->open += c.screening.settled, j->screened += c.screening.blocks;
    pthread_mutex_unlock(&summing);
    if (!j->dense)
        parallel_collect(t, &rows, ids_row * 4, ids, j->ids);
    parallel_collect(t, &rows, q_row * 4, o, j->o);
    parallel_collect(t, &rows, (size_t)s->n_heads * 4, lse, j->lse);
    if (t->rank == 0) {
        const traffic_call model = j->traffic(&c);
        traffic_pass_q(&model, j->pairs, j->model[0]);
        traffic_pass_kv(&model, j->model[1]);
    }
    free(q), free(qi), free(o), free(lse), free(ids);
    deal_free_rows(&rows), deal_free_shard(&shard);
}

static void run_job(check_case *c, job *j, int ranks)
{
    memset(j->sent, 0, sizeof j->sent);
    j->pairs = j->most = 0;
    j->open = j->screened = 0;
    check_true(c, transport_threads(ranks, run_rank, j), "threads");
}

static double largest(const float *x, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = isfinite(x[i]) && fabs((double)x[i]) > most ? fabs((double)x[i]) : most;
    return most;
}

// What one process gives: [T,Hkv,k], O, LSE. Rows of padding stay as they are everywhere.
typedef struct expected {
    int32_t *ids;
    float *o, *lse;
    double o_scale, lse_scale; // the largest of V, and of the LSE
} expected;

static expected one_process(const job *j)
{
    const msa_shape *s = j->s;
    const int64_t kv = s->n_kv_heads, k = s->topk;
    expected e = {check_ints(s->n_q * kv * k), check_floats(s->n_q * s->n_heads * s->d_head),
                  check_floats(s->n_q * s->n_heads), largest(j->in->v, s->n_kv * kv * s->d_head), 0};
    int32_t *ids = check_ints(s->n_q * kv * k);
    void *work = check_alloc((int64_t)msa_workspace(NULL, s), 1);
    if (j->dense)
        msa_dense(s, j->in->q, j->in->k, j->in->v, e.o, e.lse, work);
    else
        msa_forward(NULL, s, j->in->q, j->in->k, j->in->v, j->in->qi, j->in->ki, NULL, ids, e.o, e.lse, NULL,
                    work);
    for (int64_t row = 0; row < s->n_q * kv; row++)
        memcpy(e.ids + row * k, ids + (row % kv * s->n_q + row / kv) * k, (size_t)k * sizeof *ids);
    e.lse_scale = largest(e.lse, s->n_q * s->n_heads);
    return e;
}

static void check_bytes(check_case *c, const job *j, bool keys, int ranks)
{
    for (int kind = 0; kind < TRAFFIC_N_KINDS; kind++)
        check_true(c, j->model[keys][kind] == j->sent[kind],
                   "%d ranks, %s: the model says %.0f bytes, %.0f were sent", ranks,
                   traffic_name((traffic_kind)kind), j->model[keys][kind], j->sent[kind]);
}

// With u = 2^-24: partial O_c and LSE L_c = L - x_c were rounded once, the latter to u |L_c|, which moves the weight
// w_c = exp(-x_c) by that part of itself. As sum w_c x_c, an entropy, is at most log R, the LSE moves by u (|L| + log R), and O
// by twice that times the largest of V. Roundings of O, of LSE and of what they are compared with come on top.
static void compare(check_case *c, const job *j, const expected *e, int ranks, bool same_bits)
{
    const msa_shape *s = j->s;
    const int64_t heads = s->n_heads, d = s->d_head, kv = s->n_kv_heads, k = s->topk;
    const double u = 0x1p-24, moved = e->lse_scale + log(ranks), lse_off = u * (moved + 2 * e->lse_scale),
                 o_off = e->o_scale * u * (3 + 2 * moved);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        const int64_t q0 = seq.q0, rows = seq.n_q;
        if (rows == 0)
            continue;
        if (!j->dense)
            check_same(c, "ids", e->ids + q0 * kv * k, j->ids + q0 * kv * k, (size_t)(rows * kv * k) * 4);
        if (same_bits) {
            check_same(c, "o", e->o + q0 * heads * d, j->o + q0 * heads * d, (size_t)(rows * heads * d) * 4);
            check_same(c, "lse", e->lse + q0 * heads, j->lse + q0 * heads, (size_t)(rows * heads) * 4);
            continue;
        }
        const void *mark = check_mark();
        check_tensor(c, "o", (verdict_dims){rows, heads, d},
                     check_widen(e->o + q0 * heads * d, rows * heads * d), j->o + q0 * heads * d,
                     (verdict_budget){0, o_off, NULL});
        check_tensor(c, "lse", (verdict_dims){1, rows, heads}, check_widen(e->lse + q0 * heads, rows * heads),
                     j->lse + q0 * heads, (verdict_budget){0, lse_off, NULL});
        check_release(mark);
    }
    check_bytes(c, j, j->way == parallel_pass_kv, ranks);
}

static job new_job(const msa_shape *s, const inputs *in, bool dense)
{
    return (job){.s = s,
                 .keys = {.s = s, .k = in->k, .v = in->v, .ki = in->ki},
                 .in = in,
                 .ops = &msa_ref_ops,
                 .traffic = parallel_traffic,
                 .dense = dense,
                 .ids = check_ints(s->n_q * s->n_kv_heads * s->topk),
                 .o = check_floats(s->n_q * s->n_heads * s->d_head),
                 .lse = check_floats(s->n_q * s->n_heads)};
}

static const int some_ranks[] = {1, 2, 3, 4, 7, 8};

static void all_ways(check_case *c, const msa_shape *s, inputs_pattern pattern, uint64_t salt)
{
    const void *mark = check_mark();
    inputs in;
    if (!inputs_new(&in, s, pattern, check_seed(salt)))
        return;
    for (int dense = 0; dense < 2; dense++) {
        job j = new_job(s, &in, dense);
        const expected e = one_process(&j);
        for (size_t r = 0; r < sizeof some_ranks / sizeof *some_ranks; r++) {
            j.way = parallel_pass_q;
            run_job(c, &j, some_ranks[r]);
            compare(c, &j, &e, some_ranks[r], some_ranks[r] == 1);
            if ((j.screens = !dense)) {
                run_job(c, &j, some_ranks[r]);
                compare(c, &j, &e, some_ranks[r], some_ranks[r] == 1);
                check_true(c, j.open <= j.screened, "%lld of %lld blocks settled", (long long)j.open,
                           (long long)j.screened);
            }
            j.screens = false;
            j.way = parallel_pass_kv;
            run_job(c, &j, some_ranks[r]);
            compare(c, &j, &e, some_ranks[r], true);
        }
    }
    inputs_free(&in);
    check_release(mark);
}

static void equal_to_one_process(void)
{
    static const inputs_pattern patterns[] = {INPUTS_NORMAL, INPUTS_PEAKED, INPUTS_TIES, INPUTS_CONSTANT};
    for (int n = 0; n < inputs_n_all_shapes; n++) {
        char name[INPUTS_NAME];
        inputs_shape_name(&inputs_shapes[n], name);
        check_case c = check_begin("1, 2, 3, 4, 7 and 8 ranks equal one process: %s", name);
        for (size_t p = 0; p < (n < inputs_n_shapes || tap_full() ? 4 : 1); p++)
            all_ways(&c, &inputs_shapes[n], patterns[p], (uint64_t)(8 * n) + p);
        check_end(&c);
    }
}

// Owners of many blocks rule most of them out, by 8-bit keys or by products in float32; of a block that they leave open the score
// is that of one process. Some keys are not finite, or so large and small that products in float32 are not what they say.
static void owners_screen(void)
{
    const msa_shape s = {.n_q = 70,
                         .n_kv = 4096,
                         .n_heads = 2,
                         .n_kv_heads = 2,
                         .d_head = 8,
                         .d_index = 64,
                         .block = 8,
                         .topk = 5};
    static const char *const names[] = {"normal keys", "ties", "keys that are huge, tiny and not finite"};
    static const inputs_pattern patterns[] = {INPUTS_NORMAL, INPUTS_TIES, INPUTS_NORMAL};
    static const float extremes[] = {1e-30f, 1e19f, NAN, INFINITY, 1e-42f};
    msa_ops multiplies = msa_ref_ops;
    multiplies.gemm = msa_fast_ops.gemm;
    for (int p = 0; p < 3; p++) {
        check_case c = check_begin("owners settle what bounds leave open: %s", names[p]);
        inputs in;
        if (!inputs_new(&in, &s, patterns[p], check_seed(90 + (uint64_t)p)))
            continue;
        for (int64_t j = 0; p == 2 && j < s.n_kv; j += 5)
            for (int d = 0; d < 64; d++)
                in.ki[j * 64 + d] *=
                    j % 1000 == 0 ? 5e37f : extremes[j / 5 % 97 % 5]; // sums overflow on their way
        job j = new_job(&s, &in, false);
        const expected e = one_process(&j);
        j.way = parallel_pass_q;
        for (int ranks = 1; ranks <= 8; ranks += ranks < 3 ? 1 : 5)
            for (int by = 0; by < 2; by++) {
                j.screens = by == 0;
                j.ops = by == 0 ? &msa_ref_ops : &multiplies;
                run_job(&c, &j, ranks);
                compare(&c, &j, &e, ranks, ranks == 1);
                check_true(&c, j.screened > 0 && (p > 0 || 2 * j.open < j.screened),
                           "%lld of %lld blocks settled", (long long)j.open, (long long)j.screened);
            }
        inputs_free(&in);
        check_end(&c);
    }
    check_release(NULL);
}

// ---- Pages, and kernels of the fast path ----------------------------------------------------------------------

static void over_pages(void)
{
    check_case c =
        check_begin("... keys that lie in pages of a third of a block, a block or two; an empty place");
    for (int n = 0; n < inputs_n_shapes; n++)
        for (int page = 0; page < 3; page++) {
            msa_shape s = inputs_shapes[n];
            const int size = page == 2 ? 2 * s.block : page == 1 && s.block % 2 == 0 ? s.block / 2 : s.block;
            const void *mark = check_mark();
            inputs in;
            paging g;
            if (!paging_possible(&s) || !inputs_new(&in, &s, INPUTS_NORMAL, check_seed((uint64_t)n)))
                continue;
            if (paging_new(&g, &s, &in, size, check_seed(3), false)) {
                job j = new_job(&s, &in, false);
                const expected e = one_process(&j);
                int32_t len_q[8];
                const msa_shape padded = deal_padded(&g.s, &g.p, len_q);
                j.s = &padded;
                j.keys = (deal_source){.s = &g.s, .p = &g.p, .k = g.k, .v = g.v, .ki = g.ki};
                j.way = page ? parallel_pass_q : parallel_pass_kv;
                run_job(&c, &j, 3);
                compare(&c, &j, &e, 3, !page);
            }
            paging_free(&g), inputs_free(&in);
            check_release(mark);
        }
    check_end(&c);
}

// Keys that a rank has to ask for: rows that lie side by side, which it gets in a room of its own.
typedef struct asked {
    deal_source of; // in memory
    int *times;     // [3][rows] how often each was asked for
    int64_t rows;
} asked;

static const float *answer(void *files, deal_array which, int64_t row, int64_t n, float *room)
{
    asked *a = files;
    const msa_shape *s = a->of.s;
    const size_t width = (size_t)(which == DEAL_KI ? s->d_index : s->n_kv_heads * s->d_head);
    for (int64_t i = row; i < row + n; i++)
        a->times[which * a->rows + i]++;
    memcpy(room, deal_tokens(&a->of, which, row, n, NULL), (size_t)n * width * sizeof *room);
    return room;
}

static void ask_for(check_case *c, const msa_shape *s, asked *a, int ranks)
{
    memset(a->times, 0, (size_t)(3 * a->rows) * sizeof *a->times);
    for (int rank = 0; rank < ranks; rank++) {
        deal_shard there, found;
        const deal_source files = {.s = a->of.s, .p = a->of.p, .read = answer, .files = a, .index = true};
        check_true(c, deal_new_shard(&there, rank, ranks, s, &a->of), "keys in memory");
        check_true(c, deal_new_shard(&found, rank, ranks, s, &files), "keys elsewhere");
        const size_t tokens = (size_t)there.n_pages * (size_t)s->block;
        check_same(c, "k", there.k, found.k, tokens * (size_t)(s->n_kv_heads * s->d_head) * 4);
        check_same(c, "v", there.v, found.v, tokens * (size_t)(s->n_kv_heads * s->d_head) * 4);
        check_same(c, "ki", there.ki, found.ki, tokens * (size_t)s->d_index * 4);
        deal_free_shard(&there), deal_free_shard(&found);
    }
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const request at = get_request(a->of.s, a->of.p, n);
        for (int64_t j = 0; j < at.seq.n_kv && msa_get_seq(s, n).n_q > 0; j++)
            for (int which = 0; which < 3; which++)
                a->times[which * a->rows + key_row(&at, j)]--;
    }
    for (int64_t i = 0; i < 3 * a->rows; i++)
        check_true(c, a->times[i] == 0, "row %lld was asked for %d times too often", (long long)(i % a->rows),
                   a->times[i]);
}

// Each row that some query may see, once, by its owner, and none besides.
static void asks_for_own_keys(void)
{
    check_case c = check_begin("keys that are not in memory: each rank asks for its own, once");
    for (int n = 0; n < inputs_n_all_shapes; n++) {
        const msa_shape *s = &inputs_shapes[n];
        const void *mark = check_mark();
        inputs in;
        paging g;
        if (!inputs_new(&in, s, INPUTS_NORMAL, check_seed((uint64_t)n)))
            continue;
        asked a = {{.s = s, .k = in.k, .v = in.v, .ki = in.ki}, check_ints(3 * s->n_kv), s->n_kv};
        ask_for(&c, s, &a, some_ranks[(size_t)n % 6]);
        const int half = s->block % 2 == 0 ? s->block / 2 : s->block;
        if (paging_possible(s) && paging_new(&g, s, &in, n % 2 ? half : 2 * s->block, check_seed(3), false)) {
            int32_t len_q[8];
            const msa_shape padded = deal_padded(&g.s, &g.p, len_q);
            const int64_t rows = g.p.n_pages * g.p.page;
            asked paged = {
                {.s = &g.s, .p = &g.p, .k = g.k, .v = g.v, .ki = g.ki}, check_ints(3 * rows), rows};
            ask_for(&c, &padded, &paged, some_ranks[(size_t)n % 6]);
            paging_free(&g);
        }
        inputs_free(&in);
        check_release(mark);
    }
    check_end(&c);
}

static void by_fast_kernels(void)
{
    check_case c = check_begin("... by the kernels of the fast path, judged as those are");
    for (int n = 0; n < inputs_first_padded; n++) {
        const msa_shape *s = &inputs_shapes[n];
        const void *mark = check_mark();
        inputs in;
        if (!inputs_new(&in, s, INPUTS_DYADIC, check_seed((uint64_t)n)))
            continue;
        job j = new_job(s, &in, false);
        const expected e = one_process(&j);
        j.ops = &msa_fast_ops;
        for (int kv = 0; kv < 2; kv++) {
            j.way = kv ? parallel_pass_kv : parallel_pass_q;
            run_job(&c, &j, 3);
            check_same(&c, "ids", e.ids, j.ids, (size_t)(s->n_q * s->n_kv_heads * s->topk) * 4);
            check_tensor(&c, "o", verdict_dims_of(s, ARRAY_O),
                         check_widen(e.o, s->n_q * s->n_heads * s->d_head), j.o,
                         verdict_float32(s, &in, ARRAY_O, 0));
        }
        inputs_free(&in);
        check_release(mark);
    }
    check_end(&c);
}

// ---- Devices -------------------------------------------------------------------------------------------------

#ifdef HAS_DEVICES
// On the engine, by chunks of five queries of a home: steps are one chunk, others overlap.
static msa_status on_engine(transport *t, parallel_call *c, bool queries)
{
    wire w;
    return wire_engine(&w, t) ? device_attend(&w, c, queries, 5) : MSA_ERR_DEVICE;
}

static msa_status device_queries(transport *t, parallel_call *c)
{
    return on_engine(t, c, true);
}

static msa_status device_keys(transport *t, parallel_call *c)
{
    return on_engine(t, c, false);
}

// What bf16 does to a head of O: the weights are rounded, and so is the part of each of `ranks` owners.
// noise[c] = 2^-9 sqrt(sum_j (p_j v_j[c])^2 + sum_r (sum of p_j v_j[c] over the keys of r)^2)
static void noise_of_head(const job *j, const msa_seq *seq, int n, int64_t i, int h, int ranks,
                          const int32_t *ids, double *noise)
{
    const msa_shape *s = j->s;
    const int64_t d = s->d_head, group = s->n_heads / s->n_kv_heads, width = s->n_kv_heads * d,
                  at = position(seq, i);
    const float *q = j->in->q + ((seq->q0 + i) * s->n_heads + h) * d;
    double sum = 0, *weight = calloc((size_t)(at + 1), sizeof *weight),
           *part = calloc((size_t)(ranks * d), sizeof *part);
    for (int a = 0; a < s->topk && ids[a] >= 0; a++)
        for (int64_t key = ids[a] * s->block; key <= at && key < (ids[a] + 1) * s->block; key++) {
            double x = 0;
            for (int64_t b = 0; b < d; b++)
                x += (double)q[b] * (double)j->in->k[(seq->kv0 + key) * width + h / group * d + b];
            sum += weight[key] = exp(x / sqrt((double)d) - (double)j->lse[(seq->q0 + i) * s->n_heads + h]);
        }
    memset(noise, 0, (size_t)d * sizeof *noise);
    for (int64_t key = 0; key <= at; key++)
        for (int64_t b = 0; b < d && weight[key] > 0; b++) {
            const double x =
                weight[key] / sum * (double)j->in->v[(seq->kv0 + key) * width + h / group * d + b];
            noise[b] += x * x;
            part[deal_owner(ranks, n, key / s->block) * d + b] += x;
        }
    for (int64_t b = 0; b < d; b++) {
        for (int r = 0; r < ranks; r++)
            noise[b] += part[r * d + b] * part[r * d + b];
        noise[b] = NOISE_ROUNDING * sqrt(noise[b]);
    }
    free(weight), free(part);
}

static double *noise_of_parts(const job *j, int ranks)
{
    const msa_shape *s = j->s;
    double *noise = check_alloc(s->n_q * s->n_heads * s->d_head, sizeof *noise);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int64_t i = 0; i < seq.n_q; i++)
            for (int h = 0; h < s->n_heads; h++)
                noise_of_head(j, &seq, n, i, h, ranks,
                              j->ids +
                                  ((seq.q0 + i) * s->n_kv_heads + h / (s->n_heads / s->n_kv_heads)) * s->topk,
                              noise + ((seq.q0 + i) * s->n_heads + h) * s->d_head);
    }
    return noise;
}

// The ids as all kernels' are judged, O and LSE given them.
static void judge_on_device(check_case *c, job *j, int ranks, bool keys)
{
    const msa_shape *s = j->s;
    const int64_t kv = s->n_kv_heads, k = s->topk, n_o = s->n_q * s->n_heads * s->d_head,
                  n_lse = s->n_q * s->n_heads;
    int32_t *ids = check_ints(s->n_q * kv * k);
    float *o = check_floats(n_o), *lse = check_floats(n_lse);
    for (int64_t row = 0; row < s->n_q * kv; row++)
        memcpy(ids + (row % kv * s->n_q + row / kv) * k, j->ids + row * k, (size_t)k * sizeof *ids);
    pad_outputs(s, ids, j->o, j->lse);
    bool ok;
    const verdict_selection found =
        verdict_ids(s, j->in->qi, j->in->ki, ids, inputs_is_exact(j->in->pattern) ? 0 : 1, 0.001, &ok);
    check_true(c, ok && found.pass, "%d ranks: %lld ids wrong, %lld ties", ranks, (long long)found.n_wrong,
               (long long)found.n_ties);
    if (msa_sparse(s, j->in->q, j->in->k, j->in->v, ids, o, lse,
                   check_alloc((int64_t)msa_workspace(NULL, s), 1)) != MSA_OK) {
        check_true(c, false, "%d ranks: ids that are none", ranks);
        return;
    }
    verdict_budget budget = verdict_float32(s, j->in, ARRAY_O, 0);
    double *by_block = check_alloc(n_o, sizeof *by_block);
    if (keys)
        check_true(c, noise_of_rounding(s, j->in->q, j->in->k, j->in->v, ids, true, by_block), "noise");
    budget.noise = keys ? by_block : noise_of_parts(j, ranks);
    check_tensor(c, "o", verdict_dims_of(s, ARRAY_O), check_widen(o, n_o), j->o, budget);
    check_tensor(c, "lse", verdict_dims_of(s, ARRAY_LSE), check_widen(lse, n_lse), j->lse,
                 verdict_float32(s, j->in, ARRAY_LSE, 0));
}

static void device_ways(check_case *c, const msa_shape *s, inputs_pattern pattern, uint64_t salt,
                        const msa_ops *ops)
{
    const void *mark = check_mark();
    inputs drawn, in;
    if (!inputs_new(&drawn, s, pattern, check_seed(salt)) || !inputs_rounded(&in, &drawn, s))
        return;
    job j = new_job(s, &in, false);
    j.ops = ops, j.traffic = device_traffic; // bf16 travels
    const int64_t n = s->n_q * s->n_kv_heads * s->topk;
    int32_t *first = check_ints(n);
    const bool all = s->n_q <= MSA_STEP_QUERIES || tap_full(); // else one number of ranks
    bool is_first = true;
    const size_t one = salt % 5;
    for (size_t r = all ? 0 : one; r < (all ? 5 : one + 1); r++)
        for (int way = 0; way < (r == one || tap_full() ? 3 : 1); way++) { // the last: owners screen
            const bool keys = way == 1;
            const void *inner = check_mark();
            memset(j.ids, 0xff, (size_t)n * sizeof *first);
            j.way = keys ? device_keys : device_queries;
            j.screens = way == 2;
            run_job(c, &j, some_ranks[r]);
            judge_on_device(c, &j, some_ranks[r], keys);
            check_bytes(c, &j, keys, some_ranks[r]);
            if (is_first)
                memcpy(first, j.ids, (size_t)n * sizeof *first);
            is_first = false;
            check_same(c, "ids of any number of ranks, by every way", first, j.ids,
                       (size_t)n * sizeof *first);
            check_release(inner);
        }
    inputs_free(&drawn), inputs_free(&in);
    check_release(mark);
}

static void on_devices(void)
{
    static const inputs_pattern patterns[] = {INPUTS_NORMAL, INPUTS_TIES, INPUTS_PEAKED};
    msa_ops ops;
    if (!table_ops("simt", &ops)) {
        tap_skip("kernels of cuda/ on ranks", "no C++ compiler was here");
        return;
    }
    for (int n = inputs_n_shapes; n < inputs_n_all_shapes; n++) {
        char name[INPUTS_NAME];
        inputs_shape_name(&inputs_shapes[n], name);
        check_case c = check_begin("kernels of cuda/ on ranks: %s", name);
        for (size_t p = 0; p < (tap_full() ? 3 : 1); p++)
            device_ways(&c, &inputs_shapes[n], patterns[(p + (size_t)n) % 3], (uint64_t)n, &ops);
        check_end(&c);
    }
}

// Owners of many blocks rule most of them out there, too, by codes of keys that were rounded to bf16 first.
static void devices_screen(void)
{
    const msa_shape s = {.n_q = 9,
                         .n_kv = 4000,
                         .n_heads = 4,
                         .n_kv_heads = 2,
                         .d_head = 64,
                         .d_index = 64,
                         .block = 32,
                         .topk = 5};
    static const inputs_pattern patterns[] = {INPUTS_NORMAL, INPUTS_TIES};
    msa_ops ops;
    for (int p = 0; p < 2 && table_ops("simt", &ops); p++) {
        check_case c =
            check_begin("kernels of cuda/ settle what 8 bits leave open: %s", p ? "ties" : "normal keys");
        inputs in;
        if (!inputs_new(&in, &s, patterns[p], check_seed(70 + (uint64_t)p)))
            continue;
        job j = new_job(&s, &in, false);
        const int64_t n = s.n_q * s.n_kv_heads * s.topk;
        int32_t *all = check_ints(n);
        j.ops = &ops, j.traffic = device_traffic, j.way = device_queries;
        for (int ranks = 1; ranks <= 3; ranks += 2) {
            j.screens = false;
            run_job(&c, &j, ranks);
            memcpy(all, j.ids, (size_t)n * sizeof *all);
            check_true(&c, j.screened == 0, "blocks were screened without being asked for");
            j.screens = true;
            run_job(&c, &j, ranks);
            check_same(&c, "ids", all, j.ids, (size_t)n * sizeof *all);
            check_bytes(&c, &j, false, ranks);
            check_true(&c, j.open > 0 && j.screened > 1000 && (p > 0 || 2 * j.open < j.screened),
                       "%lld of %lld blocks settled", (long long)j.open, (long long)j.screened);
        }
        inputs_free(&in);
        check_end(&c);
        check_release(NULL);
    }
}
#else
static void devices_screen(void)
{
}

static void on_devices(void)
{
    tap_skip("kernels of cuda/ on ranks", "no C++ compiler was here");
}
#endif

// ---- Gradients ------------------------------------------------------------------------------------------------

enum { DQ, DK, DV, DQI, DKI, GRADIENTS };
static const array_id gradient_of[GRADIENTS] = {ARRAY_DQ, ARRAY_DK, ARRAY_DV, ARRAY_DQI, ARRAY_DKI};

typedef struct gradient_job {
    const msa_shape *s;
    const inputs *in;
    bool full;
    const int32_t *ids; // [T,Hkv,k]
    const float *o, *lse;
    float *found[GRADIENTS], *collected[GRADIENTS]; // the latter of keys
    double loss, sent[TRAFFIC_N_KINDS], model[TRAFFIC_N_KINDS];
} gradient_job;

// Own pages to where the tokens lie in the call: ranks write different ones.
static void place_pages(const deal_shard *keys, int heads, int d, const float *pages, float *to)
{
    const msa_shape *s = &keys->s;
    for (int n = 0; n < msa_n_seqs(s); n++)
        for (int64_t at = keys->first[n]; at < keys->first[n + 1]; at++) {
            const msa_seq seq = msa_get_seq(s, n);
            const int64_t b = deal_block(keys->rank, keys->ranks, n, at - keys->first[n]);
            for (int64_t t = 0; t < s->block && b * s->block + t < seq.n_kv; t++)
                for (int r = 0; r < heads; r++)
                    memcpy(to + ((seq.kv0 + b * s->block + t) * heads + r) * d,
                           pages + ((keys->page[at] * heads + r) * s->block + t) * d, (size_t)d * 4);
        }
}

static void run_gradients(transport *t, void *context)
{
    gradient_job *j = context;
    const msa_shape *s = j->s;
    const int kv = s->n_kv_heads;
    const size_t q_row = (size_t)(s->n_heads * s->d_head), qi_row = (size_t)(kv * s->d_index),
                 ids_row = (size_t)(kv * s->topk), lse_row = (size_t)s->n_heads, room = (size_t)s->n_q + 1;
    const deal_source source = {.s = s, .k = j->in->k, .v = j->in->v, .ki = j->in->ki};
    deal_shard keys;
    deal_rows rows;
    bool ok = deal_new_shard(&keys, t->rank, t->ranks, s, &source);
    ok = deal_new_rows(&rows, t->ranks, s) && ok;
    scatter(&keys);
    const size_t pages = (size_t)keys.n_pages * (size_t)s->block, width = (size_t)(kv * s->d_head);
    float *q = malloc(room * q_row * 4), *qi = malloc(room * qi_row * 4), *o = malloc(room * q_row * 4),
          *lse = malloc(room * lse_row * 4), *dout = malloc(room * q_row * 4), *dq = malloc(room * q_row * 4),
          *dqi = malloc(room * qi_row * 4), *dk = malloc(pages * width * 4), *dv = malloc(pages * width * 4),
          *dki = malloc(pages * (size_t)s->d_index * 4);
    int32_t *ids = malloc(room * ids_row * 4);
    deal_take(&rows, t->rank, q_row * 4, j->in->q, q);
    deal_take(&rows, t->rank, qi_row * 4, j->in->qi, qi);
    deal_take(&rows, t->rank, q_row * 4, j->in->dout, dout);
    deal_take(&rows, t->rank, q_row * 4, j->o, o);
    deal_take(&rows, t->rank, lse_row * 4, j->lse, lse);
    deal_take(&rows, t->rank, ids_row * 4, j->ids, ids);
    parallel_call c = {&msa_ref_ops, &keys, &rows, false, q, qi, ids, o, lse, 0, {0}};
    parallel_gradients g = {dout, 0.7, j->full, dq, dqi, dk, dv, dki, 0};
    if (!ok || parallel_backward(t, &c, &g) != MSA_OK)
        t->end(t, 1);
    pthread_mutex_lock(&summing);
    for (int kind = 0; kind < TRAFFIC_OTHER; kind++)
        j->sent[kind] += t->sent[kind];
    j->loss = g.loss;
    const traffic_call model = parallel_traffic(&c);
    traffic_backward(&model, j->model);
    pthread_mutex_unlock(&summing);
    parallel_collect(t, &rows, q_row * 4, dq, j->found[DQ]);
    parallel_collect(t, &rows, qi_row * 4, dqi, j->found[DQI]);
    place_pages(&keys, kv, s->d_head, dk, j->found[DK]);
    place_pages(&keys, kv, s->d_head, dv, j->found[DV]);
    place_pages(&keys, 1, s->d_index, dki, j->found[DKI]);
    parallel_collect_keys(t, &keys, &g, j->collected[DK], j->collected[DV], j->collected[DKI]);
    free(q), free(qi), free(o), free(lse), free(dout), free(dq), free(dqi), free(dk), free(dv), free(dki),
        free(ids);
    deal_free_rows(&rows), deal_free_shard(&keys);
}

static int64_t elements(const msa_shape *s, array_id a)
{
    const verdict_dims d = verdict_dims_of(s, a);
    return d.d0 * d.d1 * d.d2;
}

static void gradients_of(check_case *c, const msa_shape *s, inputs_pattern pattern, bool full)
{
    inputs in;
    if (!inputs_new(&in, s, pattern, check_seed(31)))
        return;
    const int64_t kv = s->n_kv_heads, k = s->topk;
    int32_t *ids = check_ints(s->n_q * kv * k), *turned = check_ints(s->n_q * kv * k);
    float *o = check_floats(s->n_q * s->n_heads * s->d_head), *lse = check_floats(s->n_q * s->n_heads),
          *wanted[GRADIENTS];
    void *work = check_alloc((int64_t)msa_workspace(NULL, s), 1);
    double loss = 0;
    msa_forward(NULL, s, in.q, in.k, in.v, in.qi, in.ki, NULL, ids, o, lse, NULL, work);
    if (full)
        msa_dense(s, in.q, in.k, in.v, o, lse, work);
    for (int64_t row = 0; row < s->n_q * kv; row++)
        memcpy(turned + row * k, ids + (row % kv * s->n_q + row / kv) * k, (size_t)k * sizeof *ids);
    gradient_job j = {.s = s, .in = &in, .full = full, .ids = turned, .o = o, .lse = lse};
    for (int a = 0; a < GRADIENTS; a++) {
        wanted[a] = check_floats(elements(s, gradient_of[a]));
        j.found[a] = check_floats(elements(s, gradient_of[a]));
        j.collected[a] = check_floats(elements(s, gradient_of[a]));
    }
    msa_backward(s, in.q, in.k, in.v, full ? NULL : ids, o, lse, in.dout, wanted[DQ], wanted[DK], wanted[DV],
                 work);
    msa_kl(s, in.q, in.k, in.qi, in.ki, full ? NULL : ids, lse, NULL, 0.7, &loss, wanted[DQI], wanted[DKI],
           work);
    for (size_t r = 0; r < sizeof some_ranks / sizeof *some_ranks; r++) {
        memset(j.sent, 0, sizeof j.sent);
        check_true(c, transport_threads(some_ranks[r], run_gradients, &j), "threads");
        for (int a = 0; a < GRADIENTS; a++)
            check_tensor(c, array_name(gradient_of[a]), verdict_dims_of(s, gradient_of[a]),
                         check_widen(wanted[a], elements(s, gradient_of[a])), j.found[a],
                         verdict_float32(s, &in, gradient_of[a], 0.7));
        for (int a = DK; a < GRADIENTS; a++)
            if (a != DQI)
                check_same(c, "where they are collected", j.found[a], j.collected[a],
                           (size_t)elements(s, gradient_of[a]) * 4);
        check_true(c, fabs(j.loss - loss) <= 1e-12 * (1 + loss), "loss %.15g, expected %.15g", j.loss, loss);
        for (int kind = 0; kind < TRAFFIC_OTHER; kind++)
            check_true(c, j.model[kind] == j.sent[kind], "%s: the model says %.0f bytes, %.0f were sent",
                       traffic_name((traffic_kind)kind), j.model[kind], j.sent[kind]);
    }
    inputs_free(&in);
}

static void gradients(void)
{
    for (int n = 0; n < inputs_n_all_shapes; n += n < inputs_n_shapes || tap_full() ? 1 : 3) {
        char name[INPUTS_NAME];
        inputs_shape_name(&inputs_shapes[n], name);
        check_case c = check_begin("gradients on 1, 2, 3, 4, 7 and 8 ranks: %s", name);
        const void *mark = check_mark();
        gradients_of(&c, &inputs_shapes[n], INPUTS_NORMAL, false);
        gradients_of(&c, &inputs_shapes[n], INPUTS_PEAKED, true);
        check_release(mark);
        check_end(&c);
    }
}

// ---- The choice, balance, a million tokens ------------------------------------------------------------------------

static double moved_by(check_case *c, job *j, way_fn *way, int ranks)
{
    double sum = 0;
    j->way = way;
    run_job(c, j, ranks);
    for (int kind = 0; kind < TRAFFIC_OTHER; kind++)
        sum += j->sent[kind];
    return sum;
}

static void cheaper_way(void)
{
    check_case c = check_begin("a chunk goes the cheaper way, at every length tried");
    int queries = 0, all = 0;
    const int64_t keys = tap_full() ? 8192 : 1024;
    for (int64_t chunk = 1; chunk <= keys; chunk *= 4)
        for (int ranks = 2; ranks <= 7; ranks += 5) {
            const msa_shape s = {chunk, keys, 16, 1, 16, 16, 16, 4, 1, NULL, NULL, NULL, NULL};
            const void *mark = check_mark();
            inputs in;
            if (!inputs_new(&in, &s, INPUTS_NORMAL, check_seed((uint64_t)chunk)))
                return;
            job j = new_job(&s, &in, false);
            const double q = moved_by(&c, &j, parallel_pass_q, ranks),
                         kv = moved_by(&c, &j, parallel_pass_kv, ranks),
                         found = moved_by(&c, &j, parallel_attend, ranks);
            check_true(&c, found == fmin(q, kv), "%lld of %lld, %d ranks: %.0f of %.0f and %.0f",
                       (long long)chunk, (long long)keys, ranks, found, q, kv);
            queries += q < kv;
            all++;
            inputs_free(&in);
            check_release(mark);
        }
    check_true(&c, queries > 0 && queries < all, "both ways are taken");
    check_end(&c);
}

static void balance(void)
{
    check_case c = check_begin(
        "64K tokens: causal work of homes within 1 percent of its mean, scored keys of owners within 2");
    const msa_shape s = {65536, 65536, 4, 2, 8, 8, 128, 16, 1, NULL, NULL, NULL, NULL};
    for (size_t r = 1; r < sizeof some_ranks / sizeof *some_ranks; r++) {
        const int ranks = some_ranks[r];
        deal_rows rows;
        if (!deal_new_rows(&rows, ranks, &s))
            return;
        double most = 0, all = 0, most_scored = 0, all_scored = 0;
        for (int rank = 0; rank < ranks; rank++) {
            double work = 0, scored = 0;
            for (int64_t x = rows.first[rank]; x < rows.first[rank + 1]; x++) {
                work += (double)(rows.at[x] + 1);
                check_true(&c, deal_home(ranks, 0, rows.row[x], s.n_q) == rank, "row %d has two homes",
                           rows.row[x]);
            }
            for (int64_t i = 0; i < s.n_q; i += s.block)
                scored += (double)deal_blocks_before(rank, ranks, 0, i / s.block);
            most = fmax(most, work), all += work;
            most_scored = fmax(most_scored, scored), all_scored += scored;
        }
        check_true(&c, all == 65536.0 * 65537 / 2, "every row has a home");
        check_true(&c, most * ranks / all < 1.01 && most_scored * ranks / all_scored < 1.02,
                   "%d ranks: %g and %g", ranks, most * ranks / all, most_scored * ranks / all_scored);
        deal_free_rows(&rows);
    }
    check_end(&c);
}

// A step at 2^20 tokens with the heads of M3, over 4 ranks. The 8192 blocks are 64 pages, each many times: so whole blocks
// tie, on all ranks.
enum { MILLION = 1 << 20, DISTINCT = 64 };
typedef struct million {
    msa_shape s;
    const int32_t *table;
    float *q, *qi, *k, *v, *ki, *o, *lse;
    int32_t *ids;
    double sent[4];
} million;

static void run_million(transport *t, void *context)
{
    million *m = context;
    deal_rows rows;
    int64_t first[2] = {0, deal_blocks_before(t->rank, t->ranks, 0, 8192)};
    int32_t *page = malloc((size_t)first[1] * sizeof *page);
    if (!page || !deal_new_rows(&rows, t->ranks, &m->s))
        exit(1);
    for (int64_t j = 0; j < first[1]; j++)
        page[j] = m->table[deal_block(t->rank, t->ranks, 0, j)];
    const deal_shard shard = {t->rank, t->ranks, m->s, first, DISTINCT, page, m->k, m->v, m->ki, {0}};
    parallel_call c = {&msa_ref_ops, &shard, &rows, false, m->q, m->qi, m->ids, m->o, m->lse, 0, {0}};
    if (parallel_attend(t, &c) != MSA_OK)
        exit(1);
    for (int kind = 0; kind < TRAFFIC_OTHER; kind++)
        m->sent[t->rank] += t->sent[kind];
    free(page);
    deal_free_rows(&rows);
}

static void a_million(void)
{
    check_case c =
        check_begin("a token at 2^20, 64 and 4 heads of 128, over 4 ranks: below 200 KB a rank; ties by id");
    million m = {.s = {1, MILLION, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL}};
    const msa_shape few = {1, DISTINCT * 128, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
    const int64_t page = 4 * 128 * 128;
    inputs in;
    if (!inputs_new(&in, &few, INPUTS_NORMAL, check_seed(20)))
        return;
    // Pages of the ranks have the heads outside, those of the library the tokens.
    m.q = in.q, m.qi = in.qi, m.ki = in.ki, m.k = check_floats(DISTINCT * page),
    m.v = check_floats(DISTINCT * page);
    for (int64_t p = 0; p < DISTINCT; p++)
        for (int64_t r = 0; r < 4; r++)
            for (int64_t j = 0; j < 128; j++) {
                memcpy(m.k + p * page + (r * 128 + j) * 128, in.k + p * page + (j * 4 + r) * 128, 512);
                memcpy(m.v + p * page + (r * 128 + j) * 128, in.v + p * page + (j * 4 + r) * 128, 512);
            }
    int32_t *table = check_ints(8192), lens = MILLION, *ids = check_ints(64);
    inputs_rng rng = {check_seed(21)};
    for (int b = 0; b < 8192; b++)
        table[b] = (int32_t)inputs_below(&rng, DISTINCT);
    m.table = table, m.ids = check_ints(64), m.o = check_floats(8192), m.lse = check_floats(64);
    check_true(&c, transport_threads(4, run_million, &m), "threads");

    const msa_pages pages = {.n_pages = DISTINCT, .table = table, .lens = &lens};
    float *o = check_floats(8192), *lse = check_floats(64);
    check_true(&c,
               msa_decode(&m.s, &pages, in.q, in.k, in.v, in.qi, in.ki, ids, o, lse,
                          check_alloc((int64_t)msa_workspace(NULL, &m.s), 1)) == MSA_OK,
               "decode");
    check_same(&c, "ids", ids, m.ids, 64 * sizeof *ids);
    const double u = 0x1p-24, moved = largest(lse, 64) + log(4);
    check_tensor(&c, "o", (verdict_dims){1, 64, 128}, check_widen(o, 8192), m.o,
                 (verdict_budget){0, largest(in.v, DISTINCT * page) * u * (3 + 2 * moved), NULL});
    for (int r = 0; r < 4; r++)
        check_true(&c, m.sent[r] > 0 && m.sent[r] < 200e3, "rank %d sent %.0f bytes", r, m.sent[r]);
    const traffic_call model = {&m.s, 4, 1, MILLION, 4, 4, false, 0};
    check_true(&c, m.sent[0] <= traffic_most_q(&model) / traffic_expected_pairs(&model) * 12 + 1,
               "home: %.0f, model %.0f", m.sent[0], traffic_most_q(&model));
    printf("# the home of the token sent %.0f bytes, the others %.0f, %.0f and %.0f\n", m.sent[0], m.sent[1],
           m.sent[2], m.sent[3]);
    inputs_free(&in);
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    equal_to_one_process();
    owners_screen();
    over_pages();
    asks_for_own_keys();
    by_fast_kernels();
    on_devices();
    devices_screen();
    gradients();
    cheaper_way();
    balance();
    a_million();
    return check_done();
}
