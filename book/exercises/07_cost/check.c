/* The cost model of ref/cost.c at the paper's geometry and at random ones. The picture is the curve of the
 * FLOP ratio that the student's functions give. */
#include "task.h"

typedef struct costs {
    double flop_dense, flop_msa, bytes_dense, bytes_msa, even_length;
} costs;

/* What the student's functions say. */
static costs ask(const msa_shape *s, double n)
{
    static costs *found;
    if (!found)
        found = answer_wanted(sizeof *found, "the result");
    ANSWER(*found = (costs){flop_dense(s, n), flop_msa(s, n), bytes_dense(s, n), bytes_msa(s, n), even_length(s)});
    return *found;
}

static void near(const char *what, double n, double expected, double found)
{
    exercise_true(fabs(found - expected) <= 1e-9 * fabs(expected),
                  "%s at n = %.0f: expected %.10g, found %.10g", what, n, expected, found);
}

static void judge(const msa_shape *s, double n)
{
    msa_cost_row c;
    if (msa_cost(s, (int64_t)n, &c) != MSA_OK)
        exercise_true(false, "the reference failed");
    const costs found = ask(s, n);
    near("flop_dense", n, c.flop_gqa, found.flop_dense);
    near("flop_msa", n, c.flop_msa, found.flop_msa);
    near("bytes_dense", n, c.bytes_gqa, found.bytes_dense);
    near("bytes_msa", n, c.bytes_msa, found.bytes_msa);
    const double even = 4.0 * s->n_heads * s->d_head * s->topk * s->block / (s->n_kv_heads * s->d_index);
    near("even_length", 0, even, found.even_length);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape paper = {1, 1, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
    inputs_rng rng = {exercise_seed()};
    touched curve =
        touched_new(40, 120, "FLOP ratio, 0 at the bottom, 40 at the top", "length, 1K to 1M on a log scale");
    for (double n = 1024; n <= 1 << 20; n *= 2)
        judge(&paper, n);
    for (int a = 0; a < 20; a++) {
        msa_shape s = paper;
        s.n_kv_heads = 1 + (int)inputs_below(&rng, 8);
        s.n_heads = s.n_kv_heads * (1 + (int)inputs_below(&rng, 16));
        s.d_head = 32 + (int)inputs_below(&rng, 200);
        s.d_index = 32 + (int)inputs_below(&rng, 200);
        s.topk = 1 + (int)inputs_below(&rng, 32);
        judge(&s, (double)(4096 + inputs_below(&rng, 1 << 20)));
    }
    for (int64_t x = 0; x < curve.columns; x++) {
        const double n = 1024 * pow(1024, (double)x / (double)(curve.columns - 1));
        const costs found = ask(&paper, n);
        touched_mark(&curve, curve.rows - 1 - (int64_t)fmin(fmax(found.flop_dense / found.flop_msa, 0), 1000), x);
    }
    return exercise_end(&curve);
}
