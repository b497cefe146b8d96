/* dQ, dK and dV of all tokens: without a gradient at lse against msa_backward, with one against msa_backward and the gradient of
 * lse alone; and how many rows of K and V were read. */
#include "task.h"

static const msa_shape shape = {40, 40, MOST_HEADS, 1, WIDTH, 8, 8, 2, 1, NULL, NULL, NULL, NULL};

typedef struct gradients {
    float *dq, *dk, *dv;
} gradients;

static double *zeros(int64_t n, const char *name)
{
    double *x = answer_wanted(n * (int64_t)sizeof *x, name);
    for (int64_t i = 0; i < n; i++)
        x[i] = 0;
    return x;
}

static const float *rounded(const double *x, int64_t n)
{
    float *y = exercise_floats(n);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)x[i];
    return y;
}

/* d lse / d x_j = p_j, so dlse adds p_j dlse to ds_j: of what msa_backward has, dQ and dK change, dV does not. */
static void add_gradient_of_lse(const inputs *in, const float *dlse, const gradients *g)
{
    const int heads = shape.n_heads;
    double *dk = exercise_alloc(shape.n_kv * WIDTH * (int64_t)sizeof *dk), p[40];
    for (int64_t i = 0; i < shape.n_kv * WIDTH; i++)
        dk[i] = (double)g->dk[i];
    for (int64_t row = 0; row < shape.n_q * heads; row++) {
        const float *q = in->q + row * WIDTH;
        double most = -INFINITY, sum = 0, dq[WIDTH] = {0};
        for (int64_t j = 0; j <= row / heads; j++)
            most = fmax(most, p[j] = dot_product(q, in->k + j * WIDTH, WIDTH) / sqrt(WIDTH));
        for (int64_t j = 0; j <= row / heads; j++)
            sum += p[j] = exp(p[j] - most);
        for (int64_t i = 0; i <= row / heads * WIDTH + WIDTH - 1; i++) {
            const double ds = p[i / WIDTH] / sum * (double)dlse[row] / sqrt(WIDTH);
            dq[i % WIDTH] += ds * (double)in->k[i];
            dk[i] += ds * (double)q[i % WIDTH];
        }
        for (int c = 0; c < WIDTH; c++)
            g->dq[row * WIDTH + c] += (float)dq[c];
    }
    for (int64_t i = 0; i < shape.n_kv * WIDTH; i++)
        g->dk[i] = (float)dk[i];
}

static void judge(inputs_pattern pattern, bool lse_has_gradient, touched *keys, touched *values)
{
    const int64_t rows = shape.n_q * shape.n_heads, n = rows * WIDTH, n_keys = shape.n_kv * WIDTH;
    const int heads = shape.n_heads;
    const inputs in = exercise_inputs(&shape, pattern);
    const tensor k = exercise_rows("k", in.k, shape.n_kv, 1, WIDTH, keys),
                 v = exercise_rows("v", in.v, shape.n_kv, 1, WIDTH, values);
    float *q = exercise_given(heads * WIDTH, "q"), *o = exercise_given(heads * WIDTH, "o");
    float *dout = exercise_given(heads * WIDTH, "dout"), *lse = exercise_given(heads, "lse"),
          *dlse = exercise_given(heads, "dlse");
    float *one_dq = exercise_wanted(heads * WIDTH, "dq"), *dq = exercise_floats(n);
    float *all_o = exercise_floats(n), *all_lse = exercise_floats(rows), *all_dlse = exercise_floats(rows);
    const gradients g = {exercise_floats(n), exercise_floats(n_keys), exercise_floats(n_keys)};
    double *dk = zeros(n_keys, "dk"), *dv = zeros(n_keys, "dv");
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    inputs_rng rng = {exercise_seed()};
    for (int64_t i = 0; i < rows; i++)
        all_dlse[i] = lse_has_gradient ? inputs_normal(&rng) : 0;
    msa_dense(&shape, in.q, in.k, in.v, all_o, all_lse, work);
    msa_backward(&shape, in.q, in.k, in.v, NULL, NULL, NULL, in.dout, g.dq, g.dk, g.dv, work);
    add_gradient_of_lse(&in, all_dlse, &g);
    for (int64_t i = 0; i < shape.n_q; i++) {
        const forward f = {heads, q, o, dout, lse, dlse};
        keys->row = values->row = i;
        exercise_give(q, in.q + i * heads * WIDTH, heads * WIDTH);
        exercise_give(o, all_o + i * heads * WIDTH, heads * WIDTH);
        exercise_give(dout, in.dout + i * heads * WIDTH, heads * WIDTH);
        exercise_give(lse, all_lse + i * heads, heads);
        exercise_give(dlse, all_dlse + i * heads, heads);
        ANSWER(backward_token(&f, &k, &v, i + 1, one_dq, dk, dv));
        exercise_take(dq + i * heads * WIDTH, one_dq, heads * WIDTH);
    }
    exercise_place(lse_has_gradient ? "with a gradient at lse: " : "without a gradient at lse: ");
    exercise_tensor("dv", (verdict_dims){shape.n_kv, 1, WIDTH}, g.dv, rounded(dv, n_keys),
                    verdict_float32(&shape, &in, ARRAY_DV, 1));
    exercise_tensor("dq", (verdict_dims){shape.n_q, heads, WIDTH}, g.dq, dq,
                    verdict_float32(&shape, &in, ARRAY_DQ, 1));
    exercise_tensor("dk", (verdict_dims){shape.n_kv, 1, WIDTH}, g.dk, rounded(dk, n_keys),
                    verdict_float32(&shape, &in, ARRAY_DK, 1));
    exercise_place("");
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    answer_hold(8);
    touched keys = touched_new(shape.n_q, shape.n_kv, "token", "key read, and how often, in three runs");
    touched values = touched_new(shape.n_q, shape.n_kv, "token", "value read");
    keys.brightest = 3 * 2 * MOST_HEADS; /* as the stub */
    const uint64_t pairs = (uint64_t)(shape.n_q * (shape.n_q + 1) / 2), heads = (uint64_t)shape.n_heads;
    judge(INPUTS_NORMAL, false, &keys, &values);
    judge(INPUTS_PEAKED, true, &keys, &values);
    judge(INPUTS_LARGE, true, &keys, &values);
    exercise_ladder("rows of K read", keys.reads, 4,
                    (exercise_rung[]){{"the stub", 6 * heads * pairs},
                                      {"a pass a head", 3 * heads * pairs},
                                      {"two passes a token", 6 * pairs},
                                      {"a pass a token", 3 * pairs}});
    exercise_bar((exercise_count){"rows of K read", keys.reads, 3 * pairs, 3 * pairs, NULL});
    exercise_bar((exercise_count){"rows of V read", values.reads, 3 * pairs, 3 * pairs, NULL});
    return exercise_end(&keys);
}
