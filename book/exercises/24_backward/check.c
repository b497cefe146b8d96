/* dQ, dK and dV of all queries against msa_backward, and how many rows of K and V were read. */
#include "task.h"

static const msa_shape shape = {40, 40, 1, 1, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};

static double *zeros(int64_t n, const char *name)
{
    double *x = answer_wanted(n * (int64_t)sizeof *x, name);
    for (int64_t i = 0; i < n; i++)
        x[i] = 0;
    return x;
}

static const float *rounded(const double *x, int64_t n)
{
    float *y = exercise_floats(n);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    return y;
}

static void judge(inputs_pattern pattern, touched *keys, touched *values)
{
    const int d = shape.d_head;
    const int64_t n = shape.n_q * d;
    const verdict_dims dims = {shape.n_q, 1, d};
    const inputs in = exercise_inputs(&shape, pattern);
    const tensor k = exercise_rows("k", in.k, shape.n_kv, 1, d, keys);
    const tensor v = exercise_rows("v", in.v, shape.n_kv, 1, d, values);
    float *q = exercise_given(d, "q"), *o_of = exercise_given(d, "o"), *dout = exercise_given(d, "dout");
    float *one_dq = exercise_wanted(d, "dq");
    float *o = exercise_floats(n), *lse = exercise_floats(shape.n_q), *dq = exercise_floats(n);
    float *expected_dq = exercise_floats(n), *expected_dk = exercise_floats(n),
          *expected_dv = exercise_floats(n);
    double *dk = zeros(n, "dk"), *dv = zeros(n, "dv");
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    msa_dense(&shape, in.q, in.k, in.v, o, lse, work);
    msa_backward(&shape, in.q, in.k, in.v, NULL, NULL, NULL, in.dout, expected_dq, expected_dk, expected_dv,
                 work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        const forward f = {q, o_of, dout, lse[i]};
        keys->row = values->row = i;
        exercise_give(q, in.q + i * d, d);
        exercise_give(o_of, o + i * d, d);
        exercise_give(dout, in.dout + i * d, d);
        ANSWER(backward_row(&f, &k, &v, i + 1, one_dq, dk, dv));
        exercise_take(dq + i * d, one_dq, d);
    }
    exercise_tensor("dv", dims, expected_dv, rounded(dv, n), verdict_float32(&shape, &in, ARRAY_DV, 1));
    exercise_tensor("dq", dims, expected_dq, dq, verdict_float32(&shape, &in, ARRAY_DQ, 1));
    exercise_tensor("dk", dims, expected_dk, rounded(dk, n), verdict_float32(&shape, &in, ARRAY_DK, 1));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched keys = touched_new(shape.n_q, shape.n_kv, "query", "key read, and how often");
    keys.brightest = 6; /* twice a pass: with one, the picture is darker */
    touched values = touched_new(shape.n_q, shape.n_kv, "query", "value read");
    const uint64_t pairs = (uint64_t)(shape.n_q * (shape.n_q + 1) / 2);
    judge(INPUTS_NORMAL, &keys, &values);
    judge(INPUTS_PEAKED, &keys, &values);
    judge(INPUTS_LARGE, &keys, &values);
    exercise_bar((exercise_count){"rows of K read", keys.reads, 3 * pairs, 3 * pairs, NULL});
    exercise_bar((exercise_count){"rows of V read", values.reads, 3 * pairs, 3 * pairs, NULL});
    return exercise_end(&keys);
}
