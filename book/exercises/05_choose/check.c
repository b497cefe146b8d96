/* Selections against msa_topk, exactly, on ordinary scores and on scores that tie. */
#include "task.h"

static const msa_shape shape = {60, 60, 1, 1, 16, 16, 4, 4, 1, NULL, NULL, NULL, NULL};

static void judge(inputs_pattern pattern, touched *seen)
{
    const inputs in = exercise_inputs(&shape, pattern);
    const int64_t blocks = msa_n_blocks(&shape), n = shape.n_q * shape.topk;
    float *scores = exercise_floats(shape.n_q * blocks);
    int32_t *expected = exercise_alloc(n * 4), *found = exercise_alloc(n * 4);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    memset(found, 0x80, (size_t)n * 4);
    msa_index(&shape, in.qi, in.ki, scores, NULL, NULL, work);
    msa_topk(&shape, scores, expected, work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        int32_t *ids = found + i * shape.topk;
        choose(scores + i * blocks, i / shape.block, shape.topk, ids);
        for (int a = 0; a < shape.topk; a++)
            touched_mark(seen, i, ids[a]);
    }
    exercise_ids(&shape, expected, found);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched seen = touched_new(shape.n_q, msa_n_blocks(&shape), "query", "key block chosen, three times");
    judge(INPUTS_TIES, &seen);
    judge(INPUTS_CONSTANT, &seen);
    judge(INPUTS_NORMAL, &seen);
    return exercise_end(&seen);
}
