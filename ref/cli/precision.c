/* The output of another implementation, held against the reference at every class of precision at once. */
#include "precision.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eager.h"
#include "noise.h"
#include "verdict.h"

#define HALF 0x1p-12 /* as NOISE_ROUNDING, of float16, which has three bits more than bf16 */

#define TWO_ROUNDINGS (1.4142 * NOISE_ROUNDING) /* of a logit: the product, and its scaling by 1/sqrt(dh) */

static const verdict_store float16 = {11, -14}, bf16 = {8, -126};

/* What an implementation rounds beside float32's own errors. */
static const struct class
{
    const char *name, *words;
    double weights, partials, logits; /* units of their rounding; 0: not rounded */
    const verdict_store *store;
} classes[] = {
    {"float32", "float32 arithmetic", 0, 0, 0, NULL},
    {"float16-output", "o rounded to float16, its weights P no worse", HALF, 0, 0, &float16},
    {"bf16-weights", "weights P rounded to bf16", NOISE_ROUNDING, 0, 0, NULL},
    {"bf16-partials", "P and each block's output rounded to bf16", NOISE_ROUNDING, NOISE_ROUNDING, 0, NULL},
    {"bf16-output", "o rounded to bf16, its weights P no worse", NOISE_ROUNDING, 0, 0, &bf16},
    {"bf16-partials-output", "P, each block's output and o rounded to bf16", NOISE_ROUNDING, NOISE_ROUNDING,
     0, &bf16},
    {"bf16-logits", "logits, P and o rounded to bf16, as in Hugging Face's eager attention", NOISE_ROUNDING,
     0, TWO_ROUNDINGS, &bf16},
};
#define N_CLASSES ((int)(sizeof classes / sizeof *classes))
#define LOGITS (N_CLASSES - 1)

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
    const foreign_ids *theirs;
    verdict_budget base; /* of float32, or the user's */
    int n_classes;       /* 1 for the user's */
    verdict verdict[N_CLASSES];
    double eager2;     /* squared distance to eager attention in bf16 */
    int64_t n_skipped; /* queries without valid ids */
} judgement;

int precision_check(const char *command, const precision_request *request)
{
    int a = 0;
    if (request->name && request->tolerance >= 0)
        return cli_fail(command, "--precision: expected this option or --tolerance, found both");
    while (request->name && a < N_CLASSES && strcmp(request->name, classes[a].name) != 0)
        a++;
    if (a == N_CLASSES)
        return cli_fail(command, "--precision: expected one of " PRECISION_NAMES ", found '%s'",
                        request->name);
    return 0;
}

/* ---- Judging ------------------------------------------------------------------------------------ */

static void add_class(judgement *j, int a, int64_t i, const oracle *x, const float *found)
{
    const msa_shape *s = &j->t->shape;
    const double w = classes[a].weights, p = classes[a].partials, l = classes[a].logits;
    verdict_budget budget = j->base;
    if (w > 0) {
        budget.noise = x->noise;
        for (int64_t c = 0; c < (int64_t)s->n_heads * s->d_head; c++)
            x->noise[c] = sqrt(w * w * x->squares.weights[c] + p * p * x->squares.partials[c] +
                               l * l * x->squares.logits[c]);
        /* Where logits hardly differ, all roundings go one way: that is no random walk, but can be recomputed. */
        for (int64_t c = 0; l > 0 && c < (int64_t)s->n_heads * s->d_head; c++)
            x->noise[c] = fmax(x->noise[c], fabs((double)x->eager[c] - x->wide[c]));
    }
    verdict_add(&j->verdict[a], i, (verdict_dims){1, s->n_heads, s->d_head}, x->wide, found, budget,
                classes[a].store);
}

/* Adds query i to the verdict of every class, or notes that its ids name no valid blocks. */
static int judge_query(judgement *j, int64_t i, const oracle *x)
{
    const cli_tensors *t = j->t;
    const msa_shape query = cli_query_shape(&t->shape, i);
    const int64_t width = (int64_t)query.n_heads * query.d_head;
    const float *q = cli_floats(t, CLI_Q) + i * width, *k = cli_floats(t, CLI_K), *v = cli_floats(t, CLI_V);
    for (int r = 0; r < query.n_kv_heads; r++)
        foreign_sort(foreign_row(j->theirs, &t->shape, r, i), query.topk, x->ids + (int64_t)r * query.topk);
    if (msa_sparse(&query, q, k, v, x->ids, x->o, NULL, x->work) != MSA_OK) {
        j->n_skipped++;
        return 0;
    }
    if (j->n_classes > 1 && !(noise_by_cause(&query, q, k, v, x->ids, x->squares) &&
                              eager_attention(&query, q, k, v, x->ids, x->eager)))
        return cli_fail(j->command, "no memory to judge a row of output");
    const float *found = cli_floats(t, CLI_O) + i * width;
    for (int64_t c = 0; c < width; c++) {
        x->wide[c] = (double)x->o[c];
        j->eager2 += pow((double)found[c] - (double)x->eager[c], 2);
    }
    for (int a = 0; a < j->n_classes; a++)
        add_class(j, a, i, x, found);
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
    for (int a = 0; a < j->n_classes; a++)
        verdict_close(&j->verdict[a], j->base);
    return bad;
}

/* ---- Saying so ---------------------------------------------------------------------------------- */

static void print_verdict(const char *outcome, const verdict *v)
{
    char text[VERDICT_TEXT];
    verdict_text("o", v, text);
    printf("output  %s; %s\n", outcome, text);
}

/* How well the values themselves go with a class: 2 if all of them are of the type that it stores, 0 if not.
 */
static int fit(const npy_array *o, const struct class *c)
{
    return !c->store ? 1 : verdict_is_stored(o->data, o->count, c->store) ? 2 : 0;
}

/* Of the classes that are met float32; then eager attention, which can be recomputed and is known by that;
 * then one that goes with the values, and of those the one of whose budget most was used. If none is met, the
 * one that comes nearest. */
static int tightest(const judgement *j)
{
    const npy_array *o = &j->t->array[CLI_O];
    const verdict *v = j->verdict;
    int best = 0, best_fit = 0;
    if (!v[0].pass && v[LOGITS].pass && j->eager2 < v[LOGITS].error2 / 4)
        return LOGITS;
    for (int a = 1; a < N_CLASSES && !v[0].pass; a++) {
        const int fit_a = v[a].pass ? fit(o, &classes[a]) : -1;
        if (!v[best].pass ? v[a].pass || v[a].used < v[best].used
                          : fit_a > best_fit || (fit_a == best_fit && v[a].used > v[best].used)) {
            best = a;
            best_fit = fit_a;
        }
    }
    return best;
}

/* The answer is the tightest class that is met; a name pins the class that has to be. */
static bool report_class(const judgement *j, const char *name)
{
    char outcome[256];
    const int best = tightest(j);
    int shown = name ? 0 : best;
    while (name && strcmp(classes[shown].name, name) != 0)
        shown++;
    const verdict *v = &j->verdict[shown];
    if (v->pass)
        snprintf(outcome, sizeof outcome, "ok, precision %s (%s)", classes[shown].name, classes[shown].words);
    else
        snprintf(outcome, sizeof outcome, "FAILED, %s precision %s: %.3g times its budget",
                 name ? "not of" : "of none; nearest is", classes[shown].name, v->used);
    print_verdict(outcome, v);
    if (name && best != shown && j->verdict[best].pass)
        printf("  it meets precision %s (%s)\n", classes[best].name, classes[best].words);
    return v->pass;
}

static bool report(const judgement *j, const precision_request *request)
{
    const msa_shape *s = &j->t->shape;
    bool pass = false;
    if (j->n_skipped == s->n_q)
        printf("output  FAILED: no query has valid ids to judge it by\n");
    else if (request->tolerance < 0)
        pass = report_class(j, request->name);
    else {
        pass = j->verdict[0].pass;
        print_verdict(pass ? "ok, within --tolerance" : "FAILED, not within --tolerance", &j->verdict[0]);
    }
    if (j->n_skipped && j->n_skipped < s->n_q)
        printf("  not judged for want of valid ids: %lld of %lld queries\n", (long long)j->n_skipped,
               (long long)s->n_q);
    return pass;
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

int precision_judge(const char *command, const precision_request *request, const cli_tensors *t,
                    const foreign_ids *theirs, bool *pass)
{
    const inputs in = {.q = t->array[CLI_Q].data,
                       .k = t->array[CLI_K].data,
                       .v = t->array[CLI_V].data,
                       .qi = t->array[CLI_QI].data,
                       .ki = t->array[CLI_KI].data};
    const bool derived = request->tolerance < 0;
    judgement j = {.command = command,
                   .t = t,
                   .theirs = theirs,
                   .base = derived ? verdict_float32(&t->shape, &in, VERDICT_O, 0)
                                   : (verdict_budget){request->tolerance, 0, NULL},
                   .n_classes = derived ? N_CLASSES : 1};
    oracle x;
    int bad = oracle_new(command, &t->shape, &x) ? judge_queries(&j, &x) : 2;
    if (!bad)
        *pass = report(&j, request);
    free(x.ids);
    free(x.o);
    free(x.wide);
    free(x.work);
    return bad;
}
