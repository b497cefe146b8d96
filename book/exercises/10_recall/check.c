/* Both measures of every query with more than k blocks, against msa_recall, for three selections. */
#include "task.h"

#include <stdio.h>

static const msa_shape shape = {60, 60, 4, 1, 16, 8, 6, 3, 1, NULL, NULL, NULL, NULL};

static void judge(inputs_pattern pattern, const char *which, const int32_t *ids, touched *seen)
{
    const inputs in = exercise_inputs(&shape, pattern);
    const int group = shape.n_heads, d = shape.d_head;
    const tensor k = exercise_rows("k", in.k, shape.n_kv, 1, d, seen);
    float *q = exercise_given(group * d, "q");
    int32_t *chosen = answer_given(shape.topk * 4, "ids");
    recalls *r = answer_wanted(sizeof *r, "the result");
    const selection s = {chosen, shape.topk, shape.block};
    float *expected = exercise_floats(2 * shape.n_q), *found = exercise_floats(2 * shape.n_q);
    char what[2][80];
    msa_recall_result mean;
    msa_recall(&shape, in.q, in.k, ids, expected, &mean,
               exercise_alloc((int64_t)msa_recall_workspace(&shape)));
    for (int64_t i = 0; i < shape.n_q; i++) {
        seen->row = i;
        exercise_give(q, in.q + i * group * d, group * d);
        memcpy(chosen, ids + i * shape.topk, (size_t)shape.topk * 4);
        *r = (recalls){1, 1};
        if (i / shape.block >= shape.topk)
            ANSWER(*r = recall(q, group, &k, i + 1, &s));
        found[i] = (float)r->block;
        found[shape.n_q + i] = (float)r->score;
    }
    snprintf(what[0], sizeof what[0], "block recall, %s, %s inputs, query", which,
             inputs_pattern_name(pattern));
    snprintf(what[1], sizeof what[1], "score recall, %s, %s inputs, query", which,
             inputs_pattern_name(pattern));
    for (int a = 0; a < 2; a++)
        exercise_tensor(what[a], (verdict_dims){shape.n_q, 1, 1}, expected + a * shape.n_q,
                        found + a * shape.n_q, (verdict_budget){0x1p-20, 0x1p-20, NULL});
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched seen = touched_new(shape.n_q, shape.n_kv, "query", "key read");
    touched unseen = touched_new(shape.n_q, shape.n_kv, "", "");
    int32_t *ids = exercise_alloc(shape.n_q * shape.topk * 4);
    selection_draw(&shape, SELECTION_LOCAL, exercise_seed(), ids);
    judge(INPUTS_NORMAL, "the last blocks", ids, &seen);
    judge(INPUTS_CONSTANT, "the last blocks", ids, &unseen);
    selection_draw(&shape, SELECTION_ENDS, exercise_seed(), ids);
    judge(INPUTS_PEAKED, "block 0 and the local one", ids, &unseen);
    selection_draw(&shape, SELECTION_ANY, exercise_seed(), ids);
    judge(INPUTS_NORMAL, "random blocks", ids, &unseen);
    return exercise_end(&seen);
}
