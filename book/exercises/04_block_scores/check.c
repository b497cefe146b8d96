/* Scores of every query, judged as an index kernel's are; no key after the query may be read. */
#include "task.h"

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape s = {45, 45, 1, 1, 16, 16, 8, 2, 1, NULL, NULL, NULL, NULL};
    const inputs in = exercise_inputs(&s, INPUTS_NORMAL);
    touched seen = touched_new(s.n_q, s.n_kv, "query", "index key read");
    const tensor ki = exercise_rows("ki", in.ki, s.n_kv, 1, s.d_index, &seen);
    const int64_t blocks = msa_n_blocks(&s);
    float *expected = exercise_floats(s.n_q * blocks), *found = exercise_floats(s.n_q * blocks);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &s));
    msa_index(&s, in.qi, in.ki, expected, NULL, NULL, work);
    float *qi = exercise_given(s.d_index, "qi"), *m = exercise_wanted(blocks, "m");
    for (int64_t i = 0; i < s.n_q; i++) {
        seen.row = i;
        exercise_give(qi, in.qi + i * s.d_index, s.d_index);
        ANSWER(block_scores(qi, &ki, i, s.n_kv, s.block, m));
        exercise_take(found + i * blocks, m, blocks);
    }
    exercise_tensor("m", (verdict_dims){1, s.n_q, blocks}, expected, found,
                    verdict_float32(&s, &in, ARRAY_SCORES, 1));
    const uint64_t pairs = (uint64_t)(s.n_q * (s.n_q + 1) / 2);
    exercise_bar((exercise_count){"index keys read", seen.reads, pairs, pairs, NULL});
    return exercise_end(&seen);
}
