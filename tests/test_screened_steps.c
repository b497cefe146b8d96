/**
 * @file test_screened_steps.c
 * @brief A step of generation that decode/swapped screens by an 8-bit copy of the index keys, on the CPU engine: its ids
 *        and outputs are those of the same kernel without a copy, bit for bit, what it settles is what the integers say,
 *        and the copy in the pages stays the reference's as tokens come and go.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../cuda/host/msa_cuda.h"
#include "../cuda/simt/counts.h"
#include "../ref/judge/paging.h"
#include "../ref/table/table.h"
#include "support/check.h"
#include "support/index_keys.h"

#ifdef HAVE_SIMT

/* ---- A batch of requests --------------------------------------------------------------------------------------------- */

#define MOST_REQUESTS 6

typedef struct batch {
    msa_shape s;
    int32_t cu[2][MOST_REQUESTS + 1];
    inputs in; // rounded to bf16
} batch;

// n requests of n_q queries each.
static void pose(batch *b, const msa_shape *sizes, int n, int n_q, const int *length, kind keys, kind queries,
                 uint64_t seed)
{
    inputs drawn;
    inputs_rng rng = {seed};
    b->s = *sizes;
    for (int r = 0; r <= n; r++) {
        b->cu[0][r] = r * n_q;
        b->cu[1][r] = r ? b->cu[1][r - 1] + length[r - 1] : 0;
    }
    b->s.n_q = b->cu[0][n], b->s.n_kv = b->cu[1][n], b->s.n_seqs = n;
    b->s.cu_q = b->cu[0], b->s.cu_kv = b->cu[1];
    if (!inputs_new(&drawn, &b->s, INPUTS_NORMAL, seed))
        return;
    fill(keys, drawn.ki, b->s.n_kv, b->s.d_index, b->s.block, &rng);
    fill(queries, drawn.qi, b->s.n_q * b->s.n_kv_heads, b->s.d_index, b->s.block, &rng);
    inputs_rounded(&b->in, &drawn, &b->s);
    inputs_free(&drawn);
}

static msa_index8 copy_room(int64_t codes, int64_t numbers)
{
    return (msa_index8){check_alloc(codes, 1), check_floats(numbers), check_floats(numbers),
                        check_floats(numbers), check_floats(numbers)};
}

static int64_t piece_of(const msa_shape *s, const paging *g)
{
    return g->p.page < s->block ? g->p.page : s->block;
}

// The reference's, of keys in pages.
static msa_index8 paged_copy(const paging *g)
{
    const int64_t tokens = g->p.n_pages * g->p.page;
    const msa_index8 copy = copy_room(tokens * g->s.d_index, tokens / piece_of(&g->s, g));
    msa_index8_keys(&g->s, &g->p, g->ki, NULL, &copy, check_doubles(g->s.d_index));
    return copy;
}
static msa_index8 flat_copy(const batch *b)
{
    const msa_index8 copy =
        copy_room(b->s.n_kv * b->s.d_index, (int64_t)msa_n_seqs(&b->s) * msa_n_blocks(&b->s));
    msa_index8_keys(&b->s, NULL, b->in.ki, NULL, &copy, check_doubles(b->s.d_index));
    return copy;
}

typedef struct step {
    msa_arrays a;
    msa_screening done;
} step;

// decode/swapped on keys in pages or, g NULL, one after the other.
static void run(check_case *c, const batch *b, const paging *g, const msa_index8 *copy, step *to)
{
    const msa_shape *s = g ? &g->s : &b->s;
    *to = (step){.done = {.rows = -1}};
    to->a = (msa_arrays){.q = b->in.q,
                         .k = g ? g->k : b->in.k,
                         .v = g ? g->v : b->in.v,
                         .qi = b->in.qi,
                         .ki = g ? g->ki : b->in.ki,
                         .ids = check_ints(s->n_kv_heads * s->n_q * s->topk),
                         .o = check_floats(s->n_q * s->n_heads * s->d_head),
                         .lse = check_floats(s->n_q * s->n_heads),
                         .index8 = copy,
                         .screening = &to->done};
    if (g)
        to->a.pages = g->p;
    const msa_status status = table_find("decode/swapped", "simt")->run(s, &to->a, NULL);
    check_true(c, status == MSA_OK, "%s", msa_engine()->trouble());
}

static void same(check_case *c, const msa_shape *s, const char *what, const step *x, const step *y)
{
    check_same(c, what, x->a.ids, y->a.ids, (size_t)(s->n_kv_heads * s->n_q * s->topk) * sizeof(int32_t));
    check_same(c, what, x->a.o, y->a.o, (size_t)(s->n_q * s->n_heads * s->d_head) * sizeof(float));
    check_same(c, what, x->a.lse, y->a.lse, (size_t)(s->n_q * s->n_heads) * sizeof(float));
}

static void set_mode(int n)
{
    msa_engine_mode(n % 4, n % 3, check_seed(9000 + (uint64_t)n));
    msa_engine_sms(n % 3 == 0 ? 132 : n % 3 == 1 ? 1 : 7);
}

/* ---- Ids and outputs -------------------------------------------------------------------------------------------------- */

static const struct {
    msa_shape sizes;
    int n, n_q, length[MOST_REQUESTS], page;
} cases[] = {
    {{1, 1, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL}, 3, 1, {700, 33, 290}, 32},
    {{1, 1, 4, 4, 64, 128, 64, 4, 1, NULL, NULL, NULL, NULL}, 1, 1, {2300}, 128},     // blocks share a page
    {{1, 1, 2, 1, 64, 128, 64, 5, 1, NULL, NULL, NULL, NULL}, 2, 3, {1025, 640}, 16}, // pages share a block
    {{1, 1, 4, 2, 64, 64, 128, 2, 1, NULL, NULL, NULL, NULL}, 2, 16, {900, 1160}, 128},
    {{1, 1, 5, 5, 64, 64, 32, 6, 1, NULL, NULL, NULL, NULL}, 1, 16, {420}, 32},     // two tiles of 64 rows
    {{1, 1, 4, 2, 64, 64, 32, 1, 1, NULL, NULL, NULL, NULL}, 1, 2, {300}, 32},      // nothing to choose
    {{1, 1, 4, 2, 64, 128, 32, 9, 1, NULL, NULL, NULL, NULL}, 2, 2, {130, 33}, 64}, // all are taken
};
#define N_CASES ((int)(sizeof cases / sizeof *cases))

static void one_case(check_case *c, int n, kind keys, kind queries, uint64_t seed)
{
    batch b;
    paging g;
    step full, flat, paged, alone;
    pose(&b, &cases[n].sizes, cases[n].n, cases[n].n_q, cases[n].length, keys, queries, seed);
    if (!paging_new(&g, &b.s, &b.in, cases[n].page, seed, false))
        return;
    const msa_index8 copies[2] = {flat_copy(&b), paged_copy(&g)};
    run(c, &b, NULL, NULL, &full);
    run(c, &b, NULL, &copies[0], &flat);
    run(c, &b, &g, &copies[1], &paged);
    check_true(c, simt_counts()->launches <= 3, "%d launches", (int)simt_counts()->launches);
    msa_tune(msa_engine(), MSA_TUNE_screen_from, 1 << 20);
    run(c, &b, &g, &copies[1], &alone);
    msa_tune(msa_engine(), MSA_TUNE_screen_from, 1);
    same(c, &b.s, "one after the other", &full, &flat);
    same(c, &b.s, "in pages", &alone, &paged);
    check_same(c, "ids", full.a.ids, paged.a.ids,
               (size_t)(b.s.n_kv_heads * b.s.n_q * b.s.topk) * sizeof(int32_t));
    check_true(c, full.done.rows == 0 && alone.done.rows == 0,
               "nothing is screened without a copy, or if short");
    if (b.s.topk > 1) {
        check_counts(c, &b.s, &flat.done);
        check_counts(c, &b.s, &paged.done);
    }
    paging_free(&g);
    inputs_free(&b.in);
}

static void ids(void)
{
    for (int k = 0; k < N_KINDS; k++) {
        if (!tap_full() && ((uint64_t)k + check_seed(1)) % 2) // every second kind, as the seed says
            continue;
        check_case c = check_begin("steps over %s keys are those of the full keys", kind_name[k]);
        for (int n = tap_full() ? 0 : k / 2 % N_CASES; n < N_CASES; n += tap_full() ? 1 : N_CASES) {
            set_mode(k + n);
            one_case(&c, n, (kind)k, (k + n) % 2 ? (kind)k : NORMAL, check_seed((uint64_t)(100 * k + n)));
            check_release(NULL);
        }
        check_end(&c);
    }
}

/* ---- Integers --------------------------------------------------------------------------------------------------------- */

// A copy that claims to be exact: then both bounds of a block are its maximum of integers, and nothing is chosen that is not
// among the best by them.
static void integers(void)
{
    check_case c =
        check_begin("of an exact copy those blocks are settled which the integers of two codes say");
    static const msa_shape of[] = {{1, 1, 4, 4, 64, 128, 32, 20, 1, NULL, NULL, NULL, NULL},
                                   {1, 1, 2, 1, 64, 64, 64, 3, 1, NULL, NULL, NULL, NULL},
                                   {1, 1, 7, 7, 64, 64, 32, 20, 1, NULL, NULL, NULL, NULL}};
    static const kind keys[] = {NORMAL, DYADIC, TIED};
    static const int length[] = {1999};
    for (int n = 0; n < 9; n++) {
        batch b;
        step found;
        pose(&b, &of[n % 3], 1, 1, length, keys[n / 3], NORMAL, check_seed((uint64_t)(3000 + n)));
        const msa_index8 copy = flat_copy(&b);
        for (int64_t block = 0; block < msa_n_blocks(&b.s); block++)
            copy.scale[block] = 1, copy.reach[block] = copy.error[block] = 0;
        set_mode(n);
        run(&c, &b, NULL, &copy, &found);
        const int64_t local = (b.s.n_kv - 1) / b.s.block;
        const int32_t *ids = found.a.ids;
        int64_t right = 0;
        for (int64_t row = 0; row < b.s.n_kv_heads; row++) {
            bool open[64];
            right += open_by_integers(&b.s, b.in.qi + row * b.s.d_index, 2, copy.codes, local, open);
            for (int slot = 0; slot < b.s.topk; slot++) {
                const int32_t id = ids[row * b.s.topk + slot];
                check_true(&c, id == local || (id >= 0 && id < local && open[id]),
                           "%s keys: row %lld chose block %d", kind_name[keys[n / 3]], (long long)row,
                           (int)id);
            }
        }
        check_true(&c, found.done.settled == right, "%s keys: %lld settled, expected %lld of %lld",
                   kind_name[keys[n / 3]], (long long)found.done.settled, (long long)right,
                   (long long)found.done.blocks);
        inputs_free(&b.in);
        check_release(NULL);
    }
    check_end(&c);
}

/* ---- The copy in the pages -------------------------------------------------------------------------------------------- */

static void *up(const void *x, size_t bytes)
{
    void *p = msa_engine()->alloc(bytes);
    memcpy(p, x, bytes);
    return p;
}
static void *up_bf16(const float *x, int64_t n)
{
    uint16_t *half = check_alloc(n, sizeof *half);
    for (int64_t i = 0; i < n; i++)
        half[i] = msa_bf16_bits(x[i]);
    return up(half, (size_t)n * sizeof *half);
}

// Codes and scales, bit for bit, and norms to the next float, of every piece of the requests.
static void expect_copy(check_case *c, const paging *g, const msa_index8 *right, const msa_index8 *found)
{
    const msa_shape *s = &g->s;
    const int64_t piece = piece_of(s, g), of_page = g->p.page / piece;
    for (int r = 0; r < msa_n_seqs(s); r++)
        for (int64_t j = 0; j < g->lens[r]; j += piece) {
            const int64_t width = s->n_kv / msa_n_seqs(s) / g->p.page,
                          at = g->table[r * width + j / g->p.page] * of_page + j % g->p.page / piece;
            check_same(c, "codes", right->codes + at * piece * s->d_index,
                       found->codes + at * piece * s->d_index, (size_t)(piece * s->d_index));
            check_true(c,
                       right->scale[at] == found->scale[at] &&
                           (right->reach[at] == found->reach[at] ||
                            nextafterf(right->reach[at], found->reach[at]) == found->reach[at]) &&
                           (right->error[at] == found->error[at] ||
                            nextafterf(right->error[at], found->error[at]) == found->error[at]),
                       "request %d, token %lld: scale %a, reach %a, error %a; found %a, %a, %a", r,
                       (long long)j, (double)right->scale[at], (double)right->reach[at],
                       (double)right->error[at], (double)found->scale[at], (double)found->reach[at],
                       (double)found->error[at]);
        }
}

// A step takes tokens back that had completed a block, and appends others, which complete it again or do not: the copy
// is that of the keys which are there, and the ids are those of a step without one.
static void coming_and_going(void)
{
    check_case c = check_begin("tokens come and go: the copy in the pages follows");
    static const msa_shape of[] = {{1, 1, 4, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL},
                                   {1, 1, 2, 1, 64, 128, 64, 3, 1, NULL, NULL, NULL, NULL}};
    static const int length[] = {257, 355, 319, 384}; // after the step, whose tokens are the last 3
    static const int32_t rejected[] = {4, 0, 4, 2};
    const msa_device *device = msa_engine();
    for (int n = 0; n < 6; n++) {
        const int n_q = 3, page = n / 2 == 0 ? of[n % 2].block : n / 2 == 1 ? 16 : 2 * of[n % 2].block;
        batch b;
        paging g;
        pose(&b, &of[n % 2], 4, n_q, length, NORMAL, NORMAL, check_seed((uint64_t)(4000 + n)));
        if (!paging_new(&g, &b.s, &b.in, page, check_seed((uint64_t)n), false))
            return;
        set_mode(n);
        const msa_shape *s = &g.s;
        const msa_index8 right = paged_copy(&g);
        const int64_t tokens = g.p.n_pages * g.p.page, wide = s->n_kv_heads * s->d_head,
                      numbers = tokens / piece_of(s, &g);
        // Before the step: the requests are `rejected` tokens longer than their prefix, and other keys are there.
        paging before = g;
        int32_t lens[4];
        float *ki = check_floats(tokens * s->d_index), *new_ki = check_floats(s->n_q * s->d_index);
        for (int64_t i = 0; i < tokens * s->d_index; i++)
            ki[i] = isfinite(g.ki[i]) ? g.ki[i] : 0.5f;
        for (int r = 0; r < 4; r++) {
            lens[r] = g.lens[r] - n_q + rejected[r];
            for (int j = g.lens[r] - n_q; j < g.lens[r]; j++) {
                const int64_t width = s->n_kv / 4 / page,
                              row = (int64_t)g.table[r * width + j / page] * page + j % page;
                memcpy(new_ki + (r * n_q + j - g.lens[r] + n_q) * s->d_index, g.ki + row * s->d_index,
                       (size_t)s->d_index * sizeof *ki);
                for (int d = 0; d < s->d_index; d++)
                    ki[row * s->d_index + d] = 2; // of the draft
            }
        }
        before.ki = ki, before.lens = lens, before.p.lens = lens;
        const msa_index8 old = paged_copy(&before);
        const msa_index8 copy = {up(old.codes, (size_t)(tokens * s->d_index)),
                                 up(old.scale, (size_t)numbers * 4), up(old.reach, (size_t)numbers * 4),
                                 up(old.error, (size_t)numbers * 4), NULL};
        step expected;
        run(&c, &b, &g, NULL, &expected);
        msa_plan plan;
        const size_t n_ids = (size_t)(s->n_kv_heads * s->n_q * s->topk) * 4;
        msa_arrays a = {.q = up_bf16(b.in.q, s->n_q * s->n_heads * s->d_head),
                        .k = up_bf16(g.k, tokens * wide),
                        .v = up_bf16(g.v, tokens * wide),
                        .qi = up_bf16(b.in.qi, s->n_q * s->n_kv_heads * s->d_index),
                        .ki = up_bf16(ki, tokens * s->d_index),
                        .ids = device->alloc(n_ids),
                        .o = device->alloc((size_t)(s->n_q * s->n_heads * s->d_head) * 4),
                        .lse = device->alloc((size_t)(s->n_q * s->n_heads) * 4),
                        .new_k = up_bf16(b.in.v, s->n_q * wide),
                        .new_v = up_bf16(b.in.v, s->n_q * wide),
                        .new_ki = up_bf16(new_ki, s->n_q * s->d_index),
                        .rejected = up(rejected, sizeof rejected),
                        .index8 = &copy,
                        .pages = g.p};
        check_true(&c, msa_plan_make(&plan, device, "decode/swapped", s, MSA_F32) == MSA_OK, "a plan");
        void *work = device->alloc(plan.workspace);
        const msa_status ran = msa_plan_run(&plan, &a, work, NULL);
        check_true(&c, ran == MSA_OK, "%s: %s", msa_strerror(ran), device->trouble());
        check_same(&c, "ids", expected.a.ids, a.ids, n_ids);
        expect_copy(&c, &g, &right, &copy);
        const void *const all[] = {a.q,        a.k,        a.v,        a.qi,       a.ki,     a.ids,
                                   a.o,        a.lse,      a.new_k,    a.new_v,    a.new_ki, a.rejected,
                                   copy.codes, copy.scale, copy.reach, copy.error, work};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            device->free((void *)(uintptr_t)all[i]);
        paging_free(&g);
        inputs_free(&b.in);
        check_release(NULL);
    }
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    ids();
    integers();
    coming_and_going();
    return check_done();
}

#else

int main(void)
{
    tap_skip("steps that screen", "no C++ compiler here");
    return tap_done();
}

#endif
