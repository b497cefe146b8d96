/* Causal attention of one head, every query in turn, on inputs with logits of about 1000 among them. */
#include "task.h"

static const msa_shape shape = {40, 40, 1, 1, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};

static void judge(inputs_pattern pattern, touched *seen)
{
    const int64_t n = shape.n_q * shape.d_head;
    const inputs in = exercise_inputs(&shape, pattern);
    const int d = shape.d_head;
    const tensor k = exercise_rows("k", in.k, shape.n_kv, 1, d, seen);
    const tensor v = exercise_rows("v", in.v, shape.n_kv, 1, d, NULL);
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    float *q = exercise_given(d, "q"), *o = exercise_wanted(d, "o");
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    msa_dense(&shape, in.q, in.k, in.v, expected, NULL, work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        seen->row = i;
        exercise_give(q, in.q + i * d, d);
        ANSWER(attend(q, &k, &v, i + 1, o));
        exercise_take(found + i * d, o, d);
    }
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, ARRAY_O, 1));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched seen = touched_new(shape.n_q, shape.n_kv, "query", "key read");
    judge(INPUTS_NORMAL, &seen);
    judge(INPUTS_PEAKED, &seen);
    judge(INPUTS_LARGE, &seen);
    return exercise_end(&seen);
}
