/**
 * @file test_screened.c
 * @brief index/screened on the CPU engine: its codes are the reference's, its maxima those of the integers, its ids
 *        those of index/fused, whatever the keys are, and what it settles is about as much as the reference does.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../cuda/host/msa_cuda.h"
#include "../ref/judge/copy8.h"
#include "../ref/judge/paging.h"
#include "../ref/table/table.h"
#include "support/check.h"
#include "support/index_keys.h"

#ifdef HAVE_SIMT

/* ---- A call ---------------------------------------------------------------------------------------------------------- */

typedef struct problem {
    const msa_shape *s;
    uint16_t *qi, *ki;
    float *q, *k; // the same numbers
    msa_index8 copy;
} problem;

// Memory of a device starts at a multiple of 128 bytes.
static void *aligned(int64_t bytes)
{
    return (void *)(((uintptr_t)check_alloc(bytes + 128, 1) + 127) / 128 * 128);
}

static void round_all(float *x, uint16_t *bits, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        bits[i] = msa_bf16_bits(x[i]);
        x[i] = msa_bf16(x[i]);
    }
}

// A call's tensors in bf16, and the reference's copy of its keys.
static problem pose(const msa_shape *s, kind keys, kind queries, uint64_t seed)
{
    inputs_rng rng = {seed};
    const int64_t n_q = s->n_q * s->n_kv_heads * s->d_index, n_kv = s->n_kv * s->d_index,
                  blocks = msa_n_seqs(s) * msa_n_blocks(s);
    problem p = {s,
                 aligned(2 * n_q),
                 aligned(2 * n_kv),
                 check_floats(n_q),
                 check_floats(n_kv),
                 {aligned(n_kv), check_floats(blocks), check_floats(blocks), check_floats(blocks),
                  check_floats(blocks)}};
    fill(keys, p.k, s->n_kv, s->d_index, s->block, &rng);
    fill(queries, p.q, s->n_q * s->n_kv_heads, s->d_index, s->block, &rng);
    round_all(p.q, p.qi, n_q);
    round_all(p.k, p.ki, n_kv);
    msa_index8_keys(s, NULL, p.k, NULL, &p.copy, check_doubles(s->d_index));
    return p;
}

// The ids, NULL if it did not run; *work receives the workspace.
static int32_t *ids_of(check_case *c, const char *name, const problem *p, const msa_index8 *copy,
                       msa_screening *done, char **work)
{
    msa_plan plan;
    int32_t *ids = check_ints(p->s->n_kv_heads * p->s->n_q * p->s->topk);
    const msa_arrays a = {.qi = p->qi, .ki = p->ki, .ids = ids, .index8 = copy, .screening = done};
    msa_status status = msa_plan_make(&plan, msa_engine(), name, p->s, MSA_F32);
    char *own = aligned((int64_t)plan.workspace);
    if (status == MSA_OK)
        status = msa_plan_run(&plan, &a, own, NULL);
    check_true(c, status == MSA_OK, "%s: %s", name, msa_engine()->trouble());
    if (work)
        *work = own;
    return status == MSA_OK ? ids : NULL;
}

static const int32_t packed_q[] = {0, 7, 7, 20}, packed_kv[] = {0, 41, 175, 330};
static const msa_shape shapes[] = {
    {60, 60, 2, 2, 4, 64, 32, 2, 1, NULL, NULL, NULL, NULL},
    {9, 1100, 2, 2, 4, 128, 32, 5, 1, NULL, NULL, NULL, NULL}, // a prefix; the last block is not complete
    {70, 1500, 4, 4, 4, 64, 64, 6, 1, NULL, NULL, NULL, NULL}, // two CTAs
    {6, 2900, 2, 1, 4, 128, 128, 16, 1, NULL, NULL, NULL, NULL},
    {30, 330, 2, 2, 4, 128, 64, 1, 1, NULL, NULL, NULL, NULL},         // nothing to choose
    {30, 330, 2, 2, 4, 64, 32, 12, 1, NULL, NULL, NULL, NULL},         // all are taken
    {20, 330, 4, 2, 4, 64, 32, 3, 3, packed_q, packed_kv, NULL, NULL}, // codes that start at 64 of 128 bytes
};
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

static void set_mode(int n)
{
    msa_engine_mode(n % 4, n % 3, check_seed(9000 + (uint64_t)n));
    msa_tune(msa_engine(), MSA_TUNE_screen_rows, n % 2 ? 65536 : 33);
    msa_engine_sms(n % 5 ? 132 : 1);
}

/* ---- Codes ------------------------------------------------------------------------------------------------------------ */

// x, or the next float: norms are rounded up from sums in another order.
static bool is_near(float x, float y)
{
    return x == y || nextafterf(x, y) == y;
}

// The kernel's copy is what its workspace begins with.
static void same_copy(check_case *c, const problem *p, const char *work)
{
    const msa_shape *s = p->s;
    const int64_t complete = s->n_kv / s->block, blocks = (msa_n_blocks(s) * 4 + 127) / 128 * 128;
    const char *numbers = work + (s->n_kv * s->d_index + 127) / 128 * 128;
    const float *scale = (const float *)(const void *)numbers,
                *reach = (const float *)(const void *)(numbers + blocks),
                *error = (const float *)(const void *)(numbers + 2 * blocks);
    check_same(c, "codes", p->copy.codes, work, (size_t)(complete * s->block * s->d_index));
    check_same(c, "scales", p->copy.scale, scale, (size_t)complete * sizeof *scale);
    for (int64_t b = 0; b < complete; b++)
        check_true(c, is_near(p->copy.reach[b], reach[b]) && is_near(p->copy.error[b], error[b]),
                   "block %lld: reach %a and error %a, found %a and %a", (long long)b,
                   (double)p->copy.reach[b], (double)p->copy.error[b], (double)reach[b], (double)error[b]);
}

static void codes(void)
{
    check_case c = check_begin("codes and scales are the reference's, bit for bit");
    for (int k = 0; k < N_KINDS; k++)
        for (int n = k % 2; n < 4; n += 2) {
            msa_shape s = shapes[n];
            s.topk = 1; // codes are made, and nothing is chosen
            const problem p = pose(&s, (kind)k, NORMAL, check_seed((uint64_t)(100 * k + n)));
            char *work;
            if (ids_of(&c, "index/screened", &p, NULL, NULL, &work))
                same_copy(&c, &p, work);
            check_release(NULL);
        }
    check_end(&c);
}

/* ---- The copy of a prompt ------------------------------------------------------------------------------------------ */

// Room that holds what nobody may touch.
static msa_index8 spoiled_room(const msa_shape *s, const msa_pages *p)
{
    msa_index8 copy = copy8_room(s, p);
    memset(copy.codes, 0x55, (size_t)copy8_codes(s, p));
    memset(copy.scale, 0x55, 4 * (size_t)copy8_numbers(s, p) * sizeof *copy.scale);
    return copy;
}

// The engine's copy against the reference's, of keys of this kind; those of a paged call fill all pages.
static void same_as_reference(check_case *c, const msa_shape *s, const msa_pages *p, kind keys, uint64_t seed)
{
    const int64_t n = copy8_codes(s, p);
    float *k = check_floats(n);
    uint16_t *ki = aligned(2 * n);
    inputs_rng rng = {seed};
    fill(keys, k, n / s->d_index, s->d_index, s->block, &rng);
    round_all(k, ki, n);
    msa_index8 right = spoiled_room(s, p), found = spoiled_room(s, p);
    int32_t status = MSA_OK;
    msa_arrays a = {.ki = ki, .index8 = &found, .len_kv = s->len_kv, .status = &status};
    if (p)
        a.pages = *p;
    check_true(c, msa_index8_keys(s, p, k, NULL, &right, check_doubles(s->d_index)) == MSA_OK,
               "the reference makes it");
    const msa_status made = msa_index8_make(msa_engine(), s, &a, NULL);
    check_true(c, made == MSA_OK && status == MSA_OK, "%s: %s", msa_strerror(made), msa_engine()->trouble());
    check_true(c, copy8_same(s, p, &right, &found),
               "%s keys, di %d, block %d, page %d: the same copy, and no more", kind_name[keys], s->d_index,
               s->block, p ? p->page : 0);
    copy8_free(&right);
    copy8_free(&found);
    check_release(NULL);
}

static void prompts(void)
{
    static const int32_t queries[] = {0, 1, 2, 3},
                         few[] = {1, 64, 155}; // lengths, two of them less than the room
    check_case c = check_begin("a prompt's copy, made on the device, is the reference's");
    for (int n = 0; n < N_SHAPES; n++) {
        msa_shape s = shapes[n];
        for (int k = n % 5; k < N_KINDS; k += 5)
            set_mode(k + n),
                same_as_reference(&c, &s, NULL, (kind)k, check_seed((uint64_t)(1100 + 20 * n + k)));
        s.n_q = 3, s.cu_q = queries, s.len_kv = few;
        if (s.cu_kv)
            same_as_reference(&c, &s, NULL, NORMAL, check_seed(1300));
    }
    check_end(&c);
}

static void prompts_in_pages(void)
{
    static const int32_t queries[] = {0, 2, 4, 6}, keys[] = {0, 41, 175, 330};
    check_case c = check_begin("the same of keys in pages: half a block, a block, two");
    for (int n = 0; n < 12; n++) {
        const int block = n % 2 ? 64 : 32, page[] = {block / 2, block, 2 * block};
        const msa_shape s = {6, 330, 4, 2, 4, n / 6 ? 128 : 64, block, 3, 3, queries, keys, NULL, NULL};
        paging g;
        set_mode(n);
        check_true(&c, paging_layout(&g, &s, page[n / 2 % 3], n % 3, check_seed((uint64_t)(1400 + n))),
                   "pages");
        same_as_reference(&c, &g.s, &g.p, n % 4 ? (kind)(n % N_KINDS) : NORMAL,
                          check_seed((uint64_t)(1500 + n)));
        paging_free(&g);
    }
    check_end(&c);
}

static void refusals(void)
{
    check_case c = check_begin("what a prompt's copy cannot be made of is refused");
    msa_shape s = shapes[0], other = shapes[0];
    const problem p = pose(&s, NORMAL, NORMAL, 1);
    const int32_t lens[] = {60}, table[] = {0, 1};
    const msa_device *engine = msa_engine();
    msa_arrays a = {.ki = p.ki, .index8 = &p.copy};
    check_true(&c, msa_index8_make(NULL, &s, &a, NULL) == MSA_ERR_DEVICE, "no device");
    check_true(&c, msa_index8_make(engine, NULL, &a, NULL) == MSA_ERR_NULL, "no shape");
    check_true(&c, msa_index8_make(engine, &s, NULL, NULL) == MSA_ERR_NULL, "no arrays");
    other.d_index = 32;
    check_true(&c, msa_index8_make(engine, &other, &a, NULL) == MSA_ERR_UNSUPPORTED, "di 32");
    other = s, other.block = 0;
    check_true(&c, msa_index8_make(engine, &other, &a, NULL) != MSA_OK, "no blocks");
    other = s, other.len_kv = lens;
    check_true(&c, msa_index8_make(engine, &other, &a, NULL) == MSA_ERR_NULL, "lengths of the shape alone");
    a.pages = (msa_pages){.n_pages = 2, .table = table};
    check_true(&c, msa_index8_make(engine, &s, &a, NULL) == MSA_ERR_NULL, "pages without lengths");
    a.pages = (msa_pages){.n_pages = 2, .table = table, .lens = lens, .page = 24};
    check_true(&c, msa_index8_make(engine, &s, &a, NULL) == MSA_ERR_UNSUPPORTED, "pages of 24 tokens");
    a = (msa_arrays){.ki = p.ki};
    check_true(&c, msa_index8_make(engine, &s, &a, NULL) == MSA_ERR_NULL, "nowhere to put it");
    const msa_index8 incomplete = {p.copy.codes, p.copy.scale, NULL, p.copy.error, NULL};
    a.index8 = &incomplete;
    check_true(&c, msa_index8_make(engine, &s, &a, NULL) == MSA_ERR_NULL, "no place for its reach");
    check_end(&c);
    check_release(NULL);
}

/* ---- Maxima -------------------------------------------------------------------------------------------------------------- */

// A copy that claims to be exact: then a block's two bounds are one number, its maximum of integers, and those are
// settled that are not below the (k-1)-th.
static void maxima(void)
{
    check_case c = check_begin("of an exact copy as many blocks are settled as the integers say");
    for (int k = 0; k < 3; k++)
        for (int n = 1; n < 4; n++) {
            static const kind of[] = {NORMAL, DYADIC, TIED};
            const msa_shape *s = &shapes[n];
            const problem p = pose(s, of[k], NORMAL, check_seed((uint64_t)(3000 + 10 * k + n)));
            for (int64_t b = 0; b < msa_n_blocks(s); b++)
                p.copy.scale[b] = 1, p.copy.reach[b] = p.copy.error[b] = 0;
            msa_screening done;
            int64_t right = 0;
            for (int64_t row = 0; row < s->n_q * s->n_kv_heads; row++) {
                const int64_t local = (s->n_kv - s->n_q + row / s->n_kv_heads) / s->block;
                bool open[64];
                if (local > s->topk - 1)
                    right += open_by_integers(s, p.q + row * s->d_index, 1, p.copy.codes, local, open);
            }
            set_mode(k + n);
            ids_of(&c, "index/screened", &p, &p.copy, &done, NULL);
            check_true(&c, done.settled == right, "%s keys: %lld settled, expected %lld of %lld",
                       kind_name[of[k]], (long long)done.settled, (long long)right, (long long)done.blocks);
            check_release(NULL);
        }
    check_end(&c);
}

/* ---- Ids ------------------------------------------------------------------------------------------------------------------ */

static void same_ids(check_case *c, const problem *p, const char *name, msa_screening *done)
{
    const size_t bytes = (size_t)(p->s->n_kv_heads * p->s->n_q * p->s->topk) * sizeof(int32_t);
    msa_screening made = {0};
    const int32_t *right = ids_of(c, "index/fused", p, NULL, NULL, NULL),
                  *found = ids_of(c, "index/screened", p, NULL, &made, NULL),
                  *again = ids_of(c, "index/screened", p, &p->copy, done, NULL);
    if (!right || !found || !again)
        return;
    check_same(c, name, right, found, bytes);
    check_same(c, "with a copy that was made before", right, again, bytes);
    check_true(c, made.rows == done->rows && made.blocks == done->blocks && made.settled <= made.blocks,
               "%s: the same work with a copy", name);
}

static void ids(void)
{
    for (int k = 0; k < N_KINDS; k++) {
        check_case c = check_begin("ids of %s keys are those of index/fused", kind_name[k]);
        for (int n = tap_full() ? 0 : k % 5; n < N_SHAPES; n += tap_full() ? 1 : 5)
            for (int q = 0; q < (tap_full() ? 2 : 1); q++) {
                char name[INPUTS_NAME];
                inputs_shape_name(&shapes[n], name);
                set_mode(k + n + q);
                const bool alike = tap_full() ? q : (k + n) % 2;
                const problem p = pose(&shapes[n], (kind)k, alike ? (kind)k : NORMAL,
                                       check_seed((uint64_t)(5000 + 100 * k + 2 * n + q)));
                msa_screening done = {0};
                same_ids(&c, &p, name, &done);
                check_release(NULL);
            }
        check_end(&c);
    }
}

// More candidates than a list holds: of equal keys all are, and each row goes another way.
static void long_lists(void)
{
    check_case c = check_begin("rows with too many candidates fall back, and have the same ids");
    for (int parts = 1; parts <= 2; parts++) { // whose lists are full; by default as the seed says
        if (!tap_full() && parts % 2 != (int)(check_seed(6001) % 2))
            continue;
        const msa_shape s = {3, 32 * 530 * parts, 4, 2, 4, 64, 32, 6, 1, NULL, NULL, NULL, NULL};
        const problem p = pose(&s, CLOSE, NORMAL, check_seed(6000));
        msa_screening done = {0};
        set_mode(1);
        msa_engine_sms(parts);
        same_ids(&c, &p, kind_name[CLOSE], &done);
        check_true(&c, done.rows == 6 && done.fell_back == 6, "%lld of %lld rows fell back",
                   (long long)done.fell_back, (long long)done.rows);
        check_release(NULL);
    }
    check_end(&c);
}

// The bounds are the reference's but for what float32 rounds: so are the candidates.
static void few_candidates(void)
{
    const msa_shape s = {4, 128 * 80, 4, 4, 4, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("of 10K Gaussian keys it settles about as many blocks as the reference");
    const problem p = pose(&s, NORMAL, NORMAL, check_seed(7000));
    msa_screening done = {0}, right = {0};
    int32_t *wanted = check_ints(s.n_kv_heads * s.n_q * s.topk);
    msa_index8_select(&s, p.q, 1, p.k, &p.copy, wanted, &right,
                      check_alloc((int64_t)msa_index8_workspace(&s), 1));
    ids_of(&c, "index/screened", &p, NULL, &done, NULL);
    check_true(&c,
               done.rows == right.rows && done.blocks == right.blocks && done.settled >= right.settled &&
                   (double)done.settled < 1.01 * (double)right.settled + 2,
               "%lld settled, the reference %lld, of %lld", (long long)done.settled, (long long)right.settled,
               (long long)right.blocks);
    check_end(&c);
    tap_note("%lld of %lld blocks", (long long)done.settled, (long long)done.blocks);
    check_release(NULL);
}

// Through the table, from memory of the host: the copy goes along, and what was done comes back.
static void from_the_host(void)
{
    check_case c = check_begin("a call from the host brings a copy, and hears what was done");
    const msa_kernel *screened = table_find("index/screened", "simt"),
                     *fused = table_find("index/fused", "simt");
    const msa_shape *s = &shapes[N_SHAPES - 1]; // packed
    const problem p = pose(s, NORMAL, NORMAL, check_seed(8000));
    const int64_t n = s->n_kv_heads * s->n_q * s->topk;
    for (int b = 0; b < msa_n_seqs(s) * msa_n_blocks(s); b++)
        p.copy.error[b] = INFINITY; // nothing is known
    msa_screening done = {0}, made = {0};
    msa_arrays a = {.qi = p.q, .ki = p.k, .ids = check_ints(n), .index8 = &p.copy, .screening = &done},
               own = a;
    own.ids = check_ints(n), own.index8 = NULL, own.screening = &made;
    msa_arrays right = {.qi = p.q, .ki = p.k, .ids = check_ints(n)};
    check_true(&c,
               screened && fused && screened->run(s, &a, NULL) == MSA_OK &&
                   screened->run(s, &own, NULL) == MSA_OK && fused->run(s, &right, NULL) == MSA_OK,
               "all run");
    check_same(&c, "ids by a copy", right.ids, a.ids, (size_t)n * sizeof(int32_t));
    check_same(&c, "ids without", right.ids, own.ids, (size_t)n * sizeof(int32_t));
    check_true(&c,
               done.rows > 0 && done.rows == made.rows && done.settled == done.blocks &&
                   made.settled < made.blocks,
               "%lld of %lld settled, and %lld", (long long)done.settled, (long long)done.blocks,
               (long long)made.settled);
    check_end(&c);
    check_release(NULL);
}

/* ---- A layer ---------------------------------------------------------------------------------------------------------- */

// What a kernel of prefill makes of p, and what it says that it did.
typedef struct layer {
    msa_arrays a;
    msa_screening done;
} layer;

static layer run_layer(check_case *c, const char *name, const problem *p, const float *q, const float *kv,
                       const msa_index8 *copy)
{
    const msa_shape *s = p->s;
    const msa_kernel *k = table_find(name, "simt");
    layer to = {.done = {.rows = -1}};
    to.a =
        (msa_arrays){.q = q, .k = kv, .v = kv, .qi = p->q, .ki = p->k, .index8 = copy, .screening = &to.done};
    to.a.ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
    to.a.o = check_floats(s->n_q * s->n_heads * s->d_head);
    to.a.lse = check_floats(s->n_q * s->n_heads);
    const msa_status status = k ? k->run(s, &to.a, NULL) : MSA_ERR_UNSUPPORTED;
    check_true(c, status == MSA_OK, "%s: %s", name, msa_engine()->trouble());
    return to;
}

static void same_layer(check_case *c, const msa_shape *s, const char *what, const layer *x, const layer *y)
{
    check_same(c, what, x->a.ids, y->a.ids, (size_t)(s->n_kv_heads * s->n_q * s->topk) * sizeof(int32_t));
    check_same(c, what, x->a.o, y->a.o, (size_t)(s->n_q * s->n_heads * s->d_head) * sizeof(float));
    check_same(c, what, x->a.lse, y->a.lse, (size_t)(s->n_q * s->n_heads) * sizeof(float));
}

// A copy changes nothing but what the index reads, and is left alone where blocks are too few for it to pay.
static void layers(void)
{
    static const char *const names[] = {"prefill/union", "prefill/kv_outer", "prefill/auto"};
    static const msa_shape of[] = {
        {9, 430, 4, 2, 64, 128, 32, 4, 1, NULL, NULL, NULL, NULL},
        {20, 330, 4, 2, 64, 64, 32, 3, 3, packed_q, packed_kv, NULL, NULL},
    };
    for (int n = 0; n < 6; n++) {
        const msa_shape *s = &of[n % 2];
        if (!tap_full() && n / 2 % 2 != n % 2)
            continue;
        check_case c = check_begin("%s: with an 8-bit copy the same ids and outputs", names[n / 2]);
        inputs_rng rng = {check_seed(8100 + (uint64_t)n)};
        const problem p = pose(s, n % 2 ? OUTLIERS : NORMAL, NORMAL, check_seed(8200 + (uint64_t)n));
        float *q = check_floats(s->n_q * s->n_heads * s->d_head),
              *kv = check_floats(s->n_kv * s->n_kv_heads * s->d_head);
        fill(NORMAL, q, s->n_q * s->n_heads, s->d_head, s->block, &rng);
        fill(NORMAL, kv, s->n_kv * s->n_kv_heads, s->d_head, s->block, &rng);
        set_mode(n);
        const layer full = run_layer(&c, names[n / 2], &p, q, kv, NULL),
                    screened = run_layer(&c, names[n / 2], &p, q, kv, &p.copy);
        msa_tune(msa_engine(), MSA_TUNE_screen_from, (int)msa_n_blocks(s) + 1);
        const layer few = run_layer(&c, names[n / 2], &p, q, kv, &p.copy);
        msa_tune(msa_engine(), MSA_TUNE_screen_from, 1);
        same_layer(&c, s, "screened", &full, &screened);
        same_layer(&c, s, "too few blocks", &full, &few);
        check_true(&c,
                   full.done.rows == 0 && few.done.rows == 0 && screened.done.rows > 0 &&
                       screened.done.settled < screened.done.blocks,
                   "rows that were screened: %lld without a copy, %lld with one, %lld of few blocks",
                   (long long)full.done.rows, (long long)screened.done.rows, (long long)few.done.rows);
        check_end(&c);
        check_release(NULL);
    }
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    from_the_host();
    layers();
    codes();
    prompts();
    prompts_in_pages();
    refusals();
    maxima();
    ids();
    long_lists();
    few_candidates();
    return check_done();
}

#else

int main(void)
{
    tap_skip("index/screened", "no C++ compiler here");
    return tap_done();
}

#endif
