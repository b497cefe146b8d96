/* The nine steps of a reader's own MSA: check --steps FIRST LAST [--prompt TEXT] and what exercise.h reads. Each step is
 * judged by itself, against the reference; what a query may not read is NaN. */
#include <stdio.h>

#include "check.h"

enum { T = 45 };
static const shape small = {4, 2, 16, 8, 8, 3};

static msa_shape shape_of(const shape *s, int64_t n_q, int64_t n_kv)
{
    return (msa_shape){.n_q = n_q,
                       .n_kv = n_kv,
                       .n_heads = s->heads,
                       .n_kv_heads = s->kv_heads,
                       .d_head = s->width,
                       .d_index = s->index_width,
                       .block = s->block,
                       .topk = s->topk};
}

/* ---- A query at a time ------------------------------------------------------------------------------- */

/* What the answer is called with, and what it writes. */
typedef struct desk {
    float *q, *k, *v, *qi, *ki, *o, *scores;
    int32_t *ids;
} desk;

static const desk *the_desk(void)
{
    static desk d;
    const int kv = small.kv_heads * small.width;
    if (!d.q)
        d = (desk){exercise_given(small.heads * small.width, "q"),
                   exercise_given(T * kv, "k"),
                   exercise_given(T * kv, "v"),
                   exercise_given(small.kv_heads * small.index_width, "qi"),
                   exercise_given(T * small.index_width, "ki"),
                   exercise_wanted(small.heads * small.width, "o"),
                   exercise_wanted(T / small.block + 1, "scores"),
                   answer_given(small.topk * (int64_t)sizeof(int32_t), "ids")};
    return &d;
}

/* The arrays of the query that sees n keys. */
static const desk *lay(const inputs *in, int n)
{
    const desk *d = the_desk();
    const int kv = small.kv_heads * small.width, heads = small.heads * small.width;
    const int index = small.kv_heads * small.index_width;
    exercise_give(d->q, in->q + (n - 1) * heads, heads);
    exercise_give(d->qi, in->qi + (n - 1) * index, index);
    memset(d->k, 0xff, (size_t)(T * kv) * sizeof(float)); /* the future is NaN */
    memset(d->v, 0xff, (size_t)(T * kv) * sizeof(float));
    memset(d->ki, 0xff, (size_t)(T * small.index_width) * sizeof(float));
    exercise_give(d->k, in->k, n * kv);
    exercise_give(d->v, in->v, n * kv);
    exercise_give(d->ki, in->ki, n * small.index_width);
    return d;
}

/* Takes away the keys and values of group r that a query which sees n keys has not chosen; NaN marks them. */
static void keep_chosen(const desk *d, int r, int n, const int32_t *ids)
{
    const int width = small.width;
    for (int j = 0; j < n; j++) {
        bool chosen = false;
        for (int a = 0; a < small.topk; a++)
            chosen |= ids[a] == j / small.block;
        for (int c = 0; c < width && !chosen; c++)
            d->k[(j * small.kv_heads + r) * width + c] = d->v[(j * small.kv_heads + r) * width + c] = NAN;
    }
}

/* One row of the output of some heads, judged like a whole tensor. */
static void judge_heads(const inputs *in, int n, int first, int heads, const float *expected,
                        const float *found)
{
    const msa_shape s = shape_of(&small, T, T);
    const int64_t at = ((n - 1) * small.heads + first) * small.width;
    char what[64];
    snprintf(what, sizeof what, "with n = %d, o", n);
    exercise_tensor(what, (verdict_dims){1, heads, small.width}, expected + at, found,
                    verdict_float32(&s, in, ARRAY_O, 1));
}

static const int seen[] = {1, 8, 9, 23, 40, T};
#define QUERIES ((int)(sizeof seen / sizeof *seen))

/* ---- Steps 1 and 2: dense attention -------------------------------------------------------------------- */

static void judge_dense(inputs_pattern pattern, bool all_heads)
{
    const msa_shape s = shape_of(&small, T, T);
    const int64_t size = T * small.heads * small.width;
    const int width = small.width, group = small.heads / small.kv_heads;
    const inputs in = exercise_inputs(&s, pattern);
    float *expected = exercise_floats(size), *found = exercise_floats(size);
    msa_dense(&s, in.q, in.k, in.v, expected, NULL, exercise_alloc((int64_t)msa_workspace(NULL, &s)));
    for (int i = 0; i < QUERIES; i++) {
        const desk *d = lay(&in, seen[i]);
        if (all_heads) {
            ANSWER(attend_heads(&small, d->q, d->k, d->v, seen[i], d->o));
            exercise_take(found, d->o, small.heads * width);
            judge_heads(&in, seen[i], 0, small.heads, expected, found);
            continue;
        }
        const int h = i % small.heads, kv = h / group * width;
        ANSWER(attend(d->q + h * width, d->k + kv, d->v + kv, seen[i], small.kv_heads * width, width, d->o));
        exercise_take(found, d->o, width);
        judge_heads(&in, seen[i], h, 1, expected, found);
    }
}

static void step_1(void)
{
    judge_dense(INPUTS_DISTINCT, false);
    judge_dense(INPUTS_LARGE, false);
}

static void step_2(void)
{
    judge_dense(INPUTS_DISTINCT, true);
}

/* ---- Step 3: the running softmax ------------------------------------------------------------------------- */

static running begun(double *value)
{
    memset(value, 0, (size_t)small.width * sizeof *value);
    return (running){-INFINITY, 0, value, small.width};
}

/* In the answer's process: keys from..to, one after the other. */
static void add_some(running *r, const double *logit, const float *v, int from, int to)
{
    for (int j = from; j < to; j++)
        running_add(r, logit[j], v + j * small.width);
}

/* Softmax of all T logits, times v: plainly, in double. Returns the LSE. */
static double plain_softmax(const double *logit, const float *v, float *o)
{
    double max = -INFINITY, sum = 0;
    for (int j = 0; j < T; j++)
        max = fmax(max, logit[j]);
    for (int j = 0; j < T; j++)
        sum += exp(logit[j] - max);
    for (int c = 0; c < small.width; c++) {
        double acc = 0;
        for (int j = 0; j < T; j++)
            acc += exp(logit[j] - max) / sum * (double)v[j * small.width + c];
        o[c] = (float)acc;
    }
    return max + log(sum);
}

/* Logits that rise, or fall, by `slope` a key; then the keys in three parts, of which one may be empty. */
static void judge_running(double slope, int a, int b)
{
    const msa_shape s = shape_of(&small, T, T);
    const inputs in = exercise_inputs(&s, INPUTS_NORMAL);
    double *logit = answer_given(T * (int64_t)sizeof *logit, "the logits");
    double *lse = answer_wanted((int64_t)sizeof *lse, "the LSE");
    float *v = exercise_given(T * small.width, "v"), *o = exercise_wanted(small.width, "o");
    float expected[16], found[16];
    exercise_give(v, in.v, T * small.width);
    for (int j = 0; j < T; j++)
        logit[j] = slope * j + (double)in.q[j];
    const double plain = plain_softmax(logit, v, expected);
    double value[3][16];
    running one = begun(value[0]), two = begun(value[1]), three = begun(value[2]);
    ANSWER(add_some(&one, logit, v, 0, a); add_some(&two, logit, v, a, b); add_some(&three, logit, v, b, T);
           running_merge(&one, &two); running_merge(&three, &one); *lse = running_end(&three, o));
    exercise_take(found, o, small.width);
    /* each sum has T terms and is rescaled as often; the budget leaves room for float sums */
    exercise_tensor("o of a running softmax", (verdict_dims){1, 1, small.width}, expected, found,
                    (verdict_budget){4 * T * 0x1p-24, T * 0x1p-24, NULL});
    exercise_true(fabs(*lse - plain) <= 4 * T * 0x1p-24 * (1 + fabs(plain)), "LSE: expected %.9g, found %.9g",
                  plain, *lse);
}

static void step_3(void)
{
    judge_running(0, T, T);
    judge_running(0.5, 13, 31);
    judge_running(-0.5, 0, 20);
    judge_running(40, 20, 20); /* logits up to 1760, of which no exponential is finite */
    judge_running(0, 0, 0);
}

/* ---- Steps 4 and 5: scores and the choice ------------------------------------------------------------------ */

static void judge_scores(inputs_pattern pattern)
{
    const msa_shape s = shape_of(&small, T, T);
    const inputs in = exercise_inputs(&s, pattern);
    const int di = small.index_width;
    for (int i = 0; i < QUERIES; i++) {
        const int n = seen[i], blocks = (n + small.block - 1) / small.block;
        const desk *d = lay(&in, n);
        float expected[T], found[T];
        for (int a = 0; a < small.block * di && a < n * di; a++) /* in block 0 every score is negative */
            d->ki[a] = (float)-(1 + a / di) * d->qi[a % di];
        double terms = 0;
        for (int b = 0; b < blocks; b++)
            expected[b] = -INFINITY;
        for (int j = 0; j < n; j++) {
            double size = 0;
            for (int c = 0; c < di; c++)
                size += fabs((double)d->qi[c] * (double)d->ki[j * di + c]);
            terms = fmax(terms, size / sqrt(di));
            expected[j / small.block] =
                fmaxf(expected[j / small.block], (float)(dot_product(d->qi, d->ki + j * di, di) / sqrt(di)));
        }
        ANSWER(score_blocks(&small, d->qi, d->ki, n, d->scores));
        exercise_take(found, d->scores, T / small.block + 1);
        char what[32];
        snprintf(what, sizeof what, "with n = %d, scores", n);
        exercise_tensor(what, (verdict_dims){1, 1, blocks}, expected, found,
                        (verdict_budget){0x1p-22, (di + 2) * terms * 0x1p-24, NULL});
    }
}

static void step_4(void)
{
    judge_scores(INPUTS_NORMAL);
    judge_scores(INPUTS_PEAKED);
}

/* Scores of few values, so that many tie; the rule of the reference. */
static void step_5(void)
{
    enum { MOST = 20 };
    float *scores = exercise_given(MOST, "scores");
    int32_t *ids = answer_wanted(small.topk * (int64_t)sizeof *ids, "ids");
    const msa_shape s = shape_of(&small, 16, 16);
    const inputs in = exercise_inputs(&s, INPUTS_NORMAL);
    for (int blocks = 1; blocks <= MOST; blocks++) {
        for (int b = 0; b < blocks; b++)
            scores[b] = floorf(2 * in.q[blocks * MOST + b]);
        bool taken[MOST] = {[0] = false};
        taken[blocks - 1] = true;
        for (int left = small.topk - 1, best; left > 0; left--) {
            best = -1;
            for (int b = 0; b < blocks; b++)
                best = !taken[b] && (best < 0 || scores[b] > scores[best]) ? b : best;
            if (best >= 0)
                taken[best] = true;
        }
        ANSWER(choose(&small, scores, blocks, ids));
        int a = 0;
        for (int b = 0; b < blocks; b++)
            if (taken[b]) {
                exercise_true(ids[a] == b, "of %d blocks, ids[%d]: expected %d, found %d", blocks, a, b,
                              ids[a]);
                a++;
            }
        for (; a < small.topk; a++)
            exercise_true(ids[a] == -1, "of %d blocks, ids[%d]: expected -1, found %d", blocks, a, ids[a]);
        memset(ids, 0x7f, (size_t)small.topk * sizeof *ids);
    }
}

/* ---- Steps 6 and 7: what is chosen ------------------------------------------------------------------------- */

static void step_6(void)
{
    const msa_shape s = shape_of(&small, T, T);
    const int64_t size = T * small.heads * small.width;
    const int group = small.heads / small.kv_heads, width = small.width;
    const inputs in = exercise_inputs(&s, INPUTS_DISTINCT);
    float *expected = exercise_floats(size), *found = exercise_floats(size);
    int32_t *ids = exercise_alloc(small.kv_heads * T * small.topk * (int64_t)sizeof *ids);
    selection_draw(&s, SELECTION_ANY, exercise_seed(), ids);
    msa_sparse(&s, in.q, in.k, in.v, ids, expected, NULL, exercise_alloc((int64_t)msa_workspace(NULL, &s)));
    for (int i = 0; i < 2 * QUERIES; i++) {
        const int n = seen[i % QUERIES], r = i / QUERIES;
        const int32_t *chosen = ids + (r * T + n - 1) * small.topk;
        const desk *d = lay(&in, n);
        keep_chosen(d, r, n, chosen);
        memcpy(d->ids, chosen, (size_t)small.topk * sizeof *chosen);
        ANSWER(attend_blocks(&small, d->q + r * group * width, d->k + r * width, d->v + r * width, n, d->ids,
                             d->o));
        exercise_take(found, d->o, group * width);
        judge_heads(&in, n, r * group, group, expected, found);
    }
}

static void judge_msa(inputs_pattern pattern)
{
    const msa_shape s = shape_of(&small, T, T);
    const int64_t size = T * small.heads * small.width;
    const inputs in = exercise_inputs(&s, pattern);
    float *expected = exercise_floats(size), *found = exercise_floats(size);
    int32_t *ids = exercise_alloc(small.kv_heads * T * small.topk * (int64_t)sizeof *ids);
    int64_t *reads = answer_wanted(sizeof *reads, "the count");
    msa_forward(NULL, &s, in.q, in.k, in.v, in.qi, in.ki, NULL, ids, expected, NULL, NULL,
                exercise_alloc((int64_t)msa_workspace(NULL, &s)));
    for (int i = 0; i < QUERIES; i++) {
        const int n = seen[i];
        int64_t all = n * small.index_width;
        const desk *d = lay(&in, n);
        for (int r = 0; r < small.kv_heads; r++) {
            const int32_t *chosen = ids + (r * T + n - 1) * small.topk;
            keep_chosen(d, r, n, chosen);
            for (int j = 0; j < n; j++)
                for (int a = 0; a < small.topk; a++)
                    all += chosen[a] == j / small.block ? 2 * small.width : 0;
        }
        ANSWER(msa(&small, d->q, d->qi, d->k, d->v, d->ki, n, d->o));
        exercise_take(found, d->o, small.heads * small.width);
        judge_heads(&in, n, 0, small.heads, expected, found);
        ANSWER(*reads = msa_reads(&small, n));
        exercise_true(*reads == all, "with n = %d, what msa_reads() counts: expected %lld, found %lld", n,
                      (long long)all, (long long)*reads);
    }
}

static void step_7(void)
{
    judge_msa(INPUTS_DYADIC); /* every score is exact in float32 */
    judge_msa(INPUTS_TIES);
}

/* ---- Step 8: the loss -------------------------------------------------------------------------------------- */

static void judge_loss(int n)
{
    const shape one = {2, 1, small.width, small.index_width, small.block, small.topk};
    const msa_shape s = shape_of(&one, 1, n);
    const inputs in = exercise_inputs(&s, INPUTS_NORMAL);
    const int di = one.index_width, width = one.width;
    float *q = exercise_given(2 * width, "q"), *k = exercise_given(n * width, "k");
    float *qi = exercise_given(di, "qi"), *ki = exercise_given(n * di, "ki");
    float *dqi = exercise_wanted(di, "dqi"), *dki = exercise_wanted(n * di, "dki");
    float *expected_dqi = exercise_floats(di), *expected_dki = exercise_floats(n * di);
    int32_t *ids = answer_given(one.topk * (int64_t)sizeof *ids, "ids");
    double *loss = answer_wanted(sizeof *loss, "the loss"), expected;
    selection_draw(&s, SELECTION_RANDOM, exercise_seed(), ids);
    msa_kl(&s, in.q, in.k, in.qi, in.ki, ids, NULL, NULL, 1, &expected, expected_dqi, expected_dki,
           exercise_alloc((int64_t)msa_workspace(NULL, &s)));
    exercise_give(q, in.q, 2 * width);
    exercise_give(k, in.k, n * width);
    exercise_give(qi, in.qi, di);
    exercise_give(ki, in.ki, n * di);
    ANSWER(*loss = index_loss(&one, q, qi, k, ki, n, ids, dqi, dki));
    const float found = (float)*loss, wanted = (float)expected;
    exercise_tensor("loss", (verdict_dims){1, 1, 1}, &wanted, &found, verdict_float32_kl(&s, &in, expected));
    exercise_tensor("dqi", (verdict_dims){1, 1, di}, expected_dqi, dqi,
                    verdict_float32(&s, &in, ARRAY_DQI, 1));
    exercise_tensor("dki", (verdict_dims){n, 1, di}, expected_dki, dki,
                    verdict_float32(&s, &in, ARRAY_DKI, 1));
}

static void step_8(void)
{
    judge_loss(1);
    judge_loss(20);
    judge_loss(T);
}

/* ---- The run ------------------------------------------------------------------------------------------------ */

#define STEPS 9
static const char *const step_name[STEPS] = {
    "dense attention", "groups",    "a softmax that runs along", "block scores",    "the choice",
    "chosen blocks",   "all of it", "the loss of the index",     "a model reads on"};

static void judge_step(int step, const char *prompt)
{
    static void (*const steps[])(void) = {step_1, step_2, step_3, step_4, step_5, step_6, step_7, step_8};
    static char place[32];
    const int before = exercise_failures();
    if (answer_lost()) {
        printf("  step %d  %-28s not judged\n", step, step_name[step - 1]);
        return;
    }
    snprintf(place, sizeof place, "step %d: ", step);
    exercise_place(place);
    if (step < STEPS)
        steps[step - 1]();
    else
        judge_text(prompt);
    printf("  step %d  %-28s %s\n", step, step_name[step - 1],
           exercise_failures() > before ? "not yet" : "right");
}

int main(int argc, char **argv)
{
    const char *prompt = NULL;
    int first = 1, last = STEPS, used = 0;
    if (argc > 3 && strcmp(argv[1], "--steps") == 0) {
        first = atoi(argv[2]), last = atoi(argv[3]), used = 3;
        if (argc > 5 && strcmp(argv[4], "--prompt") == 0)
            prompt = argv[5], used = 5;
    }
    if (first < 1 || last > STEPS || first > last) {
        fprintf(stderr, "own: expected steps from 1 to %d, found %d to %d\n", STEPS, first, last);
        return 2;
    }
    argv[used] = argv[0];
    exercise_begin(argc - used, argv + used);
    for (int step = first; step <= last; step++)
        judge_step(step, prompt);
    return exercise_end(NULL);
}
