/**
 * @file test_index8.c
 * @brief The selection from 8-bit index keys: no score outside its bounds, and the ids of the full keys, whatever the
 *        numbers are.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../ref/fast/amx_kernels.h"
#include "../ref/judge/paging.h"
#include "support/check.h"
#include "support/index_keys.h"

/* ---- Sizes ------------------------------------------------------------------------------------------------------------ */

static const int32_t packed_q[] = {0, 7, 7, 20}, packed_kv[] = {0, 40, 175, 330};
static const int32_t padded_q[] = {0, 9, 30}, padded_kv[] = {0, 200, 400}, some_q[] = {4, 21},
                     some_kv[] = {150, 187};
static const msa_shape shapes[] = {
    {60, 60, 2, 2, 4, 64, 4, 4, 1, NULL, NULL, NULL, NULL},
    {9, 1100, 2, 2, 4, 128, 16, 5, 1, NULL, NULL, NULL, NULL}, // a prefix; the last block is not complete
    {3, 2900, 2, 1, 4, 64, 256, 3, 1, NULL, NULL, NULL, NULL},
    {5, 900, 2, 2, 4, 96, 32, 6, 1, NULL, NULL, NULL, NULL}, // not rotated
    {5, 200, 2, 1, 4, 1, 8, 4, 1, NULL, NULL, NULL, NULL},
    {6, 300, 2, 2, 4, 2, 16, 3, 1, NULL, NULL, NULL, NULL},
    {4, 260, 2, 1, 4, 33, 20, 4, 1, NULL, NULL, NULL, NULL},
    {30, 40, 2, 2, 4, 32, 1, 7, 1, NULL, NULL, NULL, NULL},    // blocks of one key
    {30, 150, 2, 2, 4, 16, 16, 1, 1, NULL, NULL, NULL, NULL},  // nothing to choose
    {30, 150, 2, 2, 4, 16, 16, 12, 1, NULL, NULL, NULL, NULL}, // all are taken
    {20, 330, 4, 2, 4, 64, 16, 3, 3, packed_q, packed_kv, NULL, NULL},
    {30, 400, 4, 2, 4, 32, 16, 3, 2, padded_q, padded_kv, some_q, some_kv},
};
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

typedef struct problem {
    const msa_shape *s;
    float *qi, *ki;
    msa_index8 copy;
    double *room;
} problem;

static msa_index8 empty_copy(const msa_shape *s)
{
    const int64_t blocks = msa_n_seqs(s) * msa_n_blocks(s);
    return (msa_index8){check_alloc(s->n_kv * s->d_index, 1), check_floats(blocks), check_floats(blocks),
                        check_floats(blocks), check_floats(blocks)};
}

static problem pose(const msa_shape *s, kind keys, kind queries, uint64_t seed)
{
    inputs_rng rng = {seed};
    problem p = {s, check_floats(s->n_q * s->n_kv_heads * s->d_index), check_floats(s->n_kv * s->d_index),
                 empty_copy(s), check_doubles(s->d_index)};
    fill(keys, p.ki, s->n_kv, s->d_index, s->block, &rng);
    fill(queries, p.qi, s->n_q * s->n_kv_heads, s->d_index, s->block, &rng);
    msa_index8_keys(s, NULL, p.ki, NULL, &p.copy, p.room);
    return p;
}

/* ---- Bounds ------------------------------------------------------------------------------------------------------------ */

// A sum of products as float32 has it, in one of three orders.
static float product32(const float *x, const float *y, int d, int order)
{
    float sum = 0, part[4] = {0};
    if (order == 2) {
        for (int c = 0; c < d; c++)
            part[c % 4] += x[c] * y[c];
        return (part[0] + part[1]) + (part[2] + part[3]);
    }
    for (int c = 0; c < d; c++)
        sum += order ? x[d - 1 - c] * y[d - 1 - c] : x[c] * y[c];
    return sum;
}

static double product64(const float *x, const float *y, int d)
{
    double sum = 0;
    for (int c = 0; c < d; c++)
        sum += (double)x[c] * (double)y[c];
    return sum;
}

// Units of bounds: 1, or 1/2 where log2 d is odd.
static double unit_of(int d)
{
    int l = 0;
    while (d >> (l + 1))
        l++;
    return d == 1 << l && l % 2 ? 0.5 : 1;
}

// The scores of a block lie between its bounds: in double, and, where float32 neither overflows nor underflows, in that.
static bool encloses(const problem *p, const float *q, const float *keys, double lower, double upper)
{
    const int d = p->s->d_index;
    for (int order = -1; order < 3; order++) {
        double most = -INFINITY;
        for (int64_t j = 0; j < p->s->block; j++) {
            const float *k = keys + j * d;
            const double right = product64(q, k, d),
                         x = order < 0 ? right : (double)product32(q, k, d, order);
            if (order >= 0 && !(fabs(right) > 1e-25 && fabs(right) < 1e30))
                return true;
            most = x > most ? x : most;
        }
        most *= unit_of(d);
        if (most < lower || most > upper)
            return false;
    }
    return true;
}

// By a query's one code, and by two: the narrower of both.
static void both_bounds(const problem *p, int r, int64_t n, const float *q, double *lower, double *upper)
{
    const int d = p->s->d_index;
    int8_t *codes = check_alloc(2 * d, 1);
    double *low = check_doubles(n), *high = check_doubles(n);
    for (int n_codes = 1; n_codes < 3; n_codes++) {
        const msa_index8_query query = msa_index8_round(q, d, n_codes, codes, p->room);
        msa_index8_bounds(p->s, &p->copy, r, n, codes, &query, low, high);
        for (int64_t b = 0; b < n; b++) {
            lower[b] = n_codes == 1 ? low[b] : fmax(lower[b], low[b]);
            upper[b] = n_codes == 1 ? high[b] : fmin(upper[b], high[b]);
        }
    }
}

static void check_bounds(check_case *c, const problem *p, const char *name)
{
    const msa_shape *s = p->s;
    double *lower = check_doubles(msa_n_blocks(s)), *upper = check_doubles(msa_n_blocks(s));
    int64_t outside = -1;
    for (int b = 0; b < msa_n_seqs(s) && outside < 0; b++) {
        const msa_seq seq = msa_get_seq(s, b);
        const int64_t n = seq.n_kv / s->block;
        for (int64_t row = 0; row < seq.n_q * s->n_kv_heads && outside < 0; row++) {
            const float *q = p->qi + (seq.q0 * s->n_kv_heads + row) * s->d_index;
            both_bounds(p, b, n, q, lower, upper);
            for (int64_t k = 0; k < n && outside < 0; k++)
                if (!encloses(p, q, p->ki + (seq.kv0 + k * s->block) * s->d_index, lower[k], upper[k]))
                    outside = k;
        }
    }
    if (outside < 0)
        check_true(c, true, "%s", name);
    else
        check_true(c, false, "%s: a score of block %lld outside [%g, %g]", name, (long long)outside,
                   lower[outside], upper[outside]);
}

// A query halfway between two multiples in every channel, on the side of keys whose codes are exact: nothing of what two
// codes leave out cancels, so that a bound which forgot it would be too tight by ten times what float32 rounds.
static void between_two_codes(void)
{
    static const msa_shape s = {2, 90, 1, 1, 4, 96, 30, 2, 1, NULL, NULL, NULL, NULL}; // not rotated
    check_case c = check_begin("a query between two of its finer codes is within its bounds");
    const problem p = pose(&s, CONSTANT, CONSTANT, check_seed(150));
    for (int sign = 0; sign < 2; sign++)
        for (int64_t d = 0; d < s.d_index; d++)
            p.qi[sign * s.d_index + d] = d == 0 ? 1 : (sign ? 8000.501f : 8000.499f) / (127 * 128);
    check_bounds(&c, &p, "keys of one code");
    check_end(&c);
    check_release(NULL);
}

/* ---- Ids --------------------------------------------------------------------------------------------------------------- */

static msa_screening select_by(check_case *c, const problem *p, int n_codes, int32_t *ids, const char *name)
{
    msa_screening done = {0};
    const msa_status status = msa_index8_select(p->s, p->qi, n_codes, p->ki, &p->copy, ids, &done,
                                                check_alloc((int64_t)msa_index8_workspace(p->s), 1));
    check_true(c, status == MSA_OK, "%s: %s", name, msa_strerror(status));
    return done;
}

// sum[n_codes - 1] of what was done.
static void check_ids(check_case *c, const problem *p, const char *name, msa_screening sum[2])
{
    const msa_shape *s = p->s;
    const int64_t n = s->n_kv_heads * s->n_q * s->topk;
    int32_t *right = check_ints(n), *found = check_ints(n);
    msa_index(s, p->qi, p->ki, NULL, right, NULL, check_alloc((int64_t)msa_workspace(NULL, s), 1));
    for (int n_codes = 1; n_codes < 3; n_codes++) {
        const msa_screening done = select_by(c, p, n_codes, found, name);
        check_same(c, name, right, found, (size_t)n * sizeof *found);
        check_counts(c, s, &done);
        sum[n_codes - 1].blocks += done.blocks;
        sum[n_codes - 1].settled += done.settled;
    }
}

static void every_kind(void)
{
    for (kind k = 0; k < N_KINDS; k++) {
        msa_screening sum[2] = {{0}, {0}};
        check_case bounds = check_begin("scores of %s keys are within their bounds", kind_name[k]);
        check_case ids = check_begin("ids of %s keys are those of the full keys", kind_name[k]);
        for (int n = 0; n < N_SHAPES; n++)
            for (int q = 0; q < 2; q++) {
                const kind queries = q ? k : NORMAL;
                char name[160], shape[INPUTS_NAME];
                inputs_shape_name(&shapes[n], shape);
                snprintf(name, sizeof name, "%s, %s queries", shape, kind_name[queries]);
                const problem p =
                    pose(&shapes[n], k, queries, check_seed((uint64_t)(100 * (int)k + 2 * n + q)));
                check_bounds(&bounds, &p, name);
                check_ids(&ids, &p, name, sum);
                check_release(NULL);
            }
        check_end(&bounds);
        check_end(&ids);
        tap_note("%s: %lld of %lld blocks settled, with two codes %lld", kind_name[k],
                 (long long)sum[0].settled, (long long)sum[0].blocks, (long long)sum[1].settled);
    }
}

/* ---- The kernels of the fast path -------------------------------------------------------------------------------------- */

static const msa_kernel *kernel_of(msa_stage stage, const char *name)
{
    const msa_kernel *k = msa_fast_kernels;
    while (k->name && (k->stage != stage || strcmp(k->name, name) != 0))
        k++;
    return k;
}

static uint16_t *halves_of(const float *x, int64_t n)
{
    uint16_t *half = check_alloc(n, sizeof *half);
    for (int64_t i = 0; i < n; i++)
        half[i] = msa_bf16_bits(x[i]);
    return half;
}

static int32_t *ids_of(const char *name, const problem *p, const msa_index8 *copy, msa_screening *done)
{
    const msa_shape *s = p->s;
    const msa_kernel *k = kernel_of(MSA_STAGE_INDEX, name);
    int32_t *ids = check_ints(s->n_kv_heads * s->n_q * s->topk);
    const msa_arrays a = {.qi = halves_of(p->qi, s->n_q * s->n_kv_heads * s->d_index),
                          .ki = halves_of(p->ki, s->n_kv * s->d_index),
                          .ids = ids,
                          .index8 = copy,
                          .screening = done};
    return k->run_half(s, &a, check_alloc((int64_t)k->workspace(s), 1)) == MSA_OK ? ids : NULL;
}

/* Of float32 the reference's. */
static void same_as_reference(check_case *c, const problem *p, const char *name)
{
    const msa_shape *s = p->s;
    const msa_kernel *k = kernel_of(MSA_STAGE_INDEX, "screened");
    const int64_t n = s->n_kv_heads * s->n_q * s->topk;
    int32_t *right = check_ints(n), *found = check_ints(n);
    msa_index(s, p->qi, p->ki, NULL, right, NULL, check_alloc((int64_t)msa_workspace(NULL, s), 1));
    msa_index8_keys(s, NULL, p->ki, NULL, &p->copy, p->room);
    for (int given = 0; given < 2; given++) {
        msa_screening done = {-1, -1, -1, -1};
        const msa_arrays a = {
            .qi = p->qi, .ki = p->ki, .ids = found, .index8 = given ? &p->copy : NULL, .screening = &done};
        check_true(c, k->run(s, &a, check_alloc((int64_t)k->workspace(s), 1)) == MSA_OK,
                   "%s: index/screened runs", name);
        check_same(c, name, right, found, (size_t)n * sizeof *found);
        check_counts(c, s, &done);
    }
}

/* Its keys as bf16 has them, and their copy. */
static void halve(problem *p)
{
    const int64_t n = p->s->n_kv * p->s->d_index;
    for (int64_t i = 0; i < n; i++)
        p->ki[i] = msa_bf16(p->ki[i]);
    msa_index8_keys(p->s, NULL, p->ki, NULL, &p->copy, p->room);
}

static void same_ids(check_case *c, problem *p, const char *name)
{
    const size_t bytes = (size_t)(p->s->n_kv_heads * p->s->n_q * p->s->topk) * sizeof(int32_t);
    msa_screening made, given;
    halve(p);
    const int32_t *right = ids_of("amx_full", p, NULL, NULL), *found = ids_of("amx_screened", p, NULL, &made),
                  *again = ids_of("amx_screened", p, &p->copy, &given);
    check_true(c, right && found && again, "%s: all run", name);
    check_same(c, name, right, found, bytes);
    check_same(c, "with a copy that was made before", right, again, bytes);
    check_true(c, made.settled == given.settled && made.rows == given.rows && made.blocks == given.blocks,
               "%s: the same work with a copy", name);
    check_counts(c, p->s, &made);
}

static void fast_kernels(void)
{
    for (kind k = 0; k < N_KINDS; k++) {
        check_case c = check_begin(
            "screened ids of %s keys: of float32 the reference's, of bf16 those of index/amx_full",
            kind_name[k]);
        for (int n = 0; n < N_SHAPES; n++)
            for (int q = 0; q < 2; q++) {
                char name[INPUTS_NAME];
                inputs_shape_name(&shapes[n], name);
                problem p = pose(&shapes[n], k, q ? k : NORMAL,
                                 check_seed((uint64_t)(5000 + 100 * (int)k + 2 * n + q)));
                same_as_reference(&c, &p, name);
                same_ids(&c, &p, name);
                check_release(NULL);
            }
        check_end(&c);
    }
}

// More candidates than a list holds: of equal keys all are, and each row falls back.
static void long_lists(void)
{
    static const msa_shape s = {70, 4 * 1500, 4, 2, 4, 32, 4, 6, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("rows with too many candidates fall back, and have the same ids");
    for (int k = 0; k < 3; k++) {
        static const kind of[] = {CONSTANT, CLOSE, NORMAL};
        problem p = pose(&s, of[k], NORMAL, check_seed(6000 + (uint64_t)k));
        msa_screening done;
        same_as_reference(&c, &p, kind_name[of[k]]);
        same_ids(&c, &p, kind_name[of[k]]);
        check_true(&c, ids_of("amx_screened", &p, &p.copy, &done) != NULL && done.rows == 140, "it runs");
        check_true(&c,
                   of[k] == NORMAL ? done.fell_back == 0 && done.settled * 2 < done.blocks
                                   : done.fell_back == done.rows && done.settled == done.blocks,
                   "%s: %lld of %lld rows fell back", kind_name[of[k]], (long long)done.fell_back,
                   (long long)done.rows);
        check_release(NULL);
    }
    check_end(&c);
}

// index/amx screens by a copy that is there, and makes one for many rows; where integer products are no faster it does not.
static void ruled(void)
{
    const int64_t wanted = amx_at_hand() ? rows_for_a_copy_tiles : rows_for_a_copy_plain;
    const bool fast = wanted < INT64_MAX;
    const int enough = fast ? (int)((wanted + 599) / 600) : 2; // 1200 rows of a group see half of the keys
    msa_shape s = {64, 1200, 1, 1, 4, 4, 4, 6, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("index/amx screens by a copy that is there, or makes one for many rows");
    msa_screening done;
    problem p = pose(&s, NORMAL, NORMAL, check_seed(6200));
    halve(&p);
    check_true(&c, ids_of("amx", &p, &p.copy, &done) && (done.rows > 0) == fast, "by a copy, 64 rows");
    check_true(&c, ids_of("amx", &p, NULL, &done) && done.rows == 0, "64 rows have none made");
    s.n_q = s.n_kv;
    for (s.n_heads = enough - 1; s.n_heads <= enough; s.n_heads++) {
        s.n_kv_heads = s.n_heads;
        p = pose(&s, NORMAL, NORMAL, check_seed(6201));
        check_true(&c, ids_of("amx", &p, NULL, &done) && (done.rows > 0) == (fast && s.n_heads == enough),
                   "%d groups of 1200 rows, %lld screened", s.n_heads, (long long)done.rows);
    }
    check_end(&c);
}

// Rows so wide that a sum of products of codes does not fit in 32 bits: block b is b + 1 everywhere, all codes 127.
static void wide_rows(void)
{
    static const msa_shape s = {1, 40, 1, 1, 4, 140000, 4, 3, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("rows of 140000 channels fall back, and have the same ids");
    problem p = pose(&s, CONSTANT, CONSTANT, check_seed(6100));
    for (int64_t i = 0; i < s.n_kv * s.d_index; i++)
        p.ki[i] = (float)(i / (s.block * s.d_index) + 1);
    same_as_reference(&c, &p, "float32");
    same_ids(&c, &p, "bf16");
    check_end(&c);
    check_release(NULL);
}

/* ---- Steps of generation -------------------------------------------------------------------------------------------- */

static const int32_t steps_q[] = {0, 2, 4, 6}, steps_kv[] = {0, 320, 640, 960}, steps_lens[] = {320, 211, 48};
static const msa_shape step_shapes[] = {
    {2, 900, 4, 2, 8, 64, 16, 4, 1, NULL, NULL, NULL, NULL},
    {1, 2900, 4, 4, 8, 128, 128, 3, 1, NULL, NULL, NULL, NULL},
    {16, 600, 10, 5, 8, 32, 8, 5, 1, NULL, NULL, NULL, NULL}, // more rows than four columns hold
    {3, 500, 2, 1, 8, 96, 20, 3, 1, NULL, NULL, NULL, NULL},
    {6, 960, 4, 2, 8, 64, 32, 4, 3, steps_q, steps_kv, NULL, steps_lens},
    {4, 400, 2, 2, 8, 16, 16, 1, 1, NULL, NULL, NULL, NULL}, // nothing to choose
};
#define N_STEPS ((int)(sizeof step_shapes / sizeof *step_shapes))

typedef struct generation {
    msa_shape s;
    msa_arrays a;
    const float *ki; // as floats, and where they lie
    const msa_pages *p;
} generation;

/* Ids and O of a step, O behind the ids. */
static int32_t *outputs_of(const generation *g, const msa_index8 *copy, msa_screening *done, size_t *bytes)
{
    const msa_kernel *k = kernel_of(MSA_STAGE_DECODE, "amx");
    const int64_t n_ids = g->s.n_kv_heads * g->s.n_q * g->s.topk, n_o = g->s.n_q * g->s.n_heads * g->s.d_head;
    int32_t *ids = check_ints(n_ids + n_o);
    msa_arrays a = g->a;
    a.ids = ids, a.o = ids + n_ids;
    a.index8 = copy, a.screening = done;
    *bytes = (size_t)(n_ids + n_o) * sizeof *ids;
    return k->run_half(&g->s, &a, check_alloc((int64_t)k->workspace(&g->s), 1)) == MSA_OK ? ids : NULL;
}

static void same_step(check_case *c, const generation *g, int64_t numbers, const char *name)
{
    const msa_index8 copy = {check_alloc(g->s.n_kv * g->s.d_index * 2, 1), check_floats(numbers),
                             check_floats(numbers), check_floats(numbers), check_floats(numbers)};
    double *room = check_doubles(g->s.d_index);
    msa_screening done;
    size_t bytes;
    check_true(c, msa_index8_keys(&g->s, g->p, g->ki, NULL, &copy, room) == MSA_OK, "%s: copied", name);
    const int32_t *right = outputs_of(g, NULL, NULL, &bytes), *found = outputs_of(g, &copy, &done, &bytes);
    check_true(c, right && found, "%s: both run", name);
    check_same(c, name, right, found, bytes);
    if (!g->p)
        check_counts(c, &g->s, &done);
}

/* One whose index queries and keys are rounded to bf16, of keys where they are. */
static generation contiguous(const msa_shape *s, inputs *in)
{
    const int64_t q = s->n_q * s->n_heads * s->d_head, kv = s->n_kv * s->n_kv_heads * s->d_head,
                  qi = s->n_q * s->n_kv_heads * s->d_index, ki = s->n_kv * s->d_index;
    for (int64_t i = 0; i < qi; i++)
        in->qi[i] = msa_bf16(in->qi[i]);
    for (int64_t i = 0; i < ki; i++)
        in->ki[i] = msa_bf16(in->ki[i]);
    return (generation){*s,
                        {.q = halves_of(in->q, q),
                         .qi = halves_of(in->qi, qi),
                         .k = halves_of(in->k, kv),
                         .v = halves_of(in->v, kv),
                         .ki = halves_of(in->ki, ki)},
                        in->ki,
                        NULL};
}

/* Keys where they are, then in pages of half a block, of one and of two. */
static void step_of(check_case *c, const msa_shape *s, kind k, uint64_t seed)
{
    inputs in;
    inputs_rng rng = {seed};
    if (!inputs_new(&in, s, INPUTS_NORMAL, seed))
        return;
    fill(k, in.ki, s->n_kv, s->d_index, s->block, &rng);
    const generation g = contiguous(s, &in);
    same_step(c, &g, msa_n_seqs(s) * msa_n_blocks(s), "contiguous");
    for (int part = -1; part < 2 && paging_possible(s); part++) {
        const int page = part < 0 ? s->block / 2 : s->block << part;
        paging at;
        if (!paging_new(&at, s, &in, page, seed, false))
            break;
        const int64_t rows = at.p.n_pages * page, pieces = rows / (page < s->block ? page : s->block);
        generation paged = {at.s, g.a, at.ki, &at.p};
        paged.a.pages = at.p;
        paged.a.k = halves_of(at.k, rows * s->n_kv_heads * s->d_head);
        paged.a.v = halves_of(at.v, rows * s->n_kv_heads * s->d_head);
        paged.a.ki = halves_of(at.ki, rows * s->d_index);
        same_step(c, &paged, pieces, "in pages");
        paging_free(&at);
    }
    inputs_free(&in);
}

static void steps(void)
{
    static const kind kinds[] = {NORMAL, TIED,      CONSTANT, OUTLIERS,  CLOSE,
                                 ZEROS,  HUGE_ONES, DENORMAL, NOT_FINITE};
    for (int n = 0; n < N_STEPS; n++) {
        char name[INPUTS_NAME];
        inputs_shape_name(&step_shapes[n], name);
        check_case c = check_begin("decode/amx with an 8-bit copy chooses what it chooses without, %s", name);
        for (int k = 0; k < (int)(sizeof kinds / sizeof *kinds); k++) {
            step_of(&c, &step_shapes[n], kinds[k], check_seed((uint64_t)(9500 + 10 * n + k)));
            check_release(NULL);
        }
        check_end(&c);
    }
}

// A copy that claims to be exact: then both bounds of a block are its maximum of integers, and nothing is chosen that is not
// among the best by them.
static void step_integers(void)
{
    static const msa_shape of[] = {{1, 2000, 7, 7, 8, 64, 32, 25, 1, NULL, NULL, NULL, NULL},
                                   {2, 1500, 4, 4, 8, 128, 32, 20, 1, NULL, NULL, NULL, NULL},
                                   {3, 1500, 4, 4, 8, 128, 32, 20, 1, NULL, NULL, NULL, NULL}};
    check_case c = check_begin("of an exact copy decode/amx settles what the integers of its codes say");
    for (int n = 0; n < 6; n++) {
        const msa_shape *s = &of[n % 3];
        const int n_codes = s->n_q * s->n_kv_heads <= 8 || amx_at_hand() ? 2 : 1;
        inputs in;
        if (!inputs_new(&in, s, n < 3 ? INPUTS_NORMAL : INPUTS_TIES, check_seed(9700 + (uint64_t)n)))
            return;
        const generation g = contiguous(s, &in);
        const msa_index8 copy = empty_copy(s);
        msa_screening done;
        size_t bytes;
        msa_index8_keys(s, NULL, in.ki, NULL, &copy, check_doubles(s->d_index));
        for (int64_t b = 0; b < msa_n_blocks(s); b++)
            copy.scale[b] = 1, copy.reach[b] = copy.error[b] = 0;
        const int32_t *ids = outputs_of(&g, &copy, &done, &bytes);
        int64_t right = 0;
        for (int64_t row = 0; row < s->n_q * s->n_kv_heads; row++) {
            const int64_t i = row / s->n_kv_heads, r = row % s->n_kv_heads,
                          local = (s->n_kv - s->n_q + i) / s->block;
            bool open[64];
            right += open_by_integers(s, in.qi + row * s->d_index, n_codes, copy.codes, local, open);
            for (int slot = 0; slot < s->topk; slot++) {
                const int32_t id = ids[(r * s->n_q + i) * s->topk + slot];
                check_true(&c, id == local || (id >= 0 && id < local && open[id]), "row %lld chose block %d",
                           (long long)row, (int)id);
            }
        }
        check_true(&c, done.settled == right, "%lld settled, expected %lld of %lld", (long long)done.settled,
                   (long long)right, (long long)done.blocks);
        inputs_free(&in);
        check_release(NULL);
    }
    check_end(&c);
}

// The bounds are the reference's but for what float32 rounds: so are the candidates.
static void step_candidates(void)
{
    static const msa_shape s = {2, 128 * 80, 4, 4, 8, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
    check_case c = check_begin("decode/amx settles about as many blocks as the reference with two codes");
    inputs in;
    if (!inputs_new(&in, &s, INPUTS_NORMAL, check_seed(9800)))
        return;
    const generation g = contiguous(&s, &in);
    const problem p = {&s, in.qi, in.ki, empty_copy(&s), check_doubles(s.d_index)};
    msa_screening found;
    size_t bytes;
    msa_index8_keys(&s, NULL, p.ki, NULL, &p.copy, p.room);
    outputs_of(&g, &p.copy, &found, &bytes);
    const msa_screening right =
        select_by(&c, &p, 2, check_ints(s.n_kv_heads * s.n_q * s.topk), "the reference");
    check_true(&c,
               found.rows == right.rows && found.blocks == right.blocks && found.settled >= right.settled &&
                   (double)found.settled < 1.01 * (double)right.settled + 2,
               "%lld settled, the reference %lld, of %lld", (long long)found.settled,
               (long long)right.settled, (long long)right.blocks);
    inputs_free(&in);
    check_end(&c);
    check_release(NULL);
}

/* ---- Candidates are few ------------------------------------------------------------------------------------------------ */

static double settled_share(check_case *c, kind k, bool rotated, int n_codes)
{
    const msa_shape s = {8, 128 * 512, 4, 4, 4, rotated ? 128 : 127, 128, 16, 1, NULL, NULL, NULL, NULL};
    const problem p = pose(&s, k, NORMAL, check_seed(7000 + k));
    const msa_screening done =
        select_by(c, &p, n_codes, check_ints(s.n_kv_heads * s.n_q * s.topk), kind_name[k]);
    check_release(NULL);
    return (double)done.settled / (double)done.blocks;
}

// Known for Gaussian keys: 65 of 512, and 37 with the query in full. Rotation spreads a channel that stands out; without, it
// takes the codes.
static void few_candidates(void)
{
    check_case c = check_begin("of 64K keys few blocks are settled");
    const double normal = settled_share(&c, NORMAL, true, 1), two = settled_share(&c, NORMAL, true, 2),
                 spread = settled_share(&c, OUTLIERS, true, 1), plain = settled_share(&c, OUTLIERS, false, 1);
    tap_note("of 511 blocks before the local one: normal %.3f, with two codes a query %.3f, outliers %.3f, "
             "these not rotated %.3f",
             normal, two, spread, plain);
    check_true(&c, normal < 0.2, "less than a fifth if they are Gaussian");
    check_true(&c, two < 0.65 * normal, "of these less than two thirds if queries have a second code");
    check_true(&c, spread < 0.5 * plain, "half, by the rotation, where channels stand out");
    check_end(&c);
}

/* ---- A cache that grows and shrinks ---------------------------------------------------------------------------------------- */

static void same_copy(check_case *c, const char *what, const msa_shape *s, const msa_index8 *right,
                      const msa_index8 *found)
{
    const size_t blocks = (size_t)(msa_n_seqs(s) * msa_n_blocks(s)) * sizeof(float);
    check_same(c, what, right->codes, found->codes, (size_t)(s->n_kv * s->d_index));
    check_same(c, what, right->scale, found->scale, blocks);
    check_same(c, what, right->reach, found->reach, blocks);
    check_same(c, what, right->error, found->error, blocks);
    check_same(c, what, right->least, found->least, blocks);
}

static void grows_and_shrinks(void)
{
    enum { KEYS = 100, BLOCK = 16 };
    check_case c = check_begin("a copy that grew key by key, or lost some, is the one that is made at once");
    const msa_shape whole = {1, KEYS, 1, 1, 4, 32, BLOCK, 3, 1, NULL, NULL, NULL, NULL};
    const problem p = pose(&whole, NORMAL, NORMAL, check_seed(8000));
    const msa_index8 grown = empty_copy(&whole);
    msa_index8 fewer = empty_copy(&whole);
    for (int32_t n = 1; n <= KEYS; n++) {
        const int32_t q[2] = {0, 1}, kv[2] = {0, KEYS};
        const msa_shape part = {1, KEYS, 1, 1, 4, 32, BLOCK, 3, 1, q, kv, q + 1, &n};
        const int64_t had = n - 1;
        msa_index8_keys(&part, NULL, p.ki, &had, &grown, p.room);
    }
    same_copy(&c, "grown", &whole, &p.copy, &grown);
    for (int32_t n = KEYS; n >= 1; n -= 7) {
        const int32_t q[2] = {0, 1}, kv[2] = {0, KEYS};
        const msa_shape part = {1, KEYS, 1, 1, 4, 32, BLOCK, 3, 1, q, kv, q + 1, &n};
        const int64_t had = KEYS < n + 7 ? KEYS : n + 7;
        msa_index8_keys(&part, NULL, p.ki, &had, &grown, p.room);
        fewer = empty_copy(&whole);
        msa_index8_keys(&part, NULL, p.ki, NULL, &fewer, p.room);
        same_copy(&c, "taken back", &whole, &fewer, &grown);
    }
    check_end(&c);
    check_release(NULL);
}

static void refusals(void)
{
    const msa_shape s = shapes[0];
    problem p = pose(&s, NORMAL, NORMAL, check_seed(9000));
    int32_t *ids = check_ints(s.n_kv_heads * s.n_q * s.topk);
    void *work = check_alloc((int64_t)msa_index8_workspace(&s), 1);
    msa_shape bad = s;
    bad.block = 0;
    tap(msa_index8_select(&bad, p.qi, 1, p.ki, &p.copy, ids, NULL, work) == MSA_ERR_SIZE &&
            msa_index8_workspace(&bad) == 0,
        "a shape that is none is refused");
    tap(msa_index8_select(&s, p.qi, 0, p.ki, &p.copy, ids, NULL, work) == MSA_ERR_SIZE &&
            msa_index8_select(&s, p.qi, 3, p.ki, &p.copy, ids, NULL, work) == MSA_ERR_SIZE,
        "queries without codes, or with three, are refused");
    tap(msa_index8_select(&s, p.qi, 1, p.ki, NULL, ids, NULL, work) == MSA_ERR_NULL &&
            msa_index8_keys(&s, NULL, NULL, NULL, &p.copy, p.room) == MSA_ERR_NULL,
        "what is NULL is refused");
    tap(msa_index8_select(&s, p.qi, 1, p.ki, &p.copy, ids, NULL, work) == MSA_OK,
        "nobody has to know what was done");
    check_release(NULL);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    amx_choose(amx_at_hand()); // one body for all: else steps without a copy stream where nothing multiplies bf16
    every_kind();
    between_two_codes();
    fast_kernels();
    long_lists();
    ruled();
    wide_rows();
    steps();
    step_integers();
    step_candidates();
    few_candidates();
    grows_and_shrinks();
    refusals();
    return check_done();
}
