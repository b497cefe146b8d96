/* The output of another implementation, held against the reference at every class of precision at once. */
#include "precision.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "../judge/eager.h"
#include "../judge/noise.h"

#define HALF 0x1p-12 /* as NOISE_ROUNDING, of float16, which has three bits more than bf16 */

static const verdict_store float16 = {11, -14}, bf16 = {8, -126};

/* What an implementation rounds beside float32's own errors. */
static const struct class
{
    const char *name, *words;
    double weights, partials, logits; /* units of their rounding; 0: not rounded */
    const verdict_store *store;
} classes[PRECISION_N_CLASSES] = {
    {"float32", "float32 arithmetic", 0, 0, 0, NULL},
    {"float16-output", "o rounded to float16, its weights P no worse", HALF, 0, 0, &float16},
    {"bf16-weights", "weights P rounded to bf16", NOISE_ROUNDING, 0, 0, NULL},
    {"bf16-partials", "P and each block's output rounded to bf16", NOISE_ROUNDING, NOISE_ROUNDING, 0, NULL},
    {"bf16-output", "o rounded to bf16, its weights P no worse", NOISE_ROUNDING, 0, 0, &bf16},
    {"bf16-partials-output", "P, each block's output and o rounded to bf16", NOISE_ROUNDING, NOISE_ROUNDING,
     0, &bf16},
    {"bf16-logits", "logits, P and o rounded to bf16, as in Hugging Face's eager attention", NOISE_ROUNDING,
     0, NOISE_ROUNDING, &bf16},
};
#define LOGITS (PRECISION_N_CLASSES - 1)

/* One query's output as it should be, and what rounding may do to it. */
typedef struct oracle {
    int32_t *ids;          /* [Hkv,k] */
    float *o, *eager;      /* [Hq,dh]; as it would come from eager attention in bf16 */
    double *wide, *noise;  /* the same in double; the noise of one class */
    noise_squares squares; /* of all causes */
    void *work;
} oracle;

typedef struct judgement {
    const char *command;
    const cli_tensors *t;
    const foreign_ids *theirs; /* NULL: dense attention */
    verdict_budget base; /* of float32, or the user's */
    int n_classes;       /* 1 for the user's */
    precision_result *result;
} judgement;

static int class_of(const char *name)
{
    int c = 0;
    while (c < PRECISION_N_CLASSES && strcmp(name, classes[c].name) != 0)
        c++;
    return c;
}

int precision_check(const char *command, const precision_request *asked)
{
    if (asked->name && asked->tolerance >= 0)
        return cli_fail(command, "--precision: expected this option or --tolerance, found both");
    if (asked->name && class_of(asked->name) == PRECISION_N_CLASSES)
        return cli_fail(command, "--precision: expected one of " PRECISION_NAMES ", found '%s'",
                        asked->name);
    return 0;
}

/* ---- Judging ------------------------------------------------------------------------------------ */

/* A logit is rounded as a product, and again when 1/sqrt(dh) scales it, unless that is a power of two. */
static double logit_roundings(int d)
{
    int exponent;
    return frexp(sqrt(d), &exponent) == 0.5 ? 1 : 2;
}

/* The noise of a class, of one query, in x->noise. */
static void find_noise(const struct class *c, const msa_shape *s, const oracle *x)
{
    const int64_t n = (int64_t)s->n_heads * s->d_head;
    const double w2 = c->weights * c->weights, p2 = c->partials * c->partials,
                 l2 = c->logits * c->logits * logit_roundings(s->d_head);
    double walk = 0, recomputed = 0;
    for (int64_t i = 0; i < n; i++) {
        const double square =
            w2 * x->squares.weights[i] + p2 * x->squares.partials[i] + l2 * x->squares.logits[i];
        x->noise[i] = sqrt(square);
        walk += square;
        recomputed += pow((double)x->eager[i] - x->wide[i], 2);
    }
    /* Where logits hardly differ all weights are rounded one way, which is no random walk but can be
     * recomputed. */
    for (int64_t i = 0; l2 > 0 && recomputed > walk && i < n; i++)
        x->noise[i] = fmax(x->noise[i], fabs((double)x->eager[i] - x->wide[i]));
}

static void add_class(judgement *j, int n, int64_t i, const oracle *x, const float *found)
{
    const msa_shape *s = &j->t->shape;
    verdict_budget budget = j->base;
    if (classes[n].weights > 0) {
        find_noise(&classes[n], s, x);
        budget.noise = x->noise;
    }
    verdict_add(&j->result->verdict[n], i, (verdict_dims){1, s->n_heads, s->d_head}, x->wide, found, budget,
                classes[n].store);
}

/* The blocks of query i, [Hkv,k]. */
static void list_blocks(const judgement *j, int64_t i, const msa_shape *query, int32_t *ids)
{
    const int k = query->topk;
    for (int r = 0; r < query->n_kv_heads; r++)
        if (j->theirs)
            foreign_sort(foreign_row(j->theirs, &j->t->shape, r, i), k, ids + (int64_t)r * k);
        else
            for (int b = 0; b < k; b++)
                ids[(int64_t)r * k + b] = b < msa_n_blocks(query) ? b : -1;
}

/* Adds query i to the verdict of every class, or notes that its ids name no valid blocks. */
static int judge_query(judgement *j, int64_t i, const oracle *x)
{
    const cli_tensors *t = j->t;
    msa_seq seq;
    const msa_shape query = query_shape(&t->shape, i, &seq);
    const int64_t width = (int64_t)query.n_heads * query.d_head,
                  kv0 = seq.kv0 * query.n_kv_heads * query.d_head;
    const float *q = cli_floats(t, CLI_Q) + i * width, *k = cli_floats(t, CLI_K) + kv0,
                *v = cli_floats(t, CLI_V) + kv0;
    list_blocks(j, i, &query, x->ids);
    if (msa_sparse(&query, q, k, v, x->ids, x->o, NULL, x->work) != MSA_OK) {
        j->result->n_skipped++;
        return 0;
    }
    if (j->n_classes > 1 && !(noise_by_cause(&query, q, k, v, x->ids, x->squares) &&
                              eager_attention(&query, q, k, v, x->ids, x->eager)))
        return cli_fail(j->command, "no memory to judge a row of output");
    const float *found = cli_floats(t, CLI_O) + i * width;
    for (int64_t c = 0; c < width; c++) {
        x->wide[c] = (double)x->o[c];
        j->result->eager2 += pow((double)found[c] - (double)x->eager[c], 2);
    }
    for (int n = 0; n < j->n_classes; n++)
        add_class(j, n, i, x, found);
    return 0;
}

static int judge_queries(judgement *j, const oracle *x)
{
    const msa_shape *s = &j->t->shape;
    int bad = 0;
    for (int64_t i = 0; i < s->n_q && !bad; i++) {
        bad = judge_query(j, i, x);
        cli_progress(j->command, i + 1, s->n_q, "output");
    }
    cli_progress_end();
    return bad;
}

/* ---- Which class ---------------------------------------------------------------------------------- */

/* How well the values themselves go with a class: 2 if all of them are of the type that it stores, 0 if not.
 */
static int fit(const npy_array *o, const struct class *c)
{
    return !c->store ? 1 : verdict_is_stored(o->data, o->count, c->store) ? 2 : 0;
}

/* Whose budget fewer elements break: one that is wrong, were it NaN, does not say how all others were rounded. Of two
 * that as many break the first is kept, which allows less. */
static bool nearer(const verdict *a, const verdict *b)
{
    return a->n_bad == b->n_bad ? a->n_bad == 0 && a->used < b->used : a->n_bad < b->n_bad;
}

/* Of the classes that are met float32; then eager attention, which can be recomputed and is known by that;
 * then one that goes with the values, and of those the one of whose budget most was used. If none is met, the
 * one that comes nearest. */
static int tightest(const npy_array *o, const precision_result *r)
{
    const verdict *v = r->verdict;
    int best = 0, best_fit = 0;
    if (!v[0].pass && v[LOGITS].pass && r->eager2 < v[LOGITS].error2 / 4)
        return LOGITS;
    for (int c = 1; c < PRECISION_N_CLASSES && !v[0].pass; c++) {
        const int fit_c = v[c].pass ? fit(o, &classes[c]) : -1;
        if (!v[best].pass ? v[c].pass || nearer(&v[c], &v[best])
                          : fit_c > best_fit || (fit_c == best_fit && v[c].used > v[best].used)) {
            best = c;
            best_fit = fit_c;
        }
    }
    return best;
}

static void conclude(const judgement *j, const precision_request *asked)
{
    precision_result *r = j->result;
    for (int c = 0; c < j->n_classes; c++)
        verdict_close(&r->verdict[c], j->base);
    const int best = j->n_classes > 1 ? tightest(&j->t->array[CLI_O], r) : 0;
    r->name = classes[best].name;
    r->used = r->verdict[best].used;
    r->pass = r->verdict[asked->name ? class_of(asked->name) : best].pass;
}

/* ---- Saying so ---------------------------------------------------------------------------------- */

static void print_class(const precision_request *asked, const precision_result *r)
{
    char text[VERDICT_TEXT];
    const int best = class_of(r->name), shown = asked->name ? class_of(asked->name) : best;
    const verdict *v = &r->verdict[shown];
    verdict_text("o", v, text);
    if (r->pass)
        printf("output  ok, precision %s (%s); %s\n", classes[shown].name, classes[shown].words, text);
    else if (isinf(v->used))
        printf("output  FAILED at every precision; %s\n", text);
    else
        printf("output  FAILED, %s precision %s, %.3g times its budget; %s\n",
               asked->name ? "not of" : "of none; nearest is", classes[shown].name, v->used, text);
    if (best != shown && r->verdict[best].pass)
        printf("  it meets precision %s (%s)\n", classes[best].name, classes[best].words);
}

void precision_print(const precision_request *asked, int64_t n_queries, const precision_result *r)
{
    char text[VERDICT_TEXT];
    if (r->n_skipped == n_queries)
        printf("output  FAILED: no query has valid ids to judge it by\n");
    else if (asked->tolerance < 0)
        print_class(asked, r);
    else {
        verdict_text("o", &r->verdict[0], text);
        printf("output  %s --tolerance; %s\n", r->pass ? "ok, within" : "FAILED, not within", text);
    }
    if (r->n_skipped && r->n_skipped < n_queries)
        printf("  not judged for want of valid ids: %lld of %lld queries\n", (long long)r->n_skipped,
               (long long)n_queries);
}

/* ---- All of it ---------------------------------------------------------------------------------- */

static bool oracle_new(const char *command, const msa_shape *s, oracle *x)
{
    const size_t width = (size_t)s->n_heads * (size_t)s->d_head;
    *x = (oracle){.ids = cli_alloc(command, (size_t)s->n_kv_heads * (size_t)s->topk * sizeof *x->ids)};
    x->o = x->ids ? cli_alloc(command, 2 * width * sizeof *x->o) : NULL;
    x->eager = x->o ? x->o + width : NULL;
    x->wide = x->o ? cli_alloc(command, 5 * width * sizeof *x->wide) : NULL;
    x->work = x->wide ? cli_alloc(command, msa_ref_ops.stage[MSA_STAGE_SPARSE]->workspace(s)) : NULL;
    if (x->wide) {
        x->noise = x->wide + width;
        x->squares = (noise_squares){x->noise + width, x->noise + 2 * width, x->noise + 3 * width};
    }
    return x->work != NULL;
}

int precision_judge(const char *command, const precision_request *asked, const cli_tensors *t,
                    const foreign_ids *theirs, precision_result *result)
{
    const inputs in = {.q = t->array[CLI_Q].data,
                       .k = t->array[CLI_K].data,
                       .v = t->array[CLI_V].data,
                       .qi = t->array[CLI_QI].data,
                       .ki = t->array[CLI_KI].data};
    const bool derived = asked->tolerance < 0;
    judgement j = {.command = command,
                   .t = t,
                   .theirs = theirs,
                   .base = derived ? verdict_float32(&t->shape, &in, ARRAY_O, 0)
                                   : (verdict_budget){asked->tolerance, 0, NULL},
                   .n_classes = derived ? PRECISION_N_CLASSES : 1,
                   .result = result};
    oracle x;
    *result = (precision_result){0};
    int bad = oracle_new(command, &t->shape, &x) ? judge_queries(&j, &x) : 2;
    if (!bad)
        conclude(&j, asked);
    free(x.ids);
    free(x.o);
    free(x.wide);
    free(x.work);
    return bad;
}
