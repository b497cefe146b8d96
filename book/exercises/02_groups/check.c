/* Logits of 12 query heads over 3 KV heads. The picture has a row per query head. */
#include "task.h"

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape s = {1, 20, 12, 3, 16, 8, 8, 2, 1, NULL, NULL, NULL, NULL};
    const inputs in = exercise_inputs(&s, INPUTS_NORMAL);
    touched seen =
        touched_new(s.n_heads, s.n_kv * s.n_kv_heads, "query head", "key and its KV head, as in memory");
    const tensor k = exercise_rows("k", in.k, s.n_kv, s.n_kv_heads, s.d_head, &seen);
    const int64_t n = s.n_heads * s.n_kv;
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    float *q = exercise_given(s.d_head, "q"), *x = exercise_wanted(s.n_kv, "x");
    for (int h = 0; h < s.n_heads; h++) {
        const int r = h / (s.n_heads / s.n_kv_heads);
        for (int64_t j = 0; j < s.n_kv; j++)
            expected[h * s.n_kv + j] = (float)(dot_product(in.q + h * s.d_head,
                                                           in.k + (j * s.n_kv_heads + r) * s.d_head, s.d_head) /
                                               sqrt(s.d_head));
        seen.row = h;
        exercise_give(q, in.q + h * s.d_head, s.d_head);
        ANSWER(head_logits(q, &k, s.n_heads, h, s.n_kv, x));
        exercise_take(found + h * s.n_kv, x, s.n_kv);
    }
    exercise_tensor("x", (verdict_dims){1, s.n_heads, s.n_kv}, expected, found,
                    (verdict_budget){0x1p-20, 0x1p-20, NULL});
    return exercise_end(&seen);
}
