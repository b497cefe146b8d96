/**
 * @file test_variants.c
 * @brief The departures from MSA that experiments compare it with: what each selector chooses, the reverse KL
 * by hand, and the task whose answers are known. (Their gradients: test_model.c.)
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../ref/fast/selectors.h"
#include "../ref/judge/judge.h"
#include "../ref/table/table.h"
#include "../ref/model/internal.h"
#include "../ref/model/task.h"
#include "support/check.h"

static const int32_t packed[] = {0, 9, 10, 40};
static const msa_shape shapes[] = {
    {40, 40, 4, 2, 4, 8, 4, 3, 1, NULL, NULL, NULL, NULL},
    {40, 40, 2, 2, 4, 8, 2, 4, 3, packed, packed, NULL, NULL},
    {5, 40, 2, 1, 4, 8, 4, 3, 1, NULL, NULL, NULL, NULL},
};

/** Inputs that are small integers: sums and means over 2 or 4 keys are exact. */
typedef struct problem {
    msa_shape s;
    float *qi, *ki, *scores;
    int32_t *ids;
} problem;

static problem choose(check_case *c, const msa_shape *s, model_selector selector)
{
    inputs_rng rng = {check_seed((uint64_t)selector)};
    const int64_t nq = s->n_q * s->n_kv_heads * s->d_index, nk = s->n_kv * s->d_index;
    problem p = {*s, check_floats(nq), check_floats(nk),
                 check_floats(s->n_kv_heads * s->n_q * msa_n_blocks(s)),
                 check_ints(s->n_kv_heads * s->n_q * s->topk)};
    for (int64_t i = 0; i < nq; i++)
        p.qi[i] = (float)inputs_below(&rng, 9) - 4;
    for (int64_t i = 0; i < nk; i++)
        p.ki[i] = (float)inputs_below(&rng, 9) - 4;
    model_config config = model_default_config();
    config.selector = (int)selector;
    msa_ops own;
    const msa_kernel *index = variant_ops(&config, &msa_fast_ops, &own)->stage[MSA_STAGE_INDEX];
    void *work = check_alloc((int64_t)index->workspace(s), 1);
    const msa_status status =
        index->run(s, &(msa_arrays){.qi = p.qi, .ki = p.ki, .scores = p.scores, .ids = p.ids}, work);
    check_true(c, status == MSA_OK, "%s", msa_strerror(status));
    check_true(c,
               index->run(s, &(msa_arrays){.ki = p.ki, .ids = p.ids}, work) == MSA_ERR_NULL &&
                   index->run(s, &(msa_arrays){.qi = p.qi, .ids = p.ids}, work) == MSA_ERR_NULL &&
                   index->run(s, &(msa_arrays){.qi = p.qi, .ki = p.ki, .ids = p.ids}, NULL) == MSA_ERR_NULL,
               "no pointer is missing");
    check_true(c, msa_check_ids(s, p.ids) == MSA_OK, "the ids are a selection");
    return p;
}

/** One (query, group): its local block, keys and choice. */
typedef struct row {
    int64_t local, n_kv;
    const float *qi, *ki;
    const int32_t *ids;
} row;

static row row_of(const problem *p, int r, int64_t q)
{
    const msa_shape *s = &p->s;
    int n = 0;
    while (n + 1 < msa_n_seqs(s) && q >= msa_get_seq(s, n + 1).q0)
        n++;
    const msa_seq seq = msa_get_seq(s, n);
    return (row){(seq.n_kv - seq.n_q + q - seq.q0) / s->block, seq.n_kv,
                 p->qi + (q * s->n_kv_heads + r) * s->d_index, p->ki + seq.kv0 * s->d_index,
                 p->ids + ((int64_t)r * s->n_q + q) * s->topk};
}

static bool chosen(const problem *p, const row *w, int64_t block)
{
    for (int a = 0; a < p->s.topk; a++)
        if (w->ids[a] == block)
            return true;
    return false;
}

static double logit(const problem *p, const row *w, int64_t token)
{
    double sum = 0;
    for (int c = 0; c < p->s.d_index; c++)
        sum += (double)w->qi[c] * (double)w->ki[token * p->s.d_index + c];
    return sum;
}

static double mean_logit(const problem *p, const row *w, int64_t block)
{
    double sum = 0;
    for (int64_t j = block * p->s.block; j < (block + 1) * p->s.block; j++)
        sum += logit(p, w, j);
    return sum / p->s.block;
}

static double block_sum(const problem *p, const row *w, int64_t block)
{
    double sum = 0;
    for (int64_t j = block * p->s.block; j < (block + 1) * p->s.block; j++)
        sum += exp(logit(p, w, j) / sqrt(p->s.d_index));
    return sum;
}

// Nothing left out scores more than anything chosen; ties go to the lower id.
static void follows_means(check_case *c, const problem *p, const row *w)
{
    for (int64_t b = 0; b < w->local; b++)
        for (int64_t a = 0; a < w->local; a++)
            if (chosen(p, w, b) && !chosen(p, w, a)) {
                double in = mean_logit(p, w, b), out = mean_logit(p, w, a);
                check_true(c, in > out || (in == out && b < a), "block %d of mean %g, not %d of mean %g",
                           (int)b, in, (int)a, out);
            }
}

// Sums are rounded to float as logarithms, so one that is larger by less than that may stay out.
static void follows_sums(check_case *c, const problem *p, const row *w)
{
    for (int64_t b = 0; b < w->local; b++)
        for (int64_t a = 0; a < w->local; a++)
            if (chosen(p, w, b) && !chosen(p, w, a)) {
                const double in = block_sum(p, w, b), out = block_sum(p, w, a);
                check_true(c, in > out * (1 - 1e-5), "block %d of sum %g, not %d of sum %g", (int)b, in,
                           (int)a, out);
            }
}

static void is_window(check_case *c, const problem *p, const row *w)
{
    for (int64_t b = 0; b <= w->local; b++)
        check_true(c, chosen(p, w, b) == (b == 0 || b > w->local - (p->s.topk - 1)), "block %d of 0..%d",
                   (int)b, (int)w->local);
}

static void has_forced(check_case *c, const problem *p, const row *w)
{
    check_true(c, chosen(p, w, 0), "the first block");
    check_true(c, w->local == 0 || p->s.topk < 3 || chosen(p, w, w->local - 1), "the block before the local");
}

// What is known of a selector's choice, row by row; of random_is_even() only as a whole.
static void (*const follows[N_SELECTORS])(check_case *, const problem *,
                                          const row *) = {[SELECTOR_MEAN] = follows_means,
                                                          [SELECTOR_FORCED] = has_forced,
                                                          [SELECTOR_WINDOW] = is_window,
                                                          [SELECTOR_SUM] = follows_sums};

static void judged(check_case *c, const msa_kernel *k)
{
    for (int n = 0; n < inputs_n_all_shapes; n++)
        for (int p = 0; p < INPUTS_N_PATTERNS && (n < inputs_n_shapes || n >= inputs_first_padded); p++) {
            inputs in;
            if (!inputs_new(&in, &inputs_shapes[n], (inputs_pattern)p, check_seed(1)))
                return;
            const judge_report report = judge_kernel(k, &inputs_shapes[n], &in, check_seed(2));
            check_true(c, report.outcome == JUDGE_PASS, "shape %d, %s: %s", n,
                       inputs_pattern_name((inputs_pattern)p), report.text);
            inputs_free(&in);
        }
}

static void selector_holds(model_selector selector)
{
    const msa_kernel *k = &index_selectors[selector - 1];
    check_case c = check_begin("selector %s", k->name);
    char name[64];
    snprintf(name, sizeof name, "index/%s", k->name);
    check_true(&c, table_find(name, "ref") == k && model_selector_named(k->name) == selector,
               "is found by its name");
    for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++) {
        problem p = choose(&c, &shapes[n], selector);
        for (int r = 0; r < p.s.n_kv_heads; r++)
            for (int64_t q = 0; q < p.s.n_q; q++) {
                row w = row_of(&p, r, q);
                check_true(&c, chosen(&p, &w, w.local), "the local block");
                if (follows[selector])
                    follows[selector](&c, &p, &w);
            }
    }
    judged(&c, k);
    check_end(&c);
    check_release(NULL);
}

// Over many queries every block that is not the local one is taken about equally often.
static void random_is_even(void)
{
    check_case c = check_begin("selector random takes every block about as often");
    const msa_shape s = {512, 1024, 2,    2,    4,    8,   64,
                         5,   1,    NULL, NULL, NULL, NULL}; // blocks 0..7 come before every local one
    problem p = choose(&c, &s, SELECTOR_RANDOM);
    int taken[8] = {0}, rows = 0;
    double expected = 0;
    for (int r = 0; r < s.n_kv_heads; r++)
        for (int64_t q = 0; q < s.n_q; q++, rows++) {
            row w = row_of(&p, r, q);
            expected += 4.0 / (double)w.local;
            for (int b = 0; b < 8; b++)
                taken[b] += chosen(&p, &w, b);
        }
    for (int b = 0; b < 8; b++) // six standard deviations of that many draws
        check_true(&c, fabs(taken[b] - expected) < 6 * sqrt(expected),
                   "block %d: %d times, about %.0f expected", b, taken[b], expected);
    check_end(&c);
    check_release(NULL);
}

static void plain_is_untouched(void)
{
    const model_config config = model_default_config();
    msa_ops own;
    tap(variant_ops(&config, &msa_fast_ops, &own) == &msa_fast_ops, "plain MSA runs the table it was given");
}

// Two keys, uniform teacher (q = 0): KL(u || t) = log 2 - H(u).
static void reverse_kl_by_hand(void)
{
    check_case c = check_begin("msa_kl_reverse by hand");
    const msa_shape s = {1, 2, 1, 1, 1, 1, 2, 1, 1, NULL, NULL, NULL, NULL};
    const float q[] = {0}, k[] = {1, -1}, qi[] = {1}, ki[] = {(float)log(3), 0}; // u = 3/4, 1/4
    float dqi[1], dki[2];
    double loss;
    msa_status status = msa_kl_reverse(&s, q, k, qi, ki, NULL, NULL, NULL, 1, &loss, dqi, dki,
                                       check_alloc((int64_t)msa_workspace(&msa_ref_ops, &s), 1));
    const double expected = 0.75 * log(0.75) + 0.25 * log(0.25) + log(2);
    const double slope = 0.75 * (log(0.75) + log(2) - expected);
    check_true(&c, status == MSA_OK && fabs(loss - expected) < 1e-7, "loss %.9g, expected %.9g", loss,
               expected);
    check_true(&c, fabs((double)dki[0] - slope) < 1e-6 && fabs((double)dki[1] + slope) < 1e-6,
               "gradient %.9g, expected %.9g", (double)dki[0], slope);
    check_end(&c);
    check_release(NULL);
}

static void task_is_sound(int length)
{
    check_case c =
        check_begin("associative recall, %d tokens: every question has its fact before it", length);
    uint8_t *tokens = check_alloc(length, 1), *targets = check_alloc(length, 1),
            *again = check_alloc(length, 1);
    int *distance = check_alloc(length, sizeof *distance), asked = 0;
    for (uint64_t number = 0; number < 20; number++) {
        task_draw(check_seed(1), number, length, tokens, targets, distance);
        int facts = 0;
        for (int i = 0; i < length; i++) {
            facts += tokens[i] < TASK_ASK;
            check_true(&c, (distance[i] > 0) == (tokens[i] >= TASK_ASK && tokens[i] < TASK_ANSWER),
                       "what is asked counts");
            check_true(&c, tokens[i] < TASK_ANSWER || tokens[i] >= TASK_NOISE,
                       "no answer stands in the sequence");
            if (distance[i] <= 0)
                continue;
            asked++;
            const int fact = tokens[i - distance[i]];
            check_true(&c, distance[i] <= i && fact / TASK_VALUES == tokens[i] - TASK_ASK,
                       "the fact of the key asked for");
            check_true(&c, targets[i] == TASK_ANSWER + fact % TASK_VALUES, "its value is the target");
        }
        check_true(&c, facts == TASK_KEYS, "%d facts", facts);
    }
    const double noise = length - TASK_KEYS;
    const double expected = 20 * noise / 8;                       // a quarter asks, half of them too early
    const double places = noise * (length + 1) / 192 / TASK_KEYS; // variance of a rank sum
    check_true(&c, fabs(asked - expected) < 6 * sqrt(expected + 20 * places),
               "%d questions, about %.0f expected", asked, expected);
    task_draw(check_seed(1), 19, length, again, targets, distance);
    check_same(&c, "the same number again", tokens, again, (size_t)length);
    check_end(&c);
    check_release(NULL);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    for (model_selector selector = SELECTOR_MAX + 1; selector < N_SELECTORS; selector++)
        selector_holds(selector);
    random_is_even();
    plain_is_untouched();
    reverse_kl_by_hand();
    task_is_sound(TASK_MIN_LENGTH);
    task_is_sound(512);
    return check_done();
}
