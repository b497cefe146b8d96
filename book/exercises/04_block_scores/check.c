/* Scores of every query, judged as an index kernel's are; no key after the query may be read. */
#include "task.h"

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape s = {45, 45, 1, 1, 16, 16, 8, 2, 1, NULL, NULL, NULL, NULL};
    const inputs in = exercise_inputs(&s, INPUTS_NORMAL);
    touched seen = touched_new(s.n_q, s.n_kv, "query", "index key read");
    const tensor ki = {in.ki, 1, s.d_index, &seen};
    const int64_t blocks = msa_n_blocks(&s);
    float *expected = exercise_floats(s.n_q * blocks), *found = exercise_floats(s.n_q * blocks);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &s));
    msa_index(&s, in.qi, in.ki, expected, NULL, NULL, work);
    for (seen.row = 0; seen.row < s.n_q; seen.row++)
        block_scores(in.qi + seen.row * s.d_index, &ki, seen.row, s.n_kv, s.block, found + seen.row * blocks);
    exercise_tensor("m", (verdict_dims){1, s.n_q, blocks}, expected, found,
                    verdict_float32(&s, &in, VERDICT_SCORES, 1));
    exercise_bar("index keys read", seen.reads, (uint64_t)(s.n_q * (s.n_q + 1) / 2));
    return exercise_end(&seen);
}
