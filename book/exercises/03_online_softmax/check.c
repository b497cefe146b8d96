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
                    verdict_float32(&shape, &in, VERDICT_O, 1));
    exercise_tensor("lse", (verdict_dims){shape.n_q, 1, 1}, expected_lse, lse,
                    verdict_float32(&shape, &in, VERDICT_LSE, 1));
}

/* Its own memory for one query and so many keys. */
static uint64_t memory_of(int64_t keys)
{
    const msa_shape long_text = {1, 640, 1, 1, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};
    const int d = shape.d_head;
    const inputs in = exercise_inputs(&long_text, INPUTS_NORMAL);
    const tensor k = exercise_rows("k", in.k, keys, 1, d, NULL), v = exercise_rows("v", in.v, keys, 1, d, NULL);
    float *q = exercise_given(d, "q"), *o = exercise_wanted(d, "o"), *lse = exercise_wanted(1, "lse");
    exercise_give(q, in.q, d);
    answer_measure();
    ANSWER(attend_once(q, &k, &v, keys, o, lse));
    return answer_memory();
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
    exercise_bar((exercise_count){"rows of K read", keys.reads, 3 * pairs, 3 * pairs, NULL});
    exercise_bar((exercise_count){"rows of V read", values.reads, 3 * pairs, 3 * pairs, NULL});
    exercise_bar_memory(memory_of(40), memory_of(640));
    return exercise_end(&keys);
}
