/* O and LSE of every query, and how many rows of K and V were read on the way. */
#include "task.h"

static const msa_shape shape = {40, 40, 1, 1, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};

static void judge(inputs_pattern pattern, touched *keys, touched *values)
{
    const int64_t n = shape.n_q * shape.d_head;
    const inputs in = exercise_inputs(&shape, pattern);
    const tensor k = {in.k, 1, shape.d_head, keys}, v = {in.v, 1, shape.d_head, values};
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    float *expected_lse = exercise_floats(shape.n_q), *lse = exercise_floats(shape.n_q);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    msa_dense(&shape, in.q, in.k, in.v, expected, expected_lse, work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        keys->row = values->row = i;
        attend_once(in.q + i * shape.d_head, &k, &v, i + 1, found + i * shape.d_head, lse + i);
    }
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, VERDICT_O, 1));
    exercise_tensor("lse", (verdict_dims){shape.n_q, 1, 1}, expected_lse, lse,
                    verdict_float32(&shape, &in, VERDICT_LSE, 1));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched keys = touched_new(shape.n_q, shape.n_kv, "query", "key read, and how often");
    touched values = touched_new(shape.n_q, shape.n_kv, "query", "value read");
    const uint64_t pairs = (uint64_t)(shape.n_q * (shape.n_q + 1) / 2);
    judge(INPUTS_NORMAL, &keys, &values);
    judge(INPUTS_LARGE, &keys, &values);
    judge(INPUTS_PEAKED, &keys, &values);
    exercise_bar("rows of K read", keys.reads, 3 * pairs);
    exercise_bar("rows of V read", values.reads, 3 * pairs);
    return exercise_end(&keys);
}
