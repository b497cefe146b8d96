/* Causal attention of one head, every query in turn, on inputs with logits of about 1000 among them. */
#include "task.h"

static const msa_shape shape = {40, 40, 1, 1, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};

static void judge(inputs_pattern pattern, touched *seen)
{
    const int64_t n = shape.n_q * shape.d_head;
    const inputs in = exercise_inputs(&shape, pattern);
    const tensor k = {in.k, 1, shape.d_head, seen}, v = {in.v, 1, shape.d_head, NULL};
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    msa_dense(&shape, in.q, in.k, in.v, expected, NULL, work);
    for (seen->row = 0; seen->row < shape.n_q; seen->row++)
        attend(in.q + seen->row * shape.d_head, &k, &v, seen->row + 1, found + seen->row * shape.d_head);
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, VERDICT_O, 1));
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
