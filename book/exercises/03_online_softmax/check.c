/* O and LSE of every query, and how many rows of K and V were read on the way. */
#include "task.h"

static const msa_shape shape = {40, 40, 1, 1, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};

static void judge(inputs_pattern pattern, touched *keys, touched *values)
{
    const int64_t n = shape.n_q * shape.d_head;
    const inputs in = exercise_inputs(&shape, pattern);
    const int d = shape.d_head;
    const tensor k = exercise_rows("k", in.k, shape.n_kv, 1, d, keys);
    const tensor v = exercise_rows("v", in.v, shape.n_kv, 1, d, values);
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    float *q = exercise_given(d, "q"), *o = exercise_wanted(d, "o"), *log_sum = exercise_wanted(1, "lse");
    float *expected_lse = exercise_floats(shape.n_q), *lse = exercise_floats(shape.n_q);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    msa_dense(&shape, in.q, in.k, in.v, expected, expected_lse, work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        keys->row = values->row = i;
        exercise_give(q, in.q + i * d, d);
        ANSWER(attend_once(q, &k, &v, i + 1, o, log_sum));
        exercise_take(found + i * d, o, d);
        exercise_take(lse + i, log_sum, 1);
    }
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, ARRAY_O, 1));
    exercise_tensor("lse", (verdict_dims){shape.n_q, 1, 1}, expected_lse, lse,
                    verdict_float32(&shape, &in, ARRAY_LSE, 1));
}

/* The last query of a long text: right as well, each row read once, and none kept. */
static void judge_long_text(void)
{
    const msa_shape text = {1, EXERCISE_LONG, 1, 1, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};
    const int d = text.d_head;
    const inputs in = exercise_inputs(&text, INPUTS_NORMAL);
    touched keys = touched_new(1, text.n_kv, "", ""), values = touched_new(1, text.n_kv, "", "");
    const tensor k = exercise_rows("k", in.k, text.n_kv, 1, d, &keys);
    const tensor v = exercise_rows("v", in.v, text.n_kv, 1, d, &values);
    float *q = exercise_given(d, "q"), *o = exercise_wanted(d, "o"), *lse = exercise_wanted(1, "lse");
    float *expected = exercise_floats(d), expected_lse;
    exercise_give(q, in.q, d);
    ANSWER(exercise_keep_nothing(&k, &v));
    const uint64_t nothing = answer_memory();
    keys.reads = values.reads = 0;
    ANSWER(attend_once(q, &k, &v, text.n_kv, o, lse));
    exercise_bar_memory(nothing, answer_memory());
    exercise_place("a long text: ");
    msa_dense(&text, in.q, in.k, in.v, expected, &expected_lse, exercise_alloc((int64_t)msa_workspace(NULL, &text)));
    exercise_tensor("o", (verdict_dims){1, 1, d}, expected, o, verdict_float32(&text, &in, ARRAY_O, 1));
    exercise_tensor("lse", (verdict_dims){1, 1, 1}, &expected_lse, lse,
                    verdict_float32(&text, &in, ARRAY_LSE, 1));
    exercise_true(keys.reads == EXERCISE_LONG && values.reads == EXERCISE_LONG,
                  "expected %d rows of K and of V to be read, found %llu and %llu", (int)EXERCISE_LONG,
                  (unsigned long long)keys.reads, (unsigned long long)values.reads);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    answer_hold(8);
    touched keys = touched_new(shape.n_q, shape.n_kv, "query", "key read, and how often");
    keys.brightest = 6; /* twice a pass: with one, the picture is darker */
    touched values = touched_new(shape.n_q, shape.n_kv, "query", "value read");
    const uint64_t pairs = (uint64_t)(shape.n_q * (shape.n_q + 1) / 2);
    judge(INPUTS_NORMAL, &keys, &values);
    judge(INPUTS_LARGE, &keys, &values);
    judge(INPUTS_PEAKED, &keys, &values);
    exercise_ladder("rows of K read", keys.reads, 2,
                    (exercise_rung[]){{"the stub", 6 * pairs}, {"online", 3 * pairs}});
    exercise_bar((exercise_count){"rows of K read", keys.reads, 3 * pairs, 3 * pairs, NULL});
    exercise_bar((exercise_count){"rows of V read", values.reads, 3 * pairs, 3 * pairs, NULL});
    judge_long_text();
    return exercise_end(&keys);
}
