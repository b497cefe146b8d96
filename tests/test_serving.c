/**
 * @file test_serving.c
 * @brief Steps of generation as a server asks for them: requests without tokens, or with fewer new ones than
 * others, sequences shorter than their buffers, pages that are no blocks, drafts that are taken back, lengths
 * and page ids out of range; on every back end.
 *
 * What is expected comes from the contiguous reference, a request at a time, without padding or pages. All
 * that must not be read is NaN.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cuda/host/msa_cuda.h"
#include "../ref/judge/paging.h"
#include "../ref/table/table.h"
#include "support/check.h"

#define MOST 6 // requests

static const struct kernel {
    const char *name, *backend;
    float tolerance; // of O, in units of the largest value; a kernel of 0 gives the reference's bits
} kernels[] = {
    {"decode/reference", "ref", 0},
    {"decode/streams", "fast", 0x1p-18f},
    {"decode/naive", "simt", 0x1p-14f},
    {"decode/split", "simt", 0x1p-14f},
    {"decode/swapped", "simt", 0x1p-7f},
    {"dense_decode/reference", "ref", 0},
    {"dense_decode/streams", "fast", 0x1p-18f},
    {"dense_decode/split", "simt", 0x1p-7f},
};
#define N_KERNELS (int)(sizeof kernels / sizeof *kernels)

static const char *device_backend(void)
{
    const char *wanted = getenv("TEST_BACKEND");
    return wanted && *wanted ? wanted : "simt";
}

// NULL where this build has none.
static const msa_kernel *find(const struct kernel *k)
{
    const char *backend = strcmp(k->backend, "simt") == 0 ? device_backend() : k->backend;
    const msa_kernel *found = table_missing(backend) ? NULL : table_find(k->name, backend);
    return found && strcmp(found->backend, backend) == 0 ? found : NULL;
}

/* ---- A padded batch and its answer --------------------------------------------------------------------- */

static const struct batch {
    msa_shape sizes; // n_q: of a request
    int n, len_q[MOST], len_kv[MOST], room[MOST];
    bool full; // no request has fewer queries than there is room for, unless it has none and no keys
} batches[] = {
    {{.n_q = 3, .n_heads = 4, .n_kv_heads = 2, .d_head = 64, .d_index = 64, .block = 32, .topk = 3},
     6,
     {3, 0, 1, 2, 3, 0},
     {200, 0, 65, 128, 3, 40},
     {210, 5, 70, 140, 7, 60},
     false},
    {{.n_q = 2, .n_heads = 3, .n_kv_heads = 1, .d_head = 64, .d_index = 128, .block = 128, .topk = 2},
     4,
     {2, 0, 2, 2},
     {385, 0, 128, 257},
     {400, 2, 130, 257},
     true},
    {{.n_q = 1, .n_heads = 2, .n_kv_heads = 2, .d_head = 64, .d_index = 64, .block = 64, .topk = 1},
     2,
     {1, 0},
     {130, 0},
     {140, 1},
     true},
    {{.n_q = 20, .n_heads = 4, .n_kv_heads = 2, .d_head = 16, .d_index = 12, .block = 8, .topk = 3},
     3,
     {20, 17, 0},
     {200, 90, 0},
     {210, 95, 21},
     false},
    {{.n_q = 18, .n_heads = 2, .n_kv_heads = 2, .d_head = 8, .d_index = 8, .block = 64, .topk = 3},
     2,
     {17, 18},
     {32900, 40},
     {33000, 50},
     false},
};
#define N_BATCHES (int)(sizeof batches / sizeof *batches)

static void make(const struct batch *b, msa_shape *s, int32_t (*cu)[MOST + 1])
{
    *s = b->sizes;
    cu[0][0] = cu[1][0] = 0;
    for (int r = 0; r < b->n; r++) {
        cu[0][r + 1] = cu[0][r] + (int32_t)b->sizes.n_q;
        cu[1][r + 1] = cu[1][r] + b->room[r];
    }
    s->n_seqs = b->n, s->cu_q = cu[0], s->cu_kv = cu[1], s->n_q = cu[0][b->n], s->n_kv = cu[1][b->n];
}

static void poison(float *x, int64_t width, int64_t first, int64_t end)
{
    for (int64_t i = first * width; i < end * width; i++)
        x[i] = NAN;
}

// Padding becomes NaN.
static void poison_padding(const msa_shape *s, inputs *in)
{
    const int64_t q = s->n_heads * s->d_head, kv = s->n_kv_heads * s->d_head, qi = s->n_kv_heads * s->d_index;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        poison(in->q, q, seq.q0 + seq.n_q, s->cu_q[r + 1]);
        poison(in->qi, qi, seq.q0 + seq.n_q, s->cu_q[r + 1]);
        poison(in->k, kv, seq.kv0 + seq.n_kv, s->cu_kv[r + 1]);
        poison(in->v, kv, seq.kv0 + seq.n_kv, s->cu_kv[r + 1]);
        poison(in->ki, s->d_index, seq.kv0 + seq.n_kv, s->cu_kv[r + 1]);
    }
}

typedef struct answer {
    int32_t *ids;
    float *o, *lse;
} answer;

static int64_t o_count(const msa_shape *s)
{
    return s->n_q * s->n_heads * s->d_head;
}
static int64_t ids_count(const msa_shape *s)
{
    return s->n_kv_heads * s->n_q * s->topk;
}

static answer padding(const msa_shape *s)
{
    answer a = {check_ints(ids_count(s)), check_floats(o_count(s)), check_floats(s->n_q * s->n_heads)};
    memset(a.ids, 0xff, (size_t)ids_count(s) * sizeof *a.ids);
    for (int64_t i = 0; i < s->n_q * s->n_heads; i++)
        a.lse[i] = -INFINITY;
    return a;
}

// Request after request, each a call of its own.
static answer expected(const msa_shape *s, const inputs *in, const float *ki, bool sparse)
{
    answer a = padding(s);
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        if (seq.n_q == 0)
            continue;
        msa_shape own = *s;
        own.n_q = seq.n_q, own.n_kv = seq.n_kv, own.n_seqs = 1;
        own.cu_q = own.cu_kv = own.len_q = own.len_kv = NULL;
        void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, &own), 1);
        const int64_t kv = seq.kv0 * s->n_kv_heads * s->d_head, q = seq.q0 * s->n_heads;
        const float *my_q = in->q + q * s->d_head, *k = in->k + kv, *v = in->v + kv;
        int32_t *ids = check_ints(ids_count(&own));
        msa_index(&own, in->qi + seq.q0 * s->n_kv_heads * s->d_index, ki + seq.kv0 * s->d_index, NULL, ids,
                  NULL, work);
        if (sparse)
            msa_sparse(&own, my_q, k, v, ids, a.o + q * s->d_head, a.lse + q, work);
        else
            msa_dense(&own, my_q, k, v, a.o + q * s->d_head, a.lse + q, work);
        const int64_t n = seq.n_q * s->topk;
        for (int g = 0; g < s->n_kv_heads && sparse; g++)
            memcpy(a.ids + (g * s->n_q + seq.q0) * s->topk, ids + g * n, (size_t)n * sizeof *ids);
    }
    return a;
}

static void expect_near(check_case *c, const char *what, const float *want, const float *found, int64_t n,
                        float allowed)
{
    int64_t bad = 0;
    while (bad < n && (want[bad] == found[bad] || fabsf(want[bad] - found[bad]) <= allowed))
        bad++;
    check_true(c, bad == n, "%s[%d]: expected %.9g, found %.9g, allowed %g", what, (int)bad,
               (double)want[bad % n], (double)found[bad % n], (double)allowed);
}

static void expect_answer(check_case *c, const char *what, const msa_shape *s, const answer *want,
                          const answer *found, float tolerance)
{
    char name[160];
    snprintf(name, sizeof name, "%s: ids", what);
    check_same(c, name, want->ids, found->ids, (size_t)ids_count(s) * sizeof *want->ids);
    float most = 0;
    for (int64_t i = 0; i < o_count(s); i++)
        most = fmaxf(most, fabsf(want->o[i]));
    snprintf(name, sizeof name, "%s: o", what);
    expect_near(c, name, want->o, found->o, o_count(s), tolerance * most);
    snprintf(name, sizeof name, "%s: lse", what);
    expect_near(c, name, want->lse, found->lse, s->n_q * s->n_heads, 64 * tolerance);
}

// How the keys come; g NULL: contiguous.
static void run_kernel(check_case *c, int which, const msa_shape *s, const paging *g, const inputs *in,
                       const answer *want, const char *how)
{
    const msa_kernel *k = find(&kernels[which]);
    const bool sparse = strncmp(kernels[which].name, "decode/", 7) == 0,
               device = kernels[which].backend[0] == 's';
    if (!k || (device && s->d_head < 64))
        return;
    const msa_pages *p = g ? &g->p : NULL;
    const float *keys = g ? g->k : in->k, *v = g ? g->v : in->v;
    answer found = padding(s);
    if (sparse)
        memset(found.ids, 0x7e, (size_t)ids_count(s) * sizeof *found.ids);
    memset(found.o, 0x7e, (size_t)o_count(s) * sizeof *found.o);
    memset(found.lse, 0x7e, (size_t)(s->n_q * s->n_heads) * sizeof *found.lse);
    void *work = check_alloc((int64_t)k->workspace(s), 1);
    msa_arrays a = inputs_arrays(in);
    a.pages = pages_of(p), a.k = keys, a.v = v, a.ki = !g ? in->ki : p->ki8 ? NULL : g->ki;
    a.ids = found.ids, a.o = found.o, a.lse = found.lse;
    const msa_status status = k->run(s, &a, work);
    const bool leaves =
        device && p && p->ki8 && strcmp(k->name, "swapped") != 0; // not every rung takes these
    char name[128];
    snprintf(name, sizeof name, "%s %s, %s", kernels[which].name, k->backend, how);
    check_true(c, status == (leaves ? MSA_ERR_UNSUPPORTED : MSA_OK), "%s: %s", name, msa_strerror(status));
    if (status == MSA_OK)
        expect_answer(c, name, s, want, &found, kernels[which].tolerance);
}

// The same pages in rows of a table that have room for so many tokens that nobody wants a copy of them.
static void widen(paging *g)
{
    const int64_t n = msa_n_seqs(&g->s), page = g->p.page, width = g->s.n_kv / n / page;
    const int64_t wide = (1 << 25) / (g->s.n_kv_heads * g->s.d_head) / page + 1;
    int32_t *table = malloc((size_t)(n * wide) * sizeof *table);
    for (int64_t i = 0; table && i < n * wide; i++)
        table[i] = i % wide < width ? g->table[i / wide * width + i % wide] : -1;
    free(g->table);
    g->p.table = g->table = table;
    g->s.n_kv = n * wide * page;
    for (int64_t r = 0; r <= n; r++)
        g->cu[n + 1 + r] = (int32_t)(r * wide * page);
}

static void padded(const struct batch *b, uint64_t seed)
{
    check_case c = check_begin(
        "a padded batch of %d requests, T=%d, blocks of %d: every kernel, contiguous and in pages of "
        "half a block, a block and two",
        b->n, (int)b->sizes.n_q, b->sizes.block);
    const void *mark = check_mark();
    msa_shape s;
    int32_t cu[2][MOST + 1];
    inputs in;
    make(b, &s, cu);
    if (!inputs_new(&in, &s, INPUTS_DYADIC, check_seed(seed)))
        return;
    s.len_q = b->len_q, s.len_kv = b->len_kv;
    poison_padding(&s, &in);
    const answer want[2] = {expected(&s, &in, in.ki, true), expected(&s, &in, in.ki, false)};
    for (int k = 0; k < N_KERNELS; k++)
        run_kernel(&c, k, &s, NULL, &in, &want[strncmp(kernels[k].name, "dense", 5) == 0], "contiguous");
    const int pages[] = {b->sizes.block / 2, b->sizes.block, 2 * b->sizes.block, 16};
    for (int a = 0; a < 8; a++) {
        paging g;
        const bool small = a % 2;
        if (!paging_new(&g, &s, &in, pages[a / 2], check_seed(seed), small))
            return;
        if (b->full)
            g.s.len_q = NULL;
        const answer rounded = expected(&s, &in, small ? g.decoded : in.ki, true);
        char how[64];
        snprintf(how, sizeof how, "pages of %d%s", pages[a / 2], small ? ", 8 bits" : "");
        for (int k = 0; k < N_KERNELS; k++)
            if (strncmp(kernels[k].name, "dense", 5) != 0)
                run_kernel(&c, k, &g.s, &g, &in, &rounded, how);
            else if (!small)
                run_kernel(&c, k, &g.s, &g, &in, &want[1], how);
        if (b->sizes.n_q > 16 && !small) {
            widen(&g);
            run_kernel(&c, 1, &g.s, &g, &in, &rounded, "a wide table");
            run_kernel(&c, 6, &g.s, &g, &in, &want[1], "a wide table");
        }
        paging_free(&g);
    }
    inputs_free(&in);
    check_end(&c);
    check_release(mark);
}

/* ---- Tokens taken back --------------------------------------------------------------------------------- */

enum { REQUESTS = 2, ROOM = 256, STEP = 3 }; // STEP: new tokens of a step
static const msa_shape small_sizes = {
    .n_heads = 2, .n_kv_heads = 1, .d_head = 64, .d_index = 64, .block = 32, .topk = 3};
static const int32_t cu_kv[] = {0, ROOM, 2 * ROOM};

// Two requests' pages, all zero at first.
typedef struct cache {
    msa_shape s;
    msa_pages p;
    int32_t cu_q[REQUESTS + 1], table[REQUESTS * ROOM / 16], lens[REQUESTS], len_q[REQUESTS];
    float *k, *v, *ki;
} cache;

enum { ROWS = REQUESTS * ROOM };

static cache *cache_new(int page)
{
    cache *a = check_alloc(1, sizeof *a);
    const int64_t kv = small_sizes.n_kv_heads * small_sizes.d_head, di = small_sizes.d_index;
    a->k = check_floats(ROWS * kv), a->v = check_floats(ROWS * kv), a->ki = check_floats(ROWS * di);
    for (int i = 0; i < ROWS / page; i++)
        a->table[i] = ROWS / page - 1 - i;
    a->p = (msa_pages){.n_pages = ROWS / page, .table = a->table, .lens = a->lens, .page = page};
    a->p.ki8 = check_alloc(ROWS * di, 1);
    a->p.scale = check_floats(ROWS / 16);
    a->s = small_sizes;
    a->s.n_seqs = REQUESTS, a->s.cu_q = a->cu_q, a->s.cu_kv = cu_kv, a->s.n_kv = ROWS, a->s.len_q = a->len_q;
    return a;
}

// So many new tokens to each request, of a step that has room for `most`; x are `most` rows a request.
static msa_status cache_append(cache *a, int most, int n0, int n1, const float *x)
{
    a->s.n_q = REQUESTS * most;
    for (int r = 0; r <= REQUESTS; r++)
        a->cu_q[r] = r * most;
    a->len_q[0] = n0, a->len_q[1] = n1;
    a->lens[0] += n0, a->lens[1] += n1;
    return msa_append(&a->s, &a->p, x, x, x, a->k, a->v, a->ki); // all are as wide
}

static void expect_same_cache(check_case *c, const char *what, const cache *want, const cache *found)
{
    const size_t n = (size_t)(ROWS * small_sizes.d_head);
    char name[160];
    const struct {
        const char *name;
        const void *want, *found;
        size_t bytes;
    } all[] = {{"k", want->k, found->k, 4 * n},
               {"v", want->v, found->v, 4 * n},
               {"ki", want->ki, found->ki, 4 * n},
               {"codes", want->p.ki8, found->p.ki8, n},
               {"scales", want->p.scale, found->p.scale, ROWS / 16 * sizeof(float)}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        snprintf(name, sizeof name, "%s: %s", what, all[i].name);
        check_same(c, name, all[i].want, all[i].found, all[i].bytes);
    }
}

static float *draw(int most, float size, inputs_rng *rng)
{
    const int64_t n = (int64_t)REQUESTS * most * small_sizes.d_head;
    float *x = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = msa_bf16(size * inputs_normal(rng));
    return x;
}

// A prefix one by one, a draft whose keys are 3e4 times as large, of which `accepted` stay, and then more.
static void take_back(check_case *c, int page, int prefix, int draft, int accepted, inputs_rng *rng)
{
    char what[96];
    snprintf(what, sizeof what, "pages of %d, %d tokens, %d of %d stay", page, prefix, accepted, draft);
    cache *with = cache_new(page), *without = cache_new(page);
    for (int t = 0; t < prefix; t++) {
        const float *x = draw(1, 1, rng);
        cache_append(with, 1, 1, t % 2, x); // the second request has half of them
        cache_append(without, 1, 1, t % 2, x);
    }
    const float *rejected = draw(draft, 3e4f, rng), *more = draw(40, 1, rng);
    const int32_t keep[] = {prefix + accepted, prefix / 2};
    cache_append(without, draft, accepted, 0, rejected);
    check_true(c, cache_append(with, draft, draft, draft - 1, rejected) == MSA_OK, "%s: append", what);
    const int32_t too_many[] = {keep[0], with->lens[1] + 1};
    check_true(c, msa_rollback(&with->s, &with->p, too_many, with->k, with->v, with->ki) == MSA_ERR_PAGES,
               "%s: more than there are", what);
    check_true(c, msa_rollback(&with->s, &with->p, keep, with->k, with->v, with->ki) == MSA_OK, "%s", what);
    memcpy(with->lens, keep, sizeof keep);
    expect_same_cache(c, what, without, with);
    cache_append(with, 40, 40, 33, more);
    cache_append(without, 40, 40, 33, more);
    expect_same_cache(c, "tokens after that", without, with);
}

static void rollback(void)
{
    static const int pages[] = {16, 32, 64, 128};
    static const int drafts[][3] = {{30, 3, 0},  {31, 1, 0}, {29, 5, 2}, {64, 16, 0},
                                    {60, 16, 4}, {5, 3, 3},  {0, 4, 0}};
    check_case c =
        check_begin("what msa_rollback takes back has never been: keys, values, 8-bit codes and scales");
    inputs_rng rng = {check_seed(60)};
    for (size_t a = 0; a < sizeof pages / sizeof *pages; a++)
        for (size_t b = 0; b < sizeof drafts / sizeof *drafts; b++) {
            const void *mark = check_mark();
            take_back(&c, pages[a], drafts[b][0], drafts[b][1], drafts[b][2], &rng);
            check_release(mark);
        }
    check_end(&c);
}

/* ---- On a device --------------------------------------------------------------------------------------- */

static const msa_device *device;
static void *held[64];
static int n_held;

static void *take(int64_t bytes)
{
    void *p = held[n_held++] = device->alloc((size_t)bytes);
    device->declare(p, (size_t)bytes, "an array");
    return p;
}
static void *up(const void *x, int64_t bytes)
{
    void *y = take(bytes);
    device->upload(y, x, (size_t)bytes);
    return y;
}
static uint16_t *halves(const float *x, int64_t n)
{
    uint16_t *half = check_alloc(n, sizeof *half);
    for (int64_t i = 0; i < n; i++)
        half[i] = msa_bf16_bits(x[i]);
    return half;
}
static uint16_t *up_bf16(const float *x, int64_t n)
{
    return up(halves(x, n), 2 * n);
}
static void release(void)
{
    while (n_held > 0)
        device->free(held[--n_held]);
    device->declare(NULL, 0, NULL);
}
static void expect_on_device(check_case *c, const char *what, const void *want, const void *there,
                             int64_t bytes)
{
    void *host = check_alloc(bytes, 1);
    device->download(host, there, (size_t)bytes);
    check_same(c, what, want, host, (size_t)bytes);
}

// A step that takes the draft of the step before back leaves the pages that msa_append() makes without it.
static void drafts_on_device(check_case *c, const char *kernel, int page, int prefix, inputs_rng *rng)
{
    const int64_t kv = small_sizes.d_head, n = ROWS * kv;
    cache *want = cache_new(page);
    for (int t = 0; t < prefix; t++)
        cache_append(want, 1, 1, 1, draw(1, 1, rng));
    const float *draft = draw(STEP, 3e4f, rng), *more = draw(STEP, 1, rng), *q = draw(2 * STEP, 1, rng);
    msa_arrays a = {.q = up_bf16(q, REQUESTS * STEP * 2 * kv),
                    .k = up_bf16(want->k, n),
                    .v = up_bf16(want->v, n),
                    .qi = up_bf16(q, REQUESTS * STEP * kv),
                    .ki = up_bf16(want->ki, n),
                    .ids = take(REQUESTS * STEP * small_sizes.topk * 4),
                    .o = take(REQUESTS * STEP * 2 * kv * 4),
                    .status = up(&(int32_t){MSA_OK}, 4),
                    .pages = want->p};
    int32_t lens[] = {prefix + STEP, prefix + STEP - 1}, len_q[] = {STEP, STEP - 1}, rejected[] = {0, 0};
    int32_t *lens_there = up(lens, sizeof lens), *len_q_there = up(len_q, sizeof len_q),
            *rejected_there = up(rejected, sizeof rejected);
    const bool sparse = kernel[1] == 'e' && kernel[2] == 'c'; // a dense step has no index keys
    a.pages.table = up(want->table, sizeof want->table), a.pages.lens = lens_there;
    a.pages.ki8 = up(want->p.ki8, n), a.pages.scale = up(want->p.scale, ROWS / 16 * 4);
    a.len_q = len_q_there, a.rejected = rejected_there;
    a.new_k = a.new_v = up_bf16(draft, REQUESTS * STEP * kv), a.new_ki = sparse ? a.new_k : NULL;
    msa_plan plan;
    want->cu_q[1] = STEP, want->cu_q[2] = 2 * STEP, want->s.n_q = REQUESTS * STEP;
    const msa_status made = msa_plan_make(&plan, device, kernel, &want->s, MSA_F32);
    void *work = take((int64_t)plan.workspace);
    msa_status ran = made == MSA_OK ? msa_plan_run(&plan, &a, work, NULL) : made;
    check_true(c, ran == MSA_OK, "%s: %s", kernel, device->trouble());

    rejected[0] = STEP, rejected[1] = STEP - 1, len_q[0] = 1, len_q[1] = STEP;
    lens[0] = prefix + 1, lens[1] = prefix + STEP;
    device->upload(rejected_there, rejected, sizeof rejected);
    device->upload(len_q_there, len_q, sizeof len_q);
    device->upload(lens_there, lens, sizeof lens);
    a.new_k = a.new_v = up_bf16(more, REQUESTS * STEP * kv), a.new_ki = sparse ? a.new_k : NULL;
    ran = msa_plan_run(&plan, &a, work, NULL);
    check_true(c, ran == MSA_OK, "%s: %s", kernel, device->trouble());
    cache_append(want, STEP, 1, STEP, more);
    char what[96];
    snprintf(what, sizeof what, "%s, pages of %d, %d tokens", kernel, page, prefix);
    expect_on_device(c, what, halves(want->k, n), a.k, 2 * n);
    expect_on_device(c, what, halves(want->v, n), a.v, 2 * n);
    if (sparse) {
        expect_on_device(c, what, halves(want->ki, n), a.ki, 2 * n);
        expect_on_device(c, what, want->p.ki8, a.pages.ki8, n);
        expect_on_device(c, what, want->p.scale, a.pages.scale, ROWS / 16 * 4);
    }
    expect_on_device(c, "status", &(int32_t){MSA_OK}, a.status, 4);
    release();
}

static void device_rollback(void)
{
    check_case c = check_begin("a step takes the last one's draft back: pages as if it had never come");
    inputs_rng rng = {check_seed(61)};
    static const int cases[][2] = {{16, 30}, {32, 31}, {64, 63}, {16, 16}, {128, 95}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const void *mark = check_mark();
        drafts_on_device(&c, "decode/swapped", cases[i][0], cases[i][1], &rng);
        drafts_on_device(&c, "dense_decode/split", cases[i][0], cases[i][1], &rng);
        check_release(mark);
    }
    check_end(&c);
}

/* ---- Out of range -------------------------------------------------------------------------------------- */

// What goes wrong after the host has looked: the table, lens, len_q or len_kv of two requests of T = 2.
enum where { TABLE, LENS, LEN_Q, LEN_KV };
static const struct bad {
    enum where where;
    int at;
    int32_t value;
} bad[] = {{TABLE, 1, 1 << 20}, {TABLE, 0, -1},       {TABLE, 0, INT32_MIN}, {LENS, 0, -1},  {LENS, 0, 321},
           {LENS, 1, 0},        {LENS, 0, INT32_MAX}, {LEN_Q, 0, 3},         {LEN_Q, 1, -1}, {LEN_KV, 0, 302},
           {LEN_KV, 1, -7},     {LEN_KV, 1, 0},       {LEN_KV, 0, INT32_MIN}};

static void expect_status(check_case *c, const char *kernel, const struct bad *b, const paging *g,
                          const msa_shape *s, const inputs *in, const answer *want)
{
    const bool paged = b->where != LEN_KV, sparse = strncmp(kernel, "decode/", 7) == 0;
    const int64_t kv = s->n_kv_heads * s->d_head, rows = paged ? g->p.n_pages * g->p.page : s->n_kv;
    const int64_t n_o = o_count(s), n_ids = ids_count(s);
    msa_arrays a = {.q = up_bf16(in->q, n_o),
                    .k = up_bf16(paged ? g->k : in->k, rows * kv),
                    .v = up_bf16(paged ? g->v : in->v, rows * kv),
                    .qi = up_bf16(in->qi, s->n_q * s->n_kv_heads * s->d_index),
                    .ki = up_bf16(paged ? g->ki : in->ki, rows * s->d_index),
                    .ids = take(n_ids * 4),
                    .o = take(n_o * 4),
                    .lse = take(s->n_q * s->n_heads * 4),
                    .len_q = up(s->len_q, 8),
                    .len_kv = paged ? NULL : up(s->len_kv, 8),
                    .status = up(&(int32_t){MSA_OK}, 4)};
    if (paged) {
        a.pages = g->p;
        a.pages.table = up(g->table, g->s.n_kv / g->p.page * 4);
        a.pages.lens = up(g->lens, 8);
    }
    msa_plan plan;
    const msa_status made = msa_plan_make(&plan, device, kernel, paged ? &g->s : s, MSA_F32);
    void *work = take((int64_t)plan.workspace);
    const int32_t *const arrays[] = {a.pages.table, a.pages.lens, a.len_q, a.len_kv};
    for (int wrong = b > bad; wrong < 2; wrong++) { // once without a fault
        int32_t status;
        if (wrong)
            device->upload((int32_t *)(uintptr_t)arrays[b->where] + b->at, &b->value, sizeof b->value);
        device->fill(work, 0xff, plan.workspace);
        const msa_status ran = made == MSA_OK ? msa_plan_run(&plan, &a, work, NULL) : made;
        check_true(c, ran == MSA_OK, "%s: %s", kernel, device->trouble());
        device->download(&status, a.status, sizeof status);
        check_true(c, status == (wrong ? MSA_ERR_PAGES : MSA_OK), "%s, case %d: status %d", kernel,
                   (int)(b - bad), (int)status);
        answer found = padding(s);
        if (sparse)
            device->download(found.ids, a.ids, (size_t)n_ids * 4);
        device->download(found.o, a.o, (size_t)n_o * 4);
        device->download(found.lse, a.lse, (size_t)(s->n_q * s->n_heads) * 4);
        const int64_t other = wrong ? 1 - b->at : 0; // its rows are right; a page has no other
        const int64_t part = wrong ? n_o / 2 : n_o;
        if (!wrong || b->where != TABLE)
            expect_near(c, kernel, want[!sparse].o + other * part, found.o + other * part, part, 0x1p-5f);
        const float *idle = found.lse + (1 - other) * s->n_q / 2 * s->n_heads;
        check_true(c, !wrong || b->where == TABLE || *idle == -INFINITY,
                   "%s: a request out of range is padding", kernel);
    }
    release();
}

static void out_of_range(void)
{
    check_case c =
        check_begin("lengths and page ids that go bad on the device: a status, and nothing out of bounds");
    static const int32_t cu[2][3] = {{0, 2, 4}, {0, 301, 450}}, len[2][2] = {{2, 1}, {299, 130}};
    msa_shape s = {.n_q = 4,
                   .n_kv = 450,
                   .n_heads = 4,
                   .n_kv_heads = 2,
                   .d_head = 64,
                   .d_index = 64,
                   .block = 32,
                   .topk = 3,
                   .n_seqs = 2,
                   .cu_q = cu[0],
                   .cu_kv = cu[1]};
    inputs in;
    paging g;
    if (!inputs_new(&in, &s, INPUTS_DYADIC, check_seed(70)))
        return;
    s.len_q = len[0], s.len_kv = len[1];
    if (!paging_new(&g, &s, &in, 16, 71, false))
        return;
    const answer want[2] = {expected(&s, &in, in.ki, true), expected(&s, &in, in.ki, false)};
    for (int k = 0; k < N_KERNELS; k++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad && kernels[k].backend[0] == 's'; i++) {
            const void *mark = check_mark();
            expect_status(&c, kernels[k].name, &bad[i], &g, &s, &in, want);
            check_release(mark);
        }
    paging_free(&g);
    inputs_free(&in);
    check_end(&c);
}

// What the host can see, every back end refuses before it reads or writes anything.
static void refused(void)
{
    check_case c = check_begin("every kernel refuses lengths, pages and page sizes that are no good");
    static const int32_t cu[2][3] = {{0, 2, 4}, {0, 96, 192}};
    for (int k = 0; k < N_KERNELS; k++) {
        const msa_kernel *kernel = find(&kernels[k]);
        const struct {
            int32_t table, length, len_q;
            int page;
            msa_status wanted;
        } calls[] = {{-1, 64, 2, 32, MSA_ERR_PAGES},  {12, 64, 2, 32, MSA_ERR_PAGES},
                     {0, 97, 2, 32, MSA_ERR_PAGES},   {0, -1, 0, 32, MSA_ERR_PAGES},
                     {0, 1, 2, 32, MSA_ERR_PAGES},    {0, 0, 1, 32, MSA_ERR_PAGES},
                     {0, 64, 3, 32, MSA_ERR_SEQLENS}, {0, 64, 2, 24, MSA_ERR_SIZE},
                     {0, 64, 2, 64, MSA_ERR_SEQLENS}, {0, 64, 2, -16, MSA_ERR_SIZE}};
        for (size_t i = 0; kernel && i < sizeof calls / sizeof *calls; i++) {
            int32_t table[12] = {calls[i].table, 1, 2, 3, 4, 5}, lens[2] = {calls[i].length, 0},
                    len_q[2] = {calls[i].len_q, 0}, ids[24] = {7};
            float in = 0, o = 1;
            const msa_shape s = {.n_q = 4,
                                 .n_kv = 192,
                                 .n_heads = 2,
                                 .n_kv_heads = 1,
                                 .d_head = 64,
                                 .d_index = 64,
                                 .block = 32,
                                 .topk = 2,
                                 .n_seqs = 2,
                                 .cu_q = cu[0],
                                 .cu_kv = cu[1],
                                 .len_q = len_q};
            const msa_pages p = {.n_pages = 12, .table = table, .lens = lens, .page = calls[i].page};
            const msa_arrays a = {
                .pages = p, .q = &in, .k = &in, .v = &in, .qi = &in, .ki = &in, .ids = ids, .o = &o};
            const msa_status status = kernel->run(&s, &a, &o);
            check_true(&c, status == calls[i].wanted && o == 1 && ids[0] == 7, "%s %s, call %d: %s",
                       kernels[k].name, kernel->backend, (int)i, msa_strerror(status));
        }
    }
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    for (int b = 0; b < N_BATCHES; b++)
        padded(&batches[b], (uint64_t)b);
    rollback();
    refused();
    device = table_missing(device_backend()) ? NULL : table_device(device_backend());
    if (device) {
        device_rollback();
        out_of_range();
    } else
        tap_skip("drafts and bad lengths on a device", "this build has none");
    return check_done();
}
