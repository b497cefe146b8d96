/* The loss of every query against msa_kl with full support, one query at a time; rows read and cells of the
 * pad touched. The picture shows the pad. */
#include "task.h"

#include <stdio.h>

static const msa_shape shape = {40, 40, 4, 1, 16, 8, 8, 5, 1, NULL, NULL, NULL, NULL};

struct pad {
    double *number; // [columns of seen]
    touched *seen;
    uint64_t cells;
};

static const double unwritten = NAN;

/* In the judge's process, for each cell that is asked for. */
static void note_cell(void *context, int64_t i, int64_t column)
{
    pad *p = context;
    (void)column;
    p->cells += !(p->seen->count[p->seen->row * p->seen->columns + i] > 0);
    touched_mark(p->seen, p->seen->row, i);
}

double *cell(pad *p, int64_t i)
{
    answer_ask(p->number, i, 0);
    return p->number + i;
}

static void offer(pad *p)
{
    answer_offer(&(answer_source){p->number, p->seen->columns, 1, 0, "cell(p, %lld)", note_cell, p});
}

/* Whether cells were used that nobody asked for; all are NaN again for the next query. */
static void check_pad(const pad *p)
{
    for (int64_t i = 0; i < p->seen->columns; i++) {
        const bool asked = p->seen->count[p->seen->row * p->seen->columns + i] > 0;
        exercise_true(asked || memcmp(p->number + i, &unwritten, sizeof unwritten) == 0,
                      "query %lld: number %lld of the pad was written past the count: write *cell(p, %lld)",
                      (long long)p->seen->row, (long long)i, (long long)i);
        p->number[i] = unwritten;
    }
}

/* The same query alone, with the keys that it sees, to the reference. */
static float loss_of(const inputs *in, int64_t i)
{
    const msa_shape one = {1, i + 1, shape.n_heads, 1, shape.d_head, shape.d_index, 8, 5, 1, NULL, NULL, NULL, NULL};
    double loss;
    msa_kl(&one, in->q + i * shape.n_heads * shape.d_head, in->k, in->qi + i * shape.d_index, in->ki, NULL,
           NULL, NULL, 1, &loss, NULL, NULL, exercise_alloc((int64_t)msa_workspace(NULL, &one)));
    return (float)loss;
}

static pad new_pad(touched *seen)
{
    pad p = {answer_wanted(seen->columns * (int64_t)sizeof(double), "the pad"), seen, 0};
    for (int64_t i = 0; i < seen->columns; i++)
        p.number[i] = unwritten;
    return p;
}

static void judge(inputs_pattern pattern, touched *keys, touched *index_keys, pad *p)
{
    const inputs in = exercise_inputs(&shape, pattern);
    const int d = shape.d_head, di = shape.d_index, group = shape.n_heads;
    const tensor k = exercise_rows("k", in.k, shape.n_kv, 1, d, keys);
    const tensor ki = exercise_rows("ki", in.ki, shape.n_kv, 1, di, index_keys);
    float *q = exercise_given(group * d, "q"), *head_lse = exercise_given(group, "lse"), *qi = exercise_given(di, "qi");
    double *loss = answer_wanted(sizeof *loss, "the loss");
    const int64_t n = shape.n_q * shape.n_heads;
    float *o = exercise_floats(n * shape.d_head), *lse = exercise_floats(n);
    float *expected = exercise_floats(shape.n_q), *found = exercise_floats(shape.n_q), most = 0;
    char what[80];
    msa_dense(&shape, in.q, in.k, in.v, o, lse, exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
    for (int64_t i = 0; i < shape.n_q; i++) {
        keys->row = index_keys->row = p->seen->row = i;
        exercise_give(q, in.q + i * group * d, group * d);
        exercise_give(head_lse, lse + i * group, group);
        exercise_give(qi, in.qi + i * di, di);
        *loss = NAN;
        ANSWER(*loss = loss_row(q, head_lse, group, qi, &k, &ki, i + 1, p));
        check_pad(p);
        found[i] = (float)*loss;
        expected[i] = loss_of(&in, i);
        most = fmaxf(most, expected[i]);
    }
    snprintf(what, sizeof what, "loss, %s inputs, query", inputs_pattern_name(pattern));
    exercise_tensor(what, (verdict_dims){shape.n_q, 1, 1}, expected, found,
                    verdict_float32_kl(&shape, &in, (double)most));
}

/* The last query of a long text: right as well, each row read once, and none kept. */
static void judge_long_text(void)
{
    const int d = shape.d_head, di = shape.d_index, group = shape.n_heads;
    const msa_shape text = {1, EXERCISE_LONG, group, 1, d, di, 8, 5, 1, NULL, NULL, NULL, NULL};
    const inputs in = exercise_inputs(&text, INPUTS_NORMAL);
    touched keys = touched_new(1, text.n_kv, "", ""), index_keys = touched_new(1, text.n_kv, "", "");
    const tensor k = exercise_rows("k", in.k, text.n_kv, 1, d, &keys);
    const tensor ki = exercise_rows("ki", in.ki, text.n_kv, 1, di, &index_keys);
    float *q = exercise_given(group * d, "q"), *lse = exercise_given(group, "lse"), *qi = exercise_given(di, "qi");
    float *o = exercise_floats(group * d), *true_lse = exercise_floats(group);
    double *loss = answer_wanted(sizeof *loss, "the loss"), expected;
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &text));
    touched cells = touched_new(1, 2 * shape.n_kv, "", "");
    pad p = new_pad(&cells);
    offer(&p);
    msa_dense(&text, in.q, in.k, in.v, o, true_lse, work);
    msa_kl(&text, in.q, in.k, in.qi, in.ki, NULL, NULL, NULL, 1, &expected, NULL, NULL, work);
    exercise_give(q, in.q, group * d);
    exercise_give(lse, true_lse, group);
    exercise_give(qi, in.qi, di);
    ANSWER(exercise_keep_nothing(&k, &ki));
    const uint64_t nothing = answer_memory();
    keys.reads = index_keys.reads = 0;
    *loss = NAN;
    ANSWER(*loss = loss_row(q, lse, group, qi, &k, &ki, text.n_kv, &p));
    exercise_bar_memory(nothing, answer_memory());
    exercise_place("a long text: ");
    const float e = (float)expected, found = (float)*loss;
    exercise_tensor("loss", (verdict_dims){1, 1, 1}, &e, &found, verdict_float32_kl(&text, &in, expected));
    exercise_true(keys.reads == EXERCISE_LONG && index_keys.reads == EXERCISE_LONG,
                  "expected %d keys and index keys to be read, found %llu and %llu", (int)EXERCISE_LONG,
                  (unsigned long long)keys.reads, (unsigned long long)index_keys.reads);
    exercise_true(p.cells <= 4, "expected at most 4 cells of the pad, found %llu", (unsigned long long)p.cells);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    answer_hold(8);
    touched keys = touched_new(shape.n_q, shape.n_kv, "", ""), index_keys = keys;
    touched seen =
        touched_new(shape.n_q, 2 * shape.n_kv, "query", "cell of the pad, and how often it was used");
    pad p = new_pad(&seen);
    offer(&p);
    const uint64_t pairs = (uint64_t)(shape.n_q * (shape.n_q + 1) / 2);
    judge(INPUTS_NORMAL, &keys, &index_keys, &p);
    judge(INPUTS_PEAKED, &keys, &index_keys, &p);
    judge(INPUTS_LARGE, &keys, &index_keys, &p);
    exercise_bar((exercise_count){"rows of K read", keys.reads, 3 * pairs, 3 * pairs, NULL});
    exercise_bar((exercise_count){"index keys read", index_keys.reads, 3 * pairs, 3 * pairs, "row(ki, j, 0)"});
    exercise_bar((exercise_count){"cells of the pad touched", p.cells, 0, (uint64_t)(4 * shape.n_q), NULL});
    judge_long_text();
    return exercise_end(&seen);
}
