/* The loss of every query against msa_kl with full support, one query at a time; rows read and cells of the
 * pad touched. The picture shows the pad. */
#include "task.h"

#include <stdio.h>

static const msa_shape shape = {40, 40, 4, 1, 16, 8, 8, 5, 1, NULL, NULL, NULL, NULL};

struct pad {
    double *number; // [columns of seen]
    touched *seen;
    uint64_t cells;
};

double *cell(pad *p, int64_t i)
{
    touched *seen = p->seen;
    if (i < 0 || i >= seen->columns) {
        exercise_true(false, "cell %lld of the pad: expected 0 to %lld", (long long)i,
                      (long long)seen->columns - 1);
        i = 0;
    }
    p->cells += !(seen->count[seen->row * seen->columns + i] > 0);
    touched_mark(seen, seen->row, i);
    return p->number + i;
}

/* The same query alone, with the keys that it sees, to the reference. */
static float loss_of(const inputs *in, int64_t i)
{
    const msa_shape one = {1, i + 1, shape.n_heads, 1, shape.d_head, shape.d_index, 8, 5, 1, NULL, NULL, NULL, NULL};
    double loss;
    msa_kl(&one, in->q + i * shape.n_heads * shape.d_head, in->k, in->qi + i * shape.d_index, in->ki, NULL,
           NULL, NULL, 1, &loss, NULL, NULL, exercise_alloc((int64_t)msa_workspace(NULL, &one)));
    return (float)loss;
}

static void judge(inputs_pattern pattern, touched *keys, touched *index_keys, pad *p)
{
    const inputs in = exercise_inputs(&shape, pattern);
    const tensor k = {in.k, 1, shape.d_head, keys}, ki = {in.ki, 1, shape.d_index, index_keys};
    const int64_t n = shape.n_q * shape.n_heads;
    float *o = exercise_floats(n * shape.d_head), *lse = exercise_floats(n);
    float *expected = exercise_floats(shape.n_q), *found = exercise_floats(shape.n_q), most = 0;
    char what[80];
    msa_dense(&shape, in.q, in.k, in.v, o, lse, exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
    for (int64_t i = 0; i < shape.n_q; i++) {
        keys->row = index_keys->row = p->seen->row = i;
        found[i] = (float)loss_row(in.q + i * shape.n_heads * shape.d_head, lse + i * shape.n_heads,
                                   shape.n_heads, in.qi + i * shape.d_index, &k, &ki, i + 1, p);
        expected[i] = loss_of(&in, i);
        most = fmaxf(most, expected[i]);
    }
    snprintf(what, sizeof what, "loss, %s inputs, query", inputs_pattern_name(pattern));
    exercise_tensor(what, (verdict_dims){shape.n_q, 1, 1}, expected, found,
                    verdict_float32_kl(&shape, &in, (double)most));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched keys = touched_new(shape.n_q, shape.n_kv, "", ""), index_keys = keys;
    touched seen =
        touched_new(shape.n_q, 2 * shape.n_kv, "query", "cell of the pad, and how often it was used");
    pad p = {(double *)exercise_alloc(seen.columns * (int64_t)sizeof(double)), &seen, 0};
    for (int64_t i = 0; i < seen.columns; i++)
        p.number[i] = NAN;
    const uint64_t pairs = (uint64_t)(shape.n_q * (shape.n_q + 1) / 2);
    judge(INPUTS_NORMAL, &keys, &index_keys, &p);
    judge(INPUTS_PEAKED, &keys, &index_keys, &p);
    judge(INPUTS_LARGE, &keys, &index_keys, &p);
    exercise_bar("rows of K read", keys.reads, 3 * pairs);
    exercise_bar("index keys read", index_keys.reads, 3 * pairs);
    exercise_bar("cells of the pad touched", p.cells, (uint64_t)(4 * shape.n_q));
    return exercise_end(&seen);
}
