/* Keys split into parts of 10; the merged result against attention over all of them. The picture shows where the merged result
 * is another: nowhere, in the end. */
#include "task.h"

#define PARTS 4

static const msa_shape shape = {40, 40, 1, 1, 16, 8, 10, 1, 1, NULL, NULL, NULL, NULL};

/* Part b of query i, by the reference: that part's keys alone. */
static part attend_part(const inputs *in, int64_t i, int64_t b)
{
    const int64_t first = b * shape.block, end = i + 1 < first + shape.block ? i + 1 : first + shape.block;
    const int d = shape.d_head;
    float *o = exercise_given(d, "o of a part");
    part p = {o, -INFINITY};
    if (end <= first)
        return p;
    const msa_shape one = {1, end - first, 1, 1, d, 8, 10, 1, 1, NULL, NULL, NULL, NULL};
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &one));
    msa_dense(&one, in->q + i * d, in->k + first * d, in->v + first * d, o, &p.lse, work);
    return p;
}

/* Loosely: the verdict has budgets. NaN is wrong as well. */
static void mark_wrong(const float *expected, const float *found, touched *wrong)
{
    for (int64_t a = 0; a < shape.n_q * shape.d_head; a++)
        if (!(fabsf(found[a] - expected[a]) <= 1e-3f * fmaxf(1, fabsf(expected[a]))))
            touched_mark(wrong, a / shape.d_head, a % shape.d_head);
}

static void judge(inputs_pattern pattern, touched *wrong)
{
    const int64_t n = shape.n_q * shape.d_head;
    const inputs in = exercise_inputs(&shape, pattern);
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    float *o = exercise_wanted(shape.d_head, "o"), *log_sum = exercise_wanted(1, "lse");
    float *expected_lse = exercise_floats(shape.n_q), *lse = exercise_floats(shape.n_q);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    msa_dense(&shape, in.q, in.k, in.v, expected, expected_lse, work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        part *parts = answer_given(PARTS * (int64_t)sizeof *parts, "parts");
        for (int b = 0; b < PARTS; b++)
            parts[b] = attend_part(&in, i, b);
        ANSWER(merge(parts, PARTS, shape.d_head, o, log_sum));
        exercise_take(found + i * shape.d_head, o, shape.d_head);
        exercise_take(lse + i, log_sum, 1);
    }
    mark_wrong(expected, found, wrong);
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, ARRAY_O, 1));
    exercise_tensor("lse", (verdict_dims){shape.n_q, 1, 1}, expected_lse, lse,
                    verdict_float32(&shape, &in, ARRAY_LSE, 1));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched wrong =
        touched_new(shape.n_q, shape.d_head, "query", "channel of o: in how many of three runs it is wrong");
    wrong.brightest = 3;
    judge(INPUTS_NORMAL, &wrong);
    judge(INPUTS_PEAKED, &wrong);
    judge(INPUTS_LARGE, &wrong);
    return exercise_end(&wrong);
}
