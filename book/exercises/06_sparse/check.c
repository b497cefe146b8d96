/* O of every query for three selections, and how many keys were read: those of the support. */
#include "task.h"

static const msa_shape shape = {60, 60, 1, 1, 16, 8, 8, 3, 1, NULL, NULL, NULL, NULL};

static uint64_t support(const int32_t *ids)
{
    uint64_t n = 0;
    for (int64_t i = 0; i < shape.n_q; i++)
        for (int a = 0; a < shape.topk && ids[i * shape.topk + a] >= 0; a++) {
            const int64_t first = (int64_t)ids[i * shape.topk + a] * shape.block;
            n += (uint64_t)(i - first + 1 < shape.block ? i - first + 1 : shape.block);
        }
    return n;
}

static uint64_t judge(selection_kind kind, touched *seen, touched *values)
{
    const int64_t n = shape.n_q * shape.d_head;
    const inputs in = exercise_inputs(&shape, INPUTS_DISTINCT);
    const int d = shape.d_head;
    const tensor k = exercise_rows("k", in.k, shape.n_kv, 1, d, seen);
    const tensor v = exercise_rows("v", in.v, shape.n_kv, 1, d, values);
    float *q = exercise_given(d, "q"), *o = exercise_wanted(d, "o");
    int32_t *chosen = answer_given(shape.topk * 4, "ids");
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    int32_t *ids = exercise_alloc(shape.n_q * shape.topk * 4);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    selection_draw(&shape, kind, exercise_seed(), ids);
    msa_sparse(&shape, in.q, in.k, in.v, ids, expected, NULL, work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        seen->row = values->row = i;
        exercise_give(q, in.q + i * d, d);
        memcpy(chosen, ids + i * shape.topk, (size_t)shape.topk * 4);
        ANSWER(attend_blocks(q, &k, &v, i, chosen, shape.topk, shape.block, o));
        exercise_take(found + i * d, o, d);
    }
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, ARRAY_O, 1));
    return support(ids);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched unseen = touched_new(shape.n_q, shape.n_kv, "", "");
    touched seen = touched_new(shape.n_q, shape.n_kv, "query", "key read");
    touched values = touched_new(shape.n_q, shape.n_kv, "", "");
    uint64_t pairs = judge(SELECTION_ENDS, &unseen, &values) + judge(SELECTION_LOCAL, &unseen, &values);
    pairs += judge(SELECTION_ANY, &seen, &values);
    exercise_bar((exercise_count){"rows of K read", unseen.reads + seen.reads, pairs, pairs, NULL});
    exercise_bar((exercise_count){"rows of V read", values.reads, pairs, pairs, NULL});
    return exercise_end(&seen);
}
