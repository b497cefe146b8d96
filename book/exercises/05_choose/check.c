/* Selections against msa_topk, exactly, on ordinary scores and on scores that tie. */
#include "task.h"

#include <stdio.h>

static const msa_shape shape = {60, 60, 1, 1, 16, 16, 4, 4, 1, NULL, NULL, NULL, NULL};

/* "block 3 (score 0.5)"; for -1 and other ids that are no block, the number alone. */
static const char *block_text(char text[48], int32_t id, int64_t local, const float *score)
{
    if (id < 0 || id > local)
        snprintf(text, 48, "%d", id);
    else if (id == local)
        snprintf(text, 48, "block %d, the local one", id);
    else
        snprintf(text, 48, "block %d (score %.7g)", id, (double)score[id]);
    return text;
}

/* The first id of a that is not in b, from place `from` on; topk if there is none. */
static int lacking(const int32_t *a, const int32_t *b, int from)
{
    for (; from < shape.topk; from++) {
        int i = 0;
        while (i < shape.topk && b[i] != a[from])
            i++;
        if (i == shape.topk)
            break;
    }
    return from;
}

/* What was left out and what was taken for it: of those, a pair that ties, if there is one. */
static void compare(const char *inputs_name, int64_t i, const float *score, const int32_t *expected,
                    const int32_t *found)
{
    const int64_t local = i / shape.block;
    char want[48], got[48];
    int out = lacking(expected, found, 0), in = lacking(found, expected, 0);
    bool tie = false;
    for (int a = out; a < shape.topk && !tie; a = lacking(expected, found, a + 1))
        for (int b = in; b < shape.topk && !tie; b = lacking(found, expected, b + 1))
            if (expected[a] >= 0 && expected[a] < local && found[b] >= 0 && found[b] < local &&
                score[expected[a]] >= score[found[b]] && score[expected[a]] <= score[found[b]])
                out = a, in = b, tie = true;
    exercise_true(out == shape.topk || in == shape.topk, "%s inputs, query %lld, local block %lld: expected %s, found %s%s",
                  inputs_name, (long long)i, (long long)local,
                  block_text(want, out < shape.topk ? expected[out] : -1, local, score),
                  block_text(got, in < shape.topk ? found[in] : -1, local, score),
                  tie ? ": a tie, in which the lower id wins" : "");
    for (int a = 0; a < shape.topk; a++)
        exercise_true(found[a] == expected[a],
                      "%s inputs, query %lld, local block %lld: ids[%d]: expected %d, found %d: ids ascend, -1 fills up",
                      inputs_name, (long long)i, (long long)local, a, expected[a], found[a]);
}

static void judge(inputs_pattern pattern, touched *seen)
{
    const inputs in = exercise_inputs(&shape, pattern);
    const int64_t blocks = msa_n_blocks(&shape), n = shape.n_q * shape.topk;
    float *scores = exercise_floats(shape.n_q * blocks);
    int32_t *expected = exercise_alloc(n * 4), *ids = answer_wanted(shape.topk * 4, "ids");
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    msa_index(&shape, in.qi, in.ki, scores, NULL, NULL, work);
    msa_topk(&shape, scores, expected, work);
    for (int64_t i = 0; i < shape.n_q; i++) {
        const int64_t local = i / shape.block;
        float *score = exercise_given(local + 1, "score");
        exercise_give(score, scores + i * blocks, local + 1);
        memset(ids, 0x80, (size_t)shape.topk * 4);
        ANSWER(choose(score, local, shape.topk, ids));
        for (int a = 0; a < shape.topk; a++)
            touched_mark(seen, i, ids[a]);
        compare(inputs_pattern_name(pattern), i, score, expected + i * shape.topk, ids);
    }
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched seen = touched_new(shape.n_q, msa_n_blocks(&shape), "query", "key block chosen, three times");
    judge(INPUTS_NORMAL, &seen);
    judge(INPUTS_TIES, &seen);
    judge(INPUTS_CONSTANT, &seen);
    return exercise_end(&seen);
}
